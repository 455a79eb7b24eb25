"""Look-alikes of the databases: the official layouts with small drawn images, rated by a known function.

Every image is drawn from its prompt's: blurred, tinted, then given noise, each by a strength that is uniform over
the images and independent of the other two. `quality` falls with the blur, `authenticity` with the noise, and
`correspondence` with how far the tint has gone from its own prompt's towards the opposite one. Half of the prompts are
warm and half are cold: without the prompt nothing is known of it. Where a database has no image prompts all are warm,
so that it is. `overall` is the sum.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
from PIL import Image
from scipy.io import savemat
from scipy.ndimage import gaussian_filter

#: Of the worst images: share of the stripes' contrast that blur takes, and noise in grey levels.
BLUR, NOISE = 0.95, 25.0
#: Grey levels of a warm prompt's red, green and blue above the middle; a cold one's are below.
TINT = (45.0, 0.0, -45.0)
MIDDLE = 128.0
#: Stripes across an image, and their contrast in grey levels up and down.
STRIPES, CONTRAST = 6.0, 40.0
AIGCIQA2023_GENERATORS = ("Controlnet", "DALLE", "Glide", "Lafite", "stable-diffusion", "Unidiffuser")
AGIQA_3K_GENERATORS = ("AttnGAN_normal", "DALLE2_normal", "glide_normal", "midjourney_normal", "sd1.5_lowstep")
AGIQA_1K_OBJECTS = ("bird", "cat", "dog", "kid", "man", "woman", "alien", "demon")


@dataclass(frozen=True)
class Drawn:
    """Images (n, size, size, 3) of `prompts` prompts, in the order of the prompts, and their scores in [0, 5]."""

    prompts: list[np.ndarray]
    images: list[list[np.ndarray]]
    scores: np.ndarray

    def rows(self) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
        """Prompt, number within the prompt, image, (quality, authenticity, correspondence)."""
        each = len(self.images[0])
        return [
            (prompt, number, image, self.scores[prompt * each + number])
            for prompt, images in enumerate(self.images)
            for number, image in enumerate(images)
        ]


def draw_rated(prompts: int, per_prompt: int, size: int = 64, seed: int = 0, all_warm: bool = False) -> Drawn:
    """Draw prompts and images made from them."""
    rng = np.random.default_rng(seed)
    count = prompts * per_prompt
    strengths = np.stack([(rng.permutation(count) + rng.uniform(0, 1, count)) / count for _ in range(3)], axis=1)
    originals = [_pattern(size, rng) for _ in range(prompts)]
    warmth = [1.0 if all_warm or prompt % 2 else -1.0 for prompt in range(prompts)]
    images = [
        [
            _degraded(originals[prompt], warmth[prompt], *strengths[prompt * per_prompt + number], rng)
            for number in range(per_prompt)
        ]
        for prompt in range(prompts)
    ]
    drawn = [_tinted(original, warm) for original, warm in zip(originals, warmth, strict=True)]
    return Drawn([_levels(image) for image in drawn], images, 5.0 * (1.0 - strengths))


def write_pku_i2iqa(root: Path, prompts: int = 10, per_prompt: int = 8, size: int = 64, seed: int = 0) -> Path:
    """PKU-I2IQA: images of even number by Midjourney, of odd number by Stable Diffusion; no final score."""
    drawn = draw_rated(prompts, per_prompt, size, seed)
    rows = []
    for prompt, number, image, scores in drawn.rows():
        name = f"{'SD' if number % 2 else 'MJ'}_{prompt}_{number // 2:02d}.jpg"
        _save(root / "Generated_image" / "All" / name, image)
        rows.append((name, f"{prompt}.jpg", f"a drawing, number {prompt}", *scores))
    for prompt, original in enumerate(drawn.prompts):
        _save(root / "Image_prompt" / f"{prompt}.jpg", original)
    rows.sort(key=lambda row: row[0].split("_")[0])
    header = ("Generated_image", "Image_prompt", "Text_prompt", "MOS_q", "MOS_a", "MOS_c")
    return write_xlsx(root / "I2IQA_annotation.xlsx", [header, *rows]).parent


def write_pku_aigiqa_4k(root: Path, prompts: int = 6, per_prompt: int = 8, size: int = 64, seed: int = 0) -> Path:
    """PKU-AIGIQA-4K: as many prompts of images as of text, the former first."""
    rows = []
    images, texts = draw_rated(prompts, per_prompt, size, seed), draw_rated(prompts, per_prompt, size, seed + 1, True)
    for prompt, number, image, scores in images.rows():
        name = f"{('MJ', 'SD')[number % 2]}_{prompt}_{number // 2:02d}.jpg"
        _save(root / "All" / name, image)
        rows.append((name, f"{prompt}.jpg", f"a drawing, number {prompt}", *scores))
    for prompt, original in enumerate(images.prompts):
        _save(root / "I2I" / "Image_prompt" / f"{prompt}.jpg", original)
    for prompt, number, image, scores in texts.rows():
        name = f"{('DALLE', 'MJ', 'SD')[number % 3]}_{1000 + prompt}_{number:02d}.jpg"
        _save(root / "All" / name, image)
        rows.append((name, None, f"a painting, number {prompt}", *scores))
    header = ("Generated_image", "Image_prompt", "Text_prompt", "MOS_q", "MOS_a", "MOS_c")
    return write_xlsx(root / "annotation.xlsx", [header, *rows]).parent


def write_agiqa_1k(root: Path, prompts: int = 12, per_prompt: int = 4, size: int = 64, seed: int = 0) -> Path:
    """AGIQA-1K: up to eight objects and six actions; the images of a prompt are by two models in turn."""
    rows = []
    for prompt, number, image, scores in draw_rated(prompts, per_prompt, size, seed, True).rows():
        thing, action = prompt % len(AGIQA_1K_OBJECTS), prompt // len(AGIQA_1K_OBJECTS)
        name = f"{('deepai', 'dreamStudio')[number % 2]}_{thing}_{action}_{number // 4}_{number // 2 % 2}.jpg"
        _save(root / "file" / name, image)
        rows.append((name, f"{AGIQA_1K_OBJECTS[thing]}, action {action}, city, anime style", scores[0]))
    return write_xlsx(root / "AIGC_MOS_Zscore.xlsx", [("Image", "Prompt", "MOS"), *rows]).parent


def write_agiqa_3k(root: Path, prompts: int = 12, per_prompt: int = 5, size: int = 64, seed: int = 0) -> Path:
    """AGIQA-3K: one image of each prompt by each of up to five models."""
    rows = []
    for prompt, number, image, scores in draw_rated(prompts, per_prompt, size, seed, True).rows():
        name = f"{AGIQA_3K_GENERATORS[number]}_{prompt:03d}.jpg"
        _save(root / "image" / name, image)
        rows.append((name, f"a drawing, number {prompt}", "", "", "", scores[0], 0.3, scores[2], 0.4))
    rows.sort()
    header = ("name", "prompt", "adj1", "adj2", "style", "mos_quality", "std_quality", "mos_align", "std_align")
    return write_csv(root / "data.csv", [header, *rows]).parent


def write_aigciqa2023(root: Path, prompts: int = 5, size: int = 64, seed: int = 0) -> Path:
    """AIGCIQA2023: four images of each prompt by each of six models; scores on a scale to 100."""
    drawn = draw_rated(prompts, 4 * len(AIGCIQA2023_GENERATORS), size, seed, True)
    index, texts, labels = [], [], []
    ordered = sorted(drawn.rows(), key=lambda row: (row[1] // 4, row[0], row[1]))
    for position, (prompt, number, image, scores) in enumerate(ordered):
        _save(root / "Image" / "allimg" / f"{position}.png", image)
        index.append((AIGCIQA2023_GENERATORS[number // 4], f"{prompt:03d}-{number % 4 + 1}.png"))
        texts.append((f"a drawing, number {prompt}",))
        labels.append(20.0 * scores)
    (root / "DATA" / "MOS").mkdir(parents=True)
    for number in range(3):
        savemat(root / "DATA" / "MOS" / f"mosz{number + 1}.mat", {"MOSz": np.array(labels)[:, number : number + 1]})
    write_xlsx(root / "pic-index.xlsx", index)
    return write_xlsx(root / "prompt.xlsx", [("prompt",), *texts]).parent


def write_folder(root: Path, prompts: int = 10, per_prompt: int = 4, size: int = 64, seed: int = 0) -> Path:
    """A folder of images rated in all dimensions, with their image prompts, and its manifest."""
    drawn = draw_rated(prompts, per_prompt, size, seed)
    rows = []
    for prompt, number, image, scores in drawn.rows():
        name = f"images/{prompt}_{number}.png"
        _save(root / name, image)
        rows.append((name, f"prompts/{prompt}.png", ("one", "two")[number % 2], *scores, scores.sum()))
    for prompt, original in enumerate(drawn.prompts):
        _save(root / "prompts" / f"{prompt}.png", original)
    header = ("image", "reference", "generator", "quality", "authenticity", "correspondence", "overall")
    return write_csv(root / "manifest.csv", [header, *rows]).parent


#: Name of a database -> what writes its look-alike into a folder.
WRITERS = {
    "pku-i2iqa": write_pku_i2iqa,
    "pku-aigiqa-4k": write_pku_aigiqa_4k,
    "agiqa-1k": write_agiqa_1k,
    "agiqa-3k": write_agiqa_3k,
    "aigciqa2023": write_aigciqa2023,
    "folder": write_folder,
}


def write_xlsx(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Write a spreadsheet; returns its path."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append([float(cell) if isinstance(cell, np.floating) else cell for cell in row])
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Write a CSV file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


def _pattern(size: int, rng: np.random.Generator) -> np.ndarray:
    """Stripes and discs, on average 0: (size, size, 3), float."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle = rng.uniform(0, np.pi)
    stripes = np.sign(np.sin(2 * np.pi * STRIPES * (x * np.cos(angle) + y * np.sin(angle))))
    for centre in rng.uniform(0.15, 0.85, (4, 2)):
        disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < rng.uniform(0.08, 0.15) ** 2
        stripes = np.where(disc, -stripes, stripes)
    pattern = np.repeat(CONTRAST * stripes[..., None], 3, axis=2)
    return np.asarray(pattern - pattern.mean())


def _tinted(pattern: np.ndarray, warmth: float) -> np.ndarray:
    return np.asarray(pattern + MIDDLE + warmth * np.array(TINT))


def _degraded(
    original: np.ndarray, warmth: float, blur: float, noise: float, shift: float, rng: np.random.Generator
) -> np.ndarray:
    period = original.shape[0] / STRIPES
    sigma = (
        period / np.pi * np.sqrt(-np.log(1 - BLUR * blur) / 2)
    )  # a Gaussian takes this share of a sine of that period
    blurred = gaussian_filter(original, (sigma, sigma, 0))
    tinted = _tinted(blurred, warmth * (1 - 2 * shift))
    return _levels(tinted + rng.normal(0, NOISE * noise, original.shape))


def _levels(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}))
