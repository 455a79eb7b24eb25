"""AIGCIQA2023: 2,400 images: four of each of 100 text prompts by each of six models."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aigciqa.databases.database import Database, DatabaseSpec
from aigciqa.databases.labels import Problems, open_root, read_labels
from aigciqa.databases.sample import SUMMED, made_from_text, with_names, with_overall
from aigciqa.tables.column_table import TableError
from aigciqa.utils.paths import counted, shown

IMAGES = "Image/allimg/"
LABELS = {
    "quality": "DATA/MOS/mosz1.mat",
    "authenticity": "DATA/MOS/mosz2.mat",
    "correspondence": "DATA/MOS/mosz3.mat",
}
KEY = "MOSz"
PROMPTS = "prompt.xlsx"
#: The authors' own list of prompts: no header; challenge, category, prompt.
AUTHORS_PROMPTS = "AIGCIQA2023_Prompts.xlsx"
#: Model and file name of each image, in the order of the labels; no header.
INDEX = "pic-index.xlsx"
#: Where the spreadsheets are looked for.
FOLDERS = ("", "DATA/", "DATA/MOS/")
#: The order of the labels, which the index confirms: by model, then prompt, then image.
GENERATORS = ("Controlnet", "DALLE", "Glide", "Lafite", "stable-diffusion", "Unidiffuser")
PER_PROMPT = 4
SPEC = DatabaseSpec(
    name="aigciqa2023",
    title="AIGCIQA2023",
    homepage="https://github.com/wangjiarui153/AIGCIQA2023",
    license="not stated",
    source="Wang et al. 2023, arXiv:2307.00211",
    layout={
        IMAGES: "the images (<number>.png)",
        **{where: f"{dimension}: a MATLAB file with the key {KEY}, n x 1" for dimension, where in LABELS.items()},
        PROMPTS: f"a spreadsheet with the column prompt, or the authors' {AUTHORS_PROMPTS}",
    },
    score_range={**dict.fromkeys(SUMMED, (0.0, 100.0)), "overall": (0.0, 300.0)},
    protocols=("prompt-disjoint", "k-fold", "paper"),
    published="shuffled",
)


class Origin(NamedTuple):
    """Where an image comes from: the model, and the number of its prompt, from 0; None where that is not known."""

    generator: str | None
    prompt: int | None


def load(root: Path) -> Database:
    """Read AIGCIQA2023."""
    problems = open_root(SPEC, root, (IMAGES, *LABELS.values()))
    images = _images(root, problems) if problems.has(IMAGES) else []
    scores = _scores(problems, images)
    origins = _origins(problems, len(images))
    prompts = _prompts(problems, origins)
    problems.raise_any()
    samples = (
        made_from_text(image, prompt, origin.generator, with_overall(dict(zip(scores, values, strict=True))))
        for image, prompt, origin, *values in zip(images, prompts, origins, *scores.values(), strict=True)
    )
    return Database(SPEC, root, with_names(samples, root), SPEC.score_range)


def _scores(problems: Problems, images: Sequence[Path]) -> dict[str, list[float]]:
    """Dimension -> labels in the order of the images; without those that can't be used, which are noted."""
    scores = {}
    for dimension, where in LABELS.items():
        with problems.noting(where):
            if problems.has(where):
                scores[dimension] = labels = _read_matrix(problems.root / where)
                if images and len(labels) != len(images):
                    raise TableError(f"{counted(labels, 'label')}, but {IMAGES} holds {counted(images, 'image')}")
    return scores


def _read_matrix(path: Path) -> list[float]:
    """The numbers of a MATLAB file's (n, 1) matrix, all finite."""
    import scipy.io

    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # scipy raises anything on broken data
        raise TableError(f"not a MATLAB file that can be read: {error}") from error
    if KEY not in content:
        held = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise TableError(f"expected the key {KEY!r}; it holds: {held}")
    values = content[KEY]
    if values.ndim != 2 or 1 not in values.shape or values.dtype.kind not in "fiu":
        raise TableError(f"expected {KEY} as n x 1 numbers; got {values.shape} of {values.dtype}")
    numbers = [float(value) for value in values.ravel()]
    wrong = [f"{KEY}({row}) is {value}" for row, value in enumerate(numbers, 1) if not math.isfinite(value)]
    if wrong:
        raise TableError(f"{counted(wrong, 'label')} without a number: {shown(wrong)}")
    return numbers


