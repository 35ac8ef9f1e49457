"""Describes machines that this one compiles for without having them: TPU slices and NVIDIA GPUs.

The compiler of TPUs comes with libtpu (extra `tpu`), that of NVIDIA GPUs with the CUDA plugin of
jax (extra `gpu`). Neither needs a chip or a driver.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from miue_jax.machine import meshes
from miue_jax.plan import traffic
from miue_jax.plan.chips import CHIPS, Chip
from miue_jax.plan.cost import Cost, analyse
from miue_jax.plan.programs import Program
from miue_jax.settings.errors import UserError, first_line

_COMPILERS = {"tpu": ("libtpu",), "gpu": ("jax_cuda12_plugin", "jax_cuda13_plugin")}
_PER_HOST = (2, 2, 1)  # chips of one host along each axis of a slice
# libtpu asks Google's metadata server where it runs, and allows one program at a time, unless told
# otherwise.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any value: the topology decides
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
}
# "Used 20.50G of 15.75G hbm."
_NEEDED = re.compile(r"[Uu]sed ([\d.]+)([KMG]) of [\d.]+[KMG] hbm")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclasses.dataclass(frozen=True)
class Target:
  """Names a slice of TPU chips, or the GPUs of one machine.

  Attributes:
    name: Value of `--target`.
    chip: Kind of its chips.
    shape: Number of chips along each axis.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def chips(self) -> int:
    """Returns the number of chips."""
    return math.prod(self.shape)

  @property
  def devices(self) -> int:
    """Returns the number of devices that jax makes of the chips."""
    return self.chips * self.chip.devices

  @property
  def memory(self) -> float:
    """Returns the bytes of the memory of one device."""
    return self.chip.memory_gb * 1e9 / self.chip.devices

  @property
  def extra(self) -> str:
    """Returns the extra of this package that brings the compiler."""
    return "gpu" if self.chip.gpu else "tpu"

  @property
  def installed(self) -> bool:
    """Returns whether the compiler is installed."""
    return any(importlib.util.find_spec(name) for name in _COMPILERS[self.extra])


def parse(name: str) -> Target:
  """Returns the target of a value of `--target`, such as `v5e:8x8`, `v5p:4x4x4` or `h200:8`.

  Raises:
    UserError: There is no such chip or no such slice.
  """
  kind, _, text = name.lower().partition(":")
  chip = next((chip for chip in CHIPS if chip.target == kind), None)
  if chip is None:
    known = ", ".join(f"{chip.target}:{_example(chip)}" for chip in CHIPS)
    raise UserError(f"--target is {name!r}, an unknown chip; known, with an example: {known}.")
  text = text or ("1" if chip.gpu else "")
  axes = 1 if chip.gpu else len(_example(chip).split("x"))
  written = re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})*", text)
  shape = tuple(map(int, text.split("x"))) if written else ()
  if len(shape) != axes or math.prod(shape) > chip.largest:
    form = "a number of GPUs" if chip.gpu else f"a slice of {axes} axes"
    raise UserError(
      f"--target is {name!r}; {chip.target} needs {form}, at most {chip.largest:,} chips, such "
      f"as {chip.target}:{_example(chip)}."
    )
  return Target(f"{kind}:{text}", chip, shape)


def prepare() -> None:
  """Lets jax compile for chips that are not here; must come before any other use of jax."""
  for key, value in _ENVIRONMENT.items():
    os.environ.setdefault(key, value)
  # An installed plugin would look for a chip.
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_platforms", "cpu")


def mesh(target: Target) -> jax.sharding.Mesh:
  """Returns a mesh over the devices of a target, for which programs can be compiled, not run.

  Raises:
    UserError: The compiler does not know this slice.
  """
  try:
    devices = _topology(target).devices
  except Exception as error:  # Plugins raise errors of several types.
    raise UserError(
      f"The compiler has no slice {target.name} ({first_line(error)}): choose another one."
    ) from error
  if target.chip.devices > 1:  # jax orders TPUs of one device for each chip only
    automatic = (jax.sharding.AxisType.Auto,)
    return jax.sharding.Mesh(np.asarray(devices), (meshes.AXIS,), axis_types=automatic)
  return meshes.over(devices)


