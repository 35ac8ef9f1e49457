"""Separates the pixels of a picture file from its metadata, which are damaged more often.

PNG and JPEG are rewritten without metadata before they are decoded, so that damaged text, EXIF or
profiles do no harm. The decoders of the other formats return their metadata without parsing them.
"""

import dataclasses
import functools
import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageCms

PNG = b"\x89PNG\r\n\x1a\n"
_MOST = 2**24  # bytes of one profile or EXIF block
_LONGEST = 1000  # characters of an author or a copyright notice

ORIENTATION, ARTIST, COPYRIGHT = 0x0112, 0x013B, 0x8298
_EXIF_IFD, _GPS_IFD, _MAKER_NOTE = 0x8769, 0x8825, 0x927C
# Author as Windows states it, and the owner of the camera.
_AUTHORS = (ARTIST, COPYRIGHT, 0x9C9D, 0xA430)
# Values that describe a picture. Thumbnails and the layout of a TIFF file are not among them.
_DESCRIPTIVE = (
  *(0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, ARTIST, 0x4746, COPYRIGHT),
  *range(0x9C9B, 0x9CA0),
)


@dataclasses.dataclass(frozen=True)
class Metadata:
  """Holds what a file states about its pixels, unchecked.

  Attributes:
    exif: EXIF block.
    profile: ICC profile.
    xmp: XMP packet.
    iptc: IPTC block.
    text: Text of a PNG, by keyword.
    frames: Number of frames.
  """

  exif: bytes = b""
  profile: bytes = b""
  xmp: bytes = b""
  iptc: bytes = b""
  text: dict[str, str] = dataclasses.field(default_factory=dict)
  frames: int = 1


def split(content: bytes) -> tuple[bytes, Metadata]:
  """Returns a PNG or JPEG file without metadata, and the metadata; other files stay unchanged."""
  if content.startswith(PNG):
    return _split_png(content)
  if content.startswith(b"\xff\xd8"):
    return _split_jpeg(content)
  return content, Metadata()


def chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
  """Yields kind, body and whole bytes of each chunk of a PNG; the last may be cut off."""
  start = len(PNG)
  while start + 8 <= len(content):
    (length,) = struct.unpack_from(">I", content, start)
    end = start + 12 + length
    yield content[start + 4 : start + 8], content[start + 8 : end - 4], content[start:end]
    start = end


def _split_png(content: bytes) -> tuple[bytes, Metadata]:
  kept, found, text = [PNG], {}, {}
  for kind, body, whole in chunks(content):
    if kind in (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND"):
      kept.append(whole)
    elif kind == b"eXIf":
      found["exif"] = body
    elif kind == b"iCCP":
      found["profile"] = _inflated(body.partition(b"\0")[2][1:])
    elif kind == b"acTL" and len(body) >= 4:
      found["frames"] = struct.unpack(">I", body[:4])[0]
    elif kind == b"tEXt" and len(body) < _LONGEST:
      keyword, _, value = body.partition(b"\0")
      text[keyword.decode("latin-1").lower()] = value.decode("latin-1")
    elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0\0"):
      found["xmp"] = body
    elif kind == b"iTXt" and len(body) < _LONGEST and body.count(b"\0") >= 5:
      keyword, _, rest = body.partition(b"\0")
      if rest[:1] == b"\0":  # not compressed
        text[keyword.decode("latin-1").lower()] = rest.split(b"\0", 4)[-1].decode(errors="replace")
  return b"".join(kept), Metadata(**found, text=text)


def _split_jpeg(content: bytes) -> tuple[bytes, Metadata]:
  kept, found, profile, start = [content[:2]], {}, {}, 2
  while start + 4 <= len(content) and content[start] == 0xFF:
    marker = content[start + 1]
    if marker == 0xFF:  # a fill byte
      start += 1
      continue
    if marker == 0xDA or marker == 0x01 or 0xD0 <= marker <= 0xD9:
      break
    end = start + 2 + struct.unpack_from(">H", content, start + 2)[0]
    body = content[start + 4 : end]
    if marker == 0xE1 and body.startswith(b"Exif\0\0"):
      found.setdefault("exif", body[6:])
    elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
      found.setdefault("xmp", body)
    elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
      profile[body[12]] = body[14:]
    elif marker == 0xED:
      found["iptc"] = found.get("iptc", b"") + body
    elif not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
      kept.append(content[start:end])  # APP0 and APP14 say which colours the pixels are.
    start = max(end, start + 4)
  kept.append(content[start:])
  found["profile"] = b"".join(profile[number] for number in sorted(profile))
  return b"".join(kept), Metadata(**found)


def of_image(image: Image.Image, split_off: Metadata) -> Metadata:
  """Returns the metadata of an opened picture, with those that were split off before."""
  info = image.info
  known = {
    "exif": split_off.exif or _bytes(info.get("exif")),
    "profile": split_off.profile or _bytes(info.get("icc_profile")),
    "xmp": split_off.xmp or _bytes(info.get("xmp")),
    "frames": max(split_off.frames, _frames(image)),
  }
  return dataclasses.replace(split_off, **known)


def _frames(image: Image.Image) -> int:
  try:
    return getattr(image, "n_frames", 1)
  except Exception:  # Pillow looks for further frames, which may be damaged.
    return 1


def _bytes(value: Any) -> bytes:
  return value[:_MOST] if isinstance(value, bytes) else b""


def _inflated(body: bytes) -> bytes:
  inflater = zlib.decompressobj()
  try:
    content = inflater.decompress(body, _MOST)
  except zlib.error:
    return b""
  return content if inflater.eof else b""


def parsed(raw: bytes) -> Image.Exif:
  """Returns the values of an EXIF block; none if the block is damaged."""
  exif = Image.Exif()
  try:
    exif.load(raw)
  except Exception:  # A damaged block makes Pillow raise any exception.
    return Image.Exif()
  return exif


def orientation(exif: Image.Exif, xmp: bytes) -> int:
  """Returns the orientation that EXIF or XMP states, 1..8; 1 if it is unknown."""
  try:
    value = exif.get(ORIENTATION)
  except Exception:  # Values are parsed when they are read.
    value = None
  if value is None and (match := re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)):
    value = int(match[1])
  return value if isinstance(value, int) and 1 <= value <= 8 else 1


