"""PKU-AIGIQA-4K: 4,000 images, 1,600 of them made from image prompts (I2I) and the others from text (T2I)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aigciqa.databases.database import Database, DatabaseSpec
from aigciqa.databases.labels import Labels, read_samples
from aigciqa.databases.sample import SUMMED, Sample, as_group, generator_in, with_overall
from aigciqa.errors import InputError
from aigciqa.utils.paths import counted, shown

LABELS = "annotation.xlsx"
IMAGES = "All/"
PROMPTS = "I2I/Image_prompt/"
SCORES = {"MOS_q": "quality", "MOS_a": "authenticity", "MOS_c": "correspondence"}
SUBSETS = ("all", "i2i", "t2i")
SPEC = DatabaseSpec(
    name="pku-aigiqa-4k",
    title="PKU-AIGIQA-4K",
    homepage="https://github.com/jiquan123/AIGIQA4K",
    license="not stated",
    source="Yuan et al. 2024, arXiv:2404.18409",
    layout={
        LABELS: "a spreadsheet with the columns Generated_image, Image_prompt (blank for T2I), MOS_q, MOS_a, MOS_c",
        IMAGES: "the generated images (*.jpg)",
        PROMPTS: "the image prompts (*.jpg)",
    },
    score_range={**dict.fromkeys(SUMMED, (0.0, 5.0)), "overall": (0.0, 15.0)},
    protocols=("prompt-disjoint", "k-fold", "paper"),
    published="every fourth",
)


def load(root: Path, subset: str = "all") -> Database:
    """Read PKU-AIGIQA-4K: the images that have an image prompt (`"i2i"`), those that have none (`"t2i"`), or all."""
    if subset not in SUBSETS:
        raise InputError(f"`subset={subset!r}`: expected one of {', '.join(map(repr, SUBSETS))}")
    samples = read_samples(SPEC, root, LABELS, ("Generated_image", "Image_prompt", *SCORES), _samples)
    chosen = tuple(sample for sample in samples if subset == "all" or (sample.reference is None) == (subset == "t2i"))
    if not chosen:
        raise InputError(f"`subset={subset!r}`: {LABELS} in {root} has no such rows")
    return Database(SPEC, root, chosen, SPEC.score_range, {} if subset == "all" else {"subset": subset})


def _samples(labels: Labels) -> Iterator[Sample]:
    images, references = labels.texts("Generated_image"), labels.optional_texts("Image_prompt")
    prompts = labels.optional_texts("Text_prompt")
    groups = [
        reference or as_group(prompt) or _number_of_prompt(image)
        for image, reference, prompt in zip(images, references, prompts, strict=True)
    ]
    unknown = [image for image, group in zip(images, groups, strict=True) if image and not group]
    if unknown:
        labels.problems.add(LABELS, f"no prompt known of {counted(unknown, 'image')}: {shown(unknown)}")
    scores = [labels.numbers(name) for name in SCORES]
    for image, reference, prompt, group, *values in zip(images, references, prompts, groups, *scores, strict=True):
        yield Sample(
            image=str(labels.root / IMAGES / image),
            reference=str(labels.root / PROMPTS / reference) if reference else None,
            prompt=prompt or None,
            generator=generator_in(image),
            group=group,
            scores=with_overall(dict(zip(SCORES.values(), values, strict=True))),
        )


def _number_of_prompt(image: str) -> str:
    """`1000` of `DALLE_1000_00.jpg`; nothing where the name has no such parts."""
    parts = image.split("_")
    return parts[1] if len(parts) > 2 and parts[0] else ""
