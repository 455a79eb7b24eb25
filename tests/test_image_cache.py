"""The cache of images that training reads: shared by runs, checked, and made anew where it is damaged."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import aigciqa
from aigciqa.cli.train import main as command
from aigciqa.registry import METRICS
from aigciqa.training.image_cache import ImageCache, build_cache
from aigciqa.training.lite.training_data import kept
from tests.conftest import draw
from tests.lookalikes import write_folder

SPEC = METRICS["nr-resnet18"].preprocess
HEADER = 12


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Two images of one size, in cache entries of one size."""
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(paths):
        Image.fromarray(draw(300, 280, seed=seed)).save(path)
    return list(map(str, paths))


def build(paths: list[str], folder: Path) -> ImageCache:
    return build_cache(paths, SPEC, folder, workers=2, progress=False)


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def flipped(at: int) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[at] ^= 1
        file.write_bytes(content)

    return damage


def turned(file: Path) -> None:
    """Height and width change places: as many pixels, in other rows."""
    content = file.read_bytes()
    file.write_bytes(content[4:8] + content[:4] + content[8:])


def cut(length: int) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(file.read_bytes()[:length])


def swapped(file: Path) -> None:
    """The entry of another image, whole."""
    other = next(path for path in file.parent.iterdir() if path != file)
    file.write_bytes(other.read_bytes())


DAMAGES = {
    "zeroed": zeroed,
    "a pixel flipped": flipped(-1),
    "the height flipped": flipped(0),
    "the checksum flipped": flipped(HEADER - 1),
    "turned": turned,
    "cut": cut(100_000),
    "cut in the header": cut(HEADER - 1),
    "emptied": cut(0),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "swapped": swapped,
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_anew(damage: str, images: list[str], tmp_path: Path) -> None:
    cache = build(images, tmp_path / "cache")
    whole = {file: file.read_bytes() for file in (tmp_path / "cache").iterdir()}
    DAMAGES[damage](cache.entries[images[0]].file)
    assert {file: file.read_bytes() for file in (tmp_path / "cache").iterdir()} != whole
    again = build(images, tmp_path / "cache")
    assert {file: file.read_bytes() for file in (tmp_path / "cache").iterdir()} == whole
    assert again == cache
    assert not np.array_equal(again.crop(images[0], 0, 0, 224), again.crop(images[1], 0, 0, 224))


def test_an_entry_cut_short_while_it_is_in_use_is_named(images: list[str], tmp_path: Path) -> None:
    cache = build(images, tmp_path / "cache")
    cut(1000)(cache.entries[images[0]].file)
    with pytest.raises(aigciqa.DatabaseError, match=rf"{cache.entries[images[0]].file.name}: cut short"):
        cache.crop(images[0], 10, 10, 224)


def test_a_cache_that_cannot_be_written_is_named(images: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(aigciqa.DatabaseError, match="file: no place for the image cache"):
        build(images, tmp_path / "file")
    file = build(images, tmp_path / "cache").entries[images[0]].file
    file.unlink()
    file.mkdir()  # nothing can take its place
    with pytest.raises(aigciqa.DatabaseError, match=rf"{file.name}: the image cache can't be written"):
        build(images, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob(".*"))


def test_runs_share_entries_and_the_group_may_read_them(images: list[str], tmp_path: Path) -> None:
    first = build(images[:1], tmp_path / "cache")
    written = first.entries[images[0]].file.stat()
    both = build(images[::-1], tmp_path / "cache")  # as another seed asks: another order, and one image more
    assert both.entries[images[0]] == first.entries[images[0]]
    assert first.entries[images[0]].file.stat().st_mtime_ns == written.st_mtime_ns
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert stat.S_IMODE(written.st_mode) == stat.S_IMODE((tmp_path / "a.png").stat().st_mode)  # the umask's


def test_a_run_with_a_damaged_cache_ends_as_one_without(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "database", prompts=5, per_prompt=3, size=40)
    arguments = ["folder", str(root), "-m", "nr-resnet18", "--start", "none", "--frozen", "--epochs", "1", "--device"]
    arguments += ["cpu", "-d", "quality", "--quiet", "--cache", str(tmp_path / "cache"), "-o"]
    checkpoints = []
    for name in ("whole", "damaged"):
        assert CliRunner().invoke(command, [*arguments, str(tmp_path / name)]).exit_code == 0
        checkpoints.append((tmp_path / name / "model.safetensors").read_bytes())
        for damage, file in zip(DAMAGES.values(), sorted((tmp_path / "cache").iterdir()), strict=False):
            damage(file)
    assert checkpoints[0] == checkpoints[1]


@pytest.mark.parametrize("damage", ["zeroed", "a pixel flipped", "the height flipped", "cut", "emptied", "gone"])
def test_kept_features_that_are_damaged_are_made_anew(damage: str, tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"features": torch.arange(50_000.0)}

    for _ in range(2):
        assert torch.equal(kept(tmp_path, ["key"], make)["features"], torch.arange(50_000.0))
    assert len(made) == 1
    (file,) = tmp_path.iterdir()
    DAMAGES[damage](file)
    assert torch.equal(kept(tmp_path, ["key"], make)["features"], torch.arange(50_000.0))
    assert (len(made), list(tmp_path.iterdir())) == (2, [file])


@pytest.mark.slow
def test_a_terminated_run_leaves_no_unfinished_file(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "database", prompts=40, per_prompt=5, size=400)
    arguments = ["folder", str(root), "-m", "nr-resnet18", "--start", "none", "--device", "cpu", "--cache"]
    process = subprocess.Popen(
        [sys.executable, "-m", "aigciqa.cli", "train", *arguments, str(tmp_path / "cache"), "-o", str(tmp_path / "head")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and len(list((tmp_path / "cache").glob("*.rgb"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert "Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".rgb"}
