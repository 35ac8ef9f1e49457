"""Bytes that programs move, against sums by hand."""

from miue_jax.plan import traffic
from miue_jax.plan.cost import Kernels

HLO = """
HloModule m, is_scheduled=true

%sliced (p.0: f32[1000,8], p.1: s32[], p.2: f32[2,8]) -> f32[2,8] {
  %p.0 = f32[1000,8]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %p.2 = f32[2,8]{1,0} parameter(2)
  %part = f32[2,8]{1,0} dynamic-slice(%p.0, %p.1, %p.1), dynamic_slice_sizes={2,8}
  ROOT %sum = f32[2,8]{1,0} add(%part, %p.2)
}

%updated (q.0: f32[1000,8], q.1: f32[2,8], q.2: s32[]) -> f32[1000,8] {
  %q.0 = f32[1000,8]{1,0} parameter(0)
  %q.1 = f32[2,8]{1,0} parameter(1)
  %q.2 = s32[] parameter(2)
  ROOT %put = f32[1000,8]{1,0} dynamic-update-slice(%q.0, %q.1, %q.2, %q.2)
}

%cond (c: (s32[], f32[16])) -> pred[] {
  %c = (s32[], f32[16]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %limit = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (b: (s32[], f32[16])) -> (s32[], f32[16]) {
  %b = (s32[], f32[16]{0}) parameter(0)
  %x = f32[16]{0} get-tuple-element(%b), index=1
  %j = s32[] get-tuple-element(%b), index=0
  %twice = f32[16]{0} multiply(%x, %x)
  ROOT %next = (s32[], f32[16]{0}) tuple(%j, %twice)
}

ENTRY %main (a: f32[1000,8], k: s32[], n: f32[2,8], w: (s32[], f32[16])) -> f32[1000,8] {
  %a = f32[1000,8]{1,0} parameter(0)
  %k = s32[] parameter(1)
  %n = f32[2,8]{1,0} parameter(2)
  %w = (s32[], f32[16]{0}) parameter(3)
  %copy-start = (f32[2,8]{1,0:T(8,128)S(1)}, f32[2,8]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%n)
  %near = f32[2,8]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %fusion.1 = f32[2,8]{1,0} fusion(%a, %k, %n), kind=kLoop, calls=%sliced
  %loop = (s32[], f32[16]{0}) while(%w), condition=%cond, body=%body
  ROOT %fusion.2 = f32[1000,8]{1,0} fusion(%a, %fusion.1, %k), kind=kLoop, calls=%updated
}
"""
COPY = 64  # into the chip: what is read
SLICED = 64 + 4 + 64 + 64  # two rows, the index, the other operand, the result
UPDATED = 64 + 4 + 64  # two rows are read and written, and the index
TURN = 64 + 64  # one operand, read once, and the result


def test_bytes_moved_are_those_that_are_read_and_written():
  assert traffic.counted(HLO)[0] == COPY + SLICED + UPDATED + 5 * TURN


def test_a_stated_number_of_turns_is_taken():
  stated = HLO.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
  assert traffic.counted(stated)[0] - traffic.counted(HLO)[0] == 2 * TURN


def test_of_a_loop_over_steps_only_a_step_counts():
  given = "%limit = s32[] get-tuple-element(%c), index=2"
  bounded = HLO.replace("%limit = s32[] constant(5)", given)
  moved, kernels = traffic.counted(bounded)
  assert (moved, kernels.others) == (TURN, 1)


KERNELS = """
%moved (p.0: f32[4,2]) -> f32[2,4] {
  %p.0 = f32[4,2]{1,0} parameter(0)
  %turned = f32[2,4]{1,0} transpose(%p.0), dimensions={1,0}
  ROOT %short = bf16[2,4]{1,0} convert(%turned)
}

%scaled (p.1: f32[4,2]) -> f32[2,4] {
  %p.1 = f32[4,2]{1,0} parameter(0)
  %turned.1 = f32[2,4]{1,0} transpose(%p.1), dimensions={1,0}
  ROOT %twice = f32[2,4]{1,0} add(%turned.1, %turned.1)
}

%inner (p.2: f32[4,2]) -> f32[4,2] {
  %p.2 = f32[4,2]{1,0} parameter(0)
  ROOT %dot = f32[4,2]{1,0} convolution(%p.2, %p.2), dim_labels=bf_io->bf
}

%outer (p.3: f32[4,2]) -> f32[4,2] {
  %p.3 = f32[4,2]{1,0} parameter(0)
  ROOT %nested = f32[4,2]{1,0} fusion(%p.3), kind=kOutput, calls=%inner
}

ENTRY %main (a: f32[4,2]) -> f32[4,2] {
  %a = f32[4,2]{1,0} parameter(0)
  %near = (f32[4,2]{1,0:S(1)}, f32[4,2]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %arrived = f32[4,2]{1,0:S(1)} copy-done(%near)
  %copied = f32[4,2]{0,1} copy(%a)
  %fusion.1 = bf16[2,4]{1,0} fusion(%copied), kind=kInput, calls=%moved
  %fusion.2 = f32[2,4]{1,0} fusion(%copied), kind=kLoop, calls=%scaled
  %cudnn = (f32[4,2]{1,0}, u8[0]{0}) custom-call(%a), custom_call_target="__cudnn$convForward"
  ROOT %fusion.3 = f32[4,2]{1,0} fusion(%a), kind=kOutput, calls=%outer
}
"""


def test_kernels_by_what_they_do():
  copy, transpose = 32 + 32, 32 + 16
  assert traffic.counted(KERNELS)[1] == Kernels(2, 3, 1, 1, copy + transpose)


def test_the_kernels_of_a_loop_count_as_often_as_it_runs():
  # A transfer into the chip is not a kernel.
  assert traffic.counted(HLO)[1] == Kernels(0, 2 + 5)


def test_a_slice_into_the_chip_reads_what_it_takes():
  hlo = """
ENTRY %main (a: s16[100,8]) -> s16[10,8] {
  %a = s16[100,8]{1,0} parameter(0)
  %s = ((s16[100,8]{1,0}), s16[10,8]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:10], [0:8]}
  ROOT %d = s16[10,8]{1,0:S(1)} slice-done(%s)
}
"""
  assert traffic.counted(hlo)[0] == 10 * 8 * 2