def cleaned(exif: Image.Exif, *, author: bool = True) -> bytes:
  """Returns EXIF of readable values, without orientation, thumbnail and maker note.

  Args:
    exif: The EXIF.
    author: Whether author, copyright and owner stay.
  """
  dropped = {_MAKER_NOTE} if author else {_MAKER_NOTE, *_AUTHORS}
  clean = Image.Exif()
  for tag in _DESCRIPTIVE:
    if tag not in dropped:
      _copy(exif, clean, tag)
  for ifd in (_EXIF_IFD, _GPS_IFD):
    try:
      source = {tag: value for tag, value in exif.get_ifd(ifd).items() if tag not in dropped}
    except Exception:  # as above
      continue
    values = Image.Exif()
    for tag in source:
      _copy(source, values, tag)
    if values:
      clean.get_ifd(ifd).update(dict(values))
  try:
    return clean.tobytes() if clean else b""
  except Exception:  # A value may only be wrong in its place.
    return b""


def _copy(source: Any, target: Image.Exif, tag: int) -> None:
  """Copies one value if EXIF can hold it."""
  single = Image.Exif()
  try:
    if (value := source.get(tag)) is None:
      return
    plain = not isinstance(value, str) or value.isascii()
    single[tag] = value if plain else value.encode("latin-1")
    single.tobytes()
    target[tag] = single[tag]
  except Exception:  # Whatever is wrong with a value, it is left out.
    return


def credit(exif: Image.Exif, found: Metadata) -> dict[str, str]:
  """Returns author and copyright notice, from the first place that states them."""
  places = (
    ("artist", ARTIST, "author", rb"dc:creator", b"\x1c\x02\x50"),
    ("copyright", COPYRIGHT, "copyright", rb"dc:rights", b"\x1c\x02\x74"),
  )
  result = {}
  for name, tag, keyword, element, record in places:
    value = _text(exif, tag) or found.text.get(keyword, "")
    pattern = b"<" + element + rb">.{0,300}?<rdf:li[^>]{0,99}>(.{1,1000}?)</rdf:li>"
    if not value and (match := re.search(pattern, found.xmp, re.DOTALL)):
      value = match[1].decode(errors="replace")
    if not value and (place := found.iptc.find(record)) >= 0:
      size = int.from_bytes(found.iptc[place + 3 : place + 5], "big")
      value = found.iptc[place + 5 : place + 5 + size].decode(errors="replace")
    value = "".join(c for c in value if c.isprintable())[:_LONGEST].strip()
    if value:
      result[name] = value
  return result


def _text(exif: Image.Exif, tag: int) -> str:
  try:
    value = exif.get(tag) or ""
    raw = value if isinstance(value, bytes) else str(value).encode("latin-1", "replace")
  except Exception:  # as above
    return ""
  try:
    return raw.rstrip(b"\0 ").decode()
  except UnicodeDecodeError:
    return raw.decode("latin-1")


def credited(credit: dict[str, str], known: bytes = b"") -> bytes:
  """Returns the EXIF block `known`, with author and copyright where it does not state them."""
  exif = parsed(known)
  tags = {tag: credit.get(name) for name, tag in (("artist", ARTIST), ("copyright", COPYRIGHT))}
  missing = {tag: value.encode() for tag, value in tags.items() if value and tag not in exif}
  if not missing:
    return known
  exif.update(missing)
  return exif.tobytes()


# Modes of Pillow that a profile of each colour space is for.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


@functools.lru_cache(64)
def profile_space(profile: bytes) -> str:
  """Returns the colour space of an ICC profile: RGB, GRAY, CMYK, ...; empty if it is damaged.

  A profile that lacks a part counts as damaged: it can be opened, but not used.
  """
  try:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    if mode := _MODES.get(space):
      ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    return space
  except Exception:  # LittleCMS refuses damaged profiles in several ways.
    return ""


@functools.lru_cache(64)
def is_srgb(profile: bytes) -> bool:
  """Returns whether an ICC profile calls itself sRGB."""
  try:
    description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
  except Exception:  # as above
    return False
  return "srgb" in description.lower()
