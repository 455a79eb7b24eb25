"""Tar archives that are broken, odd or made to do harm: rows that say so, in little memory and time."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath

import pytest
from click.testing import CliRunner, Result

from aigciqa.cli import score, select
from aigciqa.scoring.maps import MapFolder
from tests.conftest import png, untrained
from tests.test_cli import table
from tests.test_remote import pack

#: What reading archives may take beside the process itself, and how long.
CEILING = 400 * 2**20
SECONDS = 120
#: Prints what archives give, a line each: name, size of the content, error. Memory above the ceiling is an error.
READ = """
import json, sys
import psutil
from aigciqa.scoring.sources import open_sources, opened
try:
    import resource
except ImportError:  # on Windows, whose own peak is looked at instead
    resource = None
process, ceiling = psutil.Process(), int(sys.argv[1])
before = process.memory_info()
if resource is not None:
    resource.setrlimit(resource.RLIMIT_AS, (before.vms + ceiling,) * 2)
for opener in open_sources(sys.argv[2:], sys.stdin.buffer, {}):
    for found in opener():
        for each in opened(found):
            print(json.dumps([each.item.image, len(each.item.content or b""), each.item.error]))
assert resource is not None or process.memory_info().peak_wset < before.rss + ceiling
"""

#: Name in the archive, bytes, error.
Row = tuple[str, int, "str | None"]
#: Bytes of an archive, or pieces of a compressed one, of which some are repeated.
Pieces = bytes | Sequence[bytes | tuple[bytes, int]]


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, changes: Mapping[int, bytes] | None = None) -> bytes:
    """A header block; the changes are bytes by their places."""
    entry = tarfile.TarInfo(name)
    entry.type = kind
    block = bytearray(entry.tobuf(tarfile.GNU_FORMAT)[-512:])
    block[124:136] = b"%011o\0" % size if 0 <= size < 8**11 else b"\x80" + size.to_bytes(11, "big", signed=True)
    if size < 0:
        block[124] = 0xFF
    for start, value in (changes or {}).items():
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(content), kind) + content + bytes(-len(content) % 512)


def longname(name: bytes) -> bytes:
    return member("name", name + b"\0", tarfile.GNUTYPE_LONGNAME)


def pax(*records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member("pax", b"".join(records), kind)


def record(key: bytes, value: bytes) -> bytes:
    """A record of a pax header."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d%s" % (length, rest)


def squeezed(*pieces: bytes | tuple[bytes, int]) -> bytes:
    """A gzip file: made in little time, whatever comes out of it."""
    squeezer, checksum, size = zlib.compressobj(1, wbits=-15), 0, 0
    packed = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff"]
    for piece in pieces:
        content, times = piece if isinstance(piece, tuple) else (piece, 1)
        packed.append(squeezer.flush(zlib.Z_FULL_FLUSH))  # what follows can be repeated
        packed.append((squeezer.compress(content) + squeezer.flush(zlib.Z_FULL_FLUSH)) * times)
        for _ in range(times):
            checksum = zlib.crc32(content, checksum)
        size += len(content) * times
    return b"".join((*packed, squeezer.flush(), struct.pack("<II", checksum, size & 0xFFFFFFFF)))


def read(folder: Path, archives: Mapping[str, Pieces]) -> dict[str, list[Row]]:
    """What is in archives, read by one process under the ceiling; in their rows each is called `a.tar`."""
    for name, pieces in archives.items():
        (folder / f"{name}.tar").write_bytes(pieces if isinstance(pieces, bytes) else squeezed(*pieces))
    return rows_of(*(folder / f"{name}.tar" for name in archives))


def rows_of(*paths: Path) -> dict[str, list[Row]]:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(CEILING), *map(str, paths)], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Row]] = {path.stem: [] for path in paths}
    for line in done.stdout.splitlines():
        name, size, error = json.loads(line)
        path = next(each for each in paths if name.startswith(str(each)))
        found[path.stem].append(
            (name.replace(str(path), "a.tar", 1), size, error and error.replace(str(path), "a.tar"))
        )
    return found


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(score.main, arguments)


IMAGE = png(1)
GOOD, END = member("good.png", IMAGE), bytes(1024)
GOOD_ROW = ("a.tar/good.png", len(IMAGE), None)
#: The mebibyte of which large contents are made.
MIB = 2**20
ZEROS, IMAGE_THEN_ZEROS = bytes(MIB), IMAGE + bytes(MIB - len(IMAGE))
#: 1 TiB, as headers have it in base 256.
TIB = b"\x80" + (2**40).to_bytes(11, "big")
SPARSE = "a.tar/a.png: a sparse file: pack it without --sparse"
LONG_HEADER = "a.tar: an extended header of more than 1,048,576 bytes"
NO_SIZE = "a.tar: broken header: a size that no file has"
TORN = "a.tar: unexpected end of data"
NO_RECORDS = "a.tar: broken pax header"
NO_LINKS = "a link, and links are not followed: pack the image itself (tar --dereference --hard-dereference)"
TWICE = "the archive holds this name more than once, and only the first is scored"
NO_NAME = "its name leads out of the archive, or is no name of a file"

