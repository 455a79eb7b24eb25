"""Manifests as people have them: stray quotation marks, Excel, Windows, columns of their own, images in Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import aigciqa
from aigciqa.errors import MAX_ERROR, SourceError
from aigciqa.evaluation import PrecomputedScores
from aigciqa.records import Record
from aigciqa.report import thumbnails
from aigciqa.scoring.sinks import FileSink
from aigciqa.scoring.sources import open_sources, opened
from aigciqa.tables.columns import columns_of, to_row
from aigciqa.tables.csv_text import csv_line, csv_lines, plain, protected
from aigciqa.tables.formats import read_rows, write_rows
from aigciqa.tables.scores import read_table
from aigciqa.utils import object_stores
from tests.conftest import Watch, call_command

Write = Callable[..., list[str]]
LITE = ("-m", "nr-lite")
NAMES = [f"p{index}.png" for index in range(6)]


@pytest.fixture
def folder(write_images: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images, in the current folder."""
    write_images(".", *NAMES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scored(*arguments: str, status: int = 0) -> list[dict[str, str]]:
    done = call_command(*arguments, *LITE)
    assert done.returncode == status, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout, newline="")))


def items(path: str | Path) -> Iterator[aigciqa.Item]:
    (source,) = open_sources([str(path)], io.BytesIO(), {})
    return (each.item for found in source() for each in opened(found))


