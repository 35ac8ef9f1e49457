"""Every mistake: one sentence on stderr, exit status 2, nothing overwritten, no traceback."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from program import TINY, content

EPSILON = "in (0, 127/255]"


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--config.method.foo=1"], ["method.foo", "epsilon"]),
    (["--config.method.epsilom=0.1"], ["method.epsilom", "epsilon"]),
    (["--config.name.x=1"], ["name.x"]),
    (["--config.method=3"], ["--config.method=3"]),
    (["--config.method.steps=abc"], ["method.steps", "abc"]),
    (["--config.method.balanced=perhaps"], ["method.balanced", "perhaps"]),
    (["--config.evaluate.seeds=(0, 'a')"], ["evaluate.seeds"]),
    (["--config.data.classes=1,2"], ["data.classes"]),
    (["--config.method.epsilon=0.0"], ["method.epsilon", EPSILON]),
    (["--config.method.epsilon=1.01"], ["method.epsilon", EPSILON]),
    (["--config.method.epsilon=nan"], ["method.epsilon", "finite"]),
    (["--config.victim_fit.augment=blur"], ["victim_fit.augment", "crop_flip"]),
    (["--unknown=1"], ["'unknown'", "--help"]),
    (["--mode=fly"], ["--mode=fly", "generate"]),
    (["extra"], ["'extra'", "--config.key=value"]),
    (["--config=configs/none.py"], ["'configs/none.py'", "digits"]),
    (["--config", "configs/none.py"], ["'configs/none.py'", "digits"]),
    (["--config=configs/cifar10.py:none"], ["'none'", "parity"]),
    (["--config=configs/digits.py:none"], ["configs/digits.py:none"]),
    (["--config=configs/digits.py:magic"], ["'magic'", "miue"]),
    (["--config.method.name=em"], ["method.name", "configs/digits.py:em"]),
    (["--config.method.model.name=magic"], ["'magic'", "resnet18"]),
    (["--config.victim.name=magic"], ["'magic'", "resnet18"]),
    (["--config.data.source=magic"], ["'magic'", "npz"]),
    (["--config.method.only_class=10"], ["only_class", "0..9"]),
    ([f"--config.method.class_fractions={(0.5,) * 11}"], ["class_fractions", "10 classes"]),
    (["--config.data.test_fraction=0.0"], ["no test set", "data.test_fraction"]),
    (["--config.devices=8"], ["devices=8", "4"]),
    (["--config.devices=3"], ["128", "3 devices"]),
    (["--config.data.max_train=100"], ["100", "source.batch_size"]),
    (["--mode=evaluate"], ["no complete poison", "generate"]),
    (["--mode=export"], ["no complete poison", "generate"]),
    (["--mode=restore"], ["no export"]),
    (["--images=x"], ["--images belongs to --mode=restore"]),
    (["--mode=evaluate", "--chips=2"], ["--chips belongs to --mode=plan", "--mode=evaluate"]),
    (["--mode=measure", "--output=x.json"], ["--features and --released"]),
    (["--method.epsilon=8/255"], ["did you mean --config.method.epsilon?"]),
    (["--config.method.epsilon=8"], ["method.epsilon is 8.0", "write 8/255"]),
    (["--config.method.tau=inf", "--config.seed=-1"], ["method.tau", "finite", "; setting seed"]),
    (["--mode=plan", "--chips=1000000"], ["--chips is 1000000", "1024"]),
    (["--distributed_timeout=0"], ["--distributed_timeout=0", "it must be a number of seconds"]),
    (["--distributed_timeout=nan"], ["--distributed_timeout=nan", "from 1 to 604800"]),
    (["--distributed_timeout=inf"], ["--distributed_timeout=inf", "from 1 to 604800"]),
    (["--mode=plan", "--image_shape=100000,100000,3"], ["--image_shape", "4096"]),
    (["--mode=plan", "--classes=1000000000"], ["--classes is 1000000000", "100000"]),
  ],
  ids=lambda value: value[0] if value[0].startswith("-") else None,
)
def test_flags_and_settings(fork, flags, words):
  sentence = fork(*flags).sentence()
  assert all(word in sentence for word in words), sentence


@pytest.mark.long
def test_the_real_program_says_it_the_same_way(run):
  assert "method.foo" in run("--config.method.foo=1").sentence()


def test_a_broken_recipe(fork, tmp_path):
  recipe = tmp_path / "recipe.py"
  recipe.write_text("def get_config(:\n")
  assert "SyntaxError" in fork(f"--config={recipe}").sentence()
  recipe.write_text("def get_config():\n  return open('absent')\n")
  assert str(recipe) in fork(f"--config={recipe}").sentence()


def save_npz(path, **changes):
  arrays = {
    "x_train": np.zeros((20, 32, 32), np.uint8),
    "y_train": np.arange(20) % 4,
    "x_test": np.zeros((8, 32, 32), np.uint8),
    "y_test": np.arange(8) % 4,
  } | changes
  np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"x_train": np.array([{}] * 20, object)}, ["without Python objects"]),
    ({"y_train": np.arange(20) % 4 - 1}, ["y_train", "-1"]),
    ({"y_train": np.arange(20) % 5, "class_names": np.array(list("abcd"))}, ["label 4", "4 class"]),
    ({"y_train": np.array([0] * 19 + [1]), "x_test": None, "y_test": None}, ["Class '1'", "2"]),
    ({"x_train": np.zeros((20, 32, 32))}, ["x_train", "float64", "uint8"]),
    ({"y_test": None}, ["x_test", "y_test"]),
  ],
  ids=["pickled", "negative", "too large", "single", "float", "half a test set"],
)
def test_npz_files(fork, tmp_path, changes, words):
  path = tmp_path / "images.npz"
  save_npz(path, **changes)
  test_fraction = "--config.data.test_fraction=0.0"
  flags = ["--mode=generate", test_fraction] if changes.get("x_test", "") is None else []
  sentence = fork("--config=configs/npz.py", f"--config.data.path={path}", *flags).sentence()
  assert all(word in sentence for word in words), sentence


def test_missing_and_truncated_data_files(fork, tmp_path):
  path = tmp_path / "images.npz"
  flags = ["--config=configs/npz.py", f"--config.data.path={path}"]
  assert f"{path} is not a file" in fork(*flags).sentence()
  save_npz(path)
  path.write_bytes(path.read_bytes()[:2000])
  assert f"{path} is not an .npz file" in fork(*flags).sentence()
  flags = ["--config=configs/folder.py", f"--config.data.path={tmp_path / 'none'}"]
  assert "is not a folder" in fork(*flags).sentence()


def test_image_folders(fork, tmp_path):
  for split, count in (("train", 3), ("test", 1)):
    for name in ("cat", "dog"):
      (tmp_path / split / name).mkdir(parents=True)
      for i in range(count):
        Image.new("RGB", (32, 32), (i, i, i)).save(tmp_path / split / name / f"{i}.png")
  flags = ["--config=configs/folder.py", f"--config.data.path={tmp_path}"]
  broken = tmp_path / "train" / "dog" / "1.png"
  kept = broken.read_bytes()
  broken.write_bytes(kept[: len(kept) // 2])
  assert str(broken) in fork(*flags).sentence()
  broken.write_bytes(b"not an image")
  assert str(broken) in fork(*flags).sentence()
  broken.unlink()
  (broken.parent / "2.png").unlink()
  assert "Class 'dog'" in fork(*flags).sentence()


def test_a_mistake_in_the_data_does_not_claim_the_workdir(fork, tmp_path):
  path, workdir = tmp_path / "images.npz", f"--workdir={tmp_path / 'run'}"
  flags = ["--config=configs/npz.py", "--mode=evaluate", workdir]
  fork(*flags, "--config.data.path=mistyped.npz").sentence()
  save_npz(path)
  assert "no complete poison" in fork(*flags, f"--config.data.path={path}").sentence()


def refused(fork, workdir, *flags):
  """The sentence of a run that must leave the workdir as it is."""
  before = content(workdir)
  sentence = fork(*TINY, f"--workdir={workdir}", *flags).sentence()
  assert content(workdir) == before
  return sentence


@pytest.mark.slow
def test_the_workdir_of_another_config(fork, workdir):
  flags = ["--config.method.steps=3", "--config.data.seed=1"]
  sentence = refused(fork, workdir, *flags)
  assert "data.seed (0 there, 1 here), method.steps (2 there, 3 here)" in sentence


def test_a_poison_of_another_dataset(fork, workdir):
  for path in workdir.iterdir():
    if path.name != "poison":
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  sentence = fork(*TINY, f"--workdir={workdir}", "--config.data.seed=1").sentence()
  assert "data.seed (0 there, 1 here)" in sentence


def cut(path):
  path.write_bytes(path.read_bytes()[:-10])


def flip(path):
  stored = bytearray(path.read_bytes())
  stored[-1] ^= 1
  path.write_bytes(stored)


def forge(path):
  manifest = json.loads(path.read_text())
  path.write_text(json.dumps(manifest | {"epsilon": 1 / 255}))


@pytest.mark.parametrize(
  ("name", "damage", "word"),
  [
    ("poison/manifest.json", cut, "manifest.json is damaged"),
    ("poison/manifest.json", forge, "its budget is 1/255"),
    ("poison/delta.npy", cut, "the file is damaged, copy it again"),
    ("poison/delta.npy", flip, "delta.npy is damaged"),
    ("results.jsonl", lambda path: path.write_text("{\n"), "results.jsonl"),
    ("measurement.json", cut, "measurement.json is damaged"),
    ("config.json", cut, "config.json is damaged"),
  ],
)
def test_damaged_files(fork, workdir, name, damage, word):
  damage(workdir / name)
  assert word in refused(fork, workdir)


@pytest.mark.slow
def test_a_damaged_checkpoint(fork, workdir):
  (workdir / "measurement.json").unlink()
  folder = workdir / "checkpoints" / "victims" / "clean-small_cnn-none-0"
  for path in folder.rglob("d/*"):
    path.write_bytes(path.read_bytes()[:10])
  assert f"The checkpoint in {folder} is damaged" in refused(fork, workdir, "--mode=measure")
  shutil.rmtree(folder)
  assert "is missing" in refused(fork, workdir, "--mode=measure")


@pytest.fixture
def disk(tmp_path):
  """`disk(options)` mounts a small file system and returns its folder."""
  folder = tmp_path / "disk"
  folder.mkdir()

  def mount(options):
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
      pytest.skip("a small file system needs root and the right to mount")
    return folder

  yield mount
  while os.path.ismount(folder):
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("size", "what"), [("64k", "the results take"), ("300k", "checkpoint"), ("704k", "delta.npy")]
)
def test_a_full_disk(fork, disk, size, what):
  workdir = disk(f"size={size}") / "run"
  sentence = fork(*TINY, f"--workdir={workdir}", "--mode=generate").sentence()
  assert what in sentence
  assert "free some space" in sentence
  assert not (workdir / "poison" / "manifest.json").exists()


def test_a_full_disk_during_an_export(fork, workdir, disk):
  output = disk("size=100k") / "export"
  flags = ["--mode=export", "--format=npz", f"--output={output}"]
  assert "No space left" in fork(*TINY, f"--workdir={workdir}", *flags).sentence()
  assert list(output.parent.iterdir()) == []


def test_a_read_only_workdir(fork, finished, disk):
  folder = disk("size=16m")
  shutil.copytree(finished[0], folder / "run")
  subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
  assert "Read-only file system" in refused(fork, folder / "run")
  sentence = fork(*TINY, f"--workdir={folder / 'new'}").sentence()
  assert "Read-only file system" in sentence


@pytest.mark.long
def test_more_devices_than_cores(run, tmp_path):
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
  if cores >= 64:
    pytest.skip("The batches are not divisible by more devices than there are cores.")
  flags = ["--config.devices=64", f"--workdir={tmp_path}"]
  sentence = run(*TINY, *flags).sentence()
  assert f"devices=64 but this machine offers {cores} (cpu)" in sentence
  assert "JAX_NUM_CPU_DEVICES" in sentence
