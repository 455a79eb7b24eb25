"""Sphinx configuration: `sphinx-build -M html docs docs/_build -W`, and `-M doctest` for the examples in the text."""

from __future__ import annotations

import doctest
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import aigciqa

project = "aigciqa"
author = "The aigciqa authors"
copyright = "the aigciqa authors; Apache-2.0"
release = version = aigciqa.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "images"]
default_role = "code"
smartquotes = False  # they turn --option into a dash

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_render_markdown_format = "myst"

doctest_default_flags = doctest.ELLIPSIS  # errors are compared word for word
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"aigciqa {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_math_renderer = "mathml"


def _inline_math(translator: Any, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display_math(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _show_defaults(_app: Sphinx, context: click.Context, _lines: list[str]) -> None:
    context.show_default = context.command.context_settings.get("show_default")


def _leave_out(_app: Sphinx, _context: click.Context, lines: list[str]) -> None:
    lines.clear()


def _leave_out_absent_defaults(_app: Sphinx, _context: click.Context, lines: list[str]) -> None:
    """Click marks an option without a default by an object, which sphinx-click takes for one."""
    lines[:] = [line for line in lines if "Sentinel.UNSET" not in line]


def _make_report(app: Sphinx, exception: Exception | None) -> None:
    """The report of the example images, beside the images: `example-report/index.html`."""
    if app.builder.name != "html" or exception is not None:
        return
    folder = Path(app.outdir, "example-report")
    for name in ("generated", "prompts"):
        shutil.copytree(Path(app.srcdir, "../examples/images", name), folder / name, dirs_exist_ok=True)
    score = [sys.executable, "-m", "aigciqa.cli", "score", "generated", "-r", "prompts", "--group-by", "parent"]
    subprocess.run([*score, "--report", "index.html", "-o", "scores.csv", "--quiet"], cwd=folder, check=True)


def setup(app: Sphinx) -> None:
    """Formulas as MathML, which browsers draw themselves: nothing is fetched, so that pages work from disk.

    Of commands, defaults are shown where `--help` shows them; what arguments are is in the text.
    """
    app.connect("sphinx-click-process-description", _show_defaults)
    app.connect("sphinx-click-process-options", _leave_out_absent_defaults)
    app.connect("sphinx-click-process-arguments", _leave_out)
    app.connect("build-finished", _make_report)
    app.add_html_math_renderer("mathml", (_inline_math, None), (_display_math, None))
