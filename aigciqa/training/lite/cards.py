"""Model cards of the embedded metrics, written from what was measured."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aigciqa.stats.bootstrap import Interval
from aigciqa.stats.reference_sets import ReferenceSet
from aigciqa.training.lite.degradations import SUMMARIES

#: A control that comes this close is said to do as well.
CLOSE = 0.02

TITLES = {
    "nr-lite": "nr-lite: embedded no-reference quality",
    "nr-lite-native": "nr-lite, native presentation: embedded no-reference quality at the image's own pixels",
    "fr-lite": "fr-lite: embedded full-reference quality",
    "nr-efficientnet-lite2": "nr-efficientnet-lite2: no-reference quality, taught by people's choices",
}
USES = {
    "nr-lite": 'aigciqa.create_metric("nr-lite")("out.png")',
    "nr-lite-native": 'aigciqa.create_metric("nr-lite", weights="native")("out.png")',
    "fr-lite": 'aigciqa.create_metric("fr-lite")("out.png", "prompt.png")',
    "nr-efficientnet-lite2": 'aigciqa.create_metric("nr-efficientnet-lite2")("out.png")',
}
PRESENTATIONS = {
    "nr-lite": "the common size: short side 512 pixels, as people see generated images at one display size",
    "nr-lite-native": "native: the image's own pixels, as people see compressed photographs at 1:1",
    "fr-lite": "the common size: short side 512 pixels, image and reference alike",
    "nr-efficientnet-lite2": "the common size: short side 512 pixels, and nine crops of 224 of it",
}
#: What scores are made from.
SOURCES = {
    "nr-lite": "natural-scene statistics of sampled blocks; trained on degraded photographs and on people's choices",
    "nr-lite-native": "natural-scene statistics of sampled blocks; trained without human labels",
    "fr-lite": "natural-scene statistics of sampled blocks; trained without human labels",
    "nr-efficientnet-lite2": """natural-scene statistics of sampled blocks and features of EfficientNet-Lite2, whose
ImageNet weights come with the extra `fit`; the head was trained on people's choices""",
}
#: How often people's judgements were looked at to choose the designs.
LOOKS = """
The sets with human judgements below were looked at while choosing the design: more than a hundred times before people's
choices were added (gan-compression, resolution-compression), and ten times, at some 280 figures, to add them (realness
too). So their figures are optimistic. No image of them was trained on."""
CALIBRATIONS = {
    "nr-efficientnet-lite2": """Scores are calibrated on every third training photograph, pristine and degraded as
strongly as can be. This metric takes the normalisation of the statistics and the distribution of pristine photographs
from the images above; their labels taught it nothing."""
}
CALIBRATION = (
    "Scores are calibrated on training photographs by ensemble members that were fitted to other subjects than theirs."
)


@dataclass
class Table:
    """One measurement.

    Attributes:
        title: what was measured, on what.
        controls: trivial or published values beside it -> figure.
        wanted: what was aimed for; None for rows that just inform.
        rows: name -> its figure with every seed, the shipped one first.
    """

    title: str
    controls: Mapping[str, Interval]
    wanted: float | None
    rows: dict[str, list[Interval]] = field(default_factory=dict)


def results(tables: Mapping[str, Table]) -> dict[str, object]:
    """The shipped weights' figures, as `config.json` keeps them: key -> [value, low, high]."""
    return {
        key: {name: [round(x, 4) for x in (f[0].value, f[0].low, f[0].high)] for name, f in table.rows.items()}
        for key, table in tables.items()
    }


def card(
    variant: str,
    tables: Mapping[str, Table],
    metadata: Mapping[str, object],
    reference_sets: Sequence[ReferenceSet] = (),
) -> str:
    """The card of a variant; `metadata` is what `training_data.metadata` says of the data."""
    taught = [_taught(metadata)] if "choices" in metadata else []
    parts = [_front(variant), _data(variant, metadata), *taught, _scope(variant, tables), _validation()]
    parts += [_table(table) for table in tables.values()]
    parts += [reference_sets_section(reference_sets)] if reference_sets else []
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    """Paragraphs of at most 120 characters a line."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    lines = [textwrap.fill(p, 120, break_long_words=False, break_on_hyphens=False) for p in paragraphs if p]
    return "\n\n".join(lines)


def _front(variant: str) -> str:
    kind = "full" if variant.startswith("fr") else "no"
    text = _wrapped(f"""
A score in [0, 5], higher is better, from {SOURCES[variant]}.
Pristine photographs come near 4.5, the worst degradations near 0.5. Presentation: {PRESENTATIONS[variant]}.""")
    return f"""---
library_name: aigciqa
license: apache-2.0
tags: [image-quality-assessment, ai-generated-images, {kind}-reference]
---
# {TITLES[variant]}

{text}

```python
import aigciqa

score = {USES[variant]}
```"""


def _data(variant: str, metadata: Mapping[str, object]) -> str:
    listed = "\n".join(f"- `{name}`: {summary}" for name, summary in SUMMARIES.items())
    made = _wrapped(f"""
{metadata["images"]:,} images made from {metadata["photographs"]} photographs (DreamBooth's subjects, CC BY 4.0, and the
Kodak PhotoCD suite); {metadata["held_out"]} photographs of other subjects are held out, and every figure on photographs
below is on those. Each image is a photograph degraded by one to three of these, or pristine:""")
    labelled = _wrapped(f"""
The label of a degraded image is half the mean rank of full-reference metrics (VIF, GMSD, MDSI, HaarPSI) and half the
strength of its degradations. No person judged any of them.

{LOOKS}

{CALIBRATIONS.get(variant, CALIBRATION)}

