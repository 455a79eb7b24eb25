"""Databases: layouts as published, every way they can be wrong, splits and their files. On drawn look-alikes."""

from __future__ import annotations

import csv
import json
import pickle
import re
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from scipy.stats import spearmanr

from aigciqa.databases import (
    Database,
    DatabaseSpec,
    Sample,
    Split,
    agiqa_3k,
    database_info,
    folder,
    list_databases,
    load_database,
    pku_i2iqa,
)
from aigciqa.databases.dataset import ImageDataset
from aigciqa.errors import DatabaseError, MissingExtraError
from aigciqa.registry import METRICS
from aigciqa.utils.paths import counted
from tests import lookalikes
from tests.lookalikes import WRITERS, write_csv, write_xlsx
from tests.test_package import modules_after

ALL = list(WRITERS)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The look-alikes; not to be changed."""
    return {name: write(tmp_path_factory.mktemp(name), size=16) for name, write in WRITERS.items()}


@pytest.fixture
def copied(originals: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copies a look-alike, to be changed."""
    return lambda name: Path(shutil.copytree(originals[name], tmp_path / name))


def error(name: str, root: Path, **options: Any) -> str:
    with pytest.raises(DatabaseError) as caught:
        load_database(name, root, **options)
    return str(caught.value)


def edit_xlsx(path: Path, change: Callable[[Any], object]) -> None:
    book = openpyxl.load_workbook(path)
    change(book.active)
    book.save(path)


def edit_csv(path: Path, change: Callable[[list[list[str]]], object]) -> None:
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    change(rows)
    write_csv(path, rows)


class TestTable:
    def test_names_match_a_pattern(self) -> None:
        assert list_databases() == ALL
        assert list_databases("pku-*") == ["pku-i2iqa", "pku-aigiqa-4k"]

    def test_an_unknown_name_suggests_a_near_one(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"'agiqa3k'; did you mean 'agiqa-3k'.*Known databases: pku-i2iqa"):
            load_database("agiqa3k", tmp_path)
        with pytest.raises(ValueError, match=r"^unknown database 'tables'\. Known databases: pku-i2iqa"):
            load_database("tables", tmp_path)

    def test_an_unknown_option_names_those_there_are(self, originals: dict[str, Path]) -> None:
        with pytest.raises(ValueError, match="'pku-i2iqa' has no option 'subset'; it has none"):
            load_database("pku-i2iqa", originals["pku-i2iqa"], subset="i2i")
        with pytest.raises(ValueError, match="no option 'part'; its options: subset"):
            load_database("pku-aigiqa-4k", originals["pku-aigiqa-4k"], part="i2i")

    @pytest.mark.parametrize("name", ALL)
    def test_what_is_known_of_each(self, name: str) -> None:
        spec = database_info(name)
        assert spec.name == name
        assert spec.protocols[0] == "prompt-disjoint"
        assert spec.layout
        assert name == "folder" or spec.homepage.startswith("https://")

    def test_loading_imports_neither_torch_nor_pandas(self, originals: dict[str, Path]) -> None:
        code = f"from aigciqa.databases import load_database; load_database('agiqa-1k', {str(originals['agiqa-1k'])!r})"
        assert not modules_after(f"{code}.split()") & {"torch", "pandas"}


