"""Tests the examination of pictures before protection."""

import io

import numpy as np
import pytest
from PIL import Image

from miue_jax.owner import examine
from miue_jax.pictures import key, publish, survey
from miue_jax.settings.errors import UserError


def drawn(seed):
  small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
  return np.asarray(Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC))


def test_near_duplicates_are_found_and_others_are_not():
  images = np.stack([drawn(seed) for seed in range(40)])
  image = Image.fromarray(images[7])
  buffer = io.BytesIO()
  image.save(buffer, "jpeg", quality=50)
  changed = [
    np.clip(images[7].astype(int) + 12, 0, 255),
    np.asarray(Image.open(buffer)),
    np.asarray(image.resize((16, 16), Image.Resampling.LANCZOS).resize((32, 32))),
    np.asarray(image.crop((1, 1, 32, 32)).resize((32, 32))),
  ]
  for other in changed:
    pairs = examine.near(np.concatenate([images, np.uint8(other)[None]]))
    assert pairs.tolist() == [[7, 40]]
  assert examine.near(images[:0]).tolist() == []


def test_pictures_of_one_colour_are_no_near_duplicates():
  images = np.stack([np.full((32, 32, 3), value, np.uint8) for value in range(200)])
  images[:, ::7, ::5] += 2  # noise
  assert examine.near(images).tolist() == []


def test_pictures_that_are_merely_alike_as_xrays_are_are_no_near_duplicates():
  shared = np.linspace(50, 200, 32)  # all become brighter to the right
  own = np.random.default_rng(1).uniform(-40, 40, (40, 8, 1)).repeat(4, axis=1)
  images = np.repeat((shared + own).astype(np.uint8)[..., None], 3, axis=3)
  assert len(examine.near(images)) == 0


def test_many_near_duplicates_are_a_few_lines(tmp_path, said):
  for number in range(24):
    image = np.minimum(drawn(number // 2), 254) + np.uint8(number % 2)
    Image.fromarray(image).save(tmp_path / f"{number:02}.png")
  examine.examine(tmp_path, None, None, None, None, groups=1)
  lines = said()
  assert lines[1] == "Nearly the same picture: 00.png, 01.png."
  assert lines[-1] == "Nearly the same picture, not listed: 2 more groups of 4 pictures."
  assert len(lines) == 1 + 10 + 1


def test_faults_are_said_by_name(tmp_path, said):
  for name in ("cat", "dog"):
    (tmp_path / name).mkdir()
  for number in range(8):
    Image.fromarray(drawn(number)).save(tmp_path / "cat" / f"{number}.png")
  Image.fromarray(drawn(3)).save(tmp_path / "dog" / "copy.png", compress_level=1)
  (tmp_path / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
  examine.examine(tmp_path, None, None, None, None)
  lines = said()
  assert "The same picture in different classes: cat/3.png, dog/copy.png." in lines
  assert any("dog/broken.png" in line for line in lines)
  small = "Class 'dog' has only 1 picture: with fewer than 200, expect little or no"
  assert any(small in line for line in lines)
  assert "The classes are unequal: 8 of 'cat', 1 of 'dog'." in lines


def test_pictures_without_classes_are_examined(tmp_path, said):
  for number in (0, 1, 1):
    Image.fromarray(drawn(number)).save(tmp_path / f"{len(list(tmp_path.iterdir()))}.png")
  examine.examine(tmp_path, None, None, None, None, groups=1)
  assert said() == [
    "3 pictures without classes; folders are not taken for classes.",
    "The same picture: 1.png, 2.png.",
  ]


def test_originals_and_published_files_of_a_key_are_recognised(tmp_path, said):
  photos, out = tmp_path / "photos", tmp_path / "out"
  for name in ("a", "b"):
    (photos / name).mkdir(parents=True)
    for number in range(2):
      Image.fromarray(drawn(7 * number + ord(name))).save(photos / name / f"{number}.png")
  Image.fromarray(drawn(99)).save(photos / "a" / "new.png")
  found = next(x for x in survey.survey(photos).pictures if x.path == "b/1.png")
  delta = np.full((8, 8, 3), 8, np.int8)
  with key.Key.create(tmp_path / "out.key", {}) as secret:
    publish.publish(photos, found, delta, out, secret)
  (out / "b" / "1.png").rename(photos / "a" / "came back.png")
  examine.examine(photos, None, tmp_path / "out.key", None, None)
  assert "Protected already with this key: 2 pictures (a/came back.png, b/1.png)." in said()
  (tmp_path / "server.key").write_text("-----BEGIN PRIVATE KEY-----")
  with key.Key.create(tmp_path / "other.key", {}):
    pass  # it knows none of them
  examine.examine(photos, None, None, None, None)
  lines = [line for line in said() if "already" in line]
  name = tmp_path / "out.key"
  assert lines == [f"Protected already with the key {name}: 2 pictures (a/came back.png, b/1.png)."]


def test_archives_are_examined_and_public_pictures_are_known(tmp_path, said):
  images, labels = np.stack([drawn(seed) for seed in range(6)]), np.array([0, 0, 0, 1, 1, 1])
  path, web = tmp_path / "data.npz", tmp_path / "web"
  np.savez(path, x_train=images, y_train=labels, x_test=images[:1], y_test=labels[:1])
  (web / "deep").mkdir(parents=True)
  Image.fromarray(images[4]).save(web / "deep" / "renamed.png")
  Image.fromarray(images[2]).save(web / "recompressed.jpg", quality=85)
  examine.examine(path, None, None, None, web)
  lines = said()
  assert (
    "The same picture in different splits: test/0/x_test[0].png, train/0/x_train[0].png." in lines
  )
  assert lines[-1] == (
    f"Also in {web}, or nearly the same there: 2 of 7 pictures. They cannot be protected any more: "
    "train/0/x_train[2].png, train/1/x_train[4].png."
  )


def test_pictures_are_not_taken_for_their_own_public_copies(tmp_path, said):
  photos, web = tmp_path / "photos", tmp_path / "link"
  photos.mkdir()
  for seed in range(3):
    Image.fromarray(drawn(seed)).save(photos / f"{seed}.png")
  Image.fromarray(drawn(1)).save(tmp_path / "found.png")
  web.symlink_to(photos)
  with pytest.raises(UserError, match=r"link is .*photos itself: give a folder"):
    examine.examine(photos, None, None, None, web, groups=1)
  examine.examine(photos, None, None, None, tmp_path, groups=1)
  assert said()[-1].startswith(f"Also in {tmp_path}, or nearly the same there: 1 of 3 pictures.")


def test_published_pictures_are_not_public_originals(tmp_path):
  photos, out = tmp_path / "photos", tmp_path / "out"
  for folder in (photos, out, tmp_path / "out.private"):
    folder.mkdir()
  Image.fromarray(drawn(0)).save(photos / "x.png")
  Image.fromarray(drawn(0)).save(out / "x.png")
  with pytest.raises(UserError, match="out holds pictures that this program protected"):
    examine.examine(photos, None, None, None, out, groups=1)


def test_groups_have_two_pictures_or_more(tmp_path, said):
  for seed in range(3):
    Image.fromarray(drawn(seed)).save(tmp_path / f"{seed}.png")
  with pytest.raises(UserError, match="--clusters 2: 3 pictures are too few"):
    examine.examine(tmp_path, None, None, None, None, groups=2)
