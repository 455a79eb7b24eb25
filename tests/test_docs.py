"""The docs say what is there: names, options, commands, figures, links. What takes a built site is marked `slow`.

`AIGCIQA_DOCS` names the folder of a site built before; without it the tests build one.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
from PIL import Image

import aigciqa
from aigciqa import errors, evaluation
from aigciqa.cli.main import COMMANDS, main
from docs.refresh import DIRECTIVE, resolved
from tests.conftest import draw
from tests.hub_server import serve
from tests.lookalikes import write_pku_i2iqa

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
REFERENCE = sorted((ROOT / "docs/reference").glob("*.rst"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
#: Between the command and Ray; not for others.
INTERNAL = (
    "aigciqa.errors.shortened",
    "aigciqa.integrations.checkpoint_scores.TrainingScores",
    "aigciqa.integrations.diffusers.PictureScorer",
    "aigciqa.integrations.diffusers.evaluating",
    "aigciqa.integrations.picture_folder.",
    "aigciqa.integrations.ray.Setup",
    "aigciqa.integrations.shards.",
)
FENCE = re.compile(r"^ *```(bash|python)(?: run)?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None, name
    return found


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(page, text) of the examples in a language."""
    for path in TEXTS:
        for found, text in FENCE.findall(path.read_text()):
            if found == language:
                yield path.name, text


def public_names() -> set[str]:
    """What the API page must have: the package's names, and those of its modules that people import from."""
    names = {f"aigciqa.{name}" for name in aigciqa.__all__}
    for module in (errors, evaluation):
        own = {name for name, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)}
        names |= {f"{module.__name__}.{name}" for name in own if not hasattr(aigciqa, name)}
    for path in (ROOT / "aigciqa/integrations").glob("[a-z]*.py"):
        tree = ast.parse(path.read_text())
        defined = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        names |= {f"aigciqa.integrations.{path.stem}.{name}" for name in defined if not name.startswith("_")}
    return {name for name in names if not name.startswith(INTERNAL)}


@functools.cache
def documented() -> set[str]:
    return {name for path in REFERENCE for name in DIRECTIVE.findall(path.read_text(encoding="utf-8"))}


def test_every_public_name_is_documented() -> None:
    assert public_names() - documented() == set()


def test_every_documented_class_has_an_example_that_the_doctests_run() -> None:
    objects = [resolved(name) for name in documented() if not name.startswith("aigciqa.integrations.")]
    classes = [each for each in objects if inspect.isclass(each) and not issubclass(each, Exception)]
    assert [each.__name__ for each in classes if ">>>" not in (each.__doc__ or "")] == []


@pytest.mark.parametrize("name", sorted(documented()))
def test_what_is_documented_exists(name: str) -> None:
    if name.startswith("aigciqa.integrations."):  # these import what the test environment need not have
        assert name in public_names()
    else:
        assert resolved(name) is not None


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help(name: str) -> None:
    for parameter in command(name).params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of the library's commands in shell examples."""
    for page, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((index for index, word in enumerate(words) if word in ("|", "&&", ";")), len(words))
                part, words = words[:end], words[end + 1 :]
                while part and "=" in part[0]:
                    part = part[1:]
                if part and Path(part[0]).name == "aigciqa":
                    yield page, part[1:]


