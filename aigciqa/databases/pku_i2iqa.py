"""PKU-I2IQA: 1,600 images made from 200 image prompts by Midjourney and Stable Diffusion 1.5."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from aigciqa.databases.database import Database, DatabaseSpec
from aigciqa.databases.labels import Labels, read_samples
from aigciqa.databases.sample import SUMMED, Sample, generator_in, with_overall
from aigciqa.utils.paths import counted, shown

LABELS = "I2IQA_annotation.xlsx"
IMAGES = "Generated_image/All/"
PROMPTS = "Image_prompt/"
SCORES = {"MOS_q": "quality", "MOS_a": "authenticity", "MOS_c": "correspondence"}
SPEC = DatabaseSpec(
    name="pku-i2iqa",
    title="PKU-I2IQA",
    homepage="https://github.com/jiquan123/I2IQA",
    license="not stated",
    source="Yuan et al. 2023, arXiv:2311.15556",
    layout={
        LABELS: "a spreadsheet with the columns Generated_image, Image_prompt, Text_prompt, MOS_q, MOS_a, MOS_c and, "
        "if it has one, a final score",
        IMAGES: "the generated images (*.jpg)",
        PROMPTS: "the image prompts (*.jpg)",
    },
    score_range={**dict.fromkeys(SUMMED, (0.0, 5.0)), "overall": (0.0, 15.0)},
    protocols=("prompt-disjoint", "k-fold", "paper", "sd", "mj", "sd-mj", "mj-sd"),
    published="every fourth",
)
#: The two generators, as file names begin and folders are called.
GENERATORS = ("MJ", "SD")


def load(root: Path) -> Database:
    """Read PKU-I2IQA."""
    columns = ("Generated_image", "Image_prompt", "Text_prompt", *SCORES)
    samples = read_samples(SPEC, root, LABELS, columns, _samples)
    return Database(SPEC, root, samples, SPEC.score_range)


def _samples(labels: Labels) -> Iterator[Sample]:
    columns = {dimension: labels.numbers(name) for name, dimension in SCORES.items()}
    final = _final_score(labels)
    if final is not None:
        columns["overall"] = labels.numbers(final)
    images = labels.texts("Generated_image")
    generators = _generators(labels, images)
    references, prompts = labels.texts("Image_prompt"), labels.optional_texts("Text_prompt")
    rows = zip(images, references, prompts, generators, *columns.values(), strict=True)
    for image, reference, prompt, generator, *scores in rows:
        yield Sample(
            image=str(labels.root / IMAGES / image),
            reference=str(labels.root / PROMPTS / reference),
            prompt=prompt or None,
            generator=generator,
            group=reference,
            scores=with_overall(dict(zip(columns, scores, strict=True))),
        )


def _generators(labels: Labels, images: list[str]) -> list[str | None]:
    """What made each image; what is not known is noted."""
    generators = [_generator(labels.root, image) for image in images]
    unknown = [image for image, generator in zip(images, generators, strict=True) if image and generator is None]
    if unknown:
        labels.problems.add(
            LABELS,
            f"no generator known of {counted(unknown, 'image')}, whose names begin neither with MJ_ nor with SD_ and "
            f"which are in neither or both of Generated_image/MJ and /SD: {shown(unknown)}",
        )
    return generators


def _generator(root: Path, image: str) -> str | None:
    """What made an image: the prefix of its file name says, else the folder that holds it too."""
    model = generator_in(image)
    if model in GENERATORS:
        return model
    folders = [name for name in GENERATORS if (root / "Generated_image" / name / image).is_file()]
    return folders[0] if len(folders) == 1 else None


def _final_score(labels: Labels) -> str | None:
    """The column of the final score, whatever the copy at hand calls it."""
    near = [name for name in labels.table.columns if re.search("final|overall", name, re.IGNORECASE)]
    if len(near) > 1 and "Final_score" not in near:
        labels.problems.add(LABELS, f"several columns look like the final score: {', '.join(map(repr, near))}")
    return "Final_score" if "Final_score" in near else next(iter(near), None)
