"""Colours that a file names in another way than sRGB are brought to sRGB."""

from __future__ import annotations

import io
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFilter

from aigciqa import create_metric, score_files
from aigciqa.images.decode import load_image
from aigciqa.scoring import decoding
from tests.conftest import Watch, draw, untrained
from tests.profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    cmyk_profile,
    encoded,
    grey_profile,
    lab_to_xyz,
    linear,
    rgb_profile,
    srgb_levels,
    to_xyz,
)

RGB = draw(40, 31)
GREY = RGB[:, :, 1]
P3 = rgb_profile(DISPLAY_P3, 2.2)
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}}


def saved(image: Image.Image | np.ndarray, image_format: str = "PNG", **options: object) -> io.BytesIO:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file


def levels(path: Path, file: io.BytesIO) -> np.ndarray:
    path.write_bytes(file.getvalue())
    return np.asarray(load_image(path)).astype(int)


def of_display(pixels: np.ndarray, primaries: tuple[tuple[float, float], ...], gamma: float) -> np.ndarray:
    """sRGB levels of a display's, by definition; a profile holds the gamma in steps of 1/256."""
    return srgb_levels((pixels / 255.0) ** (round(gamma * 256) / 256) @ to_xyz(primaries).T)


class TestProfiles:
    @pytest.mark.parametrize("image_format", LOSSLESS)
    @pytest.mark.parametrize(("primaries", "gamma"), [(DISPLAY_P3, 2.2), (ADOBE_RGB, 563 / 256), (SRGB, 1.0)])
    def test_of_displays(self, primaries: tuple, gamma: float, image_format: str, tmp_path: Path) -> None:
        file = saved(RGB, image_format, icc_profile=rgb_profile(primaries, gamma), **LOSSLESS[image_format])
        expected = of_display(RGB, primaries, gamma)
        assert np.abs(levels(tmp_path / "x", file) - expected).max() <= 1
        assert np.abs(RGB - expected).max() > 20

    def test_of_greys(self, tmp_path: Path) -> None:
        file = saved(GREY, icc_profile=grey_profile(1.0))
        expected = encoded(GREY / 255.0)[..., None]
        assert np.abs(levels(tmp_path / "x", file) - expected).max() <= 1

    def test_of_greys_of_16_bits(self, tmp_path: Path) -> None:
        """Of which sixteen times as many are told apart in the shadows as of 8 bits."""
        deep = np.arange(65536, dtype=np.uint16).reshape(64, 1024)
        expected = encoded(deep / 65535.0)[..., None]
        for image_format in ("PNG", "TIFF"):
            file = saved(deep, image_format, icc_profile=grey_profile(1.0))
            assert np.abs(levels(tmp_path / "x", file) - expected).max() <= 1

    @pytest.mark.parametrize("image_format", ["TIFF", "JPEG"])
    def test_of_presses(self, image_format: str, tmp_path: Path) -> None:
        inks = ((60.0, -20.0, -20.0), (50.0, 40.0, 0.0), (90.0, -5.0, 60.0))
        corners = np.kron(np.eye(5, 4, dtype=np.uint8) * 255, np.ones((1, 8), np.uint8).T)[None].repeat(8, axis=0)
        image = Image.frombytes("CMYK", (40, 8), corners.tobytes())
        options = {"quality": 100, "subsampling": 0} if image_format == "JPEG" else {}
        shown = levels(tmp_path / "x", saved(image, image_format, icc_profile=cmyk_profile(inks), **options))
        papers = ((0.0, 0.0, 0.0), (100.0, 0.0, 0.0))
        expected = np.array([srgb_levels(lab_to_xyz(lab)) for lab in (*inks, *papers)])
        assert np.abs(shown[4, 4::8] - expected).max() <= 3

    def test_of_presses_are_needed_for_their_inks(self, tmp_path: Path) -> None:
        image = Image.new("CMYK", (2, 2), (255, 0, 0, 0))
        assert levels(tmp_path / "x", saved(image, "TIFF"))[0, 0].tolist() == [0, 255, 255]

    def test_palettes(self, tmp_path: Path) -> None:
        palette = Image.fromarray(RGB).quantize(20)
        shown = levels(tmp_path / "x", saved(palette, icc_profile=P3))
        assert np.abs(shown - of_display(np.asarray(palette.convert("RGB")), DISPLAY_P3, 2.2)).max() <= 1

    @pytest.mark.parametrize("colours", ["RGB", "L"])
    def test_alpha_is_kept_and_composited_afterwards(self, colours: str, tmp_path: Path) -> None:
        image = Image.fromarray(RGB).convert(colours)
        plain = np.asarray(image.convert("RGB"))
        alpha = RGB[:, :, 2].copy()
        image.putalpha(Image.fromarray(alpha))
        profile = P3 if colours == "RGB" else grey_profile(1.0)
        opaque = of_display(plain, DISPLAY_P3, 2.2) if colours == "RGB" else encoded(plain / 255.0)
        share = (alpha / 255.0)[..., None]
        expected = opaque * share + 255 * (1 - share)
        assert np.abs(levels(tmp_path / "x", saved(image, icc_profile=profile)) - expected).max() <= 2

    def test_a_transparent_colour_is_the_one_in_the_file(self, tmp_path: Path) -> None:
        image = Image.fromarray(np.uint8([[[10, 200, 30], [10, 200, 31]]]))
        shown = levels(tmp_path / "x", saved(image, icc_profile=P3, transparency=(10, 200, 30)))
        assert shown[0, 0].tolist() == [255] * 3
        assert np.abs(shown[0, 1] - of_display(np.uint8([10, 200, 31]), DISPLAY_P3, 2.2)).max() <= 1

    def test_large_images_are_converted_in_strips(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = saved(Image.fromarray(RGB).rotate(90, expand=True), exif=_turned(6), icc_profile=P3)
        at_once = levels(tmp_path / "x", file)
        monkeypatch.setattr("aigciqa.images.decode.STRIPE_PIXELS", 100)
        assert (levels(tmp_path / "x", file) == at_once).all()
        assert np.abs(at_once - of_display(RGB, DISPLAY_P3, 2.2)).max() <= 1

    def test_srgb_changes_no_level(self, tmp_path: Path) -> None:
        table = np.rint(65535 * linear(np.linspace(0, 1, 1024))).astype(int).tolist()
        built_in = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        for profile in (built_in, rgb_profile(SRGB, table)):
            assert (levels(tmp_path / "x", saved(RGB, icc_profile=profile)) == RGB).all()

    @pytest.mark.parametrize(
        "profile",
        [b"junk", P3[:150], P3[:-40], P3 + bytes(5 * 2**20), grey_profile(1.0), cmyk_profile([(50, 0, 0)] * 3)],
        ids=["junk", "short", "cut", "huge", "of greys", "of a press"],
    )
    def test_one_that_is_broken_huge_or_of_others_is_ignored(self, profile: bytes, tmp_path: Path) -> None:
        for image_format, options in LOSSLESS.items():
            file = saved(RGB, image_format, icc_profile=profile, **options)
            assert (levels(tmp_path / "x", file) == RGB).all()

    def test_a_grey_image_with_a_displays_profile_stays(self, tmp_path: Path) -> None:
        assert (levels(tmp_path / "x", saved(GREY, icc_profile=P3)) == GREY[..., None]).all()

    def test_pil_images_are_converted_as_files_are_once(self, tmp_path: Path) -> None:
        file = saved(RGB, icc_profile=P3)
        opened = Image.open(file)
        once = load_image(opened)
        assert (np.asarray(once) == levels(tmp_path / "x", file)).all()
        assert opened.info["icc_profile"] == P3
        assert load_image(once) == once
        assert load_image(opened.convert("RGB")) == once

    def test_tensors_and_arrays_are_srgb(self) -> None:
        metric = untrained("nr-resnet18")
        image = Image.fromarray(RGB)
        tensor = torch.from_numpy(RGB.copy()).permute(2, 0, 1)
        plain = metric(image)
        assert torch.equal(metric(RGB), plain)
        torch.testing.assert_close(metric(tensor), plain, atol=1e-2, rtol=1e-2)
        image.info["icc_profile"] = P3
        assert not torch.equal(metric(image), plain)

    def test_without_littlecms_pixels_stay_and_it_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "PIL._imagingcms", None)
        monkeypatch.delitem(sys.modules, "PIL.ImageCms")
        for name in ("ImageCms", "_imagingcms"):
            monkeypatch.delattr(f"PIL.{name}")
        with pytest.warns(UserWarning, match="littleCMS"):
            shown = levels(tmp_path / "x", saved(RGB, icc_profile=rgb_profile(DISPLAY_P3, 2.0)))
        assert (shown == RGB).all()

    def test_from_many_threads(self) -> None:
        files = [saved(np.roll(RGB, number, axis=0), icc_profile=P3) for number in range(8)]
        alone = [load_image(Image.open(file)) for file in files]
        together: dict[int, list[Image.Image]] = {}

        def load(number: int) -> None:
            together[number] = [load_image(Image.open(io.BytesIO(file.getvalue()))) for file in files]

        threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(together[number] == alone for number in range(4))


