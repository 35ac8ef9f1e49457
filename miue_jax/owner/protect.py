"""Protects a folder of pictures, or what is new in it, and proves the protection."""

import shutil
from collections.abc import Callable, Sequence

import numpy as np

from miue_jax.machine import files, progress
from miue_jax.machine.terminal import counted, grouped, say
from miue_jax.owner import (
  choose,
  clusters,
  estimate,
  generate,
  known,
  load,
  omitted,
  page,
  patterns,
  plan,
  private,
  proof,
  unprotected,
)
from miue_jax.owner.choose import Choice
from miue_jax.owner.known import Known
from miue_jax.owner.load import Loaded, named
from miue_jax.owner.private import Private, Rounds
from miue_jax.owner.request import Request, check_new, check_places
from miue_jax.pictures import carry, encode, publish
from miue_jax.pictures.key import Key
from miue_jax.pictures.survey import Found, Survey
from miue_jax.report.verdict import Verdict
from miue_jax.settings.errors import UserError

_LONG = 60.0  # seconds that additions take without a question
_COMPANY = 256  # published pictures at most that new ones are compared with

KEY_MATTERS = (
  "The key {key} is all that gives the originals back, together with the published files. Keep it "
  "and {private} private, and make a copy: without the key the published files cannot be undone."
)
_TWICE = " Publish one version of each only, because anyone who has two can average them."


def protect(request: Request, ask: Callable[[str], None]) -> Verdict:
  """Protects what is not protected yet, and returns the verdict about all pictures.

  Args:
    request: The arguments of the command.
    ask: Called with a question before work that takes long; ends the program after a no.

  Raises:
    UserError: The request cannot be met, or a file cannot be read or written.
    KeyboardInterrupt: A signal came; the same command continues.
  """
  check_places(request)
  store = private.Private(private.path_of(request.out))
  if request.files != request.out and not request.photos.is_relative_to(store.rows):
    raise UserError(f"{request.out} is that of an archive: choose another folder.")
  if files.exists(request.key_path):
    with Key.open(request.key_path, request.passphrase, append=True) as secret:
      private.check_key(secret, request.out)
      groups = secret.settings.get("clusters", 0)
      found = plan.surveyed(request, bool(groups))
      say(found.describe())
      choice = Choice.restored(secret.settings.get("choice", {}))
      _check_same(request, choice, groups)
      estimate.start(choice, len(found.pictures))
      with private.opened(request.out) as store:
        loaded = _loaded(request, found, choice)
        return _continued(request, store, found, loaded, secret, choice, ask)
  check_new(request)
  found = plan.surveyed(request, bool(request.clusters))
  say(found.describe())
  choice, expected = plan.chosen(request, found, ask)
  loaded = _loaded(request, found, choice)
  places = {request.photos.absolute().parent, request.key_path.absolute().parent}
  known.tell_protected(loaded, sorted(places), request.passphrase, _TWICE)
  settings = {
    "choice": choice.stored(),
    "expected": expected.stored(len(found.pictures)),
    "classes": list(clusters.names(request.clusters) or found.class_names),
    "clusters": request.clusters,
    "photos": str(request.photos.absolute()),
  }
  with (
    private.opened(request.out) as store,
    Key.create(request.key_path, settings, request.passphrase) as secret,
  ):
    say(KEY_MATTERS.format(key=request.key_path, private=store.root))
    return _continued(request, store, found, loaded, secret, choice, ask)


def _check_same(request: Request, choice: Choice, groups: int) -> None:
  wanted = request.strength
  if wanted and abs(choose.STRENGTHS[wanted] - choice.method.epsilon) > 1e-9:
    raise UserError(
      f"{request.out} was protected with a strength other than {wanted}: leave --strength out, or "
      "choose another folder."
    )
  if request.seed not in (None, choice.seed):
    raise UserError(
      f"{request.out} was protected with a seed other than {request.seed}: leave --seed out, or "
      "choose another folder."
    )
  if request.recompressed and choice.compressible:
    raise UserError(
      f"{request.out} was protected without --recompressed: leave it out, or choose another folder."
    )
  if request.clusters not in (0, groups):
    raise UserError(
      f"{request.out} was protected with {groups or 'no'} groups: leave --clusters out, or choose "
      "another folder."
    )


def _loaded(request: Request, found: Survey, choice: Choice) -> Loaded:
  """Reads the pictures, and names those that cannot be read."""
  loaded = load.load(
    request.photos,
    found.pictures,
    choice.size,
    choice.seen,
    floor=choice.floor,
    strict=request.strict,
  )
  omitted.tell_failed(loaded)
  return loaded


