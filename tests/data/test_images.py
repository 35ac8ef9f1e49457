"""Lazy images against the arrays that they provide, from real files and in real processes."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
import scaling
from hypothesis import strategies as st
from PIL import Image

from miue_jax.data import images as images_lib
from miue_jax.data import sources
from miue_jax.data.images import Images, LazyImages
from miue_jax.settings import config
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes

ROOT = pathlib.Path(__file__).parents[2]
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 3, 4, 3), np.uint8)
IMAGE_GB = 3 * 4 * 3 / 1e9


def lazy(pixels=PIXELS):
  return LazyImages(lambda ids: pixels[ids], len(pixels), "numbers", digests=Images(PIXELS).digests)


def load(path, memory=0.0, **settings):
  data = config.Data(source="folder", path=str(path), test_fraction=0, memory=memory, **settings)
  return sources.load(data, need_test=False)


@pytest.fixture
def tree(tmp_path):
  """Writes PIXELS as 12 files of two classes."""
  for index, image in enumerate(PIXELS):
    path = tmp_path / "tree" / "ab"[index // 6] / f"{index:02d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
  return tmp_path / "tree"


INDICES = st.integers(-12, 11)


@hypothesis.given(
  st.one_of(st.slices(12), INDICES, st.lists(INDICES).map(lambda ids: np.array(ids, int)))
)
def test_lazy_images_are_indexed_like_an_array(index):
  read, expected = lazy()[index], PIXELS[index]
  np.testing.assert_array_equal(read, expected, strict=True)


def test_lazy_images_describe_themselves_like_an_array():
  assert (lazy().shape, lazy().dtype) == (PIXELS.shape, PIXELS.dtype)
  assert len(lazy()) == len(PIXELS)


def test_the_first_image_tells_the_shape():
  asked = []
  images = LazyImages(lambda ids: asked.append(ids.tolist()) or PIXELS[ids], 12, "numbers")
  assert len(images) == 12
  assert asked == []
  assert images.shape == images.shape == PIXELS.shape
  assert asked == [[0]]


def test_images_in_memory_are_an_array():
  images = Images(PIXELS)
  assert (images.shape, images.dtype, len(images)) == (PIXELS.shape, PIXELS.dtype, 12)
  assert np.shares_memory(np.asarray(images), PIXELS)
  np.testing.assert_array_equal(images[3:5], PIXELS[3:5])
  np.testing.assert_array_equal(images.take(np.array([7, 2])), PIXELS[[7, 2]])
  assert images.loaded() is images


@pytest.mark.parametrize("source", [Images, lazy])
def test_both_kinds_have_one_interface(source, monkeypatch):
  monkeypatch.setattr(images_lib, "BLOCK", 5)
  images = source(PIXELS)
  blocks = list(images.blocks())
  assert [ids.tolist() for ids, _ in blocks] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
  np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), PIXELS)
  expected = [hashlib.sha256(image.tobytes()).digest() for image in PIXELS]
  assert [bytes(digest) for digest in images.digests] == expected
  changed = images.map(lambda ids, block: block ^ ids[:, None, None, None].astype(np.uint8))
  expected = PIXELS ^ np.arange(12, dtype=np.uint8)[:, None, None, None]
  np.testing.assert_array_equal(changed[:], expected, strict=True)
  np.testing.assert_array_equal(changed.loaded(), expected)
  assert bytes(changed.digests[3]) == hashlib.sha256(expected[3].tobytes()).digest()


def test_only_what_is_indexed_is_read():
  asked = []

  def read(ids):
    asked.append(ids.tolist())
    return PIXELS[ids]

  images = LazyImages(
    read, 12, "numbers", image_shape=PIXELS.shape[1:], digests=Images(PIXELS).digests
  )
  assert asked == []
  images[np.array([7, 2])], images[3:5], images[-1]
  assert asked == [[7, 2], [3, 4], [11]]


@pytest.mark.parametrize("whole", [np.asarray, lambda images: PIXELS + images, np.mean])
def test_conversion_to_an_array_is_refused(whole):
  with pytest.raises(TypeError, match=r"numbers is read from its files: index its images in block"):
    whole(lazy())


def test_map_changes_what_is_read():
  shift = np.arange(12, dtype=np.uint8)[:, None, None, None]
  images = lazy().map(lambda ids, images: images // 2 + shift[ids])
  assert (images.shape, images.dtype) == (PIXELS.shape, PIXELS.dtype)
  np.testing.assert_array_equal(images[np.array([5, 0])], (PIXELS // 2 + shift)[[5, 0]])


def test_take_reads_what_was_chosen():
  images = lazy().take(np.array([7, 2, 7, 0]))
  assert images.shape == (4, *PIXELS.shape[1:])
  np.testing.assert_array_equal(images[np.array([3, 0])], PIXELS[[0, 7]])
  np.testing.assert_array_equal(images[1:3], PIXELS[[2, 7]])


def test_images_that_changed_are_refused():
  changed = PIXELS.copy()
  changed[4, 1, 2, 0] ^= 1
  images = lazy(changed)
  np.testing.assert_array_equal(images[:4], PIXELS[:4])
  with pytest.raises(UserError, match=r"Images of numbers changed since this run began"):
    images[3:5]
  with pytest.raises(UserError, match=r"Images of numbers changed since this run began"):
    lazy(PIXELS.swapaxes(1, 2))[:1]


@pytest.mark.parametrize("settings", [{}, {"size": 2}, {"max_train": 7}, {"classes": ("b", "a")}])
def test_a_lazy_folder_equals_the_folder_in_memory(tree, settings, monkeypatch):
  monkeypatch.setattr(images_lib, "_SCAN_BYTES", 100)  # two or more blocks
  held, read = load(tree, memory=4, **settings), load(tree, **settings)
  assert held.train.images.in_memory
  assert not read.train.images.in_memory
  np.testing.assert_array_equal(read.train.images[:], held.train.images, strict=True)
  np.testing.assert_array_equal(read.train.labels, held.train.labels)
  assert read.train.files == held.train.files
  assert read.fingerprint == held.fingerprint


@pytest.mark.parametrize(("images", "in_memory"), [(12.5, True), (11.5, False)])
def test_images_are_held_up_to_the_limit(tree, images, in_memory, caplog):
  caplog.set_level("INFO", logger="miue_jax")
  assert load(tree, memory=images * IMAGE_GB).train.images.in_memory == in_memory
  assert ("read whenever they are needed" in caplog.text) != in_memory


def test_training_and_test_images_count_together(tree):
  data = config.Data("folder", path=str(tree), test_fraction=0.25, memory=11.5 * IMAGE_GB)
  loaded = sources.load(data)
  assert (len(loaded.train), len(loaded.test)) == (9, 3)
  assert not loaded.train.images.in_memory
  assert not loaded.test.images.in_memory


def spoil(path):
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])


def turn(path):
  Image.fromarray(PIXELS[0].swapaxes(0, 1)).save(path)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (spoil, r"b/11.png cannot be decoded"),  # its header is whole
    (turn, r"b/11.png is 3 x 4 pixels but .*a/00.png is 4 x 3: set data.size"),
  ],
)
def test_the_last_image_is_checked_at_the_start(tree, change, message, monkeypatch):
  monkeypatch.setattr(images_lib, "_SCAN_BYTES", 100)
  change(tree / "b" / "11.png")
  with pytest.raises(UserError, match=message):
    load(tree)


def test_a_file_that_changes_or_disappears_is_reported(tree):
  images = load(tree).train.images
  turn(tree / "a" / "03.png")
  (tree / "b" / "07.png").unlink()
  np.testing.assert_array_equal(images[:3], PIXELS[:3])
  with pytest.raises(UserError, match=r"Images of tree changed"):
    images[3:4]
  with pytest.raises(UserError, match=r"07.png: No such file"):
    images[7:8]


def test_a_table_of_lazy_images_equals_that_of_the_array(tree, use_devices):
  use_devices(2)
  layout = lanes.lay_out(12, (8,), seed=0)
  held, read = (layout.place(load(tree, memory).train) for memory in (4, 0))
  np.testing.assert_array_equal(read.images, held.images)
  np.testing.assert_array_equal(read.labels, held.labels)


def in_processes(count, output, *arguments):
  """Runs reading.py in `count` connected processes; returns status and stderr of each.

  Process i writes to the file `output` + i.
  """
  environment = os.environ | {
    "PYTHONPATH": str(ROOT),
    "JAX_NUM_CPU_DEVICES": "2",
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{scaling.free_port()}",
    "JAX_NUM_PROCESSES": str(count),
  }
  running = [
    subprocess.Popen(
      [
        sys.executable,
        str(pathlib.Path(__file__).with_name("reading.py")),
        f"{output}{number}",
        *arguments,
      ],
      env=environment | {"JAX_PROCESS_ID": str(number)},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(count)
  ]
  try:
    said = [process.communicate(timeout=120) for process in running]
  finally:
    for process in running:
      process.kill()
  return [(process.returncode, err) for process, (_, err) in zip(running, said, strict=True)]


def read_in_processes(count, output, *arguments):
  """Returns what `count` processes of reading.py report."""
  ended = in_processes(count, output, *arguments)
  assert [status for status, _ in ended] == [0] * count, ended
  return [json.loads(pathlib.Path(f"{output}{number}").read_text()) for number in range(count)]


@pytest.mark.long
def test_processes_share_the_reading(tree, tmp_path):
  (tree / "a" / "00.png").rename(tree / "a" / "first.png")  # now the last of its class
  (tree / "b" / "06.png").unlink()  # eleven images, which two processes cannot share evenly
  expected = load(tree).fingerprint
  first, second = read_in_processes(2, tmp_path / "told", tree)
  assert [first["fingerprint"], second["fingerprint"]] == [expected, expected]
  assert set(first["read"]) == {"01", "02", "03", "04", "05"}
  assert set(second["read"]) - {"01"} == {"first", "07", "08", "09", "10", "11"}


@pytest.mark.long
def test_every_process_reports_an_error_in_one_share(tree, tmp_path):
  spoil(tree / "b" / "11.png")
  for status, err in in_processes(2, tmp_path / "told", tree):
    assert status == 2
    assert "b/11.png cannot be decoded" in err


@pytest.mark.long
def test_memory_stays_below_the_size_of_the_images(tmp_path):
  """Reads 181 MB of images, and then a quarter of them, as one process of four would."""
  if not pathlib.Path("/proc/self/status").exists():
    pytest.skip("there is no /proc that tells the peak of a process")
  noise = RNG.integers(0, 256, (50, 28, 28, 3), np.uint8)
  for index in range(1200):
    path = tmp_path / "tree" / f"class {index % 2}" / f"{index}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(noise[index % 50]).rotate(index).resize((224, 224), Image.BICUBIC)
    picture.save(path, quality=90)
  size = 1200 * 224 * 224 * 3 / 1e6
  held, read = (
    read_in_processes(1, tmp_path / "told", tmp_path / "tree", memory, "quarter")[0]
    for memory in ("4", "0")
  )
  assert held["fingerprint"] == read["fingerprint"]
  assert held["grown_mb"] > size
  assert read["grown_mb"] < 0.75 * size


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("change", [lambda ids, x: 1.2 * x, lambda ids, x: x[..., :1]])
def test_a_change_that_would_be_converted_is_refused(lazily, change):
  images = lazy() if lazily else Images(lazy()[:])
  with pytest.raises(UserError, match=r"Changed images are .*: return uint8 in 0\.\.255"):
    images.map(change)[:]
