"""All that is measured of the embedded metrics, for their cards: with every seed, controls beside each figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from aigciqa.metric import Metric
from aigciqa.stats.bootstrap import Interval
from aigciqa.training.lite import held_out, human_judgements
from aigciqa.training.lite.cards import Tables
from aigciqa.training.lite.held_out import HeldOut
from aigciqa.training.lite.recipe import VARIANTS, Fitted

PUBLISHED = ("MS-SSIM", "VIF", "PSNR", "hyperIQA")
CONTROLS = {
    "image height": human_judgements.image_height,
    "smaller image": human_judgements.smaller_image,
    "file size": human_judgements.file_size,
    "sharpness ratio": human_judgements.sharpness_ratio,
}
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
}
Figures = Mapping[str, Interval]


class Validation:
    """Measures fits on held-out photographs and, where they are at hand, on the two sets with human judgements.

    Attributes:
        tables: variant -> what was measured so far.
    """

    def __init__(self, drawn: HeldOut, judgements: Path | None) -> None:
        self.tables = {variant: Tables() for variant in VARIANTS}
        self._drawn = drawn
        self._folders = None
        self._monotone = held_out.plain_monotonicity(drawn.ladders)
        self._labels = held_out.plain_label_agreement(drawn.chains)
        self._areas = held_out.plain_map_areas(drawn.patches)
        if judgements is not None:
            self._folders = gan, resolution = judgements / "gan-compression", judgements / "resolution-compression"
            self._gan = {f"{name} (published)": human_judgements.published_agreement(gan, name) for name in PUBLISHED}
            for name in ("file size", "sharpness ratio"):
                self._gan[name] = human_judgements.gan_compression(gan, _without_original(CONTROLS[name]))
            self._resolution = {
                name: human_judgements.resolution_compression(resolution, f) for name, f in CONTROLS.items()
            }

    def measure(self, fitted: Fitted, folder: Path) -> None:
        """Add a seed's figures.

        Args:
            fitted: what was fitted with the seed.
            folder: where its variants were written.
        """
        for variant in VARIANTS:
            self._measure_order(variant, fitted)
        self._measure_maps(fitted)
        self._measure_references(fitted)
        for variant in VARIANTS:
            self._measure_human_judgements(variant, Metric.from_pretrained(folder / variant))

    def _add(self, variant: str, table: str, title: str, rows: Figures, controls: Figures | None = None) -> None:
        self.tables[variant].add(table, title, rows, WANTED.get((variant, table)), controls)

    def _measure_order(self, variant: str, fitted: Fitted) -> None:
        rows = held_out.monotonicity(self._drawn.ladders, fitted, variant)
        title = "Adjacent strengths ordered right, held-out photographs, pristine included"
        self._add(variant, "monotone", title, rows, self._monotone)
        agreement = {variant: held_out.label_agreement(self._drawn.chains, fitted, variant)}
        title = "SRCC with the labels of mixed degradations, held-out photographs"
        self._add(variant, "labels", title, agreement, self._labels)
        rows = held_out.calibration(self._drawn, fitted, variant)
        self._add(variant, "calibration", "Mean scores of held-out photographs", rows)

    def _measure_maps(self, fitted: Fitted) -> None:
        rows = held_out.map_areas(self._drawn.patches, fitted)
        title = "Quality map: area under the ROC curve for the degraded square of a pristine photograph"
        self._add("nr-lite", "map", title, rows, self._areas)

    def _measure_references(self, fitted: Fitted) -> None:
        share = held_out.identity_is_best(self._drawn.ladders, fitted)
        title = "Degraded images that score no higher than the reference itself"
        self._add("fr-lite", "identity", title, {"share": share})
        rows = held_out.other_reference(self._drawn.ladders, fitted)
        if rows:
            controls = {name: rows.pop(name) for name in held_out.PLAIN}
            title = "Pristine over moderately degraded, reference another photograph of the subject"
            self._add("fr-lite", "other_reference", title, rows, controls)

    def _measure_human_judgements(self, variant: str, metric: Metric) -> None:
        if self._folders is None:
            return
        gan, resolution = self._folders
        rows = human_judgements.gan_compression(gan, _scorer(metric))
        for key, title in GAN.items():
            controls = {name: figures[key] for name, figures in self._gan.items()}
            self._add(variant, f"gan_compression_{key}", title, {variant: rows[key]}, controls)
        if metric.requires_reference:
            return
        rows = human_judgements.resolution_compression(resolution, lambda image: float(metric(image)))
        for key, title in RESOLUTION.items():
            controls = {name: figures[key] for name, figures in self._resolution.items() if key in figures}
            self._add(variant, f"resolution_compression_{key}", title, {variant: rows[key]}, controls)


def _scorer(metric: Metric) -> Callable[[Path, Path], float]:
    """A function of an image and its original; a metric without reference ignores the latter."""
    if metric.requires_reference:
        return lambda image, original: float(metric(image, original))
    return _without_original(lambda image: float(metric(image)))


def _without_original(score: Callable[[Path], float]) -> Callable[[Path, Path], float]:
    """A function of an image, as one of an image and its original."""
    return lambda image, original: score(image)
