"""Where records go: CSV, JSON lines, JSON or Parquet files that survive a kill, or standard output.

Rows are appended to a journal as they are scored. For CSV and JSON lines the journal is the file itself; for JSON and
Parquet it is `FILE.partial`, turned into the file when the run ends. A journal may end in a torn row: `recover` cuts
it.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from aigciqa.registry import SCORE_RANGES
from aigciqa.scoring.records import Record
from aigciqa.scoring.sources import SourceError, import_parquet, read_rows

if TYPE_CHECKING:
    from aigciqa.metric import Metric

OUTPUT_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
LEADING_COLUMNS = ("image", "reference", "group", "metric")
#: Decimals of a score in a file: finer than float32 resolves a score.
DECIMALS = 6
_PARQUET_ROWS = 10_000

Row = Mapping[str, Any]


def columns_of(dimensions: Iterable[str]) -> tuple[str, ...]:
    """The columns of a table of scores, in order."""
    return (*LEADING_COLUMNS, *dimensions, "error")


def dimensions_of(metrics: Iterable[Metric]) -> list[str]:
    """The dimensions of a table of several metrics, in order."""
    predicted = {name for metric in metrics for name in metric.dimensions}
    return [name for name in SCORE_RANGES if name in predicted]


def to_row(record: Record, columns: Sequence[str]) -> dict[str, Any]:
    """A record as a table's row; None where there is nothing."""
    row: dict[str, Any] = dict.fromkeys(columns)
    row.update(image=record.image, reference=record.reference, group=record.group, metric=record.metric)
    row.update((name, round(score, DECIMALS)) for name, score in record.scores.items() if name in row)
    row["error"] = record.error
    return row


def to_score(cell: Any) -> float | None:
    """A cell of a table as a score; None if it is empty.

    Raises:
        ValueError: it holds no finite number.
    """
    if cell is None or cell == "":
        return None
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float)) or not math.isfinite(score := float(cell)):
        raise ValueError(f"{cell!r} is not a finite number")
    return score


