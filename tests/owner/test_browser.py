"""Tests the pages of a protection in Chromium: widths, dark mode, keyboard, screen reader."""

import contextlib
import io
import re

import chromium
import numpy as np
import pytest
from PIL import Image
from toy_page import CHANGE, row, write

from miue_jax.owner import private
from miue_jax.report.verdict import Verdict

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(chromium.PATH is None, reason="needs chromium on the PATH"),
]

# Names and texts without a place to break, a picture larger than its detail, and a tiny one.
LONG = "a_name_without_any_place_to_break_" * 4
LARGE, TINY = "dogs/a <b> 1.png", f"cats/{LONG}.png"
VERDICT = Verdict(
  "NOT protected",
  "The strongest of 6 attempts to learn from the published pictures recognises 52 % (95 % interval "
  "41 to 63 %) of 80 pictures that it has not seen; the strongest with the originals "
  "recognises 84 %.",
  ("The strongest attempt was a small network.", f"The pictures are in {LONG}."),
)
PAGES = {"index.html": f"Protection of {LONG}", "shareable.html": "Protection of pictures"}
HEADINGS = "Audits", "What people see", "Details"
SHARE = "{}: share of the original that is shown"
FITS = "element => element.scrollWidth <= element.clientWidth"
FOCUSED = "element => element === document.activeElement"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Writes the pages and returns the folder of all folders."""
  root = tmp_path_factory.mktemp("browser")
  rng = np.random.default_rng(0)
  sizes = {LARGE: (500, 600, 3), TINY: (20, 24, 3)}
  pictures = {name: rng.integers(8, 248, size).astype(np.uint8) for name, size in sizes.items()}
  audits = [row(f"2026-{month:02}-01", "adversarial training", 0.9) for month in range(1, 10)]
  audits += [row("2026-10-01", attack, 0.4) for attack in (private.UNTOUCHED, "TrivialAugment")]
  left_out = [f"{LONG}.jpg: is not a picture"]
  write(root, pictures, audits, photos=LONG, found=VERDICT, left_out=left_out)
  return root


@pytest.fixture(scope="module")
def browser():
  with chromium.started() as browser:
    yield browser


@pytest.fixture
def show(browser, folder):
  """Returns `show(name, width, **options)`, which opens a page.

  At the end of the test, no page has reported an error or asked for anything but local files.
  """
  with contextlib.ExitStack() as stack:
    wrong = []

    def opened(name="index.html", width=1280, scheme="light", **options):
      size = {"width": width, "height": chromium.SIZES[width]}
      context = browser.new_context(viewport=size, color_scheme=scheme, **options)
      stack.enter_context(contextlib.closing(context))
      context.on("request", lambda request: asked(request.url))
      page = context.new_page()
      page.on("console", lambda message: wrong.append(message.text))
      page.on("pageerror", lambda error: wrong.append(str(error)))
      page.goto((folder / "out.private" / "page" / name).as_uri())
      return page

    def asked(url):
      if not url.startswith(("file:", "data:")):
        wrong.append(url)

    yield opened
    assert not wrong


def until(act, done):
  """Acts until something is done, at most 50 times."""
  assert any(act() or done() for _ in range(50))


def pixels(element):
  """Returns what an element looks like, uint8 `[H, W, 3]`."""
  return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", chromium.SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_the_screen_begins_with_the_verdict_and_can_be_read(show, name, width, scheme):
  page = show(name, width, scheme)
  verdict = page.get_by_role("region").first
  assert verdict.get_attribute("aria-label") == "Verdict"
  sync_api.expect(page.get_by_role("heading", level=2).first).to_have_text("NOT protected")
  for text in ("NOT protected", VERDICT.sentence.replace(" %", "\u00a0%")):
    sync_api.expect(verdict.get_by_text(text, exact=True)).to_be_in_viewport(ratio=1)
  assert page.locator("details").count() == (3 if name == "index.html" else 2)
  assert page.locator("details[open]").count() == 0
  page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  assert all(page.locator(".scroll, .verdict").evaluate_all(f"all => all.map({FITS})"))
  assert not re.search(r"mathdefault|\$", page.locator("body").inner_text())
  assert not re.search(r"mathdefault|\$", page.locator("body").text_content())
  pale = [found for found in page.evaluate(CONTRASTS) if found[0] < 4.5]
  assert not pale


# Lists the contrast of each text with what is behind it, as WCAG 2 defines it, and the text.
CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map(value => value / 255);
  };
  const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const found = rgba(getComputedStyle(element).backgroundColor);
      if (found[3] == 1) return found;
      if (found[3] > 0) throw new Error('a translucent background');
    }
    throw new Error('no background');
  };
  const found = [];
  const texts = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim(), element = texts.currentNode.parentElement;
    if (!text || ['STYLE', 'style'].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const ink = rgba(element instanceof SVGElement ? style.fill : style.color);
    if (ink[3] != 1) throw new Error('translucent text: ' + text);
    const [low, high] = [light(ink), light(behind(element))].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), text]);
  }
  return found;
}"""


