"""Fuzz the reading of prompts and seeds: whatever a file holds, parameters come out, soon, and fit into a table.

    python benchmarks/fuzz_generation.py [--seconds 600] [--seed 0] [--keep FOLDER]

Files of every format, with the texts of every tool, are changed in two ways: their bytes, and the texts before they are
put into a file. Prints how many were tried, what was found, and the slowest. Exit status: 1 if anything was found.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import random
import struct
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_decoder import mutate, png_of
from PIL import Image

from aigciqa import GenerationParameters, read_generation

#: A file that takes longer is a finding; longer still, the process is ended, with where it was.
SLOW_SECONDS, HANG_SECONDS = 0.2, 60.0
#: Longer inputs are cut, to keep the rate up.
MAX_CORPUS = 3_000
SETTINGS = 'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Model: sdxl, Lora hashes: "ink: 1a2b, fur: 3c4d"'
INFOTEXT = f"a red fox, <lora:ink:0.8>\nin snow\nNegative prompt: blurry\n{SETTINGS}, Version: v1.9.4"
KEYWORDS = "parameters prompt workflow invokeai_metadata sd-metadata Dream Description Comment Software Source".split()  # noqa: SIM905
_VALUES: tuple[Any, ...] = (None, True, -1, 0, 2**64, 1e308, float("nan"), "", "x", "9" * 400, [], {}, [[]], ["3", 0])


def _graph() -> dict[str, Any]:
    sampler = {"seed": 7, "steps": 20, "cfg": 8.0, "sampler_name": "euler", "model": ["10", 0], "positive": ["6", 0]}
    return {
        "3": {"class_type": "KSampler", "inputs": sampler | {"negative": ["7", 0], "latent_image": ["5", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["11", 0], "clip": ["10", 1]}},
        "7": {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["6", 0], "conditioning_2": ["6", 0]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
        "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "ink.safetensors", "model": ["4", 0]}},
        "11": {"class_type": "StringConcatenate", "inputs": {"string_a": "a fox", "string_b": "b", "delimiter": ","}},
    }


def _texts() -> list[str]:
    """Texts as tools write them."""
    nodes = [
        {
            "id": 3,
            "type": "KSampler",
            "mode": 0,
            "inputs": [{"name": "model", "link": 1}],
            "widgets_values": [7, "fixed", 20],
        },
        {"id": 4, "type": "CheckpointLoaderSimple", "mode": 4, "inputs": [], "widgets_values": ["sdxl.safetensors"]},
    ]
    captions = {"caption": {"base_caption": "a fox", "char_captions": [{"char_caption": "red"}]}}
    objects: list[dict[str, Any]] = [
        _graph(),
        {"nodes": nodes, "links": [[1, 4, 0, 3, 0, "MODEL"]]},
        {"app_version": "5", "positive_prompt": "a", "model": {"name": "m"}, "loras": [{"model": {"name": "ink"}}]},
        {"app_id": "invoke-ai", "image": {"prompt": [{"prompt": "a [b]"}], "seed": 1}},
        {"sui_image_params": {"prompt": "a", "seed": 1, "loras": ["ink"]}},
        {"metadata_scheme": "fooocus", "prompt": "a", "lora_combined_1": "ink : 0.1", "seed": "5"},
        {"v4_prompt": captions, "uc": "b", "seed": 3, "scale": 5.0},
        {"c": "a", "uc": "b", "lora": [{"file": "ink.ckpt"}]},
    ]
    flags = "a fox --ar 3:2 --tile --v 6.1 --seed 7 --no text Job ID: 0b3c7ad8-25ef-4ae6-a3a1-4d1bfd5c4d9d"
    return [INFOTEXT, '"a [b]" -s 50 -S 7 -C 7.5 -A k_lms', flags, "NovelAI", *map(json.dumps, objects)]


def _changed_object(value: Any, rng: random.Random) -> Any:
    """A JSON value with one part changed, moved or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key, other = rng.choice(list(value)), rng.choice(list(value))
        new = rng.choice((value[other], rng.choice(_VALUES), _changed_object(value[key], rng)))
        return {**value, rng.choice((key, other, "new")): new}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _changed_object(value[at], rng), *value[at + rng.randrange(2) :]]
    return rng.choice(_VALUES)


def _changed_text(text: str, rng: random.Random) -> str:
    if text.startswith("{") and rng.random() < 0.7:
        value = json.loads(text)
        for _ in range(rng.choice((1, 2, 5))):
            value = _changed_object(value, rng)
        return json.dumps(value)
    at = rng.randrange(len(text) + 1)
    middle = rng.choice(
        ('"', "\\", "\n", ":", ", ", "{", "[", "--v ", "\0", "\ud800", "é", "狐", "9" * 50, "<lora:", text[at:])
    )
    return text[:at] + middle * rng.choice((1, 1, 2, 1000)) + text[at + rng.choice((0, 1, 5, 50)) :]


