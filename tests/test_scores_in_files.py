"""Scores in files and in sidecars: what is written, what stays, what is refused."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image, ImageCms, ImageSequence
from PIL.PngImagePlugin import PngInfo

import aigciqa
from aigciqa.cli import score
from aigciqa.errors import ImageError, InputError
from aigciqa.images.chunks import jpeg_segments, png_chunks, webp_chunks
from aigciqa.images.decode import load_content
from aigciqa.images.xmp import XMP, read_properties
from aigciqa.scoring import scores_in_files
from aigciqa.scoring.scores_in_files import NAMESPACE, stars_of
from aigciqa.scoring.sources import walk
from aigciqa.scoring.watching import _may_matter
from tests.conftest import draw
from tests.test_files import chunk, encoded, interlaced_png

Write = Callable[..., list[str]]
SOURCE = ("http://purl.org/dc/elements/1.1/", "source")
RATING, STARS, LITE = (XMP, "Rating"), (NAMESPACE, "stars"), (NAMESPACE, "nr-lite")
EXIFTOOL = "exiftool"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

PIXELS = draw(40, 44)
RGB = Image.fromarray(PIXELS)
RGBA = RGB.copy()
RGBA.putalpha(RGB.convert("L"))
FRAMES = {"save_all": True, "append_images": [RGB.rotate(180), RGB.rotate(90, expand=False)]}
PNG = encoded(RGB, "PNG")
PARAMETERS = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: m"
#: As another program writes it.
OTHERS_XMP = (
    "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>"
    "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    "<rdf:Description rdf:about='' xmlns:dc='http://purl.org/dc/elements/1.1/' dc:source='there' "
    "xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation='3'/></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
).encode()


def texts(*, xmp: bool = False, deflated: bool = False) -> PngInfo:
    """What AUTOMATIC1111 and ComfyUI write into a PNG."""
    info = PngInfo()
    info.add_text("parameters", PARAMETERS)
    info.add_itxt("workflow", json.dumps({"nodes": ["猫"] * 9}), zip=True)
    info.add_text("prompt", '{"3": {}}', zip=True)
    if xmp:
        info.add_itxt("XML:com.adobe.xmp", OTHERS_XMP.decode(), zip=deflated)
    return info


def exif(orientation: int = 1) -> bytes:
    made = Image.Exif()
    made[0x0112], made[0x010E] = orientation, "a cat"
    return made.tobytes()


def images() -> dict[str, bytes]:
    """Name with suffix -> a file of the kind that it names."""
    deep = draw(40, 44).astype(np.uint16)[:, :, 0] * 257
    palette = RGB.quantize(40)
    return {
        "rgb.png": encoded(RGB, "PNG", exif=exif(6), icc_profile=SRGB, dpi=(72, 72)),
        "palette.png": encoded(palette, "PNG", transparency=3),
        "16 bits.png": encoded(Image.fromarray(deep), "PNG"),
        "interlaced.png": interlaced_png(),
        "animated.png": encoded(RGB, "PNG", **FRAMES),
        "texts.png": encoded(RGB, "PNG", pnginfo=texts()),
        "xmp.png": encoded(RGB, "PNG", pnginfo=texts(xmp=True)),
        "deflated xmp.png": encoded(RGBA, "PNG", pnginfo=texts(xmp=True, deflated=True)),
        "chunks of one's own.png": encoded(RGB, "PNG")[:-12]
        + chunk(b"caNv", b"1")
        + encoded(RGB, "PNG")[-12:]
        + b"end",
        "baseline.jpg": encoded(RGB, "JPEG", comment=b"a comment"),
        "progressive.jpg": encoded(RGB, "JPEG", progressive=True, exif=exif(8)),
        "all of it.jpg": encoded(RGB, "JPEG", exif=exif(6), xmp=OTHERS_XMP, icc_profile=SRGB),
        "cmyk.jpg": encoded(RGB.convert("CMYK"), "JPEG"),
        "lossy.webp": encoded(RGB, "WEBP"),
        "lossless.webp": encoded(RGB, "WEBP", lossless=True),
        "transparent.webp": encoded(RGBA, "WEBP", lossless=True),
        "transparent lossy.webp": encoded(RGBA, "WEBP"),
        "animated.webp": encoded(RGB, "WEBP", **FRAMES),
        "all of it.webp": encoded(RGB, "WEBP", exif=exif(6), xmp=OTHERS_XMP, icc_profile=SRGB),
    }


IMAGES = images()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, status: int = 0) -> Result:
    metric = [] if "-m" in arguments else ["-m", "nr-lite"]
    done = CliRunner().invoke(score.main, [*metric, *arguments], catch_exceptions=False)
    assert done.exit_code == status, done.stderr
    return done


def lay(folder: Path, *names: str) -> None:
    """Files of IMAGES, or of those names, in a folder; changed last at a time of their own."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names or IMAGES):
        (folder / name).write_bytes(IMAGES[name])
        os.utime(folder / name, ns=(1_600_000_000_123_456_789, 1_500_000_000_123_456_789 + number))