def test_the_measure_of_contrast_knows_extremes_and_the_limit(browser):
  page = browser.new_page()
  page.set_content(
    "<html style='background: #fff'><main><p style='color: #000'>black</p>"
    "<p style='color: #767676'>gray</p><svg style='background: #000'><text fill='#fff'>white</text>"
  )
  found = {text: contrast for contrast, text in page.evaluate(CONTRASTS)}
  page.close()
  assert found == pytest.approx({"black": 21, "gray": 4.54, "white": 21}, abs=0.005)


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_that_zooms_out_pages_that_are_too_wide_has_nothing_to_zoom_out(show, name):
  page = show(name, 390, device_scale_factor=2, is_mobile=True, has_touch=True)
  assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]


@pytest.mark.parametrize("width", chromium.SIZES)
def test_the_keyboard_moves_the_border_between_pictures_of_original_size(show, folder, width):
  page = show(width=width)
  slider = page.get_by_role("slider", name=SHARE.format(LARGE))
  until(lambda: page.keyboard.press("Tab"), lambda: slider.evaluate(FOCUSED))
  assert slider.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
  picture = page.get_by_role("figure", name=LARGE).get_by_role("img").last
  shown = min(480, width - 32)
  around = slice(240 - shown // 2, 240 + shown // 2)
  original, published = (
    np.asarray(Image.open(folder / top / LARGE))[70:430, 60:540][:, around] for top in (LONG, "out")
  )
  assert np.all(published - original == CHANGE)
  for key, value in (("ArrowRight", 51), ("ArrowLeft", 50), ("Home", 0), ("End", 100)):
    page.keyboard.press(key)
    sync_api.expect(slider).to_have_value(str(value))
    sync_api.expect(slider).to_have_attribute("aria-valuetext", f"{value} % original")
    border = shown * value // 100
    expected = np.concatenate([original[:, :border], published[:, border:]], axis=1)
    # The border is drawn over the pictures, and their corners are round.
    visible = np.abs(np.arange(shown) - border) > 4
    visible[:5] = visible[-5:] = False
    drawn = pixels(picture)[5:-5, visible]
    tops = range(len(expected) - len(drawn) + 1)
    assert any(np.array_equal(drawn, expected[top:][: len(drawn), visible]) for top in tops)


def test_a_tiny_picture_is_enlarged_and_its_slider_is_as_wide_as_it(show):
  figure = show().get_by_role("figure", name=TINY)
  widths = [
    figure.locator(part).last.bounding_box()["width"] for part in ("img", "input", "figcaption")
  ]
  assert widths == [240, 240, 240]


def test_the_keyboard_unfolds_details(show):
  page = show()
  details = page.locator("details").first
  summary = details.locator("summary")
  until(lambda: page.keyboard.press("Tab"), lambda: summary.evaluate(FOCUSED))
  page.keyboard.press("Enter")
  sync_api.expect(details).to_have_attribute("open", "")


def test_a_finger_moves_the_border(show):
  page = show(width=390, is_mobile=True, has_touch=True)
  slider = page.get_by_role("slider", name=SHARE.format(LARGE))
  slider.tap(position={"x": 90, "y": 14})
  assert abs(int(slider.input_value()) - 25) <= 2


def test_a_screen_reader_finds_headings_in_order_pictures_and_sliders(show):
  page = show()
  found = page.locator("body").aria_snapshot()
  assert re.findall(r'- heading "(.*)" \[level=(\d)\]', found) == [
    (PAGES["index.html"], "1"),
    *((heading, "2") for heading in ("NOT protected", *HEADINGS)),
  ]
  for name in (LARGE, TINY):
    for said in (f'img "{name}, original"', f'img "{name}, published"', f'slider "{SHARE}"'):
      assert said.format(name) in found
  assert len(re.findall("- '?img ", found)) == 5  # four pictures and a drawing
  assert not page.locator("img:not([alt])").count()


def test_the_page_to_share_has_headings_in_order_and_no_picture(show):
  found = show("shareable.html").locator("body").aria_snapshot()
  headings = re.findall(r'- heading "(.*)" \[level=\d\]', found)
  assert headings == [PAGES["shareable.html"], "NOT protected", *HEADINGS]
  assert re.findall("- '?img \"(.*?):", found) == ["Strongest attack of each audit"]
  assert "slider" not in found


@pytest.mark.parametrize("width", chromium.SIZES)
def test_without_scripts_both_pictures_are_shown_side_by_side_where_there_is_room(show, width):
  page = show(width=width, java_script_enabled=False)
  figure = page.get_by_role("figure", name=LARGE)
  assert not page.get_by_role("slider").count()
  left, right = (image.bounding_box() for image in figure.get_by_role("img").all())
  assert left["width"] == right["width"] == min(480, width - 32)
  if width == 1280:
    assert left["y"] == right["y"]
    assert right["x"] >= left["x"] + left["width"]
  else:
    assert left["x"] == right["x"]
    assert right["y"] >= left["y"] + left["height"]
  for said in ("original", "published"):
    assert figure.get_by_text(said, exact=True).is_visible()