class TestQuotationMarks:
    @pytest.mark.parametrize(
        ("lines", "text"),
        [
            (["p0.png,a cat", 'p1.png,"the 27" screen'], "line 3: a quotation mark inside a cell"),
            (["p0.png,a cat", 'p1.png,"a dog'], "line 3: a quotation mark that begins a cell here is never closed"),
            (['"p0.png,a cat', "p1.png,x"], "line 2: a quotation mark that begins a cell here is never closed"),
            (['p0.png,"a cat', 'p1.png,x"'], "line 2: a cell holds what looks like rows of the file"),
            (['p0.png,"a cat', 'p1.png,"'], "line 2: a cell holds what looks like rows of the file"),
            (["p0.png,a cat", "p1.png,a dog, asleep"], "line 3 has 3 cells, the header 2"),
            (["p0.png,a\0cat", "p1.png,x"], "line 2: NUL"),
        ],
    )
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_rows_that_would_be_lost_are_named(self, folder: Path, lines: list[str], text: str, end: str) -> None:
        (folder / "m.csv").write_bytes(
            end.join(["image,prompt", *lines, *(f"{name},x" for name in NAMES[2:]), ""]).encode()
        )
        done = call_command("m.csv", "-o", "s.csv", *LITE)
        assert done.returncode == 2
        assert f"m.csv: {text}" in " ".join(done.stderr.split())
        assert not (folder / "s.csv").exists()

    @pytest.mark.parametrize(
        ("header", "row"), [("image", '"p0.png\np1.png"'), ("prompt,image", '"a,p0.png\nb",p1.png')]
    )
    def test_in_other_columns(self, tmp_path: Path, header: str, row: str) -> None:
        (tmp_path / "m.csv").write_text(f"{header}\n{row}\n")
        with pytest.raises(SourceError, match="line 2: a cell holds what looks like rows"):
            next(items(tmp_path / "m.csv"))

    @pytest.mark.parametrize(
        "row",
        [
            'p0.png,"a cat\np1.png,a dog",7',  # rows of two cells; the last mark belongs to a third
            'p0.png,"a cat\np1.png,a dog"',
            'p0.png,"a cat,1\np1.png,a dog,2\nx",7',
            'p0.png,"a cat,1\np1.png,a dog,2\np2.png,a tree",3',
        ],
    )
    def test_in_tables_with_more_columns(self, tmp_path: Path, row: str) -> None:
        (tmp_path / "m.csv").write_text(f"image,prompt,n\n{row}\n")
        with pytest.raises(SourceError, match="line 2: a cell holds what looks like rows"):
            next(items(tmp_path / "m.csv"))

    @pytest.mark.parametrize("prompt", ["a fox\nphoto.png, by night", "a fox\nphoto.png, by night, of it\nby x"])
    def test_a_line_that_begins_with_a_name_is_none(self, tmp_path: Path, prompt: str) -> None:
        with open(tmp_path / "m.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("image", "group", "n", "prompt"), ("p0.png", "", "", prompt)])
        (item,) = items(tmp_path / "m.csv")
        assert item.extra["prompt"] == prompt

    def test_text_with_line_breaks_and_quotation_marks_is_read(self, tmp_path: Path) -> None:
        prompts = ['a "27 inch" screen', "a cat,\non a mat, asleep\n", 'p1.png is "it"', ""]
        with open(tmp_path / "m.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("image", "prompt"), *(("new\nline, a.png", prompt) for prompt in prompts)])
        found = list(items(tmp_path / "m.csv"))
        assert [item.extra["prompt"] for item in found] == [prompt.strip() or None for prompt in prompts]
        assert {item.image for item in found} == {str(tmp_path / "new\nline, a.png")}

    def test_a_table_read_by_the_other_commands(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text('image,metric,quality,error\na.png,m,1,\nb.png,m,2,"\nc.png,m,3,\n')
        with pytest.raises(SourceError, match="line 3: a quotation mark that begins a cell here is never closed"):
            list(read_table(tmp_path / "t.csv").rows)


class TestExcelAndWindows:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_a_manifest_as_it_is_saved_there(
        self, folder: Path, write_images: Write, encoding: str, delimiter: str
    ) -> None:
        write_images("gen", "é.png", "b.png")
        rows = [
            (" image ", "group", "seed", "", "note"),
            ("gen\\é.png", "é ", " 7 ", "", ""),
            (" gen\\b.png ", "g", "8"),
        ]
        text = "".join(delimiter.join(row) + "\r\n" for row in rows)
        (folder / "m.csv").write_bytes(text.encode(encoding))
        found = list(items("m.csv"))
        assert [(item.image, item.group) for item in found] == [("gen/é.png", "é"), ("gen/b.png", "g")]
        assert [dict(item.extra) for item in found] == [{"seed": "7", "note": None}, {"seed": "8", "note": None}]
        assert [row["error"] for row in scored("m.csv")] == ["", ""]

    def test_names_as_the_disk_has_them(self, folder: Path, write_images: Write) -> None:
        write_images("gen", "e\u0301.png", " blank.png", "back\\slash.png")
        (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "p0.png").read_bytes())
        names = [
            "gen/\xe9.png",
            "gen/ blank.png",
            "gen/back\\slash.png",
            os.fsdecode(b"caf\xe9.png"),
            " no\\where.png ",
        ]
        with open("m.csv", "w", errors="surrogateescape") as stream:
            stream.write("\n".join(["image", *names]))
        assert [item.image for item in items("m.csv")] == [
            "gen/e\u0301.png", "gen/ blank.png", "gen/back\\slash.png", os.fsdecode(b"caf\xe9.png"), "no\\where.png",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            ("image,prompt\na.png,x\n".encode("utf-16-le"), "line 1: NUL: a damaged file, or UTF-16 without its mark"),
            (b"image,seed,seed\na.png,1,2\n", "two columns 'seed': rename one"),
            (b"image,image\na.png,b.png\n", "two columns 'image': rename one"),
            ("image,prompt\na.png,x\n".encode("utf-16")[:-1], "truncated data"),
            ("image".encode("utf-16")[:-1], "m.csv: line 1: .*truncated data"),
            (b"sep=;\r\nimage;prompt\r\n", "no column 'image'; it has: sep=;"),
        ],
    )
    def test_what_can_not_be_read_is_named(self, tmp_path: Path, data: bytes, text: str) -> None:
        (tmp_path / "m.csv").write_bytes(data)
        with pytest.raises(SourceError, match=text):
            next(items(tmp_path / "m.csv"))


class TestOtherColumns:
    ROWS = (
        {"image": "p0.png", "prompt": " a cat ", "seed": 11, "quality": 4.5, "error": None, "ok": True},
        {"image": "p1.png", "prompt": "=1+1", "seed": None, "quality": None, "error": "x", "ok": False},
    )

    def manifest(self, suffix: str) -> str:
        path = f"m.{suffix}"
        if suffix == "csv":
            Path(path).write_text(
                csv_lines([{**row, "ok": str(row["ok"]).lower()} for row in self.ROWS], list(self.ROWS[0]))
            )
        elif suffix == "jsonl":
            Path(path).write_text("".join(json.dumps(row) + "\n" for row in self.ROWS))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(self.ROWS)), path)
        return path

    @pytest.mark.parametrize("given", ["csv", "jsonl", "parquet"])
    @pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
    def test_they_come_after_the_error(self, folder: Path, given: str, suffix: str) -> None:
        arguments = [self.manifest(given), "p2.png", "-o", f"s.{suffix}", *LITE]
        done = call_command(*arguments)
        assert done.returncode == 0, done.stderr
        rows: list[Any] = list(read_rows(f"s.{suffix}"))
        columns = ["image", "reference", "group", "metric", "quality", "error"]
        assert list(rows[0]) == [*columns, "prompt", "seed", "quality_given", "error_given", "ok"]
        assert [[row[name] or None for name in list(row)[6:]] for row in rows] == [
            ["a cat", "11", "4.5", None, "true"], ["=1+1", None, None, "x", "false"], [None] * 5,
        ]  # fmt: skip
        before = Path(f"s.{suffix}").read_bytes()
        if suffix in ("csv", "jsonl"):
            Path(f"s.{suffix}").write_bytes(b"".join(before.splitlines(keepends=True)[:2]))
        done = call_command(*arguments, "--resume")
        assert (done.returncode, "resuming after" in done.stderr) == (0, True), done.stderr
        assert Path(f"s.{suffix}").read_bytes() == before

    def test_what_they_say_is_compared_on_resuming(self, folder: Path) -> None:
        Path("m.csv").write_text("image,seed\np0.png,1\np1.png,2\n")
        assert call_command("m.csv", "-o", "s.csv", *LITE).returncode == 0
        Path("m.csv").write_text("image,seed\np0.png,1\np1.png,3\n")
        done = call_command("m.csv", "-o", "s.csv", *LITE, "--resume")
        assert (done.returncode, "with seed '2', this run seed '3'" in done.stderr) == (2, True), done.stderr

    def test_a_table_of_scores_brings_its_other_columns_alone(self, folder: Path) -> None:
        Path("m.csv").write_text("image,seed\np0.png,1\n")
        assert call_command("m.csv", "-o", "s.csv", *LITE).returncode == 0
        assert scored("s.csv") == list(csv.DictReader(Path("s.csv").read_text().splitlines()))

    def test_lone_surrogates_of_json(self, folder: Path) -> None:
        Path("m.jsonl").write_text(r'{"image": "p0.png", "group": "\ud800", "a": "\ud800", "\ud800": 1}' + "\n")
        for suffix in ("csv", "jsonl", "json", "parquet"):
            assert call_command("m.jsonl", "-o", f"s.{suffix}", *LITE).returncode == 0
            (row,) = read_rows(f"s.{suffix}")
            assert isinstance(row, dict)
            assert (row["group"], row["a"]) == (r"\ud800", r"\ud800")
            assert list(row)[6:] == ["a"]

    def test_nested_and_endless_json_is_an_error_row(self, folder: Path) -> None:
        Path("m.jsonl").write_text("[" * 100_000 + "\n" + '{"image": "p0.png"}\n')
        assert [bool(item.error) for item in items("m.jsonl")] == [True, False]
        Path("m.jsonl").write_text("".join(json.dumps({"image": "a", str(n): n}) + "\n" for n in range(1001)))
        with pytest.raises(SourceError, match="more than 1000 columns"):
            next(items("m.jsonl"))