def _continued(
  request: Request,
  store: Private,
  found: Survey,
  loaded: Loaded,
  secret: Key,
  choice: Choice,
  ask: Callable,
) -> Verdict:
  """Makes, publishes and proves what is missing."""
  if groups := secret.settings.get("clusters"):
    loaded = clusters.grouped(store, loaded, groups, choice.seed, published=bool(secret.entries))
  classes = tuple(secret.settings.get("classes", found.class_names))
  left_out = omitted.lines(found, loaded, classes, secret.entries)
  omitted.write(store, left_out)
  loaded = loaded.take([i for i, p in enumerate(loaded.pictures) if p.class_name in classes])
  if not loaded.pictures:
    raise UserError(
      f"No picture in {request.photos} can be read and has a known class: repair the files, or "
      "name the classes as before, by the same folders or --labels."
    )
  if secret.settings.get("photos") != (place := str(request.photos.absolute())):
    secret.update(secret.settings | {"photos": place})
  known.reclassify(loaded, secret, store.verdict)
  if request.files == request.out:  # the files of an archive are named by their content
    known.rename(loaded, secret)
  todo = _unpublished(request, found, loaded, secret)
  publish.clear_leftovers(request.files)
  rounds = Rounds(store.rounds)
  if len(todo):
    kept = known.of_missing(loaded, todo, secret, request.files)
    if len(kept) < len(todo):
      _ask_again(request, rounds, secret, choice, loaded, len(todo) - len(kept), ask)
      _perturb(request, store, rounds, secret, choice, loaded, todo, kept, classes)
    paths = {n: loaded.pictures[n].path for n in todo}
    if any(n not in kept or kept[n].entry.name != path for n, path in paths.items()):
      files.remove(store.verdict)  # it is not about the new pictures
    bare = _publish(request, rounds, kept, secret, loaded, todo)
    left_out += [f"{loaded.pictures[i].path}: no perturbation was found" for i in bare]
    loaded = loaded.take(np.setdiff1d(np.arange(len(loaded.pictures)), bare))
  rounds.published()
  originals = {picture.path for picture in loaded.pictures}
  bad = unprotected.tell(request.files, secret, originals)
  altered = {entry.name for entry in bad.altered}
  sound = [i for i, picture in enumerate(loaded.pictures) if picture.path not in altered]
  loaded = loaded.take(sound)
  shutil.rmtree(store.checkpoints, ignore_errors=True)
  if private.verdict_of(store) is None:
    # The order in which `verify` and `audit` find them, so that the same ones are held out.
    names = [(found.class_name, found.path) for found in loaded.pictures]
    loaded = loaded.take(np.array(sorted(range(len(names)), key=names.__getitem__)))
    seen = load.published(request.files, secret, loaded, choice.seen)
    labels = _labels(loaded, classes)
    proof.prove(choice, store, loaded.seen, seen, labels)
  verdict = private.rejudge(store, bad.judged)
  matters = KEY_MATTERS.format(key=request.key_path, private=store.root)
  entries = [entry for entry in secret.entries if entry.name in originals - altered]
  folders = page.Folders(request.photos, request.files, entries)
  page.note(store, folders, left_out, matters, request.shareable)
  say(f"The private page about it is {page.write(store, verdict, folders)}.")
  if request.shareable:
    say(f"The page that may be shared is {store.page / page.SHAREABLE}.")
  return verdict


def _ask_again(
  request: Request,
  rounds: Rounds,
  secret: Key,
  choice: Choice,
  loaded: Loaded,
  new: int,
  ask: Callable,
) -> None:
  """Says what additions take and asks, if that is more than a minute and they were not begun."""
  if not secret.entries or any(source in rounds for source in loaded.sources):
    return  # an interrupted protection continues
  total = len(loaded.pictures)
  company = 0 if choice.patterned else min(_COMPANY, total - new)
  values = secret.settings.get("expected", {})
  expected = estimate.of_additions(values, choice, new, company, total)
  if expected and expected.seconds > _LONG:
    pictures = counted(new, "picture")
    say(expected.describe(f"Adding {pictures} and testing all {total}"))
    if request.seconds is not None and expected.seconds > request.seconds:
      say("That is more than --time, which limits only the first protection.")
    ask(f"Add {pictures} to {request.out}?")


