"""The same file under two names never trains and tests: by content, for no name tells."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from PIL import Image

from aigciqa.databases import Database, Split, load_database
from tests.conftest import draw
from tests.lookalikes import write_pku_i2iqa

PARTS = ("train", "validation", "test")


def write(folder: Path, rows: list[tuple[str, str, str]], copies: dict[str, str]) -> Database:
    """Images of rows (image, reference, group); those in `copies` hold what another one holds."""
    folder.mkdir(exist_ok=True)
    names = sorted({name for row in rows for name in row[:2] if name})
    for seed, name in enumerate(names):
        Image.fromarray(draw(8, 8, seed=seed)).save(folder / name)
    for copy, original in copies.items():
        (folder / copy).write_bytes((folder / original).read_bytes())
    lines = [f"{','.join(row)},{number}" for number, row in enumerate(rows)]
    (folder / "manifest.csv").write_text("\n".join(["image,reference,group,quality", *lines]))
    return load_database("folder", folder)


def sides(split: Split, *names: str) -> list[int]:
    return [index for name in names for index, part in enumerate(PARTS) if name in named(split, part)]


def named(split: Split, part: str) -> set[str]:
    return {sample.name for sample in getattr(split, part)}


ROWS = [(f"{number}.png", "", f"prompt {number}") for number in range(12)]


@pytest.mark.parametrize("protocol", ["prompt-disjoint", "k-fold"])
def test_copies_stay_on_one_side_whatever_the_seed(protocol: str, tmp_path: Path) -> None:
    database = write(tmp_path, ROWS, {"7.png": "2.png", "9.png": "7.png", "11.png": "0.png"})
    for seed in range(8):
        with pytest.warns(UserWarning, match=r"one side: 11\.png = 0\.png, 7\.png = 2\.png, 9\.png = 2\.png$"):
            split = database.split(protocol, seed)
        assert len(set(sides(split, "2.png", "7.png", "9.png"))) == 1
        assert len(set(sides(split, "0.png", "11.png"))) == 1
        assert sum(len(getattr(split, part)) for part in PARTS) == 12


@pytest.mark.filterwarnings("error")
def test_a_split_without_copies_is_what_it_was(tmp_path: Path) -> None:
    split = write(tmp_path, ROWS, {}).split()
    assert split.digest == DIGEST
    (tmp_path / "3.png").write_bytes((tmp_path / "4.png").read_bytes()[:-1] + b"\0")  # of one length, no copy
    assert load_database("folder", tmp_path).split().digest == DIGEST


#: As 0.1.0 computes it.
DIGEST = "e705a5083c2752462acb41d38036803ee19b5a1904329df4c50d2c114068a060"


def test_a_copied_image_prompt_is_one_prompt(tmp_path: Path) -> None:
    rows = [(f"{number}{letter}.png", f"prompt{number}.png", "") for number in range(6) for letter in "ab"]
    database = write(tmp_path, rows, {"prompt4.png": "prompt1.png"})
    for seed in range(6):
        with pytest.warns(UserWarning, match=r"one side: prompt4\.png = prompt1\.png"):
            split = database.split(seed=seed)
        assert len(set(sides(split, "1a.png", "1b.png", "4a.png", "4b.png"))) == 1


@pytest.mark.filterwarnings("error")
def test_groups_of_ones_own_may_share_an_image_prompt(tmp_path: Path) -> None:
    rows = [(f"{number}.png", f"prompt{number}.png", f"subject {number}") for number in range(6)]
    write(tmp_path, rows, {f"prompt{number}.png": "prompt0.png" for number in range(1, 6)}).split()


def test_published_splits_are_kept_and_their_copies_named(tmp_path: Path) -> None:
    root = write_pku_i2iqa(tmp_path, prompts=4, per_prompt=4, size=16)
    database = load_database("pku-i2iqa", root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = database.split("paper")
    trained, tested = Path(before.train[0].image), Path(before.test[0].image)
    tested.write_bytes(trained.read_bytes())
    with pytest.warns(UserWarning, match=rf"paper: 1 image on two sides .*: \S*{trained.name} = \S*{tested.name}$"):
        split = database.split("paper")
    assert split == before
    split.save(tmp_path / "split.json")
    with pytest.warns(UserWarning, match=f"{trained.name} = .*{tested.name}$"):
        assert Split.load(tmp_path / "split.json", database) == split
