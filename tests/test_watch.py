"""`aigciqa score --watch`: whole files only, each of them once, whatever happens to the folder meanwhile."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import watchfiles

from aigciqa.cli.score_watch import ending
from aigciqa.records import Record
from aigciqa.scoring import watching
from aigciqa.scoring.scores_in_files import ScoresInFiles
from aigciqa.scoring.sinks import FileSink
from aigciqa.scoring.sources import walk
from aigciqa.scoring.watching import Arrivals, Stop, Watch
from aigciqa.tables.columns import columns_of, to_row
from aigciqa.tables.formats import read_rows
from tests.conftest import call_command, png

#: What a script waits for, checked several times a second.
Condition = Callable[[], object]
Script = Callable[[Watch], Iterator[Condition]]
LIMIT = 120.0
#: The command with `nr-tiny`.
COMMAND = """
from tests.conftest import register_tiny
from aigciqa.cli.score import main
register_tiny()
main(prog_name="aigciqa score")
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
#: A process that does with files what generators, downloads, archivers and people do.
WRITER = """
import os, pathlib, time
from concurrent.futures import ThreadPoolExecutor

out, data = pathlib.Path("outputs"), pathlib.Path("tiny.png").read_bytes()

def slowly():
    with open(out / "slow.png", "wb", buffering=0) as stream:
        for start in range(0, len(data), len(data) // 5 + 1):
            stream.write(data[start : start + len(data) // 5 + 1])
            time.sleep(0.5)  # longer than a file settles

def replacing():
    out.joinpath("replaced.png").touch()
    time.sleep(1)
    pathlib.Path("new.png").write_bytes(data)
    os.replace("new.png", out / "replaced.png")

def renaming():
    for index in range(50):
        unfinished = out / f"renamed{index}.png.tmp"
        unfinished.write_bytes(data)
        unfinished.rename(out / f"renamed{index}.png")

def deleting():
    for index in range(50):
        out.joinpath(f"deleted{index}.png").write_bytes(data[: 100 if index % 2 else None])
        time.sleep(0.02)
        out.joinpath(f"deleted{index}.png").unlink()

def moving():
    staging = pathlib.Path("staging")
    staging.joinpath("deep").mkdir(parents=True)
    for index in range(10):
        staging.joinpath("deep", f"{index}.png").write_bytes(data)
    staging.rename(out / "moved")

def flooding():
    for index in range(1000):
        out.joinpath(f"{index:04}.png").write_bytes(data)

with ThreadPoolExecutor() as pool:
    for done in [pool.submit(each) for each in (slowly, replacing, renaming, deleting, moving, flooding)]:
        done.result()
"""


