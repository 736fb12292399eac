"""How Sphinx builds these pages: `make docs`. Every page reads well on a code host, too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pygments.lexers.sql import PostgresLexer

import slayq

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Slay Q in Python"
author = "the Slay Q in Python developers"
release = slayq.__version__
html_title = project

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["_static"]

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_block"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["slayq.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#8a1c4a", "color-brand-content": "#8a1c4a"},
    "dark_css_variables": {"color-brand-primary": "#ff8fb8", "color-brand-content": "#ff8fb8"},
}

# Docstrings have single backquotes round names, as Markdown has them.
default_role = "literal"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_type_aliases = {"Sendable": "Sendable"}
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# A reference to something of ours must lead somewhere. Others' documentation is not fetched while this is built.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!slayq\.).*"),
    # Type variables, and types that only annotations name.
    (r"py:class", r"slayq\.\w+\.(\w+T|Definition|Lines|SyncLines|ErrorRecord)"),
]


def setup(app: Sphinx) -> None:
    """SQL here is that of Postgres, with its dollar quotes."""
    app.add_lexer("sql", PostgresLexer)
    app.connect("source-read", _name_links)
    app.connect("autodoc-process-docstring", _escape_stars)


def _name_links(_app: Sphinx, _page: str, source: list[str]) -> None:
    """A link that a code host shows as `errors.md` has the page's title here."""
    source[0] = re.sub(r"\[[\w-]+\.md\]\(([\w-]+\.md(?:#[\w-]+)?)\)", r"[](\1)", source[0])


def _escape_stars(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Docstrings have stars in cron lines alone."""
    lines[:] = [line.replace(" *", " \\*") for line in lines]
