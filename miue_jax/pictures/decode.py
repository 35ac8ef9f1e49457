"""Decodes picture files to their stored pixels, even if their metadata are damaged."""

import contextlib
import dataclasses
import functools
import io
import os
import warnings
from collections.abc import Generator
from typing import IO, Any, cast

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from miue_jax.machine import reading
from miue_jax.machine.room import Room, limit
from miue_jax.pictures import deep, dicom, metadata
from miue_jax.settings.errors import UserError, first_line

# Formats that are read. Pillow would also open formats that run programs, such as EPS.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF", "HEIF")
# Suffixes of these formats, lower case.
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_PPM = (".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = (".png", *_JPEG, ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", *_PPM)
# Suffixes that not every machine can read, and the extra of this package that helps.
EXTRA_SUFFIXES = {".avif": "heic", ".heic": "heic", ".heif": "heic", dicom.SUFFIX: "dicom"}
_EXTRA_FORMATS = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF"}
GRAY_MODES = ("1", "L", "I;16", "I;16B", "I;16L", "I;16N")

_LARGEST_FILE = 2**31  # bytes
_BYTES = 48  # of memory for each pixel that is decoded, changed and encoded
_RGB = ("RGB", "RGBA", "P", "PA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")

# The limit on pixels is checked below, with a sentence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclasses.dataclass(frozen=True)
class Picture:
  """Holds one picture, upright.

  Attributes:
    channels: Stored pixels, uint8 or uint16 `[H, W, C]`. C is 1 (gray), 2 (gray and alpha), 3 (RGB)
      or 4 (RGB and alpha). Values are those of the picture's colour profile.
    profile: ICC profile, or None for sRGB.
    exif: EXIF without orientation, thumbnail and maker note; empty if there is none.
    credit: `artist` and `copyright`, where the picture states them.
    notes: Phrases about what was changed by reading: "the first of 12 frames".
  """

  channels: np.ndarray
  profile: bytes | None = None
  exif: bytes = b""
  credit: dict[str, str] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  @property
  def colour(self) -> np.ndarray:
    """Returns a view of the pixels without alpha, `[H, W, 1 or 3]`."""
    return self.channels[..., : 1 if self.channels.shape[-1] < 3 else 3]

  @property
  def alpha(self) -> np.ndarray | None:
    """Returns a view of the alpha channel `[H, W]`; None if the picture has none."""
    return self.channels[..., -1] if self.channels.shape[-1] in (2, 4) else None


@dataclasses.dataclass(frozen=True)
class Header:
  """Describes a picture without its pixels.

  Attributes:
    height: Height in pixels, as stored.
    width: Width in pixels, as stored.
    gray: Whether its pixels are gray, perhaps with one transparent value.
  """

  height: int
  width: int
  gray: bool


@functools.cache
def readable_suffixes() -> tuple[str, ...]:
  """Returns the suffixes that can be read on this machine; some need more than Pillow."""
  with contextlib.suppress(ImportError):
    import pillow_heif  # optional

    pillow_heif.register_heif_opener()
  Image.init()
  extra = tuple(suffix for suffix, kind in _EXTRA_FORMATS.items() if kind in Image.OPEN)
  return SUFFIXES + extra + ((dicom.SUFFIX,) if dicom.is_readable() else ())


def known_suffixes() -> tuple[str, ...]:
  """Returns the suffixes of pictures, also of those that need a package that is not installed."""
  return (*readable_suffixes(), *EXTRA_SUFFIXES)


def load(path: str | os.PathLike) -> bytes:
  """Returns the content of a picture file; refuses pipes, devices and huge files.

  Raises:
    UserError: It is not a regular file, cannot be read or has more than 2 GiB.
  """
  return reading.read_bytes(path, _LARGEST_FILE)


def read(path: str | os.PathLike, name: str | None = None) -> Picture:
  """Reads a picture from a regular file.

  Args:
    path: The file.
    name: Name in error messages; None takes the path.

  Raises:
    UserError: The file is not a regular file, cannot be decoded or has too many pixels.
  """
  name = os.fspath(path) if name is None else name
  return decode(load(path), name)


