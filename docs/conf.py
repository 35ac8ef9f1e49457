"""Configures the site; `python -m sphinx -W --keep-going -b html docs BUILD` builds it."""

import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]

import reference

import miue_jax

project = "miue_jax"
author = "The miue_jax authors"
version = release = miue_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["plots"]
html_theme = "furo"
html_title = f"miue_jax {release}"
html_copy_source = False
html_show_copyright = False
smartquotes = False  # would make one dash of the two of a flag

# Docstrings mark code by single backticks, and types are in the signatures.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 80

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # a test runs the notebooks, which are committed with their outputs


def setup(app):
  """Fills the generated parts of pages, and makes reStructuredText of docstrings."""
  app.connect("source-read", lambda app, page, text: text.append(reference.filled(text.pop())))
  app.connect("autodoc-process-docstring", _to_restructured_text)


def _to_restructured_text(app, kind, name, thing, options, lines):
  """Makes code of the indented formulas of modules, and takes `|x|` for an absolute value."""
  literal, result = False, []
  for line in lines:
    indented = line.startswith("  ") and not line.lstrip().startswith((">>>", "..."))
    if line and not indented:
      literal = False
    if kind == "module" and indented and not literal and not any(result[-1:]):
      literal = True
      result += ["::", ""]
    result.append(line if literal or ">>>" in line else line.replace("|", r"\|"))
  lines[:] = result
