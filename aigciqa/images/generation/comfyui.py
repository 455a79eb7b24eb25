"""ComfyUI's graphs: which sampler made the picture, with which prompt and which model.

A graph is as it was sent to ComfyUI (`prompt`): node id -> its class and its inputs; an input that is linked is a list
of another node's id and the number of its output. Every way through a graph is followed with a list of what has
been seen, so that graphs with circles, without ends and with a million nodes do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from aigciqa.images.generation.parameters import MAX_TEXT, GenerationParameters, cleaned, is_weights

Inputs: TypeAlias = "Mapping[str, Any]"

_SEEDS = ("seed", "noise_seed")
#: A node with a seed, or with noise that comes from another node, samples if it has one of these.
_OF_SAMPLERS = frozenset(
    "positive guider steps sigmas cfg sampler_name conditioning text_embeds basic_pipe pipe prompt".split()  # noqa: SIM905
)
#: Nodes that hold a part of what a sampler needs.
_PARTS = ("guider", "noise", "sampler", "sigmas", "scheduler", "basic_pipe", "pipe", "text_embeds", "settings")
#: Links along which a picture came to a sampler, as pixels or latents.
_PICTURES = ("latent_image", "latent", "latents", "samples", "image", "images", "pixels", "init_image")
#: Links that lead away from the picture, to what it was made with.
_OTHERS = frozenset(
    """
    model clip vae positive negative conditioning control_net controlnet guider noise sampler sigmas seed noise_seed
    text prompt clip_vision style_model upscale_model mask
    """.split()  # noqa: SIM905
)
_POSITIVE = ("positive", "positive_prompt", "text_positive", "positive_text")
_NEGATIVE = ("negative", "negative_prompt", "text_negative", "negative_text", "neg_conditioning")
#: Inputs with the text of a prompt, or of a part of it, by how they begin.
_TEXTS = ("populated_text", "text", "string", "clip_l", "clip_g", "t5xxl", "prompt", "value", "wildcard_text", "llama")
#: Inputs that hold the value of a node which does nothing else.
_VALUES = ("value", "seed", "noise_seed", "int", "float", "number", "text", "string", "sampler_name", "ckpt_name")
_LOADED = (
    "ckpt_name",
    "unet_name",
    "gguf_name",
    "base_ckpt_name",
    "checkpoint_name",
    "model_name",
    "checkpoint",
    "model",
)
_MODEL_LINKS = ("model", "model1", "model_a", "unet", "base_model", "basic_pipe", "pipe")
#: Links of a text or conditioning that lead to no text.
_NO_TEXTS = frozenset(
    """
    model clip vae control_net controlnet image images pixels mask latent latent_image samples clip_vision
    clip_vision_output style_model seed noise_seed noise lora_stack delimiter
    """.split()  # noqa: SIM905
)
#: Samplers behind each other that are followed to the first one.
_MAX_CHAIN = 50


def is_graph(graph: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a graph as it was sent to ComfyUI."""
    return any(isinstance(node, dict) and "class_type" in node and "inputs" in node for node in graph.values())


def read_graph(graph: Mapping[str, Any]) -> GenerationParameters:
    """Parameters of the picture that a graph makes; of no more than the tool's name where no sampler is found."""
    return _Graph(graph).parameters()


