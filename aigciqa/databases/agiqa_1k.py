"""AGIQA-1K: 1,080 images made from 720 text prompts by two models."""

from __future__ import annotations

from pathlib import Path

from aigciqa.databases.base import Database, DatabaseSpec, Sample, as_group, check_images, named, open_root, prefix
from aigciqa.databases.labels import Reader, Table

LABELS = "AIGC_MOS_Zscore.xlsx"
IMAGES = "file/"
SPEC = DatabaseSpec(
    name="agiqa-1k",
    title="AGIQA-1K",
    homepage="https://github.com/lcysyzxdxc/AGIQA-1k-Database",
    licence="MIT",
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
    """Read AGIQA-1K.

    Raises:
        DatabaseError: the folder is not the database as published.
    """
    problems = open_root(SPEC, root, SPEC.layout)
    samples: tuple[Sample, ...] = ()
    if problems.has(LABELS):
        reader = Reader(root, problems)
        table = reader.spreadsheet(LABELS, ("Image", "Prompt", "MOS"))
        samples = _samples(root, reader, table) if table else ()
        check_images(problems, LABELS, samples, repeated={TWICE: 2, ALSO_CALLED: 2})
    problems.raise_any()
    return Database(SPEC, root, samples, SPEC.score_range)


def _samples(root: Path, reader: Reader, table: Table) -> tuple[Sample, ...]:
    rows = zip(reader.texts(table, "Image"), reader.texts(table, "Prompt"), reader.numbers(table, "MOS"), strict=True)
    return named(
        (
            Sample(
                image=str(_image(root, name)),
                reference=None,
                prompt=prompt,
                generator=prefix(name),
                group=as_group(prompt),
                scores={"quality": score},
            )
            for name, prompt, score in rows
        ),
        root,
    )


def _image(root: Path, name: str) -> Path:
    path = root / IMAGES / name
    other = path.with_name(ALSO_CALLED)
    return other if name == TWICE and not path.is_file() and other.is_file() else path