PASSED_OVER: dict[str, tuple[Pieces, str]] = {
    "holes": (header("a.png", 512, tarfile.GNUTYPE_SPARSE, {483: TIB}) + bytes(512), SPARSE),
    "a map of 512 MiB": (
        [
            header("a.png", 512, tarfile.GNUTYPE_SPARSE, {482: b"\1"}),
            ((b"1" * 504 + b"\1" + bytes(7)) * 2048, 512),
            bytes(1024),
        ],
        SPARSE,
    ),
    "sparse, no size": (pax(record(b"GNU.sparse.size", b"abc")) + member("a.png", b"x"), SPARSE),
    "sparse, many digits": (pax(record(b"GNU.sparse.size", b"9" * 5000)) + member("a.png", b"x"), SPARSE),
    "sparse, no map": (pax(record(b"GNU.sparse.map", b"0,x")) + member("a.png", b"x"), SPARSE),
    "sparse, version 1.0": (
        pax(
            record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.minor", b"0"), record(b"GNU.sparse.name", b"a.png"),
            record(b"GNU.sparse.realsize", b"%d" % 2**40),
        )
        + member("GNUSparseFile.0/a.png", b"1000000000\n" + b"0\n" * 5000),
        SPARSE,
    ),
    "zeros": (
        [header("a.png", 500 * MIB), (ZEROS, 500)],
        "a.tar/a.png: not an image in a format that can be read (PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM, MPO, AVIF, "
        "JPEG2000)",
    ),
    "an image, then zeros": (
        [header("a.png", 300 * MIB), IMAGE_THEN_ZEROS, (ZEROS, 299)],
        "a.tar/a.png: 314,572,800 bytes are more than an image of 5,600 pixels needs",
    ),
    "the start of an image, then zeros": (
        [header("a.png", 300 * MIB), IMAGE[:8] + ZEROS[8:], (ZEROS, 299)],
        "a.tar/a.png: 314,572,800 bytes are more than an image that does not start with its size in pixels needs",
    ),
}  # fmt: skip

ENDED: dict[str, tuple[Pieces, str]] = {
    "a pax header of 512 MiB": ([header("pax", 512 * MIB, tarfile.XHDTYPE), (ZEROS, 512)], LONG_HEADER),
    "a global one": ([header("pax", 512 * MIB, tarfile.XGLTYPE), (ZEROS, 512)], LONG_HEADER),
    "a long name": ([header("name", 512 * MIB, tarfile.GNUTYPE_LONGNAME), (ZEROS, 512)], LONG_HEADER),
    "many pax headers": ([(pax(record(b"x", b"x" * 2**19)), 500), member("a.png", b"x")], LONG_HEADER),
    "many global ones": (
        [(pax(record(b"x", b"x" * 2**19), kind=tarfile.XGLTYPE), 500), member("a.png", b"x")],
        LONG_HEADER,
    ),
    "many empty ones": ([(pax(record(b"x", b"x")) * 1000, 200), member("a.png", b"x")], LONG_HEADER),
    "a negative size": (header("a.png", -512) + END, NO_SIZE),
    "a negative size of a header": (header("pax", -512, tarfile.XHDTYPE) + END, NO_SIZE),
    "a negative size in pax": (pax(record(b"size", b"-512")) + member("a.png", b"x"), NO_SIZE),
    "many digits in pax": (pax(record(b"size", b"9" * 5000)) + member("a.png", b"x"), NO_SIZE),
    "a size above all": (header("a.txt", 2**80), NO_SIZE),
    "a lie in pax": (pax(record(b"size", b"999999999")) + member("a.png", b"x"), TORN),
    "a record without value": (pax(b"5 x\n") + member("a.png", b"x"), NO_RECORDS),
    "a record past its end": (pax(b"99999 x=y\n") + member("a.png", b"x"), NO_RECORDS),
    "a record of no length": (pax(b"0 x=y\n") + member("a.png", b"x"), NO_RECORDS),
    "a lie": (header("a.png", 2**30), TORN),
    "a lie passed over": (header("a.txt", 2**33), TORN),
    "a lie in compressed data": ([header("a.txt", 2**33)], TORN),
    "a header broken": (header("b.png", 0)[:-1] + b"x" + END, "a.tar: bad checksum"),
    "a header cut": (header("a.png", 0)[:300], TORN),
    "no end": (header("a.txt", 0), "a.tar: its end mark is missing: it may have been cut"),
    "two archives": (
        END + GOOD + END,
        "a.tar: it goes on after its end mark: of archives put together, the first is read",
    ),
}  # fmt: skip

