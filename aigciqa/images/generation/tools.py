"""Which tool writes what into which text; all but AUTOMATIC1111's text and ComfyUI's graphs is read here."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from aigciqa.images.generation.comfyui import is_graph, read_graph
from aigciqa.images.generation.infotext import read_infotext
from aigciqa.images.generation.parameters import GenerationParameters, cleaned, load_object
from aigciqa.images.generation.workflow import graph_of, is_workflow

Texts: TypeAlias = "Mapping[str, str]"

#: Texts in which parameters are looked for, those of the tool that wrote last first.
_NAMES = (
    "parameters",
    "invokeai_metadata",
    "sd-metadata",
    "usercomment",
    "prompt",
    "workflow",
    "model",
    "make",
    "imagedescription",
    "comment",
    "dc:description",
)
#: Field -> what it is called in JSON, in lower case and without blanks, underscores and hyphens.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "positiveprompt", "positive", "c"),
    "negative_prompt": ("negativeprompt", "negative", "uc"),
    "seed": ("seed",),
    "steps": ("steps", "numinferencesteps", "step"),
    "sampler": ("sampler", "samplername", "scheduler"),
    "guidance": ("cfgscale", "guidancescale", "guidance", "cfg", "scale"),
    "model": (
        "model",
        "modelname",
        "basemodel",
        "basemodelname",
        "modelweights",
        "checkpoint",
        "sdmodelname",
        "usestablediffusionmodel",
        "modelid",
        "pretrainedmodelnameorpath",
    ),
}
_LORAS = ("loras", "lora", "useloramodel")
#: Where a model or a LoRA is an object, these name it.
_NAMED = ("name", "model_name", "modelName", "lora", "model", "file", "path")
_MIDJOURNEY_FLAG = re.compile(r"(?:^|\s)(?:--|\u2014)([a-z]+)(?=\s|$)")
_JOB = re.compile(r"\s*Job ID: *([0-9a-f-]{36})\s*$")
_OF_MIDJOURNEY = frozenset({"v", "version", "niji", "ar", "stylize", "chaos", "sref", "cref", "profile", "weird"})
_DREAM_FLAGS = {"s": "steps", "S": "seed", "C": "guidance", "A": "sampler"}


def read_texts(texts: Texts) -> GenerationParameters:
    """Parameters from the texts of a file: of the first tool that says more than its name."""
    name_only = GenerationParameters()
    for found in _candidates(texts):
        if found.tells():
            return found
        name_only = found if name_only.generator is None else name_only
    return name_only


def read_text(source: str, generator: str = "AUTOMATIC1111") -> GenerationParameters | None:
    """Parameters from one text, a JSON object or AUTOMATIC1111's; None from any other.

    `generator` is the tool that writes the latter without its name.
    """
    head = source[:20].lstrip().lower()
    for name in ("prompt:", "workflow:"):  # as ComfyUI marks what it writes into EXIF
        if head.startswith(name) and (found := load_object(source.lstrip()[len(name) :])) is not None:
            return _of_object(found)
    found = load_object(source)
    return read_infotext(source, generator) if found is None else _of_object(found)


def _candidates(texts: Texts) -> Iterator[GenerationParameters]:
    if texts.get("software") == "NovelAI" or texts.get("source", "").startswith("NovelAI"):
        yield _of_novelai(texts)
    graphs = [name for name in ("prompt", "workflow") if texts.get(name, "").lstrip().startswith("{")]
    for name in _NAMES:
        if name in texts:
            found = read_text(texts[name], "ComfyUI" if graphs else "AUTOMATIC1111")
            if found is not None:
                yield found
    if "dream" in texts:
        yield _of_dream(texts["dream"])
    for name in ("description", "dc:description", "imagedescription"):
        found = _of_midjourney(texts.get(name, ""))
        if found is not None:
            yield found
    if "prompt" in texts and not graphs:  # a text for each parameter, as Easy Diffusion and scripts write them
        yield _of_keys(texts, texts.get("software"))


def _of_object(found: Mapping[str, Any]) -> GenerationParameters | None:
    """Parameters from a JSON object, by the keys that tell which tool wrote it."""
    if is_workflow(found):
        return read_graph(graph_of(found))
    if is_graph(found):
        extra = found.get("extraMetadata")  # of Civitai, beside a graph that is made anew for each picture
        named = load_object(extra) if isinstance(extra, str) else None
        return read_graph(found) if named is None else _of_keys(named, "Civitai")
    if isinstance(found.get("Comment"), str) and found.get("Software") == "NovelAI":
        return _of_novelai({name.lower(): value for name, value in found.items() if isinstance(value, str)})
    if isinstance(found.get("sui_image_params"), dict):
        return _of_keys(found["sui_image_params"], "SwarmUI")
    if isinstance(found.get("image"), dict) and ("app_id" in found or "model_weights" in found):
        return _of_old_invokeai(found)
    for name in ("prompt", "workflow"):  # a file in which ComfyUI's graphs were put together
        if isinstance(found.get(name), dict):
            return _of_object(found[name])
    generator = _generator(found)
    parameters = _of_keys(found, generator)
    return parameters if parameters.prompt is not None or generator is not None else None


def _generator(found: Mapping[str, Any]) -> str | None:
    """The tool that wrote a JSON object, where its keys tell."""
    version = found.get("version")
    if found.get("metadata_scheme") == "fooocus" or (isinstance(version, str) and version.startswith("Fooocus")):
        return "Fooocus"
    if "app_version" in found and ("generation_mode" in found or "positive_prompt" in found):
        return "InvokeAI"
    if "c" in found and "uc" in found:
        return "Draw Things"
    if "v4_prompt" in found:
        return "NovelAI"
    software = found.get("software")
    return software if isinstance(software, str) else None


def _of_keys(found: Mapping[str, Any], generator: object) -> GenerationParameters:
    """Parameters by what most tools call them."""
    by_key = {re.sub(r"[ _-]", "", name[:60]).lower(): value for name, value in found.items()}

    def values(names: tuple[str, ...]) -> Iterator[Any]:
        return (by_key[name] for name in names if by_key.get(name) not in (None, ""))

    fields = {field: next(values(names), None) for field, names in _KEYS.items()}
    fields["model"] = _name_of(fields["model"])
    loras = next(values(_LORAS), ())
    names = [_name_of(each) for each in (loras if isinstance(loras, (list, tuple)) else [loras])]
    combined = (value for key, value in by_key.items() if key.startswith("loracombined") and isinstance(value, str))
    names += [each.rpartition(" : ")[0] for each in combined]  # Fooocus: "name : weight"
    return cleaned(generator, **fields, loras=names)


def _name_of(value: object) -> object:
    """The name of a model or LoRA, which may be in an object, or in a list with its weight."""
    for _ in range(3):
        if isinstance(value, dict):
            value = next((value[name] for name in _NAMED if name in value), None)
        elif isinstance(value, list):
            value = value[0] if value else None
    return value


def _of_novelai(texts: Texts) -> GenerationParameters:
    found = load_object(texts.get("comment", "")) or {}
    prompt, negative = (_captions(found.get(name)) for name in ("v4_prompt", "v4_negative_prompt"))
    return cleaned(
        "NovelAI",
        prompt=prompt or found.get("prompt") or texts.get("description"),
        negative_prompt=negative or found.get("uc"),
        seed=found.get("seed"),
        steps=found.get("steps"),
        sampler=found.get("sampler"),
        guidance=found.get("scale"),
        model=texts.get("source"),
    )


def _captions(prompt: object) -> str | None:
    """The text of a prompt of version 4: of the picture, and of each character, a line each."""
    caption = prompt.get("caption") if isinstance(prompt, dict) else None
    if not isinstance(caption, dict):
        return None
    characters = caption.get("char_captions")
    parts = (
        [each.get("char_caption") for each in characters if isinstance(each, dict)]
        if isinstance(characters, list)
        else []
    )
    return "\n".join(each for each in (caption.get("base_caption"), *parts) if isinstance(each, str) and each)


def _of_old_invokeai(found: Mapping[str, Any]) -> GenerationParameters:
    image = found["image"]
    prompts = image.get("prompt")
    if isinstance(prompts, list):
        prompts = ", ".join(str(each.get("prompt")) for each in prompts if isinstance(each, dict))
    return cleaned(
        "InvokeAI",
        **_both_prompts(prompts if isinstance(prompts, str) else ""),
        seed=image.get("seed"),
        steps=image.get("steps"),
        sampler=image.get("sampler"),
        guidance=image.get("cfg_scale"),
        model=found.get("model_weights"),
    )


def _of_dream(source: str) -> GenerationParameters:
    """InvokeAI's first command line: `"a prompt [not this]" -s 50 -S 42 -C 7.5 -A k_lms`."""
    prompt, _, options = source.strip().removeprefix('"').rpartition('"')
    words = options.split()
    given = {
        _DREAM_FLAGS[flag[1:]]: value
        for flag, value in itertools.pairwise(words)
        if flag[1:] in _DREAM_FLAGS and flag[0] == "-"
    }
    return cleaned("InvokeAI", **_both_prompts(prompt), **given)


def _both_prompts(prompt: str) -> dict[str, Any]:
    """The prompt, and in brackets what the picture should not show."""
    parts = re.split(r"[\[\]]", prompt)
    return {"prompt": " ".join("".join(parts[::2]).split()), "negative_prompt": ", ".join(parts[1::2])}


def _of_midjourney(source: str) -> GenerationParameters | None:
    """A prompt with its flags: `a fox, watercolour --ar 3:2 --v 6.1 --seed 7 Job ID: <uuid>`."""
    job = _JOB.search(source[-80:])
    line = source[: len(source) - len(job[0])] if job else source
    pieces = _MIDJOURNEY_FLAG.split(line)
    flags = dict(zip(pieces[1::2], map(str.strip, pieces[2::2]), strict=True))
    if job is None and _OF_MIDJOURNEY.isdisjoint(flags):
        return None
    version, niji = flags.get("v") or flags.get("version"), flags.get("niji")
    return cleaned(
        "Midjourney",
        prompt=pieces[0],
        negative_prompt=flags.get("no"),
        seed=flags.get("seed"),
        model=f"Midjourney niji {niji}" if niji else f"Midjourney v{version}" if version else None,
    )
