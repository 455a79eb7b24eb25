"""How good the embedded metrics are: on photographs held out, and against people's judgements, trivial controls beside.

Every figure is a `Figure`: a value with a 95% interval from resampling its units (photographs, pictures or pairs).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from aigciqa.backbones.lite import LiteBackbone, squash
from aigciqa.heads.lite import FullReferenceHead
from aigciqa.training.degradations import degrade, names
from aigciqa.training.pictures import SHORT_SIDE, STRENGTHS, Photo, seed_of
from aigciqa.training.recipe import Fitted, PhotoFeatures, pool_blocks

RESAMPLES = 1000
MODERATE = 3.0
#: Degradations by which quality maps are judged, and their strength.
MAP_DEGRADATIONS = ("lens_blur", "jpeg", "down_up", "gaussian_noise", "bilateral", "block_loss")
MAP_STRENGTH = 4.0
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def resampled(measure: Callable[[Array], float], units: int) -> Figure:
    """A measure of chosen units, with the interval of 1,000 choices with replacement.

    Args:
        measure: numbers of units (n,) -> value.
        units: how many there are.
    """
    rng = np.random.default_rng(0)
    draws = [measure(rng.integers(0, units, units).astype(np.float64)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return Figure(measure(np.arange(units, dtype=np.float64)), float(low), float(high))


def mean_figure(values: Sequence[float] | Array) -> Figure:
    """The mean of one value per unit."""
    array = np.asarray(values, dtype=np.float64)
    return resampled(lambda chosen: float(array[chosen.astype(int)].mean()), len(array))


def features_of(item: PhotoFeatures, fitted: Fitted) -> Tensor:
    """Features (n, D) of a photograph's pictures."""
    pooled = squash(pool_blocks(item.maps), fitted.backbone.center, fitted.backbone.scale)
    return torch.cat([pooled, item.thumbnails], dim=1)


@torch.no_grad()
def monotonicity(held_out: Sequence[PhotoFeatures], fitted: Fitted, variant: str) -> dict[str, Figure]:
    """Share of adjacent strengths ordered right, pristine included: per degradation, and of all (key `all`)."""
    shares = np.stack([_ladder_shares(_scores(features_of(item, fitted), fitted, variant)) for item in held_out])
    figures = {name: mean_figure(shares[:, i]) for i, name in enumerate(names())}
    return {"all": mean_figure(shares.mean(axis=1)), **figures}


@torch.no_grad()
def sharpness_monotonicity(held_out: Sequence[PhotoFeatures]) -> Figure:
    """The same of a trivial control: the mean log contrast of the blocks."""
    return mean_figure([float(_ladder_shares(item.maps[:, 0].mean(dim=1)).mean()) for item in held_out])


def _scores(features: Tensor, fitted: Fitted, variant: str) -> Tensor:
    head = fitted.heads[variant]
    if isinstance(head, FullReferenceHead):
        features = torch.cat([features, features[:1].expand_as(features)], dim=1)
    scores: Tensor = head(features)[:, 0]
    return scores


def _ladder_shares(scores: Tensor) -> Array:
    """Scores of a `ladder_plan` -> share of adjacent strengths ordered right, per degradation."""
    rungs = scores[1:].view(-1, len(STRENGTHS))
    ladders = torch.cat([scores[:1].expand(len(rungs), 1), rungs], dim=1)
    return (ladders[:, :-1] > ladders[:, 1:]).double().mean(dim=1).numpy()


@torch.no_grad()
def identity_is_best(held_out: Sequence[PhotoFeatures], fitted: Fitted) -> Figure:
    """Share of degraded pictures that fr-lite scores no higher than the reference itself."""
    shares = []
    for item in held_out:
        scores = _scores(features_of(item, fitted), fitted, "fr-lite")
        shares.append(float((scores[1:] <= scores[0]).double().mean()))
    return mean_figure(shares)


@torch.no_grad()
def calibration(held_out: Sequence[PhotoFeatures], fitted: Fitted, variant: str) -> tuple[Figure, Figure]:
    """Mean scores of pristine photographs, and of them at the greatest strength of every degradation."""
    scores = [_scores(features_of(item, fitted), fitted, variant) for item in held_out]
    return mean_figure([float(s[0]) for s in scores]), mean_figure([float(s[5::5].mean()) for s in scores])


@torch.no_grad()
def other_reference(held_out: Sequence[PhotoFeatures], fitted: Fitted) -> dict[str, Figure]:
    """Pristine over moderately degraded, with another photograph of the subject as reference; and without one."""
    features = [features_of(item, fitted) for item in held_out]
    moderate = [i for i, sample in enumerate(held_out[0].plan) if sample.steps and sample.steps[0].strength == MODERATE]
    shares: dict[str, list[float]] = {"fr-lite": [], "nr-lite": [], "sharpness": [], "taken for aligned": []}
    for i, item in enumerate(held_out):
        plain = fitted.heads["nr-lite"](features[i])[:, 0]
        contrast = item.maps[:, 0].mean(dim=1)
        for j, other in enumerate(held_out):
            if i == j or item.photo.subject != other.photo.subject:
                continue
            pairs = torch.cat([features[i], features[j][:1].expand_as(features[i])], dim=1)
            head = fitted.heads["fr-lite"]
            assert isinstance(head, FullReferenceHead)
            scores = head(pairs)[:, 0]
            for name, values in (("fr-lite", scores), ("nr-lite", plain), ("sharpness", contrast)):
                shares[name].append(float((values[0] > values[moderate]).double().mean()))
            shares["taken for aligned"].append(float((head.split(pairs)[2] > head.gate[0]).double().mean()))
    return {name: mean_figure(values) for name, values in shares.items() if values}