ODD: dict[str, tuple[bytes, str, str | None]] = {
    "hard link": (header("a.png", 0, tarfile.LNKTYPE), "a.tar/a.png", NO_LINKS),
    "symbolic link": (header("a.png", 0, tarfile.SYMTYPE), "a.tar/a.png", NO_LINKS),
    "fifo": (header("a.png", 0, tarfile.FIFOTYPE), "a.tar/a.png", "not a regular file"),
    "character device": (header("a.png", 0, tarfile.CHRTYPE), "a.tar/a.png", "not a regular file"),
    "block device": (header("a.png", 0, tarfile.BLKTYPE), "a.tar/a.png", "not a regular file"),
    "unknown": (member("a.png", b"x", b"Z"), "a.tar/a.png", "not a regular file"),
    "nested": (
        member("b.tar", GOOD + END), "a.tar/b.tar", "an archive in an archive is not opened: unpack it",
    ),
    "duplicate": (member("good.png", IMAGE), "a.tar/good.png", TWICE),
    "duplicate in other words": (member("././/good.png", IMAGE), "a.tar/././/good.png", TWICE),
    "above": (member("../x.png", IMAGE), "a.tar", f"'../x.png': {NO_NAME}"),
    "above from below": (member("x/../../x.png", IMAGE), "a.tar", f"'x/../../x.png': {NO_NAME}"),
    "above on Windows": (member("x\\..\\..\\x.png", IMAGE), "a.tar", f"'x\\\\..\\\\..\\\\x.png': {NO_NAME}"),
    "NUL": (pax(record(b"path", b"a\0b.png")) + member("a.png", IMAGE), "a.tar", f"'a\\x00b.png': {NO_NAME}"),
    "too long": (longname(b"x" * 5000 + b".png") + member("x", IMAGE), "a.tar", f"'{'x' * 100}': {NO_NAME}"),
    "long": (longname(b"y" * 3000 + b".png") + member("x", IMAGE), f"a.tar/{'y' * 3000}.png", None),
    "absolute": (member("/etc/a.png", IMAGE), "a.tar//etc/a.png", None),
    "drive": (member("C:\\a.png", IMAGE), "a.tar/C:\\a.png", None),
    "not UTF-8": (longname(b"\xff.png") + member("x", IMAGE), "a.tar/\udcff.png", None),
    "UTF-8 in pax": (pax(record(b"path", "\u00e4.png".encode())) + member("x", IMAGE), "a.tar/\u00e4.png", None),
    "global comment": (
        pax(record(b"comment", b"x"), kind=tarfile.XGLTYPE) + member("a.png", IMAGE), "a.tar/a.png", None,
    ),
}  # fmt: skip
#: Members that are no images.
SILENT = {
    "folder": header("dir.png/", 0, tarfile.DIRTYPE),
    "hidden": member("._a.png", IMAGE),
    "hidden archive": member("x/._b.tar", IMAGE),
}


