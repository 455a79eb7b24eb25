"""What a metric learns, one step of its training, and scores of what it has learnt so far.

Opinion scores are learnt in standard deviations from their mean, so that their unit does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
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

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from aigciqa.databases import Sample

#: Images per pass when nothing is learned from them.
EVALUATION_BATCH = 32


class Learner:
    """A metric, whose head is to give targets, and how it learns: Adam on the squared error.

    It learns from random crops of the samples' images, mirrored at random; `images` holds them all.
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
        rate, decay = settings.learning_rate, settings.weight_decay
        optimizer = torch.optim.Adam(learning, lr=rate, weight_decay=decay, fused=True)
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
                place = [self.settings.seed, epoch, step, self.fabric.global_rank]
                rng = np.random.default_rng(place)
                is_last = step + 1 == len(batches)
                moves = is_last or (step + 1) % self.settings.gradient_accumulation == 0
                with torch.random.fork_rng([self.fabric.device] if self.fabric.device.type == "cuda" else []):
                    # What a backbone drops at random: of the seed, too.
                    torch.manual_seed(int(np.random.default_rng([*place, 1]).integers(2**63)))
                    done = self._step(chosen[self.fabric.global_rank :: self.fabric.world_size], rng, moves)
                yield done

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


@dataclass(frozen=True)
class Targets:
    """What is learnt of each of n dimensions: (score - mean) / deviation.

    Attributes:
        layer: name of the head's output layer in the metric's `state_dict()`.
        mean: (n,) float64, of the training part's scores.
        deviation: (n,) float64, their standard deviation.
    """

    dimensions: tuple[str, ...]
    layer: str
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, samples: Sequence[Sample], metric: Metric) -> Targets:
        """Those of the samples to train a metric on, whose scores are not all equal."""
        scores = _scores(samples, metric.dimensions)
        layer = f"head.{metric.head.output_layer}"
        return cls(metric.dimensions, layer, scores.mean(0), scores.std(0, correction=0))

    def values(self, samples: Sequence[Sample]) -> Tensor:
        """Targets (samples, n), float32."""
        return ((_scores(samples, self.dimensions) - self.mean) / self.deviation).float()

    def scores(self, values: Tensor) -> Tensor:
        """Scores (B, n), float64 on the CPU, of a head's values."""
        return values.cpu().double() * self.deviation + self.mean

    def to_scores(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A metric's weights whose output layer gives targets -> those that give scores."""
        return self._mapped(weights, self.deviation, self.mean)

    def from_scores(
        self, weights: Mapping[str, Tensor], given: Sequence[tuple[float, float]], wanted: Sequence[tuple[float, float]]
    ) -> dict[str, Tensor]:
        """A metric's weights that give scores -> those whose output layer gives targets.

        The scores' ranges, (lowest, highest) of each dimension, are `given`; those to learn have the `wanted` ones.
        """
        lows, highs = torch.tensor(given, dtype=torch.float64).T
        wanted_lows, wanted_highs = torch.tensor(wanted, dtype=torch.float64).T
        factor = (wanted_highs - wanted_lows) / (highs - lows)
        offset = (wanted_lows - lows * factor - self.mean) / self.deviation
        return self._mapped(weights, factor / self.deviation, offset)

    def _mapped(self, weights: Mapping[str, Tensor], factor: Tensor, offset: Tensor) -> dict[str, Tensor]:
        """Weights of a metric whose outputs are `factor * output + offset`; the output layer's are on the CPU."""
        names = f"{self.layer}.weight", f"{self.layer}.bias"
        weight, bias = (weights[name].cpu().double() for name in names)
        mapped = dict(zip(names, (weight * factor[:, None], bias * factor + offset), strict=True))
        return {**weights, **{name: value.to(weights[name].dtype) for name, value in mapped.items()}}


def _scores(samples: Sequence[Sample], dimensions: Sequence[str]) -> Tensor:
    return torch.tensor([[sample.scores[name] for name in dimensions] for sample in samples], dtype=torch.float64)