def _images(root: Path, problems: Problems) -> list[Path]:
    """The images, sorted by number. A gap would give every image after it another one's labels: it is noted."""
    paths = list((root / IMAGES).glob("*.png"))
    others = sorted(path.name for path in paths if not re.fullmatch(r"\d+", path.stem, re.ASCII))
    if others:
        problems.add(IMAGES, f"{counted(others, 'image')} not called by a number: {shown(others)}")
    numbered = sorted((int(path.stem), path) for path in paths if path.name not in others)
    numbers = [number for number, _ in numbered]
    if not numbers:
        problems.add(IMAGES, "no images (<number>.png)")
    expected = range(min([1, *numbers]), max(numbers, default=0) + 1)
    absent = [f"{number}.png" for number in sorted(set(expected) - set(numbers))]
    if absent:
        problems.add(IMAGES, f"{counted(absent, 'image')} missing: {shown(absent)}")
    if len(set(numbers)) < len(numbers):
        problems.add(IMAGES, "several images have the same number (as 1.png and 01.png have)")
    return [path for _, path in numbered]


def _origins(problems: Problems, count: int) -> list[Origin]:
    """Model and prompt of each image: from the authors' index where it is there, else from the published order."""
    where = _find(problems.root, INDEX)
    labels = read_labels(problems, where, header=False) if where else None
    if labels is None:
        return _published_order(count)
    if len(labels.table.columns) < 2:
        problems.add(labels.where, "expected two columns: model and file name")
        return _published_order(count)
    models, names = labels.texts("1"), labels.texts("2")
    numbers = [re.match(r"(\d+)-", name, re.ASCII) for name in names]
    wrong = [repr(name) for name, number in zip(names, numbers, strict=True) if number is None]
    if wrong:
        problems.add(labels.where, f"{counted(wrong, 'file name')} without a prompt's number: {shown(wrong)}")
    if count and len(names) != count:
        problems.add(labels.where, f"{counted(names, 'row')}, but {IMAGES} holds {count} images")
    return [Origin(model, int(number[1]) if number else None) for model, number in zip(models, numbers, strict=True)]


def _published_order(count: int) -> list[Origin]:
    prompts, rest = divmod(count, len(GENERATORS) * PER_PROMPT)
    if rest:
        return [Origin(None, None)] * count
    return [
        Origin(generator, prompt) for generator in GENERATORS for prompt in range(prompts) for _ in range(PER_PROMPT)
    ]


def _prompts(problems: Problems, origins: Sequence[Origin]) -> list[str]:
    """The text prompt of each image, from a list of one an image or one a prompt."""
    own, authors = _find(problems.root, PROMPTS), _find(problems.root, AUTHORS_PROMPTS)
    if own:
        labels = read_labels(problems, own, ("prompt",))
    elif authors:
        labels = read_labels(problems, authors, header=False)
    else:
        problems.missing(PROMPTS)
        return []
    if labels is None:
        return []
    texts = labels.texts("prompt" if own else labels.table.columns[-1])
    if len(texts) == len(origins):
        return texts
    numbers = [origin.prompt for origin in origins if origin.prompt is not None]
    if origins and (len(numbers) < len(origins) or len(texts) <= max(numbers)):
        problems.add(
            labels.where,
            f"{counted(texts, 'prompt')}; expected one for each of the {len(origins)} images, or one a prompt",
        )
        return []
    return [texts[number] for number in numbers]


def _find(root: Path, name: str) -> str | None:
    """Path below the root of a spreadsheet, in whichever folder it lies."""
    return next((folder + name for folder in FOLDERS if (root / folder / name).is_file()), None)
