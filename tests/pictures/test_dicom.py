"""Tests DICOM files that pydicom builds: window, inversion, frames, what comes back."""

import importlib.util
import io
import pathlib
import shutil

import hostile
import numpy as np
import pytest
from PIL import Image

from miue_jax.pictures import carry, decode, dicom, key, listing, publish, restore, survey
from miue_jax.settings.errors import UserError

pydicom = pytest.importorskip("pydicom")

VALUES = np.random.default_rng(0).integers(0, 4096, (30, 40)).astype(np.uint16)
WHOLE = int(VALUES.min()) - 1024, int(VALUES.max()) - 1024  # as `made` rescales them


def made(path, values=VALUES, **tags):
  """Writes a DICOM file of 12 bits with slope 1 and intercept -1024, as CT has."""
  found = pydicom.dataset.Dataset()
  found.file_meta = pydicom.dataset.FileMetaDataset()
  found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  found.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
  found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = pydicom.uid.generate_uid()
  found.SOPClassUID = pydicom.uid.CTImageStorage
  found.PatientName = "Doe^Jane"
  found.Rows, found.Columns = values.shape[-2:] if values.dtype == np.uint16 else values.shape[:2]
  found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
  found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 12, 11, 0
  found.RescaleSlope, found.RescaleIntercept = 1, -1024
  for name, value in tags.items():
    setattr(found, name, value)
  found.PixelData = values.tobytes()
  found.save_as(path, enforce_file_format=True)
  return path


def windowed(low, high):
  shares = np.clip((VALUES.astype(float) - 1024 - low) / (high - low), 0, 1)
  return np.rint(65535 * shares)


