"""The ComfyUI nodes in `examples/comfyui`, loaded and executed by ComfyUI's contract, on real tensors."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import aigciqa
from tests.comfy import Comfy, ExecutionBlocker, Interrupted, InvalidPrompt, load

FOLDER = Path(__file__).parent.parent / "examples" / "comfyui"
PACKAGE = load(FOLDER)


def batch(*sizes: tuple[int, int], channels: int = 3, seed: int = 0) -> Tensor:
    """Random images (B, H, W, C)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.rand(1, *size, channels, generator=generator) for size in sizes])


def flat(*levels: float) -> Tensor:
    """An image of a single level for each of them, 2 x 2."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 2, 2, 3)


def levels(batches: Sequence[Tensor]) -> list[list[float]]:
    """The levels of batches of flat images."""
    return [[round(level, 3) for level in each[:, 0, 0, 0].tolist()] for each in batches]


def node(images: Sequence[Tensor], kind: str = "IMAGE") -> type:
    """A node that gives a list."""

    class Given:
        RETURN_TYPES = (kind,)
        OUTPUT_IS_LIST = (True,)
        FUNCTION = "give"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
            return {"required": {}}

        def give(self) -> tuple[list[Any]]:
            return (list(images),)

    return Given


class Shown:
    """A node at an end, such as Save Image, whose input is of any type."""

    RETURN_TYPES = ("*",)
    OUTPUT_NODE = True
    FUNCTION = "show"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"source": ("*", {})}}

    def show(self, source: Any) -> tuple[Any]:
        return (source,)


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> Comfy:
    started = Comfy(monkeypatch)
    started.nodes = {**PACKAGE.NODE_CLASS_MAPPINGS, "Shown": Shown}
    return started


def score(comfy: Comfy, images: Sequence[Tensor], references: Sequence[Tensor] = (), **inputs: Any) -> dict[str, Any]:
    """What the node that scores gives."""
    comfy.nodes |= {"Images": node(images), "References": node(references)}
    prompt: dict[str, Any] = {
        "1": {"class_type": "Images", "inputs": {}},
        "2": {"class_type": "References", "inputs": {}},
        "3": {"class_type": "AigciqaScoreImages", "inputs": {"images": ["1", 0], "metric": "nr-lite", **inputs}},
    }
    if references:
        prompt["3"]["inputs"]["reference"] = ["2", 0]
    return comfy.execute(prompt)["3"]


def by_scores(comfy: Comfy, name: str, images: Sequence[Tensor], scores: Sequence[float], **inputs: Any) -> list[Any]:
    """What a node makes of images and their scores, each of its outputs connected to an end."""
    comfy.nodes |= {"Images": node(images), "Scores": node(scores, "FLOAT")}  # type: ignore[arg-type]
    prompt: dict[str, Any] = {
        "1": {"class_type": "Images", "inputs": {}},
        "2": {"class_type": "Scores", "inputs": {}},
        "3": {"class_type": name, "inputs": {"images": ["1", 0], "scores": ["2", 0], **inputs}},
    }
    for index, _ in enumerate(comfy.nodes[name].RETURN_TYPES):
        prompt[f"end {index}"] = {"class_type": "Shown", "inputs": {"source": ["3", index]}}
    done = comfy.execute(prompt)
    return [
        [value for value in done[f"end {index}"]["outputs"][0] if not isinstance(value, ExecutionBlocker)]
        for index, _ in enumerate(comfy.nodes[name].RETURN_TYPES)
    ]


class TestInterface:
    @pytest.mark.parametrize("name", PACKAGE.NODE_CLASS_MAPPINGS)
    def test_a_node_is_whole(self, name: str) -> None:
        kind = PACKAGE.NODE_CLASS_MAPPINGS[name]
        assert PACKAGE.NODE_DISPLAY_NAME_MAPPINGS[name]
        assert callable(getattr(kind, kind.FUNCTION))
        assert (kind.CATEGORY, kind.INPUT_IS_LIST, bool(kind.DESCRIPTION)) == ("aigciqa", True, True)
        assert len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES) == len(kind.OUTPUT_IS_LIST)
        assert json.loads(json.dumps(kind.INPUT_TYPES()))  # the server sends it
        for category in ("required", "optional"):
            for of, options in kind.INPUT_TYPES().get(category, {}).values():
                assert options["tooltip"]
                if "default" in options:
                    assert options["default"] in of if isinstance(of, list) else True

    def test_the_metrics_that_download_nothing_come_first(self) -> None:
        names, options = PACKAGE.NODE_CLASS_MAPPINGS["AigciqaScoreImages"].INPUT_TYPES()["required"]["metric"]
        assert names[:3] == ["nr-lite", "fr-lite", "nr-efficientnet-lite2"]
        assert sorted(names) == sorted(aigciqa.list_metrics())
        assert aigciqa.metric_info(options["default"]).embedded

    def test_it_loads_from_any_folder(self, tmp_path: Path) -> None:
        shutil.copytree(FOLDER, tmp_path / "custom_nodes" / "aigciqa.comfyui")
        assert set(load(tmp_path / "custom_nodes" / "aigciqa.comfyui").NODE_CLASS_MAPPINGS) == set(
            PACKAGE.NODE_CLASS_MAPPINGS
        )

    @pytest.mark.parametrize(
        ("inputs", "complaint"),
        [
            ({"metric": "psnr"}, "Value not in list: 'psnr'"),
            ({"reference": ["3", 1]}, "received_type(FLOAT) mismatch input_type(IMAGE)"),
        ],
    )
    def test_a_prompt_that_can_not_be(self, comfy: Comfy, inputs: dict[str, Any], complaint: str) -> None:
        with pytest.raises(InvalidPrompt) as refused:
            score(comfy, [flat(0.5)], **inputs)
        assert complaint in str(refused.value)

    @pytest.mark.parametrize("inputs", [{"count": -1, "lowest": 0}, {"count": 1, "lowest": -1001}, {"count": 1}])
    def test_a_filter_that_can_not_be(self, comfy: Comfy, inputs: dict[str, Any]) -> None:
        with pytest.raises(InvalidPrompt, match=r"smaller than min|missing: lowest"):
            by_scores(comfy, "AigciqaFilterImages", [flat(0.5)], [1.0], **inputs)


class TestScore:
    def test_a_batch_has_the_scores_of_its_pixels(self, comfy: Comfy) -> None:
        images = batch((64, 80), (64, 80), (64, 80))
        done = score(comfy, [images])
        passed, scores, (text,) = done["outputs"]
        metric = aigciqa.create_metric("nr-lite")
        torch.testing.assert_close(torch.tensor(scores), metric(images.movedim(-1, 1)))
        assert len(passed) == 1
        assert passed[0] is images
        best = max(range(3), key=lambda index: scores[index])
        assert text.splitlines() == [
            "nr-lite, quality: 0 to 5, higher is better",
            *(f"image {number}: {value:.3f}" for number, value in enumerate(scores, 1)),
            f"mean {sum(scores) / 3:.3f}, best: image {best + 1}",
        ]
        assert done["ui"] == {"text": [text]}
        assert comfy.texts == {"3": text}

    def test_images_of_several_sizes_are_a_list(self, comfy: Comfy) -> None:
        images = [batch((64, 80), (64, 80)), batch((48, 48), seed=1)]
        _, scores, _ = score(comfy, images)["outputs"]
        metric = aigciqa.create_metric("nr-lite")
        expected = torch.cat([metric(each.movedim(-1, 1)) for each in images])
        torch.testing.assert_close(torch.tensor(scores), expected)

    def test_what_is_transparent_is_over_white_as_in_a_file(self, comfy: Comfy, tmp_path: Path) -> None:
        images = (batch((64, 64), channels=4) * 255).round() / 255
        _, scores, _ = score(comfy, [images])["outputs"]
        over_white = images[..., :3] * images[..., 3:] + 1 - images[..., 3:]
        metric = aigciqa.create_metric("nr-lite")
        torch.testing.assert_close(torch.tensor(scores), metric(over_white.movedim(-1, 1)))
        Image.fromarray((images[0] * 255).byte().numpy(), "RGBA").save(tmp_path / "image.png")
        assert scores[0] == pytest.approx(metric(tmp_path / "image.png").item(), abs=0.02)

    def test_values_that_an_upscaler_leaves_beyond_the_range_are_clipped(self, comfy: Comfy) -> None:
        images = batch((64, 64)) * 1.4 - 0.2
        _, scores, _ = score(comfy, [images.half()])["outputs"]
        expected = aigciqa.create_metric("nr-lite")(images.half().float().clamp(0, 1).movedim(-1, 1))
        torch.testing.assert_close(torch.tensor(scores), expected)

    def test_image_prompts(self, comfy: Comfy) -> None:
        images, prompts = batch((64, 64), (64, 64)), batch((80, 96), (80, 96), seed=1)
        metric = aigciqa.create_metric("fr-lite")
        for references in (prompts, prompts[:1]):
            _, scores, _ = score(comfy, [images], [references], metric="fr-lite")["outputs"]
            expected = metric(images.movedim(-1, 1), references.movedim(-1, 1).expand(2, -1, -1, -1))
            torch.testing.assert_close(torch.tensor(scores), expected)

    def test_a_metric_is_kept_from_run_to_run(self, comfy: Comfy, monkeypatch: pytest.MonkeyPatch) -> None:
        score(comfy, [flat(0.5)])
        monkeypatch.setattr("aigciqa.create_metric", None)
        score(comfy, [flat(0.4)], weights="default")

    def test_progress_is_shown_and_a_run_can_be_interrupted(self, comfy: Comfy) -> None:
        score(comfy, [flat(*[0.5] * 9)])
        assert comfy.done == [(8, 9), (1, 9)]
        comfy.interrupt = True
        with pytest.raises(Interrupted):
            score(comfy, [flat(*[0.5] * 9)])
        assert comfy.done[2:] == [(8, 9)]

    def test_weights_of_ones_own(self, comfy: Comfy, tmp_path: Path) -> None:
        metric = aigciqa.create_metric("nr-resnet18", weights=None)
        metric.save_pretrained(tmp_path / "mine")
        images = batch((64, 64))
        done = score(comfy, [images], metric="nr-resnet18", weights=str(tmp_path / "mine"))
        torch.testing.assert_close(torch.tensor(done["outputs"][1]), metric(images.movedim(-1, 1)))

    @pytest.mark.parametrize(
        ("references", "metric", "complaint"),
        [
            (0, "fr-lite", "fr-lite compares with an image prompt: connect it to reference, or choose nr-lite"),
            (1, "nr-lite", "nr-lite takes no reference; a metric that does: fr-lite"),
            (2, "fr-lite", "2 references for 3 images: connect one, or one for each image"),
        ],
    )
    def test_references_that_can_not_be(self, comfy: Comfy, references: int, metric: str, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            score(comfy, [flat(0.1, 0.2, 0.3)], [flat(*[0.5] * references)] if references else [], metric=metric)


class TestByScore:
    def test_sorting(self, comfy: Comfy) -> None:
        images, scores = by_scores(comfy, "AigciqaSortImages", [flat(0.1, 0.2, 0.3, 0.4)], [1.5, 4.0, 4.0, 2.0])
        assert levels(images) == [[0.2, 0.3, 0.4, 0.1]]
        assert scores == [4.0, 4.0, 2.0, 1.5]

    def test_sorting_images_of_several_sizes(self, comfy: Comfy) -> None:
        large = torch.full((1, 4, 4, 3), 0.5)
        images, scores = by_scores(comfy, "AigciqaSortImages", [flat(0.1, 0.2), large], [1.0, 3.0, 2.0])
        assert levels(images) == [[0.2], [0.5], [0.1]]
        assert [each.shape[1] for each in images] == [2, 4, 2]
        assert scores == [3.0, 2.0, 1.0]

    @pytest.mark.parametrize(
        ("count", "lowest", "kept", "rejected"),
        [
            (1, -1000, [0.2], [0.1, 0.3, 0.4]),
            (2, -1000, [0.2, 0.3], [0.1, 0.4]),
            (3, -1000, [0.2, 0.3, 0.4], [0.1]),
            (3, 3, [0.2, 0.3], [0.1, 0.4]),
            (0, 1.5, [0.1, 0.2, 0.3, 0.4], []),
            (0, 1.6, [0.2, 0.3, 0.4], [0.1]),
            (9, -1000, [0.1, 0.2, 0.3, 0.4], []),
            (9, 4.5, [], [0.1, 0.2, 0.3, 0.4]),
        ],
    )
    def test_filtering(self, comfy: Comfy, count: int, lowest: float, kept: list[float], rejected: list[float]) -> None:
        of = {0.1: 1.5, 0.2: 4.0, 0.3: 4.0, 0.4: 2.0}
        found = by_scores(
            comfy,
            "AigciqaFilterImages",
            [flat(0.1, 0.2), flat(0.3, 0.4)],
            list(of.values()),
            count=count,
            lowest=lowest,
        )
        assert [levels(found[0]), levels(found[2])] == [[each] if each else [] for each in (kept, rejected)]
        assert [found[1], found[3]] == [[of[level] for level in each] for each in (kept, rejected)]

    def test_buckets(self, comfy: Comfy) -> None:
        images, scores = [flat(0.1, 0.2, 0.3, 0.4)], [2.999, 4.0, 3.0, 3.999]
        found = by_scores(comfy, "AigciqaDivideImages", images, scores, great=4, ok=3)
        assert list(map(levels, found)) == [[[0.2]], [[0.3, 0.4]], [[0.1]]]
        found = by_scores(comfy, "AigciqaDivideImages", images, scores, great=1, ok=1)
        assert list(map(levels, found)) == [[[0.1, 0.2, 0.3, 0.4]], [], []]
        with pytest.raises(ValueError, match="great begins at 3, below ok at 4: exchange the two"):
            by_scores(comfy, "AigciqaDivideImages", images, scores, great=3, ok=4)

    @pytest.mark.parametrize("name", ["AigciqaSortImages", "AigciqaFilterImages", "AigciqaDivideImages"])
    def test_scores_of_other_images(self, comfy: Comfy, name: str) -> None:
        types = comfy.nodes[name].INPUT_TYPES()["required"]
        widgets = {key: options["default"] for key, (_, options) in types.items() if "default" in options}
        with pytest.raises(ValueError, match="2 images and 3 scores: connect both from one Score Images"):
            by_scores(comfy, name, [flat(0.1, 0.2)], [1.0, 2.0, 3.0], **widgets)

    def test_an_older_comfyui_says_that_there_is_nothing(self, comfy: Comfy, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "comfy_execution.graph", None)
        with pytest.raises(ValueError, match="an output has no images"):
            by_scores(comfy, "AigciqaFilterImages", [flat(0.1)], [1.0], count=0, lowest=2)


def test_the_nodes_run_without_comfyui() -> None:
    images = batch((64, 64))
    nodes = PACKAGE.NODE_CLASS_MAPPINGS
    _, scores, _ = nodes["AigciqaScoreImages"]().score([images], ["nr-lite"])["result"]
    assert nodes["AigciqaSortImages"]().sort([images], scores)[1] == scores


class TestWorkflow:
    FLOW = json.loads((FOLDER / "workflow.json").read_text())

    def test_it_is_a_graph(self) -> None:
        nodes = {each["id"]: each for each in self.FLOW["nodes"]}
        assert self.FLOW["last_node_id"] == max(nodes)
        assert self.FLOW["last_link_id"] == max(link[0] for link in self.FLOW["links"])
        for number, source, output, target, slot, kind in self.FLOW["links"]:
            assert number in nodes[source]["outputs"][output]["links"]
            assert nodes[target]["inputs"][slot]["link"] == number
            assert nodes[source]["outputs"][output]["type"] == kind
            assert nodes[target]["inputs"][slot]["type"] in (kind, "*")

    def test_its_nodes_have_our_slots_and_widgets(self) -> None:
        ours = [each for each in self.FLOW["nodes"] if each["type"] in PACKAGE.NODE_CLASS_MAPPINGS]
        assert {each["type"] for each in ours} == {"AigciqaScoreImages", "AigciqaFilterImages", "AigciqaSortImages"}
        for each in ours:
            kind = PACKAGE.NODE_CLASS_MAPPINGS[each["type"]]
            slots = [(name, of) for name, (of, options) in inputs(kind).items() if is_slot(of, options)]
            assert [(slot["name"], slot["type"]) for slot in each["inputs"]] == slots
            outputs = [(output["name"], output["type"]) for output in each["outputs"]]
            assert outputs == list(zip(kind.RETURN_NAMES, kind.RETURN_TYPES, strict=True))

    def test_it_runs(self, comfy: Comfy) -> None:
        """From the decoded images on; before, and at the ends, are ComfyUI's own nodes."""
        images = batch(*[(32, 32)] * 8)
        comfy.nodes |= {"VAEDecode": node([images])}
        prompt: dict[str, Any] = {}
        links = {link[0]: [str(link[1]), link[2]] for link in self.FLOW["links"]}
        for each in self.FLOW["nodes"]:
            connected = {slot["name"]: links[slot["link"]] for slot in each["inputs"] if slot["link"] is not None}
            if each["type"] in PACKAGE.NODE_CLASS_MAPPINGS:
                of = inputs(PACKAGE.NODE_CLASS_MAPPINGS[each["type"]])
                widgets = [name for name, (kind, options) in of.items() if not is_slot(kind, options)]
                connected |= zip(widgets, each["widgets_values"], strict=True)
                prompt[str(each["id"])] = {"class_type": each["type"], "inputs": connected}
            elif each["type"] == "VAEDecode":
                prompt[str(each["id"])] = {"class_type": each["type"], "inputs": {}}
            elif not each["outputs"]:
                (source,) = connected.values()
                prompt[each.get("title", "")] = {"class_type": "Shown", "inputs": {"source": source}}
        done = comfy.execute(prompt)
        shown = {name: done[name]["outputs"][0][0] for name in prompt if name in done and not name.isdecimal()}
        scores = aigciqa.create_metric("nr-lite")(images.movedim(-1, 1))
        order = scores.argsort(descending=True, stable=True)
        assert shown["Scores"].startswith("nr-lite, quality: 0 to 5")
        torch.testing.assert_close(shown["All, the best first"], images[order])
        torch.testing.assert_close(shown["Save the best two"], images[order[:2].sort().values])
        torch.testing.assert_close(shown["The others"], images[order[2:].sort().values])


def inputs(kind: Any) -> dict[str, Any]:
    """The inputs of a node, in the order in which ComfyUI shows them."""
    types = kind.INPUT_TYPES()
    return {**types["required"], **types.get("optional", {})}


def is_slot(kind: Any, options: dict[str, Any]) -> bool:
    """Whether an input is a socket, not a widget."""
    return bool(options.get("forceInput")) or kind == "IMAGE"
