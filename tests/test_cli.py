"""`aigciqa score`: sources, references, tables, exit statuses, resuming."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from click.testing import CliRunner

import aigciqa
from aigciqa.cli import score
from tests.conftest import COMMAND, call_command, untrained

Write = Callable[..., list[str]]
COLUMNS = ["image", "reference", "group", "metric", "quality", "authenticity", "correspondence", "overall", "error"]


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


LITE = ["-m", "nr-lite"]


@pytest.fixture
def nr(checkpoints: dict[str, str]) -> list[str]:
    return ["-m", "nr-resnet18", "--weights", checkpoints["nr-resnet18"]]


@pytest.fixture
def fr(checkpoints: dict[str, str]) -> list[str]:
    return ["-m", "fr-resnet18", "--weights", checkpoints["fr-resnet18"]]


def test_the_default_is_the_closest_to_people_and_the_summary_goes_to_standard_error(
    write_images: Write, tmp_path: Path
) -> None:
    write_images("gen", "b.png", "a.PNG", "sub/c.jpeg")
    (tmp_path / "gen" / "notes.txt").write_text("no image")
    done = call_command("gen", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    assert list(rows[0]) == ["image", "reference", "group", "metric", "quality", "error"]
    assert [row["image"] for row in rows] == ["gen/a.PNG", "gen/b.png", "gen/sub/c.jpeg"]
    assert {row["metric"] for row in rows} == {"nr-efficientnet-lite2"}
    assert all(0 <= float(row["quality"]) <= 5 for row in rows)
    assert "95% CI" in done.stderr
    assert "nr-efficientnet-lite2  3" in done.stderr
    assert call_command("gen", "--quiet", cwd=tmp_path).stderr == ""


def test_columns_and_scores(write_images: Write, nr: list[str]) -> None:
    images = write_images("gen", "a.png", "b.png")
    done = call_command(*images, *nr)
    rows = table(done.stdout)
    assert list(rows[0]) == COLUMNS
    for row, image in zip(rows, images, strict=True):
        for dimension, value in untrained("nr-resnet18").predict(image).items():
            assert float(row[dimension]) == pytest.approx(value.item(), abs=2e-5)
    one = table(call_command(*images, *nr, "--dimension", "overall").stdout)
    assert list(one[0]) == ["image", "reference", "group", "metric", "overall", "error"]
    assert [row["overall"] for row in one] == [row["overall"] for row in rows]


def test_bad_files_are_rows_and_the_run_goes_on(write_images: Write, tmp_path: Path) -> None:
    images = write_images("gen", "a.png", "c.png")
    bad = tmp_path / "gen" / "b.png"
    bad.write_bytes(Path(images[0]).read_bytes()[:200])
    done = call_command(images[0], str(bad), "missing.png", images[1], *LITE)
    assert done.returncode == 1
    rows = table(done.stdout)
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert rows[2]["error"] == "missing.png: No such file or directory"
    assert rows[1]["quality"] == ""
    strict = call_command(images[0], str(bad), images[1], *LITE, "--strict")
    assert strict.returncode == 1
    assert len(table(strict.stdout)) == 1
    assert f"--strict: {bad}:" in strict.stderr


def test_every_format_holds_the_same_table(write_images: Write, nr: list[str], tmp_path: Path) -> None:
    write_images("gen", 'quote".png', "comma,.png", "new\nline.png", "ünï.png")
    (tmp_path / "gen" / "x.png").write_bytes(b"")
    tables: dict[str, list[dict[str, Any]]] = {}
    for suffix in ("csv", "json", "jsonl", "parquet"):
        done = call_command("gen", *nr, "--group-by", "parent", "-o", f"out/t.{suffix}", cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
    out = tmp_path / "out"
    names = ["t.csv", "t.json", "t.jsonl", "t.parquet"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, *(f"{name}.meta.json" for name in names)])
    tables["json"] = json.loads((out / "t.json").read_text())
    tables["jsonl"] = [json.loads(line) for line in (out / "t.jsonl").read_text().splitlines()]
    tables["parquet"] = pyarrow.parquet.read_table(out / "t.parquet").to_pylist()
    with open(out / "t.csv", newline="") as stream:
        tables["csv"] = [
            {name: (float(cell) if name in COLUMNS[4:8] else cell) if cell else None for name, cell in row.items()}
            for row in csv.DictReader(stream)
        ]
    assert len(tables["csv"]) == 5
    assert all(list(row) == COLUMNS for rows in tables.values() for row in rows)
    assert tables["csv"] == tables["json"] == tables["jsonl"] == tables["parquet"]


def test_sources(write_images: Write, tmp_path: Path) -> None:
    write_images("gen", "b.png", "a.png", "deep/er/c.png", "[1].png")
    (tmp_path / "gen" / "loop").symlink_to(tmp_path / "gen")

    def listed(*arguments: str, stdin: bytes = b"") -> list[str]:
        done = call_command(*arguments, *LITE, cwd=tmp_path, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return [row["image"] for row in table(done.stdout)]

    everything = ["gen/[1].png", "gen/a.png", "gen/b.png", "gen/deep/er/c.png"]
    assert listed("gen") == everything
    assert listed("gen/*.png") == everything[:3]
    assert listed("gen/**/c.png") == everything[3:]
    assert listed("gen/[1].png") == everything[:1]
    assert listed("gen/b.png", "gen/deep", "gen/a.png") == ["gen/b.png", "gen/deep/er/c.png", "gen/a.png"]
    assert listed("-", stdin=b"gen/b.png\ngen/a.png\r\n\n") == ["gen/b.png", "gen/a.png"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_manifests(write_images: Write, fr: list[str], nr: list[str], tmp_path: Path, suffix: str) -> None:
    write_images("data/gen", "a.png", "b.png")
    write_images("data/prompts", "p.png")
    rows = [
        {"image": "gen/a.png", "reference": "prompts/p.png", "group": "x", "other": 1},
        {"image": str(tmp_path / "data/gen/b.png"), "reference": "data/prompts/p.png", "group": "y", "other": 2},
        {"image": "gen/a.png", "reference": None, "group": None, "other": 3},
    ]
    manifest = tmp_path / "data" / f"list.{suffix}"
    if suffix == "csv":
        with open(manifest, "w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == "jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), manifest)
    done = call_command(f"data/list.{suffix}", *fr, cwd=tmp_path)
    found = table(done.stdout)
    assert done.returncode == 1
    assert [row["image"] for row in found] == ["data/gen/a.png", str(tmp_path / "data/gen/b.png"), "data/gen/a.png"]
    assert [row["reference"] for row in found] == ["data/prompts/p.png", "data/prompts/p.png", ""]
    assert [row["group"] for row in found] == ["x", "y", ""]
    assert [bool(row["error"]) for row in found] == [False, False, True]
    assert call_command(f"data/list.{suffix}", *nr, cwd=tmp_path).returncode == 0
    assert table(call_command(f"data/list.{suffix}", cwd=tmp_path).stdout)[0]["metric"] == "fr-lite"


def test_a_table_of_scores_is_a_manifest(write_images: Write, tmp_path: Path) -> None:
    write_images("gen", "a.png", "b.png")
    assert call_command("gen", *LITE, "-o", "scores.csv", cwd=tmp_path).returncode == 0
    again = call_command("scores.csv", *LITE, cwd=tmp_path)
    assert again.stdout == (tmp_path / "scores.csv").read_text()


def test_rows_of_a_manifest_that_cannot_be_read_are_error_rows(write_images: Write, tmp_path: Path) -> None:
    write_images("gen", "a.png")
    (tmp_path / "list.jsonl").write_text('{"image": "gen/a.png"}\nnot json\n{"image": ["x"]}\n{"image": ""}\n[1]\n')
    rows = table(call_command("list.jsonl", *LITE, cwd=tmp_path).stdout)
    assert [row["error"].split(": ", 1)[-1][:20] for row in rows] == [
        "", "row 2: not JSON: Exp", "row 3: 'image' is ['", "row 4: the column 'i", "row 5: expected an o",
    ]  # fmt: skip


def test_references_are_matched_by_relative_path(write_images: Write, fr: list[str], tmp_path: Path) -> None:
    write_images("gen", "a.png", "sub/a.png", "sub/b.png", "c.png", "only.png", "twin.png")
    write_images("ref", "a.png", "sub/a.png", "sub/b.jpg", "elsewhere/c.bmp", "x/twin.png", "y/twin.png", "z.png")
    done = call_command("gen", "-r", "ref", *fr, cwd=tmp_path)
    assert done.returncode == 1
    found = {row["image"]: (row["reference"], row["error"]) for row in table(done.stdout)}
    assert {image: reference for image, (reference, _) in found.items()} == {
        "gen/a.png": "ref/a.png",
        "gen/c.png": "",
        "gen/only.png": "",
        "gen/sub/a.png": "ref/sub/a.png",
        "gen/sub/b.png": "ref/sub/b.jpg",
        "gen/twin.png": "",
    }
    assert "no reference in ref has its relative path or its stem" in found["gen/only.png"][1]
    assert "Only the stem is that of x/twin.png, y/twin.png" in found["gen/twin.png"][1]
    assert "Only the stem is that of elsewhere/c.bmp" in found["gen/c.png"][1]
    single = table(call_command("gen", "-r", "ref/z.png", *fr, cwd=tmp_path).stdout)
    assert {row["reference"] for row in single} == {"ref/z.png"}
    assert not any(row["error"] for row in single)
    assert table(call_command("gen/a.png", "-r", "ref", cwd=tmp_path).stdout)[0]["metric"] == "fr-lite"


def test_groups(write_images: Write, tmp_path: Path) -> None:
    write_images("gen", "mj/a_1.png", "sd/b_2.png", "sd/none.png")
    done = call_command("gen", *LITE, "--group-by", "parent", cwd=tmp_path)
    assert [row["group"] for row in table(done.stdout)] == ["mj", "sd", "sd"]
    assert "sd" in done.stderr
    by = call_command("gen", *LITE, "--group-by", r"_(\d)\.", cwd=tmp_path)
    assert [row["group"] for row in table(by.stdout)] == ["1", "2", ""]
    assert [row["group"] for row in table(call_command("gen", *LITE, "--group-by", "s.", cwd=tmp_path).stdout)] == [
        "", "sd", "sd",
    ]  # fmt: skip


def test_several_metrics_make_a_row_each(write_images: Write, tmp_path: Path) -> None:
    write_images("gen", "a.png", "b.png")
    write_images("ref", "a.png", "b.png")
    done = call_command("gen", "-r", "ref", "-m", "fr-lite", "-m", "nr-lite", "--batch-size", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [(row["image"], row["metric"]) for row in table(done.stdout)]
    assert found == [(image, name) for image in ("gen/a.png", "gen/b.png") for name in ("fr-lite", "nr-lite")]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "nothing to score"),
        (["empty"], "no images in empty"),
        (["gen/*.tiff"], "'gen/*.tiff' matches no file"),
        (["gen", "-m", "nr-lit"], "unknown metric 'nr-lit'; did you mean 'nr-lite'"),
        (["gen", "-m", "nr-lite", "-m", "nr-lite"], "the same metric is named twice"),
        (["gen", "-m", "fr-lite"], "fr-lite compares with a reference"),
        (["gen", "-m", "nr-lite", "-r", "gen"], "nr-lite takes no reference"),
        (["gen", "-r", "absent"], "reference 'absent': no such file or folder"),
        (["gen", "-o", "x.xlsx"], "the output ends in one of .csv, .json, .jsonl, .parquet"),
        (["gen", "-o", "empty.csv"], "is a folder; name a file"),
        (["gen", "-o", f"{'x' * 249}.csv"], "csv: the name is too long for this system; choose a shorter one"),
        (["gen", "--report", f"{'x' * 299}.html"], "the name is too long for this system; choose a shorter one"),
        (["gen", "-o", f"new/{'x' * 299}.csv"], "csv: the name is too long for this system; choose a shorter one"),
        (["gen", "-o", "a\0.csv"], "-o 'a\\x00.csv': no file can have this name"),
        (["gen", "--maps", "x" * 299], "the name is too long for this system; choose a shorter one"),
        (["gen", "--resume"], "name it with -o"),
        (["list.csv", "-o", "list.csv"], "-o list.csv would overwrite list.csv, which is read"),
        (["list.csv"], "has no column 'image'; it has: a, b"),
        (["absent.csv"], "manifest 'absent.csv': no such file"),
        (["no.parquet"], "is not Parquet"),
        (["gen", "--weights", "nowhere"], "no such folder, and not a Hub repo"),
        (["gen", "--weights", "empty"], "is not a checkpoint"),
        (["gen", "-m", "nr-lite", "-m", "nr-vgg16", "--weights", "x"], "--weights goes with one metric"),
        (["gen", "-m", "nr-resnet18"], "the weights 'aigciqa/nr-resnet18' could not be loaded"),
        (["gen", "--dimension", "overall"], "dimension is one of quality"),
        (["gen", "--device", "warp"], "--device warp"),
        (["gen", "--device", "cuda:99"], "--device cuda:99"),
        (["gen", "--group-by", "("], "neither 'parent', a generation parameter"),
        (["gen", "--batch-size", "0"], "0 is not in the range x>=1"),
        (["gen", "--no-such-flag"], "No such option"),
    ],
)
def test_usage_errors_end_with_two(
    write_images: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    write_images("gen", "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.csv").mkdir()
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    (tmp_path / "no.parquet").write_text("no")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = CliRunner().invoke(score.main, arguments)
    assert done.exit_code == 2, done.output
    assert text in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert (tmp_path / "list.csv").read_text() == "a,b\n1,2\n"


def test_list() -> None:
    listed = call_command("--list")
    assert listed.returncode == 0
    lines = listed.stdout.splitlines()
    assert lines[0] == "No weights of the paper's ten metrics are published yet."
    assert [line.split()[0] for line in lines if line[:3] in ("nr-", "fr-") and "timm" not in line] == sorted(
        aigciqa.list_metrics(), key=lambda name: not aigciqa.metric_info(name).embedded
    )
    assert max(map(len, lines)) <= 80


class TestResume:
    """A killed run goes on, and its table is that of a run nobody touched."""

    COUNT = 40

    @pytest.fixture
    def folder(self, write_images: Write, tmp_path: Path) -> Path:
        write_images("gen", *(f"{index:03}.png" for index in range(self.COUNT)))
        (tmp_path / "gen" / "005.png").write_bytes(b"bad")
        return tmp_path

    def command(self, name: str) -> list[str]:
        return ["gen", *LITE, "-o", name, "--batch-size", "2", "--workers", "0", "--group-by", "parent"]

    def kill_after(
        self, folder: Path, arguments: list[str], journal: Path, lines: int, number: int, stdin: bytes = b""
    ) -> int:
        """Exit status of a run that gets a signal once so many lines are written; its standard input stays open."""
        command = [*COMMAND, *arguments]
        with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.flush()
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                if journal.exists() and journal.read_bytes().count(b"\n") >= lines:
                    break
                time.sleep(0.001)
            process.send_signal(number)
            return process.wait(timeout=120)

    @pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
    @pytest.mark.slow
    def test_after_sigkill(self, folder: Path, suffix: str) -> None:
        whole, name = folder / f"whole.{suffix}", f"t.{suffix}"
        assert call_command(*self.command(whole.name), cwd=folder).returncode == 1
        journal = folder / (name if suffix in ("csv", "jsonl") else f"{name}.partial")
        arguments = self.command(name)
        assert self.kill_after(folder, arguments, journal, 7, signal.SIGKILL) == -signal.SIGKILL
        kept = journal.read_bytes().count(b"\n")
        assert 7 <= kept < self.COUNT
        done = call_command(*arguments, "--resume", cwd=folder)
        assert done.returncode == 1, done.stderr
        assert "resuming after" in done.stderr
        assert (folder / name).read_bytes() == whole.read_bytes()
        assert not (folder / f"{name}.partial").exists()
        again = call_command(*arguments, "--resume", cwd=folder)
        assert again.returncode == 1
        assert f"resuming after {self.COUNT} rows" in again.stderr
        assert (folder / name).read_bytes() == whole.read_bytes()

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    @pytest.mark.slow
    def test_after_being_asked_to_stop(self, folder: Path, number: int, status: int) -> None:
        arguments = ["-", *self.command("t.csv")[1:]]  # while its input is open, no run is over before the signal comes
        paths = [f"gen/{index:03}.png" for index in range(self.COUNT)]
        lines = [f"{path}\n".encode() for path in paths]
        assert self.kill_after(folder, arguments, folder / "t.csv", 5, number, b"".join(lines[:20])) == status
        assert call_command(*arguments, "--resume", cwd=folder, stdin=b"".join(lines)).returncode == 1
        assert [row["image"] for row in table((folder / "t.csv").read_text())] == paths

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_from_any_byte_of_the_file(self, write_images: Write, tmp_path: Path, suffix: str) -> None:
        """The file sinks alone: every way a table can be torn."""
        from aigciqa.records import Record
        from aigciqa.scoring.sinks import FileSink
        from aigciqa.tables.columns import columns_of, to_row

        columns = columns_of(["quality"])
        names = ["a.png", 'b"\n,.png', "\udcff.png"]
        rows = [
            to_row(Record(name, None, None, metric, {"quality": 1.25}, None), columns)
            for name in names
            for metric in ("m", "n")
        ]
        path = tmp_path / f"t.{suffix}"

        def finish(resume: bool) -> int:
            sink = FileSink(str(path), columns, {"format": 1})
            done = list(sink.recover(iter(rows), block=2)) if resume else sink.start() or []
            assert done == rows[: len(done)]
            assert len(done) % 2 == 0
            sink.write(rows[len(done) :])
            sink.close()
            return len(done)

        finish(resume=False)
        whole = path.read_bytes()
        counts = []
        for length in range(len(whole) + 1):
            path.write_bytes(whole[:length])
            counts.append(finish(resume=True))
            assert path.read_bytes() == whole
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (0, 6)

    def test_a_table_of_another_run_is_refused_and_kept(self, folder: Path, nr: list[str]) -> None:
        arguments = self.command("t.csv")
        assert call_command(*arguments, cwd=folder).returncode == 1
        before = (folder / "t.csv").read_bytes()
        for changed, text in (
            (["gen/007.png", *arguments[1:]], "is of another run: it has 'gen/000.png'"),
            ([*nr, *arguments[3:], "gen"], "the metric was nr-lite, is nr-resnet18 now"),
            (
                ["gen/000.png", *arguments[1:]],
                "nothing more. Name another output, or start anew: --overwrite in place",
            ),
        ):
            done = call_command(*changed, "--resume", cwd=folder)
            assert done.returncode == 2, done.stderr
            assert text in " ".join(done.stderr.split())
            assert (folder / "t.csv").read_bytes() == before

    def test_a_file_that_is_no_table_is_refused_and_kept(self, folder: Path) -> None:
        (folder / "t.json").write_text('{"not": "a table"')
        for _ in range(2):
            done = call_command(*self.command("t.json"), "--resume", cwd=folder)
            assert done.returncode == 2, done.stderr
            assert (folder / "t.json").read_text() == '{"not": "a table"'
            assert sorted(path.name for path in folder.iterdir()) == ["gen", "t.json"]

    def test_more_images_than_before_are_appended(self, folder: Path, write_images: Write) -> None:
        arguments = self.command("t.json")
        assert call_command(*arguments, cwd=folder).returncode == 1
        before = json.loads((folder / "t.json").read_text())
        write_images("gen", "new.png")
        assert call_command(*arguments, "--resume", cwd=folder).returncode == 1
        after = json.loads((folder / "t.json").read_text())
        assert after[:-1] == before
        assert after[-1]["image"] == "gen/new.png"

    def test_resuming_what_was_never_begun_begins(self, folder: Path) -> None:
        assert call_command(*self.command("t.csv"), "--resume", cwd=folder).returncode == 1
        assert len(table((folder / "t.csv").read_text())) == self.COUNT


@pytest.mark.slow
def test_whoever_reads_the_output_may_stop_reading(write_images: Write, tmp_path: Path) -> None:
    write_images("gen", *(f"{index}.png" for index in range(12)))
    with subprocess.Popen(
        [*COMMAND, "gen", *LITE, "--batch-size", "1"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(60) == 1
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


@pytest.mark.slow
def test_a_terminal_gets_an_aligned_table(write_images: Write, nr: list[str], tmp_path: Path) -> None:
    write_images("gen", "a.png", "b" * 60 + ".png", "e\x1b[31m.png")
    (tmp_path / "gen" / "z.png").write_bytes(b"x")
    controller, terminal = os.openpty()
    with subprocess.Popen(
        [*COMMAND, "gen", *nr, "--quiet"],
        cwd=tmp_path,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "90", "LINES": "20"},
    ) as process:
        assert process.wait(120) == 1
    os.close(terminal)
    text = os.read(controller, 100_000).decode()
    lines = text.splitlines()
    assert lines[0].split() == ["image", *COLUMNS[4:8]]
    assert lines[1].startswith("gen/a.png ")
    assert lines[2].startswith("…bbbb")
    assert len({len(line) for line in lines[:4]}) == 1
    assert "\x1b[31m" not in text
    assert "not an image" in lines[-1]
