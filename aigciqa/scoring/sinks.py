"""Where records go: CSV, JSON lines, JSON or Parquet files that survive a kill, or standard output.

Rows are appended to a journal as they are scored. For CSV and JSON lines the journal is the file itself; for JSON and
Parquet it is `FILE.partial`, turned into the file when the run ends. A journal may end in a torn row: `recover` cuts
it. What made the table is in `FILE.meta.json`.
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
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from aigciqa.errors import InputError
from aigciqa.records import Item, Record
from aigciqa.registry import SCORE_RANGES
from aigciqa.scoring import provenance
from aigciqa.scoring.sources import SourceError, import_parquet, read_rows
from aigciqa.tables.csv_text import csv_line, plain
from aigciqa.tables.text import encoded, printable
from aigciqa.utils.files import replacing

if TYPE_CHECKING:
    from aigciqa.metric import Metric

OUTPUT_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
LEADING_COLUMNS = ("image", "reference", "group", "metric")
#: Decimals of a score in a file: finer than float32 resolves a score.
DECIMALS = 6
_PARQUET_ROWS = 10_000
#: How every row of a journal in JSON lines begins.
_FIRST_KEY = b'{"image": '

Row = Mapping[str, Any]


def columns_of(dimensions: Iterable[str], carried: Iterable[str] = ()) -> tuple[str, ...]:
    """The columns of a table of scores, in order; `carried` are those of the manifests."""
    return (*LEADING_COLUMNS, *dimensions, "error", *carried)


def scores_of(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns of a table that hold scores."""
    return tuple(columns[len(LEADING_COLUMNS) : columns.index("error")])


def carried_names(given: Iterable[str], columns: Sequence[str]) -> dict[str, str]:
    """What a manifest's columns are called in a table: as they are, or `NAME_given` if scores may have that name."""
    taken = {*columns, *SCORE_RANGES}
    names: dict[str, str] = {}
    for name in dict.fromkeys(given):
        names[name] = name
        while names[name] in taken:
            names[name] += "_given"
        taken.add(names[name])
    return names


def dimensions_of(metrics: Iterable[Metric]) -> list[str]:
    """The dimensions of a table of several metrics: the paper's in its order, then others."""
    predicted = dict.fromkeys(name for metric in metrics for name in metric.dimensions)
    return sorted(predicted, key=[*SCORE_RANGES, *predicted].index)


def to_row(record: Record, columns: Sequence[str]) -> dict[str, Any]:
    """A record as a table's row; None where there is nothing."""
    row: dict[str, Any] = dict.fromkeys(columns)
    row.update(image=record.image, reference=record.reference, group=record.group, metric=record.metric)
    row.update((name, round(score, DECIMALS)) for name, score in record.scores.items() if name in row)
    row["error"] = record.error
    row.update((name, cell) for name, cell in record.extra.items() if name in row)
    return row