def shown(data: bytes) -> list[tuple[str, tuple[int, int], str]]:
    """Mode, size and pixels of each frame, as Pillow decodes them."""
    with Image.open(io.BytesIO(data)) as image:
        return [
            (frame.mode, frame.size, hashlib.sha256(frame.tobytes()).hexdigest())
            for frame in ImageSequence.Iterator(image)
        ]


def parts(data: bytes) -> list[bytes]:
    """A file's chunks or segments, but those with XMP and a WebP's header; and what follows the last one."""
    walk: Callable[[bytes], Iterator[tuple[object, int, int]]]
    walk = png_chunks if data.startswith(b"\x89") else webp_chunks if data.startswith(b"RIFF") else jpeg_segments
    places = [(start, end) for _, start, end in walk(data)]
    found = [data[start:end] for start, end in places] + [data[places[-1][1] :]]
    marks = (b"XML:com.adobe.xmp", b"XMP ", b"http://ns.adobe.com/xap/", b"VP8X")
    return [part for part in found if not any(mark in part[:40] for mark in marks)]


def packet_of(path: Path | str) -> bytes:
    """The XMP packet in a file, as Pillow finds it."""
    with Image.open(path) as image:
        found = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    return found.encode() if isinstance(found, str) else found


def properties(path: Path | str) -> dict[tuple[str, str], str]:
    data = Path(path).read_bytes() if str(path).endswith(".xmp") else packet_of(path)
    found = read_properties(data) if data else {}
    assert found is not None
    return {name: values[0] for name, values in found.items()}


