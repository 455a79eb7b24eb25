"""`aigciqa score --maps`: what is written, where, and what happens where it can't be."""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import aigciqa
from aigciqa.cli import score
from aigciqa.scoring import maps
from tests.conftest import Watch, draw

Write = Callable[..., list[str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(score.main, [*arguments, "--quiet"], catch_exceptions=False)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_each_image_has_an_overlay_and_the_map_whose_mean_is_its_score(write_images: Write, here: Path) -> None:
    write_images("gen", "a.png", "a.jpg", "sub/c.png", size=(120, 150))
    done = run("gen", "-m", "nr-lite", "--maps", "out", "-o", "t.csv")
    assert done.exit_code == 0, done.stderr
    names = [f"gen/{name}.nr-lite.{suffix}" for name in ("a.jpg", "a.png", "sub/c.png") for suffix in ("npy", "png")]
    assert files(here / "out") == names
    with open("t.csv", newline="") as table:
        for row in csv.DictReader(table):
            quality_map = np.load(f"out/{row['image']}.nr-lite.npy")
            assert quality_map.dtype == np.float32
            assert quality_map.mean() == pytest.approx(float(row["quality"]), abs=1e-4)
            expected = aigciqa.create_metric("nr-lite").quality_map(row["image"])[0].numpy()
            np.testing.assert_allclose(quality_map, expected, atol=1e-5)
            with Image.open(f"out/{row['image']}.nr-lite.png") as shown:
                assert shown.size == (150, 120)


def test_several_metrics_have_maps_of_their_own_and_large_overlays_are_reduced(
    write_images: Write, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "MAX_SIDE", 100)
    write_images("gen", "a.png", size=(150, 200))
    done = run("gen/a.png", "-m", "nr-lite", "-m", "fr-lite", "-r", "gen", "--maps", "out")
    assert done.exit_code == 0, done.stderr
    assert files(here / "out") == [
        f"gen/a.png.{name}.{suffix}" for name in ("fr-lite", "nr-lite") for suffix in ("npy", "png")
    ]
    with Image.open("out/gen/a.png.fr-lite.png") as shown:
        assert shown.size == (100, 75)


def test_maps_never_leave_their_folder_and_no_two_meet(
    write_images: Write, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_images("gen", "a.png")
    relative = path.lstrip("/")
    write_images("below", relative, "_/gen/a.png", "__/gen/_a.png")
    monkeypatch.chdir(here / "below")
    assert run("-m", "nr-lite", "../gen", path, relative, "_", "__", "--maps", "out").exit_code == 0
    names = ("_/gen/a.png", f"_root/{relative}", relative, "__/gen/a.png", "___/gen/_a.png")
    assert set(files(Path("out"))) == {f"{name}.nr-lite.{suffix}" for name in names for suffix in ("npy", "png")}


def test_images_of_an_archive_have_overlays(here: Path) -> None:
    Image.fromarray(draw(90, 100)).save("a.png")
    with tarfile.open("shard.tar", "w") as archive:
        archive.add("a.png", "0001/a.png")
        archive.add("a.png", "0002/a.png")
    done = run("-m", "nr-lite", "shard.tar", "--maps", "out")
    assert done.exit_code == 0, done.stderr
    assert len(files(here / "out")) == 4
    overlays = list((here / "out").rglob("*.png"))
    assert overlays[0].read_bytes() == overlays[1].read_bytes()


def test_the_maps_of_a_scored_folder_are_not_scored(write_images: Write, here: Path) -> None:
    write_images("gen", "a.png", "z.png")
    arguments = ("gen", "-m", "nr-lite", "--maps", "gen/maps", "-o", "t.csv")
    assert run(*arguments).exit_code == 0
    assert len(files(here / "gen" / "maps")) == 4
    assert run(*arguments, "--resume").exit_code == 0
    assert len((here / "t.csv").read_text().splitlines()) == 3


def test_a_folder_with_files_in_it_is_left_alone_unless_resumed(write_images: Write, here: Path) -> None:
    write_images("gen", "a.png", "b.png")
    (here / "out").mkdir()
    (here / "out" / "mine.txt").write_text("mine")
    arguments = ("gen", "-m", "nr-lite", "--maps", "out", "-o", "t.csv", "--batch-size", "1")
    done = run(*arguments)
    assert done.exit_code == 2
    assert "--maps out is there already: --overwrite replaces it, --resume goes on with it" in done.stderr
    assert files(here / "out") == ["mine.txt"]
    assert not (here / "t.csv").exists()
    (here / "out" / "mine.txt").unlink()

    assert run(*arguments).exit_code == 0
    whole = {name: (here / "out" / name).read_bytes() for name in files(here / "out")}
    lines = (here / "t.csv").read_text().splitlines(keepends=True)
    (here / "t.csv").write_text("".join(lines[:2]))
    (here / "out" / "gen" / "b.png.nr-lite.png").write_bytes(b"torn")
    (here / "out" / "gen" / "b.png.nr-lite.npy").unlink()
    assert run(*arguments, "--resume").exit_code == 0
    assert {name: (here / "out" / name).read_bytes() for name in files(here / "out")} == whole


def test_what_is_no_folder_to_write_in_ends_before_anything_is_scored(write_images: Write, here: Path) -> None:
    write_images("gen", "a.png")
    (here / "file").write_text("")
    for folder in ("file", "file/below"):
        done = run("-m", "nr-lite", "gen", "--maps", folder, "-o", "t.csv")
        assert done.exit_code == 2
        assert f"maps can't be written in '{folder}'" in done.stderr
        assert not (here / "t.csv").exists()
    assert "--engine local" in run("gen", "--maps", "out", "--engine", "ray", "-o", "t.parquet").stderr


def test_a_map_that_can_not_be_written_costs_no_score(write_images: Write, here: Path, watch: Watch) -> None:
    write_images("gen", "a.png", "b.png", "c.png")
    (here / "gen" / "bad.png").write_bytes(b"bad")

    def full_at(count: int) -> None:
        if len(arrays) == count:
            raise OSError(28, "No space left on device")

    arrays = watch(np, "save", lambda *_: full_at(1))
    watch(Image.Image, "save", lambda *_, **__: full_at(3))
    done = run("-m", "nr-lite", "gen", "--maps", "out", "-o", "t.csv")
    assert done.exit_code == 1
    assert "2 maps could not be written, but all scores have been; the first: " in done.stderr
    assert "No space left on device" in done.stderr
    assert files(here / "out") == [
        f"gen/{name}" for name in ("b.png.nr-lite.npy", "b.png.nr-lite.png", "c.png.nr-lite.npy")
    ]
    with open("t.csv", newline="") as table:
        assert [bool(row["quality"]) for row in csv.DictReader(table)] == [True, True, False, True]