def _with_texts(texts: list[tuple[str, str]], rng: random.Random) -> bytes:
    """A file of some format with texts in one of the ways in which tools put them there."""
    encoded = [(keyword.encode(), text.encode("utf-8", "surrogatepass")) for keyword, text in texts]
    if rng.random() < 0.5:
        header, pixels = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), zlib.compress(b"\0\0")
        chunks = [(b"IHDR", header), (b"IDAT", pixels)]
        for keyword, text in encoded:
            kind, content = rng.choice(
                (
                    (b"tEXt", keyword + b"\0" + text),
                    (b"zTXt", keyword + b"\0\0" + zlib.compress(text)),
                    (b"iTXt", keyword + b"\0\1\0en\0\0" + zlib.compress(text)),
                    (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _packet(text)),
                )
            )
            chunks.insert(rng.randrange(len(chunks)) + 1, (kind, content))
        return png_of([*chunks, (b"IEND", b"")])
    text = encoded[0][1]
    image_format, file = rng.choice(("JPEG", "WEBP", "AVIF", "TIFF")), io.BytesIO()
    name, codec = rng.choice(((b"UNICODE\0", "utf-16-be"), (b"UNICODE\0", "utf-16-le"), (b"ASCII\0\0\0", "utf-8")))
    comment = name + texts[0][1].encode(codec, "surrogatepass")
    entry = struct.pack(">HHHIII", 1, 0x8769, 4, 1, 26, 0) + struct.pack(">HHHII", 1, 0x9286, 7, len(comment), 44)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + entry + bytes(4) + comment
    options = {"exif": exif} if len(exif) < 60_000 else {}
    if image_format != "TIFF" and len(text) < 30_000 and rng.random() < 0.5:
        options = {"xmp": _packet(text)}
    Image.new("L" if image_format != "AVIF" else "RGB", (4, 4)).save(file, image_format, **options)
    return file.getvalue()


def _packet(text: bytes) -> bytes:
    escaped = text.replace(b"&", b"&amp;").replace(b"<", b"&lt;")
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/"><exif:UserComment><rdf:Alt><rdf:li>'
        + escaped
        + b"</rdf:li></rdf:Alt></exif:UserComment></rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def problem_of(found: GenerationParameters) -> str | None:
    """What is wrong with parameters, if anything."""
    if found.seed is not None and not 0 <= found.seed < 2**64:
        return f"seed {found.seed}"
    for name, cell in found.cells().items():
        if cell is not None and (
            not cell or len(cell) > 60_000 or any(each < " " and each not in "\n\t" for each in cell)
        ):
            return f"cell {name}: {cell[:50]!r}"
        (cell or "").encode()
    return None


@dataclass
class Tally:
    """What became of the files."""

    tried: int = 0
    told: int = 0
    findings: int = 0
    slowest: float = 0.0
    slowest_bytes: int = 0


def fuzz(seconds: float, seed: int, found: Callable[[bytes, str], None]) -> Tally:
    """Change files and read them for a time; an input with a new kind of outcome is changed further."""
    rng = random.Random(seed)
    texts = _texts()
    corpus = [_with_texts([(keyword, text)], rng) for text in texts for keyword in KEYWORDS]
    tally, outcomes = Tally(), set[tuple[object, ...]]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if rng.random() < 0.5:
            chosen = [
                (rng.choice(KEYWORDS), _changed_text(rng.choice(texts), rng)) for _ in range(rng.choice((1, 1, 2, 4)))
            ]
            data = _with_texts(chosen, rng)
        else:
            data = mutate(rng.choice(corpus), corpus, rng)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        start = time.process_time()
        try:
            parameters = read_generation(data)
            problem = problem_of(parameters)
        except Exception:
            parameters, problem = GenerationParameters(), traceback.format_exc()
        took = time.process_time() - start
        tally.tried += 1
        tally.told += parameters.tells()
        if took > tally.slowest:
            tally.slowest, tally.slowest_bytes = took, len(data)
        problem = problem or (f"slow: {took:.2f} s" if took > SLOW_SECONDS else None)
        if problem is not None:
            tally.findings += 1
            found(data, problem)
        outcome = (parameters.generator, *(cell is None for cell in parameters.cells().values()))
        if outcome not in outcomes and len(corpus) < MAX_CORPUS:
            outcomes.add(outcome)
            corpus.append(data)
    faulthandler.cancel_dump_traceback_later()
    return tally


def main() -> None:
    """Fuzz, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    options = parser.parse_args()

    def found(data: bytes, problem: str) -> None:
        print(f"finding: {problem} ({len(data)} bytes, crc32 {zlib.crc32(data):08x})", flush=True)
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{zlib.crc32(data):08x}.bin").write_bytes(data)

    tally = fuzz(options.seconds, options.seed, found)
    print(
        f"{tally.tried} files in {options.seconds:.0f} s: {tally.told} with parameters, {tally.findings} findings; the "
        f"slowest took {tally.slowest * 1000:.0f} ms ({tally.slowest_bytes} bytes)"
    )
    raise SystemExit(1 if tally.findings else 0)


if __name__ == "__main__":
    main()
