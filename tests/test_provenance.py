"""What made a table is kept with it, one run writes it, and it is there when a run says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import aigciqa
from aigciqa.cli import compare, score
from aigciqa.cli.main import main
from aigciqa.errors import SourceError
from aigciqa.evaluation.study import Entry, create_study
from aigciqa.records import Record
from aigciqa.scoring import sources
from aigciqa.scoring.parts import Parts
from aigciqa.scoring.sinks import FileSink, LostError
from aigciqa.scoring.to_file import describe
from aigciqa.tables.columns import columns_of, to_row
from aigciqa.utils.files import locked
from tests.conftest import COMMAND, Watch, call_command, untrained

Write = Callable[..., list[str]]
COLUMNS = columns_of(["quality"])


@pytest.fixture
def folder(write_images: Write, tmp_path: Path) -> Path:
    """Four images, and two folders of references of them."""
    names = [f"{index}.png" for index in range(4)]
    for each in ("gen", "ref", "other"):
        write_images(each, *names)
    return tmp_path


def begin(folder: Path, *arguments: str, name: str = "t.csv", rows: int = 2) -> bytes:
    """The table of a run that stopped after some rows."""
    done = call_command("gen", *arguments, "-o", name, cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = (folder / name).read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[: rows + name.endswith(".csv")])
    (folder / name).write_bytes(kept)
    return kept


def test_the_file_beside_a_table_says_what_made_it(folder: Path) -> None:
    assert call_command("gen", "-m", "nr-lite", "-o", "t.csv", "--group-by", "parent", cwd=folder).returncode == 0
    made_by = json.loads((folder / "t.csv.meta.json").read_text())
    assert made_by["format"] == 1
    assert made_by["version"] == aigciqa.__version__
    assert made_by["dimensions"] == {"quality": [0, 5]}
    (metric,) = made_by["metrics"]
    assert (metric["name"], metric["dtype"], len(metric["weights"])) == ("nr-lite", "float32", 64)
    assert made_by["options"] == {"reference": None, "group-by": "parent", "decoder": "pillow", "folder": "."}


class TestResume:
    LITE = ("-m", "nr-lite")

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    @pytest.mark.parametrize(
        ("before", "after", "text"),
        [
            (LITE, (*LITE, "--weights", "native"), "t.{} is of another run: weights of nr-lite was "),
            (LITE, (*LITE, "--group-by", "parent"), "group-by was not given, is parent now"),
            (LITE, (*LITE, "--decoder", "draft"), "decoder was pillow, is draft now"),
            (LITE, (*LITE, "--dtype", "bfloat16"), "dtype of nr-lite was float32, is bfloat16 now"),
            (("-m", "fr-lite", "-r", "ref"), ("-m", "fr-lite", "-r", "other"), "reference was ref, is other now"),
            (("-m", "fr-lite", "-r", "ref"), LITE, "the metric was fr-lite, is nr-lite now"),
        ],
    )
    def test_another_run_is_refused_and_named(
        self, folder: Path, suffix: str, before: tuple[str, ...], after: tuple[str, ...], text: str
    ) -> None:
        name = f"t.{suffix}"
        kept, made_by = begin(folder, *before, name=name), (folder / f"{name}.meta.json").read_bytes()
        done = call_command("gen", *after, "-o", name, "--resume", cwd=folder)
        assert done.returncode == 2, done.stderr
        assert text.format(suffix) in " ".join(done.stderr.split())
        assert (folder / name).read_bytes() == kept
        assert (folder / f"{name}.meta.json").read_bytes() == made_by

    def test_a_folder_of_other_weights_is_refused(self, folder: Path, checkpoints: dict[str, str]) -> None:
        nr = ["-m", "nr-resnet18", "--dimension", "quality", "--weights"]
        begin(folder, *nr, checkpoints["nr-resnet18"])
        aigciqa.create_metric("nr-resnet18", weights=None).save_pretrained(folder / "new")
        done = call_command("gen", *nr, "new", "-o", "t.csv", "--resume", cwd=folder)
        assert (done.returncode, "weights of nr-resnet18 was " in done.stderr) == (2, True)
        shutil.copytree(checkpoints["nr-resnet18"], folder / "copy")  # the same, from elsewhere
        assert call_command("gen", *nr, "copy", "-o", "t.csv", "--resume", cwd=folder).returncode == 0

    def test_rows_of_another_manifest_are_refused(self, folder: Path) -> None:
        for group in ("a", "b"):
            text = "".join(f"gen/{index}.png,ref/{index}.png,{group}\n" for index in range(4))
            (folder / f"{group}.csv").write_text("image,reference,group\n" + text)
        arguments = ["-m", "fr-lite", "-o", "t.csv"]
        assert call_command("a.csv", *arguments, cwd=folder).returncode == 0
        before = (folder / "t.csv").read_bytes()
        done = call_command("b.csv", *arguments, "--resume", cwd=folder)
        assert done.returncode == 2
        assert "it has 'gen/0.png' by fr-lite with group 'a', this run group 'b'" in " ".join(done.stderr.split())
        (folder / "a.csv").write_text((folder / "a.csv").read_text().replace("ref/3", "other/3"))
        done = call_command("a.csv", *arguments, "--resume", cwd=folder)
        assert "with reference 'ref/3.png', this run reference 'other/3.png'" in " ".join(done.stderr.split())
        assert (folder / "t.csv").read_bytes() == before

    def test_relative_paths_after_an_absolute_one_are_those_of_one_folder(self, folder: Path) -> None:
        table = str(folder / "t.csv")
        arguments = [str(folder / "gen"), "ref", *self.LITE, "-o", table]
        assert call_command(*arguments, cwd=folder).returncode == 0
        before = (folder / "t.csv").read_bytes()
        (folder / "elsewhere").mkdir()
        shutil.copytree(folder / "other", folder / "elsewhere" / "ref")  # other images of the same names
        done = call_command(*arguments, "--resume", cwd=folder / "elsewhere")
        assert (done.returncode, "folder was ., is elsewhere now" in " ".join(done.stderr.split())) == (2, True)
        assert (folder / "t.csv").read_bytes() == before
        assert call_command(*arguments, "--resume", cwd=folder).returncode == 0

    @pytest.mark.parametrize("changed", ["gen/1.png", "ref/0.png"])
    def test_a_file_that_was_changed_since_is_named(self, folder: Path, changed: str) -> None:
        arguments = ["-m", "fr-lite", "-r", "ref"]
        kept = begin(folder, *arguments)
        now = (folder / "t.csv").stat().st_mtime
        os.utime(folder / "gen" / "3.png", (now + 9, now + 9))  # has no row yet
        os.utime(folder / changed, (now + 9, now + 9))
        done = call_command("gen", *arguments, "-o", "t.csv", "--resume", cwd=folder)
        assert (done.returncode, f"can't resume: {changed} was changed after t.csv was" in done.stderr) == (2, True)
        assert (folder / "t.csv").read_bytes() == kept
        os.utime(folder / changed, (now, now))
        assert call_command("gen", *arguments, "-o", "t.csv", "--resume", cwd=folder).returncode == 0

    @pytest.mark.parametrize("suffix", ["csv", "json"])
    def test_a_table_that_nothing_is_known_of_is_refused(self, folder: Path, suffix: str) -> None:
        arguments = ["gen", *self.LITE, "-o", f"t.{suffix}"]
        assert call_command(*arguments, cwd=folder).returncode == 0
        before = (folder / f"t.{suffix}").read_bytes()
        (folder / f"t.{suffix}.meta.json").unlink()
        done = call_command(*arguments, "--resume", cwd=folder)
        assert done.returncode == 2
        assert f"t.{suffix}.meta.json is missing, which says what made" in " ".join(done.stderr.split())
        assert (folder / f"t.{suffix}").read_bytes() == before
        assert not (folder / f"t.{suffix}.partial").exists()

    @pytest.mark.parametrize("text", ["{}", "[1]", "{", "[" * 100_000, '{"format": 2, "metrics": []}'])
    def test_a_file_of_that_name_that_is_not_ours_is_kept(self, folder: Path, text: str) -> None:
        (folder / "t.csv.meta.json").write_text(text)
        for more in ([], ["--resume"]):
            done = call_command("gen", *self.LITE, "-o", "t.csv", *more, cwd=folder)
            assert (done.returncode, "t.csv.meta.json" in done.stderr) == (2, True)
        assert (folder / "t.csv.meta.json").read_text() == text
        assert not (folder / "t.csv").exists()

    def test_parts_of_another_run_are_refused_and_kept(self, tmp_path: Path) -> None:
        def parts(weights: str) -> Parts:
            metric = aigciqa.create_metric("nr-lite", weights=weights)
            made_by = describe([metric], ["quality"], None, {"reference": None})
            return Parts(str(tmp_path / "t.parquet"), COLUMNS, made_by)

        parts("default").begin(keep=True)  # nothing is there yet
        parts("native").begin(keep=True)
        parts("native").write(0, [to_row(Record("a.png", None, None, "nr-lite", {"quality": 1.0}), COLUMNS)])
        parts("native").begin(keep=True)
        with pytest.raises(SourceError, match="weights of nr-lite was"):
            parts("default").begin(keep=True)
        assert os.listdir(tmp_path / "t.parquet") == ["part-00000000.parquet"]
        parts("default").begin(keep=False)
        assert os.listdir(tmp_path / "t.parquet") == []

    def test_parts_that_were_removed_are_missed(self, tmp_path: Path) -> None:
        parts = Parts(str(tmp_path / "t.parquet"), COLUMNS, {"format": 1})
        parts.begin(keep=False)
        parts.write(1, [])
        with pytest.raises(OSError, match=r"1 parts of .* were removed during the run, such as part-00000000\.parquet"):
            parts.finish(2)


class TestJournal:
    """What stands where a table is to go, and is none, stays."""

    def sink(self, path: Path) -> FileSink:
        return FileSink(str(path), COLUMNS, {"format": 1})

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    @pytest.mark.parametrize("content", [b"image,quality\ra.png,1\r", b"my notes", b'{"a": 1}', b"a\0b\n", b"\xff" * 9])
    def test_a_file_without_a_whole_row_is_refused(self, tmp_path: Path, suffix: str, content: bytes) -> None:
        path = tmp_path / f"t.{suffix}"
        sink = self.sink(path)
        sink.start()
        sink.abandon()
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"can't resume: .*t\."):
            list(self.sink(path).recover(iter([]), 1))
        assert path.read_bytes() == content

    def test_a_quotation_mark_too_many_costs_no_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        rows = [to_row(Record(f"{index}.png", None, None, "m", {"quality": 1.5}), COLUMNS) for index in range(150)]
        sink = self.sink(path)
        sink.start()
        sink.write(rows)
        sink.close()
        whole = path.read_bytes()
        for odd in (whole.replace(b"\n2.png", b'\n"2.png'), whole.replace(b"\n2.png,", b'\n2.png,"')):
            path.write_bytes(odd)
            with pytest.raises(SourceError, match="holds a line that is not CSV"):
                list(self.sink(path).recover(iter(rows), 1))
            assert path.read_bytes() == odd
        path.write_bytes(whole.replace(b"\n149.png", b'\n"149.png'))  # as the last row may be torn
        assert len(list(self.sink(path).recover(iter(rows), 1))) == 149

    @pytest.mark.parametrize("kind", ["file", "link", "folder"])
    def test_a_file_where_rows_are_kept_is_left_alone(self, tmp_path: Path, kind: str) -> None:
        journal, mine = tmp_path / "t.json.partial", tmp_path / "mine"
        mine.write_text("mine")
        (tmp_path / "t.json.tmp").write_text("mine")
        {
            "file": lambda: journal.write_text("mine"),
            "link": lambda: journal.symlink_to(mine),
            "folder": journal.mkdir,
        }[kind]()
        for begin in (lambda sink: sink.start(), lambda sink: list(sink.recover(iter([]), 1))):
            with pytest.raises(SourceError, match=r"t\.json\.partial is no table of aigciqa"):
                begin(self.sink(tmp_path / "t.json"))
        assert mine.read_text() == (tmp_path / "t.json.tmp").read_text() == "mine"
        assert sorted(os.listdir(tmp_path)) == ["mine", "t.json.partial", "t.json.tmp"]

    @pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
    @pytest.mark.parametrize("way", ["removed", "replaced"])
    @pytest.mark.parametrize("late", [False, True])
    def test_a_table_that_goes_during_the_run(self, tmp_path: Path, suffix: str, way: str, late: bool) -> None:
        sink = self.sink(tmp_path / f"t.{suffix}")
        rows = [to_row(Record("a.png", None, None, "m", {"quality": 1.0}), COLUMNS)]
        sink.start()
        sink.write(rows)
        sink.journal.unlink()
        if way == "replaced":
            sink.journal.write_text("another")
        with pytest.raises(LostError, match="was removed or replaced during the run"):
            sink.close() if late else sink.write(rows)
        assert not sink.path.exists() or sink.path.read_text() == "another"

    def test_the_command_says_that_its_table_went(self, folder: Path, watch: Watch) -> None:
        watch(FileSink, "close", lambda sink: sink.path.unlink())
        done = call_command("gen", "-m", "nr-lite", "-o", "t.csv", cwd=folder)
        assert done.returncode == 1
        assert "t.csv was removed or replaced during the run" in done.stderr
        assert "rows in" not in done.stderr
        assert "--resume goes on" not in done.stderr


class TestTwoRuns:
    @pytest.mark.slow
    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_the_second_is_refused(self, folder: Path, suffix: str) -> None:
        """The first is another process, and waits for its input with some rows written."""
        name = f"t.{suffix}"
        command = [*COMMAND, "-", "-m", "nr-lite", "-o", name, "--batch-size", "1", "--workers", "0"]
        with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as first:
            assert first.stdin is not None
            first.stdin.write(b"gen/0.png\ngen/1.png\ngen/2.png\n")
            first.stdin.flush()
            journal = folder / (name if suffix == "csv" else f"{name}.partial")
            deadline = time.monotonic() + 120
            while not (journal.exists() and b"gen/0.png" in journal.read_bytes()) and time.monotonic() < deadline:
                assert first.poll() is None
                time.sleep(0.01)
            for more in (["--overwrite"], ["--resume"]):
                second = call_command("gen", "-m", "nr-lite", "-o", name, *more, cwd=folder)
                assert second.returncode == 2
                assert "is being written by another run: wait for its end" in " ".join(second.stderr.split())
            _, said = first.communicate()
            assert (first.returncode, b"3 rows in t." in said) == (0, True)
        done = call_command("gen", "-m", "nr-lite", "-o", name, "--resume", cwd=folder)
        assert (done.returncode, "resuming after 3 rows" in done.stderr) == (0, True), done.stderr
        assert not list(folder.glob(".aigciqa*"))

    @pytest.mark.parametrize("arguments", [["t.csv"], ["t.csv", "--resume"], ["t.parquet", "--engine", "ray"]])
    def test_a_table_that_another_run_writes_is_refused(self, folder: Path, arguments: list[str]) -> None:
        with locked(folder / arguments[0]):
            done = call_command("gen", "-m", "nr-lite", "-o", *arguments, cwd=folder)
        assert (done.returncode, "is being written by another run" in " ".join(done.stderr.split())) == (2, True)


def test_a_comparison_does_not_replace_what_it_compares(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in ("a.csv", "b.csv"):
        assert call_command("gen", "-m", "nr-lite", "-o", name).returncode == 0
    before = (folder / "a.csv").read_bytes()
    os.link("a.csv", "c.csv")
    for output in ("a.csv", "./a.csv", "c.csv"):
        done = CliRunner().invoke(compare.main, ["a.csv", "b.csv", "-o", output])
        assert (done.exit_code, "would overwrite a.csv, which is read" in done.stderr) == (2, True)
    assert (folder / "a.csv").read_bytes() == before


class TestStreams:
    def run(self, folder: Path, redirections: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f'exec "$@" {redirections}', "sh", *COMMAND, "-m", "nr-lite", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)

    @pytest.mark.slow
    def test_closed_standard_streams_end_quietly(self, folder: Path) -> None:
        done = self.run(folder, "<&- >&-", "gen")
        assert done.returncode == 2
        assert "standard output is closed: name a file with -o" in done.stderr
        done = self.run(folder, "<&- >&- 2>&-", "gen", "-o", "t.csv")
        assert (done.returncode, done.stderr) == (0, "")
        assert len((folder / "t.csv").read_text().splitlines()) == 5

    def test_an_interrupt_before_the_first_score(self, folder: Path, watch: Watch) -> None:
        watch(sources, "open_sources", KeyboardInterrupt())
        done = CliRunner().invoke(score.main, [str(folder / "gen"), "-m", "nr-lite"], prog_name="aigciqa score")
        assert (done.exit_code, done.stderr.strip()) == (signal.SIGINT + 128, "aigciqa score: interrupted")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("mos", "votes.csv"), "-o"),
        (("mos", "votes.csv"), "--raters"),
        (("evaluate", "folder", "rated.csv", "--part", "all", "--scores", "made.csv"), "-o"),
        (("evaluate", "folder", "rated.csv", "--part", "all", "--scores", "made.csv"), "--predictions"),
        (("compare", "made.csv"), "-o"),
        (("rate", "--study", "study.db"), "--export"),
    ],
)
def test_what_replaces_a_table_replaces_what_is_said_of_it(
    arguments: tuple[str, ...], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = [f"{number}.png" for number in range(4)]
    for name in images:
        Path(name).touch()
    scores = "".join(f"{name},{number},{'ab'[number % 2]}\n" for number, name in enumerate(images))
    for name in ("rated.csv", "made.csv", "t.csv"):
        Path(name).write_text(f"image,quality,group\n{scores}")
    Path("votes.csv").write_text("image,rater,score\n0.png,ann,5\n1.png,ann,3\n0.png,bob,4\n1.png,bob,1\n")
    create_study("study.db", [Entry(name) for name in images]).close()
    Path("t.csv.meta.json").write_text('{"format": 1, "dimensions": {"quality": [0, 100]}}')

    def run(*more: str) -> Result:
        return CliRunner().invoke(main, [*arguments, option, "t.csv", *more], prog_name="aigciqa")

    for there in ("t.csv", "t.csv.meta.json"):
        refused = run()
        assert (refused.exit_code, f"{option} {there} is there already" in refused.stderr) == (2, True)
        Path("t.csv").unlink(missing_ok=True)
    assert run("--overwrite").exit_code == 0
    assert Path("t.csv").exists()
    assert not Path("t.csv.meta.json").exists()


def test_the_hash_is_of_the_weights_alone() -> None:
    metric = untrained("nr-resnet18")
    described = [
        describe([each], ["quality"], None, {})["metrics"][0]
        for each in (metric, aigciqa.create_metric("nr-resnet18", weights=None))
    ]
    assert described[0]["weights"] == describe([metric], [], None, {})["metrics"][0]["weights"]
    assert described[0]["weights"] != described[1]["weights"]
    assert {**described[0], "weights": None} == {**described[1], "weights": None}