@dataclass(frozen=True)
class Patched:
    """A pristine photograph with a degraded square, as the backbone sees it.

    Attributes:
        photo: name.
        degradation: what was done inside the square.
        mask: (H, W), true inside.
        dense: (1, C, h, w), statistics of the blocks around the cells of the map.
        sampled: (1, C + thumbnail, rows, columns), the maps that the score comes from.
    """

    photo: str
    degradation: str
    mask: Tensor
    dense: Tensor
    sampled: Tensor


@torch.no_grad()
def patch_photo(photo: Photo) -> list[Patched]:
    """A photograph at the common size with a square degraded in each of six ways."""
    backbone, picture = LiteBackbone(), _at_short_side(photo)
    rng = np.random.default_rng(seed_of("map", photo.name))
    side = int(rng.integers(160, 224))
    top, left = (int(rng.integers(0, length - side + 1)) // 8 * 8 for length in picture.shape[1:])
    mask = torch.zeros(picture.shape[1:], dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    patched = []
    for name in MAP_DEGRADATIONS:
        pixels = torch.where(mask, degrade(picture, name, MAP_STRENGTH, seed=1), picture)[None]
        patched.append(Patched(photo.name, name, mask, backbone.dense(pixels), backbone(pixels)))
    return patched


@torch.no_grad()
def map_areas(patches: Sequence[Patched], fitted: Fitted) -> dict[str, Figure]:
    """Area under the ROC curve by which nr-lite's map finds the degraded square.

    Per degradation, of all (key `all`, by photograph), and of a trivial control, the local contrast (key `sharpness`).
    """
    areas: dict[str, list[float]] = {name: [] for name in (*MAP_DEGRADATIONS, "sharpness")}
    photos: dict[str, list[float]] = {}
    for patched in patches:
        features = fitted.backbone.pool(patched.sampled)
        quality = fitted.heads["nr-lite"].score_map(patched.dense, features, 0)[0]
        area = _area(quality, patched.mask)
        areas[patched.degradation].append(area)
        areas["sharpness"].append(_area(patched.dense[0, 0], patched.mask))
        photos.setdefault(patched.photo, []).append(area)
    overall = mean_figure([float(np.mean(values)) for values in photos.values()])
    return {"all": overall, **{name: mean_figure(values) for name, values in areas.items()}}


def _at_short_side(photo: Photo) -> Tensor:
    with Image.open(photo.path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _area(values: Tensor, mask: Tensor) -> float:
    """How well low values mark the mask: chance that a place inside is lower than one outside."""
    from scipy.stats import rankdata

    full = functional.interpolate(values[None, None], mask.shape, mode="bilinear", align_corners=False)[0, 0]
    ranks = rankdata(-full[::4, ::4].flatten().numpy())
    inside = mask[::4, ::4].flatten().numpy()
    count = inside.sum()
    return float((ranks[inside].sum() - count * (count + 1) / 2) / (count * (len(ranks) - count)))


# People's judgements


def gan_compression(folder: Path, score: Callable[[Path, Path], float]) -> dict[str, Figure]:
    """Agreement with two-alternative judgements of reconstructed photographs.

    Args:
        folder: holds `jdg.csv` and `images/`.
        score: (picture, its original) -> score.

    Returns:
        `srcc` with Bradley-Terry scores of the pictures, `pairs` (share of pairs whose majority agrees), `votes`.
    """
    files = {_content_key(path.stem): path for path in sorted((folder / "images").rglob("*.png"))}
    pairs = [pair for pair in _judgements(folder / "jdg.csv") if pair[0] in files and pair[1] in files]
    scores = {key: score(path, files[f"{key.split('_')[0]}_original"]) for key, path in files.items()}
    return agreement(scores, pairs, bradley_terry(_judgements(folder / "jdg.csv")))


Judged = tuple[str, str, int, int]


def agreement(
    scores: Mapping[str, float], pairs: Sequence[Judged], strengths: Mapping[str, float]
) -> dict[str, Figure]:
    """SRCC with strengths, and agreement with pairs (first, second, votes for the first, votes for the second)."""
    keys = sorted(scores)
    ours, theirs = np.array([scores[key] for key in keys]), np.array([strengths[key] for key in keys])
    first = np.array([scores[a] > scores[b] for a, b, _, _ in pairs])
    votes = np.array([[x, y] for _, _, x, y in pairs])
    agreeing, total = np.where(first, votes[:, 0], votes[:, 1]), votes.sum(axis=1)
    decided = votes[:, 0] != votes[:, 1]
    right = (first == (votes[:, 0] > votes[:, 1]))[decided]

    def vote_share(chosen: Array) -> float:
        rows = chosen.astype(int)
        return float(agreeing[rows].sum() / total[rows].sum())

    return {
        "srcc": spearman(ours, theirs),
        "pairs": mean_figure(right.astype(np.float64)),
        "votes": resampled(vote_share, len(pairs)),
    }


def spearman(first: Array, second: Array) -> Figure:
    """Spearman's rank correlation."""
    from scipy.stats import spearmanr

    def measure(chosen: Array) -> float:
        rows = chosen.astype(int)
        return float(spearmanr(first[rows], second[rows])[0])

    return resampled(measure, len(first))


def partial_spearman(first: Array, second: Array, given: Array) -> Figure:
    """Spearman's rank correlation of two, the ranks of a third held fixed."""
    from scipy.stats import rankdata

    def measure(chosen: Array) -> float:
        rows = chosen.astype(int)
        r = np.corrcoef([rankdata(values[rows]) for values in (first, second, given)])
        return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)))

    return resampled(measure, len(first))