def test_every_command_line_in_the_docs_is_one() -> None:
    count = 0
    for page, (name, *words) in command_lines():
        if name == "--version":
            continue
        found = command(name)
        context = click.Context(found, info_name=name)
        try:
            given, _, order = found.make_parser(context).parse_args(list(words))
            for parameter in found.params:
                value = given.get(parameter.name)
                if isinstance(parameter.type, click.Choice) and value is not None:
                    for each in value if parameter.multiple else [value]:
                        parameter.type.convert(each, parameter, context)
                asks = any(each.is_eager for each in order)
                assert value is not None or not parameter.required or asks, f"{parameter.name} is missing"
        except (click.UsageError, AssertionError) as error:
            pytest.fail(f"{page}: {name} {shlex.join(words)}: {error}")
        count += 1
    assert count > 20


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python_examples_name_what_is_there(page: str, text: str) -> None:
    """Imports, names below `aigciqa`, and the arguments that are passed to them."""
    known = {"aigciqa": aigciqa}
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aigciqa"):
            for alias in node.names:
                if not (node.module or "").startswith("aigciqa.integrations"):
                    known[alias.asname or alias.name] = resolved(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.fullmatch(r"aigciqa\.[\w.]+", ast.unparse(node)):
            assert resolved(ast.unparse(node)) is not None
        if isinstance(node, ast.Call):
            root, _, rest = ast.unparse(node.func).partition(".")
            if root in known and re.fullmatch(r"[\w.]*", rest):
                function = functools.reduce(getattr, filter(None, rest.split(".")), known[root])
                keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                inspect.signature(function).bind_partial(*[None] * len(node.args), **keywords)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        link = urlsplit(target)
        if not link.scheme and link.path:
            assert (path.parent / unquote(link.path)).exists(), target


def test_the_page_of_installing_has_every_extra() -> None:
    table = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([\w-]+) = \[", table, re.MULTILINE)) - {"docs", "test"}
    text = (ROOT / "docs/install.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == extras


def test_figures_of_the_embedded_metrics_are_those_of_their_cards() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    about_people, about_degradations = (
        [line.split("|")[1:-1] for line in part.splitlines() if re.search(r"^\|.*\[-?0\.\d+, -?0\.\d+\]", line)]
        for part in text.split("**How good they are about degradations and photographs.**")
    )
    taught, lite, native, full = (
        (ROOT / f"aigciqa/checkpoints/embedded/{name}/README.md").read_text()
        for name in ("nr-efficientnet-lite2", "nr-lite", "nr-lite-native", "fr-lite")
    )
    assert len(about_degradations) == 3
    for _, *figures, controls in about_degradations:
        for figure, card in zip(figures, (taught, lite, native, full), strict=True):
            assert f"| {figure.strip()} |" in card or not figure.strip()
        for control in re.findall(r"0\.\d+ \[[^]]+\]", controls):
            assert any(f"| {control} |" in card for card in (lite, native, full))
    assert len(about_people) == 4  # the last are nr-lite as it was, and a control
    for (_, *figures), card in zip(about_people, (taught, lite, lite, lite), strict=True):
        assert all(f"| {figure.strip()} |" in card for figure in figures if "[" in figure)
    for fact in ("148 photographs", "5,624"):
        assert fact in text
        assert all(fact in card for card in (taught, lite, native, full))


class Page(HTMLParser):
    """What a page of the site has and refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag in ("a", "area") and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical",):
            self.loaded.append(found["href"])
        elif "src" in found:
            self.loaded.append(found["src"])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    if "AIGCIQA_DOCS" in os.environ:
        return Path(os.environ["AIGCIQA_DOCS"])
    from filelock import FileLock

    folder = tmp_path_factory.getbasetemp().parent / "docs"  # of all workers
    with FileLock(f"{folder}.lock"):
        if not (folder / "html/index.html").exists():
            options = ["-M", "html", str(ROOT / "docs"), str(folder), "--fail-on-warning", "--quiet"]
            done = subprocess.run([sys.executable, "-m", "sphinx", *options], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_every_link_within_the_site_leads_somewhere(site: Path, pages: dict[str, Page]) -> None:
    dead = []
    for name, page in pages.items():
        for href in page.links:
            link = urlsplit(href)
            if link.scheme or link.netloc:
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(name), unquote(link.path))) if link.path else name
            anchor = unquote(link.fragment)
            there = (site / target).exists() and (not anchor or target not in pages or anchor in pages[target].anchors)
            if not there:
                dead.append(f"{name}: {href}")
    assert dead == []


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for source in page.loaded:
            link = urlsplit(source)
            assert link.scheme in ("", "data"), f"{name}: {source}"
            assert not link.netloc, f"{name}: {source}"
            assert link.scheme or (site / name).parent.joinpath(unquote(link.path)).exists(), f"{name}: {source}"


@pytest.mark.slow
def test_every_page_has_an_icon_and_pages_of_text_a_description(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert any(source.endswith("logo.svg") for source in page.loaded) or name.startswith("example-report"), name
    for path in PAGES:
        assert 'name="description"' in (site / f"{path.stem}.html").read_text(encoding="utf-8"), path


@pytest.mark.slow
def test_the_inventory_holds_every_public_name(site: Path) -> None:
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    found = {name for kind, entries in inventory.items() if kind.startswith("py:") for name in entries}
    assert (public_names() | documented()) - found == set()


@pytest.mark.slow
def test_the_whole_way_from_a_database_to_a_published_checkpoint(tmp_path: Path) -> None:
    """What the page says, as it says it, on a small database, a small network, and a Hub on loopback."""
    write_pku_i2iqa(tmp_path / "data/PKU-I2IQA")
    for folder, name in (("outputs", "one.png"), ("prompts", "one.png")):
        (tmp_path / folder).mkdir()
        Image.fromarray(draw(80, 90)).save(tmp_path / folder / name)
    text = (ROOT / "docs/training.md").read_text().partition("from download to published checkpoint")[2]
    script = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert script is not None
    small = (
        script[1]
        .replace("resnet50", "resnet18")
        .replace(" -o checkpoint", " -o checkpoint --start none --epochs 1 --cache cache")
    )
    with serve() as (address, hub):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        surroundings = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "PATH": path}
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", small], cwd=tmp_path, env=surroundings, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert hub.repos.keys() == {"org/fr-resnet18-quality"}
    for line in ("pku-i2iqa: 80 images", "SRCC", "outputs/one.png,prompts/one.png,,fr-resnet18,"):
        assert line in done.stdout