def _turned(orientation: int) -> bytes:
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HHI", orientation, 0, 0)


class TestScores:
    @pytest.mark.parametrize("primaries", [DISPLAY_P3, ADOBE_RGB])
    def test_the_same_image_in_another_space_is_as_close_to_itself(self, primaries: tuple, tmp_path: Path) -> None:
        image = Image.fromarray(draw(256, 256)).filter(ImageFilter.GaussianBlur(2))
        image.save(tmp_path / "srgb.png")
        profile = rgb_profile(primaries, 2.2)
        other = ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), io.BytesIO(profile), renderingIntent=1, outputMode="RGB"
        )
        other.save(tmp_path / "other.png", icc_profile=profile)
        metric = create_metric("fr-lite")
        same = metric(tmp_path / "srgb.png", tmp_path / "srgb.png").item()
        assert metric(tmp_path / "other.png", tmp_path / "srgb.png").item() == pytest.approx(same, abs=0.4)
        with Image.open(tmp_path / "other.png") as opened:
            ignored = metric(np.asarray(opened), tmp_path / "srgb.png").item()
        assert ignored < same - 0.5

    def test_nvjpeg_leaves_other_spaces_to_pillow(self, watch: Watch) -> None:
        import torchvision.io

        built_in = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        seen = watch(torchvision.io, "decode_jpeg")
        pool = decoding.DecoderPool(0, "nvjpeg", torch.device("cpu"))
        specs = (untrained("nr-resnet18").config.preprocess,)
        for profile, times in ((None, 1), (built_in, 2), (P3, 2)):
            content = saved(RGB, "JPEG", icc_profile=profile).getvalue()
            pool.result(pool.submit("x.jpg", content, specs))
            assert len(seen) == times


