"""Figures that pages of the docs draw while they are built: images, their scores and quality maps, as HTML."""

from __future__ import annotations

import base64
import functools
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from IPython import get_ipython
from IPython.display import HTML
from PIL import Image

import aigciqa
from aigciqa.images.colour_maps import overlay
from aigciqa.images.decode import load_image

IMAGES = Path(__file__).resolve().parents[1] / "examples/images"
SIDE = 256


def work_elsewhere() -> None:
    """Go on in a fresh folder where `examples` is the repository's, with the installed commands at hand.

    `%%bash` shows what a command prints in one piece, and a command that fails fails the page.
    """
    folder = Path(tempfile.mkdtemp())
    (folder / "examples").symlink_to(IMAGES.parent)
    os.chdir(folder)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    get_ipython().register_magic_function(_bash, "cell", "bash")


def strip(generated: Sequence[str], name: str, metric_name: str) -> HTML:
    """An image as several generators of the examples made it: each with its score, above its quality map.

    Args:
        generated: folders of `examples/images/generated`.
        name: of the image in each of them, without suffix.
        metric_name: embedded metric to score with; a full-reference one compares with `examples/images/prompts`.
    """
    metric = _metric(metric_name)
    reference = [str(IMAGES / f"prompts/{name}.jpg")] if metric.requires_reference else []
    columns = []
    for folder in generated:
        path = str(IMAGES / f"generated/{folder}/{name}.jpg")
        score = metric(path, *reference).item()
        heat = metric.quality_map(path, *reference)[0].numpy()
        image = load_image(path)
        colours = overlay(image, heat, metric.config.preprocess, *metric.score_range)
        columns.append(
            '<figure class="scored">'
            f"{_image(image, f'{folder} version of the image {name}')}"
            f"{_image(colours, f'quality map of the {folder} version')}"
            f"<figcaption>{escape(folder)}<br><strong>{score:.2f}</strong></figcaption></figure>"
        )
    return HTML(f'<div class="strip">{"".join(columns)}</div>')


def _bash(_line: str, script: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout, end="")
    done.check_returncode()


@functools.cache
def _metric(name: str) -> aigciqa.Metric:
    return aigciqa.create_metric(name)


def _image(image: Image.Image, text: str) -> str:
    scale = SIDE / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    stream = io.BytesIO()
    image.convert("RGB").resize(size, method).save(stream, "WEBP", quality=85)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/webp;base64,{data}" width="{size[0]}" height="{size[1]}">'