class TestImagesInParquet:
    def test_what_the_hub_has_is_scored(self, folder: Path) -> None:
        contents = [Path(name).read_bytes() for name in NAMES[:4]]
        cells = [
            {"bytes": content, "path": name}
            for content, name in zip(contents, ("a.png", None, "", "p3.png"), strict=True)
        ]
        cells[3]["bytes"] = None  # the path is all there is
        images = pyarrow.array(cells, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))
        table = pyarrow.table({"image": images, "prompt": list("abcd"), "mask": contents, "list": [[1]] * 4})
        pyarrow.parquet.write_table(table, "hf.parquet")
        rows = scored("hf.parquet")
        assert [row["image"] for row in rows] == ["a.png", "hf.parquet#2", "hf.parquet#3", "p3.png"]
        assert [row["quality"] for row in rows] == [row["quality"] for row in scored(*NAMES[:4])]
        assert list(rows[0])[6:] == ["prompt"]

    def test_plain_bytes_and_references(self, folder: Path) -> None:
        contents = [Path(name).read_bytes() for name in NAMES[:3]]
        pyarrow.parquet.write_table(
            pyarrow.table({"image": contents, "reference": [*contents[:2], None]}), "hf.parquet"
        )
        done = call_command("hf.parquet", "-m", "fr-lite", "-o", "s.jsonl")
        assert done.returncode == 1
        rows = [json.loads(line) for line in Path("s.jsonl").read_text().splitlines()]
        assert [(row["image"], row["reference"]) for row in rows] == [
            ("hf.parquet#1", "hf.parquet#1"), ("hf.parquet#2", "hf.parquet#2"), ("hf.parquet#3", None),
        ]  # fmt: skip
        assert [row["quality"] is not None for row in rows] == [True, True, False]

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        size, count = 1 << 20, 48
        table = pyarrow.table({"image": [random.Random(n).randbytes(size) for n in range(count)]})
        pages = {"data_page_size": size, "write_batch_size": 1, "use_dictionary": False}
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet", **pages)
        del table
        before = pyarrow.total_allocated_bytes()
        held = [pyarrow.total_allocated_bytes() - before for _ in items(tmp_path / "a.parquet")]
        assert len(held) == count
        assert max(held) < 16 * size


