"""Rows of scores on standard output, as they come."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence

from aigciqa.tables.columns import Row, scores_of
from aigciqa.tables.formats import header, lines
from aigciqa.tables.text import printable

_SCORE_WIDTH = 9


def row_printer(columns: Sequence[str], metrics: Sequence[str]) -> Callable[[Row], None]:
    """What prints rows, one at a time: aligned on a terminal, as CSV elsewhere. The header is printed at once."""
    if sys.stdout.isatty():
        return _AlignedTable(columns, metrics).print

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()

    write(header(columns, ".csv"))
    return lambda row: write(lines([row], columns, ".csv"))


class _AlignedTable:
    """Scores on a terminal. Long paths lose their beginning."""

    def __init__(self, columns: Sequence[str], metrics: Sequence[str]) -> None:
        self.scored = scores_of(columns)
        self.several = len(metrics) > 1
        self.metric_width = max(map(len, metrics)) + 2 if self.several else 0
        self.score_widths = [max(_SCORE_WIDTH, len(name) + 2) for name in self.scored]
        width = shutil.get_terminal_size().columns
        self.image_width = max(20, width - self.metric_width - sum(self.score_widths) - 1)
        self._line("image", "metric", list(self.scored))

    def print(self, row: Row) -> None:
        if row["error"] is not None:
            self._line(row["image"], row["metric"], ["error"] + ["-"] * (len(self.scored) - 1))
            sys.stdout.write(f"    {printable(row['error'])}\n")
        else:
            scores = [row[name] for name in self.scored]
            self._line(row["image"], row["metric"], ["-" if s is None else f"{s:.3f}" for s in scores])
        sys.stdout.flush()

    def _line(self, image: str, metric: str, scores: Sequence[str]) -> None:
        name = printable(image)
        if len(name) > self.image_width:
            name = "…" + name[1 - self.image_width :]
        cells = [f"{score:>{width}}" for score, width in zip(scores, self.score_widths, strict=True)]
        middle = f"  {metric:<{self.metric_width - 2}}" if self.several else ""
        sys.stdout.write(f"{name:<{self.image_width}}{middle}{''.join(cells)}\n")