class TestReading:
    """Of archives, in a process that is given little memory and time."""

    def test_what_can_be_passed_over_is_an_error_row(self, tmp_path: Path) -> None:
        archives: dict[str, Pieces] = {
            name: what + GOOD + END if isinstance(what, bytes) else [*what, GOOD, END]
            for name, (what, _) in PASSED_OVER.items()
        }
        assert read(tmp_path, archives) == {
            name: [("a.tar/a.png", 0, error), GOOD_ROW] for name, (_, error) in PASSED_OVER.items()
        }

    def test_what_ends_an_archive_is_a_row_after_its_good_images(self, tmp_path: Path) -> None:
        archives: dict[str, Pieces] = {
            name: GOOD + what if isinstance(what, bytes) else [GOOD, *what] for name, (what, _) in ENDED.items()
        }
        found = read(tmp_path, archives | {"last": GOOD + END})
        assert found == {name: [GOOD_ROW, ("a.tar", 0, error)] for name, (_, error) in ENDED.items()} | {
            "last": [GOOD_ROW]
        }

    def test_what_is_no_plain_image_is_said(self, tmp_path: Path) -> None:
        archives = {name: GOOD + what + END for name, (what, _, _) in ODD.items()}
        expected = {
            name: [GOOD_ROW, (image, 0 if problem else len(IMAGE), problem and f"{image}: {problem}")]
            for name, (_, image, problem) in ODD.items()
        }
        silent = {name: GOOD + what + END for name, what in SILENT.items()}
        assert read(tmp_path, archives | silent) == expected | {name: [GOOD_ROW] for name in silent}

    def test_what_no_image_can_have_is_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tar"
        with path.open("wb") as stream:
            stream.write(header("a.png", 1500 * MIB) + IMAGE)
            stream.seek(512 + 1500 * MIB)  # a hole, so that little is written
            stream.write(GOOD + END)
        error = "a.tar/a.png: 1,572,864,000 bytes are more than the 1,431,655,760 allowed"
        assert rows_of(path) == {"a": [("a.tar/a.png", 0, error), GOOD_ROW]}

    def test_a_sample_is_not_held_whatever_it_has(self, tmp_path: Path) -> None:
        names, size = ("a.png", "a.PNG", "a.Png", "a.pNg"), 100 * MIB
        pieces = [piece for name in names for piece in (header(name, size), IMAGE_THEN_ZEROS, (ZEROS, 99))]
        error = "with the others of its sample it has more than 268,435,456 bytes"
        assert read(tmp_path, {"a": [*pieces, END]})["a"] == [
            ("a.tar/a.png", size, None), ("a.tar/a.PNG", size, None),
            ("a.tar/a.Png", 0, f"a.tar/a.Png: {error}"), ("a.tar/a.pNg", 0, f"a.tar/a.pNg: {error}"),
        ]  # fmt: skip

    def test_one_name_may_occur_as_often_as_it_likes(self, tmp_path: Path) -> None:
        rows = read(tmp_path, {"a": [(GOOD, 2_000), END]})["a"]
        assert rows == [GOOD_ROW] + 1_999 * [("a.tar/good.png", 0, f"a.tar/good.png: {TWICE}")]

    @pytest.mark.slow
    def test_a_hundred_thousand_members(self, tmp_path: Path) -> None:
        images = b"".join(member(f"{number}.png", b"x") for number in range(5_000))
        rows = read(tmp_path, {"a": [(member("a.json", b"{}") * 1000, 100), images, END]})["a"]
        assert rows == [(f"a.tar/{number}.png", 1, None) for number in range(5_000)]

    def test_whole_archives_are_read_and_torn_ones_noticed(self, tmp_path: Path) -> None:
        contents = {"whole": GOOD + END + bytes(9216), "whole enough": GOOD + bytes(512), "cut": GOOD}
        archives: dict[str, Pieces] = {
            f"{name} {number}": pack(content)
            for number, pack in enumerate([bytes, gzip.compress, bz2.compress, lzma.compress])
            for name, content in contents.items()
        }
        expected = {
            name: [GOOD_ROW, *([("a.tar", 0, ENDED["no end"][1])] if name.startswith("cut") else [])]
            for name in archives
        }
        whole = gzip.compress(GOOD + END)
        early = "a.tar: Compressed file ended before the end-of-stream marker was reached"
        for name, content, error in (
            ("gzip without its checksum", whole[:-8], early),
            ("gzip with half of its checksum", whole[:-3], early),
            ("gzip with a wrong length", whole[:-4] + b"\0\0\0\1", "a.tar: Incorrect length of data produced"),
            ("xz without its end", lzma.compress(GOOD + END)[:-20], "a.tar: compressed data ends early"),
        ):
            archives[name] = content
            expected[name] = [GOOD_ROW, ("a.tar", 0, error)]
        others = {"empty": (b"", "a.tar: empty file"), "text": (b"no archive", "a.tar: no tar archive")}
        archives |= {name: data for name, (data, _) in others.items()}
        assert read(tmp_path, archives) == expected | {name: [("a.tar", 0, text)] for name, (_, text) in others.items()}

    def test_a_wrong_checksum_of_gzip_is_noticed(self, tmp_path: Path) -> None:
        whole = gzip.compress(GOOD + END)
        good, (_, _, error) = read(tmp_path, {"a": whole[:-8] + bytes(4) + whole[-4:]})["a"]
        assert good == GOOD_ROW
        assert str(error).startswith("a.tar: CRC check failed")

    def test_xz_may_not_take_more_memory_than_there_is(self, tmp_path: Path) -> None:
        content = bytearray(lzma.compress(GOOD + END))
        end = 12 + (content[12] + 1) * 4  # of the block's header, whose last four bytes are its checksum
        content[content.index(b"\x21\x01", 12, end) + 2] = 40  # a dictionary of 4 GiB
        content[end - 4 : end] = struct.pack("<I", zlib.crc32(content[12 : end - 4]))
        assert read(tmp_path, {"a": bytes(content)}) == {"a": [("a.tar", 0, "a.tar: xz: Memory usage limit exceeded")]}


