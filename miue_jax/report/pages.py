"""Renders the templates: self-contained HTML pages, Markdown and LaTeX."""

import base64
import hashlib
import itertools
import re
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe

from miue_jax.report import tables


def render(template: str, view: str, values: Mapping[str, Any]) -> str:
  """Fills a template. HTML pages load nothing, and run no script but that of their own template.

  Args:
    template: Name of a file in `templates`, without its ending. It describes the text by macros.
    view: File that defines the macros: "html", "markdown" or "latex".
    values: Variables of the template.
  """
  numbers = itertools.count()

  def drawn(svg: str) -> markupsafe.Markup:
    # Ids are global in a page with several drawings.
    prefix = rf"\g<1>drawing-{next(numbers)}-"
    return markupsafe.Markup(re.sub(r'( id="|url\(#| href="#)', prefix, svg))

  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("miue_jax.report"),
    autoescape=view == "html",
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  tests: dict[str, Any] = {"strong": lambda cell: isinstance(cell, tables.Strong)}
  filters: dict[str, Any] = {
    "drawn": drawn,
    "joined": lambda text: type(text)(" ").join(text.split()),
    "escaped": tables.escape,
    "aligned": lambda table: tables.markdown(*table),
    "tex": tables.tex,
    "source_hash": _source_hash,
  }
  environment.tests |= tests
  environment.filters |= filters
  text = environment.get_template(f"{template}.jinja").render(values, view_name=f"{view}.jinja")
  return text if view == "html" else re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _source_hash(script: str) -> str:
  """Returns the hash by which a Content Security Policy allows an inline script."""
  return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
