"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import aigciqa

project = "aigciqa"
author = "The aigciqa authors"
release = version = aigciqa.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
default_role = "code"
html_theme = "furo"
html_title = f"aigciqa {release}"