def published_agreement(folder: Path, column: str, sign: float = 1.0) -> dict[str, Figure]:
    """The same agreement for a metric whose values are in the set's `metrics.csv`."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = {_row_key(row["ID"], row["Model"], row["Quality"]): row[column] for row in csv.DictReader(file)}
    files = {_content_key(path.stem) for path in (folder / "images").rglob("*.png")}
    highest = max(float(value) for value in rows.values() if value not in ("", "inf"))
    scores = {key: sign * (float(rows[key]) if rows[key] not in ("", "inf") else highest) for key in files}
    pairs = _judgements(folder / "jdg.csv")
    return agreement(scores, [p for p in pairs if p[0] in scores and p[1] in scores], bradley_terry(pairs))


def bradley_terry(pairs: Sequence[Judged], prior: float = 0.1) -> dict[str, float]:
    """Log strengths of pictures from pairs, contents apart; each pair gets `prior` votes either way."""
    strengths: dict[str, float] = {}
    contents: dict[str, list[Judged]] = {}
    for pair in pairs:
        contents.setdefault(pair[0].split("_")[0], []).append(pair)
    for members in contents.values():
        keys = sorted({key for pair in members for key in pair[:2]})
        wins = np.zeros((len(keys), len(keys)))
        for a, b, x, y in members:
            wins[keys.index(a), keys.index(b)] += x + prior
            wins[keys.index(b), keys.index(a)] += y + prior
        games, power = wins + wins.T, np.ones(len(keys))
        for _ in range(3000):
            power = wins.sum(axis=1) / (games / (power[:, None] + power)).sum(axis=1)
            power /= np.exp(np.log(power).mean())
        strengths |= dict(zip(keys, np.log(power).tolist(), strict=True))
    return strengths


def _judgements(path: Path) -> list[Judged]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    people = [name for name in rows[0] if name.isdigit()]
    judged = []
    for row in rows:
        votes = [int(float(row[person])) for person in people if row[person] != ""]
        first = _row_key(row["Image_A"], row["Model_A"], row["Quality_A"])
        second = _row_key(row["Image_B"], row["Model_B"], row["Quality_B"])
        judged.append((first, second, len(votes) - sum(votes), sum(votes)))
    return judged


def _row_key(content: str, model: str, quality: str) -> str:
    return f"{content}_original" if model.startswith("original") else f"{content}_{model}_{quality}"


def _content_key(stem: str) -> str:
    content, rest = stem.split("_", 1)
    return f"{int(content)}_{rest}"


def resolution_compression(folder: Path, score: Callable[[Path], float]) -> dict[str, Figure]:
    """Correlation with the opinion scores of frames scaled down and compressed.

    Returns:
        `srcc`, and `partial`: the same given the height.
    """
    with (folder / "mos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    opinions, heights = (np.array([float(row[name]) for row in rows]) for name in ("mos", "height"))
    scores = np.array([score(folder / "images" / row["image"]) for row in rows])
    figures = {"srcc": spearman(scores, opinions)}
    if abs(np.corrcoef(scores, heights)[0, 1]) < 0.97:  # size itself has no partial correlation given size
        figures["partial"] = partial_spearman(scores, opinions, heights)
    return figures


# Trivial controls


def picture_height(path: Path) -> float:
    """Pixels from top to bottom."""
    with Image.open(path) as image:
        return float(image.height)


def file_size(path: Path) -> float:
    """Bytes."""
    return float(path.stat().st_size)


def sharpness_ratio(path: Path) -> float:
    """Energy of the second differences of luma over that of the first: one line of sharpness."""
    with Image.open(path) as image:
        luma = np.asarray(image.convert("L"), dtype=np.float64)
    return float(np.square(np.diff(luma, 2, axis=1)).mean() / (np.square(np.diff(luma, axis=1)).mean() + 1))


def smaller_picture(path: Path) -> float:
    """Minus the number of pixels."""
    with Image.open(path) as image:
        return -float(image.width * image.height)
