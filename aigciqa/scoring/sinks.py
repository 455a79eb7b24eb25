"""Tables of scores on disk, written row by row so that they survive a kill.

Rows are appended to a journal as they are scored. For CSV and JSON lines the journal is the file itself; for JSON and
Parquet it is `FILE.partial`, turned into the file when the run ends. A journal may end in a torn row: `recover` cuts
it. What made the table is in `FILE.meta.json`.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aigciqa.errors import SourceError
from aigciqa.scoring import resume
from aigciqa.tables import provenance
from aigciqa.tables.columns import Row, scores_of
from aigciqa.tables.formats import format_of, header, lines, read_rows, write_rows
from aigciqa.utils.files import replacing

_IN_LINES = (".csv", ".jsonl")


class LostError(OSError):
    """The table was removed or replaced while it was being written."""


def journal_of(path: str | os.PathLike[str]) -> Path:
    """Where the rows of a table are kept until the run ends."""
    path = Path(path)
    return path if path.suffix.lower() in _IN_LINES else path.with_name(path.name + ".partial")


def begun(path: str | os.PathLike[str]) -> Path | None:
    """What an earlier run left of a table: its journal, else the finished file, else nothing."""
    for left in (journal_of(path), Path(path)):
        if left.exists():
            return left if left.stat().st_size else None
    return None


class FileSink:
    """A table in a file of one of the `formats`; `made_by` says what makes it, so that it can be resumed."""

    def __init__(self, path: str, columns: Sequence[str], made_by: Mapping[str, Any]) -> None:
        self.suffix = format_of(path)
        self.path = Path(path)
        self.columns = tuple(columns)
        self.made_by = made_by
        self.journal = journal_of(path)
        self.direct = self.journal == self.path
        self.stream: io.FileIO | None = None  # without a buffer: what a full disk refuses is not tried again

    def start(self) -> None:
        """Begin a new file, in place of any earlier one; what is somebody else's is refused."""
        self._check_journal()
        provenance.read(str(self.path))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.direct:
            self.journal.unlink(missing_ok=True)
        self.stream = open(self.journal, "wb" if self.direct else "xb", buffering=0)  # noqa: SIM115
        provenance.write(str(self.path), self.made_by)  # the journal is empty: no rows are taken for this run's
        self._append(header(self.columns, self.suffix))

    def recover(self, expected: Iterator[Row] | None, block: int) -> Iterator[Row]:
        """Go on with an earlier run's file: yields its rows, then is ready for `write`.

        Args:
            expected: every row the whole run will write, but for scores and errors; as many are taken as the file has.
                None: its images are taken as they are, in any order and whether or not they were changed since.
            block: rows that belong together (one image by every metric): a block that is torn is written again.

        Raises:
            SourceError: the file is of another run; it is left as it is.
        """
        self._check_journal()
        left = begun(self.path)
        if left is None:
            self.start()
            return
        provenance.check_same(str(self.path), self.made_by)
        written = left.stat().st_mtime
        is_finished = left != self.journal
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
        """Append rows; they are out of this process when it returns. Raises OSError, `LostError` among them."""
        self._append(lines(rows, self.columns, self.suffix))

    def close(self) -> None:
        """Finish: every row has been written. Raises as `write`."""
        self._check_there().close()
        if not self.direct:
            with replacing(self.path) as unfinished, open(self.journal, "rb") as stream:
                rows = (row for row, _ in resume.read_jsonl(stream, str(self.journal)))
                write_rows(unfinished, rows, self.columns, self.suffix)
            self.journal.unlink()

    def abandon(self) -> None:
        """Stop early: what is written stays for `recover`."""
        if self.stream is not None:
            self.stream.close()

    def _check_there(self) -> io.FileIO:
        """The journal, unless it is another file by now."""
        assert self.stream is not None
        try:
            is_there = os.path.samestat(os.fstat(self.stream.fileno()), os.stat(self.journal))
        except OSError:
            is_there = False
        if not is_there:
            raise LostError(f"{self.journal} was removed or replaced during the run; its rows are lost")
        return self.stream

    def _append(self, data: bytes) -> None:
        stream = self._check_there()
        rest = memoryview(data)
        while rest:
            rest = rest[stream.write(rest) :]

    def _check_journal(self) -> None:
        """Refuse a `FILE.partial` that no run has left."""
        if self.direct or not os.path.lexists(self.journal):
            return
        if self.journal.is_file() and not self.journal.is_symlink():
            with open(self.journal, "rb") as stream:
                if resume.begins_row(stream.read(len(resume.FIRST_KEY))):
                    return
        raise SourceError(f"{self.journal} is no table of aigciqa, and rows are kept there until the end: move it away")

    def _recovered(
        self, expected: Iterator[Row] | None, block: int, written: float
    ) -> Generator[Row, None, int | None]:
        """The journal's whole blocks; returns the offset of their end, or None if not even the header is whole."""
        name = str(self.journal)
        is_csv = self.suffix == ".csv"
        with open(self.journal, "rb") as stream:
            rows = resume.read_csv(stream, name, self.columns) if is_csv else resume.read_jsonl(stream, name)
            first = next(rows, None) if is_csv else ({}, 0)
            if first is None:
                return None
            kept = first[1]
            while len(part := list(itertools.islice(rows, block))) == block:
                for row, _ in part:
                    wanted = {**row, "image": part[0][0]["image"]} if expected is None else next(expected, None)
                    self._check(row, wanted)
                    if expected is not None:
                        resume.refuse_changed(str(self.path), (row["image"], row["reference"]), written)
                    yield row
                kept = part[-1][1]
            return kept

    def _check(self, row: Row, expected: Row | None) -> None:
        if tuple(row) != self.columns:
            raise resume.other_columns(str(self.journal), row, self.columns)
        if expected is None or not resume.is_same(row, expected, self.columns):
            raise resume.of_another_run(str(self.journal), resume.difference(row, expected, self.columns))
        if row["error"] is None and all(row[name] is None for name in scores_of(self.columns)):
            raise SourceError(f"can't resume: {self.journal} has neither a score nor an error of {row['image']!r}")

    def _reopen(self) -> None:
        """Turn a finished file back into a journal, whole or not at all, as old as the file: images may be newer."""
        with replacing(self.journal) as unfinished:
            with open(unfinished, "wb") as stream:
                for row in read_rows(self.path):
                    try:
                        stream.write((json.dumps(row, allow_nan=False) + "\n").encode())
                    except (TypeError, ValueError) as error:
                        why = f"{self.path} holds {error}: another program saved it"
                        raise SourceError(f"can't resume: {why}") from None
            there = self.path.stat()
            os.utime(unfinished, ns=(there.st_atime_ns, there.st_mtime_ns))
