"""One step of training, and scores of what has been learnt so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aigciqa.backbones.base import Backbone
from aigciqa.cpu import has_blocked_layout
from aigciqa.cpu.parallel_passes import SIDE_BY_SIDE, SideBySide
from aigciqa.metric import Metric
from aigciqa.training.activation_checkpointing import checkpointed_forward
from aigciqa.training.image_cache import ImageCache, Pixels
from aigciqa.training.settings import Settings
from aigciqa.training.targets import Targets

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from aigciqa.databases import Sample

#: Images per pass when nothing is learned from them.
EVALUATION_BATCH = 32


class Learner:
    """A metric, what it learns from, and how: Adam on the squared error, on random crops mirrored at random.

    Args:
        fabric: the devices.
        metric: what learns; its head is to give targets, in standard deviations from the mean opinion.
        settings: of the run.
        samples: what to learn from.
        images: holds the images of all samples.
    """

    def __init__(
        self, fabric: Fabric, metric: Metric, settings: Settings, samples: Sequence[Sample], images: ImageCache
    ) -> None:
        self.fabric = fabric
        self.settings = settings
        self.samples = samples
        self.images = images
        self.side = metric.config.preprocess.crop or 0
        self.with_reference = metric.requires_reference
        self.targets = Targets.of(samples, metric)
        self.wanted = self.targets.values(samples)
        self.trainee = Trainee(metric, settings, fabric.device)
        learning = [parameter for parameter in self.trainee.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(
            learning, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.model, self.optimizer = fabric.setup(self.trainee, optimizer)
        self.features: dict[str, Tensor] = {}

    def steps(self, epoch: int) -> Iterator[tuple[float, int]]:
        """Train through an epoch, from 1: the loss of each step, and of how many images it is."""
        self.trainee.train()
        if self.settings.frozen:
            self.trainee.backbone.eval()
        self.optimizer.zero_grad()
        batches = self.batches(epoch)
        with self.trainee.passes.running() if self.trainee.passes is not None else nullcontext():
            for step, chosen in enumerate(batches):
                rng = np.random.default_rng([self.settings.seed, epoch, step, self.fabric.global_rank])
                is_last = step + 1 == len(batches)
                moves = is_last or (step + 1) % self.settings.gradient_accumulation == 0
                yield self._step(chosen[self.fabric.global_rank :: self.fabric.world_size], rng, moves)

    def _step(self, chosen: NDArray[np.int64], rng: np.random.Generator, moves: bool) -> tuple[float, int]:
        """Learn from samples; the weights move if this step ends an accumulation of gradients."""
        found = self.model(*(part.to(self.fabric.device) for part in self._inputs(chosen, rng)))
        # Lightning gives them in the default dtype
        loss = (found.float() - self.wanted[chosen].to(found.device)).square().mean()
        with self.fabric.no_backward_sync(self.model, enabled=not moves):
            self.fabric.backward(loss / self.settings.gradient_accumulation)
        if moves:
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.fabric.world_size > 1:  # all stop where one has to
            loss = self.fabric.all_reduce(loss.detach(), reduce_op="mean")
        return loss.item(), len(chosen)

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Numbers of the samples of each step: of the seed and the epoch alone. Every device gets as many."""
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.samples))
        size = self.settings.batch_size
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        return [part for part in parts if len(part) % self.fabric.world_size == 0]

    def weights(self) -> dict[str, Tensor]:
        """The metric's weights as they are now, those that give scores."""
        return self.targets.to_scores(self.trainee.state_dict())

    @torch.no_grad()
    def scores(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Scores (n, dimensions) of other samples in the cache, each distinct image encoded once."""
        self.trainee.eval()
        features = torch.cat(self._features(samples), dim=1).to(self.fabric.device)
        if not self.settings.frozen:
            self.features.clear()  # the next step changes them
        scores: NDArray[np.float64] = self.targets.scores(self.trainee.head(features)).numpy()
        return scores

    def _inputs(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> list[Tensor]:
        """What the model reads: a part for each column of images, or their features if the backbone is frozen."""
        samples = [self.samples[int(number)] for number in chosen]
        if self.settings.frozen:
            return self._features(samples)
        return [
            _stack([self.images.random_crop(path, self.side, rng) for path in column])
            for column in self._columns(samples)
        ]

    def _columns(self, samples: Sequence[Sample]) -> list[list[str]]:
        """Paths of the generated images, and of the references if the metric reads them."""
        columns = [[sample.image for sample in samples]]
        return [*columns, [str(sample.reference) for sample in samples]] if self.with_reference else columns

    def _features(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Features (n, D) of the centre crops of each column of images."""
        columns = self._columns(samples)
        self._encode([path for column in columns for path in column])
        return [torch.stack([self.features[path] for path in column]) for column in columns]

    @torch.no_grad()
    def _encode(self, paths: Sequence[str]) -> None:
        """Keep the features of images that have none yet."""
        missing = [path for path in dict.fromkeys(paths) if path not in self.features]
        for start in range(0, len(missing), EVALUATION_BATCH):
            part = missing[start : start + EVALUATION_BATCH]
            pixels = _stack([self.images.centre_crop(path, self.side) for path in part]).to(self.fabric.device)
            with self.fabric.autocast():
                features = self.trainee.encode(self.trainee.backbone, pixels)
            self.features.update(zip(part, features.float().cpu(), strict=True))


class Trainee(nn.Module):
    """What learns: images in, targets out, in training mode where the metric is pinned to evaluation."""

    def __init__(self, metric: Metric, settings: Settings, device: torch.device) -> None:
        super().__init__()
        self.activation_checkpointing = settings.activation_checkpointing
        is_on_cpu = device.type == "cpu"
        has_layout = is_on_cpu and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        self.blocked = has_layout and has_blocked_layout(metric.backbone) and settings.dtype == "float32"
        layout = torch.contiguous_format if self.blocked else torch.channels_last
        self.backbone = metric.backbone.to(memory_format=layout).requires_grad_(not settings.frozen)
        self.head = metric.head
        self.preprocessor = metric.preprocessor
        has_cores = is_on_cpu and torch.get_num_threads() > 1
        has_pairs = metric.requires_reference and not settings.frozen
        # Fabric takes bfloat16 on the CPU where float16 was asked for.
        is_mixed = is_on_cpu and settings.dtype != "float32"
        self.passes: SideBySide | None = None
        if has_cores and has_pairs and isinstance(self.backbone, SIDE_BY_SIDE):
            self.passes = SideBySide(self.backbone, self.encode, torch.bfloat16 if is_mixed else torch.float32)

    def encode(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """Features (B, D) of images, uint8 (B, 3, h, w)."""
        images = self.preprocessor.normalize(pixels)
        if self.blocked:
            images = images.to_mkldnn()
        again = self.activation_checkpointing and torch.is_grad_enabled()
        maps = checkpointed_forward(backbone, images) if again else backbone(images)
        features: Tensor = backbone.pool((maps.to_dense() if self.blocked else maps).float())
        return features

    def forward(self, generated: Tensor, reference: Tensor | None = None) -> Tensor:
        """Targets (B, n), as found, of uint8 images (B, 3, h, w), or of their features (B, D).

        The images of a pair go through the backbone apart, as in the paper authors' script: batch normalisation sees
        generated images and prompts one after the other.
        """
        parts = [part for part in (generated, reference) if part is not None]
        if parts[0].dim() == 2:
            features = parts
        elif self.passes is not None:
            features = self.passes.features(parts)
        else:
            features = [self.encode(self.backbone, part) for part in parts]
        found: Tensor = self.head(torch.cat(features, dim=1))
        return found.float()


def _stack(images: Sequence[Pixels]) -> Tensor:
    """uint8 (B, 3, h, w), channels last in memory."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