def rows_ahead(item: Item, metrics: Iterable[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows that an item will have, but for scores and errors."""
    return [to_row(Record(item.image, item.reference, item.group, name, extra=item.extra), columns) for name in metrics]


def is_same(row: Row, other: Row, columns: Sequence[str]) -> bool:
    """Whether two rows are of one image, with one reference, group and metric, and say the same of it but scores."""
    scored = {*scores_of(columns), "error"}
    return all(name in scored or (utf8(row.get(name)) or None) == (utf8(other.get(name)) or None) for name in columns)


def refuse_changed(table: str, row: Row, written: float) -> None:
    """Refuse to go on with a row whose image or reference was changed since it was written.

    Args:
        table: that has the row.
        row: of the table.
        written: when the table was last written to, in seconds since 1970.

    Raises:
        SourceError: naming the file.
    """
    for path in (row["image"], row["reference"]):
        if path and _changed(path) > written:
            raise SourceError(
                f"--resume: {path} was changed after {table} was written, so its score may be another by now. Name "
                "another output, or leave --resume out to start anew"
            )


def _changed(path: str) -> float:
    """When a file was changed, in seconds since 1970; of an image in another file, that file; 0 if it is no file."""
    try:
        return os.stat(path).st_mtime
    except NotADirectoryError:  # ARCHIVE/MEMBER
        return _changed(os.path.dirname(path))
    except FileNotFoundError:  # FILE.parquet#ROW
        return _changed(path.rpartition("#")[0]) if "#" in path else 0.0
    except (OSError, ValueError):
        return 0.0


def to_score(cell: Any) -> float | None:
    """A cell of a table as a score; None if it is empty.

    Raises:
        ValueError: it holds no finite number.
    """
    if cell is None or cell == "":
        return None
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float)) or not math.isfinite(score := float(cell)):
        raise InputError(f"{cell!r} is not a finite number")
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
        made_by: what makes it, for `provenance`; None: it is not to be gone on with.
    """

    def __init__(self, path: str, columns: Sequence[str], made_by: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.suffix = self.path.suffix.lower()
        if self.suffix not in OUTPUT_SUFFIXES:
            raise SourceError(f"{path!r}: the output ends in one of {', '.join(OUTPUT_SUFFIXES)}")
        if self.path.is_dir():
            raise SourceError(f"{path!r} is a folder; name a file")
        if self.suffix == ".parquet":
            import_parquet()
        self.columns = tuple(columns)
        self.made_by = made_by
        self.direct = self.suffix in (".csv", ".jsonl")
        self.journal = self.path if self.direct else self.path.with_name(self.path.name + ".partial")
        self.stream: io.FileIO | None = None  # without a buffer: what a full disk refuses is not tried again

    def start(self) -> None:
        """Begin a new file, in place of any earlier one.

        Raises:
            SourceError: `FILE.partial` or `FILE.meta.json` is a file of somebody else's.
        """
        self._check_journal()
        if self.made_by is not None:
            provenance.read(str(self.path))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.direct:
            self.journal.unlink(missing_ok=True)
        self.stream = open(self.journal, "wb" if self.direct else "xb", buffering=0)  # noqa: SIM115
        if self.made_by is not None:  # the journal is empty by now: no rows are taken for this run's
            provenance.write(str(self.path), self.made_by)
        if self.suffix == ".csv":
            self._append([dict(zip(self.columns, self.columns, strict=True))])

    def recover(self, expected: Iterator[Row], block: int, files: Iterable[str] = ()) -> Iterator[Row]:
        """Go on with an earlier run's file: yields its rows, then is ready for `write`.

        Args:
            expected: every row the whole run will write, but for scores and errors; as many are taken as the file has.
            block: rows that belong together (one image by every metric): a block that is torn is written again.
            files: that hold images, beside those that rows name.

        Raises:
            SourceError: the file is of another run; it is left as it is.
        """
        self._check_journal()
        is_finished = not self.direct and not self.journal.exists() and self.path.exists()
        begun = self.path if is_finished else self.journal
        if not begun.exists() or begun.stat().st_size == 0:
            self.start()
            return
        if self.made_by is not None:
            provenance.check_same(str(self.path), self.made_by)
        written = begun.stat().st_mtime
        for path in files:
            refuse_changed(str(self.path), {"image": path, "reference": None}, written)
        if is_finished:
            self._reopen()
        try:
            kept = yield from self._recovered(expected, block, written)
        except SourceError:
            if is_finished:
                self.journal.unlink()
            raise
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
        self._check_there()
        self.stream.close()
        if not self.direct:
            with replacing(self.path) as unfinished:
                self._convert(unfinished)
            self.journal.unlink()

    def abandon(self) -> None:
        """Stop early: what is written stays for `recover`."""
        if self.stream is not None:
            self.stream.close()

    @property
    def is_there(self) -> bool:
        """Whether the journal has not been removed or replaced since it was opened."""
        try:
            return self.stream is None or os.path.samestat(os.fstat(self.stream.fileno()), os.stat(self.journal))
        except OSError:
            return False

    def _check_there(self) -> None:
        if not self.is_there:
            raise OSError(f"{self.journal} was removed or replaced during the run; its rows are lost")

    def _append(self, rows: Sequence[Row]) -> None:
        assert self.stream is not None
        self._check_there()
        if self.suffix == ".csv":
            data = encoded(csv_rows(rows, self.columns))
        else:
            data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        rest = memoryview(data)
        while rest:
            rest = rest[self.stream.write(rest) :]

    def _check_journal(self) -> None:
        """Refuse a `FILE.partial` that no run has left."""
        if self.direct or not os.path.lexists(self.journal):
            return
        if self.journal.is_file() and not self.journal.is_symlink():
            with open(self.journal, "rb") as stream:
                if _begins_row(stream.read(len(_FIRST_KEY))):
                    return
        raise SourceError(f"{self.journal} is no table of aigciqa, and rows are kept there until the end: move it away")

    def _recovered(self, expected: Iterator[Row], block: int, written: float) -> Generator[Row, None, int | None]:
        """The journal's whole blocks; returns the offset of their end, or None if not even the header is whole."""
        kept = None
        with open(self.journal, "rb") as stream:
            rows = self._parse(stream)
            first = next(rows, None) if self.suffix == ".csv" else ({}, 0)
            if first is not None:
                kept = first[1]
                while len(part := list(itertools.islice(rows, block))) == block:
                    for row, end in part:
                        self._check(row, next(expected, None))
                        refuse_changed(str(self.path), row, written)
                        yield row
                        kept = end
        return kept

    def _check(self, row: Row, expected: Row | None) -> None:
        if tuple(row) != self.columns:
            raise self._other_columns(row)
        if expected is None or not is_same(row, expected, self.columns):
            raise of_another_run(str(self.journal), row, expected, self.columns)
        if row["error"] is None and all(row[name] is None for name in scores_of(self.columns)):
            raise SourceError(f"--resume: {self.journal} has neither a score nor an error of {row['image']!r}")

    def _other_columns(self, names: Iterable[str]) -> SourceError:
        return SourceError(
            f"--resume: {self.journal} has other columns than this run: {', '.join(names)}; expected "
            f"{', '.join(self.columns)}. Another program saved it, or another manifest made it: name another output, "
            "or leave --resume out to start anew"
        )

    def _parse(self, stream: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
        """The journal's whole rows, each with the offset of its end; a torn last row is left out."""
        return self._parse_csv(stream) if self.suffix == ".csv" else self._parse_jsonl(stream)

    def _parse_jsonl(self, stream: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
        end = 0
        for line in stream:
            if not line.endswith(b"\n"):
                if not _begins_row(line):
                    raise SourceError(f"--resume: {self.journal} ends in a line that is not a score")
                return
            end += len(line)
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise SourceError(f"--resume: {self.journal} holds a line that is not JSON") from None
            if not isinstance(row, dict) or not {"image", "metric"} <= row.keys():
                raise SourceError(f"--resume: {self.journal} holds a line that is not a score")
            yield row, end

    def _parse_csv(self, stream: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
        end = 0
        header = encoded(csv_line(self.columns))
        record: list[str] = []  # lines of the row that is being read

        def lines() -> Iterator[str]:
            nonlocal end
            for line in stream:
                if not line.endswith(b"\n"):
                    if not end and not header.startswith(line):
                        raise SourceError(f"--resume: {self.journal} is no table of scores: its header is another")
                    return
                if b"\0" in line:
                    raise SourceError(f"--resume: {self.journal} holds NUL: it is damaged")
                end += len(line)
                record.append(line.decode("utf-8", "surrogateescape"))
                yield record[-1]

        whole = lines()
        try:
            for number, cells in enumerate(csv.reader(whole, strict=True)):
                record.clear()
                if not cells:  # a line that an editor has left
                    continue
                cells = list(map(plain, cells))
                if len(cells) != len(self.columns) or (number == 0 and tuple(cells) != self.columns):
                    raise self._other_columns(cells)
                yield self._typed(dict(zip(self.columns, cells, strict=True))), end
        except csv.Error as error:
            torn = next(whole, None) is None  # the file ends inside a quoted cell, which may be the last row, cut off
            if not torn or any(len(cells) == len(self.columns) for cells in csv.reader(record[1:])):
                raise SourceError(f"--resume: {self.journal} holds a line that is not CSV: {error}") from None

    def _typed(self, row: dict[str, Any]) -> dict[str, Any]:
        text = {"image", "metric"}
        scores = set(scores_of(self.columns))
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
        with replacing(self.journal) as unfinished, open(unfinished, "wb") as journal:
            for row in read_rows(str(self.path)):
                journal.write((json.dumps(row, allow_nan=False) + "\n").encode())

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
        self.stream.write(csv_rows(rows, self.columns))
        self.stream.flush()

    def close(self) -> None:
        self.stream.flush()


class TerminalSink:
    """An aligned table on a terminal, a line at a time; long paths lose their beginning."""

    SCORE_WIDTH = 9

    def __init__(self, stream: TextIO, columns: Sequence[str], metrics: Sequence[str]) -> None:
        self.stream = stream
        self.dimensions = scores_of(columns)
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


def csv_rows(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """Rows as CSV lines, without a header."""
    return "".join(csv_line(row[name] for name in columns) for row in rows)


def of_another_run(table: str, row: Row, expected: Row | None, columns: Sequence[str]) -> SourceError:
    """The error that says so.

    Args:
        table: that has the row.
        row: of the table.
        expected: what stands there by this run; None if nothing does.
        columns: of this run.
    """
    has, wants = f"{row['image']!r} by {row['metric']}", "nothing more"
    if expected is not None:
        wants = f"{expected['image']!r} by {expected['metric']}"
        if wants == has:
            name = next(name for name in columns if not is_same(row, {**row, name: expected.get(name)}, columns))
            has += f" with {name} {row.get(name)!r}"
            wants = f"{name} {expected.get(name)!r}"
    return SourceError(
        f"--resume: {table} is of another run: it has {has}, this run {wants}. Name another output, or leave --resume "
        "out to start anew"
    )


def _begins_row(data: bytes) -> bool:
    """Whether bytes are a row of a journal in JSON lines, or the beginning of one."""
    return data.startswith(_FIRST_KEY) or _FIRST_KEY.startswith(data)


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

    text = {*LEADING_COLUMNS, *columns[columns.index("error") :]}
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
