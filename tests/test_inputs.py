"""What may be given as an image, and which files of a folder are images."""

from __future__ import annotations

import csv
import inspect
import io
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import aigciqa
from aigciqa.cli.score import main
from aigciqa.images.decode import load_image
from aigciqa.scoring.sources import open_sources
from aigciqa.utils.object_stores import files_below
from tests.conftest import draw

IMAGE = Image.fromarray(draw(70, 80))


def saved() -> bytes:
    file = io.BytesIO()
    IMAGE.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With two images, what macOS puts beside them, and images that are not looked for."""
    for name in ("a.png", "sub/b.png"):
        for path in (tmp_path / name, (tmp_path / name).with_name("._" + Path(name).name)):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " if path.name.startswith("._") else saved())
    for name in ("c.PSD", "sub/d.psd", "e.psd", "f.svg", "g.txt", "._h.psd", "notes.json"):
        (tmp_path / name).touch()
    return tmp_path


SKIPPED = "skipped in folders: 3 .psd, 1 .svg (not among the suffixes that are looked for there)"


def score(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "-m", "nr-lite"])


class TestFolders:
    def test_what_macos_puts_beside_images_is_skipped(self, folder: Path) -> None:
        (opener,) = open_sources([str(folder)], io.BytesIO(), {})
        assert [found.relative for found in opener()] == ["a.png", "sub/b.png"]

    def test_in_an_object_store_as_well(self, folder: Path) -> None:
        (opener,) = open_sources([f"file://{folder}"], io.BytesIO(), {})
        assert [found.item.image for found in opener()] == [f"file://{folder}/a.png", f"file://{folder}/sub/b.png"]

    def test_one_that_is_named_is_an_error(self, folder: Path) -> None:
        done = score(str(folder / "._a.png"))
        assert done.exit_code == 1
        assert "not an image" in done.stdout

    def test_images_that_are_not_looked_for_are_counted(self, folder: Path) -> None:
        for arguments in ([str(folder)], [str(folder / "*"), str(folder)]):
            done = score(*arguments, "-o", str(folder / "scores.csv"), "--overwrite")
            assert done.stderr.count("skipped in folders") == 1
        assert SKIPPED in score(str(folder)).stderr
        assert "skipped" not in score(str(folder), "--quiet").stderr
        assert "skipped" not in score(str(folder / "a.png")).stderr

    def test_where_there_are_no_others(self, folder: Path) -> None:
        for name in ("a.png", "sub/b.png"):
            (folder / name).unlink()
        done = score(str(folder))
        assert done.exit_code == 2
        assert f"no images in {folder}; {SKIPPED}" in done.stderr


def places(*arguments: str, lines: str | None = None) -> list[tuple[Path, Path]]:
    """The images and references of a table."""
    done = CliRunner().invoke(main, arguments, input=lines)
    assert done.exit_code == 0, done.output
    rows = csv.DictReader(io.StringIO(done.stdout))
    return [(Path(row["image"]), Path(row["reference"])) for row in rows]


class TestHome:
    @pytest.fixture(autouse=True)
    def _home(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HOME", "USERPROFILE"):
            monkeypatch.setenv(name, str(folder))

    def test_is_found(self) -> None:
        metric = aigciqa.create_metric("fr-lite")
        expected = metric(IMAGE, IMAGE)
        assert metric("~/a.png", Path("~/sub/b.png")) == expected
        (record,) = aigciqa.score_files(["~/a.png"], metric=metric, references="~/a.png")
        assert (record.image, record.error) == ("~/a.png", None)

    def test_a_file_of_that_name_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "elsewhere" / "~").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        Image.new("RGB", (3, 2)).save("~/a.png")
        assert load_image("~/a.png").size == (3, 2)

    def test_errors_say_where_it_was_looked_for(self, folder: Path) -> None:
        for path in ("~/none.png", "~nobody-of-this-name/none.png"):
            with pytest.raises(aigciqa.ImageError, match=r"none\.png: No such file"):
                load_image(path)

    @pytest.mark.parametrize("option", ["--reference=~/sub", "-r~/sub"])
    def test_is_found_in_the_value_of_an_option(self, folder: Path, option: str) -> None:
        reference = (folder / "sub" / "b.png").rename(folder / "sub" / "a.png")
        assert places("~/a.png", option) == [(folder / "a.png", reference)]

    def test_an_argument_s_file_of_that_name_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "elsewhere" / "~").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        IMAGE.save("~/a.png")
        assert places("~/a.png", "--reference=~/a.png") == [(Path("~/a.png"), Path("~/a.png"))]

    @pytest.mark.parametrize("cells", ["~/a.png,~/sub/b.png", " ~/a.png ,~\\sub\\b.png"])
    def test_is_found_in_a_manifest(self, folder: Path, tmp_path: Path, cells: str) -> None:
        (tmp_path / "elsewhere").mkdir()
        manifest = tmp_path / "elsewhere" / "m.csv"
        manifest.write_text(f"image,reference\n{cells}\n", encoding="utf-8")
        assert places(str(manifest)) == [(folder / "a.png", folder / "sub" / "b.png")]

    def test_a_file_of_that_name_beside_a_manifest_comes_first(self, tmp_path: Path) -> None:
        there = tmp_path / "elsewhere" / "~" / "a.png"
        there.parent.mkdir(parents=True)
        IMAGE.save(there)
        manifest = tmp_path / "elsewhere" / "m.csv"
        manifest.write_text("image,reference\n~/a.png,~/a.png\n", encoding="utf-8")
        assert places(str(manifest)) == [(there, there)]

    def test_is_found_in_the_lines_of_standard_input(self, folder: Path) -> None:
        with tarfile.open(folder / "a.tar", "w") as archive:
            archive.add(folder / "a.png", "a.png")
        found = places("-", "-m", "nr-lite", lines="~/a.png\n~/a.tar\n")
        assert [image for image, _ in found] == [folder / "a.png", folder / "a.tar" / "a.png"]


class TestFileObjects:
    def test_are_read_from_their_start_as_often_as_needed(self, folder: Path) -> None:
        metric = aigciqa.create_metric("nr-lite")
        expected = metric(IMAGE)
        memory = io.BytesIO(saved())
        memory.seek(10)
        assert metric(memory) == metric(memory) == expected
        with open(folder / "a.png", "rb") as file:
            assert metric([file, memory]).tolist() == pytest.approx([expected.item()] * 2, abs=1e-5)

    def test_that_cannot_go_back_are_read_as_they_are(self) -> None:
        class Stream(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                return saved()

        assert load_image(Stream()) == load_image(IMAGE)

    def test_errors_name_them(self, folder: Path) -> None:
        with pytest.raises(aigciqa.ImageError, match="file object: the file is empty"):
            load_image(io.BytesIO())
        with (
            open(folder / "f.svg", "rb") as file,
            pytest.raises(aigciqa.ImageError, match=r"f\.svg: the file is empty"),
        ):
            load_image(file)
        with open(folder / "g.txt") as text, pytest.raises(TypeError, match="bytes, as open"):
            load_image(text)
        with pytest.raises(TypeError, match="file object"):
            load_image(7)


def test_folders_may_be_nested_deeper_than_python_recurses(tmp_path: Path) -> None:
    deep = Path(tmp_path, *"d" * 60)
    deep.mkdir(parents=True)
    (deep / "a.png").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 50)
    try:
        found = list(files_below(str(tmp_path)))
    finally:
        sys.setrecursionlimit(limit)
    assert found == [(str(deep / "a.png"), str(deep.relative_to(tmp_path) / "a.png"), None)]
