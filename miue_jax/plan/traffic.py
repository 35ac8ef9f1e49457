"""Counts the kernels of a compiled program and the bytes that they move, from its HLO as text."""

import dataclasses
import re
from collections.abc import Iterator

from miue_jax.plan.cost import Kernels, array_bytes

# An array with its layout, which names a memory on the chip: `bf16[8,128]{1,0:T(8,128)S(1)}`.
_ON_CHIP = re.compile(r"\b[a-z]+\d*[a-z0-9]*\[[\d,]*\]\{[^}]*S\([1-9]\)\}")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\(([^)]*)\)(.*)$")
_NAME = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")
_BODY = re.compile(r"condition=%?([\w.-]+), body=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Operations that only name memory and move no bytes.
_FREE = {
  "after-all", "bitcast", "constant", "get-tuple-element", "parameter", "partition-id",
  "replica-id", "tuple",
}  # fmt: skip
_NO_WORK = _FREE | {"broadcast", "convert"}  # next to a copy or a transpose in a fusion
_CONVOLUTION = re.compile(r'custom_call_target="__cudnn\$conv')
_SLICES = {"dynamic-slice", "gather"}
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # position of the operand that is written


@dataclasses.dataclass(frozen=True)
class _Line:
  root: bool
  name: str
  size: int
  op: str
  operands: tuple[str, ...]
  text: str


def counted(hlo: str) -> tuple[int, Kernels]:
  """Returns the bytes that one device moves in one run of a scheduled HLO module, and its kernels.

  An operation reads its operands and writes its results, and a fusion is one operation. Gathers and
  slices read what they return; updates in place read and write what is new. Memory on the chip and
  the padding of layouts do not count. The body of a loop counts as often as it runs. If the program
  is a loop over steps, whose number it does not state, only one step is counted.

  Transfers into the memory on the chip, which overlap with kernels, and the starts of collectives
  are not counted as kernels.
  """
  moved = convolutions = others = copies = transposes = rearranged = 0
  for step in _executed(hlo):
    moved += step.times * step.size
    if step.line.op.endswith("-start"):
      continue
    if "convolution" in step.ops or _CONVOLUTION.search(step.line.text):
      convolutions += step.times
      continue
    others += step.times
    work = step.ops - _NO_WORK
    copies += step.times * (work == {"copy"})
    transposes += step.times * (work in ({"transpose"}, {"copy", "transpose"}))
    rearranged += step.times * step.size * (work != set() and work <= {"copy", "transpose"})
  return moved, Kernels(convolutions, others, copies, transposes, rearranged)


@dataclasses.dataclass(frozen=True)
class _Step:
  """An operation that a program executes.

  Attributes:
    line: The operation.
    ops: Its name, or the names of the operations that are fused into it.
    size: Bytes that it reads and writes.
    times: How often it runs.
  """

  line: _Line
  ops: frozenset[str]
  size: int
  times: int


def _executed(hlo: str) -> Iterator[_Step]:
  computations, entry = _parsed(hlo)
  sizes = {line.name: line.size for lines in computations.values() for line in lines}

  def ops(name: str) -> Iterator[str]:
    for line in computations[name]:
      if line.op == "fusion" and (found := _CALLED.search(line.text)):
        yield from ops(found[1])
      else:
        yield line.op

  def steps(name: str, times: int) -> Iterator[_Step]:
    for line in computations[name]:
      if line.op == "while" and (found := _BODY.search(line.text)):
        yield from steps(found[2], times * max(1, _trips(line, computations[found[1]])))
      elif line.op in ("call", "conditional") and (found := _CALLED.search(line.text)):
        yield from steps(found[1], times)
      elif line.op == "fusion" and (found := _CALLED.search(line.text)):
        size = _fused(line, sizes, computations[found[1]])
        yield _Step(line, frozenset(ops(found[1])), size, times)
      elif line.op not in _FREE and not line.op.endswith("-done"):
        yield _Step(line, frozenset({line.op}), _touched(line, sizes), times)

  return steps(_repeated(computations, entry), 1)


def _repeated(computations: dict[str, list[_Line]], entry: str) -> str:
  """Returns the name of the body of a loop over steps, or else that of the whole program."""
  for line in computations[entry]:
    found = _BODY.search(line.text)
    if line.op == "while" and found and not _trips(line, computations[found[1]]):
      return found[2]
  return entry


def _parsed(hlo: str) -> tuple[dict[str, list[_Line]], str]:
  """Returns the lines of every computation, and the name of the entry."""
  computations: dict[str, list[_Line]] = {}
  entry, lines = "", []
  for text in hlo.splitlines():
    if head := _COMPUTATION.match(text):
      lines = computations[head[2]] = []
      entry = head[2] if head[1] else entry
    elif found := _LINE.match(text):
      root, name, kind, op, operands, rest = found.groups()
      names = tuple(_NAME.findall(operands)) or (operands,)  # the value of a constant
      lines.append(_Line(bool(root), name, _size(kind, op), op, names, rest))
  return computations, entry


def _size(kind: str, op: str) -> int:
  """Returns the bytes in device memory of a result; of a slice into the chip, what it reads."""
  if op == "slice-start":
    return array_bytes(kind.split(", ", 1)[1].rpartition(", ")[0]) if kind.startswith("((") else 0
  return array_bytes(_ON_CHIP.sub("", kind))


def _trips(line: _Line, condition: list[_Line]) -> int:
  """Returns how often a loop runs: as XLA states it, or the bound that it counts to, or else 0."""
  if stated := _TRIPS.search(line.text):
    return int(stated[1])
  bounds = [
    int(each.operands[0])
    for each in condition
    if each.op == "constant" and re.fullmatch(r"\d+", each.operands[0])
  ]
  return max(bounds, default=0)


def _touched(line: _Line, sizes: dict[str, int]) -> int:
  """Returns the bytes of one operation that is not in a fusion."""
  if line.op in _SLICES:
    return 2 * line.size
  if line.op.endswith("-start"):  # its type lists operands and results
    return line.size
  if line.op in _UPDATES:
    return 2 * sizes.get(line.operands[_UPDATES[line.op]], 0)
  return line.size + sum(sizes.get(name, 0) for name in set(line.operands))


def _fused(line: _Line, sizes: dict[str, int], inside: list[_Line]) -> int:
  """Returns the bytes of a fusion: the parts of its operands that it reads, and its results."""
  own = {each.name: each.size for each in inside}
  total = 0
  for each in inside:
    if each.op == "parameter":
      users = [user for user in inside if each.name in user.operands]
      if all(user.op in _SLICES and user.operands[0] == each.name for user in users):
        total += sum(user.size for user in users)
      elif not any(user.op in _UPDATES and user.operands[0] == each.name for user in users):
        total += each.size
  root = next(each for each in inside if each.root)
  if root.op in _UPDATES:
    return total + own.get(root.operands[_UPDATES[root.op]], 0)
  return total + line.size
