"""Tests that altered files among the published ones stop nothing and are part of the verdict."""

import pytest
from PIL import Image
from protections import run
from toy_pictures import toy

from miue_jax.owner import private, published
from miue_jax.report import verdict

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.slow
def test_resized_and_truncated_files_are_named_in_the_verdict_that_others_repeat(
  photos, tmp_path, capsys
):
  out = tmp_path / "out"
  first, _ = run(photos, out)
  for name in ("a/00.png", "bbb/00.png"):
    Image.open(out / name).resize((12, 10)).save(out / name)
  for name in ("a/01.png", "bbb/01.png"):
    (out / name).write_bytes((out / name).read_bytes()[:-200])
  store = private.Private(private.path_of(out))
  toy(photos, "a", 1, start=10)  # it is compared with none of these
  for again in (run, run):  # makes a verdict, and then takes the stored one
    found, said = again(photos, out)
    assert "4 pictures in" in said
    assert found.judgement == verdict.NOT_PROTECTED
    assert found.sentence.startswith("4 pictures among the published ones must not be published")
    assert found == private.verdict_of(store)
    page = (store.page / "index.html").read_text()
    assert "4 pictures among the published ones" in page
    assert "a/00.png, published" not in page
  with published.opened(out, None, None, None) as pairs:
    assert len(pairs.labels) == 17
    assert not pairs.complete
    assert len(pairs.unprotected.altered) == 4
    pairs.sets("the whole picture")
  assert "a/00.png" in capsys.readouterr().out.splitlines()[0]
  for name in ("a/00.png", "bbb/00.png", "a/01.png", "bbb/01.png"):
    (out / name).unlink()
  (out / "a" / "02.png").rename(out / "a" / "other.png")
  found, said = run(photos, out)
  assert "1 picture (a/other.png). This program published no pictures of these names" in said
  (out / "a" / "other.png").unlink()
  found, _ = run(photos, out)
  assert "must not" not in found.sentence
  assert found.judgement == first.judgement