class TestInFiles:
    def test_every_kind_keeps_its_pixels_its_other_parts_and_its_time(self, here: Path) -> None:
        lay(here / "gen")
        done = run("gen", "--write-metadata", "-o", "t.csv")
        assert f"scores written into {len(IMAGES)} files" in done.stderr
        with open("t.csv", newline="") as table:
            scores = {row["image"]: row["quality"] for row in csv.DictReader(table)}
        for number, (name, before) in enumerate(IMAGES.items()):
            path = here / "gen" / name
            after = path.read_bytes()
            assert shown(after) == shown(before), name
            assert parts(after) == parts(before), name
            found = properties(path)
            quality = scores[os.path.join("gen", name)]
            assert found[LITE] == quality
            assert found[RATING] == found[STARS] == str(stars_of(float(quality), 0, 5))
            assert (found.get(SOURCE) == "there") is name.removesuffix(Path(name).suffix).endswith(("xmp", "all of it"))
            assert path.stat().st_mtime_ns == 1_500_000_000_123_456_789 + number
        assert sorted(path.name for path in here.glob("gen/*")) == sorted(IMAGES)

    def test_texts_of_generators_are_read_as_before(self, here: Path) -> None:
        lay(here / "gen", "deflated xmp.png")
        before = Image.open("gen/deflated xmp.png").info
        run("gen", "--write-metadata")
        after = Image.open("gen/deflated xmp.png").info
        assert after["parameters"] == PARAMETERS
        xmp = {"XML:com.adobe.xmp", "xmp"}
        assert {key: after[key] for key in after if key not in xmp} == {k: v for k, v in before.items() if k not in xmp}

    def test_scores_are_the_same_afterwards_and_files_do_not_grow(self, here: Path) -> None:
        lay(here / "gen")
        first = run("gen", "--write-metadata", "--quiet").stdout
        files = {path: (path.read_bytes(), path.stat().st_ino) for path in here.glob("gen/*")}
        assert run("gen", "--write-metadata", "--quiet").stdout == first
        assert {path: (path.read_bytes(), path.stat().st_ino) for path in here.glob("gen/*")} == files

    def test_never_without_the_option(self, here: Path) -> None:
        lay(here / "gen")
        run("gen", "-o", "t.csv")
        assert {path.name: path.read_bytes() for path in here.glob("gen/*")} == IMAGES

    def test_a_webp_says_what_is_in_it(self, here: Path) -> None:
        names = [name for name in IMAGES if name.endswith(".webp")]
        lay(here, *names)
        run(*names, "--write-metadata")
        for name in names:
            data = Path(name).read_bytes()
            assert data[12:16] == b"VP8X"
            size = tuple(1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
            assert size == RGB.size
            kinds = [kind for kind, _, _ in webp_chunks(data)]
            flags = {b"ANIM": 0x02, b"XMP ": 0x04, b"EXIF": 0x08, b"ICCP": 0x20}
            expected = sum(flag for kind, flag in flags.items() if kind in kinds) | 0x10 * ("transparent" in name)
            assert data[20] & ~(0x10 if "animated" in name else 0) == expected, name

    def test_stars_that_someone_gives_stay(self, here: Path) -> None:
        lay(here, "rgb.png", "lossy.webp", "baseline.jpg")
        names = ["rgb.png", "lossy.webp", "baseline.jpg"]
        run(*names, "--write-metadata")
        ours = properties("rgb.png")[RATING]
        for name, given in (("rgb.png", "5" if ours != "5" else "4"), ("lossy.webp", "-1"), ("baseline.jpg", "0")):
            data = Path(name).read_bytes()
            aigciqa.write_scores(name, {"other": 1.0})  # which leaves the stars alone
            rated = re.sub(rb'xmp:Rating="."', f'xmp:Rating="{given}"'.encode(), packet_of(name))
            Path(name).write_bytes(replaced(data, rated))
        done = run(*names, "--write-metadata")
        assert "2 images had stars that were not given here, which stay" in done.stderr
        assert properties("rgb.png")[RATING] != ours
        assert properties("lossy.webp")[RATING] == "-1"
        assert properties("baseline.jpg")[RATING] == properties("baseline.jpg")[STARS]


def replaced(data: bytes, packet: bytes) -> bytes:
    from aigciqa.images.xmp_in_files import change_xmp

    pieces = change_xmp(data, lambda _: packet)
    return data if pieces is None else b"".join(pieces)


class TestStars:
    @pytest.mark.parametrize(
        ("value", "stars"),
        [(-1e307, 1), (-0.3, 1), (0, 1), (0.99, 1), (1, 2), (2.5, 3), (3.99, 4), (4, 5), (5, 5), (5.4, 5), (1e307, 5)],
    )
    def test_are_the_fifths_of_the_range(self, value: float, stars: int) -> None:
        assert stars_of(value, 0, 5) == stars
        assert stars_of(10 + 20 * value, 10, 110) == stars

    def test_are_of_the_first_metric_and_its_main_dimension(self, here: Path, tiny: Path) -> None:
        lay(here, "rgb.png")
        metric = aigciqa.create_metric("nr-tiny", weights=tiny)
        scores = {name: float(value) for name, value in metric.predict("rgb.png").items()}
        CliRunner().invoke(score.main, ["rgb.png", "-m", "nr-tiny", "--weights", str(tiny), "--write-metadata"])
        found = properties("rgb.png")
        written = {name: float(found[NAMESPACE, f"nr-tiny-{name}"]) for name in metric.dimensions}
        assert written == pytest.approx(scores, abs=2e-6)
        assert found[RATING] == str(stars_of(scores[metric.dimension], *metric.score_range))

    def test_of_one_dimension(self, here: Path, tiny: Path) -> None:
        lay(here, "rgb.png")
        options = ["--weights", str(tiny), "--dimension", "authenticity", "--write-metadata"]
        CliRunner().invoke(score.main, ["rgb.png", "-m", "nr-tiny", *options])
        found = properties("rgb.png")
        name = (NAMESPACE, "nr-tiny-authenticity")
        assert found.keys() == {RATING, STARS, name}
        assert found[RATING] == str(
            stars_of(
                float(found[name]),
                *aigciqa.create_metric("nr-tiny", weights=str(tiny), dimension="authenticity").score_range,
            )
        )

    def test_there_are_none_where_the_first_metric_has_no_score(self, here: Path) -> None:
        lay(here, "rgb.png")
        run("-m", "fr-lite", "rgb.png", "--write-metadata", "-r", "gone.png", status=2)
        Path("m.csv").write_text("image,reference\nrgb.png,gone.png\n")
        done = CliRunner().invoke(score.main, ["m.csv", "-m", "fr-lite", "-m", "nr-lite", "--write-metadata"])
        assert done.exit_code == 1
        assert properties("rgb.png").keys() == {LITE}

    @pytest.mark.parametrize(
        ("name", "written"), [("nr-timm/vit_base.x", "nr-timm_vit_base.x"), ("2nd é", "_2nd__"), ("_a", "_a")]
    )
    def test_any_metric_has_a_name_in_xml(self, name: str, written: str, here: Path) -> None:
        lay(here, "rgb.png")
        aigciqa.write_scores("rgb.png", {name: 1 / 3})
        assert properties("rgb.png") == {(NAMESPACE, written): "0.333333"}


class TestSidecars:
    def test_lie_beside_images_of_any_format(self, here: Path) -> None:
        lay(here / "gen", "rgb.png", "baseline.jpg")
        Image.fromarray(PIXELS).save("gen/x.gif")
        before = {path: path.read_bytes() for path in here.glob("gen/*")}
        done = run("gen", "--write-sidecars")
        assert "scores written into 3 sidecars" in done.stderr
        assert {path: path.read_bytes() for path in before} == before
        made = sorted(path.name for path in here.glob("gen/*.xmp"))
        assert made == ["baseline.jpg.xmp", "rgb.png.xmp", "x.gif.xmp"]
        assert properties("gen/rgb.png.xmp").keys() == {RATING, STARS, LITE}
        assert run("gen", "-o", "t.csv").stderr.count("3 rows") == 1  # sidecars are not scored

    def test_what_another_program_wrote_stays(self, here: Path) -> None:
        lay(here, "rgb.png")
        Path("rgb.png.xmp").write_bytes(OTHERS_XMP)
        os.chmod("rgb.png.xmp", 0o640)
        run("rgb.png", "--write-sidecars")
        found = read_properties(Path("rgb.png.xmp").read_bytes())
        assert found == (read_properties(OTHERS_XMP) or {}) | {(k): (v,) for k, v in properties("rgb.png.xmp").items()}
        assert Path("rgb.png.xmp").stat().st_mode & 0o777 == 0o640
        Path("rgb.png.xmp").write_bytes(b"junk")
        done = run("rgb.png", "--write-sidecars", status=1)
        assert "rgb.png.xmp: its XMP is damaged" in done.stderr
        assert Path("rgb.png.xmp").read_bytes() == b"junk"

    def test_are_for_what_files_cannot_hold_with_both_options(self, here: Path) -> None:
        lay(here, "rgb.png")
        Image.fromarray(PIXELS).save("x.gif")
        done = run("rgb.png", "x.gif", "--write-metadata", "--write-sidecars")
        assert "scores written into 1 file and 1 sidecar" in done.stderr
        assert sorted(os.listdir()) == ["rgb.png", "x.gif", "x.gif.xmp"]


class TestLeftAlone:
    def test_formats_that_hold_none_and_what_is_no_file(self, here: Path) -> None:
        lay(here, "rgb.png")
        for suffix in ("gif", "bmp", "tif"):
            Image.fromarray(PIXELS).save(f"x.{suffix}")
        shutil.copy("x.gif", "y.gif")
        with tarfile.open("a.tar", "w") as archive:
            archive.add("rgb.png")
        before = {path: path.read_bytes() for path in here.iterdir()}
        done = run("a.tar", "x.gif", "y.gif", "x.bmp", "x.tif", "--write-metadata")
        line = next(line for line in done.stderr.splitlines() if line.startswith("left alone"))
        assert "2 that are no PNG, JPEG or WebP (.gif), 1 that are no" in line
        assert "1 that are no files (in archives, Parquet files or object stores)" in line
        assert line.endswith("; --write-sidecars writes beside files")
        assert {path: path.read_bytes() for path in here.iterdir()} == before
        assert "--write-sidecars" not in run("a.tar", "--write-sidecars").stderr

    def test_content_credentials(self, here: Path) -> None:
        credentials = b"JP\0\1\0\0\0\1\0\0\0\x28jumb\0\0\0\x20jumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\3c2pa\0"
        segment = b"\xff\xeb" + struct.pack(">H", 2 + len(credentials)) + credentials
        png, jpeg, webp = IMAGES["rgb.png"], IMAGES["baseline.jpg"], IMAGES["animated.webp"]
        body = webp[8:] + b"C2PA\0\0\0\0"
        remote = OTHERS_XMP.replace(b"dc:source", b"xmlns:dcterms='http://purl.org/dc/terms/' dcterms:provenance")
        signed = {
            "a.png": png[:33] + chunk(b"caBX", b"x") + png[33:],
            "b.jpg": jpeg[:20] + segment + jpeg[20:],
            "c.webp": b"RIFF" + struct.pack("<I", len(body)) + body,
            "d.jpg": encoded(RGB, "JPEG", xmp=remote),
        }
        for name, data in signed.items():
            Path(name).write_bytes(data)
        done = run(*signed, "--write-metadata")
        assert "left alone: 4 with content credentials (C2PA), which an edit would break" in done.stderr
        assert {name: Path(name).read_bytes() for name in signed} == signed

    def test_hard_links(self, here: Path) -> None:
        lay(here, "rgb.png")
        os.link("rgb.png", "other.png")
        assert "2 with other names (hard links)" in run(".", "--write-metadata").stderr
        assert Path("rgb.png").read_bytes() == IMAGES["rgb.png"]


class TestCounted:
    """What can't be written although it should is an error of the command; the table has the scores all the same."""

    def check(self, data: bytes, why: str, suffix: str = "png") -> None:
        path = Path(f"x.{suffix}")
        path.write_bytes(data)
        done = run(str(path), "--write-metadata", "-o", "t.csv", "--overwrite", status=1)
        assert f"1 image could not be given scores, which the table has; the first: {path}: {why}" in done.stderr
        assert path.read_bytes() == data
        assert Path("t.csv").read_text().count("nr-lite") == 1

    def test_files_without_room_or_with_damage(self, here: Path) -> None:
        png, jpeg = IMAGES["xmp.png"], encoded(RGB, "JPEG", xmp=OTHERS_XMP)
        self.check(encoded(RGB, "PNG", pnginfo=several()), "it has several XMP packets")
        self.check(png.replace(b"there", b"th&re"), "its XMP is damaged")
        self.check(encoded(RGB, "PNG", pnginfo=odd(b"\2")), "its XMP is damaged")
        self.check(encoded(RGB, "JPEG", xmp=OTHERS_XMP.replace(b"there", b"x" * 65_000)), "its XMP would have", "jpg")
        self.check(jpeg.replace(b"\xff\xdb", b"\xff\xff\xdb", 1), "broken JPEG: its segments", "jpg")
        self.check(encoded(RGB, "MPO", **FRAMES), "a JPEG of several pictures", "jpg")

    def test_a_file_that_is_read_only(self, here: Path) -> None:
        lay(here, "rgb.png", "lossy.webp")
        os.chmod("rgb.png", 0o444)
        done = run("rgb.png", "lossy.webp", "--write-metadata", "-o", "t.csv", status=1)
        assert "it is read-only: 'rgb.png'" in done.stderr.replace(str(here) + os.sep, "")
        assert "scores written into 1 file" in done.stderr
        assert Path("rgb.png").read_bytes() == IMAGES["rgb.png"]
        os.chmod("rgb.png", 0o644)

    def test_a_file_that_changed_since_it_was_scored(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lay(here, "rgb.png")
        newer = IMAGES["texts.png"]
        take = scores_in_files.ScoresInFiles.take

        def late(self: scores_in_files.ScoresInFiles, record: aigciqa.Record, is_new: bool) -> None:
            Path("rgb.png").write_bytes(newer)
            take(self, record, is_new)

        monkeypatch.setattr(scores_in_files.ScoresInFiles, "take", late)
        for option in ("--write-metadata", "--write-sidecars"):
            lay(here, "rgb.png")
            done = run("rgb.png", option, status=1)
            assert "rgb.png: it was changed since it was scored" in done.stderr
            assert Path("rgb.png").read_bytes() == newer
            assert os.listdir() == ["rgb.png"]

    @pytest.mark.parametrize("exists", [True, False])
    def test_two_runs_at_a_time_lose_no_scores(self, here: Path, monkeypatch: pytest.MonkeyPatch, exists: bool) -> None:
        """The other writes while this one's file goes to the disk: a sidecar gets both, an image is counted."""
        sync = os.fsync

        def overtake(sidecar: bool) -> None:
            def late(descriptor: int) -> None:
                sync(descriptor)
                monkeypatch.setattr(os, "fsync", sync)
                aigciqa.write_scores("rgb.png", {"other": 2.0}, sidecar=sidecar)

            monkeypatch.setattr(os, "fsync", late)

        lay(here, "rgb.png")
        if exists:
            aigciqa.write_scores("rgb.png", {"earlier": 3.0}, sidecar=True)
        overtake(sidecar=True)
        run("rgb.png", "--write-sidecars")
        names = properties("rgb.png.xmp").keys()
        assert names == {RATING, STARS, LITE, (NAMESPACE, "other"), *([(NAMESPACE, "earlier")] if exists else [])}
        overtake(sidecar=False)
        done = run("rgb.png", "--write-metadata", status=1)
        assert "rgb.png: it was changed since it was scored" in done.stderr
        assert properties("rgb.png") == {(NAMESPACE, "other"): "2.0"}
        assert sorted(os.listdir()) == ["rgb.png", "rgb.png.xmp"]

    def test_a_full_disk_leaves_the_file_and_nothing_else(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lay(here, "rgb.png")
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert "No space left on device" in run("rgb.png", "--write-metadata", status=1).stderr
        assert os.listdir() == ["rgb.png"]
        assert Path("rgb.png").read_bytes() == IMAGES["rgb.png"]


def several() -> PngInfo:
    info = texts(xmp=True)
    info.add_itxt("XML:com.adobe.xmp", OTHERS_XMP.decode())
    return info


def odd(compression: bytes) -> PngInfo:
    info = PngInfo()
    info.add(b"iTXt", b"XML:com.adobe.xmp\0" + compression + b"\0\0\0" + OTHERS_XMP)
    return info


class TestRuns:
    def test_resumed_and_killed(self, here: Path) -> None:
        """What an interrupted run has written is not written again, and what it has not is."""
        lay(here / "gen", "rgb.png", "texts.png", "xmp.png")
        run("gen", "-o", "t.csv")
        whole = Path("t.csv").read_text()
        rows = whole.splitlines(keepends=True)
        Path("t.csv").write_text("".join(rows[:2]))
        (here / "gen" / ".aigciqa-0123-45.part").write_bytes(IMAGES["rgb.png"][:100])  # of a killed run
        done = run("gen", "--write-metadata", "-o", "t.csv", "--resume")
        assert "scores written into 2 files" in done.stderr
        assert Path("t.csv").read_text() == whole
        assert properties("gen/rgb.png") == {}
        assert properties("gen/texts.png").keys() >= {RATING, LITE}
        assert "resuming after 3 rows" in run("gen", "--write-metadata", "-o", "t.csv", "--resume").stderr

    def test_what_a_killed_run_left_is_no_image(self, here: Path) -> None:
        lay(here / "gen", "rgb.png")
        left = here / "gen" / ".aigciqa-0123-45.part"
        left.write_bytes(IMAGES["rgb.png"])
        assert [found.item.image for found in walk("gen", {})] == [os.path.join("gen", "rgb.png")]
        assert not _may_matter(None, str(left))  # to who watches the folder
        for source in ("gen", "gen/*", "g*n"):
            assert run(source).stdout.count("\n") == 2

    def test_the_same_file_under_several_names(self, here: Path) -> None:
        lay(here / "gen", "rgb.png")
        os.symlink("gen/rgb.png", "link.png")
        done = run("gen/rgb.png", "link.png", "gen/rgb.png", "--write-metadata")
        assert "scores written into 3 files" in done.stderr
        assert Path("link.png").is_symlink()
        assert properties("gen/rgb.png").keys() == {RATING, STARS, LITE}

    def test_a_file_that_is_named_twice_and_changes_in_between(self, here: Path) -> None:
        in_files = scores_in_files.ScoresInFiles(
            [aigciqa.create_metric("nr-lite")], ["quality"], into_files=True, sidecars=False
        )
        lay(here, "rgb.png")
        in_files.note(aigciqa.Item("rgb.png"))
        Path("rgb.png").write_bytes(IMAGES["texts.png"])
        in_files.note(aigciqa.Item("rgb.png"))
        for each in (1.0, 4.0):  # of what was there before, and of what is there now
            in_files.take(aigciqa.Record("rgb.png", None, None, "nr-lite", {"quality": each}), True)
        assert (in_files.failed, in_files.states) == (1, {})
        assert properties("rgb.png")[LITE] == "4.0"

    def test_ray_writes_none(self, here: Path) -> None:
        lay(here, "rgb.png")
        done = run("rgb.png", "--write-metadata", "--engine", "ray", "-o", "t.parquet", status=2)
        assert "go with --engine local" in done.stderr


class TestFunction:
    def test_refusals(self, here: Path) -> None:
        Image.fromarray(PIXELS).save("x.gif")
        with pytest.raises(ImageError, match=r"x\.gif: no scores are written into files that are no PNG"):
            aigciqa.write_scores("x.gif", {"nr-lite": 1.0})
        with pytest.raises(FileNotFoundError):
            aigciqa.write_scores("gone.png", {"nr-lite": 1.0})
        several = torch.tensor([1.0, 2.0])
        for scores in ({}, {"nr-lite": float("nan")}, {"nr-lite": several}, {"nr-lite": None}, {1: 1.0}, [1.0]):
            with pytest.raises(InputError, match="finite numbers by name"):
                aigciqa.write_scores("x.gif", scores, sidecar=True)
        for scores in ({"": 1.0}, {"stars": 1.0}, {"a b": 1.0, "a_b": 2.0}):
            with pytest.raises(InputError, match="a name of its own"):
                aigciqa.write_scores("x.gif", scores, sidecar=True)
        for score_range in ((5, 5), (5, 0), (0, float("inf")), (float("nan"), 5), 5, (0, 3, 5), "05"):
            with pytest.raises(InputError, match=r"score_range is \(lowest, highest\)"):
                aigciqa.write_scores("x.gif", {"nr-lite": 1.0}, score_range=score_range, sidecar=True)
        assert not Path("x.gif.xmp").exists()
        aigciqa.write_scores("x.gif", {"nr-lite": 7.0}, score_range=(0, 10), sidecar=True)
        assert properties("x.gif.xmp") == {LITE: "7.0", RATING: "4", STARS: "4"}

    def test_a_tensor_as_metrics_return_it(self, here: Path) -> None:
        Image.fromarray(PIXELS).save("x.gif")
        aigciqa.write_scores("x.gif", {"nr-lite": torch.tensor([3.25])}, score_range=(0, 5), sidecar=True)
        assert properties("x.gif.xmp") == {LITE: "3.25", RATING: "4", STARS: "4"}

    @pytest.mark.filterwarnings("ignore:Tag data larger than file")
    @pytest.mark.parametrize("name", ["texts.png", "all of it.jpg", "all of it.webp", "transparent.webp"])
    def test_damaged_files_are_left_alone_or_show_the_same(self, name: str, here: Path) -> None:
        chance = random.Random(0)
        whole, written = IMAGES[name], 0
        path = here / name
        for _ in range(150):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 3)):
                place = chance.randrange(len(data))
                data[place : place + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
            path.write_bytes(data)
            before = decoded(bytes(data))
            try:
                aigciqa.write_scores(path, {"nr-lite": 3.0}, score_range=(0, 5))
            except ImageError:
                assert path.read_bytes() == data
                continue
            written += 1
            assert decoded(path.read_bytes()) == before
        assert 5 < written < 145


def decoded(data: bytes) -> bytes | str:
    """The pixels as they are scored, or why they can't be."""
    try:
        return load_content(data, "x").tobytes()
    except ImageError as error:
        return str(error)


@pytest.mark.slow
def test_exiftool_reads_stars_and_scores_and_finds_nothing_wrong(here: Path) -> None:
    """`apt-get install libimage-exiftool-perl`, or its likes elsewhere (CONTRIBUTING.md)."""
    lay(here / "gen")
    before = validated(here / "gen")
    run("gen", "--write-metadata", "--quiet")
    run("gen", "--write-sidecars", "--quiet")
    after = validated(here / "gen")
    assert len(after) == 2 * len(IMAGES)
    for path, found in after.items():
        image = str(path).removesuffix(".xmp")
        ours = properties(path)
        assert str(found["XMP-xmp:Rating"]) == ours[RATING]
        assert str(found["XMP-aigciqa:Nr-lite"]) == ours[LITE]
        known = before[image] if image == path else {"ExifTool:Validate": "OK"}
        assert found["ExifTool:Validate"] == known["ExifTool:Validate"], found
        assert {name: value for name, value in known.items() if name in found} == {
            name: value for name, value in found.items() if name in known
        }


def validated(folder: Path) -> dict[str, dict[str, object]]:
    """What exiftool reads of the files in a folder, and whether it finds them valid."""
    command = [EXIFTOOL, "-json", "-G1", "-validate", "-warning", "-XMP:all", "-PNG:all", "-EXIF:all", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return {found.pop("SourceFile"): found for found in json.loads(done.stdout)}
