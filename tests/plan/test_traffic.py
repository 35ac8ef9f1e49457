"""Bytes that programs move, against sums by hand."""

from miue_jax.plan import traffic

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
  assert traffic.moved(HLO) == COPY + SLICED + UPDATED + 5 * TURN


def test_a_stated_number_of_turns_is_taken():
  stated = HLO.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
  assert traffic.moved(stated) - traffic.moved(HLO) == 2 * TURN


def test_a_slice_into_the_chip_reads_what_it_takes():
  hlo = """
ENTRY %main (a: s16[100,8]) -> s16[10,8] {
  %a = s16[100,8]{1,0} parameter(0)
  %s = ((s16[100,8]{1,0}), s16[10,8]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:10], [0:8]}
  ROOT %d = s16[10,8]{1,0:S(1)} slice-done(%s)
}
"""
  assert traffic.moved(hlo) == 10 * 8 * 2
