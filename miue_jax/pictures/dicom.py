"""Reads DICOM files: the first frame, gray values through the window that the file states.

Gray values become 16 bits: the stored values are rescaled by the modality's slope and intercept, 0
and 65535 are the ends of the window, and `MONOCHROME1` is inverted (DICOM PS3.3, C.11.2.1.2). The
window is written into the EXIF description, which the key keeps and restored pictures have. Nothing
else of the file is taken: no name, date or identifier of a patient.
"""

import importlib.util
import itertools
import logging
import math
import warnings
from typing import IO, Any

import numpy as np
from PIL import Image

SUFFIX = ".dcm"
FORMAT = "DICOM"  # as Pillow names formats
_DESCRIPTION = 0x010E  # tag of EXIF
_PREAMBLE, _MARK = 128, b"DICM"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")  # pydicom makes them RGB
_GRAYS = ("MONOCHROME1", "MONOCHROME2")
# Where enhanced files keep what others have at the top, for each frame or for all.
_FRAMES = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
_GROUPS = {
  "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
  "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
# Packages that pydicom decodes with, by transfer syntax. Without any it decodes uncompressed files
# and RLE, and with Pillow, JPEG of 8 bits and most JPEG 2000.
_JPEG = "1.2.840.10008.1.2.4."
_PACKAGES = {
  _JPEG + "51": "pylibjpeg pylibjpeg-libjpeg",
  _JPEG + "57": "python-gdcm",
  _JPEG + "70": "python-gdcm",
  _JPEG + "80": "pyjpegls",
  _JPEG + "81": "pyjpegls",
  _JPEG + "201": "pylibjpeg pylibjpeg-openjpeg",
  _JPEG + "202": "pylibjpeg pylibjpeg-openjpeg",
  _JPEG + "203": "pylibjpeg pylibjpeg-openjpeg",
}


class NoDecoderError(Exception):
  """Says which package decodes a file, in a phrase that follows the name of the file."""


def is_readable() -> bool:
  """Returns whether the optional pydicom is installed."""
  return importlib.util.find_spec("pydicom") is not None


def is_dicom(file: IO[bytes]) -> bool:
  """Returns whether an open file is DICOM, and leaves it at its beginning."""
  file.seek(0)
  head = file.read(_PREAMBLE + len(_MARK))
  file.seek(0)
  return head[_PREAMBLE:] == _MARK


def pixel_count(file: IO[bytes]) -> int:
  """Returns the number of pixels of a frame without decoding it; 0 if the file is not DICOM."""
  if not is_dicom(file) or not is_readable():
    return 0
  try:
    found = _read(file, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
    return int(found.Rows) * int(found.Columns)
  except Exception:  # pydicom raises any exception for a damaged file
    return 0


def opened(file: IO[bytes], most: int) -> Image.Image:
  """Returns the first frame, as 16 bits of gray or 8 bits of RGB.

  Its `info` holds the window as `exif`, and as `notes` phrases for people.

  Args:
    file: The open file.
    most: The largest number of pixels.

  Raises:
    Image.DecompressionBombError: There are more pixels.
    ImportError: pydicom is not installed.
    NoDecoderError: The file is compressed in a way that needs a package that is not installed.
    ValueError: The file holds anything but gray or RGB.
    Exception: The file is damaged; pydicom then raises errors of any type.
  """
  from pydicom import pixels  # optional

  found = _read(file)
  if "PixelData" not in found:
    raise ValueError("it holds no pixels")
  if int(found.Rows) * int(found.Columns) > most:
    raise Image.DecompressionBombError
  kind = found.PhotometricInterpretation
  if kind not in (*_COLOURS, *_GRAYS):
    raise ValueError(f"its pixels are {kind}, not gray or RGB")
  frames = int(found.get("NumberOfFrames") or 1)
  notes = [f"the first of {frames} frames"] if frames > 1 else []
  values = _decoded(found)
  _take_groups(found)
  if kind in _COLOURS:
    if values.dtype != np.uint8:
      raise ValueError("its colours have more than 8 bits")
    image = Image.fromarray(values)
  else:
    values = np.asarray(pixels.apply_modality_lut(values, found), np.float64)
    low, high, described, note = _window(found, values)
    shares = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    shares = 1 - shares if kind == "MONOCHROME1" else shares
    image = Image.fromarray(np.rint(65535 * shares).astype(np.uint16))
    exif = Image.Exif()
    exif[_DESCRIPTION] = described
    image.info["exif"] = exif.tobytes()
    notes.append(f"{note}; what comes back is gray of 16 bits within it")
  image.format, image.info["notes"] = FORMAT, notes
  return image


def _read(file: IO[bytes], **options: Any) -> Any:
  """Reads a file without warnings, which may repeat values of the file."""
  import pydicom  # optional

  logging.getLogger("pydicom").setLevel(logging.ERROR)
  # Several threads read, so that `catch_warnings` would let warnings of others pass.
  warnings.filterwarnings("ignore", module=r"pydicom|miue_jax\.pictures\.dicom")
  return pydicom.dcmread(file, **options)


def _decoded(found: Any) -> np.ndarray:
  """Returns the stored values of the first frame, `[H, W]` or `[H, W, 3]`."""
  from pydicom import pixels  # optional

  try:
    return pixels.pixel_array(found, index=0)
  except (NotImplementedError, RuntimeError) as error:
    syntax = found.file_meta.TransferSyntaxUID
    # Pillow opens JPEG of 12 bits, but does not decode it.
    missing = "missing dependencies" in str(error) or " does not support " in str(error)
    if missing and syntax in _PACKAGES:
      raise NoDecoderError(
        f"is compressed as {syntax.name}, which needs a package: run pip install "
        f"{_PACKAGES[syntax]}"
      ) from error
    reason = str(error).splitlines()[-1].strip()  # of the decoder that was tried last
    raise ValueError(reason) from error


def _take_groups(found: Any) -> None:
  """Copies window and scale of the first frame of an enhanced file to where others have them."""
  for frames, (name, words) in itertools.product(_FRAMES, _GROUPS.items()):
    item = _first(_first(found, frames), name)
    for word in words:
      if word in item and word not in found:
        setattr(found, word, item.get(word))


def _first(found: Any, name: str) -> Any:
  """Returns the first item of a sequence, or an empty dict if there is none."""
  return (found.get(name) or [{}])[0]


def _window(found: Any, values: np.ndarray) -> tuple[float, float, str, str]:
  """Returns the values that become black and white, a description, and its form for notes.

  Raises:
    ValueError: The window is not a straight line or not finite.
  """
  # A centre of 0 is one; a width of 0 is none.
  if found.get("WindowCenter") in (None, "", []) or not found.get("WindowWidth"):
    if found.get("VOILUTSequence"):
      raise ValueError("its window is a table, not linear")
    low, high, none = float(values.min()), float(values.max()), "DICOM without a window"
    # Ranges differ by file: a note with its range would be a line for every picture.
    return low, high, f"{none}: values {low:g} to {high:g}", f"{none}, so by its range"
  # There may be several windows; viewers show the first.
  centre, width = (
    float(np.ravel(np.asarray(found[name].value, np.float64))[0])
    for name in ("WindowCenter", "WindowWidth")
  )
  function = found.get("VOILUTFunction", "LINEAR")
  if function not in ("LINEAR", "LINEAR_EXACT") or not math.isfinite(centre + width):
    raise ValueError(f"its window ({centre:g}, {width:g}, {function}) is not linear")
  described = f"DICOM window: centre {centre:g}, width {width:g}"
  if function == "LINEAR":
    centre, width = centre - 0.5, width - 1
  return centre - width / 2, centre + width / 2, described, described
