"""What is known of how a picture was generated, and the values that it is made of, cleaned."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

FIELDS = (
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "sampler",
    "guidance",
    "model",
    "loras",
    "generator",
    "c2pa",
)
#: A longer text is not looked into: ten times what the largest graphs of ComfyUI have.
MAX_TEXT = 2**21
#: A longer prompt is as good as none: as much as a cell of a spreadsheet holds.
MAX_PROMPT = 32_767
MAX_NAME = 500
MAX_LORAS = 100
#: ComfyUI's seeds have 64 bits.
MAX_SEED = 2**64 - 1
_MAX_STEPS = 10**6
#: A longer number is none, and to read it would take time that grows with the square of its digits.
_MAX_DIGITS = 25
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_WEIGHTS_SUFFIXES = (".safetensors", ".ckpt", ".gguf", ".pt", ".pth", ".bin", ".sft")


@dataclass(frozen=True)
class GenerationParameters:
    """How a picture was generated, as far as its file or a file beside it says. `read_generation` makes it.

    Attributes:
        prompt: as it was written, LoRA tags and line breaks included.
        negative_prompt: what the picture should not show.
        seed: of the noise that the picture began with.
        steps: of the sampler.
        sampler: as the tool calls it.
        guidance: scale of the classifier-free guidance; of the distilled guidance where the former is off (1).
        model: name of the checkpoint, without its folder and the suffix of its file.
        loras: names of the LoRAs, likewise.
        generator: the tool, such as AUTOMATIC1111, ComfyUI or Midjourney.
        c2pa: whether the file has C2PA content credentials; they are not verified.

    Example:
        >>> from aigciqa import GenerationParameters
        >>> parameters = GenerationParameters(prompt="a red fox", seed=7, guidance=4.5)
        >>> parameters.seed, parameters.model
        (7, None)
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    model: str | None = None
    loras: tuple[str, ...] = ()
    generator: str | None = None
    c2pa: bool = False

    def cells(self) -> dict[str, str | None]:
        """The text of a table's cell for each field, in their order; None where nothing is known.

        LoRAs are joined by commas; `c2pa` is `yes`, or None.

        Example:
            >>> from aigciqa import GenerationParameters
            >>> cells = GenerationParameters(seed=7, guidance=4.0, loras=("ink", "fox")).cells()
            >>> cells["seed"], cells["guidance"], cells["loras"], cells["model"]
            ('7', '4', 'ink, fox', None)
        """
        values = {name: getattr(self, name) for name in FIELDS}
        values["guidance"] = None if self.guidance is None else f"{self.guidance:.6g}"
        values["loras"] = ", ".join(self.loras)
        values["c2pa"] = "yes" if self.c2pa else None
        return {name: None if value in (None, "") else str(value) for name, value in values.items()}

    def tells(self) -> bool:
        """Whether it says more than which tool there was."""
        return any(each is not None for each in (self.prompt, self.negative_prompt, self.seed, self.model))


def cleaned(
    generator: object,
    *,
    prompt: object = None,
    negative_prompt: object = None,
    seed: object = None,
    steps: object = None,
    sampler: object = None,
    guidance: object = None,
    model: object = None,
    loras: Iterable[object] = (),
) -> GenerationParameters:
    """Parameters of values as they were found: what is of another type, too long or out of range is left out."""
    names = (file_stem(each) for each in loras)
    return GenerationParameters(
        prompt=text(prompt),
        negative_prompt=text(negative_prompt),
        seed=_integer(seed, 0, MAX_SEED),
        steps=_integer(steps, 1, _MAX_STEPS),
        sampler=_line(sampler),
        guidance=_number(guidance),
        model=file_stem(model),
        loras=tuple(dict.fromkeys(name for name in names if name is not None))[:MAX_LORAS],
        generator=_line(generator),
    )


def text(value: object, longest: int = MAX_PROMPT) -> str | None:
    """A text with its line breaks as they are in Unix, and no other control characters; None if nothing is left."""
    if not isinstance(value, str) or len(value) > longest:
        return None
    return _CONTROL.sub("", value.replace("\r\n", "\n").replace("\r", "\n")).strip() or None


def file_stem(value: object) -> str | None:
    """The name of a file of weights, without its folder and suffix."""
    name = _line(value)
    if name is None:
        return None
    name = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return (name.rpartition(".")[0] if is_weights(name) else name) or None


def is_weights(name: str) -> bool:
    """Whether it is the name of a file of weights."""
    return name[-MAX_NAME:].lower().endswith(_WEIGHTS_SUFFIXES)


def load_object(source: str) -> dict[str, Any] | None:
    """A JSON object; None for any other text, and for one that is too long or nested too deeply."""
    if len(source) <= MAX_TEXT and source.lstrip()[:1] == "{":
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(source, parse_int=_parsed_integer, strict=False)
            return found if isinstance(found, dict) else None
    return None


def _parsed_integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


def _line(value: object) -> str | None:
    found = text(value, MAX_NAME)
    return None if found is None else " ".join(found.split())


def _number(value: object) -> float | None:
    if isinstance(value, str) and len(value) <= _MAX_DIGITS:
        with contextlib.suppress(ValueError):
            value = float(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _integer(value: object, least: int, most: int) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) <= _MAX_DIGITS:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_in_range = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    return value if is_in_range else None  # type: ignore[return-value]
