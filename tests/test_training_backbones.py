"""What training does with backbones of one's own: activation checkpointing, two passes at once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aigciqa
from aigciqa.backbones import Backbone, register_backbone
from aigciqa.registry import register_metric
from aigciqa.training import learner
from aigciqa.training.activation_checkpointing import checkpointed_forward
from aigciqa.training.learner import Trainee
from aigciqa.training.settings import Settings


class Block(nn.Module):
    """Convolution, batch normalisation and a functional activation, dropped out at random."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.normalisation = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        return F.dropout(torch.relu(self.normalisation(self.convolution(maps))), 0.1, self.training)


class Own(Backbone):
    """A stem; subclasses say what comes after it."""

    feature_dim = 4

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)


class Branches(Own):
    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.one, self.two = Block(), Block()

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.sigmoid(self.stem(images))
        return torch.relu(self.one(maps)) + 2 * self.two(maps)


class Twice(Own):
    """One block, and one part of a chain, that are used twice."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.block, again = Block(), Block()
        self.chain = nn.Sequential(again, nn.ReLU(inplace=True), again)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.block(self.block(self.stem(images)))
        made: Tensor = self.chain(maps + 1)
        return made + maps


class InPlace(Own):
    """Activations that change what a block or a pooling returned."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.block = Block()
        self.chain = nn.Sequential(
            nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU(inplace=True), Block(), nn.LeakyReLU(0.1, inplace=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.block(self.stem(images)), inplace=True)
        made: Tensor = self.chain(maps)
        return made * 2


class Nested(Own):
    """A trunk of another library: of many parts in lists, called past its own forward, with a state besides."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.trunk = nn.Module()
        self.trunk.blocks = nn.ModuleList([Block(), nn.Sequential(Block(), Block())])
        self.trunk.register_buffer("seen", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        for block in self.trunk.blocks:
            maps = block(maps) * (1 + 0.1 * self.trunk.seen)
            self.trunk.seen = self.trunk.seen + maps.detach().mean()
        return torch.tanh(maps)


class Counting(nn.Module):
    """Weighs maps by how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        self.calls += 1
        return torch.sigmoid(maps * self.weight) * self.calls.item()


class Stateful(Own):
    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.counting = Counting()

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.counting(self.stem(images))
        return maps


class Reused(Own):
    """What a block is given is changed after it."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.pooled = nn.Sequential(nn.AvgPool2d(1), Block())
        self.block = Block()

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.stem(images))
        made: Tensor = self.block(maps)
        maps.add_(1)
        return made


OWN = (Branches, Twice, InPlace, Nested, Stateful)


def two_passes(backbone: Backbone, forward: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
    """Maps, gradients and buffers after a step on two batches, as a full-reference metric makes it."""
    torch.manual_seed(1)
    parts = [torch.randn(2, 3, 16, 16) for _ in range(2)]
    maps = [forward(part) for part in parts]
    sum((each.square().mean() for each in maps), torch.zeros(())).backward()
    return [*maps, *(parameter.grad for parameter in backbone.parameters()), *backbone.buffers()]


@pytest.mark.parametrize("build", OWN)
def test_activation_checkpointing_runs_the_forward_of_any_backbone(build: type[Own]) -> None:
    torch.manual_seed(0)
    plain = build().train()
    other = copy.deepcopy(plain)
    expected = two_passes(plain, plain)
    found = two_passes(other, lambda images: checkpointed_forward(other, images))
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True) if one is not None)
    assert not any("forward" in vars(module) for module in other.modules())


def test_blocks_in_the_parts_of_a_trunk_are_checkpointed() -> None:
    saved = []
    backbone = Nested().train()
    for forward in (backbone, lambda images: checkpointed_forward(backbone, images)):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: (sizes.append(tensor.numel()), tensor)[1], lambda tensor: tensor
        ):
            forward(torch.rand(2, 3, 32, 32))
        saved.append(sum(sizes))
    assert saved[1] < 0.7 * saved[0]


def test_a_block_that_could_not_be_computed_again_is_refused() -> None:
    with pytest.raises(ValueError, match="the input of 'block' is changed in place"):
        checkpointed_forward(Reused().train(), torch.rand(2, 3, 16, 16))


class Normalised(Own):
    """Batch normalisations used twice, by the mean over all batches, without a state, frozen; and an unused layer."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.twice = nn.BatchNorm2d(4)
        self.mean = nn.BatchNorm2d(4, momentum=None)
        self.stateless = nn.BatchNorm2d(4, track_running_stats=False)
        self.frozen = nn.BatchNorm2d(4)
        self.flat = nn.BatchNorm1d(4)
        self.unused = nn.Linear(4, 4)

    def train(self, mode: bool = True) -> Normalised:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        maps = self.twice(torch.tanh(self.twice(self.stem(images))))
        maps = self.frozen(self.stateless(self.mean(maps * 2 + 1)))
        made: Tensor = self.flat(maps.flatten(2)).unflatten(2, maps.shape[2:])
        return made


@pytest.fixture
def normalised(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(learner, "SIDE_BY_SIDE", (Normalised,))
    register_backbone("normalised", Normalised)
    spec = aigciqa.metric_info("fr-resnet18")
    register_metric(dataclasses.replace(spec, name="fr-normalised", backbone="normalised"))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield "fr-normalised"
    torch.set_num_threads(threads)


def test_normalisations_count_what_both_passes_saw(normalised: str) -> None:
    torch.manual_seed(0)
    metric = aigciqa.create_metric(normalised, weights=None)
    parts = [torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8) for _ in range(2)]
    later = {name: torch.rand_like(value.float()).to(value.dtype) for name, value in metric.state_dict().items()}
    found = []
    for is_side_by_side in (False, True):
        trainee = Trainee(copy.deepcopy(metric), Settings(normalised, ("quality",)), torch.device("cpu")).train()
        trainee.load_state_dict(later)  # as a run that is resumed does
        assert trainee.passes is not None
        with trainee.passes.running():
            if not is_side_by_side:
                trainee.passes = None
            for _ in range(3):
                scores = trainee(*parts)
            scores.square().mean().backward()
        gradients = {name: each.grad for name, each in trainee.named_parameters() if each.grad is not None}
        found.append({"scores": scores.detach(), **gradients, **dict(trainee.named_buffers())})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=3e-5, msg=lambda text, name=name: name + text)
