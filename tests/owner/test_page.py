"""Tests the page of a protection: what it says first, its pictures, its script, its trend."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import types

import numpy as np
import pytest
from PIL import Image

from miue_jax.owner import page, private
from miue_jax.report.verdict import Verdict

NAME = "dogs/a <b> 1.png"
VERDICT = Verdict("partly protected", "A sentence.", ("Do this next.",))


def row(date, attack, share):
  values = {"published": 40.0, "interval": [30.0, 50.0], "originals": 80.0, "chance": 25.0}
  values |= {"date": date, "version": "0.2.0", "attack": attack, "share": share, "pictures": 8}
  return values


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """Writes the pages of one picture of 600 x 500 pixels and returns the private folder."""
  tmp_path = tmp_path_factory.mktemp("page")
  rng = np.random.default_rng(0)
  image = rng.integers(8, 248, (500, 600, 3)).astype(np.uint8)
  for folder, change in (("photos", 0), ("out", 5)):
    (tmp_path / folder / "dogs").mkdir(parents=True)
    Image.fromarray(image + np.uint8(change)).save(tmp_path / folder / NAME)
  store = private.Private(tmp_path / "out.private")
  store.root.mkdir()
  trial = {"victim": "a small network", "published": 40.0, "originals": 80.0}
  proved = {"judgement": "protected", "sentence": "", "notes": [], "trials": [trial]}
  store.verdict.write_text(json.dumps(proved))
  rows = [row("2026-10-01", private.UNTOUCHED, 0.1), row("2026-10-01", "blurring", 0.42)]
  rows += [row("2026-11-01", private.UNTOUCHED, 0.88)]
  store.audits.write_text("".join(json.dumps(one) + "\n" for one in rows))
  entry = types.SimpleNamespace(name=NAME, published=NAME)
  folders = page.Folders(tmp_path / "photos", tmp_path / "out", [entry])
  page.note(store, folders, ["dogs/broken.jpg: is not a picture"], "The key is K.", True)
  page.write(store, VERDICT, folders)
  return store


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


def test_the_page_to_share_has_no_pictures_names_or_script(written):
  text = text_of(written, "shareable.html")
  secrets = ("data:image", "<script", "script-src", "dogs", "key is K", "PRIVATE")
  for secret in (*secrets, str(written.root)):
    assert secret not in text
  assert "blurring" in text


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_runs_the_sliders_and_scrolls_sideways_at_no_width(written, tmp_path):
  frames = "".join(
    f'<iframe src="{(written.page / "index.html").as_uri()}" style="width:{width}px"></iframe>'
    for width in (390, 768, 1280)
  )
  script = (
    "onload = () => document.body.append('Found:' + [...document.querySelectorAll('iframe')]"
    ".map(({contentDocument: {documentElement: root}}) => root.scrollWidth - root.clientWidth "
    "+ '/' + root.querySelectorAll('.slides').length))"
  )
  (tmp_path / "frames.html").write_text(f"<body>{frames}<script>{script}</script>")
  options = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files")
  done = subprocess.run(
    ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
     (tmp_path / "frames.html").as_uri()],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert "Found:0/1,0/1,0/1" in done.stdout, done
