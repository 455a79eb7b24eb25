"""The embedded metrics against people's judgements, published metrics and trivial controls beside them.

Three sets: `realness` (AI-generated pictures and some photographs, rated by how real they look), `gan-compression`
(photographs and their reconstructions by three networks, judged in pairs) and `resolution-compression` (frames scaled
down and compressed, rated when scaled up).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from aigciqa.stats import bootstrap
from aigciqa.stats.bootstrap import Array, Interval
from aigciqa.stats.correlations import srcc_interval
from aigciqa.stats.means import mean_interval
from aigciqa.tables.csv_text import read_records

#: Votes that each pair gets either way, so that strengths are finite.
PRIOR = 0.1
#: First image, second, votes for the first, votes for the second.
Judgement = tuple[str, str, int, int]


def realness(folder: Path, score: Callable[[Path], float]) -> dict[str, Interval]:
    """SRCC with how real people found pictures: of the AI-generated ones alone (`generated`), and of all (`all`)."""
    rows = list(read_records(folder / "ratings.csv", "image"))
    opinions = np.array([float(row["realness"]) for row in rows])
    scores = np.array([score(folder / row["image"]) for row in rows])
    generated = np.array([row["ai_generated"] == "1" for row in rows])
    return {
        "generated": srcc_interval(scores[generated], opinions[generated]),
        "all": srcc_interval(scores, opinions),
    }


def gan_compression(folder: Path, score: Callable[..., float], with_original: bool = False) -> dict[str, Interval]:
    """Agreement with two-alternative judgements of reconstructed photographs.

    Args:
        folder: holds `jdg.csv` and `images/`.
        score: of an image's path, and of its original's if `with_original`.

    Returns:
        `srcc` with Bradley-Terry scores of the images, `pairs` (share of pairs whose majority agrees), `votes`.
    """
    files = _gan_files(folder)
    originals = {key: [files[f"{key.split('_')[0]}_original"]] if with_original else [] for key in files}
    return _agreement(folder, {key: score(path, *originals[key]) for key, path in files.items()})


def published_agreement(folder: Path, column: str) -> dict[str, Interval]:
    """The same for a metric whose values are in the set's `metrics.csv`; an original's may be missing or infinite."""
    records = read_records(folder / "metrics.csv", "ID")
    values = {_row_key(row["ID"], row["Model"], row["Quality"]): float(row[column] or "inf") for row in records}
    highest = max(value for value in values.values() if value < math.inf)
    return _agreement(folder, {key: min(values[key], highest) for key in _gan_files(folder)})


def _gan_files(folder: Path) -> dict[str, Path]:
    files = {}
    for path in sorted((folder / "images").rglob("*.png")):
        content, rest = path.stem.split("_", 1)
        files[f"{int(content)}_{rest}"] = path
    return files


def _agreement(folder: Path, scores: Mapping[str, float]) -> dict[str, Interval]:
    judgements = _judgements(folder / "jdg.csv")
    pairs = [each for each in judgements if each[0] in scores and each[1] in scores]
    strengths, keys = _bradley_terry(judgements), sorted(scores)
    first = np.array([scores[a] > scores[b] for a, b, _, _ in pairs])
    votes = np.array([[x, y] for _, _, x, y in pairs])
    agreeing, total = np.where(first, votes[:, 0], votes[:, 1]), votes.sum(axis=1)
    decided = votes[:, 0] != votes[:, 1]
    right = (first == (votes[:, 0] > votes[:, 1]))[decided]
    return {
        "srcc": srcc_interval([scores[key] for key in keys], [strengths[key] for key in keys]),
        "pairs": mean_interval(right.astype(np.float64)),
        "votes": bootstrap.interval(lambda weight: weight @ agreeing / (weight @ total), range(len(pairs))),
    }


def _bradley_terry(pairs: Sequence[Judgement]) -> dict[str, float]:
    """Log strengths of images from pairs, contents apart."""
    strengths: dict[str, float] = {}
    contents: dict[str, list[Judgement]] = {}
    for pair in pairs:
        contents.setdefault(pair[0].split("_")[0], []).append(pair)
    for members in contents.values():
        keys = sorted({key for pair in members for key in pair[:2]})
        wins = np.zeros((len(keys), len(keys)))
        for a, b, x, y in members:
            wins[keys.index(a), keys.index(b)] += x + PRIOR
            wins[keys.index(b), keys.index(a)] += y + PRIOR
        games, power = wins + wins.T, np.ones(len(keys))
        for _ in range(3000):
            power = wins.sum(axis=1) / (games / (power[:, None] + power)).sum(axis=1)
            power /= np.exp(np.log(power).mean())
        strengths |= dict(zip(keys, np.log(power).tolist(), strict=True))
    return strengths


def _judgements(path: Path) -> list[Judgement]:
    pairs = []
    for row in read_records(path, "Image_A"):
        votes = [int(float(vote)) for name, vote in row.items() if name.isdigit() and vote != ""]
        first = _row_key(row["Image_A"], row["Model_A"], row["Quality_A"])
        second = _row_key(row["Image_B"], row["Model_B"], row["Quality_B"])
        pairs.append((first, second, len(votes) - sum(votes), sum(votes)))
    return pairs


def _row_key(content: str, model: str, quality: str) -> str:
    return f"{content}_original" if model.startswith("original") else f"{content}_{model}_{quality}"


def resolution_compression(folder: Path, score: Callable[[Path], float]) -> dict[str, Interval]:
    """Correlation with the opinion scores of frames scaled down and compressed.

    Returns:
        `srcc`, and `partial`: the same given the height.
    """
    rows = list(read_records(folder / "mos.csv", "image"))
    opinions, heights = (np.array([float(row[name]) for row in rows]) for name in ("mos", "height"))
    scores = np.array([score(folder / "images" / row["image"]) for row in rows])
    figures = {"srcc": srcc_interval(scores, opinions)}
    if abs(np.corrcoef(scores, heights)[0, 1]) < 0.97:  # size itself has no partial correlation given size
        figures["partial"] = _partial_spearman(scores, opinions, heights)
    return figures


def _partial_spearman(first: Array, second: Array, given: Array) -> Interval:
    """Spearman's rank correlation of two, the ranks of a third held fixed."""

    def statistic(weight: Array) -> Array:
        spearman = functools.partial(bootstrap.spearman, weight)
        both, one, other = spearman(first, second), spearman(first, given), spearman(second, given)
        partial: Array = (both - one * other) / np.sqrt((1 - one**2) * (1 - other**2))
        return partial

    return bootstrap.interval(statistic, range(len(first)))


def _image_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.width, image.height


def _sharpness_ratio(path: Path) -> float:
    """Energy of the second differences of luma over that of the first."""
    with Image.open(path) as image:
        luma = np.asarray(image.convert("L"), dtype=np.float64)
    return float(np.square(np.diff(luma, 2, axis=1)).mean() / (np.square(np.diff(luma, axis=1)).mean() + 1))


#: Trivial controls: name -> function of an image.
CONTROLS: dict[str, Callable[[Path], float]] = {
    "image height": lambda path: _image_size(path)[1],
    "smaller image": lambda path: -math.prod(_image_size(path)),
    "file size": lambda path: path.stat().st_size,
    "sharpness ratio": _sharpness_ratio,
}
