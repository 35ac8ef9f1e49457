"""Only the boundary touches files: no other place of the package opens, lists or parses one."""

import ast
import pathlib

import pytest

import miue_jax

PACKAGE = pathlib.Path(miue_jax.__file__).parent
BOUNDARY = {
  f"machine/{name}.py" for name in ("files", "leftovers", "reading", "archives", "documents")
}
# `Key.open` asks the boundary.
MODULES = {pathlib.PurePath(path).stem for path in BOUNDARY} | {"Key"}

# Attributes that open, list or parse files, whatever they belong to.
FORBIDDEN = {
  *("open", "fdopen", "open_memmap", "open_code"),
  *("read_text", "read_bytes", "iterdir", "glob", "rglob", "walk", "scandir", "listdir"),
  *("exists", "lexists", "is_file", "is_dir", "is_symlink", "isfile", "isdir", "islink"),
  *("stat", "lstat", "fromfile", "memmap", "genfromtxt", "loadtxt", "imread", "read_csv"),
  *("ZipFile", "is_zipfile", "TarFile", "NamedTemporaryFile", "TemporaryFile"),
}
# Functions that are forbidden for the module that they belong to.
OF_MODULE = {"np.load", "numpy.load", "json.load", "json.loads", "csv.reader", "csv.DictReader"}
MODULES_NOBODY_NEEDS = {"pickle", "shelve", "marshal", "tarfile", "dbm"}

# What remains, by file and expression, with the reason.
ALLOWED = {
  ("command_line.py", "root.glob"): "lists the recipes of the package for a message",
  ("command_line.py", "(root / 'configs').is_dir"): "the package's own folder",
  ("command_line.py", "os.path.isfile"): "a recipe is a program that the user runs",
  ("command_line.py", "place.is_file"): "the package's own recipes",
  (
    "report/comparison.py",
    "importlib.resources.files('miue_jax.report').joinpath('published.txt').read_text",
  ): "a file of the package",
  ("machine/apart.py", "json.loads"): "items of a fork of this program",
  ("machine/apart.py", "os.fdopen"): "makes streams of a pipe",
  ("machine/exits.py", "open"): "makes a stream of a descriptor",
  ("machine/exits.py", "os.walk"): "removes this program's temporary files",
  ("machine/processes.py", "json.loads"): "messages of this program's other processes",
  ("machine/processes.py", "tempfile.TemporaryFile"): "has no name that anybody could change",
  ("transforms/compression.py", "Image.open"): "a JPEG in memory that was written just before",
  ("pictures/decode.py", "Image.open"): "decodes a picture that the boundary opened",
  ("pictures/deep.py", "Image.open"): "decodes a picture in memory",
  ("pictures/survey.py", "csv.reader"): "labels of any number, which the boundary read",
  ("pictures/entries.py", "json.loads"): "a record of a key, whose fields are checked one by one",
  ("pictures/cipher.py", "json.loads"): "the first record of a key, checked in the same way",
  ("owner/pipelines.py", "Image.open"): "a JPEG in memory that was written just before",
  ("artefact/release.py", "open"): "writes a new file into a folder that is not visible yet",
  ("artefact/release.py", "zipfile.ZipFile"): "writes a new file into such a folder",
  ("artefact/release.py", "archive.open"): "writes a member of that file",
  ("experiment/table.py", "self.experiment.workdir.exists"): "asks the boundary on the lead",
  ("experiment/workdir.py", "self.exists"): "asks the boundary on the lead process",
}  # fmt: skip


def touches(source: str) -> list[str]:
  """Returns the expressions in a source text that touch files."""
  tree = ast.parse(source)
  # json.loads(json.dumps(x)) turns a value into plain ones; /dev/null is not a file.
  harmless = {
    id(node.func)
    for node in ast.walk(tree)
    if isinstance(node, ast.Call)
    and node.args
    and ast.unparse(node.args[0]).startswith(("json.dumps(", "os.devnull"))
  }
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Name) and node.id == "open":
      found.append("open")
    elif isinstance(node, ast.Attribute) and id(node) not in harmless:
      text = ast.unparse(node)
      owner = ast.unparse(node.value)
      if text in OF_MODULE or (node.attr in FORBIDDEN and owner not in MODULES):
        found.append(text)
    elif isinstance(node, ast.Import | ast.ImportFrom):
      names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
      names += [alias.name for alias in node.names]
      found += [name for name in names if name.partition(".")[0] in MODULES_NOBODY_NEEDS]
      if isinstance(node, ast.ImportFrom):  # a bare name would hide what it belongs to
        found += [
          f"{node.module}.{alias.name}"
          for alias in node.names
          if alias.name in FORBIDDEN or f"{node.module}.{alias.name}" in OF_MODULE
        ]
  return found


FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", [name for name in FILES if name not in BOUNDARY])
def test_no_other_file_of_the_package_touches_files(name):
  found = touches((PACKAGE / name).read_text(encoding="utf-8"))
  assert [text for text in found if (name, text) not in ALLOWED] == []


def test_every_exception_is_still_needed():
  for name, text in ALLOWED:
    assert text in touches((PACKAGE / name).read_text(encoding="utf-8")), (name, text)


@pytest.mark.parametrize(
  "source",
  [
    "open('x')",
    "f = open",
    "pathlib.Path('x').open()",
    "Path(x).read_text()",
    "json.load(file)",
    "json.loads(text)",
    "json.loads(texts[0])",
    "np.load(path)",
    "os.walk(path)",
    "map(os.path.isfile, paths)",
    "Image.open(x)",
    "zipfile.ZipFile(x)",
    "import tarfile",
    "from pickle import loads",
    "from json import loads",
    "from os import scandir",
    "(root / 'x').exists()",
  ],
)
def test_the_walker_sees(source):
  assert touches(source)


def test_the_walker_lets_the_boundary_pass():
  assert touches("files.exists(x); reading.opened(x); json.loads(json.dumps(x))") == []
