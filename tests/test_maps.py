"""`aigciqa score --maps`: what is written, where, and what happens where it can't be."""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import aigciqa
from aigciqa.cli import score
from aigciqa.images.colour_maps import overlay
from aigciqa.images.decode import load_image
from aigciqa.scoring import maps
from tests.conftest import Watch, draw

Write = Callable[..., list[str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(score.main, [*arguments, "--quiet"], catch_exceptions=False)


def made_for(*images: str, metrics: Sequence[str] = ("nr-lite",)) -> list[str]:
    """What a folder of maps holds for images."""
    suffixes = ("annotated.png", "npy", "png")
    return sorted(f"{image}.{metric}.{suffix}" for image in images for metric in metrics for suffix in suffixes)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_each_image_has_an_overlay_and_the_map_whose_mean_is_its_score(write_images: Write, here: Path) -> None:
    write_images("gen", "a.png", "a.jpg", "sub/c.png", size=(120, 150))
    done = run("gen", "-m", "nr-lite", "--maps", "out", "-o", "t.csv")
    assert done.exit_code == 0, done.stderr
    assert files(here / "out") == made_for("gen/a.jpg", "gen/a.png", "gen/sub/c.png")
    with open("t.csv", newline="") as table:
        for row in csv.DictReader(table):
            quality_map = np.load(f"out/{row['image']}.nr-lite.npy")
            assert quality_map.dtype == np.float32
            assert quality_map.mean() == pytest.approx(float(row["quality"]), abs=1e-4)
            expected = aigciqa.create_metric("nr-lite").quality_map(row["image"])[0].numpy()
            np.testing.assert_allclose(quality_map, expected, atol=1e-5)
            check_pictures(Path("out", row["image"]), Path(row["image"]), quality_map)


def check_pictures(written: Path, image: Path, quality_map: np.ndarray) -> None:
    """The plain picture is the image under its map; the annotated one is that above a bar with a mark at the score."""
    metric = aigciqa.create_metric("nr-lite")
    with Image.open(f"{written}.nr-lite.png") as shown, Image.open(f"{written}.nr-lite.annotated.png") as labelled:
        assert shown.info["aigciqa-image"] == str(image)
        assert shown.size == (150, 120)
        plain, pixels = np.asarray(shown), np.asarray(labelled)
    expected = overlay(load_image(image), quality_map, metric.config.preprocess, 0, 5)
    assert (plain == np.asarray(expected)).all()
    assert pixels.shape[1] == 400  # narrow images have room for the text
    assert (pixels[:120, 125:275] == plain).all()
    columns = np.flatnonzero((pixels[120:] == 26).all(axis=2).sum(axis=0) > 20)  # higher than any letter
    assert columns.mean() == pytest.approx(12 + 375 * quality_map.mean() / 5, abs=1)


def test_several_metrics_have_maps_of_their_own_and_large_overlays_are_reduced(
    write_images: Write, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "MAX_SIDE", 100)
    write_images("gen", "a.png", size=(150, 200))
    done = run("gen/a.png", "-m", "nr-lite", "-m", "fr-lite", "-r", "gen", "--maps", "out")
    assert done.exit_code == 0, done.stderr
    assert files(here / "out") == made_for("gen/a.png", metrics=("fr-lite", "nr-lite"))
    with Image.open("out/gen/a.png.fr-lite.png") as shown:
        assert shown.size == (100, 75)


def test_maps_lie_below_their_folder_as_the_images_do_and_no_two_meet(
    write_images: Write, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_images("gen", "a.png")
    relative = path.lstrip("/")
    write_images("below", relative, "gen/a.png")
    monkeypatch.chdir(here / "below")
    arguments = ("-m", "nr-lite", "../gen", path, relative, "gen", "--maps", "out", "-o", "t.csv")
    for again in ((), ("--resume",)):
        assert run(*arguments, *again).exit_code == 0
        assert files(Path("out")) == made_for("gen/a.png", "gen/a.png.2", relative, f"{relative}.2")
    of = {}
    for name in ("gen/a.png", "gen/a.png.2", relative, f"{relative}.2"):
        with Image.open(f"out/{name}.nr-lite.png") as shown:
            of[name] = shown.info["aigciqa-image"]
    assert of == {"gen/a.png": "../gen/a.png", "gen/a.png.2": "gen/a.png", relative: path, f"{relative}.2": relative}


def test_the_command_names_the_first_picture(write_images: Write, here: Path) -> None:
    write_images("gen", "a.png", "b.png")
    done = CliRunner().invoke(score.main, ["gen", "-m", "nr-lite", "--maps", "out"], catch_exceptions=False)
    example = str(Path("out/gen/a.png.nr-lite.annotated.png"))
    assert f"maps in out, such as {example}" in done.stderr


def test_images_of_an_archive_have_overlays(here: Path) -> None:
    Image.fromarray(draw(90, 100)).save("a.png")
    with tarfile.open("shard.tar", "w") as archive:
        archive.add("a.png", "0001/a.png")
        archive.add("a.png", "0002/a.png")
    done = run("-m", "nr-lite", "shard.tar", "--maps", "out")
    assert done.exit_code == 0, done.stderr
    assert files(here / "out") == made_for("shard.tar/0001/a.png", "shard.tar/0002/a.png")
    first, second = (np.asarray(Image.open(path)) for path in (here / "out").rglob("*.nr-lite.png"))
    assert (first == second).all()


def test_the_maps_of_a_scored_folder_are_not_scored(write_images: Write, here: Path) -> None:
    write_images("gen", "a.png", "z.png")
    arguments = ("gen", "-m", "nr-lite", "--maps", "gen/maps", "-o", "t.csv")
    assert run(*arguments).exit_code == 0
    assert len(files(here / "gen" / "maps")) == 6
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
    words = {"file": "--maps file is a file; name a folder", "file/below": "maps can't be written in 'file/below'"}
    for folder, text in words.items():
        done = run("-m", "nr-lite", "gen", "--maps", folder, "-o", "t.csv")
        assert done.exit_code == 2
        assert text in done.stderr
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
    assert files(here / "out") == [*made_for("gen/b.png"), "gen/c.png.nr-lite.npy"]
    with open("t.csv", newline="") as table:
        assert [bool(row["quality"]) for row in csv.DictReader(table)] == [True, True, False, True]
