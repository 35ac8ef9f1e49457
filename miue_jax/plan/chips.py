"""Lists the peaks, the memory and the links of chips, as their makers state them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Gpu:
  """Describes a GPU to XLA, which compiles for it without having one.

  Attributes:
    cores: Number of multiprocessors.
    lanes: Arithmetic units of a multiprocessor in float32.
    capability: Compute capability, major and minor.
    clock: Highest clock rate, in GHz.
    cache: Bytes of the L2 cache.
    shared: Bytes of the shared memory of a multiprocessor; a block can use 1 KiB less.
  """

  cores: int
  lanes: int
  capability: tuple[int, int]
  clock: float
  cache: int
  shared: int


@dataclasses.dataclass(frozen=True)
class Chip:
  """Describes one kind of accelerator.

  Attributes:
    name: Usual name.
    tflops: Peak rate of dense bfloat16 products, in 1e12 FLOP/s.
    memory_gb: Memory, in 1e9 bytes.
    bandwidth: Bytes that the memory reads or writes, in 1e9 per second.
    link: Bytes that all links of a chip send to other chips, in 1e9 per second; half of what makers
      call bidirectional bandwidth.
    kinds: Values of `jax.Device.device_kind` on such a chip.
    target: Name in `--target`.
    largest: Number of chips of the largest slice, or of GPUs in one machine.
    devices: Number of devices that jax makes of a chip.
    gpu: What the compiler of a GPU must know; None for a TPU.
  """

  name: str
  tflops: float
  memory_gb: float
  bandwidth: float
  link: float
  kinds: tuple[str, ...]
  target: str
  largest: int
  devices: int = 1
  gpu: Gpu | None = None


_HOPPER = Gpu(132, 128, (9, 0), clock=1.98, cache=50 << 20, shared=233_472)

# NVIDIA: data sheets "A100 80GB" (312 TFLOP/s, 2,039 GB/s, NVLink 600 GB/s in both directions),
# "H100" (SXM: 1,979 with sparsity, half of it without; 3.35 TB/s, 900 GB/s) and "H200" (4.8 TB/s).
# Google: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e and /tpu7x, tables of specifications;
# the links of v4, six of 50 GB/s, are in Jouppi et al., arXiv 2304.01433.
CHIPS = (
  Chip(
    name="A100 (SXM, 80 GB)",
    tflops=312.0,
    memory_gb=80.0,
    bandwidth=2039.0,
    link=300.0,
    kinds=("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
    target="a100",
    largest=8,
    gpu=Gpu(cores=108, lanes=64, capability=(8, 0), clock=1.41, cache=40 << 20, shared=167_936),
  ),
  Chip(
    name="H100 (SXM)",
    tflops=989.4,
    memory_gb=80.0,
    bandwidth=3350.0,
    link=450.0,
    kinds=("NVIDIA H100 80GB HBM3",),
    target="h100",
    largest=8,
    gpu=_HOPPER,
  ),
  Chip(
    name="H200 (SXM)",
    tflops=989.4,
    memory_gb=141.0,
    bandwidth=4800.0,
    link=450.0,
    kinds=("NVIDIA H200",),
    target="h200",
    largest=8,
    gpu=_HOPPER,
  ),
  Chip("TPU v4", 275.0, 34.4, 1200.0, 300.0, ("TPU v4",), "v4", 4096, devices=2),
  Chip("TPU v5e", 197.0, 16.0, 819.0, 200.0, ("TPU v5 lite", "TPU v5e"), "v5e", 256),
  Chip("TPU v5p", 459.0, 95.0, 2765.0, 600.0, ("TPU v5", "TPU v5p"), "v5p", 8960),
  Chip("TPU v6e", 918.0, 32.0, 1638.0, 400.0, ("TPU v6 lite", "TPU v6e"), "v6e", 256),
  Chip("TPU7x", 2307.0, 206.2, 7380.0, 600.0, ("TPU7x",), "tpu7x", 9216, devices=2),
)


def of_kind(device_kind: str) -> Chip | None:
  """Returns the chip of a `jax.Device.device_kind`, or None if it is not in `CHIPS`."""
  return next((chip for chip in CHIPS if device_kind in chip.kinds), None)
