"""Scoring on Ray: a local cluster, the command on it, data sets, killed actors and drivers."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")  # read by ray when it starts

import numpy as np
import psutil
import pyarrow.parquet
import pytest
import ray
import ray.data
from click.testing import CliRunner

import aigciqa
from aigciqa.cli import score
from aigciqa.errors import InputError
from aigciqa.integrations import shards
from aigciqa.integrations.ray import Setup, _items, read_images, score_dataset
from aigciqa.records import Item
from aigciqa.scoring import archives
from aigciqa.scoring.items import Found
from aigciqa.scoring.parts import Parts
from aigciqa.scoring.sources import open_sources
from aigciqa.tables.columns import columns_of
from tests.conftest import COMMAND, Watch, call_command, png, untrained
from tests.test_remote import pack

Write = Callable[..., list[str]]
PART_SIZE = 5


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray with three CPUs by name: for two actors and a reader."""
    ray.init(num_cpus=3, log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def table(path: Path) -> list[dict[str, Any]]:
    """Rows of a table in Parquet, a file or a folder of parts, in the order of its files."""
    return pyarrow.parquet.read_table(path).to_pylist()


def assert_equal(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same rows in the same order, scores to 1e-5."""
    assert [list(row) for row in rows] == [list(row) for row in expected]
    for name in expected[0]:
        cells = [[row[name] for row in some] for some in (rows, expected)]
        if any(isinstance(cell, float) for cell in cells[1]):
            arrays = [np.array(column, dtype=float) for column in cells]
            np.testing.assert_allclose(*arrays, atol=1e-5, rtol=0)
        else:
            assert cells[0] == cells[1]


class TestCommand:
    @pytest.fixture
    def folder(self, write_images: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Twelve images, one of them broken, their references, and an archive."""
        names = [f"{index:03}.png" for index in range(12)]
        write_images("gen", *names)
        write_images("ref", *names[:-1])
        (tmp_path / "gen" / "003.png").write_bytes(b"bad")
        pack(tmp_path / "more.tar", x__a_png=png(1), x__a_reference_png=png(2), x__b_png=png(3))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def run(self, *arguments: str, status: int = 1) -> str:
        """What the command says on standard error."""
        done = CliRunner().invoke(score.main, list(arguments))
        assert done.exit_code == status, done.output
        # The cluster of these tests says on the driver's output when an actor is ended that had work left.
        assert [line for line in done.stdout.splitlines() if "(raylet)" not in line] == []
        return " ".join(done.stderr.split())

    def on_ray(self, *arguments: str, status: int = 1) -> str:
        return self.run(*arguments, "--engine", "ray", "--part-size", str(PART_SIZE), status=status)

    @pytest.mark.slow
    def test_the_table_is_that_of_the_local_engine(self, cluster: None, folder: Path) -> None:
        arguments = ["gen", "more.tar", "-r", "ref", "-m", "fr-lite", "-m", "nr-lite", "--group-by", "parent"]
        local = self.run(*arguments, "-o", "local.parquet")
        said = self.on_ray(*arguments, "-o", "ray.parquet")
        assert said.replace("ray.parquet", "local.parquet") == local
        expected = table(folder / "local.parquet")
        assert len(expected) == 28
        assert_equal(table(folder / "ray.parquet"), expected)
        parts = sorted(path.name for path in (folder / "ray.parquet").iterdir())
        assert parts == [f"part-{number:08}.parquet" for number in range(4)]

    @pytest.mark.slow
    def test_resuming_scores_what_is_missing(self, cluster: None, folder: Path, write_images: Write) -> None:
        arguments = ["more.tar", "gen", "-m", "nr-lite", "-o", "scores.parquet"]
        out = folder / "scores.parquet"
        out.mkdir()
        (out / "part-00000007.parquet").write_bytes(b"of an earlier run")
        self.on_ray(*arguments, "--overwrite")
        before = table(out)
        times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
        assert sorted(times) == [f"part-{number:08}.parquet" for number in range(4)]
        (out / "part-00000001.parquet").write_bytes(b"torn")
        (out / ".part-00000001.parquet.0123abcd").write_bytes(b"torn")
        write_images("gen", "new.png")  # one more for the last part, which has room
        assert "nr-lite 14 1" in self.on_ray(*arguments, "--resume")
        after = table(out)
        assert_equal(after[:-1], before)
        assert after[-1]["image"] == "gen/new.png"
        again = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
        assert sorted(again) == sorted(times)
        assert [name for name in sorted(times) if again[name] == times[name]] == [
            "part-00000000.parquet", "part-00000002.parquet",
        ]  # fmt: skip

        said = self.on_ray("gen/000.png", *arguments[2:], "--resume", status=2)
        assert "is of another run: it has part-00000003.parquet, this run 1 parts" in said
        assert_equal(table(out), after)

    @pytest.mark.slow
    def test_images_in_parquet_and_other_columns(self, cluster: None, folder: Path) -> None:
        """Also what is refused on resuming: parts of other weights, of other groups, of images that were changed."""
        cells = [{"bytes": png(n), "path": name} for n, name in enumerate(("a.png", None, "b.png"))]
        pyarrow.parquet.write_table(pyarrow.table({"image": cells, "prompt": ["x", "y", None]}), folder / "hf.parquet")
        (folder / "list.csv").write_text("image,group,seed\ngen/000.png,g,7\ngen/001.png,h,\n")
        arguments = ["hf.parquet", "list.csv", "-m", "nr-lite"]
        self.run(*arguments, "-o", "local.parquet", status=0)
        self.on_ray(*arguments, "-o", "ray.parquet", status=0)
        expected = table(folder / "local.parquet")
        assert [(row["image"], row["prompt"], row["seed"]) for row in expected] == [
            ("a.png", "x", None), ("hf.parquet#2", "y", None), ("b.png", None, None),
            ("gen/000.png", None, "7"), ("gen/001.png", None, None),
        ]  # fmt: skip
        assert_equal(table(folder / "ray.parquet"), expected)
        assert sorted(os.listdir(folder / "ray.parquet")) == ["part-00000000.parquet", "part-00000001.parquet"]

        resumed = [*arguments, "-o", "ray.parquet", "--resume"]
        assert "weights of nr-lite was" in self.on_ray(*resumed, "--weights", "native", status=2)
        text = (folder / "list.csv").read_text()
        (folder / "list.csv").write_text(text.replace(",h", ",i"))
        assert "part 1 holds other images or metrics, references or groups" in self.on_ray(*resumed, status=2)
        (folder / "list.csv").write_text(text)
        later = (folder / "ray.parquet" / "part-00000000.parquet").stat().st_mtime + 9
        os.utime(folder / "hf.parquet", (later, later))
        assert "can't resume: hf.parquet#2 was changed after" in self.on_ray(*resumed, status=2)
        assert_equal(table(folder / "ray.parquet"), expected)

    def test_what_stops_an_actor_is_handed_on(self, folder: Path) -> None:
        parts = Parts(str(folder / "scores.parquet"), columns_of(["quality"]), {"format": 1})
        parts.begin(keep=False)
        setup = Setup([aigciqa.create_metric("nr-lite")], fast=False, device=None)
        scorer = shards._ShardScorer(setup, parts, ray.cloudpickle.dumps(lambda found: found.item))
        first, other = ([Found(Item(f"gen/{name}.png"), "")] for name in ("000", "001"))
        with closing(scorer.engine):
            assert [scorer._result(0, first).problem for _ in range(2)] == [None, None]
            problem = scorer._result(0, other).problem
            assert "is of another run: part 0 holds other images or metrics" in str(problem)
            (folder / "scores.parquet" / "part-00000001.parquet").mkdir()
            assert isinstance(scorer._result(1, other).problem, OSError)
        assert [row["image"] for row in parts.read(0) or []] == ["gen/000.png"]

    @pytest.mark.slow
    def test_strict_stops_and_keeps_whole_parts(self, cluster: None, folder: Path) -> None:
        (folder / "gen" / "003.png").write_bytes(png(3))
        (folder / "gen" / "007.png").write_bytes(b"bad")
        said = self.on_ray("gen", "-m", "nr-lite", "-o", "scores.parquet", "--strict")
        assert "--strict: gen/007.png: not an image" in said
        assert "the rows so far are in scores.parquet" in said
        assert [row["image"] for row in table(folder / "scores.parquet")][:5] == [f"gen/00{n}.png" for n in range(5)]
        assert not (folder / "scores.parquet" / "part-00000001.parquet").exists()

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ([], "name it with -o, as in -o scores.parquet"),
            (["-o", "scores.csv"], "'scores.csv': --engine ray writes a folder of Parquet files"),
            (["-o", "file.parquet"], "-o file.parquet is a file; name a folder"),
            (["-o", "other.parquet", "--overwrite"], "other.parquet' is a folder that holds 'notes.txt'"),
            (["-o", "scores.parquet", "--overwrite", "--device", "cuda"], "no node of the Ray cluster has a GPU"),
        ],
    )
    def test_usage_errors(self, cluster: None, folder: Path, arguments: list[str], text: str) -> None:
        (folder / "file.parquet").write_bytes(b"")
        (folder / "other.parquet").mkdir()
        (folder / "other.parquet" / "notes.txt").write_text("keep")
        (folder / "scores.parquet").mkdir()
        (folder / "scores.parquet" / "part-00000000.parquet").write_text("keep")
        assert text in self.on_ray("gen", "-m", "nr-lite", *arguments, status=2)
        assert (folder / "other.parquet" / "notes.txt").read_text() == "keep"
        assert (folder / "scores.parquet" / "part-00000000.parquet").read_text() == "keep"

    def test_a_cluster_out_of_reach(
        self, cluster: None, folder: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch
    ) -> None:
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        watch(ray, "init", ConnectionError("no answer"))
        said = self.on_ray("gen", "-m", "nr-lite", "-o", "scores.parquet", status=2)
        assert "Ray can't be reached or started: no answer" in said

    def test_without_ray_it_says_what_to_install(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "aigciqa.integrations.ray")
        monkeypatch.setitem(sys.modules, "ray", None)
        said = self.on_ray("gen", "-m", "nr-lite", "-o", "scores.parquet", status=2)
        assert "pip install 'aigciqa[ray]'" in said


