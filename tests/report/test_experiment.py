"""The report of one experiment: page, Markdown and JSON."""

import html.parser
import json
import math
import re

import numpy as np
import pytest

from miue_jax import report
from miue_jax.machine import files

VOID = {"meta", "link", "img", "br", "hr", "input"}
EVIL = "<script>alert('x')</script> & \"q\" $a$ | b"
CONFIG = {
  "name": "digits",
  "seed": 3,
  "method": {"name": "miue", "epsilon": 8 / 255},
  "evaluate": {"seeds": [0, 1, 2]},
}
MANIFEST = {
  "method": "miue",
  "num_classes": 10,
  "epsilon_255ths": 8,
  "max_delta_255ths": 7,
  "psnr_db": 33.61,
  "ssim": math.nan,
  "dataset_fingerprint": "abc123",
  "versions": {"jax": "0.10.2"},
  "config": {"secret_nesting": 1},
}
MEASUREMENT = {
  "settings": {"estimator": "histogram, plug-in", "bins": 16},
  "rows": [
    {"method": "clean", "mi": 1.5, "std": 0.1},
    {"method": "miue", "mi": 0.25, "std": None},
    {"method": "random", "mi": math.nan, "std": math.nan},
  ],
}


class Page(html.parser.HTMLParser):
  """Checks the nesting of tags and collects tags and texts."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.texts = [], [], []
    self.feed(text)
    self.close()
    assert not self.open, f"never closed: {self.open}"

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open, f"</{tag}> closes nothing"
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


@pytest.fixture
def rows(make_row):
  accuracies = {"clean": [96.0, 98.0], "random": [95.0, 97.0], "miue": [10.0, 14.0]}
  return [make_row(m, a, s) for m, values in accuracies.items() for s, a in enumerate(values)]


def make_examples(channels=3, size=8, captions=("zero", "one")):
  clean = np.random.default_rng(0).integers(8, 247, (2, size, size, channels)).astype(np.uint8)
  return report.Examples(clean, clean + np.uint8(4), captions)


def write_all(directory, rows, **changes):
  arguments = {
    "config": CONFIG,
    "command": "python -m miue_jax.main --config=configs/digits.py",
    "manifest": MANIFEST,
    "measurement": MEASUREMENT,
    "examples": make_examples(),
  }
  files.write_texts(directory, report.Experiment(rows, **(arguments | changes)).files)
  return report.table(rows)


def test_the_page_is_well_formed_and_loads_nothing(tmp_path, rows):
  write_all(tmp_path, rows)
  text = (tmp_path / "index.html").read_text(encoding="utf-8")
  page = Page(text)
  names = [tag for tag, _ in page.tags]
  assert not {"script", "iframe", "object", "embed", "base"} & set(names)
  assert names.count("svg") == 2  # learning curves and bars
  for _, attributes in page.tags:
    for key in ("src", "href", "xlink:href", "srcset", "poster", "data"):
      value = attributes.get(key)
      assert value is None or value.startswith(("data:", "#")), (key, value)
  assert "@import" not in text
  assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_ids_are_unique_and_every_reference_has_its_target(tmp_path, rows):
  write_all(tmp_path, rows)
  text = (tmp_path / "index.html").read_text(encoding="utf-8")
  page = Page(text)
  ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
  assert len(ids) == len(set(ids))
  used = set(re.findall(r"url\(#([^)]*)\)", text))
  used |= {a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")}
  assert used
  assert used <= set(ids)


def test_every_image_and_table_has_a_description(tmp_path, rows):
  write_all(tmp_path, rows)
  page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
  assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
  assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
  assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")


def test_markup_is_text_everywhere(tmp_path, make_row):
  rows = [
    make_row("clean", 95.0, victim=EVIL, dataset=EVIL),
    make_row(EVIL, 12.0, victim=EVIL, dataset=EVIL),
    make_row(EVIL, 12.0, victim=EVIL, dataset=EVIL, defence="_" + EVIL),
  ]
  write_all(
    tmp_path,
    rows,
    config={EVIL: {EVIL: EVIL}},
    command=EVIL,
    manifest={"method": EVIL, "dataset": EVIL, EVIL: EVIL},
    measurement={
      "settings": {EVIL: EVIL},
      "rows": [
        {
          "method": "clean",
          "estimator": EVIL,
          "mi": 0.5,
          "warnings": [EVIL],
          "settings": {EVIL: 1},
        },
        {"method": EVIL, "estimator": EVIL, "mi": 1.0, "std": 0.1},
      ],
      "theory": [{"method": EVIL, "after": {"half_log_det": 1.0}}, {"method": EVIL, "note": EVIL}],
    },
    examples=make_examples(captions=(EVIL, EVIL)),
  )
  page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
  assert "script" not in [tag for tag, _ in page.tags]
  assert EVIL in "".join(page.texts)
  lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
  assert not [line for line in lines if "<script>" in line and not line.startswith("    ")]


def test_the_same_input_gives_the_same_bytes(tmp_path, rows):
  write_all(tmp_path / "a", rows)
  write_all(tmp_path / "b", rows)
  for name in ("index.html", "report.md", "report.json"):
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_json_holds_rows_and_aggregates(tmp_path, rows):
  rows[0]["auc"] = np.float32("nan")
  write_all(tmp_path, rows)
  text = (tmp_path / "report.json").read_text(encoding="utf-8")
  document = json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity are not JSON
  assert document["rows"] == [rows[0] | {"auc": None}, *rows[1:]]
  assert document["config"] == CONFIG
  assert document["command"].endswith("configs/digits.py")
  assert document["measurement"]["rows"][2]["mi"] is None
  assert document["verdict"]["judgement"] == "protected"
  miue = next(a for a in document["aggregates"] if a["method"] == "miue")
  assert miue["metrics"]["test_accuracy"]["mean"] == pytest.approx(12.0)
  assert miue["metrics"]["test_accuracy"]["std"] == pytest.approx(math.sqrt(8.0))
  assert miue["gap"] == pytest.approx(85.0)


def test_markdown_and_page_have_the_same_facts(tmp_path, rows):
  returned = write_all(tmp_path, rows)
  markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
  page = "".join(Page((tmp_path / "index.html").read_text(encoding="utf-8")).texts)
  assert returned in markdown
  facts = (
    "12.0 ± 2.8",
    "85.0",
    "33.6 dB",
    "7/255",
    "abc123",
    "8/255",
    "is infinite",
    "JPEG",
    "configs/dig",
  )
  for fact in facts:
    assert fact in markdown, fact
    assert fact in page, fact
  assert "secret_nesting" not in page  # The config inside the manifest would only be a repetition.


def test_page_and_markdown_show_disagreement_and_theory(tmp_path, rows):
  terms = {"intra_cosine": 0.5, "inter_cosine": 0.25, "effective_rank": 3.0, "divergence": 0.125}
  measurement = {
    "settings": {"samples": 2000},
    "rows": [
      {"method": "clean", "estimator": "mine", "mi": 1.25, "settings": {"width": 64}},
      {"method": "miue", "estimator": "mine", "mi": 1.75, "warnings": ["Do not trust it."]},
    ],
    "theory": [
      {
        "method": method,
        "before": terms | {"half_log_det": -8.0},
        "after": terms | {"half_log_det": after},
        "classes": [
          {
            "label": 4,
            "samples": 199,
            "before": terms | {"half_log_det": -8.5},
            "after": terms | {"half_log_det": after},
          }
        ],
      }
      for method, after in (("clean", -8.0), ("miue", -12.5))
    ],
  }
  write_all(tmp_path, rows, measurement=measurement)
  markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
  page = "".join(Page((tmp_path / "index.html").read_text(encoding="utf-8")).texts)
  for fact in (
    "according to mine (1.750 nats for miue, 1.250 for clean)",
    "mine, miue: Do not trust it.",
    "mine.width",
    "released images",
    "-12.5 nats for the released images of miue and -8.0 for clean",
    "-8.5 to -12.5",
  ):
    assert fact in markdown, fact
    assert fact in page, fact


def contents(*rows, **given):
  """Returns the JSON file about rows."""
  return json.loads(
    report.Experiment(rows, **({"config": {}, "command": ""} | given)).files["report.json"]
  )


def test_the_number_of_classes_comes_from_the_rows_or_the_manifest(make_row):
  row = make_row("clean", 90.0)
  assert contents(row | {"num_classes": 4}, manifest={"num_classes": 8})["chance"] == 25.0
  assert contents(row, manifest={"num_classes": 8})["chance"] == 12.5
  assert contents(row)["chance"] is None


def test_the_judged_method_is_the_one_that_made_the_poison(make_row):
  rows = [make_row(*row) for row in (("clean", 97.0), ("em", 20.0), ("miue", 12.0))]

  def sentence(*rows, **given):
    return contents(*rows, **given)["verdict"]["sentence"]

  assert "protected by miue" in sentence(*rows, manifest={"method": "miue"})
  assert "protected by miue" in sentence(*rows, config={"method": {"name": "miue"}})
  assert "protected by em" in sentence(*rows)
  assert "No network was trained on protected" in sentence(rows[0], manifest={"method": "miue"})


def test_missing_parts_name_the_mode_that_makes_them(tmp_path):
  files.write_texts(tmp_path, report.Experiment([], {}, "").files)
  page = "".join(Page((tmp_path / "index.html").read_text(encoding="utf-8")).texts)
  for mode in ("'evaluate'", "'generate'", "'measure'"):
    assert mode in page
  assert "Nothing can be concluded" in page
  markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
  assert "**Nothing can be concluded.** No network was trained on protected images." in markdown
  assert markdown.lower().count("nothing can be concluded") == 1
  assert "'evaluate'" in report.table([])


def test_curves_may_be_missing_short_or_not_finite(tmp_path, make_row):
  long = {"epoch": [1, 2, 3], "train_accuracy": [1.0, 2.0, 3.0], "test_accuracy": [1.0, 2.0, 3.0]}
  short = {"epoch": [1], "train_accuracy": [math.nan], "test_accuracy": [5.0]}
  rows = [
    make_row("clean", 95.0, 0, curve=long),
    make_row("clean", 94.0, 1, curve=short),
    make_row("miue", math.nan, 0, curve=None, peak_test_accuracy=None, train_accuracy=None),
  ]
  write_all(tmp_path, rows)
  paths = re.findall(r' d="([^"]*)"', (tmp_path / "index.html").read_text(encoding="utf-8"))
  assert paths
  assert not [path for path in paths if "nan" in path]
  assert "nan" not in (tmp_path / "report.md").read_text(encoding="utf-8").lower()


def test_the_table_is_aligned_and_has_one_line_for_each_condition(make_row):
  rows = [make_row("clean", 97.25), make_row("a|b\nc", 5.0)]
  lines = report.table(rows).splitlines()
  assert len(lines) == 4
  assert len({len(line) for line in lines}) == 1
  assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
  assert "dataset" not in lines[0]
  assert "| dataset" in report.table([*rows, make_row("clean", 1.0, dataset="other")])


def test_a_budget_that_bounds_no_pixel_is_given_in_words(tmp_path, rows):
  # Patterns of LSP may change a value by more than epsilon.
  words = "L2: every image by at most 6/255, root mean square over its values"
  changes = {"epsilon_255ths": 6.0, "max_delta_255ths": 11, "budget": words}
  write_all(tmp_path, rows, manifest=MANIFEST | changes)
  shown = re.findall(r"^\| budget +\| (.*?) +\|$", (tmp_path / "report.md").read_text(), re.M)
  assert set(shown) == {words}
