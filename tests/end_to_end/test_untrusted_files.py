"""Whatever lies where a file is expected: it is read, or refused in one line by name."""

import os
import pathlib
import signal
import zipfile

import hostile
import numpy as np
import pytest
from PIL import Image
from readers import BY_NAME, DATA, IMAGES, READERS, enter, sound

from miue_jax.artefact import external, release
from miue_jax.artefact.poison import Poison
from miue_jax.data import folder as folders
from miue_jax.machine import archives, files, locks, progress, reading
from miue_jax.settings.config import Data
from miue_jax.settings.errors import UserError

NAMES = [reader.name for reader in READERS]
_SECONDS = 60  # Nothing here takes one, unless it waits for ever.


@pytest.fixture(autouse=True)
def no_waiting():
  """Ends a test that waits for ever, as an opened pipe does."""

  def late(signum, frame):
    raise TimeoutError("it waits for ever")

  previous = signal.signal(signal.SIGALRM, late)
  signal.alarm(_SECONDS)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def unprivileged():
  """Takes away the right of root to read everything."""
  if os.geteuid() == 0:
    os.seteuid(65534)
    yield
    os.seteuid(0)
  else:
    yield


def refusal(work, *arguments):
  """Returns the one line by which `work(*arguments)` refuses them."""
  with pytest.raises(UserError) as caught:
    work(*arguments)
  assert hostile.one_line(caught.value), repr(str(caught.value))
  return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_file_is_read(name, tmp_path):
  BY_NAME[name].read(sound(BY_NAME[name], tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_paths_that_are_no_files(name, tmp_path):
  """Each path is put where the file was, by a link where it must keep its name."""
  path = sound(BY_NAME[name], tmp_path / "sound")
  for kind, make in hostile.PATHS.items():
    (tmp_path / kind).mkdir()
    strange = make(tmp_path / kind)
    if name.startswith(("poison/", "run/", "images/", "external/0", "out.private/", "rounds/")):
      if kind in ("a NUL", "half of a character", "a path of 5,000 letters", "nothing"):
        continue  # No link leads there, or nothing is wrong.
      path.unlink(missing_ok=True)
      path.symlink_to(strange)
      strange = path
    said = refusal(BY_NAME[name].read, strange)
    assert strange.parent.name[:50] in said, (kind, said)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_permission(name, tmp_path, unprivileged):
  said = refusal(BY_NAME[name].read, tmp_path / "inside" / "file")
  assert "Permission denied" in said


FOLDERS = {
  "folder of images": lambda path: folders.load(Data(source="folder", path=os.fspath(path))),
  "workdir": enter,
  "poison": Poison.load,
  "external": lambda path: external.load(path, DATA),
  "export": lambda path: release.read(path, IMAGES.shape),
  "list": reading.entries,
}


@pytest.mark.parametrize("name", FOLDERS)
def test_paths_that_are_no_folders(name, tmp_path):
  (tmp_path / "file").write_text("x")
  for kind, make in hostile.PATHS.items():
    if name == "workdir" and kind in ("nothing", "a newline", "a folder without permission"):
      continue  # it is made
    (tmp_path / kind).mkdir()
    refusal(FOLDERS[name], make(tmp_path / kind))
  refusal(FOLDERS[name], tmp_path / "file")
  if name not in ("list", "workdir"):
    refusal(FOLDERS[name], pathlib.Path("/proc/self/fd"))


WRITERS = {
  "replacing": lambda path: files.write_json(path, {}),
  "appending": lambda path: files.append_line(path, b"{}"),
  "new folder": lambda path: files.new_directory(path).__enter__(),
  "log": lambda path: progress.logged_to(path).__enter__(),
  "output": files.require_new,
  "texts": lambda path: files.write_texts(path, {"a": "b"}),
}
_WRITABLE = ("nothing", "a newline", "a folder without permission")


@pytest.mark.parametrize("name", WRITERS)
def test_paths_that_cannot_be_written(name, tmp_path):
  for kind, make in hostile.PATHS.items():
    if kind in (*_WRITABLE, "a device", "memory", "memory of the kernel", "a terabyte"):
      continue
    (tmp_path / kind).mkdir()
    refusal(WRITERS[name], make(tmp_path / kind))
    assert [path.name for path in (tmp_path / kind).iterdir() if path.name.startswith(".")] == []


def test_a_terabyte_is_not_searched_for_a_line(tmp_path):
  assert "1,099,511,627,776 bytes" in refusal(
    files.append_line, hostile.PATHS["a terabyte"](tmp_path), b"{}"
  )


def test_an_output_is_refused_before_the_work(tmp_path):
  assert "no folder" in refusal(files.require_new, tmp_path / "nodir" / "x.json")
  (tmp_path / "x.json").symlink_to(tmp_path / "nowhere")
  assert "exists" in refusal(files.require_new, tmp_path / "x.json")
  files.require_new(tmp_path / "y.json")
  assert os.listdir(tmp_path) == ["x.json"]


# The member that is strange, and a sound one that belongs to it.
MEMBERS = {
  "data/x.npz": ("x_train", "y_train"),
  "weights/x.npz": ("params/classifier/kernel", "params/classifier/bias"),
  "features/x.npz": ("x",),
  "external/x.npz": ("x_train", "y_train"),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_archives(name, tmp_path):
  for number, (kind, make) in enumerate(hostile.ARCHIVES.items()):
    path = tmp_path / f"{number}.npz"
    make(path, *MEMBERS[name])
    said = refusal(BY_NAME[name].read, path)
    assert path.name in said, (kind, said)


@pytest.mark.parametrize("kind", hostile.ARCHIVES)
def test_damaged_arrays_of_npy_files(kind, tmp_path):
  hostile.ARCHIVES[kind](tmp_path / "x.npz", "x")
  try:
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
      content = archive.read("x.npy")
  except Exception:
    content = (tmp_path / "x.npz").read_bytes()
  (tmp_path / "x.npy").write_bytes(content)
  if content != hostile.described("(4,)") + b"\1\2\3\4":
    refusal(archives.read_npy, tmp_path / "x.npy", "copy it again")


def test_class_names_that_are_no_text(tmp_path):
  names = np.frombuffer(b"\xff\xff\xff\xff" * 2, "<U1")
  np.savez(tmp_path / "x.npz", x_train=IMAGES, y_train=np.arange(6) % 2, class_names=names)
  assert "class_names" in refusal(BY_NAME["data/x.npz"].read, tmp_path / "x.npz")


def test_a_small_file_of_many_zeros_is_refused_before_it_is_read(tmp_path, monkeypatch):
  monkeypatch.setattr("miue_jax.machine.room.limit", lambda: 10**6)
  zeros = np.zeros((1000, 32, 32, 3), np.uint8)
  np.savez_compressed(tmp_path / "x.npz", x_train=zeros, y_train=np.arange(1000) % 2)
  np.savez_compressed(tmp_path / "y.npz", x=zeros.reshape(1000, -1))
  assert "3,072,000 bytes" in refusal(BY_NAME["data/x.npz"].read, tmp_path / "x.npz")
  assert "3,072,000 bytes" in refusal(BY_NAME["features/x.npz"].read, tmp_path / "y.npz")
  assert "have shape" in refusal(BY_NAME["external/x.npz"].read, tmp_path / "x.npz")
  np.savez_compressed(
    tmp_path / "z.npz",
    **{"params/classifier/kernel": np.zeros((4, 2)), "params/classifier/bias": np.zeros(2)},
    **{"params/a/kernel": zeros.astype(np.float32)},
  )
  assert "12,288,000 bytes" in refusal(BY_NAME["weights/x.npz"].read, tmp_path / "z.npz")


def test_large_pictures_of_a_brought_folder_are_not_decoded(tmp_path, monkeypatch):
  sound(BY_NAME["external/0.png"], tmp_path)
  hostile.huge_picture(tmp_path / "external" / "5.png")
  monkeypatch.setattr("miue_jax.data.pixels.decode", lambda *_, **__: pytest.fail("decoded"))
  read = BY_NAME["external/0.png"].read
  assert "9000 x 9000" in refusal(read, tmp_path / "external" / "5.png")


@pytest.mark.parametrize("name", [name for name in NAMES if ".json" in name])
@pytest.mark.parametrize("kind", hostile.JSON)
def test_json(name, kind, tmp_path):
  path = sound(BY_NAME[name], tmp_path)
  if name.endswith("l"):
    path.write_bytes(path.read_bytes() + hostile.JSON[kind] + b"\n")
    assert "Line 2 of" in refusal(BY_NAME[name].read, path)
  else:
    path.write_bytes(hostile.JSON[kind])
    assert path.name in refusal(BY_NAME[name].read, path)


@pytest.mark.parametrize(
  "name",
  ["log.txt", "results.jsonl", "report", "poison", "checkpoints", "tensorboard", locks.FOLDER],
)
def test_links_in_a_workdir_are_refused_by_name(name, tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "run")
  enter(tmp_path / "link")  # the workdir itself may be one
  (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
  for root in ("run", "link"):
    said = refusal(enter, tmp_path / root)
    assert f"{root}/{name} is a link" in said


@pytest.mark.parametrize("kind", ["a named pipe", "a link to a named pipe", "a socket"])
def test_what_a_workdir_cannot_hold_is_refused_at_any_depth(kind, tmp_path):
  inside = tmp_path / "run" / "checkpoints" / "victims" / "clean"
  inside.mkdir(parents=True)
  enter(tmp_path / "run")
  hostile.PATHS[kind](inside)
  assert "checkpoints/victims/clean/" in refusal(enter, tmp_path / "run")


def test_strange_entries_of_a_folder_of_images(tmp_path, caplog):
  for name in ("cat", "dog"):
    (tmp_path / "x" / name).mkdir(parents=True)
    for i in range(2):
      Image.fromarray(IMAGES[i]).save(tmp_path / "x" / name / f"{i}.png")
  load = FOLDERS["folder of images"]
  (tmp_path / "x" / "loop").symlink_to(tmp_path / "x" / "loop")
  assert "loop is a broken link" in refusal(load, tmp_path / "x")
  (tmp_path / "x" / "loop").unlink()
  os.mkfifo(tmp_path / "x" / "pipe")
  os.mkfifo(tmp_path / "x" / "cat" / "pipe")
  assert load(tmp_path / "x").class_names == ("cat", "dog")
  os.mkfifo(tmp_path / "x" / "cat" / "pipe.png")
  assert load(tmp_path / "x").class_names == ("cat", "dog")
  assert "cat/pipe.png: a named pipe" in caplog.text
