"""Manifests of rated images as other programs write them: Excel's, Windows', macOS's, the Hugging Face Hub's."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import aigciqa
from aigciqa.cli.train import main as command
from aigciqa.databases import Database, load_database
from aigciqa.evaluation import predict
from aigciqa.images.decode import load_image
from tests.conftest import draw, png
from tests.test_archives import READ


def folder(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(seed, 8, 8))
    return root


class TestText:
    @pytest.mark.parametrize(
        "content",
        [
            "image,prompt,quality\na/é.png,ein Käse,3.8\nb.png,,2.25\n".encode(),
            "\ufeffimage,prompt,quality\r\na/é.png,ein Käse,3.8\r\nb.png,,2.25\r\n".encode(),
            "image;prompt;quality\r\na/é.png;ein Käse;3,8\r\nb.png;;2,25\r\n".encode("cp1252"),
            "\ufeffimage;prompt;quality\r\na\\é.png;ein Käse;3,8\r\nb.png;;2,25\r\n".encode(),
            "image\tprompt\tquality\r\na\\é.png\tein Käse\t3,8\r\nb.png\t\t2,25\r\n".encode("utf-16"),
            b'image,prompt,quality\r\n"a\\\xe9.png","ein K\xe4se","3,8"\r\n"b.png","","2,25"\r\n',
        ],
        ids=["plain", "with a mark", "Windows", "semicolons", "Unicode text", "quoted"],
    )
    def test_read_alike(self, content: bytes, tmp_path: Path) -> None:
        folder(tmp_path, "a/é.png", "b.png")
        (tmp_path / "manifest.csv").write_bytes(content)
        first, second = load_database("folder", tmp_path).samples
        assert (first.image, first.prompt, first.scores["quality"]) == (str(tmp_path / "a" / "é.png"), "ein Käse", 3.8)
        assert (second.prompt, second.scores["quality"]) == (None, 2.25)
        assert (first.name, second.name) == ("a/é.png", "b.png")

    @pytest.mark.parametrize(
        ("cells", "wrong"),
        [
            (("1,165", "1,623"), "2 labels of 'quality' without a number: row 2 is '1,165', row 3 is '1,623'"),
            (("3,8", "2.5"), "1 label of 'quality' without a number: row 2 is '3,8'"),
            (("1.234,5", "2,5"), "2 labels of 'quality' without a number: row 2 is '1.234,5', row 3 is '2,5'"),
        ],
    )
    def test_commas_that_may_mean_something_else_are_refused(
        self, cells: tuple[str, str], wrong: str, tmp_path: Path
    ) -> None:
        folder(tmp_path, "a.png", "b.png")
        (tmp_path / "manifest.csv").write_text(f"image\tquality\na.png\t{cells[0]}\nb.png\t{cells[1]}\n")
        with pytest.raises(aigciqa.DatabaseError, match=f"manifest.csv: {wrong}"):
            load_database("folder", tmp_path)

    def test_a_stray_quotation_mark_loses_no_rows(self, tmp_path: Path) -> None:
        folder(tmp_path, *(f"{number}.png" for number in range(4)))
        rows = ["image,prompt,quality", '0.png,"a 27 inch screen,1', "1.png,b,2", '2.png,a 27" screen,3', "3.png,d,4"]
        (tmp_path / "manifest.csv").write_text("\n".join(rows))
        with pytest.raises(aigciqa.DatabaseError, match=r"manifest.csv: not CSV: line 2: .*quotation mark"):
            load_database("folder", tmp_path)

    @pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
    def test_names_are_found_in_either_form_of_unicode(self, written: str, stored: Any, tmp_path: Path) -> None:
        name, prompt = "café crème.png", "prompts/où.png"
        root = tmp_path / unicodedata.normalize(stored, "données")
        folder(root, unicodedata.normalize(stored, name), unicodedata.normalize(stored, prompt))
        row = ",".join(unicodedata.normalize(written, each) for each in (name, prompt))  # type: ignore[arg-type]
        (root / "manifest.csv").write_text(f"image,reference,quality\n{row},3\n", encoding="utf-8")
        (sample,) = load_database("folder", root).samples
        assert [load_image(path).size for path in (sample.image, str(sample.reference))] == [(8, 8), (8, 8)]

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_damage_is_read_or_refused(self, data: st.DataObject, tmp_path: Path) -> None:
        folder(tmp_path, "a.png", "b.png", "é.png")
        content = bytearray('image;prompt;quality\r\na.png;"x;y";1,5\r\nb.png;é;2\r\né.png;;3,25\r\n'.encode())
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        (tmp_path / "manifest.csv").write_bytes(content)
        try:
            samples = load_database("folder", tmp_path).samples
        except aigciqa.DatabaseError:
            return
        assert all(Path(sample.image).is_file() for sample in samples)
        assert all(sample.prompt is None or sample.prompt.encode() for sample in samples)


#: How the Hub, `datasets` and others keep images in Parquet: what becomes a cell of each, and the type of the column.
HUB = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
KINDS: dict[str, tuple[Callable[[int], Any], pyarrow.DataType]] = {
    "bytes and path": (lambda number: {"bytes": png(number), "path": f"train/p{number}.png"}, HUB),
    "bytes without path": (lambda number: {"bytes": png(number), "path": None}, HUB),
    "bytes alone": (png, pyarrow.binary()),
    "large bytes": (png, pyarrow.large_binary()),
}
COUNT = 24


def hub_table(path: Path, kind: str = "bytes and path", group: int = 7, references: bool = False) -> Path:
    cell, cell_type = KINDS[kind]
    columns = {
        "image": pyarrow.array([cell(number) for number in range(COUNT)], cell_type),
        "quality": pyarrow.array([1.0 + number % 5 for number in range(COUNT)]),
        "prompt": pyarrow.array([f"prompt {number % 6}" for number in range(COUNT)]),
        "embedding": pyarrow.array([[0.5, 0.25]] * COUNT),
    }
    if references:
        columns["reference"] = pyarrow.array([cell(100 + number % 6) for number in range(COUNT)], cell_type)
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def pixels(path: str) -> np.ndarray:
    return np.asarray(load_image(path))


class TestParquet:
    @pytest.mark.parametrize("kind", KINDS)
    def test_images_inside_are_those_that_were_put_there(self, kind: str, tmp_path: Path) -> None:
        database = load_database("folder", hub_table(tmp_path / "db" / "hub.parquet", kind, references=True))
        assert len(database.samples) == COUNT
        assert database.score_range == {"quality": (1.0, 5.0)}
        for number in (0, 23, 5, 6, 7, 22, 1):  # back and forth, within row groups and between them
            sample = database.samples[number]
            assert np.array_equal(pixels(sample.image), draw(70, 80, seed=number))
            assert np.array_equal(pixels(str(sample.reference)), draw(70, 80, seed=100 + number % 6))
        first = database.samples[0]
        called = "/p0.png" if kind == "bytes and path" else ""
        assert first.name == f"hub.parquet/image/0{called}"

    def test_threads_read_what_they_ask_for(self, tmp_path: Path) -> None:
        samples = load_database("folder", hub_table(tmp_path / "hub.parquet", group=100)).samples
        wrong: list[int] = []

        def read(start: int) -> None:
            for number in range(start, COUNT, 3):
                if not np.array_equal(pixels(samples[number].image), draw(70, 80, seed=number)):
                    wrong.append(number)

        threads = [threading.Thread(target=read, args=(start,)) for start in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    @pytest.mark.slow
    def test_scored_evaluated_and_trained_on_like_files(self, tmp_path: Path) -> None:
        hub = load_database("folder", hub_table(tmp_path / "hub" / "hub.parquet"))
        (tmp_path / "files").mkdir()
        for number in range(COUNT):
            (tmp_path / "files" / f"p{number}.png").write_bytes(png(number))
        rows = [f"p{number}.png,{1.0 + number % 5},prompt {number % 6}" for number in range(COUNT)]
        (tmp_path / "files" / "manifest.csv").write_text("\n".join(["image,quality,prompt", *rows]))
        files = load_database("folder", tmp_path / "files")

        def scores(database: Database) -> list[float]:
            (found,) = predict({"lite": "nr-lite"}, database.samples, workers=2)
            assert set(found.errors) == {None}
            return list(found.scores["quality"])

        assert scores(hub) == scores(files)
        arguments = ["-m", "nr-resnet18", "--start", "none", "--frozen", "--epochs", "1", "--device", "cpu", "--quiet"]
        for name in ("hub", "files"):
            run = ["folder", str(tmp_path / name), *arguments, "--cache", str(tmp_path / "cache"), "-o"]
            done = CliRunner().invoke(command, [*run, str(tmp_path / f"{name} head")])
            assert done.exit_code == 0, done.output
        one, other = (tmp_path / f"{name} head" / "model.safetensors" for name in ("hub", "files"))
        assert one.read_bytes() == other.read_bytes()

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        path = hub_table(tmp_path / "hub.parquet")
        for inside, problem in {
            "image/99": "no row 99: there are 24",
            "other/3": "no images in the column 'other'",
            "quality/3": "row 3 has no image in the column 'quality'",
        }.items():
            with pytest.raises(aigciqa.ImageError, match=rf"{inside}: {problem}"):
                load_image(path / inside)
        with pytest.raises(aigciqa.ImageError, match=r"hub.parquet/image/x: "):
            load_image(path / "image" / "x")
        (tmp_path / "torn.parquet").write_bytes(path.read_bytes()[:-100])
        with pytest.raises(aigciqa.DatabaseError, match=r"torn.parquet: not Parquet that can be read"):
            load_database("folder", tmp_path / "torn.parquet")

    def test_without_pyarrow_an_image_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = hub_table(tmp_path / "hub.parquet")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(aigciqa.ImageError, match=r"hub.parquet/image/3: .*pip install 'aigciqa\[parquet\]'"):
            load_image(path / "image" / "3")

    def test_a_changed_file_is_read_anew(self, tmp_path: Path) -> None:
        path = hub_table(tmp_path / "hub.parquet")
        assert np.array_equal(pixels(str(path / "image" / "3")), draw(70, 80, seed=3))
        table = parquet.read_table(path)
        parquet.write_table(table.slice(1), path)
        assert np.array_equal(pixels(str(path / "image" / "3")), draw(70, 80, seed=4))

    def test_paths_in_parquet_are_files(self, tmp_path: Path) -> None:
        folder(tmp_path, "a.png", "b.png")
        table = pyarrow.table({"image": ["a.png", "b.png"], "quality": [1, 2]})
        parquet.write_table(table, tmp_path / "manifest.parquet")
        samples = load_database("folder", tmp_path).samples
        assert [sample.image for sample in samples] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]

    def test_an_image_of_many_rows_is_not_held_for_each(self, tmp_path: Path) -> None:
        """A file of a few KiB, whose 200 rows share an image of 16 MiB, in a process with 1 GiB."""
        content = png(1) + bytes(2**24)
        shared = pyarrow.DictionaryArray.from_arrays(
            pyarrow.array([0] * 200, pyarrow.int32()), pyarrow.array([content], pyarrow.binary())
        )
        parquet.write_table(
            pyarrow.table({"image": shared}), tmp_path / "a.parquet", compression="zstd", store_schema=False,
            dictionary_pagesize_limit=2**30,
        )  # fmt: skip
        assert (tmp_path / "a.parquet").stat().st_size < 100_000
        done = subprocess.run(
            [sys.executable, "-c", READ, str(2**30), str(tmp_path / "a.parquet")],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line)[1:] for line in done.stdout.splitlines()]
        assert rows == [[len(content), None]] * 200