def header(file: str | os.PathLike | IO[bytes], name: str | None = None) -> Header:
  """Reads the size and the kind of a picture; reads the whole file only if its metadata are bad.

  Args:
    file: Path of a regular file, or an open binary file.
    name: Name in error messages; None takes the path.

  Raises:
    UserError: The file is not a picture, or there are too many pixels.
  """
  path = file if isinstance(file, str | os.PathLike) else None
  name = str(file) if name is None else name
  with contextlib.ExitStack() as stack:
    stream = stack.enter_context(reading.opened(path)) if path is not None else cast(Any, file)
    try:
      with _opened(stream, name) as image:
        return Header(image.height, image.width, image.mode in GRAY_MODES)
    except UserError:
      stream.seek(0)
      with _opened(metadata.split(stream.read(_LARGEST_FILE))[0], name) as image:
        return Header(image.height, image.width, image.mode in GRAY_MODES)


_ROOM = Room(limit() / 2)


@contextlib.contextmanager
def room(path: str | os.PathLike) -> Generator[None]:
  """Waits until there is memory to work on a picture, and takes it during the block."""
  pixels = 0
  with contextlib.suppress(UserError):  # the code that reads the file reports the problem
    with reading.opened(path) as file:
      pixels = dicom.pixel_count(file)
    if not pixels:
      found = header(path)
      pixels = found.height * found.width
  with _ROOM.take(_BYTES * pixels):
    yield


def decode(content: bytes, name: str) -> Picture:
  """Decodes a picture from the bytes of its file.

  The first frame of an animation is read. Palettes become RGB; CMYK becomes sRGB, by its profile if
  it has one. The picture is turned upright as EXIF says.

  Args:
    content: The bytes of the file.
    name: Name in error messages.

  Raises:
    UserError: The picture cannot be decoded or has too many pixels.
  """
  bare, split_off = metadata.split(content)
  with _opened(bare, name) as image:
    found = metadata.of_image(image, split_off)
    exif = image.getexif() if image.format == "TIFF" else metadata.parsed(found.exif)
    notes = [f"the first of {found.frames} frames"] if found.frames > 1 else []
    notes += image.info["notes"] if image.format == dicom.FORMAT else ()
    profile, problem = _checked_profile(image, found.profile)
    if problem:
      notes.append(problem)
    if bare.startswith(metadata.PNG) and deep.is_deep_png(bare):
      channels = deep.decode_png(bare)
    elif image.format != "TIFF" or (channels := deep.decode_tiff(bare, image)) is None:
      if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        notes.append(f"{image.mode} converted to sRGB")
      channels = _channels(image, profile)
      if image.mode in ("CMYK", "LAB"):
        profile = None
    turned = metadata.orientation(exif, found.xmp)
    return Picture(
      np.ascontiguousarray(_upright(channels, turned)),
      profile,
      metadata.cleaned(exif) if exif else b"",
      metadata.credit(exif, found),
      tuple(notes),
    )


@contextlib.contextmanager
def _opened(source: bytes | IO[bytes], name: str) -> Generator[Image.Image]:
  """Opens a picture; every problem of the block becomes a UserError."""
  readable_suffixes()
  file = io.BytesIO(source) if isinstance(source, bytes) else source
  try:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 2**30)  # where Pillow stops, too
    known = [f for f in _FORMATS if f in Image.OPEN]
    found = dicom.opened(file, limit) if dicom.is_dicom(file) else Image.open(file, formats=known)
    with found as image:
      if image.height * image.width > limit:
        raise Image.DecompressionBombError
      yield image
  except UserError:
    raise
  except dicom.NoDecoderError as error:
    raise UserError(f"{name} {error}.") from error
  except (Image.DecompressionBombError, MemoryError) as error:
    raise UserError(f"{name} is too large to be decoded safely: shrink or remove it.") from error
  except Exception as error:  # A damaged file makes Pillow raise any exception.
    reason = first_line(error)
    if isinstance(error, UnidentifiedImageError):
      reason = "unknown format" if file.seek(0, io.SEEK_END) else "it is empty"
    raise UserError(f"{name} cannot be decoded ({reason}): repair or remove it.") from error