class TestGamma:
    @staticmethod
    def png(pixels: np.ndarray, *chunks: tuple[bytes, bytes], **options: object) -> io.BytesIO:
        whole = saved(pixels, **options).getvalue()
        parts = (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
        return io.BytesIO(whole[:33] + b"".join(parts) + whole[33:])

    @pytest.mark.parametrize(("gamma", "power"), [(100_000, 1.0), (55_556, 1.8)])
    def test_is_honoured_where_it_is_another(self, gamma: int, power: float, tmp_path: Path) -> None:
        gama = (b"gAMA", struct.pack(">I", gamma))
        for pixels in (RGB, GREY):
            expected = encoded((np.atleast_3d(pixels) / 255.0) ** power)
            assert np.abs(levels(tmp_path / "x", self.png(pixels, gama)) - expected).max() <= 1
        deep = np.arange(65536, dtype=np.uint16).reshape(64, 1024)
        expected = encoded((deep / 65535.0) ** power)[..., None]
        assert np.abs(levels(tmp_path / "x", self.png(deep, gama)) - expected).max() <= 1

    @pytest.mark.parametrize(
        "chunks",
        [
            [(b"gAMA", struct.pack(">I", 45_455))],
            [(b"gAMA", struct.pack(">I", 45_000))],
            [(b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")],
            [(b"gAMA", struct.pack(">I", 0))],
            [(b"gAMA", struct.pack(">I", 2**32 - 1))],
            [(b"gAMA", b"")],
        ],
        ids=["2.2", "nearly", "but sRGB", "none", "absurd", "empty"],
    )
    def test_is_ignored_where_it_is_srgbs_or_none(self, chunks: list[tuple[bytes, bytes]], tmp_path: Path) -> None:
        assert (levels(tmp_path / "x", self.png(RGB, *chunks)) == RGB).all()

    def test_a_profile_comes_first(self, tmp_path: Path) -> None:
        file = self.png(RGB, (b"gAMA", struct.pack(">I", 100_000)), icc_profile=P3)
        assert np.abs(levels(tmp_path / "x", file) - of_display(RGB, DISPLAY_P3, 2.2)).max() <= 1


def test_a_damaged_profile_does_not_hide_a_score(tmp_path: Path) -> None:
    data = bytearray(saved(RGB, icc_profile=P3).getvalue())
    data[data.index(b"iCCP") + 20] ^= 0xFF
    (tmp_path / "x.png").write_bytes(data)
    (record,) = score_files([tmp_path / "x.png"], metric=untrained("nr-resnet18"))
    assert record.error is None
    assert (np.asarray(load_image(tmp_path / "x.png")) == RGB).all()
