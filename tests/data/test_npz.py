import zipfile

import numpy as np
import pytest

from miue_jax.data import sources
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 4, 5, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def load(path, need_test=True, **settings):
  data = config.Data(source="npz", path=str(path), **settings)
  return sources.load(data, need_test=need_test)


def written(tmp_path, **arrays):
  np.savez(tmp_path / "data.npz", **arrays)
  return tmp_path / "data.npz"


def test_keras_layout(tmp_path):
  path = written(
    tmp_path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:3], y_test=LABELS[:3].astype(np.uint8)
  )
  loaded = load(path)
  np.testing.assert_array_equal(loaded.train.images, IMAGES)
  np.testing.assert_array_equal(loaded.train.labels, LABELS)
  np.testing.assert_array_equal(loaded.test.images, IMAGES[:3])
  assert loaded.train.labels.dtype == loaded.test.labels.dtype == np.int32
  assert loaded.class_names == ("0", "1", "2")
  assert loaded.name == "data"
  assert loaded.train.files is None


def test_medmnist_layout_without_its_validation_set(tmp_path):
  gray = IMAGES[..., 0]
  path = written(
    tmp_path,
    train_images=gray,
    train_labels=LABELS[:, None],
    val_images=np.array([object()]),
    val_labels=np.array([object()]),
    test_images=gray[:3],
    test_labels=LABELS[:3, None],
  )
  loaded = load(path, name="chest")
  np.testing.assert_array_equal(loaded.train.images[..., 0], gray)
  assert loaded.train.images.shape == (8, 4, 5, 1)
  assert loaded.train.labels.tolist() == LABELS.tolist()
  assert loaded.name == "chest"


# Classes and channels of the 2D subsets of MedMNIST with one label for each image.
SUBSETS = {
  "pathmnist": (9, 3),
  "dermamnist": (7, 3),
  "octmnist": (4, 1),
  "pneumoniamnist": (2, 1),
  "retinamnist": (5, 3),
  "breastmnist": (2, 1),
  "bloodmnist": (8, 3),
  "tissuemnist": (8, 1),
  "organamnist": (11, 1),
  "organcmnist": (11, 1),
  "organsmnist": (11, 1),
}