def cost(program: Program, target: Target, flops: float, arguments: int) -> Cost:
  """Compiles one step for the current mesh, which is that of a target, and returns its cost.

  Args:
    program: The step.
    target: The target of the mesh.
    flops: FLOPs of the step on all devices together, loops included, which XLA counts once.
    arguments: Bytes of the arguments on one device.

  Raises:
    UserError: The compiler refuses the step, and not for lack of memory.
  """
  if arguments > target.memory:
    return Cost(flops, arguments, 0, arguments, (), fits=False)
  # Without a GPU no kernel can be timed to choose among several.
  options: dict[str, Any] | None = {"xla_gpu_autotune_level": 0} if target.chip.gpu else None
  began = time.perf_counter()
  try:
    compiled = program.lowered().compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    needed = _NEEDED.search(str(error))
    if not needed:
      raise UserError(
        f"The compiler of {target.name} refuses the step {program.name} ({first_line(error)}): "
        "choose another target."
      ) from error
    peak = round(float(needed[1]) * _UNITS[needed[2]])
    spent = time.perf_counter() - began
    return Cost(flops, arguments, peak - arguments, peak, (), seconds=spent, fits=False)
  found = analyse(compiled, target.devices)
  analysis = compiled.cost_analysis() or {}
  moved, kernels = traffic.counted(compiled.as_text() or "")
  # On TPUs the working memory is in `peak_memory` alone.
  peak = max(found.peak, getattr(compiled.memory_analysis(), "peak_memory_in_bytes", 0))
  return dataclasses.replace(
    found,
    flops=flops,
    temporaries=max(found.temporaries, peak - found.arguments),
    peak=peak,
    moved=moved,
    kernels=kernels,
    accessed=float(analysis.get("bytes accessed", 0.0)),
    seconds=time.perf_counter() - began,
    fits=peak <= target.memory,
  )


def _topology(target: Target) -> topologies.TopologyDescription:
  if target.chip.gpu:
    shape = f"1x1x{target.chips}"  # partitions, hosts, GPUs of a host
    config = _gpu_config(target.chip)
    return topologies.get_topology_desc(shape, "cuda", topology=shape, target_config=config)
  axes = (*target.shape, 1)[:3]
  bounds = tuple(min(pair) for pair in zip(axes, _PER_HOST, strict=True))
  kind, _, shape = target.name.partition(":")
  return topologies.get_topology_desc(
    platform="tpu", topology_name=f"{kind}:{shape}", chips_per_host_bounds=bounds
  )


def _gpu_config(chip: Chip) -> str:
  """Returns the text of XLA's `GpuTargetConfigProto` for a GPU."""
  gpu = chip.gpu
  assert gpu is not None
  major, minor = gpu.capability
  return f"""
    gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
      shared_memory_per_block: 49152 shared_memory_per_core: {gpu.shared}
      shared_memory_per_block_optin: {gpu.shared - 1024}
      core_count: {gpu.cores} fpus_per_core: {gpu.lanes} clock_rate_ghz: {gpu.clock}
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      memory_bandwidth: {round(chip.bandwidth * 1e9)} l2_cache_size: {gpu.cache}
      device_memory_size: {round(chip.memory_gb * 1e9)}
      cuda_compute_capability {{ major: {major} minor: {minor} }}
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
    }}
    platform_name: "CUDA"
    dnn_version_info {{ major: 9 minor: 10 }}
    runtime_version {{ major: 12 minor: 8 }}
    device_description_str: "{chip.kinds[0]}"
  """


def _example(chip: Chip) -> str:
  if chip.gpu:
    return "8"
  return "2x4" if chip.largest == 256 else "2x2x1"
