"""Metrics as ONNX files, which run without Python and without torch."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

import aigciqa
from aigciqa.create import create_metric
from aigciqa.errors import InputError
from aigciqa.metric import Metric
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.files import replacing
from aigciqa.utils.hardware import undisturbed
from aigciqa.utils.object_stores import local_path

with needs_extra("onnx", "ONNX files need onnxruntime and onnxscript"):
    import onnxruntime
    import onnxscript  # noqa: F401, torch's exporter needs it

#: How far the file's scores may lie from the metric's, as a share of the largest score above 1: float32's rounding.
TOLERANCE = 1e-4
#: Input of metrics that see whole images: their common short side, squared.
WHOLE_IMAGE = (512, 512)


def export_onnx(
    metric: str | Metric,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    reference_features: bool = False,
) -> None:
    """Write a metric as one ONNX file, and check with onnxruntime that it computes the same.

    Input `images`, and `references` for FR: float32 (batch, 3, height, width), RGB in [0, 1], resized and cropped as
    the metric's preprocessing says; the normalisation is inside. Outputs: the scores of each dimension by its name,
    (batch,). The batch is free, height and width are fixed. The file's metadata say what it is: `metric`, `kind`, and
    as JSON `dimensions`, `score_range`, `preprocess`.

    Args:
        metric: a `Metric`, or the name of one that has weights.
        path: of the file; what is there is replaced once the new one has been checked.
        size: (height, width) of the input, of metrics that see whole images; 512 x 512 if absent.
        reference_features: FR: in place of `references` take `reference_features`, (batch, D), and give also the
            images' `features`, (batch, D), so that a prompt that is used often is encoded once.

    Raises:
        MissingExtraError: onnxruntime or onnxscript is missing.
        ValueError: a size for a metric that has its own; reference features of an NR metric.
        RuntimeError: torch's exporter can't express the metric, or the file computes something else.
        OSError: the file can't be written.
    """
    metric = create_metric(metric) if isinstance(metric, str) else metric
    height, width = _input_size(metric, size)
    if reference_features and not metric.requires_reference:
        raise InputError(f"{metric.name} takes no reference; a metric that does: fr-{metric.config.backbone}")
    with undisturbed("cpu"), torch.autocast("cpu", enabled=False):
        graph = _Graph(copy.deepcopy(metric).to("cpu", torch.float32), reference_features)
        names = [*graph.inputs, *graph.outputs]
        if twice := [name for name in metric.dimensions if names.count(name) > 1]:
            raise InputError(
                f"{metric.name} has a dimension {twice[0]!r}, which the file has another use for: rename it"
            )
        # Images of few frequencies: uniform noise is far from anything that is scored.
        coarse = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        images = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        inputs = [images[:2]]
        if metric.requires_reference:
            inputs.append(graph.encode(images[2:]) if reference_features else images[2:])
        with replacing(local_path(path)) as unfinished:  # what can't be written fails before the work
            _write(graph, inputs, unfinished)
            _check(graph, inputs, unfinished)


def _input_size(metric: Metric, size: tuple[int, int] | None) -> tuple[int, int]:
    crop = metric.config.preprocess.crop
    if crop is None:
        sides = WHOLE_IMAGE if size is None else size
        if not (isinstance(sides, Sequence) and len(sides) == 2 and all(isinstance(x, int) and x > 0 for x in sides)):
            raise InputError(f"`size` is (height, width), whole numbers above 0; got {size!r}")
        return sides
    if size is not None and tuple(size) != (crop, crop):
        raise InputError(f"{metric.name} sees {crop} x {crop} pixels; got size {size}: leave it out")
    return crop, crop


class _Graph(nn.Module):
    """What the file computes: scores of images that have been resized and cropped."""

    def __init__(self, metric: Metric, reference_features: bool) -> None:
        super().__init__()
        self.metric = metric
        self.reference_features = reference_features
        self.inputs = ["images"]
        if metric.requires_reference:
            self.inputs.append("reference_features" if reference_features else "references")
        self.outputs = [*metric.dimensions, *(["features"] if reference_features else [])]
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor, reference: Tensor | None = None) -> tuple[Tensor, ...]:
        if reference is None:
            return self._scores(self.encode(images))
        if self.reference_features:
            features = self.encode(images)
            return (*self._scores(torch.cat([features, reference], dim=1)), features)
        both = self.encode(torch.cat([images, reference]))  # once through the network: half the graph
        count = images.shape[0]
        return self._scores(torch.cat([both[:count], both[count:]], dim=1))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        backbone = self.metric.backbone
        return backbone.pool(backbone(self.metric.preprocessor.normalize(images)))

    def _scores(self, features: Tensor) -> tuple[Tensor, ...]:
        scores: Tensor = self.metric.head(features)
        return scores.unbind(1)


def _write(graph: _Graph, inputs: Sequence[Tensor], path: Path) -> None:
    config = graph.metric.config
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name: batch")  # that two inputs share it is meant
            program = torch.onnx.export(
                graph,
                tuple(inputs),
                dynamo=True,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise RuntimeError(f"{config.metric} can't be written as ONNX: torch's exporter says: {reason}") from error
    assert program is not None
    outputs = set(program.model.graph.outputs)
    for node in program.model.graph:
        for value in node.outputs:  # of which one may be called as a dimension is: mean, or linear
            if value.name and value not in outputs:
                value.name = f"inner.{value.name}"
    program.model.metadata_props.update(
        aigciqa=aigciqa.__version__,
        metric=config.metric,
        kind=config.kind,
        dimensions=json.dumps(config.dimensions, allow_nan=False),
        score_range=json.dumps(dict(config.score_ranges), allow_nan=False),
        preprocess=json.dumps(asdict(config.preprocess), allow_nan=False),
        license=config.license or "",
    )
    program.save(path, external_data=False)


def _check(graph: _Graph, inputs: Sequence[Tensor], path: Path) -> None:
    """Raise RuntimeError unless onnxruntime computes from the file what torch computes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = dict(zip(graph.inputs, (tensor.numpy() for tensor in inputs), strict=True))
    found = dict(zip(graph.outputs, session.run(graph.outputs, feed), strict=True))
    for name, expected in zip(graph.outputs, graph(*inputs), strict=True):
        difference = float((torch.from_numpy(found[name]) - expected).abs().max())
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:
            raise RuntimeError(
                f"the ONNX file of {graph.metric.name} is off by {difference:.2g} in {name!r}, and {allowed:.2g} is "
                "allowed; it was not kept"
            )
