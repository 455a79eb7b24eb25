"""The nodes.

An IMAGE is a batch: float (B, H, W, C), RGB or RGBA, in [0, 1]. Images of several sizes are a list of batches. Every
node takes lists (`INPUT_IS_LIST`): the scores of all images are one, and what a widget holds is a list of one.
ComfyUI is imported only while a node runs, so that the nodes run without it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

import aigciqa
from aigciqa.registry import default_metric

#: Images per pass through the network; between passes, a run can be interrupted.
_PASS = 8
#: Lower than any score, so that a new node leaves no image out.
_ANY_SCORE = -1000.0
_BATCH = ("IMAGE", {"tooltip": "A batch of images, or a list of batches."})
_SCORES = ("FLOAT", {"forceInput": True, "tooltip": "A score for each image, as Score Images gives them."})


class ScoreImages:
    """Scores of images, and the images as they came."""

    CATEGORY = "aigciqa"
    DESCRIPTION = "Scores the perceptual quality of AI-generated images. Higher is better."
    FUNCTION = "score"
    INPUT_IS_LIST = True
    OUTPUT_NODE = True  # it runs also where nothing is connected to it, and shows its text
    RETURN_TYPES = ("IMAGE", "FLOAT", "STRING")
    RETURN_NAMES = ("images", "scores", "text")
    OUTPUT_IS_LIST = (True, True, False)
    OUTPUT_TOOLTIPS = ("The images, unchanged.", "A list: a score for each image.", "The scores, to be read.")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802
        """What the node takes."""
        inside = [name for name in aigciqa.list_metrics() if aigciqa.metric_info(name).embedded]
        names = list(dict.fromkeys([*inside, *aigciqa.list_metrics()]))
        about_weights = "default, a folder, or a repo of the Hugging Face Hub such as org/name."
        about_references = "Image prompt: one of all images, or one for each. For metrics that begin with fr-."
        return {
            "required": {
                "images": _BATCH,
                "metric": (
                    names,
                    {"default": default_metric("nr"), "tooltip": f"{', '.join(inside)} download nothing."},
                ),
            },
            "optional": {
                "reference": ("IMAGE", {"tooltip": about_references}),
                "weights": ("STRING", {"default": "default", "tooltip": about_weights}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def score(
        self,
        images: list[Tensor],
        metric: list[str],
        reference: Sequence[Tensor] = (),
        weights: Sequence[str] = ("default",),
        unique_id: Sequence[str] = ("",),
    ) -> dict[str, Any]:
        """Score all images of all batches."""
        scorer = _load(metric[0], weights[0].strip() or "default", _device())
        if scorer.requires_reference and not reference:
            raise ValueError(f"{metric[0]} compares with an image prompt: connect it to reference, or choose nr-lite")
        scores = _scores(scorer, _singles(images), _singles(reference))
        text = _text(scorer, scores)
        _show(text, unique_id[0])
        return {"ui": {"text": [text]}, "result": (images, scores, text)}


class SortImages:
    """Images by score, the best first."""

    CATEGORY = "aigciqa"
    DESCRIPTION = "Sorts images by score, the best first. Of equal scores, the earlier image comes first."
    FUNCTION = "sort"
    INPUT_IS_LIST = True
    RETURN_TYPES = ("IMAGE", "FLOAT")
    RETURN_NAMES = ("images", "scores")
    OUTPUT_IS_LIST = (True, True)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802
        """What the node takes."""
        return {"required": {"images": _BATCH, "scores": _SCORES}}

    def sort(self, images: list[Tensor], scores: list[float]) -> tuple[Any, ...]:
        """Sort all images."""
        return _taken(_best_first(scores), _scored(images, scores), scores)


class FilterImages:
    """The best images, and the others, each in the order they came in."""

    CATEGORY = "aigciqa"
    DESCRIPTION = "Keeps the best images, at most so many, and none below a score."
    FUNCTION = "keep"
    INPUT_IS_LIST = True
    RETURN_TYPES = ("IMAGE", "FLOAT", "IMAGE", "FLOAT")
    RETURN_NAMES = ("kept", "kept_scores", "rejected", "rejected_scores")
    OUTPUT_IS_LIST = (True, True, True, True)
    OUTPUT_TOOLTIPS = ("What is connected to an output without images does not run.",) * 4

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802
        """What the node takes."""
        about_count = "At most so many images are kept, the best ones. 0: any number."
        about_lowest = "No image with a lower score is kept."
        return {
            "required": {
                "images": _BATCH,
                "scores": _SCORES,
                "count": ("INT", {"default": 1, "min": 0, "max": 10_000, "tooltip": about_count}),
                "lowest": (
                    "FLOAT",
                    {"default": _ANY_SCORE, "min": _ANY_SCORE, "max": 10_000.0, "step": 0.05, "tooltip": about_lowest},
                ),
            }
        }

    def keep(self, images: list[Tensor], scores: list[float], count: list[int], lowest: list[float]) -> tuple[Any, ...]:
        """Divide the images into kept and rejected ones."""
        singles = _scored(images, scores)
        enough = [index for index in _best_first(scores) if scores[index] >= lowest[0]]
        kept = sorted(enough[: count[0] or None])
        rejected = sorted({*range(len(scores))}.difference(kept))
        return (*_taken(kept, singles, scores), *_taken(rejected, singles, scores))


class DivideImages:
    """Images in three buckets by score."""

    CATEGORY = "aigciqa"
    DESCRIPTION = "Divides images by score: great, ok, and bad below both."
    FUNCTION = "divide"
    INPUT_IS_LIST = True
    RETURN_TYPES = ("IMAGE", "IMAGE", "IMAGE")
    RETURN_NAMES = ("great", "ok", "bad")
    OUTPUT_IS_LIST = (True, True, True)
    OUTPUT_TOOLTIPS = ("What is connected to an output without images does not run.",) * 3

    _LIMITS: ClassVar[dict[str, float]] = {"min": _ANY_SCORE, "max": 10_000.0, "step": 0.05}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802
        """What the node takes."""
        return {
            "required": {
                "images": _BATCH,
                "scores": _SCORES,
                "great": ("FLOAT", {"default": 4.0, **cls._LIMITS, "tooltip": "The lowest score of a great image."}),
                "ok": ("FLOAT", {"default": 3.0, **cls._LIMITS, "tooltip": "The lowest score of an image that is ok."}),
            }
        }

    def divide(self, images: list[Tensor], scores: list[float], great: list[float], ok: list[float]) -> tuple[Any, ...]:
        """Divide the images into three."""
        if ok[0] > great[0]:
            raise ValueError(f"great begins at {great[0]:g}, below ok at {ok[0]:g}: exchange the two")
        singles = _scored(images, scores)
        buckets = [(score < great[0]) + (score < ok[0]) for score in scores]
        return tuple(
            _taken([index for index, of in enumerate(buckets) if of == bucket], singles, scores)[0]
            for bucket in range(3)
        )


NODE_CLASS_MAPPINGS = {
    "AigciqaScoreImages": ScoreImages,
    "AigciqaSortImages": SortImages,
    "AigciqaFilterImages": FilterImages,
    "AigciqaDivideImages": DivideImages,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "AigciqaScoreImages": "Score Images (quality)",
    "AigciqaSortImages": "Sort Images by Score",
    "AigciqaFilterImages": "Filter Images by Score",
    "AigciqaDivideImages": "Divide Images by Score",
}


@functools.lru_cache(maxsize=2)
def _load(name: str, weights: str, device: torch.device) -> aigciqa.Metric:
    """A metric, kept from run to run."""
    return aigciqa.create_metric(name, weights=weights, device=device)


def _device() -> torch.device:
    """Where ComfyUI computes."""
    try:
        from comfy.model_management import get_torch_device
    except ImportError:
        return torch.device("cpu")
    device: torch.device = get_torch_device()
    return device


def _scores(metric: aigciqa.Metric, images: Sequence[Tensor], references: Sequence[Tensor]) -> list[float]:
    """The score of each image."""
    if len(references) not in (0, 1, len(images)):
        raise ValueError(f"{len(references)} references for {len(images)} images: connect one, or one for each image")
    done = _progress(len(references) + len(images))
    features, scores = [], []
    for start in range(0, len(references), _PASS):
        part = [_pixels(image) for image in references[start : start + _PASS]]
        features.append(metric.encode(part))
        done(len(part))
    encoded = torch.cat(features) if features else None
    for start in range(0, len(images), _PASS):
        part = [_pixels(image) for image in images[start : start + _PASS]]
        prompts = encoded if encoded is None or len(encoded) == 1 else encoded[start : start + _PASS]
        scores += metric(part, reference_features=prompts).tolist()
        done(len(part))
    return scores


def _singles(batches: Sequence[Tensor]) -> list[Tensor]:
    """The images of batches, (H, W, C) each."""
    return [image for batch in batches for image in batch]


def _pixels(image: Tensor) -> Tensor:
    """An image as metrics take it, RGB (3, H, W); what is transparent is over white, as in files."""
    image = image.float().clamp(0, 1).movedim(-1, 0)
    if len(image) == 4:
        return image[:3] * image[3] + (1 - image[3])
    return image


def _progress(total: int) -> Callable[[int], None]:
    """What counts images that are done: ComfyUI shows how many, and may interrupt the run there."""
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
        from comfy.utils import ProgressBar
    except ImportError:
        return lambda _: None
    bar = ProgressBar(total)

    def done(images: int) -> None:
        bar.update(images)
        throw_exception_if_processing_interrupted()

    return done


def _text(metric: aigciqa.Metric, scores: Sequence[float]) -> str:
    """The scores, to be read: the images are numbered from 1, as galleries number them."""
    worst, best = metric.score_range
    lines = [f"{metric.name}, {metric.dimension}: {worst:g} to {best:g}, higher is better"]
    lines += [f"image {number}: {score:.3f}" for number, score in enumerate(scores, 1)]
    if len(scores) > 1:
        lines.append(f"mean {sum(scores) / len(scores):.3f}, best: image {_best_first(scores)[0] + 1}")
    return "\n".join(lines)


def _show(text: str, node: str) -> None:
    """Put a text on a node, where ComfyUI can."""
    try:
        from server import PromptServer
    except ImportError:
        return
    if hasattr(PromptServer.instance, "send_progress_text"):
        PromptServer.instance.send_progress_text(text, node)


def _best_first(scores: Sequence[float]) -> list[int]:
    """Positions, from the highest score to the lowest; of equal ones, the earlier first."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def _scored(batches: Sequence[Tensor], scores: Sequence[float]) -> list[Tensor]:
    """The images of batches, each of which has a score."""
    images = _singles(batches)
    if len(images) != len(scores):
        raise ValueError(f"{len(images)} images and {len(scores)} scores: connect both from one Score Images")
    return images


def _taken(positions: Sequence[int], images: Sequence[Tensor], scores: Sequence[float]) -> tuple[Any, Any]:
    """Some of the images, as batches, and their scores; of none, what keeps nodes that need them from running."""
    if not positions:
        return _nothing(), _nothing()
    runs = itertools.groupby((images[position] for position in positions), key=lambda image: image.shape)
    return [torch.stack(list(run)) for _, run in runs], [scores[position] for position in positions]


def _nothing() -> Any:
    """ComfyUI has no empty batch; nodes that are given this don't run."""
    try:
        from comfy_execution.graph import ExecutionBlocker
    except ImportError:
        raise ValueError("an output has no images, which this version of ComfyUI can't pass on: update it") from None
    return ExecutionBlocker(None)
