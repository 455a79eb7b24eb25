"""`aigciqa score --watch`: what it goes with, how it is ended, and what it says."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from aigciqa.tables.columns import scores_of
from aigciqa.tables.parquet import is_folder_of_parts
from aigciqa.tables.text import printable
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.paths import counted, shown

if TYPE_CHECKING:
    from aigciqa.cli.score_run import ScoreRun
    from aigciqa.metric import Metric
    from aigciqa.records import Record
    from aigciqa.scoring.engine import Engine
    from aigciqa.scoring.watching import Stop, Watch

#: What ends the watching; Windows has Ctrl-Break, too.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")


def check_watched(folders: Sequence[str], engine: str) -> None:
    """Refuse what can't be watched."""
    if engine != "local":
        raise click.UsageError(f"--watch goes with --engine local; got {engine}")
    for folder in folders:
        if not os.path.isdir(folder) or is_folder_of_parts(folder):
            raise click.UsageError(
                f"--watch goes with folders of this machine; {folder} is none: name a folder, or leave --watch out"
            )
    with needs_extra("watch", "--watch needs watchfiles"):
        import watchfiles  # noqa: F401


class WatchRun:
    """A run that watches: its records, its status line, and what it says at the end."""

    def __init__(self, run: ScoreRun, watch: Watch) -> None:
        self.run = run
        self.watch = watch
        self.written = 0.0  # when the table that it goes on with was, in seconds since 1970
        self.last = ""  # what was scored last
        self.shown = ""
        self.folders = printable(shown(watch.folders))
        run.bar.bar_format = "{desc}{bar}"  # the bar is blank; with it, the line is cut to the terminal's width

    def score(
        self, metrics: Sequence[Metric], scoring: Mapping[str, Any], options: Mapping[str, Any], resume: bool
    ) -> None:
        """Write or print scores until a signal comes."""
        from aigciqa.scoring.engine import Engine, check_abilities
        from aigciqa.scoring.sinks import FileSink, begun
        from aigciqa.scoring.to_file import describe, write_records

        check_abilities(metrics, scoring["decoder"], scoring["uncertainty"], scoring["percentiles"])
        output, columns = self.run.output, self.run.columns
        with contextlib.closing(Engine(metrics, **scoring)) as engine, ending(self.watch.stop):
            records = self._records(engine)
            if output is None:
                self.run.print_scores(records, self.take)
                return
            if resume and (left := begun(output)) is not None:
                self.written = left.stat().st_mtime
            made_by = describe(metrics, tuple(self.run.score_ranges), None, {**options, "decoder": scoring["decoder"]})
            sink = FileSink(output, columns, made_by)
            write_records(records, sink, sink.recover(None, len(metrics)) if resume else None, self.take)

    def take(self, record: Record, is_new: bool = True) -> None:
        """Take a record as `ScoreRun.take` does."""
        if not is_new:
            self.watch.take_earlier(record, self.written)
        self.run.take(record, is_new)
        name = next((each for each in scores_of(self.run.columns) if each in record.scores), None)
        score = "error" if name is None else f"{record.scores[name]:.1f}"
        self.last = f", last {score} {printable(os.path.basename(record.image))}"
        self.run.bar.set_description_str(self._status(), refresh=False)

    def notes(self) -> Iterator[str]:
        """What is said at the end."""
        has_table = self.run.output is not None
        if count := len(self.watch.arrivals.waiting):
            what = f"not scored, since not whole or not reached yet: {counted(count, 'image')}"
            yield f"{what}; --resume goes on" if has_table else what
        if count := self.watch.arrivals.changed():
            what = f"scored once, and changed since: {counted(count, 'image')}"
            yield f"{what}; --overwrite in place of --resume scores all anew" if has_table else what

    def _records(self, engine: Engine) -> Generator[Record, None, None]:
        self.run.say_resumed()
        self.run.say(f"watching {self.folders} for images; Ctrl-C ends it")
        with contextlib.closing(self.watch.records(engine, self._refresh)) as records:
            yield from records

    def _refresh(self) -> None:
        if (status := self._status()) != self.shown:
            self.run.bar.set_description_str(status)
            self.shown = status

    def _status(self) -> str:
        arrivals = self.watch.arrivals
        failed, waiting = len(arrivals.failed), len(arrivals.waiting)
        scored = len(arrivals.scored) - failed
        return f"watching {self.folders}: {scored} scored, {counted(failed, 'error')}, {waiting} waiting{self.last}"


@contextlib.contextmanager
def ending(stop: Stop) -> Iterator[None]:
    """Have the first signal end the watching after the image that is being scored; the next one acts as ever."""
    earlier = {each: signal.getsignal(each) for each in (getattr(signal, name, None) for name in _SIGNALS) if each}

    def end(_number: int, _frame: object) -> None:
        stop.is_asked = True
        restore()

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    for number in earlier:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore()
