"""`Metric`: a torch Module that scores images."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aigciqa.backbones import build_backbone
from aigciqa.checkpoints import hub
from aigciqa.checkpoints.card import checked_folder
from aigciqa.checkpoints.config import MetricConfig, check_metric, read_config
from aigciqa.checkpoints.format import as_read, write_checkpoint
from aigciqa.checkpoints.imagenet import imagenet_part
from aigciqa.checkpoints.repo import or_cached
from aigciqa.errors import InputError
from aigciqa.heads import build_head
from aigciqa.heads.base import check_features, head_input, unequal
from aigciqa.images.preprocess import Preprocessor, on_device, recordable
from aigciqa.tables.columns import percentile_columns, std_columns
from aigciqa.utils.hardware import autocast_dtype, settle_threads, undisturbed


class Metric(nn.Module):
    """A quality metric: images in, scores out. Made by `create_metric` or `Metric.from_pretrained`.

    Images are, one or a list of them: a path, a file object, a PIL image, a uint8 array (H, W, 3), or a tensor
    (3, H, W); or a batch as one tensor (B, 3, H, W). Tensors are RGB, floating point in [0, 1] or uint8 in 0..255; one
    channel is repeated to three. They may be on any device and are moved to the metric's. Tensors and arrays are taken
    to be in sRGB; files and PIL images are brought there. A score depends on its image (and reference) alone, never
    on the rest of the batch, nor on a `torch.autocast`, default dtype or default device around the call.

    The model is the PKU-I2IQA paper's (section 4): a backbone, global average pooling, and a head of two fully
    connected layers. With a reference (FR), the same backbone reads both images and the head reads [generated,
    reference]. The `lite` metrics have a backbone and heads of their own.

    The metric stays in evaluation mode: `train()` does nothing, also when called on a model that holds it. To
    fine-tune, call `metric.backbone.train()`.

    Attributes:
        config: what the metric is; what `config.json` says.
        dimension: the main dimension, which calling the metric returns.
        as_loss: whether gradients flow and calling returns `-score.mean()`.
        preprocessor: makes the pixels that the backbone sees.

    Example:
        >>> import aigciqa, torch
        >>> metric = aigciqa.create_metric("nr-lite")
        >>> scores = metric(torch.rand(2, 3, 256, 256))
        >>> tuple(scores.shape), metric.score_range, list(metric.predict(torch.rand(3, 64, 64)))
        ((2,), (0.0, 5.0), ['quality'])
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
        self.preprocessor = Preprocessor(config.preprocess)
        self.as_loss = as_loss
        self.autocast_dtype = autocast_dtype(dtype, device)
        if dimension not in (None, *config.dimensions):
            raise InputError(f"dimension is one of {', '.join(config.dimensions)}; got {dimension!r}")
        self.dimension = dimension or config.dimensions[0]
        with undisturbed(device):
            self.backbone = build_backbone(config.backbone, **config.options)
            self.head = build_head(config.head, config.kind, self.backbone.feature_dim, len(config.dimensions))
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
        dtype = autocast_dtype(dtype, device)

        def load(cache_only: bool) -> Metric:
            checkpoint = hub.open_checkpoint(source, metric, cache_dir, cache_only)
            with checkpoint.explained():
                config, weights = read_config(checkpoint.config_file())
                check_metric(config, metric, checkpoint.source)
                with torch.random.fork_rng(devices=[]):
                    # Shapes without memory, whose values come from the file, unless some are in no file.
                    loaded = cls(config, dimension=dimension, as_loss=as_loss, dtype=dtype, device="meta")
                    if dict(loaded.named_buffers()).keys() - loaded.state_dict().keys():
                        loaded = cls(config, dimension=dimension, as_loss=as_loss, dtype=dtype)
                expected = loaded.state_dict()
                elsewhere = imagenet_part(config, expected, cache_dir, cache_only)
                inside = {name: tensor for name, tensor in expected.items() if name not in elsewhere}
                tensors = checkpoint.read_tensors(weights, inside)
            loaded.load_state_dict(tensors | elsewhere, assign=True)
            return loaded

        return or_cached(load, local_files_only).to(device)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json`, `model.safetensors` and a model card, for `create_metric(name, weights=folder)`.

        Args:
            folder: made if absent; an earlier checkpoint in it is replaced.

        Raises:
            InputError: it is a URL.
            OutputExistsError: the folder's `README.md` is not the model card of a checkpoint.
            CheckpointError: weights that are NaN or infinite, or what could not be loaded: a config, other modules.
        """
        folder = checked_folder(folder)
        weights = as_read(self.state_dict(), Metric(self.config, device="meta").state_dict(), str(folder))
        write_checkpoint(folder, replace(self.config, imagenet=None), weights)  # all weights, trained or not

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        commit_message: str = "Upload with aigciqa",
    ) -> str:
        """Publish the checkpoint as a Hub repo, made if absent, in one commit; returns the address of the commit.

        Args:
            repo_id: `"org/name"`.
            private: whether a new repo is private.
            revision: branch to upload to, made if absent; the main one if not given.

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
        return self.config.score_ranges[self.dimension]

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
            TypeError, InputError: what came, what was expected, what to do.
            ImageError: a file can't be read.
        """
        with self._alone():
            scores = self.regress(*self._encoded(images, reference, reference_features))
            scores = scores[:, self.dimensions.index(self.dimension)]
            return -scores.mean() if self.as_loss else scores

    def predict(
        self,
        images: Any,
        reference: Any = None,
        *,
        reference_features: Tensor | None = None,
        uncertainty: bool = False,
        percentiles: bool = False,
    ) -> dict[str, Tensor]:
        """Score images on every dimension in one pass; arguments as for calling the metric.

        Args:
            uncertainty: give the standard deviations of people's ratings about the scores, too. A head from
                `aigciqa.fit_head` knows them: images unlike those that were rated are the uncertain ones.
            percentiles: give the shares, 0 to 100, of a reference set that score lower, too: of
                `config.reference_set()`, such as AI-generated images. Only some weights know one.

        Returns:
            Dimension -> float32 (B,); with `uncertainty` also `<dimension>_std`, with `percentiles` also
            `<dimension>_percentile`, float32 (B,) each.

        Raises:
            InputError: as calling the metric; `uncertainty` of a head, or `percentiles` of weights, that don't know.
        """
        with self._alone():
            features, references = self._encoded(images, reference, reference_features)
            values = self.regress(features, references)
            scores = dict(zip(self.dimensions, values.unbind(1), strict=True))
            if uncertainty:
                deviations = self.deviations(features, references).unbind(1)
                scores |= zip(std_columns(self.dimensions), deviations, strict=True)
            if percentiles:
                ranks = torch.from_numpy(self.config.percentiles(values.numpy(force=True))).to(values)
                scores |= zip(percentile_columns(self.dimensions), ranks.unbind(1), strict=True)
            return scores

    def encode(self, images: Any) -> Tensor:
        """Features (B, D) of images: of an image prompt, to be passed as `reference_features` any number of times."""
        with self._alone():
            batches = self.preprocessor.batches(images, self.device)
            if len(batches) == 1:
                return self._features(batches[0][1])
            features = torch.cat([self._features(pixels) for _, pixels in batches])
            order = [index for indices, _ in batches for index in indices]
            return features[torch.tensor(order, device=features.device).argsort()]

    def quality_map(self, image: Any, reference: Any = None, *, reference_features: Tensor | None = None) -> Tensor:
        """The main dimension's score, position by position, over what the metric sees (the centre crop, if it has one).

        The paper's heads are piecewise linear in a spatial mean of features: with slope w and offset b at that mean,
        w . f(y, x) + b averages exactly to the score. A reference adds to b. For `lite`: from its block statistics.

        Args:
            image: images, as for calling the metric; whole images of unequal sizes one at a time.

        Returns:
            float32 (B, h, w), at the resolution of the feature maps; its mean over (h, w) is the score.

        Raises:
            InputError: as calling the metric; images whose maps would differ in size.
        """
        with torch.no_grad(), self._alone():
            self._check_references(reference, reference_features)
            batches = self.preprocessor.batches(image, self.device)
            if len(batches) > 1:
                raise InputError("images of unequal sizes make maps of unequal sizes: pass them one at a time")
            pixels = batches[0][1]
            features = self._features(pixels)
            references = self._references(reference, reference_features, len(pixels))
            return self.score_map(self._maps(pixels, dense=True), features, references)

    def feature_maps(self, pixels: Tensor, *, dense: bool = False) -> Tensor:
        """Feature maps (B, C, h, w) of images preprocessed by `preprocessor.image`: uint8 (B, 3, h, w).

        Args:
            dense: those that `quality_map` is drawn from, where they are finer than what features are pooled from.
        """
        with self._alone():
            return self._maps(self.preprocessor.normalize(on_device(pixels, self.device)), dense)

    @torch.no_grad()
    def score_map(self, maps: Tensor, features: Tensor, reference_features: Tensor | None = None) -> Tensor:
        """The main dimension's score, position by position, float32 (B, h, w); its mean over (h, w) is the score.

        Args:
            maps: of the generated images, as `feature_maps` gives them.
            features: of the generated images, (B, D).
            reference_features: FR: of their references, (B, D) or (1, D).
        """
        with self._alone():
            joined = head_input(features, reference_features)
            local = self.backbone.local_features(maps).to(joined.dtype)
            return self.head.score_map(local, joined, self.dimensions.index(self.dimension)).float()

    def regress(self, features: Tensor, reference_features: Tensor | None = None) -> Tensor:
        """Scores (B, n) of features (B, D); FR: with the references' features, (B, D) or (1, D)."""
        with self._alone():
            scores: Tensor = self.head(head_input(features, reference_features))
            return scores.float()

    def deviations(self, features: Tensor, reference_features: Tensor | None = None) -> Tensor:
        """Standard deviations (B, n) of people's ratings about the scores of features, as `regress` takes them.

        Raises:
            InputError: the head does not know.
        """
        with self._alone():
            return self.head.deviations(head_input(features, reference_features)).float()

    def train(self, mode: bool = True) -> Metric:
        """Does nothing: scores never depend on the mode. See the class for fine-tuning."""
        return super().train(False)

    def extra_repr(self) -> str:
        return f"{self.name!r}, dimension={self.dimension!r}, as_loss={self.as_loss}"

    @property
    def _weight(self) -> Tensor:
        """Any one of the tensors, to read device and dtype from."""
        return next(itertools.chain(self.parameters(), self.buffers()))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Gradients for a loss alone, and no autocast of the caller's."""
        settle_threads()
        with contextlib.nullcontext() if self.as_loss else torch.no_grad(), self.autocast(None):
            yield

    def autocast(self, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
        """On the metric's device, whatever surrounds it: autocast to a dtype, or none."""
        # A cache would, within an autocast of the caller's, outlive the weights that it was made from.
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)

    def _encoded(self, images: Any, reference: Any, reference_features: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features of images and of their references."""
        self._check_references(reference, reference_features)
        features = self.encode(images)
        return features, self._references(reference, reference_features, features.shape[0])

    def _check_references(self, reference: Any, reference_features: Tensor | None) -> None:
        """Raise InputError unless what a metric of this kind needs was given, and no more."""
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
        if reference_features is not None:
            check_features(reference_features, self.feature_dim)

    def _references(self, reference: Any, reference_features: Tensor | None, images: int) -> Tensor | None:
        """Features of the references: (images, D), or (1, D) where the caller encoded one for all."""
        if reference_features is not None:
            return recordable(reference_features).to(self._weight)
        if reference is None:
            return None
        features = self.encode(reference)
        if features.shape[0] != images:
            raise unequal(images, features.shape[0])
        return features

    def _features(self, pixels: Tensor) -> Tensor:
        return self.backbone.pool(self._maps(pixels))

    def _maps(self, pixels: Tensor, dense: bool = False) -> Tensor:
        read = self.backbone.dense if dense else self.backbone
        with self.autocast(self.autocast_dtype):
            maps: Tensor = read(pixels.to(self._weight.dtype))
        return maps.to(self._weight.dtype)