class _Graph:
    """A graph's nodes: id -> inputs and class."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        nodes = {key: node for key, node in graph.items() if isinstance(node, dict)}
        self.inputs: dict[str, Inputs] = {
            key: node["inputs"] for key, node in nodes.items() if isinstance(node.get("inputs"), dict)
        }
        self.classes = {key: str(nodes[key].get("class_type", "")) for key in self.inputs}

    def parameters(self) -> GenerationParameters:
        sampler = self._first_sampler()
        if sampler is None:
            return cleaned("ComfyUI")
        inputs = self._with_parts(sampler)
        model, loras = self._model(inputs)
        scale = self._value(inputs, "cfg", "cfg_conds", "guidance_scale")
        positive = next(
            (inputs[name] for name in (*_POSITIVE, "conditioning", "cond1", "prompt") if name in inputs), None
        )
        negative = next((inputs[name] for name in _NEGATIVE if name in inputs), None)
        if scale in (None, 1, 1.0):
            scale = self._distilled_guidance(positive) or scale
        return cleaned(
            "ComfyUI",
            prompt=self._text(positive, _POSITIVE),
            negative_prompt=self._text(negative, _NEGATIVE),
            seed=self._value(inputs, *_SEEDS),
            steps=self._value(inputs, "steps"),
            sampler=self._value(inputs, "sampler_name", "sampler"),
            guidance=scale,
            model=model,
            loras=loras,
        )

    def _first_sampler(self) -> str | None:
        """The sampler that made the picture from noise: the first one on the way to the output.

        What samples it again, to enlarge it or to draw its faces, comes later.
        """
        values = (value for inputs in self.inputs.values() for value in inputs.values() if type(value) is list)
        linked = {link for value in values if (link := self._link(value))}
        ends = sorted((key for key in self.inputs if key not in linked), key=self._is_shown, reverse=True)
        seen: set[str] = set()
        found = next((key for end in ends if (key := self._sampler_behind([end], seen))), None)
        found = found or next(filter(self._samples, self.inputs), None)
        chain: list[str] = []
        while found is not None and found not in chain and len(chain) < _MAX_CHAIN:
            chain.append(found)
            pictures = [self.inputs[found].get(name) for name in _PICTURES]
            found = self._sampler_behind([link for each in pictures if (link := self._link(each))], set())
        return chain[-1] if chain else None

    def _is_shown(self, key: str) -> int:
        name = self.classes[key].lower()
        return 2 * ("save" in name) + ("preview" in name)

    def _samples(self, key: str) -> bool:
        inputs = self.inputs[key]
        return any(name in inputs for name in (*_SEEDS, "noise")) and not _OF_SAMPLERS.isdisjoint(inputs)

    def _sampler_behind(self, starts: list[str], seen: set[str]) -> str | None:
        """The nearest sampler from which the picture came to some nodes."""

        def pictures(key: str) -> Iterator[Any]:
            return (value for name, value in self.inputs[key].items() if name not in _OTHERS)

        return next(filter(self._samples, self._backwards(starts, pictures, seen)), None)

    def _backwards(
        self, starts: Iterable[str], inputs: Callable[[str], Iterable[Any]], seen: set[str]
    ) -> Iterator[str]:
        """The nodes before some, these included, the nearest first, along those of their inputs that are links."""
        waiting = list(starts)
        for key in waiting:
            if key not in seen:
                seen.add(key)
                yield key
                waiting.extend(link for value in inputs(key) if (link := self._link(value)))

    def _link(self, value: object) -> str | None:
        """The node from which an input comes, if there is one."""
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int)):
            key = str(value[0])
            return key if key in self.inputs else None
        return None

    def _with_parts(self, sampler: str) -> Inputs:
        """The inputs of a sampler, and of the nodes that hold its guider, noise and sigmas; its own come first."""
        found: dict[str, Any] = {}
        for key in self._backwards([sampler], lambda key: [self.inputs[key].get(part) for part in _PARTS], set()):
            found = {**self.inputs[key], **found}
        return found

    def _value(self, inputs: Inputs, *names: str) -> object:
        """The value of the first input of some names that has one, here or in the node that it is linked to."""
        for name in names:
            value, seen = inputs.get(name), set[str]()
            while (link := self._link(value)) and link not in seen:
                seen.add(link)
                of_node = self.inputs[link]
                value = next((of_node[each] for each in (name, *names, *_VALUES) if each in of_node), None)
                if value is None and len(of_node) == 1:  # a node that hands on
                    (value,) = of_node.values()
            if isinstance(value, dict):  # of loaders that show a picture beside each name
                value = value.get("content")
            if isinstance(value, (str, int, float)):
                return value
        return None

    def _model(self, inputs: Inputs) -> tuple[object, list[object]]:
        """The name of the model, and the LoRAs that it went through, the first one first."""
        loras: list[object] = []
        starts = [link for name in _MODEL_LINKS if (link := self._link(inputs.get(name)))][:1]

        def before(key: str) -> list[Any]:
            of_node = self.inputs[key]
            return [value for name, value in of_node.items() if name in _MODEL_LINKS or "lora" in name.lower()]

        model = None
        for key in self._backwards(starts, before, set()):
            of_node = self.inputs[key]
            loras[:0] = _loras(of_node)
            named = (self._value({**of_node, "model": None}, name) for name in _LOADED)
            model = model or next((name for name in (*named, of_node.get("model")) if isinstance(name, str)), None)
        return model, loras

    def _text(self, start: object, role: tuple[str, ...]) -> str | None:
        """The text of a prompt: what a node encodes, or the texts that are combined, a line each."""
        first = self._link(start)
        if first is None:
            return start if isinstance(start, str) else None
        texts: dict[str, str] = {}
        made = 0
        for key in self._last_first(first, role):
            values = [texts.get(link) if (link := self._link(each)) else each for each in self._parts(key, role)]
            parts = list(dict.fromkeys(each for each in values if isinstance(each, str) and each))
            if len(parts) > 1:
                made += sum(map(len, parts))
                if made > MAX_TEXT:
                    return None
            texts[key] = _separator(self.inputs[key]).join(parts)
        return texts[first]

    def _distilled_guidance(self, start: object) -> object:
        """The guidance of Flux and its like, which stands in the conditioning."""
        first = self._link(start)
        keys = self._last_first(first, _POSITIVE) if first is not None else ()
        return next((self._value(self.inputs[key], "guidance") for key in keys if "guidance" in self.inputs[key]), None)

    def _last_first(self, start: str, role: tuple[str, ...]) -> Iterator[str]:
        """The nodes of which a node's text is made, each behind those that it is made of, and the node itself."""
        seen: set[str] = set()
        waiting = [(start, False)]
        while waiting:
            key, is_done = waiting.pop()
            if is_done:
                yield key
            elif key not in seen:
                seen.add(key)
                waiting.append((key, True))
                waiting.extend((link, False) for each in self._parts(key, role) if (link := self._link(each)))

    def _parts(self, key: str, role: tuple[str, ...]) -> list[Any]:
        """Those of a node's inputs that its text is made of."""
        inputs = self.inputs[key]
        if self.classes[key] == "ConditioningZeroOut":
            return []
        if any(name in inputs for name in (*_POSITIVE, *_NEGATIVE)):
            return [inputs[name] for name in role if name in inputs]
        chosen = f"input{inputs.get('select')}"
        for names in ([chosen], ["populated_text"], [name for name in inputs if name.startswith(_TEXTS)]):
            found = [inputs[name] for name in names if name in inputs]
            if any(isinstance(each, str) or self._link(each) for each in found):
                return found
        return [value for name, value in inputs.items() if name not in _NO_TEXTS]


def _separator(inputs: Inputs) -> str:
    """What stands between the texts that a node joins."""
    given = inputs.get("delimiter")
    return given if isinstance(given, str) else "\n"


def _loras(inputs: Inputs) -> list[str]:
    """The LoRAs that a node loads, less those that are switched off or have a strength of 0."""
    found = []
    for name, value in inputs.items():
        if not name.lower().startswith("lora") or inputs.get(f"switch_{name.rpartition('_')[2]}") == "Off":
            continue
        if isinstance(value, dict):
            is_on = value.get("on", True) and value.get("strength") != 0
            value = (value.get("lora") or value.get("content")) if is_on else None
        if isinstance(value, str) and is_weights(value) and inputs.get("strength_model") != 0:
            found.append(value)
    return found