class TestErrors:
    def test_none_is_longer_than_500_characters(self, folder: Path) -> None:
        Path("m.jsonl").write_text(json.dumps({"image": ["x" * 100_000]}) + "\n")
        Path("m.csv").write_text("a" * 100_000 + ",b\n")
        (row,) = scored("m.jsonl", status=1)
        assert len(row["error"]) == MAX_ERROR == 500
        assert row["error"].startswith("m.jsonl: row 1: 'image' is ['xxx")
        assert row["error"].endswith("expected text")
        done = call_command("m.csv", *LITE)
        assert (done.returncode, len(done.stderr) < 1000) == (2, True)
        for each in (Record("", None, None, "m", error="e" * 600), aigciqa.Item("", error="e" * 600)):
            assert each.error is not None
            assert len(each.error) == 500
        assert len(aigciqa.Item("", reference_error="e" * 600).reference_error or "") == 500


class TestFormulas:
    """A cell that a spreadsheet would compute is written with an apostrophe, which is taken off when it is read."""

    ODD = (
        "=1+1",
        "+1",
        "-o.png",
        "@SUM(A1)",
        "\tx",
        "\rx",
        "\nx",
        " =1",
        "＝1",
        "'=1",
        "''-",
        "'",
        "'a",
        "a=b",
        "",
        "é",
    )

    def test_any_text_comes_back(self) -> None:
        letters = "'=+-@\t\r\n a＝,\";"
        texts = ["".join(each) for length in range(5) for each in itertools.product(letters, repeat=length)]
        assert [plain(protected(text)) for text in texts] == texts
        begins = {written[0] for written in map(protected, texts) if written}
        assert not begins & set("=+-@\t\r\n＝")
        assert not any(protected(text).lstrip()[:1] in set("=+-@＝") for text in texts if text)

    def test_control_characters_come_back_and_nul_is_an_escape(self, tmp_path: Path) -> None:
        """In every table, whatever wrote it: NUL in a file is damage."""
        texts = [
            f"{before}{chr(code)}b" for code in (*range(1, 32), 0x7F, 0x85, 0x2028, 0xFEFF) for before in ("", "a")
        ]
        given, expected = [*texts, "a\0b", "\0=1", "=\0"], [*texts, r"a\x00b", r"\x00=1", r"=\x00"]
        path, columns = tmp_path / "t.csv", columns_of(["quality"], ["prompt"])
        rows = [dict.fromkeys(columns) | {"image": "a.png", "metric": "m", "prompt": text} for text in given]
        write_rows(path, rows, columns, ".csv")
        assert [row["prompt"] for row in read_rows(path) if isinstance(row, dict)] == expected

    def test_numbers_are_left_alone(self) -> None:
        assert csv_line([-1.5, None, "-1.5", "-a"]) == "-1.5,,-1.5,'-a\n"

    def test_tables_of_scores(self, tmp_path: Path) -> None:
        path, columns = tmp_path / "t.csv", columns_of(["quality"], ["=cmd"])
        rows = [
            to_row(Record(f"{odd}.png", odd, odd, "m", {"quality": -1.0}, odd, extra={"=cmd": odd}), columns)
            for odd in self.ODD
        ]
        sink = FileSink(str(path), columns, {"format": 1})
        sink.start()
        sink.write(rows)
        sink.close()
        cells = [cell for row in csv.reader(io.StringIO(path.read_text(), newline="")) for cell in row]
        assert not any(cell[:1] in ("=", "+", "@", "\t", "\r") for cell in cells)
        assert {cell for cell in cells if cell.startswith("-")} == {"-1.0"}
        expected = [{name: cell or None for name, cell in row.items()} for row in rows]
        assert [{name: cell or None for name, cell in row.items()} for row in read_rows(str(path))] == [
            {name: None if cell is None else str(cell) for name, cell in row.items()} for row in expected
        ]
        again = FileSink(str(path), columns, {"format": 1})
        assert list(again.recover(iter(rows), 1)) == expected
        again.close()
        assert [row["image"] for row in PrecomputedScores.read(path).rows] == [row["image"].strip() for row in rows]

    def test_manifests(self, folder: Path, write_images: Write) -> None:
        write_images("gen", "-a.png", "=b.png", "'=c.png")
        for name in ("-a.png", "=b.png", "'=c.png"):
            os.rename(Path("gen") / name, name)
        Path("m.csv").write_text("image\n'-a.png\n=b.png\n''=c.png\n")
        assert [item.image for item in items("m.csv")] == ["-a.png", "=b.png", "'=c.png"]
        assert [row["image"] for row in scored("m.csv")] == ["'-a.png", "'=b.png", "''=c.png"]


