"""AGIQA-1K: 1,080 images made from 720 text prompts by two models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aigciqa.databases.database import Database, DatabaseSpec
from aigciqa.databases.labels import Labels, read_samples
from aigciqa.databases.sample import Sample, generator_in, made_from_text

LABELS = "AIGC_MOS_Zscore.xlsx"
IMAGES = "file/"
SPEC = DatabaseSpec(
    name="agiqa-1k",
    title="AGIQA-1K",
    homepage="https://github.com/lcysyzxdxc/AGIQA-1k-Database",
    license="MIT",
    source="Zhang et al. 2023, arXiv:2303.12618",
    layout={
        LABELS: "a spreadsheet with the columns Image, Prompt, MOS",
        IMAGES: "the images (*.jpg), the content of file.zip",
    },
    score_range={"quality": (0.0, 5.0)},
    protocols=("prompt-disjoint", "k-fold", "paper"),
    published="shuffled",
)
#: The published labels list this image twice, with two scores, and `dreamStudio_8_5_0_0.jpg` not at all. Which score
#: is whose can't be told: both rows stay, as they do in the published split.
TWICE = "dreamStudio_8_9_1_1.jpg"
#: What the authors' other table (AIGC_all.csv) calls it.
ALSO_CALLED = "dreamStudio_8_9_1_.jpg"


def load(root: Path) -> Database:
    """Read AGIQA-1K."""
    samples = read_samples(SPEC, root, LABELS, ("Image", "Prompt", "MOS"), _samples, {TWICE: 2, ALSO_CALLED: 2})
    return Database(SPEC, root, samples, SPEC.score_range)


def _samples(labels: Labels) -> Iterator[Sample]:
    rows = zip(labels.texts("Image"), labels.texts("Prompt"), labels.numbers("MOS"), strict=True)
    for name, prompt, score in rows:
        yield made_from_text(_image(labels.root, name), prompt, generator_in(name), {"quality": score})


def _image(root: Path, name: str) -> Path:
    path = root / IMAGES / name
    other = path.with_name(ALSO_CALLED)
    return other if name == TWICE and not path.is_file() and other.is_file() else path