def _unpublished(request: Request, found: Survey, loaded: Loaded, secret: Key) -> np.ndarray:
  """Returns the numbers of the pictures to publish, and says what changed."""
  out = request.files

  def is_missing(picture: Found, source: bytes) -> bool:
    entry = secret.get(picture.path)
    return (
      entry is None
      or entry.source != source
      or not files.is_file(out / entry.published)
      # Nobody but this program puts the images of an archive there.
      or (out != request.out and publish.is_altered(entry, out))
    )

  missing = map(is_missing, loaded.pictures, loaded.sources)
  todo = np.flatnonzero(np.fromiter(missing, bool))
  done = len(loaded.pictures) - len(todo)
  if done:
    say(f"Published already, and left unchanged: {counted(done, 'picture')}; new: {len(todo)}.")
  pairs = [(loaded.pictures[number].path, loaded.sources[number]) for number in todo]
  if changed := [path for path, source in pairs if (e := secret.get(path)) and e.source != source]:
    say(
      f"Other pixels than when it was published: {counted(len(changed), 'picture')} "
      f"({named(changed)}). Published files of these names are replaced."
    )
  names = {entry.name for entry in secret.entries}
  if gone := sorted(names - {picture.path for picture in found.pictures}):
    say(
      f"No longer in {request.photos}: {counted(len(gone), 'picture')} ({named(gone)}). What was "
      f"published stays in {request.out} until you delete it."
    )
  if left := [entry.published for entry in secret.left if files.is_file(out / entry.published)]:
    say(
      f"No longer in {request.photos}, where another picture has the name: "
      f"{counted(len(left), 'picture')}, published as {named(left)}. This stays in {request.out} "
      "until you delete it."
    )
  return todo


def _labels(loaded: Loaded, classes: Sequence[str]) -> np.ndarray:
  number = {name: i for i, name in enumerate(classes)}
  return np.array([number[found.class_name] for found in loaded.pictures], np.int32)


def _perturb(
  request: Request,
  store: Private,
  rounds: Rounds,
  secret: Key,
  choice: Choice,
  loaded: Loaded,
  todo: np.ndarray,
  kept: dict[int, Known],
  classes: tuple[str, ...],
) -> None:
  """Makes the perturbations that are missing, and stores them as a round."""
  missing = np.array([i for i in todo if i not in kept and loaded.sources[i] not in rounds], int)
  if not len(missing):
    return
  labels = _labels(loaded, classes)
  new = loaded.small[missing], labels[missing]
  if choice.patterned:
    delta = patterns.perturbations(choice, new[1], len(classes))
  elif not secret.entries and not len(rounds):
    delta = generate.first(choice, store, *new, classes)
  else:
    others = np.setdiff1d(np.arange(len(labels)), todo)
    chosen = np.random.default_rng(len(rounds)).permutation(others)[:_COMPANY]
    published = (secret.get(loaded.pictures[number].path) for number in chosen)
    sound = [entry and not publish.is_altered(entry, request.files) for entry in published]
    chosen = chosen[np.array(sound, bool)]
    company = load.published(request.files, secret, loaded.take(chosen), choice.size)
    with_labels = company, labels[chosen]
    delta = generate.further(choice, store, len(rounds), new, with_labels, classes)
  rounds.add([loaded.sources[i] for i in missing], delta)


def _publish(
  request: Request,
  rounds: Rounds,
  kept: dict[int, Known],
  secret: Key,
  loaded: Loaded,
  todo: np.ndarray,
) -> list[int]:
  """Publishes pictures; returns the numbers of those for which no perturbation was found."""
  places = publish.free_places([loaded.pictures[number] for number in todo], secret)

  def work(item: tuple[int, Found]) -> publish.Published | None:
    number, found = item
    if same := kept.get(number):
      if same.delta is None:
        return publish.copy(same.entry, found, request.files, secret)
      kind, shaped = encode.kind_of(same.entry.published), same.delta
    else:
      weights = loaded.weights[number].astype(np.float32) / 255
      own = secret.get(found.path)  # of other pixels; its published file is replaced
      kind = encode.kind_of(own.published) if own else request.format
      shaped = carry.shaped(rounds[loaded.sources[number]], weights)
    return publish.publish(
      request.photos,
      found,
      shaped,
      request.files,
      secret,
      kind=kind,
      keep_metadata=request.keep_metadata,
      drop_author=request.drop_author,
    )

  notes: list[tuple[str, str]] = []
  bare, items = [], list(zip(todo.tolist(), places, strict=True))
  for (number, _), done in zip(items, progress.each_shown(work, items, "publishing"), strict=True):
    if done is None:  # the same command tries again
      bare.append(number)
      continue
    notes += [(note, done.path) for note in done.notes]
  for note, paths in sorted(grouped(notes).items()):
    say(f"{note}: {named(paths)}")
  if bare:
    pictures = counted(len(bare), "picture")
    paths = named(loaded.pictures[number].path for number in bare)
    say(f"NOT published, because no perturbation was found: {pictures} ({paths}).")
  return bare
