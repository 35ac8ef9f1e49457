"""Tests the page of a protection: what it says first, its pictures, its script, its trend."""

import base64
import hashlib
import io
import re

import numpy as np
import pytest
from PIL import Image
from toy_page import row, write

from miue_jax.owner import page, private
from miue_jax.settings.errors import UserError

NAME = "dogs/a <b> 1.png"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """Writes the pages of one picture of 600 x 500 pixels and returns the private folder."""
  image = np.random.default_rng(0).integers(8, 248, (500, 600, 3)).astype(np.uint8)
  audits = [row("2026-10-01", private.UNTOUCHED, 0.1), row("2026-10-01", "blurring", 0.42)]
  audits += [row("2026-11-01", private.UNTOUCHED, 0.88)]
  left_out = ["dogs/broken.jpg: is not a picture"]
  return write(tmp_path_factory.mktemp("page"), {NAME: image}, audits, left_out=left_out)


def text_of(store, name="index.html"):
  return (store.page / name).read_text()


def test_it_says_first_that_it_is_private_and_stays_out_of_the_published_folder(written):
  text = text_of(written)
  first = re.search(r"</h1>\s*<p class=\"private\"><strong>(.*?)</strong>", text)
  assert first
  assert first[1].startswith("PRIVATE: this page shows originals")
  assert [path.name for path in (written.root.parent / "out").rglob("*")] == ["dogs", "a <b> 1.png"]


def test_pictures_are_shown_pixel_by_pixel_and_by_name(written):
  text = text_of(written)
  uris = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', text)
  assert [alt for _, alt in uris] == [
    "dogs/a &lt;b&gt; 1.png, original",
    "dogs/a &lt;b&gt; 1.png, published",
  ]
  for (uri, _), folder in zip(uris, ("photos", "out"), strict=True):
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))))
    whole = np.asarray(Image.open(written.root.parent / folder / NAME))
    assert np.array_equal(shown, whole[70:430, 60:540])
  assert re.search(r'<input type="range"[^>]+aria-label="dogs/a &lt;b&gt; 1.png: ', text)


def test_a_picture_of_each_class_is_shown_whatever_was_added_later(tmp_path):
  image = np.full((8, 8, 3), 99, np.uint8)
  names = ("a/0.png", "a/1.png", "b/0.png", "c/0.png", "b/1.png", "c/1.png")
  text = text_of(write(tmp_path, dict.fromkeys(names, image), []))
  assert re.findall(r'alt="(.*?), original"', text) == ["a/0.png", "b/0.png", "c/0.png"]


def test_only_the_script_of_the_page_may_run(written):
  text = text_of(written)
  (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
  allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert f"script-src 'sha256-{allowed}'" in text
  assert "default-src 'none'" in text


def test_the_trend_has_a_line_for_each_audit_the_latest_first(written):
  trend = text_of(written).split("<tbody>")[1].split("</tbody>")[0]
  cells = re.findall(r"<t[hd][^>]*>([^<]*)</t", trend)
  assert cells == [
    *("2026-11-01", "nothing", "88\u00a0%, NOT protected", "1", "0.2.0"),
    *("2026-10-01", "blurring", "42\u00a0%, partly protected", "2", "0.2.0"),
  ]
  assert "Strongest attack of each audit" in text_of(written)


def test_the_table_of_attacks_has_the_advice_of_the_terminal(tmp_path):
  audits = [row("2026-10-01", private.UNTOUCHED, 0.1), row("2026-10-01", "blurring", 0.42)]
  del audits[0]["advice"]  # as earlier versions wrote it
  text = text_of(write(tmp_path, {}, audits))
  table = text.split("<tbody>")[2].split("</tbody>")[0]
  cells = re.findall(r"<t[hd][^>]*>([^<]*)</t", table)
  assert cells[:4] == ["nothing", "40", "10 %", "\N{EN DASH}"]
  assert cells[4:] == ["blurring", "40", "42 %", "do this against blurring"]


def test_the_page_to_share_has_no_pictures_names_or_script(written):
  text = text_of(written, "shareable.html")
  secrets = ("data:image", "<script", "script-src", "dogs", "key is K", "PRIVATE")
  for secret in (*secrets, str(written.root)):
    assert secret not in text
  assert "blurring" in text


def test_dates_below_the_curve_of_many_audits_are_few_and_the_latest_is_there(tmp_path):
  audits = [row(f"2026-{month:02}-01", private.UNTOUCHED, 0.5) for month in range(1, 12)]
  store = write(tmp_path, {}, audits)
  drawing = re.search(r"<svg.*?</svg>", text_of(store), re.DOTALL)
  assert drawing
  shown = re.findall(r">\s*(2026-\d\d-01)\s*</text>", drawing[0])
  assert shown == [f"2026-{month:02}-01" for month in range(1, 12, 2)]


@pytest.mark.parametrize("name", ["verdict.json", "page.json", "audits.jsonl"])
def test_what_it_is_made_of_is_checked_before(tmp_path, name):
  store = write(tmp_path, {}, [row("2026-10-01", private.UNTOUCHED, 0.5)])
  page.check(store)
  (store.root / name).write_text("{}\n")
  with pytest.raises(UserError, match=name):
    page.check(store)
