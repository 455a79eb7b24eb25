"""`aigciqa select`: which images are chosen, and how they get into a folder."""

from __future__ import annotations

import csv
import errno
import filecmp
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image, PngImagePlugin

from aigciqa.cli.select import main
from aigciqa.compare.buckets import Buckets
from aigciqa.compare.selection import Criteria, select
from aigciqa.errors import InputError
from aigciqa.records import Record
from aigciqa.scoring.sinks import FileSink
from aigciqa.tables import provenance
from aigciqa.tables.columns import columns_of, to_row
from aigciqa.tables.scores import read_table
from aigciqa.utils.place_files import Step
from tests.conftest import Watch

#: Image below `out` -> quality; None: it could not be scored.
IMAGES = {"a/1.png": 4.5, "a/2.png": 3.5, "a/3.png": 1.0, "b/1.png": 3.5, "b/2.png": 2.0, "b/torn.png": None}
COLUMNS = columns_of(("quality", "authenticity"))


def row(image: str, quality: float | None, **cells: Any) -> dict[str, Any]:
    """A row of a table; its authenticity is 5 less its quality."""
    scores = {} if quality is None else {"quality": quality, "authenticity": 5 - quality}
    error = None if scores else f"{image}: torn"
    group = os.path.basename(os.path.dirname(image))
    return to_row(Record(image, None, group, cells.get("metric", "nr-lite"), scores, error), COLUMNS)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    sink = FileSink(str(path), COLUMNS, {"format": 1})
    sink.start()
    sink.write(rows)
    sink.close()
    return str(path)


@pytest.fixture
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table `scores.csv` beside the images, which are in the current folder; their content is their path."""
    monkeypatch.chdir(tmp_path)
    for name in IMAGES:
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    write(tmp_path / "scores.csv", [row(f"out/{name}", quality) for name, quality in IMAGES.items()])
    return "scores.csv"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="aigciqa select")


def files(folder: str) -> dict[str, str]:
    """Relative path -> content of all files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_text() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }


class TestWhich:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ([], "a/1 a/2 a/3 b/1 b/2"),
            (["--min", "quality=3.5"], "a/1 a/2 b/1"),
            (["--min", "3.5"], "a/1 a/2 b/1"),
            (["--max", "quality=3.5"], "a/2 a/3 b/1 b/2"),
            (["--min", "2", "--max", "authenticity=2"], "a/1 a/2 b/1"),
            (["--min", "3.5", "--dimension", "authenticity"], "a/3"),
            (["--top", "2"], "a/1 a/2"),  # of equals, the earlier
            (["--bottom", "2"], "a/3 b/2"),
            (["--top", "1", "--per", "group"], "a/1 b/1"),
            (["--bottom", "1", "--per", "group", "--min", "2"], "a/2 b/2"),
            (["--top", "1", "--per", "parent"], "a/1 b/1"),
            (["--top", "1", "--dimension", "authenticity"], "a/3"),
            (["--min", "5"], ""),
        ],
    )
    def test_thresholds_and_ranks(self, scores: str, arguments: list[str], expected: str) -> None:
        done = run(scores, *arguments)
        assert done.exit_code == 0
        assert done.stdout.split() == [f"out/{name}.png" for name in expected.split()]
        assert done.stderr.startswith(f"{len(expected.split())} of 6 images selected")
        assert done.stderr.endswith("\nleft out, without such a score: 1 image\n")

    def test_a_list_such_as_the_gallerys(self, scores: str, tmp_path: Path) -> None:
        listed = tmp_path / "selection.csv"
        listed.write_text(f"image\nout/a/3.png\n{tmp_path}/out/a/1.png\n")
        done = run(scores, "--list", str(listed), "--top", "9")
        assert (done.exit_code, done.stdout.split()) == (0, ["out/a/1.png", "out/a/3.png"])
        listed.write_text("image\nout/a/3.png\nout/elsewhere.png\n")
        done = run(scores, "--list", str(listed))
        assert (done.exit_code, done.stdout.split()) == (1, ["out/a/3.png"])
        assert "not in the table: 1 image of" in done.stderr

    @pytest.mark.parametrize("text", ["2,3.5", "3.5,2"])
    def test_buckets_that_scores_name(self, scores: str, text: str) -> None:
        buckets = Buckets.parse(text)
        assert [buckets.of(score) for score in (1.9, 2, 3.4, 3.5, 9)] == [
            "below-2", "2-to-3.5", "2-to-3.5", "3.5-up", "3.5-up"
        ]  # fmt: skip
        assert Buckets.parse("3.1234567,3.1234568").of(3.12345675) == "3.1234567-to-3.1234568"
        done = run(scores, "--buckets", text)
        assert done.stdout.splitlines()[::2] == ["3.5-up\tout/a/1.png", "below-2\tout/a/3.png", "2-to-3.5\tout/b/2.png"]

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("great=4,ok=3", ["rest", "rest", "ok", "ok", "great", "great"]),
            (" ok = 3 , great = 4 ", ["rest", "rest", "ok", "ok", "great", "great"]),
            ("great=4,ok=3,bad", ["bad", "bad", "ok", "ok", "great", "great"]),
            ("very good=4.5", ["rest"] * 5 + ["very good"]),
            ("zero=-1.5,a+=4", ["rest", "zero", "zero", "zero", "a+", "a+"]),
            ("convincing=4,com10=3", ["rest", "rest", "com10", "com10", "convincing", "convincing"]),
        ],
    )
    def test_buckets_with_names(self, text: str, names: list[str]) -> None:
        buckets = Buckets.parse(text)
        assert [buckets.of(score) for score in (-2, 2.999, 3, 3.999, 4, 4.5)] == names

    def test_buckets_are_counted_and_stand_before_the_paths(self, scores: str) -> None:
        done = run(scores, "--buckets", "great=4,ok=3,unseen=5", "--top", "3")
        assert done.stdout == "great\tout/a/1.png\nok\tout/a/2.png\nok\tout/b/1.png\n"
        assert "3 of 6 images selected: the best 3\nunseen 0, great 1, ok 2, rest 0\n" in done.stderr

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("great=4,great=3", "two buckets have one name: great, great, rest"),
            ("OK=4,ok=3", "two buckets have one name"),
            ("rest=4", "two buckets have one name"),
            ("a=4,b=4.0", "begin at one score"),
            ("4,4", "begin at one score"),
            ("great=4,ok,bad", "ok and bad have no lowest score"),
            ("great=4,3", "'3' is no name"),
            ("../x=4", "'../x' is no name"),
            ("..=4", "'..' is no name"),
            ("a\\b=4", "is no name"),
            (".hidden=4", "is no name"),
            ("a.=4", "is no name"),
            ("a\n=4,b\nc=3", "is no name"),
            ("a:b=4", "'a:b' is no name"),
            ("con=4", "'con' is no name of a bucket: it can be no folder's on Windows"),
            ("great=4,NUL", "'NUL' is no name of a bucket: it can be no folder's on Windows"),
            ("Aux .fine=4", "'Aux .fine' is no name of a bucket: it can be no folder's on Windows"),
            ("lpt\N{SUPERSCRIPT ONE}.x=4", "no folder's on Windows"),
            (f"{'é' * 128}=4", "éé... is no name of a bucket: it has more than 255 bytes"),
            ("=4", "'' is no name"),
            ("great=4,", "'' is no name"),
            ("great=high", "'high' is no score"),
            ("great=nan", "'nan' is no score"),
            ("great", "'great' is no score: expected NAME=SCORE, such as great=4,ok=3"),
            ("", "'' is no score"),
        ],
    )
    def test_buckets_that_can_not_be(self, text: str, complaint: str) -> None:
        with pytest.raises(InputError) as refused:
            Buckets.parse(text)
        assert complaint in str(refused.value)

    def test_a_new_table_is_a_table(self, scores: str) -> None:
        for suffix in (".csv", ".json", ".jsonl", ".parquet"):
            done = run(scores, "--top", "2", "-o", f"best{suffix}")
            assert (done.exit_code, done.stdout) == (0, "")
            assert [each["image"] for each in read_table(f"best{suffix}").rows] == ["out/a/1.png", "out/a/2.png"]
        done = run(scores, "-o", "best.csv")
        assert done.exit_code == 2
        assert "is there already: --overwrite replaces it" in done.stderr

    def test_a_new_table_leaves_all_else_as_it_is(self, scores: str, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("best.json.partial").write_text("the journal of another run")
        assert run(scores, "-o", "best.json").exit_code == 0
        assert Path("best.json.partial").read_text() == "the journal of another run"
        before = set(os.listdir())

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("aigciqa.compare.selection.write_rows", full)
            done = run(scores, "-o", "best.csv")
        assert (done.exit_code, "can't write -o best.csv: No space left on device" in done.stderr) == (1, True)
        assert set(os.listdir()) == before
        assert run(scores, "-o", "/proc/best.csv").exit_code == 1

    def test_a_row_without_an_image_is_not_selected(self, scores: str) -> None:
        with open(scores, "a") as table:
            table.write(",,,nr-lite,,,row 7: the column 'image' is empty\n" * 2)
        done = run(scores, "--min", "3.5")
        assert done.stdout.split() == ["out/a/1.png", "out/a/2.png", "out/b/1.png"]
        assert done.stderr == "3 of 8 images selected\nleft out, without such a score: 3 images\n"
        assert run(scores, "--min", "3.5", "--to", "best", "--apply").exit_code == 0
        assert list(files("best")) == ["a/1.png", "a/2.png", "b/1.png"]

    def test_one_metric_of_several(self, tmp_path: Path) -> None:
        rows = [
            row("1.png", 1.0),
            row("1.png", 4.0, metric="clip"),
            row("2.png", 2.0),
            row("2.png", 3.0, metric="clip"),
        ]
        path = write(tmp_path / "two.csv", rows)
        assert run(path, "-m", "clip", "--top", "1").stdout == "1.png\n"
        assert run(path, "-m", "nr-lite", "--top", "1").stdout == "2.png\n"
        assert "by nr-lite, clip: name one with -m" in run(path).stderr
        assert "no scores by fr-lite" in run(path, "-m", "fr-lite").stderr

    def test_an_image_counts_once(self) -> None:
        rows = [row("x/1.png", 1.0), row("x/./1.png", 2.0), row("x/2.png", 0.5)]
        found = select(rows, Criteria("quality", {}, {}, keep=2, best=True, per=None, listed=None))
        assert [each["quality"] for each in found.rows] == [1.0, 0.5]
        assert (found.offered, found.repeated) == (2, 1)

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["absent.csv"], "no such file"),
            (["scores.csv", "--top", "1", "--bottom", "1"], "give one of them"),
            (["scores.csv", "--per", "group"], "--top or --bottom takes so many, and within what -o ranks"),
            (
                ["scores.csv", "--top", "1", "--per", "mood"],
                "no column 'mood' to rank within; it has group, reference.",
            ),
            (["scores.csv", "--top", "1", "--per", "mood"], "Images can tell prompt, negative_prompt, seed,"),
            (["scores.csv", "--apply"], "name it with --to"),
            (["scores.csv", "--min", "beauty=1"], "no scores of 'beauty'; it has quality, authenticity"),
            (["scores.csv", "--min", "quality=good"], "'quality=good': expected DIMENSION=SCORE"),
            (["scores.csv", "--min", "nan"], "'nan': expected DIMENSION=SCORE"),
            (["scores.csv", "--max", "quality=inf"], "'quality=inf': expected DIMENSION=SCORE"),
            (["scores.csv", "--min", "4", "--min", "quality=3"], "--min is given twice for quality"),
            (["scores.csv", "--buckets", "great=good"], "Invalid value for '--buckets': 'good' is no score"),
            (["scores.csv", "-o", "best.txt"], "-o best.txt: a table of scores ends in one of .csv"),
            (["scores.csv", "--list", "absent.csv"], "expected a .csv file with a column image"),
            (["scores.csv", "--list", "no-images.csv"], "no column 'image'"),
            (["scores.csv", "--to", "scores.csv"], "is no folder"),
            (["urls.csv", "--to", "best"], "object store"),
        ],
    )
    def test_usage_errors(self, scores: str, tmp_path: Path, arguments: list[str], complaint: str) -> None:
        (tmp_path / "no-images.csv").write_text("img\na\n")
        write(tmp_path / "urls.csv", [row("s3://bucket/1.png", 3.0)])
        done = run(*arguments)
        assert done.exit_code == 2
        assert complaint in " ".join(done.stderr.split())


