"""AGIQA-3K: 2,982 images made from 300 text prompts by six models."""

from __future__ import annotations

from pathlib import Path

from aigciqa.databases.base import (
    Database,
    DatabaseSpec,
    Sample,
    as_group,
    check_images,
    named,
    open_root,
    prefix,
    same_range,
)
from aigciqa.databases.labels import Reader, Table

LABELS = "data.csv"
IMAGES = "image/"
SCORES = {"mos_quality": "quality", "mos_align": "correspondence"}
SPEC = DatabaseSpec(
    name="agiqa-3k",
    title="AGIQA-3K",
    homepage="https://github.com/lcysyzxdxc/AGIQA-3k-Database",
    licence="MIT",
    source="Li et al. 2023, arXiv:2306.04717",
    layout={
        LABELS: "a table with the columns name, prompt, mos_quality, mos_align",
        IMAGES: "the images (*.jpg)",
    },
    score_range=same_range(0.0, 5.0, *SCORES.values()),
    protocols=("prompt-disjoint", "k-fold", "paper"),
    published="shuffled",
)


def load(root: Path) -> Database:
    """Read AGIQA-3K.

    Raises:
        DatabaseError: the folder is not the database as published.
    """
    problems = open_root(SPEC, root, SPEC.layout)
    samples: tuple[Sample, ...] = ()
    if problems.has(LABELS):
        reader = Reader(root, problems)
        table = reader.csv(LABELS, ("name", "prompt", *SCORES))
        samples = _samples(root, reader, table) if table else ()
        check_images(problems, LABELS, samples)
    problems.raise_any()
    return Database(SPEC, root, samples, SPEC.score_range)


def _samples(root: Path, reader: Reader, table: Table) -> tuple[Sample, ...]:
    scores = [reader.numbers(table, name) for name in SCORES]
    rows = zip(reader.texts(table, "name"), reader.texts(table, "prompt"), *scores, strict=True)
    return named(
        (
            Sample(
                image=str(root / IMAGES / name),
                reference=None,
                prompt=prompt,
                generator=prefix(name),
                group=as_group(prompt),
                scores=dict(zip(SCORES.values(), labels, strict=True)),
            )
            for name, prompt, *labels in rows
        ),
        root,
    )
