"""What people chose among pictures of one scene, and the linear scores that it teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from aigciqa.backbones import Backbone
from aigciqa.errors import InputError
from aigciqa.images.decode import load_image
from aigciqa.images.preprocess import Preprocessor
from aigciqa.registry import Preprocess
from aigciqa.tables.csv_text import read_records

#: Strengths of the ridge that are tried, as shares of the mean eigenvalue of the features' products.
STRENGTHS = tuple(0.1 * 10 ** (step / 4) for step in range(13))


@dataclass(frozen=True)
class Choices:
    """Pictures of several scenes, and how often each was picked as the best of its scene's.

    Attributes:
        paths: n files.
        scenes: what each shows.
        shares: (n,) in [0, 1]; they compare within a scene only, and their mean is the same in every scene.
    """

    paths: Sequence[Path]
    scenes: Sequence[str]
    shares: Tensor

    def numbers(self) -> Tensor:
        """(n,), the scenes as numbers from 0."""
        names = sorted(set(self.scenes))
        return torch.tensor([names.index(scene) for scene in self.scenes])

    def metadata(self, agreement: float) -> dict[str, object]:
        """What a score was taught by, for `config.json` and the card."""
        return {"choices": len(self.paths), "scenes": len(set(self.scenes)), "agreement": round(agreement, 3)}


def read_choices(folder: Path) -> Choices:
    """Read `choices.csv` of a folder: columns `image` (a path in the folder), `scene` and `share`."""
    rows = list(read_records(folder / "choices.csv", "image"))
    scenes = [row["scene"] for row in rows]
    if len(set(scenes)) < 2:
        raise InputError(f"{folder / 'choices.csv'} has {len(set(scenes))} scenes; expected two or more")
    shares = torch.tensor([float(row["share"]) for row in rows], dtype=torch.float64)
    return Choices([folder / row["image"] for row in rows], scenes, shares)


def encode_choices(choices: Choices, backbone: Backbone, preprocess: Preprocess) -> Tensor:
    """What a backbone's `pool` makes of the pictures, (n, D)."""
    preprocessor = Preprocessor(preprocess)
    features = []
    for path in tqdm(choices.paths, desc="pictures that people chose among", unit="picture"):
        pixels = preprocessor.normalize(preprocessor.image(load_image(path))[None])
        with torch.no_grad():
            features.append(backbone.pool(backbone(pixels)))
    return torch.cat(features)


@dataclass(frozen=True)
class LinearScore:
    """A score `features @ weight`, taught by choices, in units of the deviation of `said`.

    Attributes:
        weight: (D,) float32.
        said: (n,), what it says of each scene's pictures when it is fitted to the other scenes'.
        strength: of the ridge.
    """

    weight: Tensor
    said: Tensor
    strength: float


def fit_shares(features: Tensor, choices: Choices) -> LinearScore:
    """Ridge regression of shares on features (n, D), its strength chosen by leaving out a scene at a time.

    A share says nothing of its scene, and so the score learns not to go by what a scene shows.
    """
    features = features.double()
    scale = features.std(dim=0).clamp_min(1e-6)
    standard, scenes = (features - features.mean(dim=0)) / scale, choices.numbers()
    left_out = {each: _left_out(standard, choices.shares, scenes, each) for each in STRENGTHS}
    strength = min(left_out, key=lambda each: float((left_out[each] - choices.shares).square().mean()))
    unit = left_out[strength].std()
    weight = _ridge(standard, choices.shares, strength) / scale / unit
    return LinearScore(weight.float(), left_out[strength] / unit, strength)


def agreement(said: Tensor, choices: Choices) -> float:
    """Correlation within scenes of what is said (n,) with the shares."""
    scenes = choices.numbers()
    within = [values - _scene_means(values, scenes) for values in (said, choices.shares)]
    return float(torch.corrcoef(torch.stack(within))[0, 1])


def _left_out(features: Tensor, shares: Tensor, scenes: Tensor, strength: float) -> Tensor:
    """What is said (n,) of each scene's pictures by a ridge fitted to the others'."""
    said = torch.empty_like(shares)
    for scene in range(int(scenes.max()) + 1):
        out = scenes == scene
        center, mean = features[~out].mean(dim=0), shares[~out].mean()
        said[out] = mean + (features[out] - center) @ _ridge(features[~out], shares[~out], strength)
    return said


def _ridge(features: Tensor, shares: Tensor, strength: float) -> Tensor:
    """Weights (D,) of the ridge, by way of the products of the n feature vectors, of which there are few."""
    features, shares = features - features.mean(dim=0), shares - shares.mean()
    products = features @ features.T
    products.diagonal().add_(strength * float(products.diagonal().mean()))
    weights: Tensor = features.T @ torch.linalg.solve(products, shares)
    return weights


def _scene_means(values: Tensor, scenes: Tensor) -> Tensor:
    """(n,), of each picture the mean over its scene's."""
    return torch.stack([values[scenes == scene].mean() for scene in range(int(scenes.max()) + 1)])[scenes]
