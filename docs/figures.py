"""Draws the figures of the README and the docs from the example images: `python -m docs.figures`."""

from __future__ import annotations

import functools
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageFilter

import aigciqa
from aigciqa.images.colour_maps import overlay
from docs import diagrams

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = Path(__file__).resolve().parent / "figures"
IMAGES = FOLDER.parents[1] / "examples/images"
SIDE = 256
#: Outputs for one image prompt, from the best to the worst.
STRIP = ("faithful", "jpeg10", "blurred")


def output_and_map(generator: str) -> Image.Image:
    """A generator's output for the image prompt `chelsea`, above itself under its map by `fr-lite`."""
    metric = aigciqa.create_metric("fr-lite")
    paths = str(IMAGES / f"generated/{generator}/chelsea.jpg"), str(IMAGES / "prompts/chelsea.jpg")
    image = Image.open(paths[0]).convert("RGB")
    quality = metric.quality_map(*paths)[0].numpy()
    coloured = overlay(image, quality, metric.config.preprocess, *metric.score_range)
    size = (SIDE, round(SIDE * image.height / image.width))
    both = Image.new("RGBA", (SIDE, 2 * size[1] + 8))
    both.paste(image.resize(size, Image.Resampling.LANCZOS), (0, 0))
    both.paste(coloured.resize(size, Image.Resampling.LANCZOS), (0, size[1] + 8))
    return both


def blurred_quarter() -> Image.Image:
    """The plot of the page on quality maps: a photograph whose upper left quarter was blurred."""
    import matplotlib

    image = Image.open(IMAGES / "prompts/coffee.jpg")
    corner = (0, 0, image.width // 2, image.height // 2)
    image.paste(image.crop(corner).filter(ImageFilter.GaussianBlur(4)), corner)
    with matplotlib.rc_context(fname=FOLDER.parent / "matplotlibrc"):
        stream = io.BytesIO()
        aigciqa.plot_quality_map(image, "nr-lite").figure.savefig(stream, dpi=100, bbox_inches="tight")
    return Image.open(stream)


def report(browser: Browser, path: Path) -> Image.Image:
    """The top of a report."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("#status")
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot()))
    page.close()
    return picture


def drawn() -> Mapping[str, Callable[[], Image.Image | str]]:
    """How each file of the folder is drawn, but the report's picture, which needs a browser, and the logo."""
    strip = {f"{name}.webp": functools.partial(output_and_map, name) for name in STRIP}
    plots = {"blurred-quarter.webp": blurred_quarter}
    models = {f"{each.__name__}.svg": each for each in (diagrams.no_reference, diagrams.full_reference, diagrams.lite)}
    return {**strip, **plots, **models}


def save(picture: Image.Image | str, path: Path, quality: int = 80) -> None:
    if isinstance(picture, str):
        path.write_text(picture, encoding="utf-8")
    else:
        picture.save(path, quality=quality, method=6)


def main() -> None:
    from playwright.sync_api import sync_playwright

    for name, draw in drawn().items():
        save(draw(), FOLDER / name)
    score = [sys.executable, "-m", "aigciqa.cli", "score", "generated", "-r", "prompts", "--group-by", "parent"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder, "report.html")
        options = ["--report", str(path), "--quiet", "-o", f"{folder}/scores.csv"]
        subprocess.run([*score, *options], cwd=IMAGES, check=True)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        save(report(browser, path), FOLDER / "report.webp", quality=38)


if __name__ == "__main__":
    main()
