"""Files under other names, behind links, no files at all: nothing is overwritten, mistaken, waited for."""

from __future__ import annotations

import json
import ntpath
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import aigciqa
from aigciqa.cli import compare, convert, evaluate, publish, score, select, train
from aigciqa.databases import load_database
from aigciqa.errors import InputError
from aigciqa.records import Item, Record
from aigciqa.scoring import maps
from aigciqa.scoring.sources import group_by
from aigciqa.tables.scores import below_common_folder
from aigciqa.utils.files import locked
from aigciqa.utils.paths import absolute
from tests import lookalikes
from tests.conftest import call_command, draw
from tests.test_cli import table

Write = Callable[..., list[str]]
TABLE = "image,group,metric,quality,error\na/1.png,a,nr-lite,3,\nb/1.png,b,nr-lite,2,\n"


def run(command: object, *arguments: str) -> Result:
    return CliRunner().invoke(command.main, arguments)  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two tables and an image; links to each of them."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(TABLE)
    (tmp_path / "one.png").write_bytes(b"an image")
    for link, target in (("link.csv", "a.csv"), ("r.html", "a.csv"), ("i.csv", "one.png"), ("i.html", "one.png")):
        (tmp_path / link).symlink_to(target)
    return tmp_path


class TestInputsAreNotOverwritten:
    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            (compare, ["a.csv", "b.csv", "-o", "a.csv"]),
            (compare, ["a.csv", "b.csv", "-o", "link.csv"]),
            (compare, ["link.csv", "b.csv", "-o", "./a.csv"]),
            (compare, ["a.csv", "b.csv", "--report", "r.html"]),
            (compare, ["a.csv", "b.csv", "-o", "i.csv"]),
            (score, ["a.csv", "-o", "link.csv"]),
            (score, ["one.png", "-r", "one.png", "-o", "i.csv"]),
            (score, ["a.csv", "-r", "one.png", "-o", "i.csv"]),
            (score, [".", "-o", "i.csv"]),
            (score, ["a.csv", "--report", "r.html"]),
            (score, ["one.png", "--report", "i.html"]),
            (score, ["a.csv", "-o", "link.csv", "--resume"]),
            (select, ["a.csv", "-o", "a.csv"]),
            (select, ["a.csv", "-o", "link.csv"]),
        ],
    )
    def test_under_any_name(self, command: object, arguments: Sequence[str], folder: Path) -> None:
        done = run(command, *arguments)
        assert done.exit_code == 2
        assert "would overwrite" in done.stderr or "is there already" in done.stderr
        assert (folder / "a.csv").read_text() == TABLE
        assert (folder / "one.png").read_bytes() == b"an image"

    def test_in_letters_of_another_case(self, folder: Path) -> None:
        if not (folder / "A.CSV").exists():  # as a file system shows it that knows no case
            os.link(folder / "a.csv", folder / "A.CSV")
        assert run(compare, "a.csv", "b.csv", "-o", "A.CSV").exit_code == 2
        assert (folder / "a.csv").read_text() == TABLE

    def test_an_output_of_its_own_is_written(self, folder: Path) -> None:
        (folder / "old.csv").write_text("of an earlier run")
        assert run(compare, "a.csv", "b.csv", "-o", "old.csv", "--overwrite").exit_code == 0
        assert (folder / "old.csv").read_text().startswith("metric,dimension")

    @pytest.mark.parametrize("option", ["-o", "--predictions"])
    def test_by_evaluate(self, option: str, tmp_path: Path) -> None:
        root = lookalikes.write_folder(tmp_path / "own", prompts=4)
        scores = tmp_path / "s.csv"
        scores.write_text("image,mine\nx.png,1\n")
        for path in (scores, root / "manifest.csv"):
            before = path.read_bytes()
            arguments = ["folder", str(root), "--scores", str(scores), "-m", "mine", option, str(path)]
            done = run(evaluate, *arguments)
            assert (done.exit_code, "would overwrite" in done.stderr) == (2, True)
            assert path.read_bytes() == before


