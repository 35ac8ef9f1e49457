"""Tests where a protection may be; nothing is protected."""

import os

import pytest

from miue_jax.owner import private, protect, restore
from miue_jax.owner.request import Request, check_new, check_places
from miue_jax.settings.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Returns a folder with pictures, a published folder and its private folder."""
  for name in ("photos", "public", "public.private"):
    (tmp_path / name).mkdir()
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize(
  ("out", "said"),
  [
    ("photos", "^photos is the folder of your pictures: choose a folder outside"),
    ("photos/../photos", "is the folder of your pictures"),
    ("photos/public", "^photos/public lies in photos: "),
    (".", r"^photos lies in \.: choose a folder outside of your pictures for OUT"),
  ],
)
def test_pictures_and_published_files_are_apart(folder, out, said):
  with pytest.raises(UserError, match=said):
    check_places(Request(private.pathlib.Path("photos"), private.pathlib.Path(out)))


def test_a_file_is_no_folder_of_published_pictures(folder):
  (folder / "list.csv").touch()
  with pytest.raises(UserError, match=r"list\.csv is not a folder: name one for the published"):
    check_new(Request(folder / "photos", folder / "list.csv"))


def test_the_key_is_not_published(folder):
  with pytest.raises(UserError, match=r"my\.key would be published"):
    check_places(Request(folder / "photos", folder / "new", key=folder / "new" / "my.key"))


@pytest.mark.parametrize("pictures", ["public", "public/cats", "public/x.npz", "."])
def test_published_pictures_get_no_second_perturbation(folder, pictures, tmp_path_factory):
  request = Request(folder / pictures, tmp_path_factory.mktemp("elsewhere") / "new")
  check_places(request)  # any folder may be called public.private
  private.Private(folder / "public.private").noted.touch()
  with pytest.raises(UserError, match="published by `protect`: name the folder of the originals"):
    check_places(request)


@pytest.mark.parametrize("out", ["public/cats", "public/a/b"])
def test_nothing_is_protected_into_a_published_folder(folder, out):
  with pytest.raises(UserError, match=r"public, which is published"):
    check_places(Request(folder / "photos", folder / out))


def test_what_is_left_from_another_protection_is_not_used(folder):
  request = Request(folder / "photos", folder / "public")
  check_places(request)
  check_new(request)
  private.Private(folder / "public.private").source.write_bytes(b"weights")
  with pytest.raises(UserError, match="is left from another protection"):
    check_new(request)


def test_the_private_folder_is_outside_whatever_the_path(folder):
  os.chdir(folder / "public")
  assert private.path_of(".") == private.path_of("../public/") == folder / "public.private"
  (folder / "public" / "cats").mkdir()
  os.chdir("cats")
  assert private.path_of("..") == folder / "public.private"


def test_the_root_is_no_folder_of_pictures():
  with pytest.raises(UserError, match="the whole file system"):
    private.path_of("/")
  with pytest.raises(UserError, match="the whole file system"):
    _ = Request(private.pathlib.Path("photos"), private.pathlib.Path("/")).key_path


def test_originals_are_not_restored_into_the_published_folder(folder):
  with pytest.raises(UserError, match="choose a folder outside of it"):
    restore.restore(folder / "public", folder / "public" / "originals", None, None)


def test_a_link_to_itself_is_refused_where_it_is_read(folder):
  (folder / "loop").symlink_to("loop")
  check_places(Request(folder / "loop", folder / "new"))
  with pytest.raises(UserError, match="leads to itself"):
    protect.protect(Request(folder / "loop", folder / "new"), print)
  with pytest.raises(UserError, match="leads to itself"):
    protect.protect(Request(folder / "photos", folder / "loop"), print)
