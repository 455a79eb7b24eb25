"""The pages of the docs: plain Markdown that says what is so, and figures that are what the code draws."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import aigciqa
from aigciqa.evaluation import published
from aigciqa.registry import SCORE_RANGES
from docs import figures, refresh

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+(?:\.\d+)?")
FIGURES = sorted(figures.FOLDER.iterdir())


def examples() -> list[Path]:
    """Pages whose examples run here; `test_extending.py` runs the one on a metric of one's own, and looks further."""
    pages = [page for page in sorted(DOCS.glob("*.md")) if page.stem != "extending"]
    return [page for page in pages if refresh.EXAMPLE.search(page.read_text(encoding="utf-8"))]


def assert_same(now: str, then: str) -> None:
    """The texts differ in nothing but the rounding of other machines."""
    assert NUMBER.sub("#", now) == NUMBER.sub("#", then)
    for new, old in zip(NUMBER.findall(now), NUMBER.findall(then), strict=True):
        a, b = (float(each.replace("−", "-")) for each in (new, old))
        assert math.isclose(a, b, rel_tol=0.02, abs_tol=0.01), f"{new} instead of {old}"


@pytest.mark.slow
@pytest.mark.parametrize("page", examples(), ids=lambda page: page.stem)
def test_examples_print_what_the_page_says(page: Path) -> None:
    assert_same(refresh.refreshed(page, {}), page.read_text(encoding="utf-8"))


def test_an_example_that_fails_fails_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in ("```python run\n1 / 0\n```\n", "```bash run\nfalse\n```\n", "```pycon\n>>> 1 + 1\n3\n```\n"):
        page.write_text(text)
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            refresh.refreshed(page, {})


def test_what_examples_print_replaces_what_stood_there(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python run\nx = 2\n```\n\n```python run\nprint('a')\nx + 1\n```\n\n```text\nold\n```\n\nEnd.\n")
    new = "```python run\nx = 2\n```\n\n```python run\nprint('a')\nx + 1\n```\n\n```text\na\n3\n```\n\nEnd.\n"
    assert refresh.refreshed(page, {}) == new


def test_the_page_of_commands_has_every_option() -> None:
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == refresh.commands()


@pytest.mark.slow  # it imports Ray and all the others
def test_the_page_of_the_api_has_every_name() -> None:
    assert (DOCS / "api.md").read_text(encoding="utf-8") == refresh.api()


def test_pages_that_others_link_to_are_plain_markdown() -> None:
    """GitHub shows them as they are: no directive, no role, no front matter."""
    seen, left = set(), [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    while left:
        path = left.pop()
        if path in seen:
            continue
        seen.add(path)
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^[`:]{3,}\{|\{\w+\}`|^\([\w-]+\)=$", text, re.MULTILINE), path
        assert not text.startswith("---") or "embedded" in str(path), path  # the Hub wants it of a card
        links = [urlsplit(link) for link in re.findall(r"\]\(([^)\s]+\.md[^)\s]*)\)", text)]
        left += [(path.parent / link.path).resolve() for link in links if not link.scheme]
    assert len(seen) > 25


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.name)
def test_figures_are_small(path: Path) -> None:
    assert path.stat().st_size < 50_000


@pytest.mark.slow
@pytest.mark.parametrize("name", figures.drawn())
def test_figures_are_what_the_code_draws(name: str) -> None:
    drawn, path = figures.drawn()[name](), figures.FOLDER / name
    if isinstance(drawn, str):
        assert path.read_text(encoding="utf-8") == drawn
        return
    stream = io.BytesIO()
    drawn.save(stream, "WEBP", quality=80)
    new, old = (np.asarray(Image.open(each).convert("RGBA"), float) for each in (stream, path))
    assert new.shape == old.shape
    assert np.abs(new - old).mean() < 3


def test_scores_under_figures_are_those_of_the_metric() -> None:
    metric = aigciqa.create_metric("fr-lite")
    folder = figures.IMAGES
    paths = [str(folder / f"generated/{name}/chelsea.jpg") for name in figures.STRIP]
    scores = metric(paths, [str(folder / "prompts/chelsea.jpg")] * len(paths))
    line = "| " + " | ".join(f"**{score:.2f}**" for score in scores.tolist()) + " |"
    for name in ("index", "quickstart"):
        assert line in (DOCS / f"{name}.md").read_text(encoding="utf-8")


def test_figures_of_the_paper_are_those_that_the_library_has() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    for backbone in ("resnet18", "resnet50", "vgg16", "vgg19", "inceptionv4"):
        for kind in ("nr", "fr"):
            found = [published("paper", kind, backbone, dimension) for dimension in SCORE_RANGES]
            row = " | ".join(f"{each.srcc:.3f}" for each in found if each is not None)
            assert f"| `{kind}-{backbone}` | {row} |" in text
