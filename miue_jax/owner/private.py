"""Keeps what must never be published, in the folder `OUT.private` next to `OUT`."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Generator, Iterable
from typing import Annotated, Any, NotRequired

import numpy as np
import pydantic
from typing_extensions import TypedDict

from miue_jax.machine import archives, documents, files, reading
from miue_jax.machine.terminal import say
from miue_jax.owner import load
from miue_jax.pictures import decode, names, publish
from miue_jax.pictures.key import KEY_SUFFIX, Key, default_path, digest
from miue_jax.report.verdict import Verdict
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import Moderate


class Audit(TypedDict):
  """Declares a row of `audits.jsonl`: what an attack gave back; accuracies in percent."""

  date: str
  version: str
  attack: str
  published: Moderate
  interval: list[Moderate]
  originals: Moderate
  chance: Moderate
  share: Moderate
  pictures: int
  advice: NotRequired[str]


class Tried(TypedDict):
  """Holds what a victim of the proof learned; accuracies in percent."""

  victim: str
  published: Moderate
  originals: Moderate


class Judged(TypedDict):
  """Holds a verdict without its notes."""

  judgement: Annotated[str, pydantic.Field(min_length=1)]
  sentence: str


class Proved(Judged):
  """Declares the file `verdict.json`: the verdict, and that of the test alone if they differ."""

  notes: list[str]
  trials: list[Tried]
  proved: NotRequired[Judged]


class Noted(TypedDict):
  """Declares the file `page.json`."""

  photos: str
  left_out: list[str]
  key: str
  shareable: bool
  visibility: list[Annotated[list[str], pydantic.Field(min_length=2, max_length=2)]]
  measured: int


UNTOUCHED = "nothing"  # the attack that every audit tries first
_SUFFIX = ".private"
DIGEST = 32  # bytes of the digest of a picture's pixels
LOOKED_AT = 5  # files that tell whether a key belongs to their folder
_PROVE_AGAIN = "delete it, and `protect` tests again"


@dataclasses.dataclass(frozen=True)
class Private:
  """Names the paths in the private folder.

  Attributes:
    root: The folder.
  """

  root: pathlib.Path

  source = files.member("source.npz", "Weights of the source model.")
  checkpoints = files.member("checkpoints", "States of a generation.")
  rotations = files.member("rotations.npz", "Weights of the network that groups pictures.")
  centres = files.member("centres.npz", "Centres of the groups of pictures.")
  rounds = files.member("rounds", "Perturbations that are not published yet, one file a round.")
  rows = files.member("rows", "Folder with the images of an archive, as files, in one folder.")
  published = files.member("published", "Published images of an archive, as files.")
  left_out = files.member("left_out.txt", "What the last `protect` left out and why, a line each.")
  proof = files.member("proof", "Rows and states of victims.")
  verifying = files.member("verify", "Rows and states of an interrupted `verify`.")
  verdict = files.member("verdict.json", "The latest verdict.")
  audits = files.member("audits.jsonl", "One JSON row for each attack of each audit.")
  noted = files.member("page.json", "What the page says besides the verdict and the audits.")
  page = files.member("page", "The page about the protection.")


@contextlib.contextmanager
def opened(out: str | os.PathLike) -> Generator[Private]:
  """Makes or opens the private folder of `out`, readable by its owner only, and locks it.

  Raises:
    UserError: The folder cannot be written, or another command works on it.
  """
  from miue_jax.machine.locks import Locks  # it imports jax, which restoring does not need

  root = path_of(out)
  files.make_private(root)
  with Locks(root).hold("command", wait=False) as held:
    if not held:
      raise UserError(f"Another command works on {out}: wait until it has ended.")
    yield Private(root)


def key_of(out: pathlib.Path, key: pathlib.Path | None) -> pathlib.Path:
  """Returns the path of the key: `key`, or the one next to `out` if it is None.

  Raises:
    UserError: There is no key.
  """
  path = key or default_path(out)
  if not files.exists(path):
    if not files.exists(out):
      raise UserError(f"There is no key at {path}, and there is no folder {out}: correct the path.")
    raise UserError(f"There is no key at {path}: give the key of these pictures with --key.")
  return path


def check_key(secret: Key, out: str | os.PathLike) -> None:
  """Checks that a key belongs to a published folder, by the pixels of its files.

  Raises:
    UserError: The folder holds pictures, and the key knows none of them.
  """
  place = files_of(out)
  there = [entry for entry in secret.entries if files.is_file(place / entry.published)]
  for entry in (*load.some(there, LOOKED_AT), *there):  # a few suffice, unless all were altered
    with contextlib.suppress(UserError):  # whoever needs the file will say what is wrong with it
      if digest(decode.read(place / entry.published).channels) == entry.digest:
        return
  strangers = not there and files.is_folder(place) and publish.all_published(place)
  if secret.entries and (there or strangers):
    raise UserError(
      f"The key {secret.path} does not belong to {out}, or every file there was altered: give the "
      "key that was made with it, or put back the published files."
    )


def path_of(out: str | os.PathLike) -> pathlib.Path:
  """Returns the private folder of a published folder."""
  return names.next_to(out, _SUFFIX)


def files_of(out: str | os.PathLike) -> pathlib.Path:
  """Returns the folder of the published files: `out`, or where those of an archive are."""
  published = Private(path_of(out)).published
  return published if files.is_folder(published) else pathlib.Path(out)


def published_in(folder: pathlib.Path, *, deep: bool) -> list[pathlib.Path]:
  """Returns the published folders in a folder: a private folder or a key is next to them.

  Args:
    folder: The folder.
    deep: Whether to look into its folders as well, without links and hidden folders.

  Raises:
    UserError: A folder cannot be listed.
  """
  listed = [entry for entry in reading.entries(folder) if not entry.link]
  keys = {entry.name for entry in listed if entry.kind == "file"}
  names = {entry.name for entry in listed if entry.kind == "folder"}
  names = {name for name in names if not name.startswith(".")}
  outs = {name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)}
  outs |= {name for name in names if name + KEY_SUFFIX in keys}
  found = [folder / name for name in sorted(outs)]
  if deep:
    for name in sorted(names - outs - {out + _SUFFIX for out in outs}):
      found += published_in(folder / name, deep=True)
  return found


def by_audit(rows: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
  """Returns the rows of each audit, the latest last."""
  audits: list[list[dict[str, Any]]] = []
  for row in rows:
    if not audits or row["attack"] == UNTOUCHED:
      audits.append([])
    audits[-1].append(row)
  return audits


def verdict_of(store: Private) -> Verdict | None:
  """Returns the latest verdict, of `protect` or `verify`, or None.

  Raises:
    UserError: The file is damaged.
  """
  if not files.exists(store.verdict):
    return None
  content = documents.read_json(store.verdict, _PROVE_AGAIN, Proved)
  return Verdict(content["judgement"], content["sentence"], tuple(content["notes"]))


def rejudge(store: Private, judge: Callable[[Verdict], Verdict]) -> Verdict:
  """Stores what `judge` makes of the verdict of the latest test, and returns it.

  Raises:
    UserError: The file is missing, is damaged or cannot be written.
  """
  content = documents.read_json(store.verdict, _PROVE_AGAIN, Proved)
  proved = content.get("proved", content)
  test = Verdict(proved["judgement"], proved["sentence"], tuple(content["notes"]))
  found = judge(test)
  content["proved"] = {"judgement": test.judgement, "sentence": test.sentence}
  files.write_json(store.verdict, content | dataclasses.asdict(found))
  return found


def trials_of(store: Private) -> list[dict[str, Any]]:
  """Returns a row, as `Tried` declares it, for every victim of the latest verdict.

  Raises:
    UserError: The file is missing or damaged.
  """
  return documents.read_json(store.verdict, _PROVE_AGAIN, Proved)["trials"]


def noted_in(store: Private) -> dict[str, Any]:
  """Returns what the page says besides the verdict and the audits, as `Noted` declares it.

  Raises:
    UserError: The file is missing or damaged.
  """
  return documents.read_json(store.noted, "delete it, and `protect` writes it again", Noted)


def said(verdict: Verdict) -> str:
  """Returns a verdict as text for a terminal."""
  return "\n  ".join([f"{verdict.headline}. {verdict.sentence}", *verdict.notes])


def repeat(out: pathlib.Path, key: pathlib.Path | None = None) -> None:
  """Prints the latest verdict about a published folder, if there is one.

  Args:
    out: The folder, or a part of it.
    key: Its key, next to which the folder may have been.
  """
  whole = key.with_name(key.name.removesuffix(KEY_SUFFIX) or key.name) if key else out
  for place in (out, whole):
    root = path_of(place)
    if files.is_folder(root):
      if verdict := verdict_of(Private(root)):
        say(f"The latest verdict about {place}: {said(verdict)}")
      return


def repeat_about(photos: pathlib.Path) -> None:
  """Prints the latest verdicts about folders next to `photos` that were published from it."""
  photos, found = photos.absolute(), []
  with contextlib.suppress(UserError):  # what is next to the pictures may be anything
    found = published_in(photos.parent, deep=False)
  for out in found:
    store = Private(path_of(out))
    with contextlib.suppress(UserError):
      sources = map(str, (photos, store.rows / photos.name))  # the second one of an archive
      if files.exists(store.noted) and noted_in(store)["photos"] in sources:
        repeat(out)


class Rounds:
  """Stores the perturbations of every round until they are published.

  A round is one command's new pictures. A perturbation is found by the pixels of its original.
  """

  def __init__(self, folder: pathlib.Path):
    """Reads the rounds that are there.

    Raises:
      UserError: A file is damaged.
    """
    self._folder, self._found = folder, {}
    listed = reading.entries(folder) if files.exists(folder) else []
    self._paths = [folder / entry.name for entry in listed if entry.name.endswith(".npz")]
    for path in self._paths:
      archive = archives.Archive(path, "delete it, and the same command makes it again")
      if "delta" in archive:
        digests, delta = archive["digests"], archive["delta"]
        if digests.shape != (len(delta), DIGEST) or delta.dtype != np.int8 or delta.ndim != 4:
          raise UserError(f"{path} is damaged: delete it, and the same command makes it again.")
        self._found |= zip(map(bytes, digests), delta, strict=True)

  def __len__(self) -> int:
    """Returns the number of rounds so far, published ones too."""
    return len(self._paths)

  def __contains__(self, digest: bytes) -> bool:
    """Returns whether a perturbation of this original is stored."""
    return digest in self._found

  def __getitem__(self, digest: bytes) -> np.ndarray:
    """Returns the perturbation int8 `[s, s, 3]` of an original."""
    return self._found[digest]

  def add(self, digests: list[bytes], delta: np.ndarray) -> None:
    """Stores a round: perturbations int8 `[n, s, s, 3]` and the digests of their originals."""
    rows = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST)
    self._write(self._folder / f"{len(self._paths):04}.npz", digests=rows, delta=delta)
    self._paths.append(self._folder / f"{len(self._paths):04}.npz")
    self._found |= zip(digests, delta, strict=True)

  def published(self) -> None:
    """Forgets the perturbations, which the key holds from now on."""
    if self._found:
      for path in self._paths:
        self._write(path, digests=archives.Archive(path)["digests"])
      self._found = {}

  def _write(self, path: pathlib.Path, **arrays: Any) -> None:
    files.make_folder(path.parent)
    with files.replacing(path) as file:
      np.savez(file, **arrays)
