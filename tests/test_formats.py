"""HEIF and JPEG XL, which the extra `formats` reads: pixels, orientation, profiles, what is broken, what is missing."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from click.testing import CliRunner
from PIL import Image, ImageCms
from pillow_jxl import JpegXLImagePlugin

from aigciqa.cli.score import main
from aigciqa.errors import ImageError
from aigciqa.images import plugins
from aigciqa.images.decode import load_image

pillow_heif.register_heif_opener()
assert JpegXLImagePlugin.JXLImageFile.format == "JXL"

RAMP = np.stack(np.meshgrid(np.arange(0, 240, 6), np.arange(0, 240, 10)), -1)
PIXELS = np.concatenate([RAMP, 255 - RAMP[..., :1]], -1).astype(np.uint8)  # (24, 40, 3), smooth
FORMATS = {"a.heic": ("HEIF", {"quality": -1, "chroma": 444}), "a.jxl": ("JXL", {"lossless": True})}


def saved(name: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """An image as its plugin writes it."""
    kind, lossless = FORMATS[name]
    file = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(file, kind, **{**lossless, **options})
    return file.getvalue()


@pytest.mark.parametrize("name", FORMATS)
class TestBoth:
    def test_pixels_are_those_that_were_saved(self, name: str) -> None:
        found = np.asarray(load_image(io.BytesIO(saved(name)))).astype(int)
        assert abs(found - PIXELS).max() <= (2 if name == "a.heic" else 0)  # of a conversion to YCbCr and back

    def test_alpha_is_composited_over_white(self, name: str) -> None:
        image = Image.fromarray(PIXELS)
        image.putalpha(0)
        assert np.asarray(load_image(io.BytesIO(saved(name, image)))).min() >= 253

    def test_an_srgb_profile_changes_no_level(self, name: str) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        found = np.asarray(load_image(io.BytesIO(saved(name, icc_profile=profile)))).astype(int)
        assert abs(found - PIXELS).max() <= 2

    def test_truncated_anywhere_it_is_an_error(self, name: str) -> None:
        data = saved(name)
        for kept in (3, 12, 40, len(data) // 3, len(data) // 2, len(data) - 40, len(data) - 1):
            with pytest.raises(ImageError):
                load_image(io.BytesIO(data[:kept]))

    def test_damage_is_an_image_or_an_error(self, name: str) -> None:
        rng, data = np.random.default_rng(0), saved(name)
        for _ in range(60):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 4):
                broken[at] = rng.integers(256)
            with contextlib.suppress(ImageError):
                assert load_image(io.BytesIO(bytes(broken))).mode == "RGB"

    def test_more_pixels_than_allowed(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aigciqa.images.decode.MAX_PIXELS", PIXELS.shape[0] * PIXELS.shape[1] - 1)
        with pytest.raises(ImageError, match="40 x 24 is more than the 959 pixels allowed"):
            load_image(io.BytesIO(saved(name)))

    def test_a_folder_and_an_archive_of_them_are_scored(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "gen").mkdir()
        (tmp_path / "gen" / name).write_bytes(saved(name))
        with tarfile.open(tmp_path / "gen.tar", "w") as archive:
            archive.add(tmp_path / "gen" / name, name)
        done = CliRunner().invoke(main, [str(tmp_path / "gen"), str(tmp_path / "gen.tar"), "-m", "nr-lite"])
        assert (done.exit_code, "skipped" in done.stderr) == (0, False)
        one, other = (line.split(",")[4] for line in done.stdout.splitlines()[1:])
        assert one == other

    def test_without_its_plugin_it_is_refused_with_a_word(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(saved(name))
        (tmp_path / "a.png").write_bytes(saved_png())
        script = (
            "import sys, json\n"
            "sys.modules |= {'pillow_heif': None, 'pillow_jxl': None}\n"
            "from click.testing import CliRunner\n"
            "from aigciqa.cli.score import main\n"
            f"for path in ({str(tmp_path)!r}, {str(tmp_path / name)!r}):\n"
            "    done = CliRunner().invoke(main, [path, '-m', 'nr-lite'])\n"
            "    print(json.dumps([done.exit_code, done.output]))\n"
        )
        lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        (folder, output), (named, error) = map(json.loads, lines.splitlines())
        suffix = Path(name).suffix
        assert (folder, f"skipped in folders: 1 {suffix} (pip install 'aigciqa[formats]' to read them)" in output) == (
            0, True,
        )  # fmt: skip
        assert named == 1
        assert "pip install 'aigciqa[formats]'" in error


def saved_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


def jxl_head(width: int, height: int) -> bytes:
    """The start of a JPEG XL, with its size in the longest form."""
    bits = 0 | 3 << 1 | (height - 1) << 3 | 0 << 33 | 3 << 36 | (width - 1) << 38
    return b"\xff\x0a" + bits.to_bytes(9, "little") + bytes(20)


class TestJpegXl:
    @pytest.mark.parametrize(("width", "height"), [(40, 24), (256, 256), (400, 300), (7, 5), (1000, 3), (640, 360)])
    def test_the_size_is_known_before_it_is_decoded(self, width: int, height: int) -> None:
        image = Image.new("RGB", (width, height), "red")
        for container in (False, True):
            assert plugins.size_of(saved("a.jxl", image, use_container=container)) == (width, height)
        assert plugins.size_of(jxl_head(70_000, 123)) == (70_000, 123)

    def test_a_bomb_is_not_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plugins, "opened", lambda data: pytest.fail("decoded"))
        with pytest.raises(ImageError, match="a decompression bomb: 70000 x 70000"):
            load_image(io.BytesIO(jxl_head(70_000, 70_000)))

    def test_what_exif_says_of_turning_does_not_count(self) -> None:
        """Viewers turn as the codestream says, and that has been done (ISO/IEC 18181-2, of Exif boxes)."""
        exif = Image.Exif()
        exif[0x112] = 6
        assert load_image(io.BytesIO(saved("a.jxl", exif=exif.tobytes()))).size == (40, 24)

    def test_a_jpeg_inside_is_turned_by_its_exif(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x112] = 6
        Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif, quality=95)
        with pytest.warns(UserWarning, match="JPEG reconstruction"), Image.open(tmp_path / "a.jpg") as image:
            image.save(tmp_path / "a.jxl")
        inside, outside = (np.asarray(load_image(tmp_path / name)).astype(int) for name in ("a.jxl", "a.jpg"))
        assert inside.shape == outside.shape == (40, 24, 3)
        assert abs(inside - outside).max() <= 2

    def test_16_bits_of_linear_light_are_brought_to_8_of_srgb(self) -> None:
        levels = PIXELS[..., 0]
        image = Image.fromarray(levels.astype(np.uint16) * 257)  # which the plugin writes as linear
        light = levels / 255
        encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        found = np.asarray(load_image(io.BytesIO(saved("a.jxl", image))))[..., 0]
        assert abs(found - 255 * encoded).max() <= 1.5


class TestHeif:
    def test_it_is_turned_once(self) -> None:
        image = Image.fromarray(PIXELS)
        exif = image.getexif()
        exif[0x112] = 6
        found = np.asarray(load_image(io.BytesIO(saved("a.heic", image, exif=exif.tobytes())))).astype(int)
        assert found.shape == (40, 24, 3)
        assert abs(found - np.rot90(PIXELS, -1)).max() <= 2

    def test_an_avif_stays_pillows(self) -> None:
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, "AVIF")
        assert plugins.format_of(file.getvalue()) is None

    def test_no_thumbnail_is_taken_for_it(self) -> None:
        from aigciqa.images.decode import load_content

        image = Image.fromarray(PIXELS).resize((400, 240))
        data = saved("a.heic", image, thumbnails=[100])
        assert load_content(data, "a.heic", at_least=32).size == (400, 240)


def test_fit_reads_them_and_says_of_others_what_score_does(tmp_path: Path) -> None:
    code = """if True:
    import sys
    from aigciqa.training.fit.features import FeatureReader, frozen_metric
    reader = FeatureReader(frozen_metric("nr-lite", {"quality": (0.0, 5.0)}), False, 1)
    for found in reader.read(sys.argv[1:]):
        print(getattr(found, "pixels", found))
    """
    for name in FORMATS:
        (tmp_path / name).write_bytes(saved(name))
    (tmp_path / "a.png").write_bytes(b"no image")
    command = [sys.executable, "-c", code, *FORMATS, "a.png"]  # where Pillow has no plugins
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found[:2] == ["960", "960"]
    assert found[2].startswith("a.png: not an image in a format that can be read (")
