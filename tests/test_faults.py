"""`aigciqa score` as a real process on a machine that lets it down: what is scored is kept, and the status says so."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

import aigciqa
from aigciqa.cli.score import main
from aigciqa.scoring import decoding
from aigciqa.scoring.sources import open_sources
from tests.conftest import COMMAND, Watch, call_command

Write = Callable[..., list[str]]
COUNT = 30
#: Reading a file called hang... never ends, as on a dead network disk.
HANGING = """
import threading
from aigciqa.scoring import decoding
read = decoding.read_content
decoding.read_content = lambda path, _: threading.Event().wait() if "hang" in path else read(path)
import aigciqa
from aigciqa.cli.score import main
main(prog_name="aigciqa score")
"""
SCORE = ["gen", "-m", "nr-lite", "-o", "t.csv", "--batch-size", "4"]
#: Two threads, so that networks run side by side.
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}


@pytest.fixture
def folder(write_images: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images("gen", *(f"{index:03}.png" for index in range(COUNT)))
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    """The whole rows of a table, as far as it was written."""
    text = path.read_text() if path.exists() else ""
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def wait_for_rows(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while len(rows_of(path)) < count:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_a_run_that_hangs_can_be_stopped(folder: Path, number: int, status: int) -> None:
    hung = folder / "gen" / "012hang.png"
    (folder / "gen" / "012.png").rename(hung)
    command = [sys.executable, "-c", HANGING, *SCORE]
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        wait_for_rows(folder / "t.csv", 12, process)
        process.send_signal(number)
        assert process.wait(60) == status
    before = rows_of(folder / "t.csv")
    assert [row["image"] for row in before] == [f"gen/{index:03}.png" for index in range(12)]
    assert call_command(*SCORE, "--resume", cwd=folder).returncode == 0
    assert rows_of(folder / "t.csv")[:12] == before
    assert len(rows_of(folder / "t.csv")) == COUNT


@pytest.mark.slow
def test_a_killed_run_with_several_inference_threads_goes_on(folder: Path) -> None:
    assert call_command(*SCORE[:4], "whole.csv", *SCORE[5:], cwd=folder).returncode == 0
    with subprocess.Popen([*COMMAND, *SCORE], cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        wait_for_rows(folder / "t.csv", 5, process)
        process.kill()
    assert len(rows_of(folder / "t.csv")) < COUNT
    assert call_command(*SCORE, "--resume", cwd=folder).returncode == 0
    whole, resumed = rows_of(folder / "whole.csv"), rows_of(folder / "t.csv")
    assert [row["image"] for row in resumed] == [row["image"] for row in whole]
    for one, other in zip(whole, resumed, strict=True):
        assert float(other["quality"]) == pytest.approx(float(one["quality"]), abs=1e-5)


def test_a_file_that_vanishes_after_listing_is_an_error(folder: Path, watch: Watch) -> None:
    last = folder / "gen" / f"{COUNT - 1:03}.png"
    watch(decoding, "read_content", lambda *_: last.unlink(missing_ok=True))
    assert call_command(*SCORE, cwd=folder).returncode == 1
    rows = rows_of(folder / "t.csv")
    assert [row["error"] for row in rows if row["error"]] == [f"gen/{COUNT - 1:03}.png: No such file or directory"]
    assert len(rows) == COUNT


def fill() -> None:
    """Stands in for a full disk: the system refuses what is written beyond so many bytes of a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))


@pytest.mark.parametrize("suffix", ["csv", "json"])
@pytest.mark.slow
def test_a_full_disk_keeps_what_was_written(folder: Path, suffix: str) -> None:
    metric = aigciqa.create_metric("nr-lite")
    metric.config = dataclasses.replace(metric.config, reference_sets=())  # else what says what made a table is large
    metric.save_pretrained(folder / "plain")
    command = [*SCORE[:4], f"t.{suffix}", *SCORE[5:], "--weights", "./plain"]
    done = subprocess.run(
        [*COMMAND, *command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, preexec_fn=fill
    )
    assert done.returncode == 1
    assert "can't write the scores: " in done.stderr
    assert "--resume goes on from there" in done.stderr
    assert "Traceback" not in done.stderr
    journal = folder / ("t.csv" if suffix == "csv" else "t.json.partial")
    assert 0 < journal.stat().st_size <= 900
    assert call_command(*command, "--resume", cwd=folder).returncode == 0
    assert call_command(*command[:4], f"whole.{suffix}", *command[5:], cwd=folder).returncode == 0
    assert (folder / f"t.{suffix}").read_text() == (folder / f"whole.{suffix}").read_text()


def test_a_damaged_table_is_refused_and_kept(folder: Path) -> None:
    assert invoke("gen", "-o", "t.csv").exit_code == 0
    whole = (folder / "t.csv").read_bytes()
    damaged = whole.replace(b"gen/003.png,", b'"gen/003.png" ,')
    (folder / "t.csv").write_bytes(damaged)
    done = invoke("gen", "-o", "t.csv", "--resume")
    assert done.exit_code == 2
    assert "can't resume: t.csv holds a line that is not CSV: " in done.stderr
    assert (folder / "t.csv").read_bytes() == damaged
    (folder / "t.csv").write_bytes(whole[: whole.index(b"gen/003.png")] + b'"gen/003')
    assert invoke("gen", "-o", "t.csv", "--resume").exit_code == 0
    assert [row["image"] for row in rows_of(folder / "t.csv")] == [f"gen/{index:03}.png" for index in range(COUNT)]


@pytest.mark.parametrize("good", [0, 65_536])
def test_a_damaged_manifest_is_listed_up_to_the_damage(folder: Path, good: int) -> None:
    rows = {"image": [f"gen/{index % COUNT:03}.png" for index in range(2 * 65_536)]}
    parquet.write_table(pyarrow.table(rows), folder / "t.parquet", row_group_size=65_536, use_dictionary=False)
    group = parquet.ParquetFile(folder / "t.parquet").metadata.row_group(1 if good else 0)
    data = bytearray((folder / "t.parquet").read_bytes())
    page = group.column(0).data_page_offset
    data[page + 15 : page + 60] = b"\xff" * 45
    (folder / "t.parquet").write_bytes(data)
    (opener,) = open_sources(["t.parquet"], io.BytesIO(), {})
    items = [found.item for found in opener()]
    assert [item.image for item in items] == [*rows["image"][:good], ""]
    assert (items[-1].error or "").startswith(f"t.parquet: row {good + 1}: not Parquet: ")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "-m", "nr-lite"])


@pytest.mark.slow
def test_standard_output_on_a_full_disk(folder: Path) -> None:
    with open(folder / "out.csv", "wb") as output:
        done = subprocess.run(
            [*COMMAND, "gen", "-m", "nr-lite"],
            cwd=folder, env=ENVIRONMENT, stdout=output, stderr=subprocess.PIPE, text=True, timeout=120, preexec_fn=fill,
        )  # fmt: skip
    assert done.returncode == 1
    assert "can't write the scores: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert 10 < len(rows_of(folder / "out.csv")) < COUNT