class TestInto:
    def test_nothing_happens_before_apply(self, scores: str) -> None:
        done = run(scores, "--min", "3.5", "--to", "best")
        assert done.exit_code == 0
        assert done.stdout.splitlines()[0] == f"{IMAGES['a/1.png']:.3f} copy: out/a/1.png -> best/a/1.png"
        assert "3 to do\nnothing is done yet: add --apply" in done.stderr
        assert not Path("best").exists()

    @pytest.mark.parametrize("by", ["copy", "hardlink", "symlink"])
    def test_files_get_there_by_their_paths_below_the_common_folder(self, scores: str, by: str) -> None:
        before = files("out")
        done = run(scores, "--min", "3.5", "--to", "best", "--by", by, "--apply")
        assert done.exit_code == 0
        assert "3 done" in done.stderr
        assert files("best") == {name: name for name in ("a/1.png", "a/2.png", "b/1.png")}  # two are called 1.png
        assert files("out") == before
        first = Path("best/a/1.png")
        assert first.is_symlink() is (by == "symlink")
        assert first.samefile("out/a/1.png") is (by != "copy")
        again = run(scores, "--min", "3", "--to", "best", "--by", "copy", "--apply")
        assert (again.exit_code, "3 already there" in again.stderr) == (0, True)

    def test_buckets_are_folders(self, scores: str) -> None:
        run(scores, "--buckets", "2,3", "--to", "sorted", "--apply")
        assert list(files("sorted")) == [
            "2-to-3/b/2.png", "3-up/a/1.png", "3-up/a/2.png", "3-up/b/1.png", "below-2/a/3.png"
        ]  # fmt: skip

        run(scores, "--buckets", "great=4,ok=3", "--to", "named", "--apply")
        assert list(files("named")) == ["great/a/1.png", "ok/a/2.png", "ok/b/1.png", "rest/a/3.png", "rest/b/2.png"]

    @pytest.mark.parametrize("by", ["copy", "hardlink", "symlink"])
    def test_sidecars_go_with_their_images(self, scores: str, by: str) -> None:
        sidecars = ("a/1.png.xmp", "a/1.txt", "a/1.json", "a/1.png.txt", "a/1.png.json")
        for name in (*sidecars, "a/1.md", "a/3.txt", "b/2.png.xmp"):  # the last two are of images that are not chosen
            Path("out", name).write_text(name)
        Path("out/a/2.txt").mkdir()
        arguments = (scores, "--buckets", "great=4", "--min", "3.5", "--to", "best", "--by", by)
        done = run(*arguments)
        assert done.stdout.splitlines()[:2] == [
            f"4.500 {by}: out/a/1.png -> best/great/a/1.png",
            f"{by}: out/a/1.png.xmp -> best/great/a/1.png.xmp",
        ]
        assert "5 sidecars beside them\n8 to do\n" in done.stderr
        done = run(*arguments, "--apply")
        assert (done.exit_code, "8 done" in done.stderr) == (0, True)
        expected = {f"great/{name}": name for name in ("a/1.png", *sidecars)}
        assert files("best") == expected | {f"rest/{name}": name for name in ("a/2.png", "b/1.png")}
        for name in ("1.png", "1.png.xmp"):
            assert Path("best/great/a", name).is_symlink() is (by == "symlink")
            assert Path("best/great/a", name).samefile(f"out/a/{name}") is (by != "copy")

    def test_sidecars_never_get_beside_another_image(self, scores: str) -> None:
        for name in ("a/1.png.xmp", "a/2.png.xmp", "a/2.txt", "b/1.txt"):
            Path("out", name).write_text(name)
        os.unlink("out/b/1.png")
        Path("best/a").mkdir(parents=True)
        Path("best/a/1.png").write_text("mine")
        Path("best/a/2.png.xmp").write_text("mine")
        done = run(scores, "--min", "3.5", "--to", "best")
        assert ".txt" in done.stdout
        assert (done.exit_code, "1.png.xmp" in done.stdout, "b/1.txt" in done.stdout) == (1, False, False)
        done = run(scores, "--min", "3.5", "--to", "best", "--apply")
        assert done.exit_code == 1
        assert "2 done, 2 another file is there, 1 no such file any more, 2 not tried" in done.stderr
        assert files("best") == {"a/1.png": "mine", "a/2.png": "a/2.png", "a/2.png.xmp": "mine", "a/2.txt": "a/2.txt"}

    def test_what_is_there_is_one_line(self, scores: str) -> None:
        for number in range(8):
            Path(f"out/{number}.png").write_text(str(number))
        write(Path("many.csv"), [row(f"out/{number}.png", 3.0) for number in range(8)])
        run("many.csv", "--to", "best", "--apply")
        os.unlink("best/7.png")
        done = run("many.csv", "--to", "best")
        assert done.stdout == (
            "3.000 copy: out/7.png -> best/7.png\n"
            "already there: 7 files: best/0.png, best/1.png, best/2.png, best/3.png, best/4.png and 2 more\n"
        )
        assert "1 to do, 7 already there\n" in done.stderr

    def test_the_list_is_not_overwritten(self, scores: str) -> None:
        Path("list.csv").write_text("image,note\nout/a/3.png,mine\n")
        done = run(scores, "--list", "list.csv", "-o", "list.csv", "--overwrite")
        assert done.exit_code == 2
        assert "-o list.csv would overwrite list.csv, which is read" in done.stderr

    @pytest.mark.usefixtures("scores")
    def test_names_that_no_file_has_are_printed(self) -> None:
        Path("half.json").write_text(json.dumps([{"image": "\ud83d.png", "metric": "nr-lite", "quality": 3.0}]))
        done = run("half.json")
        assert (done.exit_code, done.stdout) == (0, "\\ud83d.png\n")

    def test_nothing_is_overwritten(self, scores: str) -> None:
        Path("best/a").mkdir(parents=True)
        Path("best/a/1.png").write_text("mine")
        Path("best/a/2.png").symlink_to("nowhere")
        for more in ([], ["--apply"]):
            done = run(scores, "--min", "3.5", "--to", "best", *more)
            assert done.exit_code == 1
            assert "another file is there" in done.output
            assert "2 another file is there" in done.stderr
        assert files("best") == {"a/1.png": "mine", "b/1.png": "b/1.png"}
        assert os.readlink("best/a/2.png") == "nowhere"

    def test_what_is_gone_is_named_and_the_rest_is_done(self, scores: str) -> None:
        os.unlink("out/a/2.png")
        done = run(scores, "--min", "3.5", "--to", "best", "--apply")
        assert done.exit_code == 1
        assert "no such file any more: out/a/2.png" in done.stderr
        assert "2 done, 1 no such file any more" in done.stderr
        assert list(files("best")) == ["a/1.png", "b/1.png"]

    def test_images_are_found_beside_the_table(
        self, scores: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        (elsewhere / "list.csv").write_text("image\nout/a/1.png\n")
        done = run("../scores.csv", "--to", "best", "--list", "list.csv", "--apply")
        assert done.exit_code == 0, done.stderr
        assert files("best") == {"a/1.png": "a/1.png"}
        assert run("../scores.csv", "--top", "1").stdout == "../out/a/1.png\n"

    @pytest.mark.parametrize(
        ("number", "by", "function", "words"),
        [
            (errno.ENOSPC, "copy", "shutil.copy2", "the disk is full: make room, and run the same command again"),
            (errno.EXDEV, "hardlink", "os.link", "no hard link can be made there: use --by copy or --by symlink"),
        ],
    )
    def test_what_every_file_would_meet_ends_the_run_and_what_is_done_stays(
        self, scores: str, monkeypatch: pytest.MonkeyPatch, number: int, by: str, function: str, words: str
    ) -> None:
        real = shutil.copy2 if by == "copy" else os.link
        calls: list[str] = []

        def second_fails(source: str, target: str) -> None:
            calls.append(source)
            if len(calls) == 2:
                Path(target).write_text("half") if by == "copy" else None
                raise OSError(number, os.strerror(number))
            real(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(function, second_fails)
            if by == "copy":
                patched.setattr("os.link", shutil.move)
            done = run(scores, "--min", "3.5", "--to", "best", "--by", by, "--apply")
        assert done.exit_code == 1
        assert len(calls) == 2
        assert words in done.stderr
        assert "1 done, 1 failed, 1 not tried" in done.stderr
        assert files("best") == {"a/1.png": "a/1.png"}
        again = run(scores, "--min", "3.5", "--to", "best", "--by", by, "--apply")
        assert (again.exit_code, "2 done, 1 already there" in again.stderr) == (0, True)
        assert len(files("best")) == 3

    def test_a_link_that_one_file_refuses_leaves_the_others(self, scores: str, watch: Watch) -> None:
        def protect(source: str, _: str) -> None:
            if source.endswith("a/1.png"):
                raise PermissionError(errno.EPERM, "Operation not permitted")

        watch(os, "link", protect)
        done = run(scores, "--min", "3.5", "--to", "best", "--by", "hardlink", "--apply")
        assert done.exit_code == 1
        assert "Operation not permitted: out/a/1.png" in done.stderr
        assert "2 done, 1 failed" in done.stderr

    def test_what_can_not_be_looked_at_is_named(self, scores: str, watch: Watch) -> None:
        watch(Step, "state", PermissionError(errno.EACCES, "Permission denied"))
        done = run(scores, "--top", "1", "--to", "best")
        assert (done.exit_code, done.stdout) == (
            1,
            f"{IMAGES['a/1.png']:.3f} Permission denied: out/a/1.png -> best/a/1.png\n",
        )
        assert "1 failed" in done.stderr

    def test_a_copy_is_whole_or_not_there(self, scores: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a killed run left half copied is not taken for a file, and the next run copies it anew."""
        step = Step("out/a/1.png", "best/1.png", "best")
        with monkeypatch.context() as patched:
            patched.setattr("aigciqa.utils.place_files.move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            patched.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process cleans nothing up
            with pytest.raises(KeyboardInterrupt):
                step.place("copy")
        assert not os.path.lexists(step.target)
        assert len(os.listdir("best")) == 1
        assert step.state() == "new"
        step.place("copy")
        assert filecmp.cmp(step.source, step.target, shallow=False)

    @pytest.mark.parametrize("links", [True, False])
    def test_what_comes_there_in_the_meantime_stays(self, scores: str, watch: Watch, links: bool) -> None:
        step = Step("out/a/1.png", "best/1.png", "best")
        Path("best").mkdir()
        Path("best/1.png").write_text("mine")
        if not links:
            watch(os, "link", OSError(errno.ENOTSUP, "no hard links here"))
        with pytest.raises(FileExistsError):
            step.place("copy")
        assert files("best") == {"1.png": "mine"}
        os.unlink("best/1.png")
        step.place("copy")
        assert files("best") == {"1.png": "a/1.png"}

    def test_names_that_are_not_utf8(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        name = os.fsdecode(b"\xff\n.png")
        Path(name).write_text("odd")
        path = write(tmp_path / "scores.csv", [row(name, 3.0)])
        assert "\\udcff\\n.png" in run(path, "--to", "best").stdout
        assert run(path, "--to", "best", "--apply").exit_code == 0
        assert files("best") == {name: "odd"}
        assert os.fsencode(name) in run(path).stdout_bytes


#: Image -> quality, prompt; two prompts' best are equal or worse than another's worst.
PROMPTS = {
    "1.png": (3.0, "a cat"),
    "2.png": (1.5, "a dog, asleep"),
    "3.png": (4.0, "a cat"),
    "4.png": (4.0, "a cat"),
    "5.png": (2.0, "a dog, asleep"),
    "6.png": (5.0, None),
    "7.png": (3.5, "a cat"),
}


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table with a column of prompts."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"image": image, "metric": "nr-lite", "quality": quality, "error": None, "prompt": prompt, "seed": "7"}
        for image, (quality, prompt) in PROMPTS.items()
    ]
    with open("prompts.csv", "w", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return "prompts.csv"


class TestPer:
    def test_the_best_of_each(self, prompts: str) -> None:
        done = run(prompts, "--top", "1", "--per", "prompt")
        assert (done.exit_code, done.stdout.split()) == (0, ["3.png", "5.png"])
        assert done.stderr == (
            "2 of 7 images selected: the best 1 for each prompt (2 of them)\n"
            "left out, without a known prompt: 1 image\n"
        )
        assert run(prompts, "--bottom", "2", "--per", "prompt").stdout.split() == ["1.png", "7.png", "2.png", "5.png"]
        assert run(prompts, "--top", "1", "--per", "seed").stdout.split() == ["6.png"]

    def test_values_of_which_no_image_was_selected(self, prompts: str) -> None:
        done = run(prompts, "--top", "1", "--per", "prompt", "--min", "3")
        assert done.stdout == "3.png\n"
        assert "1 of 7 images selected: the best 1 for each prompt (1 of them)\n" in done.stderr
        assert "no image selected: 1 of 2 different values of prompt\n" in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["--per", "prompt"], {"1.png": 4, "2.png": 2, "3.png": 1, "4.png": 1, "5.png": 1, "7.png": 3}),
            ([], {"1.png": 5, "2.png": 7, "3.png": 2, "4.png": 2, "5.png": 6, "6.png": 1, "7.png": 4}),
            (["--per", "prompt", "--bottom", "1"], {"1.png": 4, "2.png": 2}),
            (["--per", "prompt", "--max", "3.9"], {"1.png": 4, "2.png": 2, "5.png": 1, "7.png": 3}),
        ],
    )
    def test_ranks(self, prompts: str, arguments: list[str], expected: dict[str, int]) -> None:
        for suffix in (".csv", ".jsonl", ".parquet"):
            run(prompts, *arguments, "-o", f"ranked{suffix}")
            ranked = read_table(f"ranked{suffix}")
            assert ranked.others == ("prompt", "seed", "rank")
            assert {each["image"]: int(each["rank"]) for each in ranked.rows} == expected

    def test_a_list_is_ranked_alone(self, prompts: str) -> None:
        Path("list.csv").write_text("image\n1.png\n7.png\n")
        done = run(prompts, "--per", "prompt", "--list", "list.csv", "-o", "ranked.csv")
        assert done.stderr == "2 of 2 images selected: ranked for each prompt (1 of them)\n"
        assert [each["rank"] for each in read_table("ranked.csv").rows] == ["2", "1"]

    def test_a_bucket_is_a_column(self, prompts: str) -> None:
        run(prompts, "--buckets", "great=4,ok=3", "--top", "1", "--per", "prompt", "-o", "best.csv")
        best = list(read_table("best.csv").rows)
        assert [(each["image"], each["rank"], each["bucket"]) for each in best] == [
            ("3.png", "1", "great"), ("5.png", "1", "rest")
        ]  # fmt: skip

    def test_a_column_that_the_table_has_is_replaced(self, prompts: str) -> None:
        run(prompts, "--per", "prompt", "-o", "ranked.csv")
        done = run("ranked.csv", "--top", "2", "-o", "best.csv")
        assert "best.csv has a rank of its own, in place of those in ranked.csv\n" in done.stderr
        assert read_table("best.csv").others == ("prompt", "seed", "rank")
        assert [each["rank"] for each in read_table("best.csv").rows] == ["1", "1"]  # 6.png was left out

    def test_scores_are_never_replaced(self, prompts: str) -> None:
        table = Path(prompts).read_text().replace("seed", "rank")
        Path(prompts).write_text(table)
        done = run(prompts, "--dimension", "rank", "-o", "best.csv")
        assert (done.exit_code, "has scores of that name: rename it" in " ".join(done.stderr.split())) == (2, True)
        assert not Path("best.csv").exists()

    def test_a_folder_as_a_column(self, scores: str) -> None:
        run(scores, "--top", "1", "--per", "parent", "-o", "best.csv")
        assert [(each["image"], each["parent"]) for each in read_table("best.csv").rows] == [
            ("out/a/1.png", "a"), ("out/b/1.png", "b")
        ]  # fmt: skip

    def test_images_tell_what_the_table_does_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        rows = []
        for name, quality, prompt in (("1", 2.0, "a fox"), ("2", 3.0, "a cat"), ("3", 4.0, "a fox"), ("4", 5.0, None)):
            texts = PngImagePlugin.PngInfo()
            if prompt is not None:
                texts.add_text("parameters", f"{prompt}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: {name}")
            Image.new("RGB", (8, 8)).save(f"{name}.png", pnginfo=texts)
            rows.append(row(f"{name}.png", quality))
        path = write(tmp_path / "scores.csv", [*rows, row("gone.png", 1.0), row("torn.png", None)])
        done = run(path, "--top", "1", "--per", "prompt", "-o", "best.csv")
        assert done.stderr == (
            "2 of 6 images selected: the best 1 for each prompt (2 of them)\n"
            "left out, without such a score: 1 image\nleft out, without a known prompt: 2 images\n"
        )
        best = list(read_table("best.csv").rows)
        assert [(each["image"], each["prompt"], each["rank"]) for each in best] == [
            ("3.png", "a fox", "1"), ("2.png", "a cat", "1")
        ]  # fmt: skip
        assert run(path, "--bottom", "1", "--per", "steps").stdout == "1.png\n"
        assert run("best.csv", "--top", "1", "--per", "prompt").stdout == "3.png\n2.png\n"


@pytest.mark.parametrize("meta", [None, "of another program"])
def test_the_new_table_keeps_nothing_of_an_earlier_ones_provenance(scores: str, meta: str | None) -> None:
    provenance.write(scores, {"format": 1, "dimensions": {"quality": [0, 5]}})
    run(scores, "--top", "1", "-o", "best.csv")
    assert provenance.declared_ranges("best.csv") == {"quality": (0, 5)}
    os.remove(provenance.path_of(scores))
    if meta is not None:
        Path(provenance.path_of(scores)).write_text(meta)
    assert run(scores, "--top", "1", "-o", "best.csv", "--overwrite").exit_code == 0
    assert not os.path.exists("best.csv.meta.json")


def test_a_row_of_the_new_table_is_that_of_the_old(scores: str) -> None:
    run(scores, "--top", "1", "-o", "best.csv")
    with open(scores) as old, open("best.csv") as new:
        assert next(csv.DictReader(new)) == next(csv.DictReader(old)) | {"rank": "1"}