class TestDataset:
    """`score_dataset` on what Ray's readers give, against `score_files`."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("data")
        for kind, seeds in (("gen", (1, 2, 3)), ("ref", (4, 5, 6))):
            (folder / kind).mkdir()
            for name, seed in zip("abc", seeds, strict=True):
                (folder / kind / f"{name}.png").write_bytes(png(seed))
        (folder / "gen" / "c.png").write_bytes(b"bad")
        return folder

    def expected(self, folder: Path, name: str) -> dict[str, float | None]:
        """Quality by stem."""
        paths = sorted((folder / "gen").iterdir())
        references = [folder / "ref" / path.name for path in paths] if name.startswith("fr") else None
        records = aigciqa.score_files(paths, metric=untrained(name), references=references)
        return {Path(record.image).stem: record.scores.get("quality") for record in records}

    def check(self, dataset: ray.data.Dataset, folder: Path, name: str = "fr-lite") -> list[dict[str, Any]]:
        rows = sorted(score_dataset(dataset, untrained(name)).take_all(), key=lambda row: row["image"])
        scores = {Path(row["image"]).stem: row["quality"] for row in rows}
        expected = self.expected(folder, name)
        assert scores.pop("c", None) == expected.pop("c")
        assert scores == pytest.approx(expected, abs=1e-5)
        assert [bool(row["error"]) for row in rows] == [False, False, True]
        assert rows[2]["error"].startswith(f"{rows[2]['image']}: not an image")
        return rows

    @pytest.mark.slow
    def test_folders(self, cluster: None, folder: Path) -> None:
        rows = self.check(read_images(str(folder / "gen")), folder, "nr-resnet18")
        assert rows[0]["image"] == str(folder / "gen" / "a.png")
        columns = "image reference group metric quality authenticity correspondence overall error"
        assert list(rows[0]) == columns.split()

    @pytest.mark.slow
    def test_archives(self, cluster: None, folder: Path) -> None:
        members = {f"{path.stem}_png": path.read_bytes() for path in sorted((folder / "gen").iterdir())}
        members |= {f"{path.stem}_reference_png": path.read_bytes() for path in (folder / "ref").iterdir()}
        path = pack(folder / "images.tar", **dict(sorted(members.items())), d_json=b"{}")
        rows = self.check(read_images(f"file://{path}"), folder)
        assert rows[0]["image"] == f"file://{path}/a.png"

    def test_odd_names_in_archives(self, cluster: None, tmp_path: Path) -> None:
        names = ["a.jpg", "a.mask.png", "a.reference.jpg", "b.PNG", "b.txt", "sd1.5.png", "sd1.5_0.png", "sd1.5_1.png"]
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name in names:
                (tmp_path / name).write_text(name)
                archive.add(tmp_path / name, name)
        path = str(tmp_path / "a.tar")
        expected = {(f"{path}/{each.name}", each.content, each.reference_content) for each in archives.images(path)}
        assert len(expected) == 6
        rows = read_images(path).take_all()
        assert {(row["path"], row["image"], row["reference"]) for row in rows} == expected
        assert len(rows) == 6

    @pytest.mark.parametrize("suffix", ["csv", "jsonl", pytest.param("parquet", marks=pytest.mark.slow)])
    def test_manifests(self, cluster: None, folder: Path, suffix: str) -> None:
        manifest = folder / f"list.{suffix}"
        groups = ["007", "", "12"] if suffix == "csv" else [7, None, 12]
        rows = [
            {"image": f"gen/{name}.png", "reference": str(folder / "ref" / f"{name}.png"), "group": group, "other": "x"}
            for name, group in zip("abc", groups, strict=True)
        ]
        if suffix == "csv":
            lines = [",".join(map(str, row)) for row in (rows[0], *(row.values() for row in rows))]
            manifest.write_text("\n".join(lines))
        elif suffix == "jsonl":
            manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), manifest)
        found = sorted(read_images(manifest).take_all(), key=lambda row: row["image"])
        (opener,) = open_sources([str(manifest)], io.BytesIO(), {})
        assert found == [
            {name: getattr(listed.item, name) for name in ("image", "reference", "group")} for listed in opener()
        ]
        assert [row["group"] for row in found] == ["007" if suffix == "csv" else "7", None, "12"]

    def test_sources_that_are_none(self) -> None:
        with pytest.raises(InputError, match="`source` is empty: name a file or folder"):
            read_images([])
        with pytest.raises(InputError, match="`kind` is one of images, webdataset, csv, jsonl, parquet; got 'tar'"):
            read_images("images.tar", kind="tar")  # type: ignore[arg-type]

    @pytest.mark.slow
    def test_images_inside_parquet(self, cluster: None, folder: Path) -> None:
        rows = [
            {
                "image": {"bytes": (folder / "gen" / f"{name}.png").read_bytes(), "path": f"{name}.png"},
                "reference": (folder / "ref" / f"{name}.png").read_bytes(),
            }
            for name in "abc"
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "inside.parquet")
        self.check(read_images(str(folder / "inside.parquet")), folder)

    @pytest.mark.slow
    def test_pixels_that_ray_decoded(self, cluster: None, folder: Path) -> None:
        paths = [str(folder / "gen" / f"{name}.png") for name in "ab"]
        dataset = ray.data.read_images(paths, include_paths=True)
        rows = score_dataset(dataset, "nr-lite", num_cpus=1, dtype="auto", rows=1).take_all()
        expected = [record.scores["quality"] for record in aigciqa.score_files(paths, metric="nr-lite")]
        assert sorted(row["quality"] for row in rows) == pytest.approx(sorted(expected), abs=1e-5)
        assert {row["image"] for row in rows} == set(paths)

    def test_what_a_row_lacks_is_its_error(self, cluster: None) -> None:
        rows = [{"image": None, "group": "g"}, {"image": "", "group": None}, {"image": "absent.png", "group": "g"}]
        found = score_dataset(ray.data.from_items(rows), ["nr-lite"]).take_all()
        assert sorted(row["error"] for row in found) == [
            "absent.png: No such file or directory", "the column 'image' is empty", "the column 'image' is empty",
        ]  # fmt: skip
        with pytest.raises(ValueError, match="the dataset has no column 'image'; it has: id"):
            next(_items({"id": np.arange(1)}))

    def test_unusable_arguments(self, cluster: None) -> None:
        with pytest.raises(ValueError, match="no metric given"):
            score_dataset(ray.data.range(1), [])
        with pytest.raises(ValueError, match="did you mean 'nr-lite'"):
            score_dataset(ray.data.range(1), "nr-lit")
        with pytest.raises(ValueError, match="dimension is one of quality; got 'qualty'"):
            score_dataset(ray.data.range(1), aigciqa.create_metric("nr-lite"), dimension="qualty")


@pytest.mark.slow
class TestKills:
    """Processes of a run on a cluster of its own that get SIGKILL or SIGTERM in the middle of it."""

    COUNT = 400

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("kills")
        (folder / "gen").mkdir()
        for index in range(self.COUNT):
            (folder / "gen" / f"{index:03}.png").write_bytes(png(index) if index % 50 else b"bad")
        assert call_command("gen", "-m", "nr-lite", "-o", "whole.parquet", cwd=folder).returncode == 1
        return folder

    @contextmanager
    def started(self, folder: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A run that has written some of its parts, but not half of them."""
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [*COMMAND, "gen", "-m", "nr-lite", "-o", name, "--engine", "ray", "--part-size", "5", *arguments]
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 240
            while len(list((folder / name).glob("part-*"))) < 4 and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.01)
            yield process

    def resumed(self, folder: Path, name: str) -> list[dict[str, Any]]:
        command = [*COMMAND, "gen", "-m", "nr-lite", "-o", name, "--engine", "ray", "--part-size", "5"]
        done = subprocess.run([*command, "--resume", "--quiet"], cwd=folder, check=False, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
        assert len(list((folder / name).iterdir())) == self.COUNT // 5
        return table(folder / name)

    def test_a_killed_actor_loses_and_doubles_nothing(self, folder: Path) -> None:
        with self.started(folder, "actors.parquet") as process:
            for _ in range(2):
                actor = actors(process.pid)[0]
                actor.kill()
                actor.wait(timeout=60)
                written = len(list((folder / "actors.parquet").glob("part-*")))
                assert written < self.COUNT // 5
                while len(list((folder / "actors.parquet").glob("part-*"))) < written + 3:  # the next one is at work
                    assert process.poll() is None
                    time.sleep(0.01)
            assert process.wait(timeout=240) == 1
        assert len(list((folder / "actors.parquet").iterdir())) == self.COUNT // 5
        assert_equal(table(folder / "actors.parquet"), table(folder / "whole.parquet"))

    def test_a_killed_driver_leaves_nothing_running_and_is_resumed(self, folder: Path) -> None:
        with self.started(folder, "driver.parquet") as process:
            family = psutil.Process(process.pid).children(recursive=True)
            assert family
            process.kill()
            assert process.wait(timeout=60) == -signal.SIGKILL
        assert len(list((folder / "driver.parquet").glob("part-*"))) < self.COUNT // 5
        assert_equal(self.resumed(folder, "driver.parquet"), table(folder / "whole.parquet"))
        _, alive = psutil.wait_procs(family, timeout=150)  # Ray's agents look for their raylet once in a while
        assert not alive

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_driver_that_is_asked_to_stop_stops(self, folder: Path, number: int, status: int) -> None:
        name = f"signal{number}.parquet"
        with self.started(folder, name) as process:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            _, said = process.communicate(timeout=120)
            assert process.returncode == status
        assert f"the rows so far are in {name}" in said.decode()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive
        assert len(list((folder / name).glob("part-*"))) < self.COUNT // 5


def actors(driver: int) -> list[psutil.Process]:
    """Processes that score for a driver."""
    family = psutil.Process(driver).children(recursive=True)
    return [each for each in family if each.is_running() and "MapWorker" in " ".join(each.cmdline())]
