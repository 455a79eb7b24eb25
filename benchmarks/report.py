"""What a report costs: its share of the scoring time, the size of its file, and how soon a browser shows it.

    python benchmarks/report.py [--images 1000] [--threads 2] [--suffix jpg] [PART ...]

PART is one or more of nr-lite, nr-resnet50, fr-lite, ..., and paint; nr-lite, nr-resnet50 and paint by default.
Images are 512 x 512, JPEG of quality 92 or PNG, from four groups, with a prompt for every four; a hundred are
distinct. Scoring without and with a report are interleaved, a hundred images at a time. The share is what maps, rows
and page cost of what scoring costs alone. Weights are random where there are none; no time depends on them.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

import aigciqa
from aigciqa.report import Report
from aigciqa.tables.columns import columns_of, to_row

GROUPS = ("flux", "midjourney", "sd15", "sdxl")
DISTINCT = 100
CHUNK = 100
PAINTED = (1000, 10_000)
PAINTS = 5


def main() -> None:
    """Print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=("nr-lite", "nr-resnet50", "paint"), metavar="PART")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--suffix", choices=("jpg", "png"), default="jpg")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        most = max(PAINTED) if "paint" in options.parts else options.images
        items = draw(folder, most, options.suffix)
        for part in options.parts:
            if part == "paint":
                compare_paint(folder, items)
            else:
                compare_time(folder, items[: options.images], part)


def draw(folder: Path, images: int, suffix: str) -> list[aigciqa.Item]:
    """Textured images with noise of random strength; those that are not distinct are links."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:512, 0:512] / 40.0

    def save(path: Path, waves: np.ndarray, strength: float) -> None:
        noisy = 128 + waves + rng.normal(0, 1 + strength, (512, 512, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=92)

    items = []
    for number in range(images):
        group, scene = number % len(GROUPS), number // len(GROUPS)
        image, prompt = folder / f"{GROUPS[group]}-{scene}.{suffix}", folder / f"prompt-{scene}.{suffix}"
        if number < DISTINCT:
            if group == 0:
                parts = [rng.uniform(5, 40) * np.sin(rng.uniform(-3, 3) * x + rng.uniform(-3, 3) * y) for _ in range(6)]
                waves = np.sum(parts, axis=0)[..., None] * rng.uniform(0.5, 1, 3)
                save(prompt, waves, 0)
            save(image, waves, rng.uniform(0, 5 * (1 + group)))
        else:
            twin = scene % (DISTINCT // len(GROUPS))
            image.hardlink_to(folder / f"{GROUPS[group]}-{twin}.{suffix}")
            if group == 0:
                prompt.hardlink_to(folder / f"prompt-{twin}.{suffix}")
        items.append(aigciqa.Item(str(image), str(prompt), GROUPS[group]))
    return items


def compare_time(folder: Path, items: Sequence[aigciqa.Item], name: str) -> None:
    """The share of the scoring time that a report takes."""
    metric = aigciqa.create_metric(name, weights="default" if name.endswith("lite") else None)
    columns = columns_of(metric.dimensions)
    if not metric.requires_reference:  # as the command has it
        items = [aigciqa.Item(item.image, None, item.group) for item in items]
    list(aigciqa.score_files(items[:16], metric=metric, maps="coarse"))  # the first pass of a network is slower
    report = Report(folder / "report.html", columns)
    alone = together = 0.0
    for first in range(0, len(items), CHUNK):
        part = items[first : first + CHUNK]
        start = time.perf_counter()
        for record in aigciqa.score_files(part, metric=metric):
            to_row(record, columns)
        middle = time.perf_counter()
        for record in aigciqa.score_files(part, metric=metric, maps="coarse"):
            report.add(to_row(record, columns), record.quality_map)
        alone, together = alone + middle - start, together + time.perf_counter() - middle
    start = time.perf_counter()
    path = report.write()
    page = time.perf_counter() - start
    maps = together - alone
    print(
        f"{name}, {len(items)} images: scoring {alone:.1f} s, maps and rows {maps:+.2f} s, page {page:.2f} s; "
        f"share {(maps + page) / alone:.1%} (at most 15%), file {path.stat().st_size / 1e6:.1f} MB (at most 25)",
        flush=True,
    )


def compare_paint(folder: Path, items: Sequence[aigciqa.Item]) -> None:
    """Median milliseconds until Chromium paints a report, and until its gallery works."""
    rng = np.random.default_rng(0)
    columns = columns_of(["quality"])
    for count in PAINTED:
        report = Report(folder / f"report{count}.html", columns)
        for item in items[:count]:
            record = aigciqa.Record(item.image, item.reference, item.group, "nr-lite", {"quality": rng.normal(2, 1)})
            report.add(to_row(record, columns), rng.normal(2, 1, (4, 4)))
        path = report.write()
        painted, ready = zip(*(first_paint(path) for _ in range(PAINTS)), strict=True)
        print(
            f"{count} images: file {path.stat().st_size / 1e6:.1f} MB, first paint {statistics.median(painted):.0f} ms "
            f"(at most {1500 if count == PAINTED[0] else 4000}), gallery after {statistics.median(ready):.0f} ms",
            flush=True,
        )


def first_paint(path: Path) -> tuple[float, float]:
    """Milliseconds from the navigation to the first content, and to the first cards."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_selector(".card", state="attached")
        ready = page.evaluate("performance.now()")
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        found = float(page.evaluate(paint)), float(ready)
        browser.close()
    return found


if __name__ == "__main__":
    main()
