"""Model cards of the embedded metrics, written from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aigciqa.training.degradations import degradation, names
from aigciqa.training.validation import Figure

#: A control that comes this close is said to do as well.
CLOSE = 0.02

TITLES = {
    "nr-lite": "nr-lite: embedded no-reference quality",
    "nr-lite-native": "nr-lite, native presentation: embedded no-reference quality at the picture's own pixels",
    "fr-lite": "fr-lite: embedded full-reference quality",
}
USES = {
    "nr-lite": 'aigciqa.create_metric("nr-lite")("out.png")',
    "nr-lite-native": 'aigciqa.create_metric("nr-lite", weights="native")("out.png")',
    "fr-lite": 'aigciqa.create_metric("fr-lite")("out.png", "prompt.png")',
}
PRESENTATIONS = {
    "nr-lite": "the common size: short side 512 pixels, as people see generated pictures at one display size",
    "nr-lite-native": "native: the picture's own pixels, as people see compressed photographs at 1:1",
    "fr-lite": "the common size: short side 512 pixels, picture and reference alike",
}


@dataclass
class Table:
    """One measurement.

    Attributes:
        title: what was measured, on what.
        rows: name -> its figure with every seed, the shipped one first.
        controls: trivial or published values beside it -> figure.
        wanted: what was aimed for; None for rows that just inform.
    """

    title: str
    rows: dict[str, list[Figure]] = field(default_factory=dict)
    controls: dict[str, Figure] = field(default_factory=dict)
    wanted: float | None = None


@dataclass
class Tables:
    """The tables of a variant: key -> table."""

    tables: dict[str, Table] = field(default_factory=dict)

    def add(
        self,
        key: str,
        title: str,
        rows: Mapping[str, Figure],
        wanted: float | None = None,
        controls: Mapping[str, Figure] | None = None,
    ) -> None:
        """Add the rows of one seed to a table, made if new."""
        table = self.tables.setdefault(key, Table(title, {}, dict(controls or {}), wanted))
        for name, figure in rows.items():
            table.rows.setdefault(name, []).append(figure)


def results(tables: Mapping[str, Table]) -> dict[str, object]:
    """The shipped weights' figures, as `config.json` keeps them: key -> [value, low, high]."""
    return {
        key: {name: [round(x, 4) for x in (f[0].value, f[0].low, f[0].high)] for name, f in table.rows.items()}
        for key, table in tables.items()
    }


def card(variant: str, tables: Sequence[Table], photographs: tuple[int, int], pictures: int) -> str:
    """The card of a variant.

    Args:
        variant: which.
        tables: what was measured.
        photographs: how many were trained on, and how many held out.
        pictures: how many degraded pictures were trained on.
    """
    parts = [_head(variant), _data(photographs, pictures), _scope(variant), "## Validation\n", _INTERVALS]
    parts += [_table(table) for table in tables]
    return "\n".join(parts)


def _head(variant: str) -> str:
    kind = "full" if variant.startswith("fr") else "no"
    return f"""---
library_name: aigciqa
license: apache-2.0
tags: [image-quality-assessment, ai-generated-images, {kind}-reference]
---
# {TITLES[variant]}

A score in [0, 5], higher is better, from natural-scene statistics of sampled blocks; trained without human labels.
Pristine photographs come near 4.5, the worst degradations near 0.5. Presentation: {PRESENTATIONS[variant]}.

```python
import aigciqa

score = {USES[variant]}
```
"""


def _data(photographs: tuple[int, int], pictures: int) -> str:
    listed = "\n".join(f"- `{name}`: {degradation(name).summary}" for name in names())
    return f"""## Data and labels

{pictures:,} pictures made from {photographs[0]} photographs (DreamBooth's subjects, CC BY 4.0, and the Kodak PhotoCD
suite); {photographs[1]} photographs of other subjects are held out, and every figure on photographs below is on
those. Each picture is a photograph degraded by one to three of these, or pristine:

{listed}

The label of a degraded picture is half the mean rank of full-reference metrics (VIF, GMSD, MDSI, HaarPSI) and half the
strength of its degradations. No person judged any of them, and no picture of the sets with human judgements below was
trained on; they were looked at while choosing among designs, so their figures are optimistic.

Recipe: `python examples/train_lite.py --photos DIR`; seeded, and the shipped weights are what it wrote.
"""


def _scope(variant: str) -> str:
    reference = """
The reference matters in two ways. Where it is the same picture (a compressed, restored or upscaled version against its
original), the score says how far the statistics moved. Where it is another picture (an image prompt), the score is
the no-reference one with a small correction: it does not say whether the prompt was followed.
"""
    return f"""## What it measures, and what it does not

It sees blur, upsampling, blocking, noise, over-smoothing, ringing, over-sharpening and the regular patterns of
decoders. It does not see meaning: anatomy, hands, text, perspective, prompt fidelity, beauty. Shapes bent or swapped
without a change of texture (warps, swirls) it hardly sees. Among pictures of one good generator its ranking is near
chance. Made-up texture that is crisp (the look of a GAN) can score higher than the truth. A picture that is meant to be
soft, flat or grainy scores lower than one that is crisp. As a loss it can be gamed: raise it together with something
that holds on to the content.
{reference if variant == "fr-lite" else ""}"""


_INTERVALS = """\
Each figure is that of the shipped weights with its 95% interval (1,000 resamples of photographs, pictures or
pairs); then the values of all seeds. Controls are one-line measures or published values on the same pictures.
"""


def _table(table: Table) -> str:
    lines = [f"### {table.title}", "", "| | value [95%] | seeds |", "|---|---|---|"]
    for name, figures in table.rows.items():
        seeds = ", ".join(f"{figure.value:.3f}" for figure in figures)
        lines.append(f"| {name} | {figures[0]} | {seeds} |")
    lines += [f"| control: {name} | {figure} | |" for name, figure in table.controls.items()]
    lines.append("")
    if table.wanted is not None:
        ours = next(iter(table.rows.values()))[0].value
        lines.append(f"Aimed for: {table.wanted:g}; {'reached' if ours >= table.wanted else '**not reached**'}.")
    lines += [_remark(table), ""]
    return "\n".join(line for line in lines if line is not None)


def _remark(table: Table) -> str:
    ours = next(iter(table.rows.values()))[0].value
    better = [name for name, figure in table.controls.items() if figure.value > ours]
    close = [name for name, figure in table.controls.items() if ours - CLOSE < figure.value <= ours]
    remarks = []
    if better:
        remarks.append(f"**A control does better here: {', '.join(better)}.**")
    if close:
        remarks.append(f"A control does as well here: {', '.join(close)}.")
    return " ".join(remarks)
