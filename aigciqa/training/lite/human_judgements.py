"""The embedded metrics against people's judgements, published metrics and trivial controls beside them.

Two sets: `gan-compression` (photographs and their reconstructions by three networks, judged in pairs) and
`resolution-compression` (frames scaled down and compressed, rated when scaled up).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from aigciqa.stats import bootstrap
from aigciqa.stats.bootstrap import Array, Interval
from aigciqa.stats.correlations import srcc_interval
from aigciqa.stats.means import mean_interval
from aigciqa.tables.csv_text import read_records


def gan_compression(folder: Path, score: Callable[[Path, Path], float]) -> dict[str, Interval]:
    """Agreement with two-alternative judgements of reconstructed photographs.

    Args:
        folder: holds `jdg.csv` and `images/`.
        score: (image, its original) -> score.

    Returns:
        `srcc` with Bradley-Terry scores of the images, `pairs` (share of pairs whose majority agrees), `votes`.
    """
    files = {_content_key(path.stem): path for path in sorted((folder / "images").rglob("*.png"))}
    pairs = [pair for pair in _judgements(folder / "jdg.csv") if pair[0] in files and pair[1] in files]
    scores = {key: score(path, files[f"{key.split('_')[0]}_original"]) for key, path in files.items()}
    return agreement(scores, pairs, bradley_terry(_judgements(folder / "jdg.csv")))


Judgement = tuple[str, str, int, int]


def agreement(
    scores: Mapping[str, float], pairs: Sequence[Judgement], strengths: Mapping[str, float]
) -> dict[str, Interval]:
    """SRCC with strengths, and agreement with pairs (first, second, votes for the first, votes for the second)."""
    keys = sorted(scores)
    ours, theirs = np.array([scores[key] for key in keys]), np.array([strengths[key] for key in keys])
    first = np.array([scores[a] > scores[b] for a, b, _, _ in pairs])
    votes = np.array([[x, y] for _, _, x, y in pairs])
    agreeing, total = np.where(first, votes[:, 0], votes[:, 1]), votes.sum(axis=1)
    decided = votes[:, 0] != votes[:, 1]
    right = (first == (votes[:, 0] > votes[:, 1]))[decided]

    return {
        "srcc": srcc_interval(ours, theirs),
        "pairs": mean_interval(right.astype(np.float64)),
        "votes": bootstrap.interval(lambda weight: weight @ agreeing / (weight @ total), range(len(pairs))),
    }


def published_agreement(folder: Path, column: str, sign: float = 1.0) -> dict[str, Interval]:
    """The same agreement for a metric whose values are in the set's `metrics.csv`."""
    records = read_records(folder / "metrics.csv", "ID")
    rows = {_row_key(row["ID"], row["Model"], row["Quality"]): row[column] for row in records}
    files = {_content_key(path.stem) for path in (folder / "images").rglob("*.png")}
    highest = max(float(value) for value in rows.values() if value not in ("", "inf"))
    scores = {key: sign * (float(rows[key]) if rows[key] not in ("", "inf") else highest) for key in files}
    pairs = _judgements(folder / "jdg.csv")
    return agreement(scores, [p for p in pairs if p[0] in scores and p[1] in scores], bradley_terry(pairs))


def bradley_terry(pairs: Sequence[Judgement], prior: float = 0.1) -> dict[str, float]:
    """Log strengths of images from pairs, contents apart; each pair gets `prior` votes either way."""
    strengths: dict[str, float] = {}
    contents: dict[str, list[Judgement]] = {}
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


def _judgements(path: Path) -> list[Judgement]:
    rows = list(read_records(path, "Image_A"))
    people = [name for name in rows[0] if name.isdigit()]
    pairs = []
    for row in rows:
        votes = [int(float(row[person])) for person in people if row[person] != ""]
        first = _row_key(row["Image_A"], row["Model_A"], row["Quality_A"])
        second = _row_key(row["Image_B"], row["Model_B"], row["Quality_B"])
        pairs.append((first, second, len(votes) - sum(votes), sum(votes)))
    return pairs


def _row_key(content: str, model: str, quality: str) -> str:
    return f"{content}_original" if model.startswith("original") else f"{content}_{model}_{quality}"


def _content_key(stem: str) -> str:
    content, rest = stem.split("_", 1)
    return f"{int(content)}_{rest}"


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
        both, one, other = (
            bootstrap.spearman(weight, x, y) for x, y in ((first, second), (first, given), (second, given))
        )
        partial: Array = (both - one * other) / np.sqrt((1 - one**2) * (1 - other**2))
        return partial

    return bootstrap.interval(statistic, range(len(first)))


# Trivial controls


def image_height(path: Path) -> float:
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


def smaller_image(path: Path) -> float:
    """Minus the number of pixels."""
    with Image.open(path) as image:
        return -float(image.width * image.height)
