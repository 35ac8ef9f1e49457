"""Collectives that are read from compiled programs."""

from miue_jax.plan import cost

HLO = """
  %a = f32[8,16]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %b = (f32[3], /*index=1*/bf16[2,2]{1,0:T(8)}) all-reduce(%y, %z), replica_groups={{0,1},{2,3}}
  %c = (f32[2]{0}, f32[16]{0}) all-gather-start(%x), replica_groups={}, dimensions={0}
  %d = f32[16]{0} all-gather-done(%c)
  %e = pred[5]{0} reduce-scatter(%x), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%sum
  %f = (u8[7]{0}, u8[7]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}
  %g = f32[4]{0} all-reduce-start(%x), replica_groups={{0}}, to_apply=%sum
  ROOT %h = (f32[4]{0}, f32[4]{0}) tuple(%all-reduce.1, %all-gather.2)
"""


def test_collectives_are_read_from_hlo():
  found = [(c.kind, c.payload, c.group, c.sent) for c in cost.collectives(HLO, 8)]
  assert found == [
    ("all-gather", 512, 4, 512 * 3 / 4),
    ("all-reduce", 12 + 8, 2, 20.0),
    ("all-gather", 64, 8, 56.0),
    ("reduce-scatter", 5, 8, 35.0),
    ("collective-permute", 7, 8, 7.0),
    ("all-reduce", 16, 1, 0.0),
  ]
