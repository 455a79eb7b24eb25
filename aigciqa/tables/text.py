"""Tables to be read: aligned for the terminal, Markdown, LaTeX; and how text and numbers look in them."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aigciqa.errors import InputError, shortened
from aigciqa.utils.files import write_file
from aigciqa.utils.object_stores import check_is_path

Writer = TypeVar("Writer")

#: Between two columns.
_GAP = "  "
#: Characters that a name keeps at least.
_SHORTEST = 12
#: Decimals in tables to be read.
SHOWN_DECIMALS = 3
_LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
     "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "→": r"$\rightarrow$", "<": "$<$", ">": "$>$"}
)  # fmt: skip


@dataclass(frozen=True)
class TextTable:
    """A table to be read: text in rows, of which the first columns are names and the others numbers.

    Example:
        >>> from aigciqa.tables.text import TextTable
        >>> table = TextTable("Means", ("group", "n"), (("a", "10"), ("b", "9")), left=1)
        >>> print(table.aligned())
        group   n
        a      10
        b       9

    Attributes:
        title: what it shows.
        header: a name per column.
        rows: a cell per column.
        left: how many columns are names, aligned left; the others are aligned right.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int

    def aligned(self, width: int | None = None) -> str:
        """Columns of equal width, for a terminal of so many characters; of the one that there is, if absent.

        Numbers that do not fit stand in blocks below each other, each beside the names, of which too long ones lose
        their middle.
        """
        width = width or shutil.get_terminal_size().columns
        lines = [[printable(cell) for cell in line] for line in (self.header, *self.rows)]
        longest = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        columns = [
            [cell.ljust(length) for cell in cells]
            for cells, length in zip(zip(*lines, strict=True), longest, strict=True)
        ]
        widest = max((len(column[0]) + len(_GAP) for column in columns[self.left :]), default=0)
        names = _shortened(columns[: self.left], width - widest)
        numbers = [[cell.rstrip().rjust(len(cell)) for cell in cells] for cells in columns[self.left :]]
        blocks = [names]
        for column in numbers:
            if _width(blocks[-1]) + len(_GAP) + len(column[0]) > width and len(blocks[-1]) > self.left:
                blocks.append(names)
            blocks[-1] = [*blocks[-1], column]
        texts = ("\n".join(_GAP.join(line).rstrip() for line in zip(*block, strict=True)) for block in blocks)
        return "\n\n".join(texts)

    def markdown(self) -> str:
        """GitHub's Markdown."""
        rule = ["---" if column < self.left else "---:" for column in range(len(self.header))]
        escaped = [[markdown_text(printable(cell)) for cell in line] for line in (self.header, *self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (escaped[0], rule, *escaped[1:]))

    def latex(self) -> str:
        """A LaTeX `tabular` with rules above, below and under the header."""
        columns = "l" * self.left + "r" * (len(self.header) - self.left)
        lines = [[cell.translate(_LATEX) for cell in line] for line in (self.header, *self.rows)]
        # what begins with [ or * would be an argument of the line's end before it
        header, *rows = (re.sub(r"^(?=[\[*])", "{}", " & ".join(line)) + r" \\" for line in lines)
        begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
        return "\n".join((begin, r"\hline", header, r"\hline", *rows, r"\hline", end))


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(len(column[0]) + len(_GAP) for column in columns) - len(_GAP)


def _shortened(names: list[list[str]], width: int) -> list[list[str]]:
    """Columns of names that fit, if their longest cells without their middle do; cells that differ still do."""
    if not names or (too_long := _width(names) - width) <= 0:
        return names
    index = max(range(len(names)), key=lambda column: len(names[column][0]))
    most = max(_SHORTEST, len(names[index][0]) - too_long)
    shorter = [shortened(cell.rstrip(), most).ljust(most) for cell in names[index]]
    if len(set(shorter)) < len(set(names[index])):
        return names
    return [*names[:index], shorter, *names[index + 1 :]]


def markdown_text(text: str) -> str:
    """Text as Markdown that shows it as it is, in a cell of a table as well."""
    return re.sub(r"[\\`*_|~&]|<(?=\S)|\](?=[(\[:])", r"\\\g<0>", text)


def printable(text: str) -> str:
    """Text without characters that would move a terminal's cursor or can't be encoded."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def rounded(value: float, *, signed: bool = False) -> str:
    """With three decimals and a true minus; `n/a` for what could not be computed."""
    if math.isnan(value):
        return "n/a"
    return f"{value:{'+' if signed else ''}.{SHOWN_DECIMALS}f}".replace("-", "−")


def with_interval(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """A number and its interval, where there is one."""
    if math.isnan(low):
        return rounded(value, signed=signed)
    return f"{rounded(value, signed=signed)} [{rounded(low, signed=signed)}, {rounded(high, signed=signed)}]"


def probability(p: float) -> str:
    """A p value."""
    return "< 0.001" if p < 0.001 else rounded(p)


def percent(share: float) -> str:
    """A share without decimals."""
    return "n/a" if math.isnan(share) else f"{share:.0%}"


def without_nan(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def writer_of(path: str | os.PathLike[str], writers: Mapping[str, Writer], what: str) -> Writer:
    """The writer of a file's suffix; an `InputError` if there is none, which names the file as `what`."""
    check_is_path(path)
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise InputError(f"{os.fspath(path)!r}: the {what} ends in one of {', '.join(writers)}")
    return writers[suffix]


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file, whole or not at all, making its folder if absent."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_file(path, encoded(text))


def encoded(text: str) -> bytes:
    """Text as UTF-8: names that are none keep their bytes; any other lone surrogate is an escape."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")