@pytest.fixture
def linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `x.png` in it and in `far`, and `link`, which leads to `far/below`."""
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "far/x.png", "far/below/y.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "below")
    (tmp_path / "t.csv").write_text("image,metric,quality\nlink/../x.png,nr-lite,3\nx.png,nr-lite,2\n")
    return tmp_path


class TestLinks:
    @pytest.mark.parametrize("by", ["symlink", "hardlink", "copy"])
    def test_two_dots_after_a_link_select_the_image_that_was_scored(self, by: str, linked: Path) -> None:
        done = run(select, "t.csv", "--top", "1", "--to", "best", "--by", by, "--apply")
        assert done.exit_code == 0, done.stderr
        (chosen,) = (path for path in (linked / "best").rglob("*") if not path.is_dir())
        assert chosen.read_text() == "far/x.png"

    def test_and_are_no_repetition_of_another(self, linked: Path) -> None:
        done = run(select, "t.csv")
        assert done.stdout.split() == ["link/../x.png", "x.png"]
        assert "repeat" not in done.stderr
        (linked / "list.csv").write_text("image\nlink/../x.png\n")
        assert run(select, "t.csv", "--list", "list.csv").stdout.split() == ["link/../x.png"]

    def test_a_database_is_read_where_the_system_finds_it(self, linked: Path) -> None:
        (linked / "far" / "manifest.csv").write_text("image,quality\nbelow/../x.png,3\n")
        database = load_database("folder", "link/..")
        assert Path(database.samples[0].image).read_text() == "far/x.png"

    def test_the_group_of_an_image_is_the_folder_it_is_in(self, linked: Path) -> None:
        assert group_by("parent")(Item("a/b/x.png")).group == "b"
        assert group_by("parent")(Item("link/../x.png")).group == "far"

    def test_select_follows_no_link_out_of_its_folder(self, linked: Path) -> None:
        (linked / "best").mkdir()
        (linked / "elsewhere").mkdir()
        (linked / "best" / "far").symlink_to(linked / "elsewhere")
        shown = run(select, "t.csv", "--to", "best")
        assert "a link leads out of best" in shown.stdout
        done = run(select, "t.csv", "--to", "best", "--apply")
        assert done.exit_code == 1
        assert "a link leads out of best" in done.stderr
        assert list((linked / "elsewhere").iterdir()) == []
        assert (linked / "best" / "x.png").read_text() == "x.png"

    def test_a_link_that_stays_inside_is_followed(self, linked: Path) -> None:
        (linked / "best" / "other").mkdir(parents=True)
        (linked / "best" / "far").symlink_to("other")
        assert run(select, "t.csv", "--to", "best", "--apply").exit_code == 0
        assert (linked / "best" / "other" / "x.png").read_text() == "far/x.png"

    def test_nothing_is_put_into_the_table_itself(self, linked: Path) -> None:
        (linked / "t.parquet").mkdir()
        done = run(select, "t.parquet", "--to", "./t.parquet")
        assert (done.exit_code, "would overwrite" in done.stderr) == (2, True)


class TestMaps:
    def test_behind_a_link_into_the_scored_folder_are_not_scored(self, write_images: Write, tmp_path: Path) -> None:
        write_images("gen", "a.png", "sub/b.png", "sub/maps/of/a.png")
        (tmp_path / "link").symlink_to(tmp_path / "gen" / "sub")
        arguments = ["-m", "nr-lite", "--maps", "link/maps", "-o", "t.csv", "--resume", "--quiet"]
        assert call_command("gen", *arguments, cwd=tmp_path).returncode == 0
        rows = table((tmp_path / "t.csv").read_text())
        assert [row["image"] for row in rows] == ["gen/a.png", "gen/sub/b.png"]

    def test_of_two_references_of_an_image_are_both_kept(self, write_images: Write, tmp_path: Path) -> None:
        write_images("gen", "a.png", "b.png", "c.png")
        arguments = ["-m", "fr-lite", "--maps", "maps", "-o", "t.csv", "--quiet"]
        manifest = tmp_path / "list.csv"
        lines = ["image,reference", "gen/a.png,gen/b.png", "gen/a.png,gen/c.png", "gen/a.png,gen/b.png"]
        expected = {"gen/b.png": "gen/a.png.fr-lite", "gen/c.png": "gen/a.png.2.fr-lite"}
        manifest.write_text("\n".join(lines[:2]) + "\n")
        assert call_command("list.csv", *arguments, cwd=tmp_path).returncode == 0
        manifest.write_text("\n".join(lines) + "\n")
        done = call_command("list.csv", *arguments, "--resume", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        rows = table((tmp_path / "t.csv").read_text())
        assert [row["reference"] for row in rows] == ["gen/b.png", "gen/c.png", "gen/b.png"]
        assert sorted(path.name for path in (tmp_path / "maps" / "gen").iterdir()) == [
            f"a.png.{which}{suffix}"
            for which in ("2.fr-lite", "fr-lite")
            for suffix in (".annotated.png", ".npy", ".png")
        ]  # fmt: skip
        for row in rows:
            found = np.load(tmp_path / "maps" / f"{expected[row['reference']]}.npy")
            assert found.mean() == pytest.approx(float(row["quality"]), abs=1e-4)

    def test_of_an_object_and_a_file_are_two(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = Image.fromarray(draw(64, 64))
        monkeypatch.setattr(maps, "load_image", lambda _path: drawn)
        metric = aigciqa.create_metric("nr-lite")
        folder = maps.MapFolder(str(tmp_path / "maps"), [metric])
        names = ("s3://b/x.png", "s3/b/x.png", "_url/s3/b/x.png")
        for number, image in enumerate(names):
            folder.write(Record(image, None, None, "nr-lite", quality_map=np.full((2, 2), float(number), np.float32)))
        assert folder.failed == 0
        kept = {
            path.relative_to(tmp_path / "maps").as_posix(): np.load(path).mean() for path in tmp_path.rglob("*.npy")
        }
        assert kept == {
            "s3/b/x.png.nr-lite.npy": 0, "s3/b/x.png.2.nr-lite.npy": 1, "_url/s3/b/x.png.nr-lite.npy": 2,
        }  # fmt: skip


class TestWhatIsNoFile:
    def test_a_fifo_in_a_table_holds_up_no_report(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        scores = tmp_path / "t.csv"
        scores.write_text(TABLE + f"{tmp_path}/pipe.png,a,nr-lite,3,\n{tmp_path}/pipe.png,b,nr-lite,3,\n")
        done = run(compare, str(scores), "--report", str(tmp_path / "r.html"), "--quiet")
        assert done.exit_code == 0, done.stderr
        assert (tmp_path / "r.html").exists()

    def test_nor_does_one_that_is_called_a_table(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "t.csv")
        assert run(select, str(tmp_path / "t.csv")).exit_code == 2

    @pytest.mark.parametrize("command", [compare, select])
    def test_a_table_nested_deeply_is_refused(self, command: object, tmp_path: Path) -> None:
        for name in ("t.json", "t.jsonl"):
            (tmp_path / name).write_text("[" * 100_000)
            done = run(command, str(tmp_path / name))
            assert (done.exit_code, "not JSON" in done.stderr) == (2, True)

    def test_a_row_nested_deeply_is_an_error_row(self, tmp_path: Path) -> None:
        (tmp_path / "list.jsonl").write_text('{"image": ' + "[" * 100_000 + "\n" + '{"image": "absent.png"}\n')
        rows = table(call_command("list.jsonl", "-m", "nr-lite", cwd=tmp_path).stdout)
        assert rows[0]["error"].startswith("list.jsonl: row 1: not JSON")
        assert rows[1]["image"] == "absent.png"

    def test_resuming_with_one_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "out.jsonl").write_text("[" * 100_000 + "\n")
        done = call_command("absent.png", "-m", "nr-lite", "-o", "out.jsonl", "--resume", cwd=tmp_path)
        assert done.returncode == 2
        assert (tmp_path / "out.jsonl").read_text().startswith("[[[")


ESCAPE = "a\x1bcb\x9b1A"
SHOWN = r"a\x1bcb\x9b1A"


class TestControlCharacters:
    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            (compare, [f"{ESCAPE}.csv", "b.csv"]),
            (compare, [ESCAPE, "b"]),
            (compare, ["--format", ESCAPE]),
            (score, [".", "-m", ESCAPE]),
            (score, [".", "-r", ESCAPE]),
            (score, [f"--{ESCAPE}"]),
            (select, [f"{ESCAPE}.csv"]),
            (evaluate, [ESCAPE, "."]),
            (convert, [ESCAPE, "-m", "fr-resnet50", "-d", "quality", "-o", "x"]),
            (publish, [ESCAPE, "org/name"]),
            (train, [ESCAPE, ".", "-m", "nr-resnet18", "-o", "x"]),
        ],
    )
    def test_in_what_a_command_refuses(self, command: object, arguments: list[str], folder: Path) -> None:
        done = run(command, *arguments)
        assert done.exit_code == 2
        assert SHOWN in done.stderr
        assert "\x1b" not in done.output + done.stderr
        assert "\x9b" not in done.output + done.stderr

    def test_in_what_a_table_names(self, folder: Path) -> None:
        (folder / "t.csv").write_text(
            f"image,group,metric,quality,error\na/1.png,{ESCAPE},m{ESCAPE},3,\nb/1.png,b,m{ESCAPE},2,\n"
            f"b/2.png,b,m{ESCAPE},,{ESCAPE}\nb/3.png,b,n{ESCAPE},3,\n"
        )
        for form in ("terminal", "markdown"):
            done = run(compare, "t.csv", "--format", form)
            assert f"m{SHOWN}" in done.stdout.replace("\\\\", "\\")
            assert not {"\x1b", "\x9b"} & set(done.stdout + done.stderr)

    def test_in_what_a_database_and_another_metrics_table_name(self, tmp_path: Path) -> None:
        root = lookalikes.write_folder(tmp_path / "own", prompts=4)
        images = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
        rows = [f"{image},m{ESCAPE},{number}," for number, image in enumerate(images)]
        (tmp_path / "s.csv").write_text("\n".join(["image,metric,quality,error", *rows]) + f"\n{ESCAPE},o,,{ESCAPE}\n")
        done = run(evaluate, "folder", str(root), "--part", "all", "--scores", str(tmp_path / "s.csv"))
        assert not {"\x1b", "\x9b"} & set(done.stdout + done.stderr)
        assert f"m{SHOWN}" in done.stdout + done.stderr

    def test_in_the_summary_of_scores(self, write_images: Write, tmp_path: Path) -> None:
        write_images(ESCAPE, "a.png")
        done = call_command(ESCAPE, "-m", "nr-lite", "--group-by", "parent", "-o", f"{ESCAPE}.csv", cwd=tmp_path)
        assert done.returncode == 0
        assert SHOWN in done.stderr
        assert "\x1b" not in done.stderr


class TestNamesThatNoFileHas:
    """With NUL, or half a surrogate pair, as JSON can hold them."""

    NAMES = ("a\0.png", "x\0/../a.png", "\ud800.png", "x\ud800/../b.png")

    @pytest.mark.parametrize("arguments", [["--maps", "maps"], ["--group-by", "parent"], ["--report", "r.html"]])
    def test_in_a_manifest_are_error_rows(self, arguments: list[str], write_images: Write, tmp_path: Path) -> None:
        write_images("gen", "a.png")
        manifest = [*({"image": name} for name in self.NAMES), {"image": "gen/a.png", "group": "a\0b", "note": "c\0d"}]
        (tmp_path / "list.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in manifest))
        for more in ([], ["--resume"]):
            done = call_command("list.jsonl", "-m", "nr-lite", "-o", "t.csv", *arguments, *more, cwd=tmp_path)
            assert done.returncode == 1, done.stderr
        *wrong, right = table((tmp_path / "t.csv").read_text())
        assert [row["image"] for row in (*wrong, right)] == ["", "", "", "", "gen/a.png"]
        assert ["NUL" in row["error"] for row in wrong] == [True, True, False, False]
        assert (right["error"], right["note"]) == ("", r"c\x00d")

    def test_on_standard_input_are_error_rows(self, tmp_path: Path) -> None:
        done = call_command("-", "-m", "nr-lite", "--maps", "maps", cwd=tmp_path, stdin=b"x\0/../a.png\n")
        assert done.returncode == 1, done.stderr
        assert [row["error"] for row in table(done.stdout)] == [r"'x\x00/../a.png': no file's name has a NUL in it"]

    def test_in_a_table(self, folder: Path) -> None:
        rows = [
            {"image": name, "group": "ab"[number % 2], "metric": "nr-lite", "quality": number, "error": None}
            for number, name in enumerate(self.NAMES)
        ]
        (folder / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        done = run(compare, "t.jsonl", "--report", "new.html")
        assert (done.exit_code, Path("new.html").exists()) == (0, True), done.output
        (folder / "a.png").write_bytes(b"an image")  # not what `x\0/../a.png` names
        done = run(select, "t.jsonl", "--to", "to", "--apply")
        assert (done.exit_code, done.stderr.count("no such file any more: ")) == (1, 4), done.output
        assert not list(folder.glob("to/**/*.png"))


class TestLinksThatLeadOut:
    def test_of_a_folder_of_maps(self, write_images: Write, tmp_path: Path) -> None:
        write_images("gen", "a.png", "b/c.png")
        (tmp_path / "outside").mkdir()
        (tmp_path / "maps" / "gen").mkdir(parents=True)
        (tmp_path / "maps" / "gen" / "b").symlink_to(tmp_path / "outside")
        arguments = ["-m", "nr-lite", "--maps", "maps", "-o", "t.csv", "--resume"]
        done = call_command("gen", *arguments, cwd=tmp_path)
        assert "a link leads out of maps" in done.stderr
        assert not list((tmp_path / "outside").iterdir())
        assert (tmp_path / "maps" / "gen" / "a.png.nr-lite.npy").exists()

    def test_an_output_behind_one_is_one_output(self, tmp_path: Path) -> None:
        (tmp_path / "link.csv").symlink_to("real.csv")
        (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
        Image.fromarray(draw(64, 64)).save(tmp_path / "a.png")
        with locked(tmp_path / "real.csv"):
            for name in ("link.csv", "link/real.csv", "link/link.csv"):
                done = call_command("a.png", "-m", "nr-lite", "-o", name, cwd=tmp_path)
                assert (done.returncode, "is being written by another run" in " ".join(done.stderr.split())) == (
                    2,
                    True,
                )


@pytest.mark.parametrize("other", ["D:/gen/b.png", "//host/share/b.png"])
def test_images_on_several_drives_have_no_folder_in_common(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    monkeypatch.setattr(os, "path", ntpath)
    assert below_common_folder(["C:/gen/x/a.png", "C:/gen/b.png"]) == ["x\\a.png", "b.png"]
    with pytest.raises(InputError, match="images lie on several drives"):
        below_common_folder(["C:/gen/a.png", other])


class TestUrls:
    def test_they_are_absolute_as_they_are(self) -> None:
        assert absolute("s3://bucket/gen/../a.png") == "s3://bucket/gen/../a.png"
        assert absolute("s3://bucket/gen/") == "s3://bucket/gen"

    def test_they_may_stand_among_paths(self) -> None:
        assert below_common_folder(["s3://b/gen/x/1.png", "s3://b/gen/2.png"]) == [os.path.join("x", "1.png"), "2.png"]
        mixed = below_common_folder(["s3://b/1.png", "gen/2.png"])
        assert [os.path.basename(path) for path in mixed] == ["1.png", "2.png"]
