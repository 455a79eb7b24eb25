"""Compare metrics of this library, piq and pyiqa with people, on the same images.

    python examples/compare_metrics.py pku-i2iqa PKU-I2IQA --aigciqa nr-lite fr-lite --piq ssim gmsd --pyiqa niqe

Full-reference metrics compare an image with its image prompt, resized to the image where sizes differ, as these
metrics demand; on a database without image prompts choose others. Needs the database and `pip install aigciqa[train]`
(which brings piq); for `--pyiqa` also `pip install pyiqa`, whose metrics mostly download weights when first used.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

import aigciqa
from aigciqa.databases import Sample
from aigciqa.errors import InputError, MissingExtraError, WeightsError
from aigciqa.evaluation import Predictions, Setting, evaluate, plots, predict, text
from aigciqa.images.decode import load_image

#: piq's function -> whether low values are good. All compare with a reference and need no download.
PIQ = {
    "psnr": False, "ssim": False, "multi_scale_ssim": False, "vif_p": False, "fsim": False, "vsi": False,
    "haarpsi": False, "srsim": False, "gmsd": True, "multi_scale_gmsd": True, "mdsi": True,
}  # fmt: skip
Score = Callable[[Tensor, "Tensor | None"], float]


@dataclass(frozen=True)
class Other:
    """A metric of another library: image and reference, each (1, 3, H, W) in [0, 1], to a number."""

    label: str
    score: Score
    requires_reference: bool
    lower_better: bool


def main() -> None:
    """Score, compare, print."""
    options = arguments()
    database = aigciqa.load_database(options.database, options.root)
    split = database.split(options.protocol, seed=options.seed)
    dimensions = options.dimensions or database.dimensions
    others = [piq_metric(name) for name in options.piq] + [pyiqa_metric(name) for name in options.pyiqa]
    predictions = (
        predict(dict(zip(options.aigciqa, options.aigciqa, strict=True)), split.test) if options.aigciqa else []
    )
    predictions += [predicted(other, split.test, dimensions) for other in others]
    evaluation = evaluate(
        predictions,
        split.test,
        dimensions=dimensions if options.dimensions else None,
        setting=Setting(database.name, split.protocol, "test", split.seed, split.digest),
    )
    print(text.to_terminal(evaluation), end="")
    if options.output is not None:
        text.write_report(evaluation, options.output)
    if options.plots is not None:
        plots.write_plots(evaluation, options.plots)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("database", choices=aigciqa.list_databases(), metavar="database")
    parser.add_argument("root", help="folder of the database")
    parser.add_argument(
        "--aigciqa", nargs="*", default=["nr-lite", "fr-lite"], choices=aigciqa.list_metrics(), metavar="M"
    )
    parser.add_argument(
        "--piq", nargs="*", default=["psnr", "ssim", "gmsd"], choices=PIQ, metavar="M", help=", ".join(PIQ)
    )
    parser.add_argument("--pyiqa", nargs="*", default=[], metavar="M", help="names that pyiqa.list_models() has")
    parser.add_argument("--protocol", default="prompt-disjoint", help="whose test part is scored")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dimensions", nargs="+", metavar="D", help="opinion scores to compare with")
    parser.add_argument("-o", "--output", help="also write the table: .csv, .json, .md or .tex")
    parser.add_argument("--plots", help="also draw plots, into this folder")
    return parser.parse_args()


def piq_metric(name: str) -> Other:
    """A function of piq."""
    import piq

    function: Callable[..., Tensor] = getattr(piq, name)
    return Other(f"piq {name}", lambda image, reference: float(function(image, reference)), True, PIQ[name])


def pyiqa_metric(name: str) -> Other:
    """A metric of pyiqa."""
    try:
        pyiqa = importlib.import_module("pyiqa")
    except ImportError:
        raise SystemExit("--pyiqa needs pyiqa: pip install pyiqa") from None
    metric: Any = pyiqa.create_metric(name)
    compares = metric.metric_mode == "FR"

    def score(image: Tensor, reference: Tensor | None) -> float:
        return float(metric(image, reference) if compares else metric(image))

    return Other(f"pyiqa {name}", score, compares, bool(metric.lower_better))


@torch.no_grad()
def predicted(other: Other, samples: Sequence[Sample], dimensions: Sequence[str]) -> Predictions:
    """Scores of samples; the same for every dimension, for these metrics know of none."""
    scores = np.full(len(samples), math.nan)
    errors: list[str | None] = []
    for number, sample in enumerate(tqdm(samples, desc=other.label, unit="score", leave=False, disable=None)):
        try:
            scores[number] = one_score(other, sample)
            errors.append(None)
        except (ValueError, AssertionError) as error:  # piq asserts what it can't take
            errors.append(f"{sample.image}: {error}")
    return Predictions(other.label, dict.fromkeys(dimensions, scores), tuple(errors), lower_better=other.lower_better)


def one_score(other: Other, sample: Sample) -> float:
    """Raises ValueError where there is no reference and the metric needs one."""
    image = pixels(sample.image)
    if not other.requires_reference:
        return other.score(image, None)
    if sample.reference is None:
        raise ValueError(f"no image prompt, and {other.label} compares with one")
    reference = pixels(sample.reference)
    size = image.shape[-2:]
    if reference.shape[-2:] != size:
        reference = functional.interpolate(reference, size, mode="bicubic", antialias=True, align_corners=False).clamp(
            0, 1
        )
    return other.score(image, reference)


def pixels(path: str | os.PathLike[str]) -> Tensor:
    """A file as (1, 3, H, W) in [0, 1]."""
    array = np.asarray(load_image(path))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255


if __name__ == "__main__":
    try:
        main()
    except (InputError, MissingExtraError, WeightsError, OSError) as error:  # what the library refuses
        raise SystemExit(f"error: {error}") from None