class TestAddresses:
    """A manifest names objects in stores, not the hosts to ask."""

    @pytest.mark.parametrize(
        ("url", "allowed"),
        [
            ("s3://bucket/a?b=c#d.png", True),
            ("gs://bucket/a.png", True),
            ("abfss://box@account.dfs.core.windows.net/a.png", True),
            ("file:///tmp/a.png", True),
            ("gen/a?b.png", True),
            ("s3://b?scheme=http&endpoint_override=127.0.0.1:9/x.png", False),
            ("gs://b?endpoint_override=127.0.0.1:9/x.png", False),
            ("s3://key:secret@bucket/x.png", False),
            ("s3://b%3Fscheme=http/x.png", False),
            ("s3://b#f/x.png", False),
            ("abfss://box@account.example.com/a.png", False),
            ("hdfs://host:8020/a.png", False),
        ],
    )
    def test_what_may_be_named(self, url: str, allowed: bool) -> None:
        assert (object_stores.refusal(url) is None) == allowed

    @pytest.mark.parametrize("column", ["image", "reference"])
    def test_nothing_is_asked(self, folder: Path, watch: Watch, column: str) -> None:
        watch(object_stores, "resolve", AssertionError("a store was asked"))
        url = "s3://b?scheme=http&endpoint_override=127.0.0.1:9/x.png"
        Path("m.jsonl").write_text(json.dumps({"image": "p0.png", column: url}) + "\n")
        (row,) = scored("m.jsonl", status=1)
        assert "only a URL on the command line may say more than a bucket" in row["error"]
        done = call_command("-", *LITE, stdin=f"{url}\n".encode())
        assert (done.returncode, "only a URL on the command line" in done.stdout) == (1, True)

    def test_a_report_of_a_table_asks_nobody(self, watch: Watch) -> None:
        asked = watch(thumbnails, "read_content")
        assert thumbnails.thumbnail("s3://b?scheme=http&endpoint_override=127.0.0.1:9/x.png") == b""
        assert asked == []

    def test_neither_do_data_sets_on_ray(self) -> None:
        from aigciqa.integrations.ray import _items

        rows = {"image": ["s3://b?scheme=http/x.png", "a.png", b"x"], "path": [None, None, "s3://b?x/y.png"]}
        errors = [item.error for item in _items({name: np.array(cells, object) for name, cells in rows.items()})]
        assert [error is not None and "only a URL on the command line" in error for error in errors] == [
            True, False, False,
        ]  # fmt: skip