@pytest.mark.parametrize(
  ("tags", "low", "high"),
  [
    # PS3.3 C.11.2.1.2.1: black up to c - 0.5 - (w - 1) / 2, white above c - 0.5 + (w - 1) / 2
    ({"WindowCenter": 40, "WindowWidth": 401}, -160.5, 239.5),
    ({"WindowCenter": [40, 600], "WindowWidth": [401, 1500]}, -160.5, 239.5),
    ({"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}, -160, 240),
    ({"WindowCenter": 0, "WindowWidth": 401}, -200.5, 199.5),
    ({"WindowCenter": None, "WindowWidth": None}, *WHOLE),
    ({"WindowCenter": 40, "WindowWidth": 0}, *WHOLE),
    ({}, *WHOLE),
  ],
)
def test_gray_values_go_through_the_first_window(tmp_path, tags, low, high):
  picture = decode.read(made(tmp_path / "x.dcm", **tags))
  assert picture.channels.dtype == np.uint16
  assert np.array_equal(picture.channels[..., 0], windowed(low, high))
  assert decode.header(tmp_path / "x.dcm") == decode.Header(30, 40, True)


@pytest.mark.parametrize("shared", [True, False])
def test_enhanced_files_have_their_window_and_scale_in_groups(tmp_path, shared):
  window, scale, groups, other = (pydicom.Dataset() for _ in range(4))
  window.WindowCenter, window.WindowWidth = 80, 802
  scale.RescaleSlope, scale.RescaleIntercept = 2, -2048
  groups.FrameVOILUTSequence, groups.PixelValueTransformationSequence = [window], [scale]
  name = "SharedFunctionalGroupsSequence" if shared else "PerFrameFunctionalGroupsSequence"
  path = made(tmp_path / "x.dcm", **{name: [groups] if shared else [groups, other]})
  found = pydicom.dcmread(path)
  del found.RescaleSlope, found.RescaleIntercept
  found.save_as(path)
  picture = decode.read(path)
  # Twice the values within a window of twice the size: -321 to 480 of them.
  assert np.array_equal(picture.channels[..., 0], windowed(-160.5, 240))
  assert "DICOM window: centre 80, width 802" in picture.notes[0]


def test_inverted_frames_and_colours(tmp_path):
  window = {"WindowCenter": 40, "WindowWidth": 401}
  two = np.stack([VALUES, VALUES[::-1]])
  inverted = {"NumberOfFrames": 2, "PhotometricInterpretation": "MONOCHROME1"}
  picture = decode.read(made(tmp_path / "x.dcm", two, **inverted, **window))
  assert np.array_equal(picture.channels[..., 0], 65535 - windowed(-160.5, 239.5))
  assert picture.notes[0] == "the first of 2 frames"
  colours = np.random.default_rng(1).integers(0, 256, (30, 40, 3)).astype(np.uint8)
  bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PlanarConfiguration": 0}
  rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"} | bits
  assert np.array_equal(decode.read(made(tmp_path / "c.dcm", colours, **rgb)).channels, colours)


@pytest.mark.parametrize(
  ("tags", "said"),
  [
    ({"VOILUTFunction": "SIGMOID", "WindowCenter": 1, "WindowWidth": 2}, "is not linear"),
    ({"VOILUTSequence": [pydicom.Dataset()]}, "its window is a table, not linear"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "not gray or RGB"),
    ({"Rows": 60000, "Columns": 60000}, "too large"),
  ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, tags, said):
  with pytest.raises(UserError, match=said):
    decode.read(made(tmp_path / "x.dcm", **tags))
  content = made(tmp_path / "y.dcm").read_bytes()
  for length in (132, 300, len(content) - 50):
    with pytest.raises(UserError, match="cannot be decoded"):
      decode.decode(content[:length], "cut.dcm")


def test_what_comes_back_is_the_windowed_picture_with_its_window(tmp_path):
  (tmp_path / "photos" / "a").mkdir(parents=True)
  made(tmp_path / "photos" / "a" / "scan.dcm", WindowCenter=40, WindowWidth=401)
  (found,) = survey.survey(tmp_path / "photos", unlabelled=True).pictures
  delta = carry.shaped(
    np.random.default_rng(2).integers(-8, 9, (8, 8, 3)).astype(np.int8),
    np.ones((8, 8), np.float32),
  )
  out = tmp_path / "out"
  with key.Key.create(tmp_path / "out.key", {}) as secret:
    done = publish.publish(tmp_path / "photos", found, delta, out, secret)
    restore.restore(out, tmp_path / "back", secret)
  assert "DICOM window: centre 40, width 401" in done.notes[0]
  published = (out / done.path).read_bytes()
  assert not any(word in published for word in (b"Doe", b"window"))
  back = decode.read(next((tmp_path / "back").rglob("scan.png")))
  assert np.array_equal(back.channels[..., 0], windowed(-160.5, 239.5))
  exif = Image.Exif()
  exif.load(back.exif)
  assert exif[0x010E] == "DICOM window: centre 40, width 401"
  assert not np.array_equal(decode.decode(published, "p").channels, back.channels)


def test_pictures_without_a_window_share_a_note(tmp_path):
  first, second = (
    decode.read(made(tmp_path / f"{number}.dcm", VALUES[number:])).notes for number in (0, 9)
  )
  assert first == second
  assert first[0].startswith("DICOM without a window, so by its range; what comes back is gray")


def bundled(name):
  """Returns a file that is part of pydicom's wheel; others would be downloaded."""
  path = pydicom.data.get_testdata_file(name, download=False)
  return path or pytest.skip(f"this pydicom has no {name}")


def test_run_length_encoding_needs_no_package(tmp_path):
  found = pydicom.dcmread(made(tmp_path / "plain.dcm", WindowCenter=40, WindowWidth=401))
  found.compress(pydicom.uid.RLELossless, encoding_plugin="pydicom")
  found.save_as(tmp_path / "rle.dcm")
  picture = decode.read(tmp_path / "rle.dcm")
  assert np.array_equal(picture.channels[..., 0], windowed(-160.5, 239.5))
  assert decode.read(bundled("SC_rgb_rle.dcm")).channels.shape == (100, 100, 3)


@pytest.mark.parametrize(
  ("name", "shape", "kind"),
  [
    ("MR_small_RLE.dcm", (64, 64, 1), np.uint16),
    ("MR_small_jp2klossless.dcm", (64, 64, 1), np.uint16),
    ("SC_rgb_jpeg_dcmtk.dcm", (100, 100, 3), np.uint8),
    ("MR_small_jpeg_ls_lossless.dcm", (64, 64, 1), np.uint16),
  ],
)
def test_compressed_files(name, shape, kind):
  if "jpeg_ls" in name:
    pytest.importorskip("jpeg_ls")
  picture = decode.read(bundled(name))
  assert (picture.channels.shape, picture.channels.dtype) == (shape, kind)
  if name.startswith("MR_small"):  # The same scan, compressed without loss.
    assert np.array_equal(picture.channels, decode.read(bundled("MR_small.dcm")).channels)


@pytest.mark.parametrize(
  ("name", "module", "package"),
  [
    ("JPEGLSNearLossless_08.dcm", "jpeg_ls", "pyjpegls"),
    ("SC_rgb_jpeg_gdcm.dcm", "gdcm", "python-gdcm"),
    ("JPGExtended.dcm", "libjpeg", "pylibjpeg pylibjpeg-libjpeg"),
  ],
)
def test_a_missing_decoder_is_named_with_the_command_that_installs_it(
  tmp_path, name, module, package
):
  if any(importlib.util.find_spec(other) for other in (module, "gdcm", "libjpeg")):
    pytest.skip("a decoder is installed")
  (tmp_path / "photos" / "a").mkdir(parents=True)
  shutil.copy(bundled(name), tmp_path / "photos" / "a" / "x.dcm")
  made(tmp_path / "photos" / "a" / "y.dcm")
  found = survey.survey(tmp_path / "photos")
  assert [picture.path for picture in found.pictures] == ["a/y.dcm"]
  (left,) = found.left_out
  assert left.path == "a/x.dcm"
  assert left.reason.startswith("is compressed as JPEG")
  assert left.reason.endswith(f"needs a package: run pip install {package}.")


@pytest.mark.parametrize("name", ["MR_small_padded.dcm", "SC_rgb_jpeg.dcm"])
def test_warnings_about_a_file_are_not_printed(name, recwarn, caplog):
  assert decode.read(bundled(name)).channels.size
  with open(bundled(name), "rb") as file:
    assert dicom.pixel_count(file)
  assert [str(warning.message) for warning in recwarn] == []
  assert caplog.text == ""


@pytest.mark.filterwarnings("ignore")  # of pydicom, about files that are odd on purpose
def test_every_file_of_pydicom_is_read_or_refused_in_one_line():
  folder = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
  paths = sorted(folder.glob("*.dcm"))
  assert len(paths) > 20
  refused = {}
  for path in paths:
    try:
      assert decode.read(path, path.name).channels.size
    except UserError as error:
      refused[path.name] = str(error)
  assert 0 < len(refused) < 0.7 * len(paths)
  for name, said in refused.items():
    assert said.startswith(f"{name} ")
    assert "\n" not in said


def test_a_dicom_file_without_pixels_is_one_sentence():
  with pytest.raises(UserError, match="it holds no pixels"):
    decode.read(bundled("rtplan.dcm"))


def test_a_dicom_file_without_its_suffix_is_named(tmp_path):
  (tmp_path / "a").mkdir()
  for name in ("IM000001", "1.2.840.17", "DICOMDIR"):
    made(tmp_path / "a" / name)
  (tmp_path / "a" / "README").write_text("no picture")
  _, _, left_out = listing.listed(str(tmp_path), set(), follow=False)
  named, other = (
    "a DICOM file without its suffix: rename it to end in .dcm",
    "no picture (no suffix)",
  )
  assert {item.path: item.reason for item in left_out} == {
    "a/IM000001": named,
    "a/1.2.840.17": named,
    "a/DICOMDIR": other,
    "a/README": other,
  }


def test_pixels_are_counted_without_decoding(tmp_path):
  made(tmp_path / "x.dcm")
  with open(tmp_path / "x.dcm", "rb") as file:
    assert decode.dicom.pixel_count(file) == VALUES.size
  with io.BytesIO(b"no DICOM") as file:
    assert decode.dicom.pixel_count(file) == 0
  with io.BytesIO(bytes(128) + b"DICM" + bytes(40)) as file:
    assert decode.dicom.pixel_count(file) == 0


def test_a_picture_that_is_no_dicom_is_not_taken_for_one():
  file = io.BytesIO()
  Image.new("L", (40, 30)).save(file, "PNG")
  assert not decode.dicom.is_dicom(file)


def test_a_damaged_file_is_read_or_refused(tmp_path):
  content = made(tmp_path / "x.dcm", WindowCenter=40, WindowWidth=401).read_bytes()
  for seed in range(40):
    (tmp_path / "x.dcm").write_bytes(hostile.mutated(np.random.default_rng(seed), content))
    hostile.attempt(decode.read, tmp_path / "x.dcm", "x.dcm")
