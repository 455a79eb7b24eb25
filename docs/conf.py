"""Sphinx configuration: `sphinx-build -M html docs docs/_build -W`, and `-M doctest` for the docstrings' examples.

The pages are plain Markdown, which GitHub shows as well: what is more than that on the site is added here.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref
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
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "images"]
default_role = "code"
highlight_language = "text"
smartquotes = False  # they turn --option into a dash

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_html_meta = {
    "description": "Image quality assessment (IQA) for AI-generated images in PyTorch: quality scores, quality maps, "
    "benchmarks of generators, and a metric of your own from fifty ratings."
}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 80  # longer ones have a line for each argument

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_render_markdown_format = "myst"
os.environ["MATPLOTLIBRC"] = str(Path(__file__).parent)  # plots of notebooks are right in light and dark

doctest_default_flags = doctest.ELLIPSIS  # errors are compared word for word
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"aigciqa {release}"
html_logo = html_favicon = "figures/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_math_renderer = "mathml"
html_theme_options: dict[str, Any] = {}
if "GITHUB_REPOSITORY" in os.environ:  # the workflow that publishes the site knows where its sources are
    html_theme_options["source_repository"] = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/".format(**os.environ)
    html_theme_options |= {"source_branch": "main", "source_directory": "docs/"}

#: Links of the pages to what lies outside `docs`, and the same within the site.
WITHIN = {
    r"\]\(\.\./CONTRIBUTING\.md": "](contributing.md",
    r"\]\(\.\./CHANGELOG\.md": "](changelog.md",
    r"\]\(\.\./aigciqa/checkpoints/embedded/([\w-]+)/README\.md": r"](cards/\1.md",
    r"\[([^]]+)\]\(\.\./examples/quickstart\.ipynb\)": r"{doc}`\1 <notebook>`",
}


def _link_within_the_site(_app: Sphinx, _page: str, source: list[str]) -> None:
    for link, other in WITHIN.items():
        source[0] = re.sub(link, other, source[0])


def _link_names(_app: Sphinx, tree: nodes.document) -> None:
    """A name in code, such as `aigciqa.create_metric`, leads to its place in the reference."""
    for name in list(tree.findall(nodes.literal)):
        if re.fullmatch(r"aigciqa(\.\w+)+", name.astext()) and not isinstance(
            name.parent, (nodes.reference, nodes.title)
        ):
            link = pending_xref("", refdomain="py", reftype="obj", reftarget=name.astext(), refexplicit=True)
            name.replace_self(link)
            link += name


def _draw_diagrams_inline(app: Sphinx, tree: nodes.document) -> None:
    """Diagrams become part of the page, and so follow its switch between light and dark."""
    for image in list(tree.findall(nodes.image)):
        if image["uri"].endswith(".svg"):
            drawn = Path(app.srcdir, image["uri"]).read_text(encoding="utf-8")
            image.replace_self(nodes.raw("", f'<div class="diagram">{drawn}</div>', format="html"))


def _inline_math(translator: Any, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display_math(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


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
    """Formulas as MathML, which browsers draw themselves: nothing is fetched, so that pages work from disk."""
    app.connect("source-read", _link_within_the_site)
    app.connect("doctree-read", _link_names)
    app.connect("doctree-read", _draw_diagrams_inline)
    app.connect("build-finished", _make_report)
    app.add_html_math_renderer("mathml", (_inline_math, None), (_display_math, None))
