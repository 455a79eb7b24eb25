"""Images in object stores and in tar archives, scored by the local engine."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import aigciqa
from aigciqa.cli import score
from aigciqa.cli.main import main
from aigciqa.errors import InputError, SourceError
from aigciqa.images.decode import load_content, load_image
from aigciqa.integrations.onnx import export_onnx
from aigciqa.report.page import check_target
from aigciqa.scoring import archives, decoding
from aigciqa.scoring.maps import MapFolder
from aigciqa.scoring.parts import Parts
from aigciqa.tables.columns import columns_of, to_row
from aigciqa.tables.scores import read_table
from aigciqa.utils import object_stores
from aigciqa.utils.memory import Share
from tests.conftest import Watch, draw, png, untrained
from tests.test_cli import table

Write = Callable[..., list[str]]


def invoke(*arguments: str, status: int = 0) -> list[dict[str, str]]:
    """Rows that the command prints."""
    done = CliRunner().invoke(score.main, [*arguments, "-m", "nr-lite"])
    assert done.exit_code == status, done.stderr
    return table(done.stdout)


def pack(path: Path, **members: bytes) -> str:
    """A tar archive of members, whose names are written with `__` for a slash and `_` for a dot."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name.replace("__", "/").replace("_", "."))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return str(path)


class TestContent:
    """Images in memory go the way of files."""

    def test_bytes_are_decoded_as_a_file_is(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(png(1))
        assert load_content(png(1), "a") == load_image(path)

    @pytest.mark.parametrize("content", [b"", b"no image", png(1)[:900]])
    def test_errors_are_those_of_files(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(content)
        with pytest.raises(aigciqa.ImageError) as of_file:
            load_image(path)
        with pytest.raises(aigciqa.ImageError) as of_bytes:
            load_content(content, str(path))
        assert str(of_bytes.value) == str(of_file.value)

    def test_what_is_too_long_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aigciqa.images.reading.MAX_BYTES", 100)
        with pytest.raises(aigciqa.ImageError, match=r"x: .* bytes are more than the 100 allowed"):
            load_content(png(1), "x")

    def test_items_may_carry_bytes_and_pixels(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(png(1))
        pixels = draw(70, 80, 1)
        items = [
            aigciqa.Item(str(path), str(path)),
            aigciqa.Item("bytes", content=png(1), reference_content=png(1)),
            aigciqa.Item("pixels", content=pixels, reference_content=pixels),
            aigciqa.Item("wrong", str(path), content=np.zeros((4, 4, 4), np.uint8)),
            aigciqa.Item("lone", content=pixels),
        ]
        records = list(aigciqa.score_files(items, metric="fr-lite"))
        assert records[0].scores == records[1].scores == records[2].scores
        assert records[3].error == "wrong: expected an array (H, W, 3), or (H, W) for grey; got shape (4, 4, 4)"
        assert records[4].error == "lone: no reference given, and fr-lite needs one"

    def test_equal_references_in_memory_are_decoded_once(self, watch: Watch) -> None:
        decoded = watch(decoding, "load_content")
        items = [aigciqa.Item(str(n), content=png(n), reference_content=png(9)) for n in range(3)]
        assert all(record.error is None for record in aigciqa.score_files(items, metric="fr-lite"))
        assert len(decoded) == 4


class TestArchives:
    def test_images_of_an_archive_are_scored_in_its_order(self, write_images: Write, tmp_path: Path) -> None:
        path = pack(tmp_path / "a.tar", x__2_png=png(2), x__2_json=b"{}", x__1_PNG=png(1), x__bad_jpg=b"no", notes=b"n")
        rows = invoke(path, "--group-by", "parent", status=1)
        assert [row["image"] for row in rows] == [f"{path}/x/2.png", f"{path}/x/1.PNG", f"{path}/x/bad.jpg"]
        assert {row["group"] for row in rows} == {"x"}
        assert rows[2]["error"].startswith(f"{path}/x/bad.jpg: not an image")
        (tmp_path / "2.png").write_bytes(png(2))
        of_file = invoke(str(tmp_path / "2.png"))[0]
        assert float(rows[0]["quality"]) == pytest.approx(float(of_file["quality"]), abs=1e-5)

    def test_a_sample_may_bring_its_reference(self, tmp_path: Path) -> None:
        path = pack(tmp_path / "a.tar", a_png=png(1), a_reference_png=png(2), b_png=png(1))
        done = CliRunner().invoke(score.main, [path])
        assert done.exit_code == 1
        rows = table(done.stdout)
        assert {row["metric"] for row in rows} == {"fr-lite"}
        assert [row["reference"] for row in rows] == [f"{path}/a.reference.png", ""]
        assert [bool(row["error"]) for row in rows] == [False, True]

    def test_names_may_have_more_dots(self) -> None:
        names = (
            "._x.png", "0/a.jpg", "0/a.mask.png", "0/a.reference.jpg", "0/b.json", "cat.final.png", "sd1.5_1.png",
            "sd1.5_1.reference.png", "sd1.5_2.png", "sd1.png", "sd1.reference.png",
        )  # fmt: skip
        members = [(name, name.encode()) for name in names if archives.is_image(name)]
        found = list(archives.images_of(members, bytes))
        assert {image.name: image.reference for image in found} == {
            "0/a.jpg": "0/a.reference.jpg", "0/a.mask.png": None, "cat.final.png": None,
            "sd1.5_1.png": "sd1.5_1.reference.png", "sd1.5_2.png": None, "sd1.png": "sd1.reference.png",
        }  # fmt: skip
        for image in found:
            assert image.content == image.name.encode()
            assert image.reference_content == (image.reference.encode() if image.reference else None)

    def test_no_more_than_two_samples_are_held(self) -> None:
        read: list[str] = []

        def members() -> Iterator[tuple[str, bytes]]:
            for number in range(20):
                read.append(f"sd1.5_{number}.png")
                yield read[-1], b""

        for number, image in enumerate(archives.images_of(members(), bytes)):
            assert image.name == f"sd1.5_{number}.png"
            assert len(read) <= number + 2

    @pytest.mark.parametrize("prefix", ["", "./"])
    def test_references_of_a_folder_are_matched_by_the_name_in_the_archive(self, tmp_path: Path, prefix: str) -> None:
        path = tmp_path / "a.tar"
        for folder, seed in (("x", 2), ("y", 3)):
            (tmp_path / "ref" / folder).mkdir(parents=True)
            (tmp_path / "ref" / folder / "a.png").write_bytes(png(seed))
        with tarfile.open(path, "w") as archive:
            archive.add(tmp_path / "ref" / "x" / "a.png", f"{prefix}x/a.png")
        done = CliRunner().invoke(score.main, [str(path), "-r", str(tmp_path / "ref")])
        assert done.exit_code == 0, done.output
        assert table(done.stdout)[0]["reference"] == str(tmp_path / "ref" / "x" / "a.png")

    def test_what_is_wrong_with_an_archive_is_a_row(self, tmp_path: Path) -> None:
        whole = Path(pack(tmp_path / "whole.tar", a_png=png(1), b_png=png(2)))
        (tmp_path / "torn.tar").write_bytes(whole.read_bytes()[: 512 * (len(png(1)) // 512 + 4)])
        (tmp_path / "no.tar").write_bytes(b"no archive" * 100)
        pack(tmp_path / "empty.tar", a_txt=b"text")
        names = ["torn", "no", "empty", "absent"]
        rows = invoke(*(str(tmp_path / f"{name}.tar") for name in names), str(whole), status=1)
        errors = [row["error"].removeprefix(f"{tmp_path}/") for row in rows]
        assert errors[0] == ""
        assert errors[1] == "torn.tar: unexpected end of data"
        assert errors[2].startswith("no.tar: ")
        assert errors[3:5] == ["empty.tar: no images in it", "absent.tar: No such file or directory"]
        assert errors[5:] == ["", ""]

    def test_references_may_come_after_what_has_none(self, tmp_path: Path) -> None:
        (tmp_path / "torn.tar").write_bytes(b"no archive" * 100)
        paths = [str(tmp_path / "torn.tar"), pack(tmp_path / "a.tar", a_png=png(1), a_reference_png=png(2))]
        for arguments in (paths, [*paths, "-m", "fr-lite"], [pack(tmp_path / "b.tar", _0_png=png(1)), "-m", "fr-lite"]):
            done = CliRunner().invoke(score.main, arguments)
            assert done.exit_code == 1, done.stderr
            assert {row["metric"] for row in table(done.stdout)} == {"fr-lite"}

    def test_maps_keep_no_image_that_was_scored_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path = pack(tmp_path / "a.tar", a_png=png(1), b_png=png(2))
        watched = watch(MapFolder, "watch")
        for resume in ([], ["--resume"]):
            assert not invoke(path, "-o", "t.csv", "--maps", "maps", *resume)
            assert watched[-1].args[0].contents == {}


class TestObjectStore:
    """S3 as moto speaks it, on loopback."""

    @pytest.fixture(scope="class")
    def bucket(self) -> Iterator[str]:
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/images", method="PUT")).close()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_ENDPOINT_URL", endpoint)
            object_stores._filesystem.cache_clear()  # the server is another one if a worker comes back
            filesystem, _ = object_stores.resolve("s3://images")
            contents = {"gen/b.png": png(2), "gen/a c?#%20.png": png(1), "gen/x/d.png": b"no", "gen/n.txt": b"n"}
            contents |= {"ref/b.png": png(3), "ref/a c?#%20.png": png(4)}
            for key, content in contents.items():
                with filesystem.open_output_stream(f"images/{key}") as file:
                    file.write(content)
            yield "s3://images"
        server.stop()

    def test_folders_of_images(self, bucket: str) -> None:
        rows = invoke(f"{bucket}/gen", status=1)
        names = [f"{bucket}/gen/{name}" for name in ("a c?#%20.png", "b.png", "x/d.png")]
        assert [row["image"] for row in rows] == names
        assert [bool(row["error"]) for row in rows] == [False, False, True]
        assert rows[2]["error"].startswith(f"{bucket}/gen/x/d.png: not an image")
        assert len(invoke(bucket, status=1)) == 5

    def test_a_folder_that_can_not_be_listed_is_a_row(self, bucket: str, watch: Watch) -> None:
        watch(object_stores, "files_below", OSError("AWS Error ACCESS_DENIED"))
        rows = invoke(f"{bucket}/gen", f"{bucket}/gen/b.png", status=1)
        assert [row["error"] for row in rows] == [f"{bucket}/gen: AWS Error ACCESS_DENIED", ""]

    def test_references(self, bucket: str) -> None:
        done = CliRunner().invoke(score.main, [f"{bucket}/gen/b.png", "-r", f"{bucket}/ref"])
        assert done.exit_code == 0, done.output
        assert table(done.stdout)[0]["reference"] == f"{bucket}/ref/b.png"

    def test_archives(self, bucket: str, tmp_path: Path) -> None:
        filesystem, name = object_stores.resolve(f"{bucket}/a.tar")
        with filesystem.open_output_stream(name) as file:
            file.write(Path(pack(tmp_path / "a.tar", a_png=png(1))).read_bytes())
        assert [row["image"] for row in invoke(f"{bucket}/a.tar")] == [f"{bucket}/a.tar/a.png"]

    def test_objects_wait_for_room_in_the_budget_before_they_are_read(self, bucket: str, watch: Watch) -> None:
        taken = watch(Share, "take")
        invoke(f"{bucket}/gen/b.png")
        share, size = taken[0].args
        assert (share.kind, size) == ("read", len(png(2)))

    def test_urls_in_a_manifest(self, bucket: str, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_text(f"image\n{bucket}/gen/b.png\n")
        assert [row["image"] for row in invoke(str(tmp_path / "list.csv"))] == [f"{bucket}/gen/b.png"]

    def test_tables_in_parts(self, bucket: str) -> None:
        parts = Parts(f"{bucket}/out/scores.parquet", columns_of(["quality"]), {"format": 1})
        parts.begin(keep=True)
        rows = [
            to_row(aigciqa.Record(f"{n}.png", None, None, "m", {"quality": n / 8}), parts.columns) for n in range(3)
        ]
        assert parts.read(1) is None
        for number in (0, 1, 1):
            parts.write(number, rows)
        assert parts.read(1) == rows
        assert object_stores.names_in(parts.path) == ["part-00000000.parquet", "part-00000001.parquet"]
        parts.check(2)
        with pytest.raises(SourceError, match=r"is of another run: it has part-00000001.parquet, this run 1 parts"):
            parts.check(1)
        with pytest.raises(SourceError, match="is of another run: its columns are image, "):
            Parts(parts.path, columns_of(["overall"]), {"format": 1}).read(0)
        parts.begin(keep=False)
        assert object_stores.names_in(parts.path) == []

    def test_what_is_not_there_is_a_row(self, bucket: str) -> None:
        row = invoke(f"{bucket}/none.png", status=1)[0]
        assert row["error"].startswith(f"{bucket}/none.png: ")
        assert "does not exist" in row["error"]


def test_a_table_in_parts_is_a_table_and_a_manifest(write_images: Write, tmp_path: Path) -> None:
    parts = Parts(str(tmp_path / "scores.parquet"), columns_of(["quality"]), {"format": 1})
    parts.begin(keep=False)
    images = write_images("gen", "a.png", "b.png", "c.png")
    rows = [to_row(aigciqa.Record(image, None, "g", "m", {"quality": 2.5}), parts.columns) for image in images]
    parts.write(1, rows[2:])
    parts.write(0, rows[:2])
    (tmp_path / "scores.parquet" / ".part-00000002.parquet.0a").write_bytes(b"torn")
    parts.finish()
    assert object_stores.names_in(parts.path) == ["part-00000000.parquet", "part-00000001.parquet"]
    assert list(read_table(parts.path).rows) == rows
    assert [(row["image"], row["group"]) for row in invoke(f"{parts.path}/")] == [(image, "g") for image in images]


def test_urls() -> None:
    assert all(map(object_stores.is_url, ["s3://b/k", "gs://b", "file:///tmp/x", "abfs://c@a/x"]))
    assert not any(map(object_stores.is_url, ["a.png", "/a//b", "C:/x", "s3:/x", "a b://x"]))
    assert object_stores.resolve("file:///tmp/a%20b")[1] == "/tmp/a%20b"
    with pytest.raises(OSError, match="Unrecognized filesystem type"):
        object_stores.resolve("nosuch://x/y")
    with pytest.raises(aigciqa.ImageError, match="nosuch://x/y: Unrecognized filesystem"):
        load_image("nosuch://x/y")


def test_without_pyarrow_urls_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(aigciqa.ImageError, match=r"pip install 'aigciqa\[ray\]'"):
        load_image("s4://x/y")


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "a.png", "-o", "file:///t.csv"],
        ["score", "a.png", "-o", "file:///t.parquet"],
        ["score", "a.png", "--report", "file:///r.html"],
        ["score", "a.png", "--maps", "file:///maps"],
        ["compare", "t.csv", "--by", "group", "-o", "file:///c.csv"],
        ["select", "t.csv", "-o", "file:///s.csv"],
        ["select", "t.csv", "--to", "file:///best", "--apply"],
        ["fit", "t.csv", "-o", "file:///fitted"],
        ["convert", "a.png", "-m", "nr-resnet18", "-d", "quality", "-o", "file:///converted"],
    ],
)
def test_outputs_are_no_urls(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They went into a folder called `file:`, without a word."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("a.png")
    Path("t.csv").write_text("image,group,quality\na.png,x,1\na.png,y,2\n")
    done = CliRunner().invoke(main, [each.replace("file://", f"file://{tmp_path}") for each in arguments])
    assert done.exit_code == 2
    assert "but a URL" in " ".join(done.output.split())
    assert sorted(os.listdir()) == ["a.png", "t.csv"]


def test_a_table_and_a_report_are_no_urls() -> None:
    with pytest.raises(InputError, match="but a URL"):
        aigciqa.score_to_file([], "s3://bucket/t.csv", metric="nr-lite")
    with pytest.raises(InputError, match="but a URL"):
        check_target("s3://bucket/r.html")


def test_a_checkpoint_is_saved_and_exported_to_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metric = untrained("nr-resnet18")
    with pytest.raises(InputError, match="but a URL"):
        metric.save_pretrained("s3://bucket/metric")
    with pytest.raises(InputError, match="but a URL"):
        export_onnx(metric, "s3://bucket/metric.onnx")
    assert os.listdir() == []