def subset(path, classes, channels, side):
  """Writes a file as MedMNIST writes it: `[N, H, W]` if gray, labels uint8 `[N, 1]`."""
  shape, arrays = (side, side, 3) if channels == 3 else (side, side), {}
  for part, count in {"train": 3 * classes, "val": classes, "test": 2 * classes}.items():
    arrays[f"{part}_images"] = RNG.integers(0, 256, (count, *shape), np.uint8)
    arrays[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
  np.savez(path, **arrays)
  return arrays


@pytest.mark.parametrize("side", [28, 224])
@pytest.mark.parametrize(("name", "shape"), SUBSETS.items())
def test_every_subset_of_medmnist(tmp_path, name, shape, side):
  classes, channels = shape
  arrays = subset(tmp_path / f"{name}.npz", classes, channels, side)
  loaded = load(tmp_path / f"{name}.npz")
  assert (loaded.name, loaded.num_classes) == (name, classes)
  for split, part in ((loaded.train, "train"), (loaded.test, "test")):
    assert split.images.shape[1:] == (side, side, channels)
    stored = arrays[f"{part}_images"].reshape(split.images.shape)
    np.testing.assert_array_equal(split.images, stored)
    np.testing.assert_array_equal(split.labels, arrays[f"{part}_labels"][:, 0])
  assert load(tmp_path / f"{name}.npz", size=32).train.images.shape[1:] == (32, 32, channels)


def test_several_labels_for_an_image_are_refused_with_what_to_do(tmp_path):
  findings = RNG.integers(0, 2, (8, 14), np.uint8)  # ChestMNIST
  findings[0] = 0
  path = written(tmp_path, train_images=IMAGES[..., 0], train_labels=findings)
  with pytest.raises(UserError, match=r"\[8, 14\], several labels or none .* labels\[:, 0\]\.$"):
    load(path)
  hot = np.eye(3, dtype=np.uint8)[LABELS]
  with pytest.raises(UserError, match=r"labels\.argmax\(1\)\.$"):
    load(written(tmp_path, train_images=IMAGES[..., 0], train_labels=hot))


def test_class_names_of_the_file(tmp_path):
  names = np.array(["cat", "dog", "é"])
  path = written(tmp_path, x_train=IMAGES, y_train=LABELS, class_names=names)
  assert load(path, need_test=False, test_fraction=0).class_names == ("cat", "dog", "é")


def test_compressed_file(tmp_path):
  np.savez_compressed(tmp_path / "data.npz", x_train=IMAGES, y_train=LABELS)
  loaded = load(tmp_path / "data.npz", test_fraction=0.2)
  assert len(loaded.train) + len(loaded.test) == 8


GOOD = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:3], "y_test": LABELS[:3]}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"x_train": None}, "holds x_test, y_test, y_train; it needs x_train and y_train"),
    ({"y_test": None}, "needs both x_test and y_test, or neither"),
    ({"x_train": IMAGES / 255}, "x_train of .* must be uint8 .*: convert with numpy.rint"),
    ({"x_train": IMAGES[0]}, r"y_train of .* must be 4 integers"),
    ({"x_train": IMAGES[:, 0, 0]}, r"x_train of .* shape \[8, 3\]"),
    ({"x_train": IMAGES[..., :2]}, r"x_train of .* shape \[8, 4, 5, 2\]"),
    ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "not empty; here: uint8 of shape"),
    ({"y_train": LABELS[:7]}, r"y_train of .* must be 8 integers.* \[7\]"),
    ({"y_train": LABELS / 1}, "y_train of .* here: float64 of shape"),
    ({"y_train": LABELS[:, None] == [0, 1, 2]}, "y_train of .* here: bool of shape"),
    ({"y_train": np.stack([LABELS, LABELS], 1)}, r"shape \[8, 2\]: convert"),
    ({"y_train": LABELS - 1}, "y_train of .* here: -1 to 1"),
    ({"y_train": LABELS.astype(np.uint64) + 2**63}, "y_train of .* here: 92"),
    ({"y_train": np.where(LABELS == 2, 10**9, LABELS)}, "no training image of class 2"),
    ({"y_test": np.array([0, 1, 3])}, "y_test of .* has label 3 but there are 3 classes"),
    ({"y_test": np.array([0, 1, -3])}, "y_test of .* here: -3"),
    ({"y_train": np.where(LABELS == 1, 0, LABELS)}, "no training image of class 1 but has label 2"),
    ({"class_names": np.array(["a", "b"])}, "y_train of .* has label 2 but there are 2 classes"),
    ({"class_names": np.array(["a", "b", "a"])}, "array of distinct strings"),
    ({"class_names": np.array([1, 2, 3])}, "array of distinct strings"),
    ({"class_names": np.array("abc")}, "array of distinct strings"),
    (
      {"class_names": np.array(list("abcd")), "y_test": np.array([0, 1, 3])},
      "Label 3 of .* is in y_test but not in y_train",
    ),
    ({"x_train": np.array([{"a": 1}] * 8)}, "without Python objects"),
    ({"y_train": np.array([None] * 8)}, "without Python objects"),
  ],
)
def test_every_mistake_is_named(tmp_path, changes, message):
  arrays = {key: array for key, array in (GOOD | changes).items() if array is not None}
  with pytest.raises(UserError, match=message):
    load(written(tmp_path, **arrays))


def test_no_file_and_no_path(tmp_path):
  with pytest.raises(UserError, match=r"absent.npz is not a file"):
    load(tmp_path / "absent.npz")
  with pytest.raises(UserError, match=r"data.path is empty"):
    load("")


def test_a_npy_file_is_not_an_npz_file(tmp_path):
  np.save(tmp_path / "data.npy", IMAGES)
  with pytest.raises(UserError, match=r"data.npy is not an .npz file"):
    load(tmp_path / "data.npy")


def test_a_damaged_file_is_named(tmp_path):
  path = written(tmp_path, **GOOD)
  content = bytearray(path.read_bytes())
  with zipfile.ZipFile(path) as archive:
    start = archive.getinfo("x_train.npy").header_offset
  content[start + 200] ^= 0xFF  # inside the pixels: the checksum no longer fits
  path.write_bytes(content)
  with pytest.raises(UserError, match=r"cannot be read"):
    load(path)


def test_a_member_that_is_not_an_array_is_named(tmp_path):
  with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
    archive.writestr("x_train.npy", b"\x80\x04not an array")
    archive.writestr("y_train.npy", b"\x80\x04not an array")
  with pytest.raises(UserError, match=r"x_train is not an array"):
    load(tmp_path / "data.npz")


def test_cifar10_prefix(real_data):
  path = real_data("cifar10_prefix.npz")
  loaded = load(path)
  with np.load(path) as archive:
    np.testing.assert_array_equal(loaded.train.images, archive["x_train"])
    np.testing.assert_array_equal(loaded.test.labels, archive["y_test"].ravel())
  assert loaded.num_classes == 10


def test_pneumoniamnist(real_data):
  loaded = load(real_data("pneumoniamnist.npz"), size=32, max_train=300)
  assert loaded.train.images.shape == (300, 32, 32, 1)
  assert loaded.test.images.shape == (624, 32, 32, 1)
  # 1,214 of the 4,708 training images are normal.
  assert abs(np.bincount(loaded.train.labels)[0] - 300 * 1214 / 4708) < 1