class TestReferences:
    """That stand elsewhere in the archive than beside their image, or can't be read."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        return pack(tmp_path / "a.tar", a_png=png(1), b_png=png(2), a_reference_png=png(3), b_reference_png=png(4))

    def test_images_are_error_rows_and_not_scored_by_another_metric(self, path: str) -> None:
        for arguments in ([path], [path, "-m", "fr-lite"]):
            done = invoke(*arguments)
            assert done.exit_code == 1
            rows = table(done.stdout)
            assert [(row["image"], row["metric"]) for row in rows] == [
                (f"{path}/{name}.png", "fr-lite") for name in "ab"
            ]
            problem = "no a.reference.* beside it in the archive: pack it with tar --sort=name"
            assert rows[0]["error"] == f"{path}/a.png: {problem}"

    def test_metrics_that_take_none_do_not_mind(self, path: str) -> None:
        done = invoke(path, "-m", "nr-lite")
        assert done.exit_code == 0
        assert [row["error"] for row in table(done.stdout)] == ["", ""]

    def test_a_folder_of_references_serves_archives(self, path: str, tmp_path: Path) -> None:
        (tmp_path / "ref").mkdir()
        for name in "ab":
            (tmp_path / "ref" / f"{name}.png").write_bytes(png(3))
        done = invoke(path, "-r", str(tmp_path / "ref"))
        assert done.exit_code == 0, done.stdout
        assert {row["metric"] for row in table(done.stdout)} == {"fr-lite"}

    @pytest.mark.parametrize(
        ("what", "problem"),
        [
            (header("a.reference.png", 0, tarfile.SYMTYPE), f"reference a.reference.png: {NO_LINKS}"),
            (member("a.reference.png", png(3)) + member("a.reference.jpg", png(4)), "it has 2 references"),
            (member("a.reference.png", png(3)) * 2, f"reference a.reference.png: {TWICE}"),
        ],
    )
    def test_what_is_wrong_with_one_is_said(self, tmp_path: Path, what: bytes, problem: str) -> None:
        path = tmp_path / "a.tar"
        path.write_bytes(member("a.png", IMAGE) + what + END)
        (row,) = table(invoke(str(path)).stdout)
        assert row["metric"] == "fr-lite"
        assert row["error"] == f"{path}/a.png: {problem}"


class TestNames:
    """Of members never lead out of the folders that are written."""

    def test_maps_selected_images_and_thumbnails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        here = tmp_path / "above" / "here"
        here.mkdir(parents=True)
        monkeypatch.chdir(here)
        leading_out = ("../up.png", "x/../../up.png", "x\\..\\..\\up.png")
        staying = ("/abs.png", "C:\\drive.png", "C:drive.png", "//host/share/x.png", "a.png")
        Path("a.tar").write_bytes(b"".join(member(name, IMAGE) for name in leading_out + staying) + END)
        for name in ("up.png", "abs.png"):
            (here.parent / name).write_bytes(b"keep")
            (here / name).write_bytes(IMAGE)
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        assert invoke("a.tar", "-m", "nr-lite", "--maps", "maps", "-o", "t.csv", "--report", "t.html").exit_code == 1
        done = CliRunner().invoke(select.main, ["t.csv", "--to", "to", "--apply", "--min", "0"])
        assert done.exit_code == 1
        assert f"{len(staying)} no such file any more" in done.stderr
        new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
        assert all(path.is_relative_to(here) for path in new)
        assert {path.relative_to(here).parts[0] for path in new} == {"maps", "t.csv", "t.csv.meta.json", "t.html"}
        assert len([path for path in new if path.is_relative_to(here / "maps")]) == 3 * len(staying)
        assert (here.parent / "up.png").read_bytes() == b"keep"

    @pytest.mark.parametrize("image", ["a.tar/C:/x.png", "a.tar/C:x.png", "C:x.png", "C:/x.png", "//host/share/x.png"])
    def test_maps_on_windows(self, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = MapFolder(str(tmp_path / "maps"), [untrained("nr-resnet18")])
        monkeypatch.setattr("aigciqa.scoring.maps.PurePath", PureWindowsPath)
        monkeypatch.setattr(folder, "folder", PureWindowsPath("D:/maps"))
        path = folder._path(image, 1, "nr-resnet18")
        assert path.is_relative_to("D:/maps")
        assert ":" not in str(path)[2:]
