"""ComfyUI's workflows, as its canvas saves them: a graph is made of one, as it would be sent to ComfyUI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: Node's type -> its widgets in order, which older workflows do not name; `` is what a seed does after each run.
_WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "RandomNoise": ("noise_seed", ""),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "KSamplerSelect": ("sampler_name",),
    "CFGGuider": ("cfg",),
    "FluxGuidance": ("guidance",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CLIPTextEncodeSDXL": (*[""] * 6, "text_g", "text_l"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "UnetLoaderGGUF": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "PrimitiveNode": ("value",),
}
_AFTER_RUN = ("fixed", "increment", "decrement", "randomize")
_MUTED, _BYPASSED = 2, 4


def is_workflow(found: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a workflow."""
    return isinstance(found.get("nodes"), list) and isinstance(found.get("links"), list)


def graph_of(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """The graph of a workflow; groups of nodes that stand for one (subgraphs) are not opened."""
    sources = dict(_sources(workflow["links"]))
    graph = {}
    for node in workflow["nodes"]:
        if isinstance(node, dict) and node.get("mode") != _MUTED:
            inputs = _inputs(node, sources)
            if node.get("mode") == _BYPASSED:  # only its links: it hands on what comes in
                inputs = {name: value for name, value in inputs.items() if isinstance(value, list)}
            graph[str(node.get("id"))] = {"class_type": str(node.get("type", "")), "inputs": inputs}
    return graph


def _sources(links: Iterable[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """The number of each link, and the node and output from which it comes."""
    for link in links:
        if isinstance(link, dict):
            link = [link.get(name) for name in ("id", "origin_id", "origin_slot")]
        if isinstance(link, list) and len(link) >= 3 and isinstance(link[0], (int, str)):
            yield link[0], [str(link[1]), link[2]]


def _inputs(node: Mapping[str, Any], sources: Mapping[Any, list[Any]]) -> dict[str, Any]:
    """A node's inputs: those that are linked, and the values of its widgets."""
    named = node.get("inputs")
    inputs = [each for each in named if isinstance(each, dict)] if isinstance(named, list) else []
    found = _widgets(node, inputs)
    for each in inputs:
        link = each.get("link")
        if isinstance(link, (int, str)) and link in sources:
            found[str(each.get("name"))] = sources[link]
    return found


def _widgets(node: Mapping[str, Any], inputs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of a node's widgets, by name."""
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return dict(values)
    if not isinstance(values, list):
        return {}
    names: Iterable[str] = _WIDGETS.get(str(node.get("type")), ())
    if not names:
        names = [str(each.get("name")) for each in inputs if "widget" in each]
        values = [value for value in values if value not in _AFTER_RUN]
    return {name: value for name, value in zip(names, values, strict=False) if name and not isinstance(value, list)}