class Folder:
    """A folder, the clock of who watches it, and what comes of its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.arrivals = Arrivals(clock=lambda: self.now)

    def write(self, name: str, size: int = 1, modified: int = 1_000) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, ns=(modified, modified))
        return path

    def due(self, after: float = 0.0) -> list[str]:
        """What is due some seconds later, the folder being listed first."""
        self.now += after
        self.arrivals.update(walk(str(self.path), {}))
        return [each.found.relative for each in self.arrivals.due()]

    def take(self, *errors: str | None) -> list[bool]:
        """Have all that is due scored, with an error or none; whether that is what becomes of each file."""
        return [
            self.arrivals.take(each, [Record(each.found.item.image, None, None, "m", error=error) for error in errors])
            for each in self.arrivals.due()
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "outputs")


def test_a_file_is_due_when_it_has_stayed_the_same(folder: Folder) -> None:
    folder.write("a.png", 1)
    assert folder.due() == []
    assert folder.due(0.25) == []
    folder.write("a.png", 2)
    assert folder.due(0.25) == []
    folder.write("a.png", 2, modified=2_000)
    assert folder.due(0.5) == []
    assert folder.due(0.5) == ["a.png"]
    assert folder.take(None) == [True]
    assert folder.due(0.5) == []


def test_a_file_that_cannot_be_scored_is_tried_again_when_it_changes_and_once_it_is_left_alone(folder: Folder) -> None:
    folder.write("a.png", 1)
    folder.due()
    assert folder.due(0.5) == ["a.png"]
    assert folder.take("truncated") == [False]
    assert folder.due(0.5) == []
    folder.write("a.png", 2)
    folder.due(0.5)
    assert folder.due(0.5) == ["a.png"]
    assert folder.take("truncated") == [False]
    assert folder.due(5) == []
    assert folder.due(5) == ["a.png"]
    assert folder.take("truncated") == [True]
    assert len(folder.arrivals.failed) == 1
    assert folder.due(10) == []


def test_one_metric_that_fails_is_enough_to_wait(folder: Folder) -> None:
    folder.write("a.png")
    folder.due()
    folder.due(0.5)
    assert folder.take(None, "no reference") == [False]
    folder.due(10)
    assert folder.take(None, "no reference") == [True]


def test_what_is_deleted_or_renamed_is_not_waited_for(folder: Folder) -> None:
    for name in ("a.png", "b.png", "c.png.tmp", ".c.png", "d/e.png"):
        folder.write(name)
    folder.due()
    folder.path.joinpath("a.png").unlink()
    folder.path.joinpath("c.png.tmp").rename(folder.path / "c.png")
    folder.path.joinpath("d").rename(folder.path / "f")
    assert folder.due(0.5) == [".c.png", "b.png"]
    assert folder.due(0.5) == [".c.png", "b.png", "c.png", os.path.join("f", "e.png")]
    folder.path.joinpath("b.png").unlink()
    assert folder.take(None) == [True] * 3
    assert not folder.arrivals.waiting


def test_changed_is_what_has_another_modification_time(folder: Folder) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        folder.write(name)
    folder.due()
    folder.due(0.5)
    folder.take(None)
    assert folder.arrivals.changed() == 0
    folder.write("a.png", size=5)  # as our own writing of scores into files leaves them
    folder.write("b.png", modified=500)
    folder.write("c.png", modified=2_000)
    folder.path.joinpath("d.png").unlink()
    assert folder.arrivals.changed() == 2
    assert folder.due(0.5) == []


def test_rows_of_an_earlier_run_are_not_scored_again(folder: Folder) -> None:
    for name, modified in (("a.png", 1), ("b.png", 3), ("c.png", 1)):
        folder.write(name, modified=modified * 10**9)
    path = str(folder.path)
    watch = Watch([path], list, lambda found: [], strict=False, arrivals=folder.arrivals)
    other_spelling = os.path.join(path, os.pardir, folder.path.name)
    for name in ("a.png", "b.png", "gone.png"):
        watch.take_earlier(Record(os.path.join(other_spelling, name), None, None, "m"), written=2.0)
    watch.take_earlier(Record("elsewhere/c.png", None, None, "m"), written=2.0)
    folder.due()
    assert folder.due(0.5) == ["c.png"]
    assert folder.arrivals.changed() == 1


def test_rows_of_names_that_are_not_utf8_are_known_again(folder: Folder) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    folder.write(name)
    folder.arrivals.take_earlier(str(folder.path / name), None, written=2.0)
    folder.due()
    assert folder.due(0.5) == []


def test_a_file_of_several_folders_is_listed_as_the_first_calls_it(folder: Folder) -> None:
    root = str(folder.path)
    folder.write("sub/a.png")
    folder.write("b.png")
    link = folder.path.parent / "link"
    link.symlink_to(folder.path)

    def named(*folders: str, missed: int = 0) -> set[str]:
        """By a listing of folders that the files came too late for the first of."""
        listed = [found for each in folders[missed:] for found in walk(each, {})]
        watch = Watch(folders, lambda: listed, lambda found: found.item, strict=False)
        folder.arrivals.waiting.clear()
        folder.arrivals.update(watch._each_once())
        return {f"{path} {each.found.relative}".replace(os.sep, "/") for path, each in folder.arrivals.waiting.items()}

    first = {f"{root}/b.png b.png", f"{root}/sub/a.png sub/a.png"}
    for others in ([f"{root}/sub"], [str(link)], [f"{root}/sub/.."], [root, str(link / "sub")]):
        assert named(root, *others) == first
    assert named(root, str(link), missed=1) == first
    assert named(str(link), root) == {f"{link}/b.png b.png", f"{link}/sub/a.png sub/a.png"}
    assert named(str(link / "sub"), root) == {f"{link}/sub/a.png a.png", f"{root}/b.png b.png"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], None]:
    """Has the next command that watches go through a script; it ends when the script does."""

    records = Watch.records

    def set_script(script: Script) -> None:
        deadline = time.monotonic() + LIMIT

        def scripted(self: Watch, engine: object, on_tick: Callable[[], object]) -> Iterator[Record]:
            steps = script(self)
            condition: Condition | None = next(steps)

            def tick() -> None:
                nonlocal condition
                on_tick()
                assert time.monotonic() < deadline
                while condition is not None and condition():
                    condition = next(steps, None)
                self.stop.is_asked = condition is None

            return records(self, engine, tick)  # type: ignore[arg-type]

        monkeypatch.setattr(Watch, "records", scripted)

    return set_script


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watching, "LEFT_ALONE_SECONDS", 0.6)
    path = tmp_path / "outputs"
    path.mkdir()
    for index in (1, 2):
        path.joinpath(f"{index}.png").write_bytes(png(index))
    return path


def score(tiny: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = call_command("outputs", "--watch", "-m", "nr-tiny", "--weights", str(tiny), *options)
    assert "Traceback" not in done.stderr
    return done


def taken(watch: Watch, count: int) -> Condition:
    return lambda: len(watch.arrivals.scored) == count


@pytest.mark.parametrize("table", ["outputs/scores.csv", "scores.json", "scores.parquet"])
def test_what_is_there_and_what_comes_go_into_one_table(
    table: str, run: Callable[[Script], None], outputs: Path, tiny: Path
) -> None:
    def script(watch: Watch) -> Iterator[Condition]:
        yield taken(watch, 2)
        outputs.joinpath("sub").mkdir()
        outputs.joinpath("sub", "0.png").write_bytes(png(0))
        outputs.joinpath("3.png").write_bytes(png(3)[:2000])
        yield taken(watch, 4)

    run(script)
    done = score(tiny, "-o", table)
    assert done.returncode == 1
    rows = list(read_rows(Path(table)))
    assert [row["image"] for row in rows] == [f"outputs/{name}.png" for name in ("1", "2", "sub/0", "3")]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True]
    said = done.stderr.splitlines()
    assert said[0] == "watching outputs for images; Ctrl-C ends it"
    assert said[-1] == f"4 rows in {table}"
    assert not list(outputs.parent.glob("*.partial"))


def test_rows_are_printed_as_they_come(run: Callable[[Script], None], outputs: Path, tiny: Path) -> None:
    run(lambda watch: iter([taken(watch, 2)]))
    done = score(tiny)
    assert done.returncode == 0
    assert [row["image"] for row in csv.DictReader(done.stdout.splitlines())] == ["outputs/1.png", "outputs/2.png"]


def test_quiet_says_nothing(run: Callable[[Script], None], outputs: Path, tiny: Path) -> None:
    run(lambda watch: iter([taken(watch, 2)]))
    done = score(tiny, "--quiet", "-o", "scores.csv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("table", ["scores.csv", "scores.parquet"])
def test_resume_takes_the_rows_as_they_are(
    table: str, run: Callable[[Script], None], outputs: Path, tiny: Path
) -> None:
    def first(watch: Watch) -> Iterator[Condition]:
        yield taken(watch, 2)
        outputs.joinpath("0.png").write_bytes(png(0))
        yield taken(watch, 3)

    run(first)
    assert score(tiny, "-o", table, "--resume").returncode == 0
    earlier = list(read_rows(Path(table)))
    outputs.joinpath("1.png").unlink()
    outputs.joinpath("2.png").write_bytes(png(7))
    later = time.time() + 5
    os.utime(outputs / "2.png", (later, later))
    outputs.joinpath("3.png").write_bytes(png(3))
    run(lambda watch: iter([taken(watch, 4)]))
    done = score(tiny, "-o", table, "--resume")
    assert done.returncode == 0
    rows = list(read_rows(Path(table)))
    assert rows[:3] == earlier
    assert [row["image"] for row in rows] == [f"outputs/{index}.png" for index in (1, 2, 0, 3)]
    assert done.stderr.splitlines()[:2] == [
        f"resuming after 3 rows in {table}", "watching outputs for images; Ctrl-C ends it"
    ]  # fmt: skip
    assert "scored once, and changed since: 1 image; --overwrite" in done.stderr


def test_a_table_of_a_run_that_did_not_watch_is_gone_on_with(
    run: Callable[[Script], None], outputs: Path, tiny: Path
) -> None:
    plain = ("-m", "nr-tiny", "--weights", str(tiny), "-o", "scores.csv")
    assert call_command("outputs", *plain).returncode == 0
    outputs.joinpath("0.png").write_bytes(png(0))
    run(lambda watch: iter([taken(watch, 3)]))
    done = call_command("./outputs/", "--watch", "--resume", *plain)
    assert done.returncode == 0
    images = [row["image"] for row in rows_of(Path("scores.csv"))]
    assert images == ["outputs/1.png", "outputs/2.png", "./outputs/0.png"]
    refused = call_command("outputs", "--resume", *plain)
    assert refused.returncode == 2
    assert "is of another run" in refused.stderr


def test_a_picture_that_several_folders_hold_is_scored_once(
    run: Callable[[Script], None], outputs: Path, tiny: Path
) -> None:
    def script(count: int) -> Callable[[Watch], Iterator[Condition]]:
        def steps(watch: Watch) -> Iterator[Condition]:
            yield taken(watch, count - 1)
            outputs.joinpath("sub", f"{count}.png").write_bytes(png(count))
            yield taken(watch, count)

        return steps

    outputs.joinpath("sub").mkdir()
    Path("link").symlink_to(outputs)
    options = ("--watch", "-m", "nr-tiny", "--weights", str(tiny), "-o", "scores.csv", "--resume")
    run(script(3))
    assert call_command("outputs/sub", "outputs", "./outputs", "link", *options).returncode == 0
    names = ["outputs/1.png", "outputs/2.png", "outputs/sub/3.png"]
    assert [row["image"] for row in rows_of(Path("scores.csv"))] == names
    run(script(4))
    assert call_command("link", "outputs", *options).returncode == 0
    assert [row["image"] for row in rows_of(Path("scores.csv"))] == [*names, "link/sub/4.png"]


def test_a_table_of_other_options_is_not_resumed(run: Callable[[Script], None], outputs: Path, tiny: Path) -> None:
    run(lambda watch: iter([taken(watch, 2)]))
    score(tiny, "-o", "scores.csv")
    before = Path("scores.csv").read_bytes()
    assert "is there already" in score(tiny, "-o", "scores.csv").stderr
    other = score(tiny, "-o", "scores.csv", "--resume", "--group-by", "parent")
    assert other.returncode == 2
    assert "group-by was not given, is parent now" in other.stderr
    assert Path("scores.csv").read_bytes() == before


def test_a_table_is_gone_on_with_after_whole_images(tmp_path: Path) -> None:
    columns, path = columns_of(["quality"]), tmp_path / "scores.csv"
    scores = [Record(f"{name}.png", None, None, by, {"quality": 1.0}) for name in "ba" for by in ("m", "n")]
    sink = FileSink(str(path), columns, {"format": 1})
    sink.start()
    sink.write([to_row(each, columns) for each in scores[:3]])
    sink.abandon()
    again = FileSink(str(path), columns, {"format": 1})
    assert [(row["image"], row["metric"]) for row in again.recover(None, 2)] == [("b.png", "m"), ("b.png", "n")]
    again.write([to_row(each, columns) for each in scores[2:]])
    again.close()
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))  # without a row in the middle
    with pytest.raises(ValueError, match="is of another run"):
        list(FileSink(str(path), columns, {"format": 1}).recover(None, 2))


def test_an_empty_folder_may_be_watched_and_may_vanish(
    run: Callable[[Script], None], outputs: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LISTING_SECONDS", 0.2)

    def script(watch: Watch) -> Iterator[Condition]:
        shutil.rmtree(outputs)
        yield lambda: True
        outputs.mkdir()
        outputs.joinpath("1.png").write_bytes(png(1))
        yield taken(watch, 1)

    for path in outputs.iterdir():
        path.unlink()
    run(lambda watch: iter([lambda: True]))
    assert score(tiny, "-o", "scores.json", "--group-by", "parent").returncode == 0
    assert json.loads(Path("scores.json").read_text()) == []
    run(script)
    assert score(tiny, "-o", "scores.json", "--resume", "--group-by", "parent").returncode == 0
    assert [row["group"] for row in read_rows(Path("scores.json"))] == ["outputs"]


def test_where_the_system_tells_of_nothing_folders_are_listed(
    run: Callable[[Script], None], outputs: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **_options: object) -> Iterator[set[object]]:
        raise OSError("no space left for watches")
        yield

    def script(watch: Watch) -> Iterator[Condition]:
        yield taken(watch, 2)
        outputs.joinpath("3.png").write_bytes(png(3))
        yield taken(watch, 3)

    monkeypatch.setattr(watchfiles, "watch", refuse)
    monkeypatch.setattr(watching, "LISTING_SECONDS", 0.2)
    run(script)
    done = score(tiny)
    assert done.returncode == 0
    assert "no space left for watches; they are listed every 0.2 seconds instead" in done.stderr


def test_maps_and_a_report_come_with_it(run: Callable[[Script], None], outputs: Path, tiny: Path) -> None:
    run(lambda watch: iter([taken(watch, 2), lambda: time.monotonic() > begun + 1.5]))
    begun = time.monotonic()
    done = score(tiny, "--maps", "outputs/maps", "--report", "outputs/report.html", "-o", "outputs/scores.csv")
    assert done.returncode == 0
    assert len(rows_of(outputs / "scores.csv")) == 2
    assert len(list(outputs.joinpath("maps").rglob("*.annotated.png"))) == 2
    assert "outputs/2.png" in outputs.joinpath("report.html").read_text()


def test_scores_are_written_into_files_once(
    run: Callable[[Script], None], outputs: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs.joinpath("2.png").write_bytes(png(2)[:2000])
    outputs.joinpath("gone.png").write_bytes(png(2)[:2000])
    lines, on_their_way = ScoresInFiles.lines, []

    def spy(self: ScoresInFiles) -> list[str]:
        on_their_way.extend(self.states)
        return lines(self)

    monkeypatch.setattr(ScoresInFiles, "lines", spy)

    def is_tried(watch: Watch, name: str) -> bool:
        waiting = watch.arrivals.waiting.get(os.path.join("outputs", name))
        return waiting is not None and waiting.rest != watching.SETTLE_SECONDS

    def script(watch: Watch) -> Iterator[Condition]:
        yield lambda: is_tried(watch, "2.png") and is_tried(watch, "gone.png")
        outputs.joinpath("2.png").write_bytes(png(2))
        outputs.joinpath("gone.png").unlink()
        yield taken(watch, 2)
        written = time.monotonic()
        yield lambda: time.monotonic() > written + 0.5  # what is noticed of our own writing is no change

    run(script)
    done = score(tiny, "--write-metadata", "-o", "scores.csv")
    assert done.returncode == 0
    assert len(rows_of(Path("scores.csv"))) == 2
    assert all(b"aigciqa:nr-tiny" in path.read_bytes() for path in outputs.iterdir())
    assert "changed since" not in done.stderr
    assert not on_their_way
    run(lambda watch: iter([taken(watch, 2)]))
    again = score(tiny, "--write-metadata", "-o", "scores.csv", "--resume")
    assert again.returncode == 0
    assert "changed since" not in again.stderr


def test_strict_stops_at_the_first_that_cannot_be_scored(
    run: Callable[[Script], None], outputs: Path, tiny: Path
) -> None:
    outputs.joinpath("0.png").write_bytes(b"")
    run(lambda watch: iter([lambda: False]))
    done = score(tiny, "-o", "scores.csv", "--strict")
    assert done.returncode == 1
    assert "--strict: outputs/0.png: the file is empty; the rows so far are in scores.csv" in done.stderr
    assert len(rows_of(Path("scores.csv"))) == 2


def test_references_and_several_metrics_go_with_it(run: Callable[[Script], None], outputs: Path) -> None:
    Path("prompt.png").write_bytes(png(9))
    run(lambda watch: iter([taken(watch, 2)]))
    done = call_command("outputs", "--watch", "-r", "prompt.png", "-m", "fr-lite", "-m", "nr-lite", "-o", "scores.csv")
    assert done.returncode == 0
    found = [(row["image"], row["metric"]) for row in rows_of(Path("scores.csv"))]
    assert found == [(f"outputs/{index}.png", metric) for index in (1, 2) for metric in ("fr-lite", "nr-lite")]


def test_the_first_signal_ends_the_watching_the_second_the_run() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        stop = Stop()
        with ending(stop):
            signal.raise_signal(number)
            assert stop.is_set()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["outputs/1.png"], "outputs/1.png is none"),
        (["outputs", "-"], "- is none"),
        (["outputs/*.png"], r"outputs/*.png is none"),
        (["s3://bucket/outputs"], "s3://bucket/outputs is none"),
        (["scores.parquet"], "scores.parquet is none"),
        (["outputs", "--engine", "ray", "-o", "t.parquet"], "--watch goes with --engine local; got ray"),
    ],
)
def test_only_folders_of_this_machine_are_watched(arguments: list[str], error: str, outputs: Path) -> None:
    Path("scores.parquet").mkdir()
    Path("scores.parquet", "part-00000.parquet").write_bytes(b"PAR1")
    done = call_command("--watch", *arguments)
    assert done.returncode == 2
    assert error in done.stderr


def test_the_extra_is_named(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    done = call_command("outputs", "--watch")
    assert done.returncode == 2
    assert "--watch needs watchfiles: pip install 'aigciqa[watch]'" in done.stderr


def rows_of(path: Path) -> list[dict[str, str]]:
    """The whole rows of a CSV table, as far as it was written."""
    text = path.read_text() if path.exists() else ""
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def start(folder: Path, tiny: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", COMMAND, "outputs", "--watch", "-m", "nr-tiny", "--weights", str(tiny), *options]
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def tiny_files(tmp_path: Path) -> Path:
    """A folder with an empty folder `outputs`, and `tiny.png` to be copied there."""
    tmp_path.joinpath("outputs").mkdir()
    tmp_path.joinpath("tiny.png").write_bytes(png(1, 32, 32))
    return tmp_path


@pytest.mark.slow
def test_whole_files_only_whatever_other_processes_do(tiny_files: Path, tiny: Path) -> None:
    expected = {"slow", "replaced", *(f"renamed{index}" for index in range(50)), *(f"{n:04}" for n in range(1000))}
    expected |= {f"moved/deep/{index}" for index in range(10)}
    journal = tiny_files / "outputs" / "scores.json.partial"

    def scored() -> list[str]:
        lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [row["image"].removeprefix("outputs/").removesuffix(".png") for row in rows]

    with start(tiny_files, tiny, "-o", "outputs/scores.json") as process:
        wait_for(journal.exists, process)
        subprocess.run([sys.executable, "-c", WRITER], cwd=tiny_files, check=True, timeout=LIMIT)
        wait_for(lambda: expected <= set(scored()), process)
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read().decode() if process.stderr else ""
        assert process.wait(LIMIT) == 0
    rows = json.loads(tiny_files.joinpath("outputs", "scores.json").read_bytes())
    names = [row["image"].removeprefix("outputs/").removesuffix(".png") for row in rows]
    assert len(set(names)) == len(names)
    assert all(name.startswith("deleted") for name in set(names) - expected)
    assert [row["quality"] for row in rows] == pytest.approx([rows[0]["quality"]] * len(rows), abs=1e-4)
    assert "Traceback" not in said
    assert f"{len(rows)} rows in outputs/scores.json" in said
    assert not journal.exists()


@pytest.mark.slow
def test_no_row_is_lost_or_there_twice_however_often_it_is_killed(tiny_files: Path, tiny: Path) -> None:
    table = tiny_files / "scores.csv"
    data = tiny_files.joinpath("tiny.png").read_bytes()
    before: list[dict[str, str]] = []
    for begun in range(3):
        for index in range(200):  # the later ones come before those that are there by name
            tiny_files.joinpath("outputs", f"{2 - begun}-{index:03}.png").write_bytes(data)
        with start(tiny_files, tiny, "-o", "scores.csv", "--resume", "--batch-size", "2") as process:
            enough = 600 if begun == 2 else len(before) + 60
            wait_for(lambda enough=enough: len(rows_of(table)) >= enough, process)  # type: ignore[misc]
            process.send_signal(signal.SIGINT if begun == 2 else signal.SIGKILL)
            said = process.stderr.read().decode() if process.stderr else ""
            assert process.wait(LIMIT) == (0 if begun == 2 else -signal.SIGKILL)
        rows = rows_of(table)
        assert rows[: len(before)] == before
        before = rows
    assert len({row["image"] for row in before}) == len(before) == 600
    assert "Traceback" not in said
    assert "600 rows in scores.csv" in said
