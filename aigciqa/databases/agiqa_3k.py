"""AGIQA-3K: 2,982 images made from 300 text prompts by six models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aigciqa.databases.database import Database, DatabaseSpec
from aigciqa.databases.labels import Labels, read_samples
from aigciqa.databases.sample import Sample, generator_in, made_from_text

LABELS = "data.csv"
IMAGES = "image/"
SCORES = {"mos_quality": "quality", "mos_align": "correspondence"}
SPEC = DatabaseSpec(
    name="agiqa-3k",
    title="AGIQA-3K",
    homepage="https://github.com/lcysyzxdxc/AGIQA-3k-Database",
    license="MIT",
    source="Li et al. 2023, arXiv:2306.04717",
    layout={
        LABELS: "a table with the columns name, prompt, mos_quality, mos_align",
        IMAGES: "the images (*.jpg)",
    },
    score_range=dict.fromkeys(SCORES.values(), (0.0, 5.0)),
    protocols=("prompt-disjoint", "k-fold", "paper"),
    published="shuffled",
)


def load(root: Path) -> Database:
    """Read AGIQA-3K."""
    samples = read_samples(SPEC, root, LABELS, ("name", "prompt", *SCORES), _samples)
    return Database(SPEC, root, samples, SPEC.score_range)


def _samples(labels: Labels) -> Iterator[Sample]:
    scores = [labels.numbers(name) for name in SCORES]
    for name, prompt, *values in zip(labels.texts("name"), labels.texts("prompt"), *scores, strict=True):
        mos = dict(zip(SCORES.values(), values, strict=True))
        yield made_from_text(labels.root / IMAGES / name, prompt, generator_in(name), mos)
