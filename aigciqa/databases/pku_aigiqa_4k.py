"""PKU-AIGIQA-4K: 4,000 images, 1,600 of them made from image prompts (I2I) and the others from text (T2I)."""

from __future__ import annotations

import re
from pathlib import Path

from aigciqa.databases.base import (
    SUMMED,
    Database,
    DatabaseSpec,
    Problems,
    Sample,
    as_group,
    check_images,
    counted,
    named,
    open_root,
    prefix,
    same_range,
    with_overall,
)
from aigciqa.databases.labels import Reader, Table
from aigciqa.errors import InputError
from aigciqa.utils.paths import shown

LABELS = "annotation.xlsx"
IMAGES = "All/"
PROMPTS = "I2I/Image_prompt/"
SCORES = {"MOS_q": "quality", "MOS_a": "authenticity", "MOS_c": "correspondence"}
SUBSETS = ("all", "i2i", "t2i")
SPEC = DatabaseSpec(
    name="pku-aigiqa-4k",
    title="PKU-AIGIQA-4K",
    homepage="https://github.com/jiquan123/AIGIQA4K",
    licence="not stated",
    source="Yuan et al. 2024, arXiv:2404.18409",
    layout={
        LABELS: "a spreadsheet with the columns Generated_image, Image_prompt (blank for T2I), MOS_q, MOS_a, MOS_c",
        IMAGES: "the generated images (*.jpg)",
        PROMPTS: "the image prompts (*.jpg)",
    },
    score_range={**same_range(0.0, 5.0, *SUMMED), "overall": (0.0, 15.0)},
    protocols=("prompt-disjoint", "k-fold", "paper"),
    published="every fourth",
)
#: `DALLE_1000_00.jpg`: the model, the number of the prompt, the number of the image.
FILE_NAME = re.compile(r"([^_]+)_([^_]+)_")


def load(root: Path, subset: str = "all") -> Database:
    """Read PKU-AIGIQA-4K.

    Args:
        subset: `"i2i"`, the images that have an image prompt; `"t2i"`, those that have none; or `"all"`.

    Raises:
        DatabaseError: the folder is not the database as published.
        ValueError: another subset.
    """
    if subset not in SUBSETS:
        raise InputError(f"subset={subset!r}: expected one of {', '.join(map(repr, SUBSETS))}")
    problems = open_root(SPEC, root, SPEC.layout)
    samples: tuple[Sample, ...] = ()
    if problems.has(LABELS):
        reader = Reader(root, problems)
        table = reader.spreadsheet(LABELS, ("Generated_image", "Image_prompt", *SCORES))
        samples = _samples(root, reader, table) if table else ()
        check_images(problems, LABELS, samples)
        _check_groups(problems, samples)
    problems.raise_any()
    chosen = tuple(sample for sample in samples if subset == "all" or (sample.reference is None) == (subset == "t2i"))
    if not chosen:
        raise InputError(f"subset={subset!r}: {LABELS} in {root} has no such rows")
    return Database(SPEC, root, chosen, SPEC.score_range, {} if subset == "all" else {"subset": subset})


def _samples(root: Path, reader: Reader, table: Table) -> tuple[Sample, ...]:
    scores = [reader.numbers(table, name) for name in SCORES]
    texts = [
        reader.texts(table, name, blank=True) if name in table.columns else [""] * len(table.rows)
        for name in ("Image_prompt", "Text_prompt")
    ]
    rows = zip(reader.texts(table, "Generated_image"), *texts, *scores, strict=True)
    return named(
        (
            Sample(
                image=str(root / IMAGES / image),
                reference=str(root / PROMPTS / reference) if reference else None,
                prompt=prompt or None,
                generator=prefix(image),
                group=reference or as_group(prompt) or _number_of_prompt(image),
                scores=with_overall(dict(zip(SCORES.values(), labels, strict=True))),
            )
            for image, reference, prompt, *labels in rows
        ),
        root,
    )


def _number_of_prompt(image: str) -> str:
    """The prompt's number in a file name; nothing where the name has none."""
    match = FILE_NAME.match(image)
    return match[2] if match else ""


def _check_groups(problems: Problems, samples: tuple[Sample, ...]) -> None:
    unknown = [Path(sample.image).name for sample in samples if not sample.group]
    if unknown:
        problems.add(LABELS, f"no prompt known of {counted(unknown, 'image')}: {shown(unknown)}")
