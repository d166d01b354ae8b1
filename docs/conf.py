"""How Sphinx builds the site; scripts/docs runs it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from zoho_keystore import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "zoho_keystore"
author = "The zoho_keystore authors"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"zoho_keystore {release}"
html_copy_source = False

# The anchors that links of pages name, as GitHub makes them.
myst_heading_anchors = 4

# A reference that leads nowhere fails the build. Types of other projects lead nowhere: the build needs no network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(\w+\.)*(Path|PathLike|SDKException|OAuthToken|Storage|ImportedRecord|AuthBase|Auth)"),
    ("py:class", r".*\[.*"),
]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

#: Pages that are documents beside the folder of the pages.
_DOCUMENTS = {"security": "SECURITY.md", "changes": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}


def _read(_app: Sphinx, page: str, source: list[str]) -> None:
    """Take a document for its page, and lead links that work in the repository to the pages of the site."""
    text = source[0]
    if page in _DOCUMENTS:
        text = (ROOT / _DOCUMENTS[page]).read_text(encoding="utf-8").replace("](docs/", "](")
    for name, file in _DOCUMENTS.items():
        text = text.replace(f"](../{file}", f"]({name}.md").replace(f"]({file}", f"]({name}.md")
    source[0] = text


def setup(app: Sphinx) -> None:
    """Register what is done to each page."""
    app.connect("source-read", _read)
