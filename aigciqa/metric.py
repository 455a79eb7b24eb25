"""`create_metric` and what it returns: a `Metric`, a torch Module that scores images."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aigciqa.backbones import OptionError, build_backbone
from aigciqa.checkpoints import format as checkpoint
from aigciqa.checkpoints import hub
from aigciqa.checkpoints.format import LocalCheckpoint, MetricConfig
from aigciqa.checkpoints.imagenet import load_imagenet
from aigciqa.errors import CheckpointError, InputError, OutputExistsError, WrongMetricError
from aigciqa.heads import build_head
from aigciqa.images.decode import load_image
from aigciqa.images.preprocess import as_list, check_tensor, normalize, preprocess_image, preprocess_tensor
from aigciqa.registry import METRICS, metric_info
from aigciqa.utils.hardware import fast_dtype, settle_threads

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ASSETS = Path(__file__).parent / "checkpoints" / "embedded"
_REPO = re.compile(r"[\w.-]+/[\w.-]+(@.+)?", re.ASCII)
#: The default dtype is one for all threads.
_DEFAULT_DTYPE = threading.RLock()


@torch.inference_mode(False)  # whose tensors could never have gradients
def create_metric(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = "default",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    dimension: str | None = None,
    as_loss: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Metric:
    """Create a metric, in evaluation mode.

    Args:
        name: one of `aigciqa.list_metrics()`.
        weights: `"default"` (inside the package for `*-lite`, else the Hub's `aigciqa/<name>`); another variant inside
            the package (`"native"` for `nr-lite`); a folder; a Hub repo `"org/name"` or `"org/name@revision"`; or
            None for random ones, drawn from torch's global generator. An existing folder wins over a repo of that
            name; what begins with `.`, `/` or `~` is never looked up on the Hub. `"imagenet"` takes ImageNet weights
            for the backbone and random ones for the head, to train from (`load_imagenet`).
        device: where to compute; the CPU if absent.
        dtype: what the backbone computes in: `"float32"` (the default), or `"bfloat16"` / `"float16"` by autocast, or
            `"auto"`: bfloat16 where the device is built for it. Weights and scores stay float32.
        dimension: the dimension that calling the metric returns; the head's first one if absent.
        as_loss: let gradients flow to the images and return `-score.mean()`.
        cache_dir: where downloads are kept; huggingface_hub's own place if absent.
        local_files_only: take downloads from that cache only.

    Raises:
        ValueError: unknown name, weights, dtype or dimension.
        WeightsError: the weights could not be loaded. Its kinds: `CheckpointError` (malformed; altered, truncated or
            another metric's, each with a class of its own in `aigciqa.errors`) and `HubError` (no such repo, revision
            or file; no access; offline; unreachable; refused by the server; an answer that is not to be trusted; a
            cache that can't be written).
    """
    spec = metric_info(name)
    dtype = fast_dtype(device) if dtype == "auto" else dtype
    if weights is None or weights == "imagenet":
        metric = Metric(MetricConfig.from_spec(spec), dimension=dimension, as_loss=as_loss, dtype=dtype)
        if weights is not None:
            load_imagenet(metric, cache_dir=cache_dir, local_files_only=local_files_only)
        return metric if device is None else metric.to(device)
    if isinstance(weights, str) and weights in spec.embedded:
        weights = _ASSETS / spec.embedded[weights]
    elif weights == "default":
        weights = hub.default_repo(name)
    return Metric.from_pretrained(
        weights,
        device=device,
        dtype=dtype,
        dimension=dimension,
        as_loss=as_loss,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        metric=name,
    )


def as_metrics(metric: str | Metric | Iterable[str | Metric], **options: Any) -> list[Metric]:
    """Metrics, those given by name created.

    Args:
        options: for `create_metric`, among them its defaults, which are as absent.

    Raises:
        ValueError: no metric; an option together with a `Metric`, which has been created with its own.
    """
    given = [metric] if isinstance(metric, (str, Metric)) else list(metric)
    if not given:
        raise InputError("no metric given")
    defaults = inspect.signature(create_metric).parameters
    chosen = {name: value for name, value in options.items() if value != defaults[name].default}
    made = next((each.name for each in given if isinstance(each, Metric)), None)
    if made is not None and chosen:
        text = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        raise InputError(
            f"{text}: for metrics given by name, but {made} is a Metric already; give its name, or leave that out and "
            "say it to create_metric"
        )
    return [each if isinstance(each, Metric) else create_metric(each, **chosen) for each in given]


class Metric(nn.Module):
    """A quality metric: images in, scores out. Made by `create_metric` or `Metric.from_pretrained`.

    Images are, one or a list of them: a path, a file object, a PIL image, a uint8 array (H, W, 3), or a tensor
    (3, H, W); or a batch as one tensor (B, 3, H, W). Tensors are RGB, floating point in [0, 1] or uint8 in 0..255; one
    channel is repeated to three. They may be on any device and are moved to the metric's. Tensors and arrays are taken
    to be in sRGB; files and PIL images are brought there. A score depends on its image (and reference) alone, never
    on the rest of the batch, nor on a `torch.autocast`, default dtype or default device around the call.

    The model is the PKU-I2IQA paper's (section 4): a backbone, global average pooling, two fully connected layers;
    with a reference (FR), the same backbone reads both images and the head reads [generated, reference]. The `lite`
    metrics have a backbone and heads of their own.

    The metric stays in evaluation mode: `train()` does nothing, also when called on a model that holds it. To
    fine-tune, call `metric.backbone.train()`.

    Attributes:
        config: what the metric is; what `config.json` says.
        dimension: the main dimension, which calling the metric returns.
        as_loss: whether gradients flow and calling returns `-score.mean()`.
    """

    def __init__(
        self,
        config: MetricConfig,
        *,
        dimension: str | None = None,
        as_loss: bool = False,
        dtype: str | torch.dtype | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.config = config
        self.as_loss = as_loss
        self.autocast_dtype = _autocast_dtype(dtype)
        self.dimension = _choose(dimension, config.dimensions)
        with undisturbed(device):
            self.backbone = build_backbone(config.backbone, **config.options)
            self.head = build_head(
                config.backbone, config.kind, self.backbone.feature_dim, len(config.dimensions), **config.options
            )
        self.requires_grad_(not as_loss)
        self.eval()

    @classmethod
    @torch.inference_mode(False)
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        dimension: str | None = None,
        as_loss: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        metric: str | None = None,
    ) -> Metric:
        """Load a checkpoint from a folder or a Hub repo.

        Args:
            source: a folder, or `"org/name"` or `"org/name@revision"`.
            metric: name of the metric that the checkpoint must hold; any if absent.

        The other arguments are `create_metric`'s. Raises as `create_metric` does.
        """

        def load(cache_only: bool) -> Metric:
            head = _locate(source, metric, cache_dir, cache_only)
            return cls._loaded(head, str(source), metric, dimension=dimension, as_loss=as_loss, dtype=dtype)

        loaded = hub.or_cached(load, local_files_only)
        return loaded if device is None else loaded.to(device)

    @classmethod
    def _loaded(
        cls, head: LocalCheckpoint | hub.HubCheckpoint, source: str, metric: str | None, **options: Any
    ) -> Metric:
        """The metric of a checkpoint's files, each checked before it is used."""
        try:
            config, metadata = checkpoint.read_config(head.config_file())
            if metric is not None and config.metric != metric:
                raise WrongMetricError(f"{source} holds a checkpoint for {config.metric!r}, not for {metric!r}")
            if config.metric not in METRICS:
                known = "no metric of this version, and none that was registered"
                raise WrongMetricError(f"{source} holds a checkpoint for {config.metric!r}: {known}")
            spec = METRICS[config.metric]
            if (config.kind, config.backbone) != (spec.kind, spec.backbone):
                names = f"'kind' and 'backbone.name' are {config.kind} and {config.backbone}"
                raise WrongMetricError(f"{source}: 'metric' is {spec.name!r}, but {names}")
            # Shapes without memory, whose values come from the file; for lite, random ones thrown away: it is small,
            # and for them the meta device would import half of torch, more than a second.
            blank = "cpu" if config.backbone == "lite" else "meta"
            with torch.random.fork_rng(devices=[]):
                loaded = cls(config, device=blank, **options)
            expected = loaded.state_dict()
            checkpoint.check_size(metadata, expected, source)
            tensors = checkpoint.read_tensors(head.weights_file(metadata))
            checkpoint.check_tensors(tensors, expected, source)
        except OptionError as error:
            raise head.refusal(CheckpointError(f"config.json: 'backbone.options': {str(error)[:300]}")) from error
        except CheckpointError as error:
            raise head.refusal(error) from error
        loaded.load_state_dict(tensors, assign=True)
        return loaded

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json`, `model.safetensors` and a model card, for `create_metric(name, weights=folder)`.

        Args:
            folder: made if absent; an earlier checkpoint in it is replaced.

        Raises:
            OutputExistsError: the folder's `README.md` is not the model card of a checkpoint.
            CheckpointError: weights that are NaN or infinite, or a config that could not be loaded.
        """
        folder = os.path.expanduser(folder)
        if checkpoint.is_foreign(Path(folder, checkpoint.CARD_FILE)):
            raise OutputExistsError(f"{folder} has a README.md that is no model card: name another folder")
        checkpoint.write_checkpoint(folder, self.config, self.state_dict())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        commit_message: str = "Upload with aigciqa",
    ) -> str:
        """Publish the checkpoint as a Hub repo, made if absent, in one commit.

        Args:
            repo_id: `"org/name"`.
            private: whether a new repo is private.
            revision: branch to upload to, made if absent; the main one if not given.
            commit_message: of the upload.

        Returns:
            The address of the commit.

        Raises:
            HubError: no right to write there, no network, not the name of a repo or of a branch.
            CheckpointError: weights that are NaN or infinite.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.publish_folder(
                Path(folder), repo_id, private=private, revision=revision, commit_message=commit_message
            )

    @property
    def name(self) -> str:
        """Name in the table of metrics."""
        return self.config.metric

    @property
    def kind(self) -> str:
        """`"nr"` or `"fr"`."""
        return self.config.kind

    @property
    def requires_reference(self) -> bool:
        """Whether an image prompt is needed."""
        return self.config.kind == "fr"

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What `predict` returns, in order."""
        return self.config.dimensions

    @property
    def score_range(self) -> tuple[float, float]:
        """(lowest, highest) mean opinion score of the main dimension. A regressed score may leave it slightly."""
        return self.config.score_range[self.dimension]

    @property
    def lower_better(self) -> bool:
        """False, since higher scores are better."""
        return False

    @property
    def feature_dim(self) -> int:
        """D, the length of what `encode` returns for an image."""
        return self.backbone.feature_dim

    @property
    def device(self) -> torch.device:
        """Where the metric computes, which is where its weights are."""
        return self._weight.device

    def forward(self, images: Any, reference: Any = None, *, reference_features: Tensor | None = None) -> Tensor:
        """Score images on the main dimension.

        Args:
            images: the generated images, in any form the class names.
            reference: FR: their image prompts, as many, in any form; sizes may differ from the images'.
            reference_features: FR: what `encode` returned for the prompts, (B, D), or (1, D) for one prompt of all.

        Returns:
            float32 (B,); with `as_loss` the scalar `-score.mean()`.

        Raises:
            TypeError, ValueError: what came, what was expected, what to do.
            ImageError: a file can't be read.
        """
        scores = self._score(images, reference, reference_features)[:, self.dimensions.index(self.dimension)]
        return -scores.mean() if self.as_loss else scores

    def predict(
        self, images: Any, reference: Any = None, *, reference_features: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Score images on every dimension in one pass; arguments as for calling the metric.

        Returns:
            Dimension -> float32 (B,).
        """
        scores = self._score(images, reference, reference_features)
        return dict(zip(self.dimensions, scores.unbind(1), strict=True))

    def encode(self, images: Any) -> Tensor:
        """Features (B, D) of images: of an image prompt, to be passed as `reference_features` any number of times."""
        with self._alone():
            return self._encode(images)

    def quality_map(self, image: Any, reference: Any = None, *, reference_features: Tensor | None = None) -> Tensor:
        """The main dimension's score, place by place.

        For the paper's models: the head is piecewise linear in a spatial mean of features, so with its slope w and
        offset b at that mean, w . f(y, x) + b averages exactly to the score; with a reference, the generated
        image's half varies and the reference's half is constant. For `lite`: from its block statistics. The map
        covers what the metric sees (the centre crop, where there is one).

        Args:
            image: images, as for calling the metric. Whole images of unequal sizes make unequal maps:
                pass those one at a time.

        Returns:
            float32 (B, h, w), at the resolution of the feature maps; its mean over (h, w) is the score.
        """
        with torch.no_grad(), self._alone():
            self._check_references(reference, reference_features)
            batches = self._batches(image)
            if len(batches) > 1:
                raise InputError("images of unequal sizes make maps of unequal sizes: pass them one at a time")
            pixels = batches[0][1]
            features = self._features(pixels)
            references = self._references(reference, reference_features, len(pixels))
            return self.score_map(self._maps(pixels, dense=True), features, references)

    def feature_maps(self, pixels: Tensor, *, dense: bool = False) -> Tensor:
        """Feature maps (B, C, h, w) of images preprocessed by `preprocess.preprocess_image`: uint8 (B, 3, h, w).

        Args:
            dense: those that `quality_map` is drawn from, where they are finer than what features are pooled from.
        """
        with self._alone():
            return self._maps(self._normalized(pixels), dense)

    @torch.no_grad()
    def score_map(self, maps: Tensor, features: Tensor, reference_features: Tensor | None = None) -> Tensor:
        """The main dimension's score, place by place, float32 (B, h, w); its mean over (h, w) is the score.

        Args:
            maps: of the generated images, as `feature_maps` gives them.
            features: of the generated images, (B, D).
            reference_features: FR: of their references, (B, D) or (1, D).
        """
        with self._alone():
            joined = self._joined(features, reference_features)
            return self.head.score_map(maps.to(joined.dtype), joined, self.dimensions.index(self.dimension)).float()

    def regress(self, features: Tensor, reference_features: Tensor | None = None) -> Tensor:
        """Scores (B, n) of features (B, D); FR: with the references' features, (B, D) or (1, D)."""
        with self._alone():
            return self._regressed(features, reference_features)

    def train(self, mode: bool = True) -> Metric:
        """Does nothing: scores never depend on the mode. See the class for fine-tuning."""
        return super().train(False)

    def extra_repr(self) -> str:
        return f"{self.name!r}, dimension={self.dimension!r}, as_loss={self.as_loss}"

    @property
    def _weight(self) -> Tensor:
        """Any one of the tensors, to read device and dtype from."""
        for tensors in (self.parameters(), self.buffers()):
            for tensor in tensors:
                return tensor
        raise RuntimeError("a metric without tensors")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Gradients for a loss alone, and no autocast of the caller's."""
        settle_threads()
        with contextlib.nullcontext() if self.as_loss else torch.no_grad(), self.autocast(None):
            yield

    def autocast(self, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
        """On the metric's device, whatever surrounds it: autocast to a dtype, or none.

        Nothing is cached: within an autocast of the caller's, what is would outlive the weights that it was made from.
        """
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)

    def _score(self, images: Any, reference: Any, reference_features: Tensor | None) -> Tensor:
        with self._alone():
            self._check_references(reference, reference_features)
            features = self._encode(images)
            return self._regressed(features, self._references(reference, reference_features, features.shape[0]))

    def _check_references(self, reference: Any, reference_features: Tensor | None) -> None:
        """Raise ValueError unless what a metric of this kind needs was given, and no more."""
        if not self.requires_reference:
            if reference is not None or reference_features is not None:
                raise InputError(f"{self.name} takes no reference; a metric that does: fr-{self.config.backbone}")
            return
        if (reference is None) == (reference_features is None):
            found = "neither" if reference is None else "both"
            raise InputError(
                f"{self.name} compares with a reference (the image prompt): pass it as the second argument or, "
                f"encoded, as reference_features; got {found}"
            )
        shape = None if reference_features is None else tuple(reference_features.shape)
        if shape is not None and (len(shape) != 2 or shape[1] != self.feature_dim):
            raise InputError(
                f"reference_features are what encode() returns, (B, {self.feature_dim}); got shape {shape}"
            )

    def _references(self, reference: Any, reference_features: Tensor | None, images: int) -> Tensor | None:
        """Features of the references: (images, D), or (1, D) where the caller encoded one for all."""
        if reference_features is not None:
            return self._recordable(reference_features).to(self._weight)
        if reference is None:
            return None
        features = self._encode(reference)
        if features.shape[0] != images:
            raise _unequal(images, features.shape[0])
        return features

    def _joined(self, features: Tensor, references: Tensor | None) -> Tensor:
        """The head's input: features, or [generated, reference] features."""
        if references is None:
            return features
        if references.shape[0] not in (1, features.shape[0]):
            raise _unequal(features.shape[0], references.shape[0])
        return torch.cat([features, references.expand_as(features)], dim=1)

    def _encode(self, images: Any) -> Tensor:
        batches = self._batches(images)
        if len(batches) == 1:
            return self._features(batches[0][1])
        features = torch.cat([self._features(pixels) for _, pixels in batches])
        order = [index for indices, _ in batches for index in indices]
        return features[torch.tensor(order, device=features.device).argsort()]

    def _batches(self, images: Any) -> list[tuple[list[int], Tensor]]:
        """What the backbone sees, in batches of equal shape, each with the positions of its images."""
        if isinstance(images, Tensor):
            pixels = self._preprocess(images)
            return [(list(range(pixels.shape[0])), pixels)]
        groups: dict[torch.Size, list[tuple[int, Tensor]]] = {}
        for index, image in enumerate(as_list(images)):
            pixels = self._preprocess(image)
            if pixels.shape[0] != 1:
                raise InputError(f"a list holds single images (3, H, W); item {index} is a batch of {len(pixels)}")
            groups.setdefault(pixels.shape, []).append((index, pixels))
        return [([i for i, _ in group], torch.cat([p for _, p in group])) for group in groups.values()]

    def _preprocess(self, image: Any) -> Tensor:
        """One image, or a batch in one tensor, as the backbone sees it: (B, 3, h, w)."""
        if not isinstance(image, Tensor):
            return self._normalized(preprocess_image(load_image(image), self.config.preprocess)[None])
        pixels = self._unit(check_tensor(image))
        return normalize(preprocess_tensor(pixels, self.config.preprocess), self.config.preprocess)

    def _normalized(self, preprocessed: Tensor) -> Tensor:
        return normalize(self._unit(preprocessed), self.config.preprocess)

    def _unit(self, images: Tensor) -> Tensor:
        """On the metric's device, float32, in [0, 1]."""
        scaled = self._recordable(images).to(self.device, torch.float32)
        return scaled / 255.0 if images.dtype == torch.uint8 else scaled

    def _recordable(self, tensor: Tensor) -> Tensor:
        """The tensor, or a copy for a loss where it comes out of `torch.inference_mode`, which bars it from graphs."""
        return tensor.clone() if self.as_loss and torch.is_grad_enabled() and tensor.is_inference() else tensor

    def _regressed(self, features: Tensor, references: Tensor | None) -> Tensor:
        scores: Tensor = self.head(self._joined(features, references))
        return scores.float()

    def _features(self, pixels: Tensor) -> Tensor:
        return self.backbone.pool(self._maps(pixels))

    def _maps(self, pixels: Tensor, dense: bool = False) -> Tensor:
        read = self.backbone.dense if dense else self.backbone
        with self.autocast(self.autocast_dtype):
            maps: Tensor = read(pixels.to(self._weight.dtype))
        return maps.to(self._weight.dtype)


@contextlib.contextmanager
def undisturbed(device: str) -> Iterator[None]:
    """What modules are made and exported under, whatever the caller has set: ordinary float32 tensors on one device."""
    settle_threads()
    with _DEFAULT_DTYPE, torch.inference_mode(False), torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _unequal(images: int, references: int) -> ValueError:
    return ValueError(f"{images} images but {references} references: pass one reference for each image")


def _autocast_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype autocast is to use; None for plain float32."""
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and chosen not in _DTYPES.values():
        raise InputError(f"dtype is one of {', '.join(_DTYPES)}, auto; got {dtype!r}")
    return None if chosen is torch.float32 else chosen


def _choose(dimension: str | None, dimensions: tuple[str, ...]) -> str:
    if dimension is not None and dimension not in dimensions:
        raise InputError(f"dimension is one of {', '.join(dimensions)}; got {dimension!r}")
    return dimension or dimensions[0]


def _locate(
    source: str | os.PathLike[str],
    metric: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
) -> LocalCheckpoint | hub.HubCheckpoint:
    """Where a checkpoint is: a folder, else a Hub repo."""
    text = os.fspath(source)
    folder = Path(os.path.expanduser(text))
    if folder.is_dir():
        return LocalCheckpoint(folder)
    if isinstance(source, str) and text[:1] not in (".", "/", "~") and _REPO.fullmatch(text):
        return hub.HubCheckpoint(text, metric=metric, cache_dir=cache_dir, local_files_only=local_files_only)
    raise InputError(
        f"weights {text!r}: no such folder, and not a Hub repo 'org/name' or 'org/name@revision'; also taken are "
        "'default', 'imagenet' and None (random)"
    )
