"""All that is measured of the embedded metrics, for their cards: with every seed, controls beside each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from aigciqa.metric import Metric
from aigciqa.stats.bootstrap import Interval
from aigciqa.stats.means import mean_interval
from aigciqa.training.lite import held_out, human_judgements, taught
from aigciqa.training.lite.cards import Table
from aigciqa.training.lite.held_out import HeldOut
from aigciqa.training.lite.photos import Photo
from aigciqa.training.lite.recipe import MIXES, VARIANTS, Fitted

PUBLISHED = ("MS-SSIM", "VIF", "PSNR", "hyperIQA")
#: Figure of a set -> its title.
GAN = {
    "srcc": "gan-compression: SRCC with Bradley-Terry scores",
    "pairs": "gan-compression: pairs whose majority agrees",
    "votes": "gan-compression: single votes that agree",
}
RESOLUTION = {
    "srcc": "resolution-compression: SRCC with mean opinion scores",
    "partial": "resolution-compression: partial SRCC given the height",
}
REALNESS = {
    "generated": "realness: SRCC with how real people found them, AI-generated pictures alone",
    "all": "realness: the same, photographs among them",
}
#: (variant, table) -> what was aimed for.
WANTED = {
    ("nr-lite", "monotone"): 0.88,
    ("nr-lite-native", "monotone"): 0.88,
    ("fr-lite", "monotone"): 0.975,
    ("nr-lite", "map"): 0.93,
    ("fr-lite", "identity"): 0.99,
    ("fr-lite", "other_reference"): 0.92,
    ("fr-lite", "gan_compression_srcc"): 0.85,
    ("fr-lite", "gan_compression_pairs"): 0.85,
    ("nr-lite-native", "gan_compression_srcc"): 0.38,
    ("nr-lite", "resolution_compression_srcc"): 0.85,
    ("nr-lite", "resolution_compression_partial"): 0.30,
    ("nr-lite", "realness_generated"): 0.25,
    ("nr-efficientnet-lite2", "realness_generated"): 0.25,
}
Figures = Mapping[str, Interval]
#: Row of `nr-lite` less what people taught: what version 0.1.0 shipped.
UNTAUGHT = "version 0.1.0, without people's choices"


class Validation:
    """Measures fits on held-out photographs and, where they are at hand, on the three sets with human judgements.

    `tables` has what was measured so far: variant -> key -> table.
    """

    def __init__(self, drawn: HeldOut, judgements: Path | None) -> None:
        self.tables: dict[str, dict[str, Table]] = {variant: {} for variant in (*VARIANTS, taught.VARIANT)}
        self._drawn = drawn
        self._folders = None
        plain = {name: held_out.plain_scorer(index) for name, index in held_out.PLAIN.items()}
        self._monotone = {name: held_out.monotonicity(drawn.ladders, score)["all"] for name, score in plain.items()}
        self._labels = {name: held_out.label_agreement(drawn.chains, score) for name, score in plain.items()}
        self._areas = held_out.plain_map_areas(drawn.patches)
        if judgements is not None:
            names = ("realness", "gan-compression", "resolution-compression")
            self._folders = real, gan, resolution = [judgements / name for name in names]
            controls = human_judgements.CONTROLS
            self._gan = {f"{name} (published)": human_judgements.published_agreement(gan, name) for name in PUBLISHED}
            for name in ("file size", "sharpness ratio"):
                self._gan[name] = human_judgements.gan_compression(gan, controls[name])
            self._resolution = {
                name: human_judgements.resolution_compression(resolution, score) for name, score in controls.items()
            }
            self._realness = {
                name: human_judgements.realness(real, controls[name]) for name in ("file size", "sharpness ratio")
            }

    def measure(self, fitted: Fitted, folder: Path) -> None:
        """Add the figures of what was fitted with a seed, whose variants were written to a folder."""
        for variant in VARIANTS:
            self._measure_order(variant, fitted)
        areas = held_out.map_areas(self._drawn.patches, fitted)
        title = "Quality map: area under the ROC curve for the degraded square of a pristine photograph"
        self._add("nr-lite", "map", title, areas, self._areas)
        self._measure_references(fitted)
        for variant in VARIANTS:
            self._measure_human_judgements(variant, Metric.from_pretrained(folder / variant))
        if bool(fitted.heads["nr-lite"].get_parameter("taught").any()):
            self._measure_human_judgements("nr-lite", _untaught(folder / "nr-lite"), UNTAUGHT)

    def measure_taught(self, fitted: taught.Taught, folder: Path, photos: Sequence[Photo]) -> None:
        """Add the figures of `nr-efficientnet-lite2`, which was written to a folder; the photographs are held out."""
        with torch.no_grad():
            made = [fitted.backbone.pool(maps) for maps in taught.photo_maps(photos, fitted.backbone)]
            scores = torch.stack([fitted.head(features)[:, 0] for features in made])
        title = "Pristine over the same photograph at the greatest strength of a degradation, held-out photographs"
        ordered = {"share": mean_interval((scores[:, 0] > scores[:, 1]).double())}
        self._add(taught.VARIANT, "pristine_first", title, ordered)
        rows = {"pristine": mean_interval(scores[:, 0]), "greatest strength": mean_interval(scores[:, 1])}
        self._add(taught.VARIANT, "calibration", "Mean scores of held-out photographs", rows)
        self._measure_human_judgements(taught.VARIANT, Metric.from_pretrained(folder / taught.VARIANT))

    def _add(self, variant: str, key: str, title: str, rows: Figures, controls: Figures | None = None) -> None:
        """Add the rows of one seed to a table, made if new."""
        table = self.tables[variant].setdefault(key, Table(title, controls or {}, WANTED.get((variant, key))))
        for name, figure in rows.items():
            table.rows.setdefault(name, []).append(figure)

    def _measure_order(self, variant: str, fitted: Fitted) -> None:
        score = held_out.scorer(fitted, variant)
        rows = held_out.monotonicity(self._drawn.ladders, score)
        title = "Adjacent strengths ordered right, held-out photographs, pristine included"
        self._add(variant, "monotone", title, rows, self._monotone)
        agreement = {variant: held_out.label_agreement(self._drawn.chains, score)}
        title = "SRCC with the labels of mixed degradations, held-out photographs"
        self._add(variant, "labels", title, agreement, self._labels)
        rows = held_out.calibration(self._drawn, score)
        self._add(variant, "calibration", "Mean scores of held-out photographs", rows)

    def _measure_references(self, fitted: Fitted) -> None:
        share = held_out.identity_is_best(self._drawn.ladders, held_out.scorer(fitted, "fr-lite"))
        title = "Degraded images that score no higher than the reference itself"
        self._add("fr-lite", "identity", title, {"share": share})
        rows = held_out.other_reference(self._drawn.ladders, fitted)
        if rows:
            controls = {name: rows.pop(name) for name in held_out.PLAIN}
            title = "Pristine over moderately degraded, reference another photograph of the subject"
            self._add("fr-lite", "other_reference", title, rows, controls)

    def _measure_human_judgements(self, variant: str, metric: Metric, row: str | None = None) -> None:
        if self._folders is None:
            return
        real, gan, resolution = self._folders
        row = row or variant

        def score(*images: Path) -> float:
            return float(metric(*images))

        rows = human_judgements.gan_compression(gan, score, metric.requires_reference)
        for key, title in GAN.items():
            controls = {name: figures[key] for name, figures in self._gan.items()}
            self._add(variant, f"gan_compression_{key}", title, {row: rows[key]}, controls)
        if metric.requires_reference:
            return
        rows = human_judgements.realness(real, score)
        for key, title in REALNESS.items():
            controls = {name: figures[key] for name, figures in self._realness.items()}
            self._add(variant, f"realness_{key}", title, {row: rows[key]}, controls)
        rows = human_judgements.resolution_compression(resolution, score)
        for key, title in RESOLUTION.items():
            controls = {name: figures[key] for name, figures in self._resolution.items() if key in figures}
            self._add(variant, f"resolution_compression_{key}", title, {row: rows[key]}, controls)


def _untaught(folder: Path) -> Metric:
    metric = Metric.from_pretrained(folder)
    with torch.no_grad():
        metric.head.get_parameter("taught").zero_()
        metric.head.get_buffer("quality.mix").copy_(torch.tensor([*MIXES["nr-lite"], 0.0]))
    return metric