class Sink(Protocol):
    """Takes rows as they come."""

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows; they are out of this process when it returns."""

    def close(self) -> None:
        """Finish: every row has been written."""


class FileSink:
    """A table in a file.

    Args:
        path: ending in one of `OUTPUT_SUFFIXES`.
        columns: of the table.
    """

    def __init__(self, path: str, columns: Sequence[str]) -> None:
        self.path = Path(path)
        self.suffix = self.path.suffix.lower()
        if self.suffix not in OUTPUT_SUFFIXES:
            raise SourceError(f"{path!r}: the output ends in one of {', '.join(OUTPUT_SUFFIXES)}")
        if self.path.is_dir():
            raise SourceError(f"{path!r} is a folder; name a file")
        if self.suffix == ".parquet":
            import_parquet()
        self.columns = tuple(columns)
        self.direct = self.suffix in (".csv", ".jsonl")
        self.journal = self.path if self.direct else self.path.with_name(self.path.name + ".partial")
        self.stream: io.FileIO | None = None  # without a buffer: what a full disk refuses is not tried again

    def start(self) -> None:
        """Begin a new file, in place of any earlier one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.stream = open(self.journal, "wb", buffering=0)  # noqa: SIM115
        if self.suffix == ".csv":
            self._append([dict(zip(self.columns, self.columns, strict=True))])

    def recover(self, expected: Iterator[tuple[str, str]], block: int) -> Iterator[Row]:
        """Go on with an earlier run's file: yields its rows, then is ready for `write`.

        Args:
            expected: (image, metric) of every row the whole run will write; as many are taken as the file has.
            block: rows that belong together (one image by every metric): a block that is torn is written again.

        Raises:
            SourceError: the file is of another run; it is left as it is.
        """
        if not self.direct and not self.journal.exists() and self.path.exists():
            self._reopen()
        if not self.journal.exists() or self.journal.stat().st_size == 0:
            self.start()
            return
        kept = None
        with open(self.journal, "rb") as stream:
            rows = self._parse(stream)
            first = next(rows, None) if self.suffix == ".csv" else ({}, 0)
            if first is not None:
                kept = first[1]
                while len(part := list(itertools.islice(rows, block))) == block:
                    for row, end in part:
                        self._check(row, next(expected, None))
                        yield row
                        kept = end
        if kept is None:
            self.start()
            return
        os.truncate(self.journal, kept)
        self.stream = open(self.journal, "ab", buffering=0)  # noqa: SIM115

    def write(self, rows: Sequence[Row]) -> None:
        self._append(rows)

    def close(self) -> None:
        if self.stream is None:
            return
        self.stream.close()
        if not self.direct:
            target = self.path.with_name(self.path.name + ".tmp")
            self._convert(target)
            os.replace(target, self.path)
            self.journal.unlink()

    def abandon(self) -> None:
        """Stop early: what is written stays for `recover`."""
        if self.stream is not None:
            self.stream.close()

    def _append(self, rows: Sequence[Row]) -> None:
        assert self.stream is not None
        if self.suffix == ".csv":
            text = csv_text(rows, self.columns)
            data = text.encode("utf-8", "surrogateescape")
        else:
            data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        rest = memoryview(data)
        while rest:
            rest = rest[self.stream.write(rest) :]

    def _check(self, row: Row, expected: tuple[str, str] | None) -> None:
        found = (row["image"], row["metric"])
        is_expected = expected is not None and tuple(map(utf8, found)) == tuple(map(utf8, expected))
        if tuple(row) == self.columns and is_expected:
            return
        wanted = "nothing more" if expected is None else f"{expected[0]!r} by {expected[1]}"
        raise SourceError(
            f"--resume: {self.journal} is of another run: it has {found[0]!r} by {found[1]}, this run {wanted}. "
            "Name another output, or leave --resume out to start anew"
        )

    def _parse(self, stream: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
        """The journal's whole rows, each with the offset of its end; a torn last row is left out."""
        return self._parse_csv(stream) if self.suffix == ".csv" else self._parse_jsonl(stream)

    def _parse_jsonl(self, stream: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
        end = 0
        for line in stream:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                row = json.loads(line)
            except ValueError:
                raise SourceError(f"--resume: {self.journal} holds a line that is not JSON") from None
            if not isinstance(row, dict) or not {"image", "metric"} <= row.keys():
                raise SourceError(f"--resume: {self.journal} holds a line that is not a score")
            yield row, end

    def _parse_csv(self, stream: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
        end = 0

        def lines() -> Iterator[str]:
            nonlocal end
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield line.decode("utf-8", "surrogateescape")

        whole = lines()
        try:
            for number, cells in enumerate(csv.reader(whole, strict=True)):
                if len(cells) != len(self.columns) or (number == 0 and tuple(cells) != self.columns):
                    raise SourceError(
                        f"--resume: {self.journal} has other columns than this run: {', '.join(cells)}; expected "
                        f"{', '.join(self.columns)}"
                    )
                yield self._typed(dict(zip(self.columns, cells, strict=True))), end
        except csv.Error as error:
            if next(whole, None) is not None:  # else the file ends inside a quoted cell
                raise SourceError(f"--resume: {self.journal} holds a line that is not CSV: {error}") from None

    def _typed(self, row: dict[str, Any]) -> dict[str, Any]:
        text = {"image", "metric"}
        scores = set(self.columns) - set(LEADING_COLUMNS) - {"error"}
        for name, cell in row.items():
            if cell == "" and name not in text:
                row[name] = None
            elif name in scores and cell != name:
                try:
                    row[name] = to_score(cell)
                except ValueError:
                    raise SourceError(f"--resume: {self.journal} holds {cell!r} in the column {name!r}") from None
        return row

    def _reopen(self) -> None:
        """Turn a finished file back into a journal, whole or not at all."""
        unfinished = self.path.with_name(self.path.name + ".tmp")
        try:
            with open(unfinished, "wb") as journal:
                for row in read_rows(str(self.path)):
                    journal.write((json.dumps(row, allow_nan=False) + "\n").encode())
            os.replace(unfinished, self.journal)
        finally:
            unfinished.unlink(missing_ok=True)

    def _convert(self, target: Path) -> None:
        with open(self.journal, "rb") as stream:
            rows = (row for row, _ in self._parse_jsonl(stream))
            if self.suffix == ".json":
                _write_json(target, rows)
            else:
                _write_parquet(target, rows, self.columns)


class StreamSink:
    """CSV on a stream."""

    def __init__(self, stream: TextIO, columns: Sequence[str]) -> None:
        self.stream = stream
        self.columns = tuple(columns)
        self.write([dict(zip(columns, columns, strict=True))])

    def write(self, rows: Sequence[Row]) -> None:
        self.stream.write(csv_text(rows, self.columns))
        self.stream.flush()

    def close(self) -> None:
        self.stream.flush()


class TerminalSink:
    """An aligned table on a terminal, a line at a time; long paths lose their beginning."""

    SCORE_WIDTH = 9

    def __init__(self, stream: TextIO, columns: Sequence[str], metrics: Sequence[str]) -> None:
        self.stream = stream
        self.dimensions = tuple(name for name in columns if name not in (*LEADING_COLUMNS, "error"))
        self.several = len(metrics) > 1
        self.metric_width = max(map(len, metrics)) + 2 if self.several else 0
        self.score_widths = [max(self.SCORE_WIDTH, len(name) + 2) for name in self.dimensions]
        width = shutil.get_terminal_size().columns
        self.image_width = max(20, width - self.metric_width - sum(self.score_widths) - 1)
        self._line("image", "metric", list(self.dimensions))

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row["error"] is not None:
                self._line(row["image"], row["metric"], ["error"] + ["-"] * (len(self.dimensions) - 1))
                self.stream.write(f"    {printable(row['error'])}\n")
            else:
                scores = [row[name] for name in self.dimensions]
                self._line(row["image"], row["metric"], ["-" if s is None else f"{s:.3f}" for s in scores])
        self.stream.flush()

    def close(self) -> None:
        self.stream.flush()

    def _line(self, image: str, metric: str, scores: Sequence[str]) -> None:
        name = printable(image)
        if len(name) > self.image_width:
            name = "…" + name[1 - self.image_width :]
        cells = [f"{score:>{width}}" for score, width in zip(scores, self.score_widths, strict=True)]
        middle = f"  {metric:<{self.metric_width - 2}}" if self.several else ""
        self.stream.write(f"{name:<{self.image_width}}{middle}{''.join(cells)}\n")


def csv_text(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Rows as CSV lines, without a header."""
    return "".join(_csv_line(row, columns) for row in rows)


def _csv_line(row: Row, columns: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.DictWriter(buffer, columns, lineterminator="\r\n").writerow(row)  # with "\n", a cell's "\r" stays unquoted
    return buffer.getvalue()[:-2] + "\n"


def printable(text: str) -> str:
    """Text without characters that would move a terminal's cursor or can't be encoded."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _write_json(target: Path, rows: Iterable[Row]) -> None:
    with open(target, "w", encoding="utf-8") as stream:
        stream.write("[")
        for number, row in enumerate(rows):
            stream.write((",\n" if number else "\n") + json.dumps(row, allow_nan=False))
        stream.write("\n]\n")


def _write_parquet(target: Path, rows: Iterator[Row], columns: Sequence[str]) -> None:
    with import_parquet().ParquetWriter(target, arrow_schema(columns)) as writer:
        while part := list(itertools.islice(rows, _PARQUET_ROWS)):
            writer.write_table(arrow_table(part, columns))


def arrow_schema(columns: Sequence[str]) -> Any:
    """The types of a table of scores in Parquet, a `pyarrow.Schema`."""
    import pyarrow

    text = {*LEADING_COLUMNS, "error"}
    return pyarrow.schema([(name, pyarrow.string() if name in text else pyarrow.float64()) for name in columns])


def arrow_table(rows: Iterable[Row], columns: Sequence[str]) -> Any:
    """Rows as a `pyarrow.Table`."""
    import pyarrow

    valid = [{name: utf8(cell) for name, cell in row.items()} for row in rows]
    return pyarrow.Table.from_pylist(valid, schema=arrow_schema(columns))


def utf8(cell: Any) -> Any:
    """Parquet holds UTF-8 only: bytes of a name that are none are written as escapes."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


def standard_output(columns: Sequence[str], metrics: Sequence[str]) -> Sink:
    """A table on a terminal, CSV elsewhere."""
    if sys.stdout.isatty():
        return TerminalSink(sys.stdout, columns, metrics)
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore[union-attr]
    return StreamSink(sys.stdout, columns)