def _checked_profile(image: Image.Image, profile: bytes) -> tuple[bytes | None, str]:
  """Returns a profile that fits the picture, or None and what is wrong with it."""
  if not profile:
    return None, ""
  space = metadata.profile_space(profile)
  if not space:
    return None, "its damaged colour profile was dropped"
  expected = {"CMYK": "CMYK", "LAB": "Lab"}.get(image.mode, "RGB" if image.mode in _RGB else "GRAY")
  if space != expected:
    return None, f"its colour profile is for {space} and was dropped"
  return profile, ""


def _channels(image: Image.Image, profile: bytes | None) -> np.ndarray:
  """Returns the pixels of an opened picture, not yet turned."""
  mode = image.mode
  if mode in ("I", "F"):
    values = np.asarray(image)
    if mode == "F" or values.min() < 0 or values.max() > 65535:
      raise ValueError("its values are not in 0..65535; save it with 8 or 16 bits")
    return values.astype(np.uint16)[..., None]
  if mode.startswith("I;16"):
    return np.asarray(image).astype(np.uint16)[..., None]
  if mode == "CMYK" and profile:
    return np.asarray(_to_srgb(image, profile))
  if mode == "LAB":
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return np.asarray(_to_srgb(image, lab.tobytes()))
  if mode in ("1", "L", "LA", "La"):
    target = "LA" if image.has_transparency_data else "L"
  else:
    target = "RGBA" if image.has_transparency_data else "RGB"
  array = np.asarray(image if mode == target else image.convert(target))
  return array[..., None] if array.ndim == 2 else array


def _upright(channels: np.ndarray, orientation: int) -> np.ndarray:
  """Turns stored pixels for display, by the EXIF standard's table of orientations."""
  if orientation >= 5:
    channels = channels.transpose(1, 0, 2)
  if orientation in (3, 4, 7, 8):
    channels = channels[::-1]
  return channels[:, ::-1] if orientation in (2, 3, 6, 7) else channels


def eight_bits(channels: np.ndarray) -> np.ndarray:
  """Returns pixels as uint8; 65535 / 255 = 257 maps 0 to 0 and 65535 to 255."""
  if channels.dtype == np.uint8:
    return channels
  return ((channels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def as_image(channels: np.ndarray) -> Image.Image:
  """Returns pixels uint8 `[H, W, C]` as an image of Pillow: L, LA, RGB or RGBA."""
  return Image.fromarray(channels[..., 0] if channels.shape[-1] == 1 else channels)


def srgb(picture: Picture) -> np.ndarray:
  """Returns what networks see: uint8 sRGB `[H, W, 3]`, on white where it is transparent."""
  return np.asarray(flat(picture))


def flat(picture: Picture, *, gray: bool = False) -> Image.Image:
  """Returns what networks see as an image of Pillow, gray or RGB."""
  image = as_image(eight_bits(picture.channels))
  if picture.profile and not metadata.is_srgb(picture.profile):
    converted = _to_srgb(
      as_image(np.ascontiguousarray(eight_bits(picture.colour))), picture.profile
    )
    if picture.alpha is not None:
      converted.putalpha(image.getchannel("A"))
    image = converted
  if picture.alpha is not None:
    layer = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
  return image.convert("L" if gray else "RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
  source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
  target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
  result = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
  assert result is not None  # It would be None if the image were changed in place.
  return result


def squashed(picture: Picture, size: int) -> np.ndarray:
  """Returns the whole picture at the size of a network, uint8 sRGB `[size, size, 3]`, antialiased.

  Height and width shrink by different factors, so that no margin is cut off.
  """
  return np.asarray(flat(picture).resize((size, size), Image.Resampling.BICUBIC))
