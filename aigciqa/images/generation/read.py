"""Generation parameters from an image file, from the files beside it, and from its name."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import replace

from aigciqa.errors import ImageError
from aigciqa.images import parquet
from aigciqa.images.chunks import Data, FileBytes
from aigciqa.images.generation.embedded import Embedded, collect
from aigciqa.images.generation.exif import decoded
from aigciqa.images.generation.parameters import MAX_TEXT, GenerationParameters, cleaned
from aigciqa.images.generation.tools import read_text, read_texts
from aigciqa.images.reading import read_content
from aigciqa.images.xmp import read_properties
from aigciqa.utils import object_stores
from aigciqa.utils.paths import at_home

_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
#: Properties of XMP, and as which text they count.
_XMP_TEXTS = {
    ("http://ns.adobe.com/exif/1.0/", "UserComment"): "usercomment",
    ("http://purl.org/dc/elements/1.1/", "description"): "dc:description",
    (_IPTC, "AIPromptInformation"): "prompt",
    (_IPTC, "AISystemUsed"): "aisystemused",
}
_SIDECARS = (".txt", ".json")
_DALL_E = re.compile(r"DALL.{1,3}E \d{4}-\d\d-\d\d \d\d\.\d\d\.\d\d - (.+)\.\w+")


def read_generation(image: str | os.PathLike[str] | bytes) -> GenerationParameters:
    """Read how a picture was generated: prompt, seed, model and more.

    From PNG texts, EXIF, XMP and content credentials; where they tell nothing, from a file beside the image
    (`fox.txt`, `fox.json`, `fox.png.txt` or `fox.png.json` for `fox.png`), or from the name that DALL-E gives a file.
    Of AUTOMATIC1111, Forge, SD.Next, ComfyUI, InvokeAI, NovelAI, Fooocus, SwarmUI, Midjourney, DALL-E and others. What
    is damaged, too long or of no known form counts as absent. Pixels are not read.

    Args:
        image: path (`~` stands for the home folder), URL of an object store, place in a Parquet file, or the bytes of a
            file.

    Raises:
        ImageError: the file can't be read.

    Example:
        >>> import aigciqa, io
        >>> from PIL import Image, PngImagePlugin
        >>> info = PngImagePlugin.PngInfo()
        >>> info.add_text("parameters", "a red fox\\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Model: sdxl")
        >>> fox = io.BytesIO()
        >>> Image.new("RGB", (64, 64)).save(fox, "PNG", pnginfo=info)
        >>> found = aigciqa.read_generation(fox.getvalue())
        >>> found.prompt, found.seed, found.model, found.generator
        ('a red fox', 42, 'sdxl', 'AUTOMATIC1111')
    """
    if isinstance(image, bytes):
        return generation_of(image)
    path = at_home(os.fspath(image))
    if object_stores.scheme_of(path) or parquet.place_of(path) is not None:
        return generation_of(read_content(path))
    try:
        with object_stores.open_regular(path) as (stream, size):
            return generation_of(FileBytes(stream.raw, size), path)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise ImageError(f"{path or repr(path)}: {getattr(error, 'strerror', None) or error}") from error


def generation_of(content: Data, path: str | None = None) -> GenerationParameters:
    """Parameters from the content of a file; with its path also from the files beside it, unless that is a URL."""
    embedded = collect(content)
    found = _of_embedded(embedded)
    if path is not None and not object_stores.scheme_of(path) and not found.tells():
        candidates = itertools.chain(_beside(path), [_by_name(path)])
        found = next((each for each in candidates if each is not None and each.tells()), found)
    return replace(found, c2pa=embedded.has_credentials)


def sidecars_of(path: str) -> list[str]:
    """The paths beside an image where files may tell how it was generated, in the order in which they are asked."""
    return [name + suffix for name in (os.path.splitext(path)[0], path) for suffix in _SIDECARS]


def _of_embedded(embedded: Embedded) -> GenerationParameters:
    texts = embedded.texts
    if embedded.xmp is not None:
        properties = read_properties(embedded.xmp) or {}
        texts = {name: properties[key][0] for key, name in _XMP_TEXTS.items() if properties.get(key)} | texts
    found = read_texts(texts)
    if found.generator is None:
        found = replace(found, generator=cleaned(embedded.claimed).generator)
    return found


def _beside(path: str) -> Iterator[GenerationParameters | None]:
    """Parameters from the files beside an image."""
    for name in sidecars_of(path):
        with contextlib.suppress(OSError), object_stores.open_regular(name) as (stream, size):
            if size <= MAX_TEXT:
                yield read_text(decoded(stream.read(MAX_TEXT)))


def _by_name(path: str) -> GenerationParameters | None:
    """The prompt in a file name as ChatGPT gives it to DALL-E's pictures, which cuts long ones."""
    match = _DALL_E.fullmatch(os.path.basename(path))
    return None if match is None else cleaned("DALL-E", prompt=match[1])
