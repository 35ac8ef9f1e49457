"""Tests DICOM files that pydicom builds: window, inversion, frames, what comes back."""

import io

import hostile
import numpy as np
import pytest
from PIL import Image

from miue_jax.pictures import carry, decode, key, publish, restore, survey
from miue_jax.settings.errors import UserError

pydicom = pytest.importorskip("pydicom")

VALUES = np.random.default_rng(0).integers(0, 4096, (30, 40)).astype(np.uint16)


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
    ({}, int(VALUES.min()) - 1024, int(VALUES.max()) - 1024),
  ],
)
def test_gray_values_go_through_the_first_window(tmp_path, tags, low, high):
  picture = decode.read(made(tmp_path / "x.dcm", **tags))
  assert picture.channels.dtype == np.uint16
  assert np.array_equal(picture.channels[..., 0], windowed(low, high))
  assert decode.header(tmp_path / "x.dcm") == decode.Header(30, 40, True)


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
    colour_shift=True,
  )
  out = tmp_path / "out"
  with key.Key.create(tmp_path / "out.key", {}) as secret:
    done = publish.publish(tmp_path / "photos", found, delta, out, secret, publish.Options())
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


def test_a_picture_that_is_no_dicom_is_not_taken_for_one():
  file = io.BytesIO()
  Image.new("L", (40, 30)).save(file, "PNG")
  assert not decode.dicom.is_dicom(file)


def test_a_damaged_file_is_read_or_refused(tmp_path):
  content = made(tmp_path / "x.dcm", WindowCenter=40, WindowWidth=401).read_bytes()
  for seed in range(40):
    (tmp_path / "x.dcm").write_bytes(hostile.mutated(np.random.default_rng(seed), content))
    hostile.attempt(decode.read, tmp_path / "x.dcm", "x.dcm")
