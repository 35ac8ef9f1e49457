"""Reads the cost of a compiled program: FLOPs, bytes of memory, and its collectives."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# A line reads "%name = type op(operands), attributes". The type of an asynchronous start can
# contain the types of its operands.
_LINE = re.compile(
  rf" = (?P<type>.*?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\((?P<rest>.*)"
)
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_EXPLICIT_GROUP = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA_GROUP = re.compile(r"replica_groups=\[\d+,(\d+)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of one step.

  Attributes:
    kind: Name of the operation: all-reduce, all-gather, reduce-scatter, all-to-all or
      collective-permute.
    shapes: Types and shapes of its results on one device, such as `f32[512,64]`.
    payload: Bytes of its results on one device.
    group: Number of devices that take part.
  """

  kind: str
  shapes: tuple[str, ...]
  payload: int
  group: int

  @property
  def sent(self) -> float:
    """Returns the bytes that one device sends if the group forms a ring.

    With n devices and payload p they are 2 p (n - 1) / n for an all-reduce, p (n - 1) / n for an
    all-gather or all-to-all, p (n - 1) for a reduce-scatter, whose result is 1 / n of its operand,
    and p for a collective-permute. A single device sends nothing.
    """
    n = self.group
    if n == 1:
      return 0.0
    share = (n - 1) / n
    factor = {"all-reduce": 2 * share, "reduce-scatter": n - 1, "collective-permute": 1.0}
    return self.payload * factor.get(self.kind, share)


@dataclasses.dataclass(frozen=True)
class Kernels:
  """Counts the kernels of one step on one device.

  Attributes:
    convolutions: Convolutions, with everything that is fused into them.
    others: All other kernels, copies and transposes included.
    copies: Kernels that only copy, within the memory of the device.
    transposes: Kernels that only change the order of axes, and the type.
    rearranged: Bytes that copies and transposes read and write.
  """

  convolutions: int = 0
  others: int = 0
  copies: int = 0
  transposes: int = 0
  rearranged: int = 0


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of one step.

  Attributes:
    flops: FLOPs on all devices together, as XLA counts them: a multiply-add counts as 2, products
      with the zeros of a padding do not count.
    arguments: Bytes of the arguments on one device.
    temporaries: Bytes of the working memory on one device.
    peak: Bytes of arguments, working memory and results that reuse no argument, on one device.
    collectives: Collective operations of one step.
    moved: Bytes that one chip reads from and writes to its memory; 0 unless compiled for a target.
    kernels: Kernels of one step; none are counted unless compiled for a target.
    accessed: Bytes that XLA counts for all operations, memory on the chip included; 0 if it does
      not count them.
    seconds: Seconds of the compilation for a target.
    fits: Whether the program fits the memory of a target; if not, it has no collectives, `moved`
      is 0, and `peak` is the least that it needs.
  """

  flops: float
  arguments: int
  temporaries: int
  peak: int
  collectives: tuple[Collective, ...]
  moved: int = 0
  kernels: Kernels = Kernels()
  accessed: float = 0.0
  seconds: float = 0.0
  fits: bool = True

  @classmethod
  def restored(cls, values: Mapping[str, Any]) -> "Cost":
    """Returns the cost that `dataclasses.asdict` made JSON values of."""
    made = (Collective(**one) for one in values["collectives"])
    return dataclasses.replace(
      cls(**values),
      collectives=tuple(dataclasses.replace(one, shapes=tuple(one.shapes)) for one in made),
      kernels=Kernels(**values["kernels"]),
    )

  @property
  def sent(self) -> float:
    """Returns the bytes that one device sends in one step."""
    return sum(collective.sent for collective in self.collectives)


def analyse(compiled: jax.stages.Compiled, devices: int) -> Cost:
  """Returns the cost of a program that runs on `devices` devices."""
  # XLA analyses one partition, and all partitions run the same program.
  analysis = compiled.cost_analysis() or {}
  memory: Any = compiled.memory_analysis()
  arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return Cost(
    devices * float(analysis.get("flops", 0.0)),
    arguments,
    temporaries,
    arguments + temporaries + results,
    collectives(compiled.as_text() or "", devices),
  )


def collectives(hlo: str, devices: int) -> tuple[Collective, ...]:
  """Returns the collectives of an optimised HLO module, in order; a loop counts as one iteration.

  Args:
    hlo: Text of the module.
    devices: Number of devices of the program, used as the group where the text names none.
  """
  found = []
  for line in hlo.splitlines():
    match = _LINE.search(line)
    if match:
      kind = match["kind"]
      arrays = _results(kind, bool(match["start"]), _ARRAY.findall(match["type"]))
      shapes = tuple(f"{dtype}[{sizes}]" for dtype, sizes in arrays)
      payload = sum(_bytes(dtype, sizes) for dtype, sizes in arrays)
      found.append(Collective(kind, shapes, payload, _group(match["rest"], devices)))
  return tuple(found)


def _results(kind: str, start: bool, arrays: list[tuple[str, str]]) -> list[tuple[str, str]]:
  """Returns the arrays that are results; an asynchronous start lists its operands before them."""
  if start and kind == "collective-permute":
    return arrays[1:2]  # operand, result, two contexts
  if start and kind != "all-reduce":
    return arrays[len(arrays) // 2 :]
  return arrays


def array_bytes(kind: str) -> int:
  """Returns the bytes of all arrays in the text of a type, such as `(f32[2,3]{1,0}, u8[])`."""
  return sum(_bytes(dtype, sizes) for dtype, sizes in _ARRAY.findall(kind))


def _bytes(dtype: str, sizes: str) -> int:
  count = math.prod(int(size) for size in sizes.split(",") if size)
  digits = re.search(r"\d+", dtype)
  bits = int(digits[0]) if digits else 8  # "pred" takes a byte
  return -(-count * bits // 8)


def _group(attributes: str, devices: int) -> int:
  explicit = _EXPLICIT_GROUP.search(attributes)
  if explicit:
    return len(explicit[1].split(","))
  iota = _IOTA_GROUP.search(attributes)
  return int(iota[1]) if iota else devices
