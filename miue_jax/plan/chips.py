"""Lists the peak arithmetic and the memory of chips, as their makers state them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of accelerator.

  Attributes:
    name: Usual name.
    tflops: Peak rate of dense bfloat16 products, in 1e12 FLOP/s.
    memory_gb: Memory, in 1e9 bytes.
    kinds: Values of `jax.Device.device_kind` on such a chip.
  """

  name: str
  tflops: float
  memory_gb: float
  kinds: tuple[str, ...]


# NVIDIA: data sheets "A100 80GB" (312), "H100" and "H200" (SXM: 1,979 with sparsity, half of it
# without). Google: docs.cloud.google.com/tpu/docs/v5e, /v5p and /v6e, tables of specifications.
CHIPS = (
  Chip("A100 (SXM, 80 GB)", 312.0, 80.0, ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe")),
  Chip("H100 (SXM)", 989.4, 80.0, ("NVIDIA H100 80GB HBM3",)),
  Chip("H200 (SXM)", 989.4, 141.0, ("NVIDIA H200",)),
  Chip("TPU v5e", 197.0, 16.0, ("TPU v5 lite", "TPU v5e")),
  Chip("TPU v5p", 459.0, 95.0, ("TPU v5", "TPU v5p")),
  Chip("TPU v6e", 918.0, 32.0, ("TPU v6 lite", "TPU v6e")),
)


def of_kind(device_kind: str) -> Chip | None:
  """Returns the chip of a `jax.Device.device_kind`, or None if it is not in `CHIPS`."""
  return next((chip for chip in CHIPS if device_kind in chip.kinds), None)