Recipe: `python examples/train_lite.py --photos DIR --human DIR`; seeded, and the shipped weights are what it wrote.""")
    return f"## Data and labels\n\n{made}\n\n{listed}\n\n{labelled}"


def _taught(metadata: Mapping[str, object]) -> str:
    text = _wrapped(f"""
{metadata["choices"]} pictures of {metadata["scenes"]} scenes, each enlarged by four networks (one of them a diffusion
model; hamzafer/super-resolution-color, MIT), and the share of people who picked each as the best of its scene. A ridge
regression of the shares on the features; its strength is the one that says most of scenes left out. Features that
people taught, and what degraded photographs taught, are added, each in units of its deviation over these pictures.

Within scenes left out, the ridge correlates with the shares at {metadata["agreement"]}.""")
    return f"## What people taught\n\n{text}"


def _scope(variant: str, tables: Mapping[str, Table]) -> str:
    text = """
It sees blur, upsampling, blocking, noise, over-smoothing, ringing, over-sharpening and the regular patterns of
decoders. It does not see meaning: anatomy, hands, text, perspective, prompt fidelity, beauty. Shapes bent or swapped
without a change of texture (warps, swirls) it hardly sees. Among images of one good generator its ranking is near
chance. Made-up texture that is crisp (the look of a GAN) can score higher than the truth. An image that is meant to be
soft, flat or grainy scores lower than one that is crisp. As a loss it can be gamed: raise it together with something
that holds on to the content."""
    if variant == "fr-lite":
        text += f"""

The reference matters in two ways. Where it is the same image (a compressed, restored or upscaled version against its
original), the score says how far the statistics moved. Where it is another image (an image prompt), the score is
the no-reference one with a small correction: it does not say whether the prompt was followed.
{_beside_no_reference(tables.get("other_reference"))}"""
    if variant in ("nr-lite-native", "fr-lite"):
        text += "\n\nQuality maps come from nr-lite's head on single blocks; its card says how good they are."
    return f"## What it measures, and what it does not\n\n{_wrapped(text)}"


def _beside_no_reference(table: Table | None) -> str:
    """What another photograph of the subject as reference is worth, in words."""
    if table is None:
        return ""
    pairs = zip(table.rows["fr-lite"], table.rows["nr-lite"], strict=True)
    gains = [ours.value - plain.value for ours, plain in pairs]
    if min(gains) < 0:
        return f"**With such a reference it tells pristine from degraded worse than nr-lite, by {-min(gains):.3f}.**"
    return f"""Such a reference is never worth less than none: with every seed fr-lite tells pristine from degraded as
well as nr-lite alone or better, but by {min(gains):.3f} to {max(gains):.3f} only."""


def _validation() -> str:
    text = _wrapped("""
Each figure is that of the shipped weights with its 95% interval (1,000 resamples of photographs, images or pairs);
then the values of all seeds. Controls are measures of a line that need no training, or published values on the same
images: MS-SSIM, VIF and PSNR see the original, hyperIQA is a network without reference, trained on people's ratings.
All images of gan-compression have one size, and so have those made of held-out photographs, which are not files
either: the image's size, and the file's, would say nothing there.""")
    return f"## Validation\n\n{text}"


def _table(table: Table) -> str:
    lines = [f"### {table.title}", "", "| | value [95%] | seeds |", "|---|---|---|"]
    for name, figures in table.rows.items():
        seeds = ", ".join(f"{figure.value:.3f}" for figure in figures)
        lines.append(f"| {name} | {figures[0]} | {seeds} |")
    lines += [f"| control: {name} | {figure} | |" for name, figure in table.controls.items()]
    remarks = " ".join([*_verdict(table), *_remarks(table)])
    return "\n".join([*lines, "", _wrapped(remarks)] if remarks else lines)


def reference_sets_section(reference_sets: Sequence[ReferenceSet]) -> str:
    """What a card says of the reference sets."""
    text = _wrapped("""
Scores of images that are known. Percentiles (`aigciqa score --percentiles`, and in the report) say where a score stands
among them; tables tell the first set. The AI-generated images are those of `realness`, by several generators, which are
not told. They have 512 x 384 pixels: scaled up to a short side of 512 they are a little soft, and larger images easily
stand above most of them. The photographs are pristine, of subjects that were not trained on.""")
    lines = ["| | n | 5% | 25% | 50% | 75% | 95% |", "|---|---|---|---|---|---|---|"]
    for each in reference_sets:
        quantiles = each.quantiles["quality"]
        cells = (f"{quantiles[share * (len(quantiles) - 1) // 100]:.3f}" for share in (5, 25, 50, 75, 95))
        lines.append(f"| {each.name} | {each.n} | {' | '.join(cells)} |")
    return "\n".join([f"## Reference sets\n\n{text}\n", *lines])


def _verdict(table: Table) -> list[str]:
    if table.wanted is None:
        return []
    values = [figure.value for figure in next(iter(table.rows.values()))]
    if values[0] < table.wanted:
        return [f"Aimed for: {table.wanted:g}; **not reached**."]
    missed = sum(value < table.wanted for value in values)
    but = f", not with {missed} of the {len(values)} seeds" if missed else ""
    return [f"Aimed for: {table.wanted:g}; reached{but}."]


def _remarks(table: Table) -> list[str]:
    ours = next(iter(table.rows.values()))[0].value
    better = [name for name, figure in table.controls.items() if figure.value > ours]
    close = [name for name, figure in table.controls.items() if ours - CLOSE < figure.value <= ours]
    remarks = [f"**Better here: {', '.join(better)}.**"] if better else []
    return [*remarks, f"As good here: {', '.join(close)}."] if close else remarks
