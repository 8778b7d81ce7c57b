"""The site of the docs: ``make docs`` builds it with Sphinx from the Markdown pages of this folder."""

from __future__ import annotations

import diffstyle

project = "DiffStyle"
copyright = "the DiffStyle authors"
release = version = diffstyle.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"DiffStyle {version}"
html_theme_options = {"navigation_with_keys": True}

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Pages also link to files of the source tree, as they are read there (a test follows every link); tables that commands
# write begin at a deeper heading.
suppress_warnings = ["myst.xref_missing", "myst.header"]

autodoc_typehints = "description"
autodoc_member_order = "bysource"
