"""A small ComfyUI: it loads a folder of nodes, checks a prompt, and executes it, by the same contract.

A prompt is node id -> {"class_type": ..., "inputs": {name: value or [node id, output]}}, as its API takes it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

Prompt = Mapping[str, Mapping[str, Any]]
_CONVERSIONS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


class ExecutionBlocker:
    """What a node returns in place of an output that is not there."""

    def __init__(self, message: str | None) -> None:
        self.message = message


class InvalidPrompt(Exception):  # noqa: N818
    """What ComfyUI says of a prompt that it does not execute."""


class Interrupted(Exception):  # noqa: N818
    """The user stopped the run."""


class Comfy:
    """ComfyUI with some nodes, on the CPU.

    Attributes:
        nodes: type -> class.
        texts: node id -> what was shown on the node.
        done: the steps of the progress bars, (images, total) each.
        interrupt: whether the user stops the run.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes: dict[str, Any] = {}
        self.texts: dict[str, str] = {}
        self.done: list[tuple[int, int]] = []
        self.interrupt = False
        comfy = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.total = total

            def update(self, value: int) -> None:
                comfy.done.append((value, self.total))

        class PromptServer:
            def send_progress_text(self, text: str, node_id: str) -> None:
                comfy.texts[node_id] = text

        def throw_exception_if_processing_interrupted() -> None:
            if comfy.interrupt:
                raise Interrupted

        PromptServer.instance = PromptServer()  # type: ignore[attr-defined]
        parts: dict[str, dict[str, Any]] = {
            "comfy": {},
            "comfy.model_management": {
                "get_torch_device": lambda: torch.device("cpu"),
                "throw_exception_if_processing_interrupted": throw_exception_if_processing_interrupted,
            },
            "comfy.utils": {"ProgressBar": ProgressBar},
            "comfy_execution": {},
            "comfy_execution.graph": {"ExecutionBlocker": ExecutionBlocker},
            "server": {"PromptServer": PromptServer},
        }
        for name, content in parts.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)

    def execute(self, prompt: Prompt) -> dict[str, dict[str, Any]]:
        """Node id -> `outputs`, a list for each, and `ui`, of each node that ran."""
        ends = [node for node, content in prompt.items() if getattr(self._class(content), "OUTPUT_NODE", False)]
        if not ends:
            raise InvalidPrompt("Prompt has no outputs")
        for node in ends:
            self._validate(prompt, node)
        done: dict[str, dict[str, Any]] = {}
        with torch.inference_mode():
            for node in ends:
                self._run(prompt, node, done)
        return done

    def _class(self, content: Mapping[str, Any]) -> Any:
        if content["class_type"] not in self.nodes:
            raise InvalidPrompt(f"Node {content['class_type']!r} not found")
        return self.nodes[content["class_type"]]

    def _validate(self, prompt: Prompt, node: str) -> None:
        types = self._class(prompt[node]).INPUT_TYPES()
        for category in ("required", "optional"):
            for name, (kind, *more) in types.get(category, {}).items():
                if name in prompt[node]["inputs"]:
                    self._validate_input(prompt, prompt[node]["inputs"][name], kind, more[0] if more else {})
                elif category == "required":
                    raise InvalidPrompt(f"Required input is missing: {name}")

    def _validate_input(self, prompt: Prompt, value: Any, kind: Any, options: Mapping[str, Any]) -> None:
        if isinstance(value, list):
            source, output = value
            returned = self._class(prompt[source]).RETURN_TYPES[output]
            if "*" not in (kind, returned) and kind != returned:
                raise InvalidPrompt(f"received_type({returned}) mismatch input_type({kind})")
            self._validate(prompt, source)
        elif isinstance(kind, list):
            if value not in kind:
                raise InvalidPrompt(f"Value not in list: {value!r}")
        else:
            value = _CONVERSIONS[kind](value)
            if value < options.get("min", value):
                raise InvalidPrompt(f"Value {value} smaller than min of {options['min']}")
            if value > options.get("max", value):
                raise InvalidPrompt(f"Value {value} bigger than max of {options['max']}")

    def _run(self, prompt: Prompt, node: str, done: dict[str, dict[str, Any]]) -> list[Any]:
        if node in done:
            return list(done[node]["outputs"])
        kind = self._class(prompt[node])
        types = kind.INPUT_TYPES()
        given: dict[str, list[Any]] = {}
        for name, value in prompt[node]["inputs"].items():
            if isinstance(value, list):
                given[name] = self._run(prompt, value[0], done)[value[1]]
            elif name in types.get("required", {}) or name in types.get("optional", {}):
                of = {**types.get("required", {}), **types.get("optional", {})}[name][0]
                given[name] = [_CONVERSIONS[of](value) if isinstance(of, str) else value]
        for name, hidden in types.get("hidden", {}).items():
            given[name] = [{"UNIQUE_ID": node, "PROMPT": prompt}[hidden]]
        if getattr(kind, "INPUT_IS_LIST", False):
            calls: list[dict[str, Any]] = [given]
        else:  # once for each item; shorter lists repeat their last one
            calls = [
                {name: values[min(index, len(values) - 1)] for name, values in given.items()}
                for index in range(max(map(len, given.values()), default=1))
            ]
        instance = kind()
        results, shown = [], {}
        for call in calls:
            values = [value for each in call.values() for value in (each if isinstance(each, list) else [each])]
            if blocked := [value for value in values if isinstance(value, ExecutionBlocker)]:
                results.append((blocked[0],) * len(kind.RETURN_TYPES))
                continue
            result = getattr(instance, kind.FUNCTION)(**call)
            if isinstance(result, dict):
                for name, items in result["ui"].items():
                    shown.setdefault(name, []).extend(items)
                result = result.get("result", ())
            assert isinstance(result, tuple)
            assert len(result) == len(kind.RETURN_TYPES)
            results.append(result)
        outputs = []
        for index, is_list in enumerate(getattr(kind, "OUTPUT_IS_LIST", [False] * len(kind.RETURN_TYPES))):
            column = [result[index] for result in results]
            lists = [value if is_list and not isinstance(value, ExecutionBlocker) else [value] for value in column]
            outputs.append([value for each in lists for value in each])
        done[node] = {"outputs": outputs, "ui": shown}
        return outputs


def load(folder: Path) -> ModuleType:
    """A folder of custom nodes, as ComfyUI imports it: by its path, its name the path's."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
