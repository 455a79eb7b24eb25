"""The text that AUTOMATIC1111 writes, and with it Forge, SD.Next, Fooocus, Civitai and many savers of ComfyUI.

The prompt, which may have several lines; `Negative prompt:` and its lines; one line of settings,
`Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: name`. A setting with a comma in it is a JSON string. Where
the steps are not known, the line begins with the seed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from aigciqa.images.generation.parameters import MAX_TEXT, GenerationParameters, cleaned

_NEGATIVE = "Negative prompt:"
_FIRST_SETTINGS = ("Steps:", "Seed:")
_LORA_TAG = re.compile(r"<(?:lora|lyco):([^:<>\n]{1,200})[:>]")
#: A line of settings has two or more of these: one that begins with `Steps:` may also be part of a description.
_ALWAYS = frozenset({"Steps", "Sampler", "Seed", "CFG scale", "Size", "Model", "Model hash"})
_MAX_SETTINGS = 300
_DECODER = json.JSONDecoder(strict=False)


def read_infotext(source: str, generator: str = "AUTOMATIC1111") -> GenerationParameters | None:
    """Parameters from a text with a line of settings or a negative prompt; None from any other.

    `generator` is the tool where the text names none.
    """
    if len(source) > MAX_TEXT:
        return None
    lines = source.replace("\r\n", "\n").strip().split("\n")
    at, settings = next(filter(None, (_last_settings(lines, first) for first in _FIRST_SETTINGS)), (None, {}))
    negative = next((number for number, line in enumerate(lines[:at]) if line.lstrip().startswith(_NEGATIVE)), at)
    if negative is None:
        return None
    prompt = "\n".join(lines[:negative])
    return cleaned(
        _tool(settings) or generator,
        prompt=prompt,
        negative_prompt="\n".join(lines[negative:at]).strip().removeprefix(_NEGATIVE),
        seed=settings.get("Seed"),
        steps=settings.get("Steps"),
        sampler=settings.get("Sampler"),
        guidance=_guidance(settings),
        model=settings.get("Model") or settings.get("Model hash"),
        loras=(*_LORA_TAG.findall(prompt), *_hashed(settings.get("Lora hashes", ""))),
    )


def _last_settings(lines: Sequence[str], first: str) -> tuple[int, dict[str, str]] | None:
    """The number of the last line that begins with a setting, and its settings, unless it is part of a description."""
    at = next((number for number in range(len(lines) - 1, -1, -1) if lines[number].lstrip().startswith(first)), None)
    settings = {} if at is None else _settings(lines[at])
    return None if at is None or len(settings.keys() & _ALWAYS) < 2 else (at, settings)


def _settings(line: str) -> dict[str, str]:
    """`Key: value, key: "value, with a comma"`; time is linear in the line's length."""
    found: dict[str, str] = {}
    start = 0
    while len(found) < _MAX_SETTINGS and (colon := line.find(":", start)) >= 0:
        key = line[start:colon].rpartition(",")[2].strip()
        start = colon + 1
        while line[start : start + 1] == " ":
            start += 1
        value, end = _quoted(line, start) if line[start : start + 1] == '"' else (None, start)
        if value is None:
            comma = line.find(",", start)
            end = len(line) if comma < 0 else comma
            value = line[start:end].strip()
        found.setdefault(key, value)
        start = end
    return found


def _quoted(line: str, start: int) -> tuple[str | None, int]:
    """The JSON string that starts there, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(line, start)
    except ValueError:
        return None, start
    return str(value), end


def _tool(settings: Mapping[str, str]) -> str | None:
    """The tool that wrote the settings, where they say so."""
    version = settings.get("Version", "")
    if re.match(r"f\d|classic|neo", version):
        return "Forge"
    named = ("ComfyUI", "Fooocus", "aigciqa", "diffusers")
    found = next((name for name in named if version.lower().startswith(name.lower())), None)
    if found is not None:
        return found
    if "Civitai resources" in settings and not version:
        return "Civitai"
    return settings.get("App") or ("AUTOMATIC1111" if re.match(r"v\d", version) else None)


def _guidance(settings: Mapping[str, str]) -> str | None:
    scale, distilled = settings.get("CFG scale"), settings.get("Distilled CFG Scale")
    return distilled if distilled and scale in (None, "1", "1.0") else scale


def _hashed(names: str) -> list[str]:
    """Names in `a: 123, b: 456`."""
    return [each.rpartition(":")[0].strip() for each in names.split(",")]