class TestLoading:
    @pytest.mark.parametrize("name", ALL)
    def test_every_row_is_a_sample_with_all_that_is_known(self, name: str, originals: dict[str, Path]) -> None:
        database = load_database(name, originals[name])
        assert database.name == name
        assert database.root == originals[name]
        assert len({sample.name for sample in database.samples}) == len(database.samples)
        for sample in database.samples:
            assert Path(sample.image).is_absolute()
            assert Path(sample.image) == database.root / sample.name
            assert sample.reference is None or Path(sample.reference).is_file()
            assert sample.generator in database.generators
            assert sample.group
            assert tuple(sample.scores) == database.dimensions
            for dimension, score in sample.scores.items():
                low, high = database.score_range[dimension]
                assert low <= score <= high

    @pytest.mark.parametrize(
        ("name", "count", "generators", "groups", "dimensions"),
        [
            ("pku-i2iqa", 80, {"MJ": 40, "SD": 40}, 10, "quality authenticity correspondence overall"),
            ("pku-aigiqa-4k", 96, {"MJ": 42, "SD": 36, "DALLE": 18}, 12, "quality authenticity correspondence overall"),
            ("agiqa-1k", 48, {"deepai": 24, "dreamStudio": 24}, 12, "quality"),
            (
                "agiqa-3k",
                60,
                dict.fromkeys(("AttnGAN", "DALLE2", "glide", "midjourney", "sd1.5"), 12),
                12,
                "quality correspondence",
            ),
            (
                "aigciqa2023",
                120,
                dict.fromkeys(lookalikes.AIGCIQA2023_GENERATORS, 20),
                5,
                "quality authenticity correspondence overall",
            ),
            ("folder", 40, {"one": 20, "two": 20}, 10, "quality authenticity correspondence overall"),
        ],
    )
    def test_what_each_holds(
        self,
        name: str,
        count: int,
        generators: dict[str, int],
        groups: int,
        dimensions: str,
        originals: dict[str, Path],
    ) -> None:
        database = load_database(name, originals[name])
        assert len(database.samples) == count
        assert Counter(sample.generator for sample in database.samples) == generators
        assert len({sample.group for sample in database.samples}) == groups
        assert database.dimensions == tuple(dimensions.split())
        info = database.info()
        assert "\n" not in info
        assert info.startswith(f"{name}: {count} images; {groups} prompts; ")
        assert all(word in info for word in (*generators, "quality [", database.spec.homepage))

    def test_a_sample_of_pku_i2iqa(self, originals: dict[str, Path]) -> None:
        root = originals["pku-i2iqa"]
        row = [cell.value for cell in openpyxl.load_workbook(root / "I2IQA_annotation.xlsx").active[42]]
        sample = load_database("pku-i2iqa", root).samples[40]
        assert sample == Sample(
            image=str(root / "Generated_image" / "All" / row[0]),
            reference=str(root / "Image_prompt" / row[1]),
            prompt=row[2],
            generator="SD",
            group=row[1],
            scores={
                "quality": row[3],
                "authenticity": row[4],
                "correspondence": row[5],
                "overall": row[3] + row[4] + row[5],
            },
            name=f"Generated_image/All/{row[0]}",
        )

    def test_no_image_is_opened(self, copied: Callable[[str], Path]) -> None:
        root = copied("aigciqa2023")
        for path in (root / "Image" / "allimg").iterdir():
            path.write_bytes(b"")
        assert len(load_database("aigciqa2023", root).samples) == 120

    def test_the_root_may_be_relative_or_at_home(
        self, originals: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = originals["agiqa-3k"]
        monkeypatch.chdir(root.parent)
        monkeypatch.setenv("HOME", str(root.parent))
        absolute = load_database("agiqa-3k", root)
        assert load_database("agiqa-3k", root.name) == absolute
        assert load_database("agiqa-3k", f"~/{root.name}") == absolute
        with pytest.raises(DatabaseError, match="nobody-of-that-name: no such folder"):
            load_database("agiqa-3k", "~nobody-of-that-name")

    @pytest.mark.parametrize("column", ["Final_score", "final score", "MOS_final", "Overall"])
    def test_a_final_score_is_taken_whatever_it_is_called(self, column: str, copied: Callable[[str], Path]) -> None:
        root = copied("pku-i2iqa")

        def add(sheet: Any) -> None:
            for row, value in enumerate([column, *(9.5 for _ in range(80))], 1):
                sheet.cell(row, 7, value)

        edit_xlsx(root / "I2IQA_annotation.xlsx", add)
        assert {sample.scores["overall"] for sample in load_database("pku-i2iqa", root).samples} == {9.5}

    def test_several_final_scores_are_refused(self, copied: Callable[[str], Path]) -> None:
        root = copied("pku-i2iqa")

        def add(sheet: Any) -> None:
            for row in range(1, 82):
                sheet.cell(row, 7, "final_1" if row == 1 else 1)
                sheet.cell(row, 8, "final_2" if row == 1 else 2)

        edit_xlsx(root / "I2IQA_annotation.xlsx", add)
        assert "look like the final score: 'final_1', 'final_2'" in error("pku-i2iqa", root)

    def test_a_generator_shows_in_the_folder_where_the_name_does_not_tell(self, copied: Callable[[str], Path]) -> None:
        root = copied("pku-i2iqa")
        images = root / "Generated_image"
        (images / "MJ").mkdir()
        (images / "SD").mkdir()

        def rename(sheet: Any) -> None:
            for row in range(2, 82):
                old = sheet.cell(row, 1).value
                new = f"image_{row}.jpg"
                sheet.cell(row, 1, new)
                (images / "All" / old).rename(images / "All" / new)
                shutil.copy(images / "All" / new, images / old[:2])

        edit_xlsx(root / "I2IQA_annotation.xlsx", rename)
        database = load_database("pku-i2iqa", root)
        assert [sample.generator for sample in database.samples] == ["MJ"] * 40 + ["SD"] * 40
        shutil.rmtree(images / "SD")
        message = error("pku-i2iqa", root)
        assert "no generator known of 40 images" in message
        assert "image_42.jpg" in message

    @pytest.mark.parametrize(("subset", "count", "groups"), [("i2i", 48, 6), ("t2i", 48, 6), ("all", 96, 12)])
    def test_subsets_of_pku_aigiqa_4k(self, subset: str, count: int, groups: int, originals: dict[str, Path]) -> None:
        database = load_database("pku-aigiqa-4k", originals["pku-aigiqa-4k"], subset=subset)
        assert len(database.samples) == count
        assert len({sample.group for sample in database.samples}) == groups
        assert {sample.reference is None for sample in database.samples} == {
            "i2i": {False},
            "t2i": {True},
            "all": {True, False},
        }[subset]
        assert ("(i2i)" in database.info()) == (subset == "i2i")

    def test_a_wrong_subset_is_refused(self, originals: dict[str, Path]) -> None:
        with pytest.raises(ValueError, match="subset='I2I'`: expected one of 'all', 'i2i', 't2i'"):
            load_database("pku-aigiqa-4k", originals["pku-aigiqa-4k"], subset="I2I")

    def test_pku_aigiqa_4k_without_text_prompts_is_grouped_by_the_number_in_the_name(
        self, copied: Callable[[str], Path]
    ) -> None:
        root = copied("pku-aigiqa-4k")
        edit_xlsx(root / "annotation.xlsx", lambda sheet: sheet.delete_cols(3))
        samples = load_database("pku-aigiqa-4k", root, subset="t2i").samples
        assert {sample.group for sample in samples} == {str(1000 + number) for number in range(6)}

    def test_the_double_row_of_agiqa_1k(self, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-1k")
        name = "dreamStudio_8_9_1_1.jpg"
        for score in (0.5, 2.5):
            row = (name, "alien, wearing shirt, wild, realistic style", score)
            edit_xlsx(root / "AIGC_MOS_Zscore.xlsx", lambda sheet, row=row: sheet.append(row))
        shutil.copy(root / "file" / "deepai_0_0_0_0.jpg", root / "file" / name)
        samples = load_database("agiqa-1k", root).samples
        assert len(samples) == 50
        assert [sample.name for sample in samples[-2:]] == [f"file/{name}", f"file/{name}#2"]
        assert [sample.scores["quality"] for sample in samples[-2:]] == [0.5, 2.5]
        (root / "file" / name).rename(root / "file" / "dreamStudio_8_9_1_.jpg")
        assert Path(load_database("agiqa-1k", root).samples[-1].image).name == "dreamStudio_8_9_1_.jpg"

    @pytest.mark.parametrize("folder_of_sheets", ["", "DATA", "DATA/MOS"])
    def test_aigciqa2023_with_the_authors_spreadsheets(
        self, folder_of_sheets: str, copied: Callable[[str], Path]
    ) -> None:
        root = copied("aigciqa2023")
        expected = load_database("aigciqa2023", root)
        (root / "prompt.xlsx").unlink()
        (root / "pic-index.xlsx").rename(root / folder_of_sheets / "pic-index.xlsx")
        rows = [("Basic", "Animals", f"a drawing, number {number}") for number in range(5)]
        write_xlsx(root / folder_of_sheets / "AIGCIQA2023_Prompts.xlsx", rows)
        assert load_database("aigciqa2023", root) == expected
        (root / folder_of_sheets / "pic-index.xlsx").unlink()
        assert load_database("aigciqa2023", root) == expected

    def test_aigciqa2023_is_sorted_by_number(self, originals: dict[str, Path]) -> None:
        names = [Path(sample.image).name for sample in load_database("aigciqa2023", originals["aigciqa2023"]).samples]
        assert names == [f"{number}.png" for number in range(120)]


class TestFolder:
    def write(self, root: Path, *rows: tuple[str, ...], name: str = "manifest.csv") -> Path:
        for row in rows[1:]:
            (root / row[0]).parent.mkdir(parents=True, exist_ok=True)
            (root / row[0]).touch()
        write_csv(root / name, rows)
        return root

    def test_one_column_is_enough(self, tmp_path: Path) -> None:
        self.write(tmp_path, ("image", "quality", "note"), ("a.png", "1", "x"), ("b.png", "3.5", ""))
        database = load_database("folder", tmp_path)
        assert [dict(sample.scores) for sample in database.samples] == [{"quality": 1.0}, {"quality": 3.5}]
        assert [sample.group for sample in database.samples] == ["a.png", "b.png"]
        assert database.score_range == {"quality": (1.0, 3.5)}
        assert database.generators == ()

    def test_dimensions_of_ones_own_are_named(self, tmp_path: Path) -> None:
        header = ("image", "aesthetics", "quality", "note")
        self.write(tmp_path, header, ("a.png", "7", "1", "x"), ("b.png", "9", "2", "y"))
        for options in ({"dimensions": ["aesthetics"]}, {"score_range": {"aesthetics": (1, 10)}}):
            database = load_database("folder", tmp_path, **options)
            assert database.dimensions == ("quality", "aesthetics")
            assert database.samples[1].scores == {"quality": 2.0, "aesthetics": 9.0}
        assert database.score_range == {"quality": (1.0, 2.0), "aesthetics": (1.0, 10.0)}
        assert "no column 'beauty'; found: 'image'" in error("folder", tmp_path, dimensions=["beauty"])

    def test_a_sum_may_be_named_too(self, tmp_path: Path) -> None:
        header = ("image", "quality", "authenticity", "correspondence")
        self.write(tmp_path, header, ("a.png", "1", "2", "3"))
        assert load_database("folder", tmp_path, dimensions=["overall"]).samples[0].scores["overall"] == 6

    @pytest.mark.usefixtures("own_metric")
    def test_dimensions_of_a_registered_metric_are_read(self, tmp_path: Path) -> None:
        self.write(tmp_path, ("image", "aesthetics"), ("a.png", "7"))
        assert load_database("folder", tmp_path).samples[0].scores == {"aesthetics": 7.0}

    def test_other_columns_of_numbers_are_named_in_a_warning(self, tmp_path: Path) -> None:
        self.write(tmp_path, ("image", "quality", "seed", "aesthetics"), ("a.png", "1", "12", "7"))
        with pytest.warns(UserWarning, match=r"not read as scores: seed, aesthetics; .*dimensions=\['seed'\]"):
            assert load_database("folder", tmp_path).dimensions == ("quality",)

    @pytest.mark.parametrize(
        ("columns", "cells", "group"),
        [
            ("group,reference,prompt", ("g", "r.png", "p"), "g"),
            ("group,reference,prompt", ("", "r.png", "p"), "r.png"),
            ("group,reference,prompt", ("", "./x/../r.png", "p"), "r.png"),
            ("group,reference,prompt", ("", "", "two  words "), "two words"),
        ],
    )
    def test_the_group_is_the_first_there_is(
        self, columns: str, cells: tuple[str, ...], group: str, tmp_path: Path
    ) -> None:
        (tmp_path / "r.png").touch()
        self.write(tmp_path, ("image", "quality", *columns.split(",")), ("a.png", "1", *cells))
        assert load_database("folder", tmp_path).samples[0].group == group

    def test_the_manifest_may_lie_anywhere_below(self, tmp_path: Path) -> None:
        self.write(tmp_path / "sub", ("image", "quality"), ("a.png", "1"), name="ratings.csv")
        database = load_database("folder", tmp_path, manifest="sub/ratings.csv")
        assert database.samples[0].name == "sub/a.png"
        assert (
            load_database("folder", tmp_path / "sub").samples
            == load_database("folder", tmp_path / "sub" / "ratings.csv").samples
        )

    def test_several_tables_and_no_manifest(self, tmp_path: Path) -> None:
        for name in ("one.csv", "two.csv"):
            self.write(tmp_path, ("image", "quality"), ("a.png", "1"), name=name)
        message = error("folder", tmp_path)
        assert "manifest.csv: not there; expected a table with the column image" in message
        assert "holds: a.png, one.csv, two.csv" in message

    def test_an_overall_on_its_own_scale_is_no_sum(self, tmp_path: Path) -> None:
        header = ("image", "quality", "authenticity", "correspondence", "overall")
        self.write(tmp_path, header, ("a.png", "1", "2", "3", "50"), ("b.png", "3", "2", "1", "80"))
        ranges = dict.fromkeys(("quality", "authenticity", "correspondence"), (0, 5))
        assert load_database("folder", tmp_path, score_range=ranges).score_range["overall"] == (50.0, 80.0)

    def test_an_empty_path(self, tmp_path: Path) -> None:
        self.write(tmp_path, ("image", "quality"), ("a.png", "1"))
        with (tmp_path / "manifest.csv").open("a") as stream:
            stream.write(",2\n")
        assert "1 problem\n- manifest.csv: 1 cell of 'image' empty: row 3\n" in error("folder", tmp_path)

    def test_no_column_of_scores(self, tmp_path: Path) -> None:
        self.write(tmp_path, ("image", "qualty"), ("a.png", "1"))
        assert (
            "no column of scores (quality, authenticity, correspondence, overall, or another that `dimensions=` "
            "names); found: 'image', 'qualty'" in error("folder", tmp_path)
        )

    def test_ranges_as_given(self, originals: dict[str, Path]) -> None:
        ranges = dict.fromkeys(("quality", "authenticity", "correspondence"), (0, 5))
        database = load_database("folder", originals["folder"], score_range=ranges)
        assert database.score_range["quality"] == (0.0, 5.0)
        assert database.score_range["overall"] == (0.0, 15.0)
        own = {**ranges, "overall": (0, 100)}
        assert load_database("folder", originals["folder"], score_range=own).score_range["overall"] == (0.0, 100.0)
        with pytest.raises(ValueError, match="score range of 'quality' is 0 to 1, but scores are in"):
            load_database("folder", originals["folder"], score_range={"quality": (0, 1)})
        with pytest.raises(ValueError, match=r"score range of 'quality' is \(0, inf\); expected"):
            load_database("folder", originals["folder"], score_range={"quality": (0, float("inf"))})
        assert load_database("folder", originals["folder"], score_range=[0, 5]).score_range["quality"] == (0.0, 5.0)
        for wrong in ([0, 5, 6], 5, {"quality": 5}):
            with pytest.raises(ValueError, match=r"score range of 'quality' is .*; expected \(lowest, highest\)"):
                load_database("folder", originals["folder"], score_range=wrong)
        with pytest.raises(ValueError, match="a score range of 'beauty', which is not rated; rated: quality"):
            load_database("folder", originals["folder"], score_range={"beauty": (0, 1)})


class TestWrongLayouts:
    @pytest.mark.parametrize("name", ALL)
    def test_all_that_is_missing_is_named_at_once(self, name: str, tmp_path: Path) -> None:
        spec = database_info(name)
        (tmp_path / "something").touch()
        message = error(name, tmp_path)
        for where, what in spec.layout.items():
            assert f"- {where}: not there; expected {what}" in message
        assert message.startswith(f"{spec.title} in {tmp_path}: {counted(list(spec.layout), 'problem')}\n")
        assert "holds: something." in message
        assert message.endswith(spec.homepage)

    @pytest.mark.parametrize("name", ALL)
    def test_no_such_folder(self, name: str, tmp_path: Path) -> None:
        assert "no such folder" in error(name, tmp_path / "nowhere")

    def test_a_file_is_no_folder(self, originals: dict[str, Path]) -> None:
        assert "data.csv: is no folder" in error("agiqa-3k", originals["agiqa-3k"] / "data.csv")

    def test_missing_images_are_counted_and_the_first_named(self, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-3k")
        gone = sorted((root / "image").iterdir())[:7]
        for path in gone:
            path.unlink()
        message = error("agiqa-3k", root)
        named = ", ".join(f"image/{path.name}" for path in gone[:5])
        assert f"- data.csv: 7 of the 60 images missing: {named} and 2 more" in message

    def test_missing_image_prompts(self, copied: Callable[[str], Path]) -> None:
        root = copied("pku-i2iqa")
        (root / "Image_prompt" / "3.jpg").unlink()
        assert "1 of the 10 image prompts missing: Image_prompt/3.jpg" in error("pku-i2iqa", root)

    def test_a_missing_folder_is_named_once(self, copied: Callable[[str], Path]) -> None:
        root = copied("pku-i2iqa")
        shutil.rmtree(root / "Generated_image")
        message = error("pku-i2iqa", root)
        assert "1 problem\n- Generated_image/All/: not there" in message

    def test_names_listed_twice(self, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-3k")
        edit_csv(root / "data.csv", lambda rows: rows.append(rows[1]))
        assert "1 image listed more than once: image/AttnGAN_normal_000.jpg" in error("agiqa-3k", root)

    def test_other_double_rows_of_agiqa_1k_are_refused(self, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-1k")
        edit_xlsx(root / "AIGC_MOS_Zscore.xlsx", lambda sheet: sheet.append([cell.value for cell in sheet[2]]))
        assert "listed more than once: file/deepai_0_0_0_0.jpg" in error("agiqa-1k", root)

    @pytest.mark.parametrize(
        ("cell", "said"),
        [
            (None, "is empty"),
            ("  ", "is empty"),
            ("nan", "is 'nan'"),
            ("3,5", "is '3,5'"),
            ("inf", "is 'inf'"),
            (True, "is True"),
        ],
    )
    def test_labels_that_are_no_number(self, cell: Any, said: str, copied: Callable[[str], Path]) -> None:
        root = copied("pku-i2iqa")
        edit_xlsx(root / "I2IQA_annotation.xlsx", lambda sheet: sheet["E7"].__setattr__("value", cell))
        assert f"I2IQA_annotation.xlsx: 1 label of 'MOS_a' without a number: row 7 {said}\n" in error("pku-i2iqa", root)

    def test_numbers_may_be_text(self, copied: Callable[[str], Path]) -> None:
        root = copied("pku-i2iqa")
        edit_xlsx(root / "I2IQA_annotation.xlsx", lambda sheet: sheet["E7"].__setattr__("value", " 3.5 "))
        assert load_database("pku-i2iqa", root).samples[5].scores["authenticity"] == 3.5

    def test_an_empty_name(self, copied: Callable[[str], Path]) -> None:
        root = copied("pku-i2iqa")

        def clear(sheet: Any) -> None:
            sheet["A5"] = sheet["B9"] = None

        edit_xlsx(root / "I2IQA_annotation.xlsx", clear)
        message = error("pku-i2iqa", root)
        assert "2 problems" in message
        assert "1 cell of 'Generated_image' empty: row 5" in message
        assert "1 cell of 'Image_prompt' empty: row 9" in message

    def test_empty_rows_at_the_end_do_not_count_those_between_do(self, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-1k")
        edit_xlsx(root / "AIGC_MOS_Zscore.xlsx", lambda sheet: sheet.cell(60, 1, " "))
        assert len(load_database("agiqa-1k", root).samples) == 48
        edit_xlsx(root / "AIGC_MOS_Zscore.xlsx", lambda sheet: sheet.insert_rows(4))
        message = error("agiqa-1k", root)
        assert all(f"of '{column}' " in message for column in ("Image", "Prompt", "MOS"))
        assert message.count("row 4") == 3

    def test_a_spreadsheet_that_notes_a_wrong_size_is_read_whole(self, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-1k")
        path = root / "AIGC_MOS_Zscore.xlsx"
        with zipfile.ZipFile(path) as book:
            parts = {name: book.read(name) for name in book.namelist()}
        sheet = "xl/worksheets/sheet1.xml"
        parts[sheet] = re.sub(rb'<dimension ref="[^"]+"', b'<dimension ref="A1:B9"', parts[sheet])
        with zipfile.ZipFile(path, "w") as book:
            for name, content in parts.items():
                book.writestr(name, content)
        assert len(load_database("agiqa-1k", root).samples) == 48

    def test_missing_columns_with_the_nearest_there_are(self, copied: Callable[[str], Path]) -> None:
        root = copied("pku-i2iqa")

        def rename(sheet: Any) -> None:
            sheet["D1"], sheet["A1"] = "mos_Q", "Image"

        edit_xlsx(root / "I2IQA_annotation.xlsx", rename)
        message = error("pku-i2iqa", root)
        assert (
            "I2IQA_annotation.xlsx: no columns 'Generated_image', 'MOS_q' (nearest: 'mos_Q'); found: 'Image'" in message
        )

    def test_a_column_twice(self, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-3k")
        edit_csv(root / "data.csv", lambda rows: rows[0].__setitem__(2, "mos_align"))
        assert "data.csv: several columns are called 'mos_align'" in error("agiqa-3k", root)

    def test_a_row_with_too_many_cells(self, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-3k")
        edit_csv(root / "data.csv", lambda rows: rows[3].append("6"))
        assert "data.csv: 1 row with more cells than columns: row 4" in error("agiqa-3k", root)

    @pytest.mark.parametrize("content", [b"", b"name,prompt,mos_quality,mos_align\n"])
    def test_a_table_without_rows(self, content: bytes, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-3k")
        (root / "data.csv").write_bytes(content)
        message = error("agiqa-3k", root)
        assert "data.csv: no rows" in message or "found: none" in message

    @pytest.mark.parametrize(
        ("content", "said"), [(b"name,prompt\x81\n", "neither in UTF-8 nor"), (b'name,prompt\n"a,b\n', "not CSV")]
    )
    def test_a_file_that_is_no_csv(self, content: bytes, said: str, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-3k")
        (root / "data.csv").write_bytes(content)
        assert f"data.csv: {said}" in error("agiqa-3k", root)

    def test_a_byte_order_mark_is_no_part_of_a_name(self, copied: Callable[[str], Path]) -> None:
        root = copied("agiqa-3k")
        (root / "data.csv").write_bytes(b"\xef\xbb\xbf" + (root / "data.csv").read_bytes())
        assert len(load_database("agiqa-3k", root).samples) == 60

    @pytest.mark.parametrize("content", [b"", b"no spreadsheet", b"PK\x03\x04 broken"])
    def test_a_file_that_is_no_spreadsheet(self, content: bytes, copied: Callable[[str], Path]) -> None:
        root = copied("pku-i2iqa")
        (root / "I2IQA_annotation.xlsx").write_bytes(content)
        assert "I2IQA_annotation.xlsx: not a spreadsheet (.xlsx) that can be read" in error("pku-i2iqa", root)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"mos": np.ones((120, 1))}, "expected the key 'MOSz'; it holds: mos"),
            ({"MOSz": np.ones((120, 2))}, "expected MOSz as n x 1 numbers; got (120, 2) of float64"),
            ({"MOSz": np.ones((119, 1))}, "119 labels, but Image/allimg/ holds 120 images"),
            ({"MOSz": np.array([[1.0], [np.nan], *[[2.0]] * 118])}, "1 label without a number: MOSz(2) is nan"),
        ],
    )
    def test_matrices(self, content: dict[str, Any], said: str, copied: Callable[[str], Path]) -> None:
        root = copied("aigciqa2023")
        savemat(root / "DATA" / "MOS" / "mosz2.mat", content)
        assert f"1 problem\n- DATA/MOS/mosz2.mat: {said}" in error("aigciqa2023", root)

    def test_a_file_that_is_no_matrix(self, copied: Callable[[str], Path]) -> None:
        root = copied("aigciqa2023")
        (root / "DATA" / "MOS" / "mosz1.mat").write_bytes(b"nothing")
        assert "mosz1.mat: not a MATLAB file that can be read" in error("aigciqa2023", root)

    def test_images_of_aigciqa2023_without_a_gap(self, copied: Callable[[str], Path]) -> None:
        root = copied("aigciqa2023")
        (root / "Image" / "allimg" / "7.png").rename(root / "Image" / "allimg" / "120.png")
        (root / "Image" / "allimg" / "x.png").touch()
        message = error("aigciqa2023", root)
        assert "1 image missing: 7.png" in message
        assert "1 image not called by a number: x.png" in message
        shutil.rmtree(root / "Image" / "allimg")
        (root / "Image" / "allimg").mkdir()
        assert "no images (<number>.png)" in error("aigciqa2023", root)

    def test_lists_of_aigciqa2023_of_another_length(self, copied: Callable[[str], Path]) -> None:
        root = copied("aigciqa2023")
        edit_xlsx(root / "pic-index.xlsx", lambda sheet: sheet.delete_rows(120))
        edit_xlsx(root / "prompt.xlsx", lambda sheet: sheet.delete_rows(3, 117))
        message = error("aigciqa2023", root)
        assert "pic-index.xlsx: 119 rows, but Image/allimg/ holds 120 images" in message
        assert "prompt.xlsx: 3 prompts; expected one for each" in message

    def test_a_missing_package_names_the_extra(
        self, originals: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "openpyxl", None)
        with pytest.raises(MissingExtraError, match=r"need openpyxl: pip install 'aigciqa\[train\]'"):
            load_database("agiqa-1k", originals["agiqa-1k"])


def rated(groups: list[str], generators: list[str | None] | None = None, spec: DatabaseSpec = folder.SPEC) -> Database:
    """A database in memory, with a sample of each of these groups."""
    samples = tuple(
        Sample(f"/d/{index}.png", None, None, generator, group, {"quality": index / 7}, f"{index}.png")
        for index, (group, generator) in enumerate(zip(groups, generators or [None] * len(groups), strict=True))
    )
    return Database(pku_i2iqa.SPEC if generators else spec, Path("/d"), samples, {"quality": (0.0, 5.0)})


def names(part: tuple[Sample, ...]) -> list[str]:
    return [sample.name for sample in part]


def needed(folds: int) -> int:
    return 4 if folds == 2 else folds


GROUPS = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=60)


class TestProtocols:
    @given(groups=GROUPS, seed=st.integers(0, 2**32 - 1), folds=st.integers(2, 6), k_fold=st.booleans())
    @settings(deadline=None)
    def test_no_group_is_on_two_sides(self, groups: list[str], seed: int, folds: int, k_fold: bool) -> None:
        database = rated(groups)
        protocol, options = ("k-fold", {"folds": folds, "fold": folds - 1}) if k_fold else ("prompt-disjoint", {})
        if len(set(groups)) < needed(folds if k_fold else 3):
            with pytest.raises(ValueError, match="at least"):
                database.split(protocol, seed, **options)
            return
        split = database.split(protocol, seed, **options)
        sides = [{sample.group for sample in part} for part in (split.train, split.validation, split.test)]
        assert all(sides)
        assert sum(map(len, sides)) == len(set(groups))
        everything = names(split.train) + names(split.validation) + names(split.test)
        assert sorted(everything) == sorted(names(database.samples))
        assert not split.selected_on_test

    @given(groups=GROUPS, seed=st.integers(0, 99), folds=st.integers(2, 6))
    @settings(deadline=None)
    def test_every_sample_is_tested_in_one_fold(self, groups: list[str], seed: int, folds: int) -> None:
        database = rated(groups)
        assume(len(set(groups)) >= needed(folds))
        tested = [
            name for fold in range(folds) for name in names(database.split("k-fold", seed, folds=folds, fold=fold).test)
        ]
        assert sorted(tested) == sorted(names(database.samples))

    def test_prompt_disjoint_is_64_16_20_of_the_prompts(self) -> None:
        database = rated([str(index % 100) for index in range(400)])
        split = database.split()
        assert split.protocol == "prompt-disjoint"
        counts = [len({sample.group for sample in part}) for part in (split.train, split.validation, split.test)]
        assert counts == [64, 16, 20]
        assert database.split(seed=1).test != split.test
        fold = database.split("k-fold", fold=4)
        assert [len({sample.group for sample in part}) for part in (fold.train, fold.validation, fold.test)] == counts

    def test_the_order_of_the_files_does_not_change_the_sides(self) -> None:
        groups = [str(index % 10) for index in range(40)]
        forward, backward = rated(groups), rated(groups[::-1])
        assert {sample.group for sample in forward.split().test} == {sample.group for sample in backward.split().test}

    def test_paper_tests_every_fourth_row(self, originals: dict[str, Path]) -> None:
        for name in ("pku-i2iqa", "pku-aigiqa-4k"):
            database = load_database(name, originals[name])
            split = database.split("paper", seed=5)
            assert split.test == database.samples[3::4]
            assert split.train == tuple(s for i, s in enumerate(database.samples) if i % 4 != 3)
            assert split.validation == split.test
            assert split.selected_on_test
            assert split.seed is None

    @pytest.mark.parametrize("name", ["agiqa-1k", "agiqa-3k", "aigciqa2023"])
    def test_paper_shuffles_as_the_authors_do(self, name: str, originals: dict[str, Path]) -> None:
        database = load_database(name, originals[name])
        shuffled = names(database.samples)
        state = np.random.get_state()
        np.random.seed(1)
        np.random.shuffle(shuffled)
        np.random.set_state(state)
        split = database.split("paper")
        trained = int(len(shuffled) * 0.8)
        assert names(split.train) == shuffled[:trained]
        assert names(split.test) == shuffled[trained:]
        assert split.selected_on_test

    def test_the_shuffle_is_the_known_one(self) -> None:
        """Figures of `np.random.seed(1); x = list(range(10)); np.random.shuffle(x)`."""
        split = rated(list("abcdefghij"), spec=agiqa_3k.SPEC).split("paper")
        assert names(split.train + split.test) == [f"{index}.png" for index in (2, 9, 6, 4, 0, 3, 1, 7, 8, 5)]
        split = rated(list("abcdefghijkl"), spec=agiqa_3k.SPEC).split("paper")
        assert (len(split.train), len(split.test)) == (9, 3)

    def test_one_generator_and_one_after_the_other(self, originals: dict[str, Path]) -> None:
        database = load_database("pku-i2iqa", originals["pku-i2iqa"])
        made = {name: tuple(s for s in database.samples if s.generator == name) for name in ("MJ", "SD")}
        for protocol, samples in (("mj", made["MJ"]), ("sd", made["SD"])):
            split = database.split(protocol)
            assert split.test == samples[3::4]
            assert sorted(names(split.train + split.test)) == sorted(names(samples))
        assert database.split("sd-mj").train == database.split("mj-sd").test == made["SD"]
        assert database.split("sd-mj").test == database.split("mj-sd").train == made["MJ"]
        assert database.split("sd-mj").selected_on_test

    def test_a_protocol_the_database_does_not_have(self, originals: dict[str, Path]) -> None:
        with pytest.raises(ValueError, match="'agiqa-3k' has no protocol 'sd'; it has: prompt-disjoint, k-fold, paper"):
            load_database("agiqa-3k", originals["agiqa-3k"]).split("sd")
        with pytest.raises(ValueError, match="'folder' has no protocol 'paper'; it has: prompt-disjoint, k-fold"):
            rated(["a"]).split("paper")

    def test_a_generator_that_is_not_there(self) -> None:
        with pytest.raises(ValueError, match="'sd-mj' leaves nothing to test on"):
            rated(list("abcde"), ["SD"] * 5).split("sd-mj")
        with pytest.raises(ValueError, match="'mj' leaves nothing to train on"):
            rated(list("abcde"), ["SD"] * 5).split("mj")

    @pytest.mark.parametrize(
        ("options", "kind", "said"),
        [
            ({"seed": -1}, ValueError, "seed=-1: expected 0 to"),
            ({"seed": 1.5}, ValueError, "seed is an integer; got 1.5"),
            ({"seed": True}, ValueError, "seed is an integer; got True"),
            ({"folds": 3}, ValueError, "'prompt-disjoint' has no option 'folds'; it has none"),
            ({"protocol": "k-fold", "fold": 5}, ValueError, "`fold=5`: expected 0 to 4, for there are 5 folds"),
            ({"protocol": "k-fold", "folds": 1}, ValueError, "`folds=1`: expected 2 or more"),
            ({"protocol": "k-fold", "folds": 13}, ValueError, "13 folds need at least 13 prompts; there are 12 here"),
            ({"protocol": "k-fold", "folds": 2.5}, ValueError, "folds is an integer; got 2.5"),
            ({"protocol": "k-fold", "part": 1}, ValueError, "no option 'part'; its options: folds, fold"),
        ],
    )
    def test_wrong_options(self, options: dict[str, Any], kind: type[Exception], said: str) -> None:
        with pytest.raises(kind, match=said):
            rated(list("abcdefghijkl")).split(**options)


class TestSplitFiles:
    @pytest.fixture
    def split(self, originals: dict[str, Path]) -> Split:
        return load_database("folder", originals["folder"]).split("k-fold", seed=3, folds=np.int64(4), fold=1)

    def test_what_is_saved_is_loaded(self, split: Split, originals: dict[str, Path], tmp_path: Path) -> None:
        split.save(tmp_path / "split.json")
        again = Split.load(tmp_path / "split.json", load_database("folder", originals["folder"]))
        assert again == split
        assert again.digest == split.digest
        assert pickle.loads(pickle.dumps(split)) == split
        content = json.loads((tmp_path / "split.json").read_text())
        assert content["digest"] == split.digest
        assert content["protocol"] == "k-fold"
        assert content["seed"] == 3
        assert content["options"] == {"folds": 4, "fold": 1}
        assert content["test"] == names(split.test)
        assert list(tmp_path.iterdir()) == [tmp_path / "split.json"]
        assert split.digest[:12] in str(split)

    @pytest.mark.parametrize("name", ALL)
    def test_the_digest_is_the_same_wherever_the_database_lies(
        self, name: str, originals: dict[str, Path], copied: Callable[[str], Path]
    ) -> None:
        elsewhere = load_database(name, copied(name))
        here = load_database(name, originals[name])
        for protocol in here.protocols:
            assert here.split(protocol).digest == elsewhere.split(protocol).digest

    def test_the_digest_is_known(self) -> None:
        """Written down once: it must not change from machine to machine, nor from version to version."""
        assert (
            rated(list("abcdefghij")).split(seed=7).digest
            == "f9f27f7592faeaabeeda59e24b73f71eaa1aa52b5c666d412db07e42104cd7b7"
        )

    def test_the_digest_tells_labels_pairs_protocols_and_seeds_apart(self, copied: Callable[[str], Path]) -> None:
        root = copied("folder")
        digests = {load_database("folder", root).split(seed=seed).digest for seed in range(3)}
        digests.add(load_database("folder", root).split("k-fold").digest)
        edit_csv(root / "manifest.csv", lambda rows: rows[1].__setitem__(3, "2.25"))
        digests.add(load_database("folder", root).split().digest)
        shutil.copy(root / "prompts" / "0.png", root / "prompts" / "other.png")
        edit_csv(root / "manifest.csv", lambda rows: rows[1].__setitem__(1, "prompts/other.png"))
        digests.add(load_database("folder", root).split().digest)
        assert len(digests) == 6

    def test_altered_labels_or_files_are_refused(
        self, split: Split, originals: dict[str, Path], copied: Callable[[str], Path], tmp_path: Path
    ) -> None:
        path = tmp_path / "split.json"
        split.save(path)
        root = copied("folder")
        edit_csv(root / "manifest.csv", lambda rows: rows[1].__setitem__(3, "2.25"))
        with pytest.raises(DatabaseError, match=r"the labels in .* are not those it was made from"):
            Split.load(path, load_database("folder", root))
        content = json.loads(path.read_text())
        content["train"].append(content["test"].pop())
        path.write_text(json.dumps(content))
        with pytest.raises(DatabaseError, match=f"its digest is {split.digest}, but .* the file was altered"):
            Split.load(path, load_database("folder", originals["folder"]))

    def test_missing_samples_are_named(self, split: Split, copied: Callable[[str], Path], tmp_path: Path) -> None:
        split.save(tmp_path / "split.json")
        root = copied("folder")
        edit_csv(root / "manifest.csv", lambda rows: rows.__delitem__(1))
        with pytest.raises(DatabaseError, match=r"1 sample not in 'folder' in .*: images/0_0.png"):
            Split.load(tmp_path / "split.json", load_database("folder", root))

    def test_a_split_of_a_subset_says_so(self, originals: dict[str, Path], tmp_path: Path) -> None:
        root = originals["pku-aigiqa-4k"]
        load_database("pku-aigiqa-4k", root, subset="i2i").split().save(tmp_path / "split.json")
        with pytest.raises(DatabaseError, match=r"it was loaded with \{'subset': 't2i'\}"):
            Split.load(tmp_path / "split.json", load_database("pku-aigiqa-4k", root, subset="t2i"))

    def test_a_split_of_another_database(self, split: Split, originals: dict[str, Path], tmp_path: Path) -> None:
        split.save(tmp_path / "split.json")
        with pytest.raises(DatabaseError, match="a split of 'folder'; the database is 'agiqa-3k'"):
            Split.load(tmp_path / "split.json", load_database("agiqa-3k", originals["agiqa-3k"]))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda content: content.pop("train"), "'train' is missing or of the wrong type"),
            (lambda content: content.update(seed="0"), "'seed' is missing or of the wrong type"),
            (lambda content: content.update(format=2), "format 2; this version of aigciqa reads 1"),
            (lambda content: content["test"].append(content["test"][0]), "'test' lists .* twice"),
            (lambda content: content["test"].append(7), "'test' lists 7, which is no name"),
        ],
    )
    def test_files_that_are_no_split(
        self, change: Callable[[Any], object], said: str, split: Split, originals: dict[str, Path], tmp_path: Path
    ) -> None:
        path = tmp_path / "split.json"
        split.save(path)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        with pytest.raises(DatabaseError, match=said):
            Split.load(path, load_database("folder", originals["folder"]))

    @pytest.mark.parametrize(("text", "said"), [("{", "not a split"), ("[]", "got list"), (None, "No such file")])
    def test_files_that_are_no_json(self, text: str | None, said: str, tmp_path: Path) -> None:
        if text is not None:
            (tmp_path / "split.json").write_text(text)
        with pytest.raises(DatabaseError, match=said):
            Split.load(tmp_path / "split.json", rated(["a"]))


class TestDataset:
    spec = METRICS["fr-resnet18"].preprocess

    def test_items_are_preprocessed_images_and_targets(self, originals: dict[str, Path]) -> None:
        samples = load_database("pku-i2iqa", originals["pku-i2iqa"]).split().train
        data = ImageDataset(samples, ("overall", "quality"), self.spec, references=True)
        assert len(data) == len(samples)
        item = data[1]
        assert set(item) == {"image", "reference", "target"}
        assert item["image"].shape == item["reference"].shape == (3, 224, 224)
        assert item["image"].dtype == torch.uint8
        assert item["target"].dtype == torch.float32
        assert item["target"].tolist() == pytest.approx([samples[1].scores["overall"], samples[1].scores["quality"]])
        batch = next(iter(torch.utils.data.DataLoader(data, batch_size=3, num_workers=1)))
        assert batch["reference"].shape == (3, 3, 224, 224)
        assert "reference" not in ImageDataset(samples, ("quality",), self.spec)[0]

    def test_what_is_not_there_is_said_at_once(self, originals: dict[str, Path]) -> None:
        samples = load_database("agiqa-3k", originals["agiqa-3k"]).samples
        with pytest.raises(ValueError, match="is not rated for 'overall'; rated: quality, correspondence"):
            ImageDataset(samples, ("overall",), self.spec)
        with pytest.raises(ValueError, match="has no image prompt"):
            ImageDataset(samples, ("quality",), self.spec, references=True)
        with pytest.raises(ValueError, match="no samples"):
            ImageDataset((), ("quality",), self.spec)
        with pytest.raises(ValueError, match="no dimensions"):
            ImageDataset(samples, (), self.spec)


class TestLookalikes:
    def test_they_are_the_same_every_time(self, originals: dict[str, Path], tmp_path: Path) -> None:
        again = lookalikes.write_folder(tmp_path, size=16)
        for path in again.rglob("*.*"):
            assert path.read_bytes() == (originals["folder"] / path.relative_to(again)).read_bytes()

    def test_scores_are_functions_of_the_images(self) -> None:
        drawn = lookalikes.draw_rated(prompts=12, per_prompt=6)
        rows = drawn.rows()
        images = np.stack([image for _, _, image, _ in rows]).astype(float)
        prompts = np.stack([drawn.prompts[prompt] for prompt, *_ in rows]).astype(float)
        quality, authenticity, correspondence = np.stack([scores for *_, scores in rows]).T
        assert abs(np.corrcoef([quality, authenticity, correspondence])[np.triu_indices(3, 1)]).max() < 0.35
        tint, own = ((shown[..., 0] - shown[..., 2]).mean((1, 2)) for shown in (images, prompts))
        assert spearmanr(-abs(tint - own), correspondence).statistic > 0.98
        assert abs(spearmanr(tint, correspondence).statistic) < 0.1
        finest = images[:, 1:-1, 1:-1] - (images[:, 2:, 1:-1] + images[:, :-2, 1:-1]) / 2
        assert spearmanr(-np.median(abs(finest), axis=(1, 2, 3)), authenticity).statistic > 0.9
        coarse = images.reshape(len(rows), 16, 4, 16, 4, 3).mean((2, 4, 5))
        assert spearmanr(coarse.std((1, 2)), quality).statistic > 0.9
