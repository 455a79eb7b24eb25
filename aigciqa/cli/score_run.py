"""One run of `aigciqa score`: what is done with its records, and what it says and returns at the end."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from aigciqa.cli.common import EXIT_DONE, EXIT_ERRORS, STOPS, complain
from aigciqa.cli.row_printer import row_printer
from aigciqa.errors import ImageError, InputError, LockedError
from aigciqa.images.generation.read import read_generation
from aigciqa.scoring.sinks import LostError
from aigciqa.scoring.summary import Summary
from aigciqa.tables.columns import to_row
from aigciqa.tables.text import printable
from aigciqa.utils.object_stores import may_exist, scheme_of
from aigciqa.utils.paths import counted

if TYPE_CHECKING:
    from aigciqa.records import Record
    from aigciqa.report import Report
    from aigciqa.scoring.maps import MapFolder
    from aigciqa.scoring.scores_in_files import ScoresInFiles


@dataclass
class ScoreRun:
    """One run of the command: from records to a summary, a report, maps and an exit status."""

    names: Sequence[str]  # of the metrics
    score_ranges: Mapping[str, tuple[float, float]]  # of the dimensions
    columns: Sequence[str]
    output: str | None  # the table; None: standard output
    kept: str | os.PathLike[str] | None  # where its rows are if the run is stopped
    report: Report | None
    maps: MapFolder | None
    in_files: ScoresInFiles | None
    ungrouped_note: Callable[[int, int], str | None]  # of images without a group, and of all
    quiet: bool
    ungrouped: int = 0  # rows without a group
    taken: int = 0
    resumed: int = 0
    has_said_resumed: bool = False

    def __post_init__(self) -> None:
        self.summary = Summary(self.score_ranges)
        self.bar = tqdm(unit="score", disable=self.quiet or None, dynamic_ncols=True, leave=False)

    def take(self, record: Record, is_new: bool = True) -> None:
        """Take a record before its row is written; those of an earlier run come first and are not new."""
        if is_new:
            self.say_resumed()
        self.taken += 1
        self.resumed += not is_new
        if self.maps is not None:  # first: a row that is written is never scored again
            self.maps.write(record)
        if self.in_files is not None:
            self.in_files.take(record, is_new)
        row = self._with_generation(to_row(record, self.columns), record, is_new)
        self.ungrouped += row["group"] is None
        self.summary.add([row])
        if self.report is not None:
            self.report.add(row, record.quality_map)
        self.bar.update()

    def print_scores(self, records: Generator[Record, None, None], on_record: Callable[[Record], None]) -> None:
        """Put the rows of records on standard output; `on_record` is called just before."""
        with closing(records):
            print_row = row_printer(self.columns, self.names)
            for record in records:
                on_record(record)
                with self.bar.external_write_mode():
                    print_row(to_row(record, self.columns))

    def carry_out(self, score: Callable[[], object], notes: Callable[[], Iterable[str]]) -> int:
        """Score, and say what came of it, with notes; returns the exit status."""
        try:
            score()
        except BrokenPipeError:  # whoever read our output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return self._stopped("the output was closed", EXIT_ERRORS)
        except ImageError as error:
            return self._stopped(f"--strict: {error}", EXIT_ERRORS)
        except (InputError, LockedError):
            raise
        except OSError as error:
            if isinstance(error, LostError):
                self.kept = None
            return self._stopped(f"can't write the scores: {error}", EXIT_ERRORS)
        except tuple(STOPS) as stop:
            return self._stopped(*STOPS[type(stop)])
        finally:
            self.bar.close()
        self.say_resumed()
        self.say(*self.summary.lines(), *notes())
        note = self.ungrouped_note(self.ungrouped // len(self.names), self.taken // len(self.names))
        if note is not None:
            complain(note)
        if self.output is not None:
            self.say(f"{counted(self.taken, 'row')} in {self.output}")
        failed = self.summary.failed
        if self.maps is not None:
            self.say(f"maps in {self.maps.folder}" + (f", such as {self.maps.example}" if self.maps.example else ""))
            failed += self.maps.failed
            if count := self.maps.failed:
                why = self.maps.first_failure
                complain(f"{counted(count, 'map')} could not be written, but all scores have been; the first: {why}")
        if self.in_files is not None:
            self.say(*self.in_files.lines())
            failed += self.in_files.failed
            if count := self.in_files.failed:
                why = self.in_files.first_failure
                complain(f"{counted(count, 'image')} could not be given scores, which the table has; the first: {why}")
        return self._write_report() or (EXIT_ERRORS if failed else EXIT_DONE)

    def count_ahead(self, listed: Callable[[], Iterable[Any]]) -> None:
        """Find the progress bar's total without holding up the scoring."""
        if self.bar.disable:
            return

        def count() -> None:
            self.bar.total = len(self.names) * sum(1 for _ in listed())

        threading.Thread(target=count, daemon=True).start()

    def _with_generation(self, row: dict[str, Any], record: Record, is_new: bool) -> dict[str, Any]:
        """A row as a report shows it: with the parameters of its file where its cells are empty or not asked for."""
        found = record.generation
        if not is_new and self.report is not None and not scheme_of(record.image):  # a request for each would take long
            with contextlib.suppress(ImageError):
                found = read_generation(record.image)
        cells = found.cells() if found is not None else {}
        return {**row, **{name: cell for name, cell in cells.items() if not row.get(name)}}

    def say(self, *lines: str) -> None:
        """Put lines on standard error, unless it is to be quiet."""
        if not self.quiet:
            for line in lines:
                self.bar.write(printable(line), file=sys.stderr)

    def say_resumed(self) -> None:
        """Say once after how many rows of an earlier run this one goes on, if there are any."""
        if self.resumed and not self.has_said_resumed:
            self.has_said_resumed = True
            self.say(f"resuming after {counted(self.resumed, 'row')} in {self.output}")

    def _write_report(self) -> int:
        """Write the report, if one is asked for; returns the exit status."""
        try:
            if self.report is not None:
                self.report.write()
                self.say(f"report in {self.report.path}")
            return EXIT_DONE
        except OSError as error:
            why, status = str(error), EXIT_ERRORS
        except tuple(STOPS) as stop:
            why, status = STOPS[type(stop)]
        complain(f"no report, but all scores have been written: {why}")
        return status

    def _stopped(self, why: str, status: int) -> int:
        hint = ""
        if self.taken and self.kept is not None and may_exist(os.fspath(self.kept)):
            hint = f"; the rows so far are in {self.kept}, and --resume goes on from there"
        complain(f"{why}{hint}")
        return status
