"""Files whose pixels are whole are shown, whatever became of their metadata."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from aigciqa import ImageError
from aigciqa.images.decode import MAX_EXPANSION, load_content
from tests.conftest import draw

RGB = draw(24, 30)
EXIF_180 = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"
XMP_180 = b'<rdf:Description tiff:Orientation="3"/>'
WORDS = random.Random(0).randbytes(700_000).hex().encode()  # which deflate to half of their 1.4 MB


def saved(image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, image_format, **options)
    return file.getvalue()


def shows(data: bytes, plain: bytes) -> bool:
    return load_content(data, "x") == load_content(plain, "x")


PNG = saved("PNG")


def chunk(kind: bytes, data: bytes, *, is_sound: bool = True) -> bytes:
    checksum = zlib.crc32(kind + data) ^ (0 if is_sound else 0x100)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def with_chunks(*chunks: bytes) -> bytes:
    return PNG[:33] + b"".join(chunks) + PNG[33:]


CHROMATICITIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
CHUNKS = {
    "deflated text of over 1 MB": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(WORDS)),
    "deflated international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(WORDS)),
    "70 MB of text": chunk(b"tEXt", b"workflow\0" + WORDS * 50),
    "a text bomb": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))),
    "text that is no zlib": chunk(b"zTXt", b"a\0\0junk"),
    "text with a bad checksum": chunk(b"tEXt", b"a\0b", is_sound=False),
    "text in no language": chunk(b"iTXt", b"k\0\0\0\0\0\xff\xfe"),
    "empty text": chunk(b"tEXt", b""),
    "chromaticities": chunk(b"cHRM", CHROMATICITIES),
    "chromaticities that are short": chunk(b"cHRM", b"abc"),
    "gamma that is empty": chunk(b"gAMA", b""),
    "gamma with a bad checksum": chunk(b"gAMA", struct.pack(">I", 100_000), is_sound=False),
    "resolution that is short": chunk(b"pHYs", b"ab"),
    "sRGB that is empty": chunk(b"sRGB", b""),
    "a profile that is empty": chunk(b"iCCP", b""),
    "a profile that is no zlib": chunk(b"iCCP", b"x\0\0junk"),
    "a profile in another compression": chunk(b"iCCP", b"x\0\1junk"),
    "a profile with a bad checksum": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"junk"), is_sound=False),
    "a profile that is a bomb": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8))),
    "EXIF that is junk": chunk(b"eXIf", b"junk"),
    "an animation's header that is short": chunk(b"acTL", b"ab") + chunk(b"fcTL", b"ab") + chunk(b"fdAT", b""),
    "a chunk of someone's own": chunk(b"caNv", bytes(16)),
}


class TestPng:
    @pytest.mark.parametrize("name", CHUNKS)
    def test_chunks_that_hold_no_pixels(self, name: str) -> None:
        assert shows(with_chunks(CHUNKS[name]), PNG)
        assert shows(PNG[:-12] + CHUNKS[name] + PNG[-12:], PNG)

    def test_all_of_them(self) -> None:
        assert shows(with_chunks(*CHUNKS.values()), PNG)

    @pytest.mark.parametrize("kind", [b"tRNS", b"PLTE", b"eXIf", b"caNv", b"ABCD"])
    def test_chunks_that_may_hold_some_are_damaged(self, kind: bytes) -> None:
        with pytest.raises(ImageError, match=f"x: broken PNG: the checksum of its chunk {kind.decode()} is wrong"):
            load_content(with_chunks(chunk(kind, bytes(6), is_sound=False)), "x")

    def test_what_is_no_chunk(self) -> None:
        with pytest.raises(ImageError, match="broken PNG: no chunk is of the kind"):
            load_content(with_chunks(chunk(b"\0\1\2\3", b"")), "x")
        for cut in (b"", PNG[33:40], PNG[33:-1]):
            with pytest.raises(ImageError, match="truncated"):
                load_content(PNG[:33] + cut, "x")

    def test_frames_after_a_damaged_one_do_not_matter(self) -> None:
        animated = bytearray(saved("PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())]))
        animated[animated.index(b"fdAT") + 30] ^= 1
        assert shows(bytes(animated), PNG)

    def test_text_that_turns_the_image_is_kept(self) -> None:
        turned = np.asarray(load_content(PNG, "x"))[::-1, ::-1]
        raw = b"\nexif\n      %d\n%s\n" % (len(EXIF_180), EXIF_180.hex().encode())
        name = b"Raw profile type exif\0"
        texts = [chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP_180), chunk(b"tEXt", name + raw)]
        for text in [*texts, chunk(b"zTXt", name + b"\0" + zlib.compress(raw))]:
            assert (np.asarray(load_content(with_chunks(text), "x")) == turned).all()
        for text in (
            chunk(b"zTXt", name + b"\0" + zlib.compress(bytes(10**8))),
            chunk(b"zTXt", name + b"\0junk"),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(10**8))),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(10**7)),
            chunk(b"tEXt", name + raw, is_sound=False),
        ):
            assert shows(with_chunks(text), PNG)

    def test_text_is_not_inflated(self) -> None:
        data = with_chunks(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))))
        tracemalloc.start()
        load_content(data, "x")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * len(data) + 2**20

    def test_padding_does_not_hide_a_bomb(self) -> None:
        header = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 3, 0, 0, 0)
        padding = chunk(b"tEXt", b"a\0" + bytes(13_000**2 // MAX_EXPANSION))
        parts = (chunk(b"IHDR", header), chunk(b"PLTE", bytes(3)), padding, chunk(b"IDAT", bytes(1000)))
        with pytest.raises(ImageError, match="bomb"):
            load_content(PNG[:8] + b"".join(parts) + chunk(b"IEND", b""), "x")


JPEG = saved("JPEG", quality=90)


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


SEGMENTS = {
    "13 MB of comments": segment(0xFE, b"x" * 65_000) * 200,
    "JFIF that is short": segment(0xE0, b"JFIF"),
    "Adobe's that is short": segment(0xEE, b"Adobe"),
    "a profile without its number": segment(0xE2, b"ICC_PROFILE\0"),
    "a profile of which half is missing": segment(0xE2, b"ICC_PROFILE\0\1\2half"),
    "Photoshop's that is cut": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "EXIF that is junk": segment(0xE1, b"Exif\0\0junk"),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<x" * 30_000),
    "images that are not there": segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff"),
}


class TestJpeg:
    @pytest.mark.parametrize("name", SEGMENTS)
    def test_segments_that_hold_no_pixels(self, name: str) -> None:
        assert shows(JPEG[:2] + SEGMENTS[name] + JPEG[2:], JPEG)

    def test_what_matters_is_kept(self) -> None:
        others = b"".join(each for name, each in SEGMENTS.items() if "EXIF" not in name)  # of which there may be parts
        for turned in (EXIF_180, b"http://ns.adobe.com/xap/1.0/\0" + XMP_180):
            data = JPEG[:2] + others + segment(0xE1, turned) + JPEG[2:]
            assert (np.asarray(load_content(data, "x")) == np.asarray(load_content(JPEG, "x"))[::-1, ::-1]).all()
        for mode in ("CMYK", "RGB"):  # Adobe's segment says that the former is inverted, and the latter no YCbCr
            image, file = Image.fromarray(RGB).convert(mode), io.BytesIO()
            image.save(file, "JPEG", quality=100, subsampling=0, keep_rgb=mode == "RGB")
            shown = np.asarray(load_content(file.getvalue(), "x")).astype(int)
            assert np.abs(shown - np.asarray(image.convert("RGB"))).mean() < 2


class TestOthers:
    def test_a_tiff_whose_text_is_not_in_the_file(self) -> None:
        for tag in (270, 305, 700):
            data = bytearray(saved("TIFF", tiffinfo={tag: b"some text" if tag == 700 else "some text"}))
            (start,) = struct.unpack_from("<I", data, 4)
            (count,) = struct.unpack_from("<H", data, start)
            entries = range(start + 2, start + 2 + 12 * count, 12)
            (entry,) = (each for each in entries if struct.unpack_from("<H", data, each) == (tag,))
            struct.pack_into("<II", data, entry + 4, 2**31, 2**31)
            assert shows(bytes(data), saved("TIFF"))

    def test_a_jpeg_2000_with_long_boxes(self) -> None:
        plain = saved("JPEG2000")
        where = plain.index(b"jp2c") - 4
        box = struct.pack(">I", 8 + 3_000_000) + b"xml " + bytes(3_000_000)
        assert shows(plain[:where] + box + plain[where:], plain)

    def test_a_webp_with_junk(self) -> None:
        options = {"lossless": True, "exif": b"junk", "xmp": b"x" * 2_000_000, "icc_profile": b"junk"}
        assert shows(saved("WEBP", **options), saved("WEBP", lossless=True))

    def test_a_gif_with_5_mb_of_comments(self) -> None:
        assert shows(saved("GIF", comment=b"x" * 5_000_000), saved("GIF"))

    @pytest.mark.parametrize("label", [0x01, 0xAA, 0xF9, 0xFE, 0xFF])
    def test_a_gif_with_an_extension_without_data(self, label: int) -> None:
        plain = saved("GIF", transparency=3, comment=b"kept")
        start = 13 + 3 * 2 ** ((plain[10] & 7) + 1)
        for empty in (bytes((0x21, label, 0)), b"\x21\xff\0" + bytes((0x21, label, 0)), b"\x21\xf9\2\1\0\0"):
            data = plain[:start] + empty + plain[start:]
            assert shows(data, plain)
            assert not shows(data, saved("GIF"))  # what is transparent is still read

    def test_a_gif_that_ends_in_an_extension(self) -> None:
        plain = saved("GIF")
        start = 13 + 3 * 2 ** ((plain[10] & 7) + 1)
        for end in (b"!", b"!\xff", b"!\xff\0", b"!\xff\5ab"):
            with pytest.raises(ImageError, match="x: "):
                load_content(plain[:start] + end, "x")

    @pytest.mark.parametrize(
        "box", [b"colr", b"colr\1\0\0", b"colr\2\0\0", b"res ", b"res \0\0\0\x0aresc\0\0", b"res \0\0\0\x05rescaled"]
    )
    def test_a_jpeg_2000_with_a_short_box_in_its_header(self, box: bytes) -> None:
        plain = saved("JPEG2000")
        header, colour, pixels = (plain.index(kind) - 4 for kind in (b"jp2h", b"colr", b"jp2c"))
        for kept in (plain[colour:pixels], b""):  # beside a box of colour that is whole, and instead of it
            boxes = plain[header + 8 : colour] + kept + struct.pack(">I", 4 + len(box)) + box
            data = plain[:header] + struct.pack(">I", 8 + len(boxes)) + b"jp2h" + boxes + plain[pixels:]
            assert shows(data, plain)

    @pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}, {"quality": 80, "exif": EXIF_180}])
    def test_a_webp_whose_header_names_a_longer_file(self, options: dict[str, object]) -> None:
        plain = saved("WEBP", **options)
        for more in (1, 2, 1000, 2**31):
            longer = struct.pack("<I", len(plain) - 8 + more)
            assert shows(plain[:4] + longer + plain[8:], plain)
            for missing in (1, 2, 9):  # a chunk is not whole
                with pytest.raises(ImageError, match="x: "):
                    load_content(plain[:4] + longer + plain[8:-missing], "x")
