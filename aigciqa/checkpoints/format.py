"""Checkpoints on disk: a folder of `config.json`, `model.safetensors` and `README.md` (a model card).

Nothing is ever unpickled. Files are checked whenever they are loaded: the config's schema and bounds, size and sha256
of the weights, and one tensor of finite values for every parameter, of its shape and dtype.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from aigciqa.backbones import OptionError
from aigciqa.checkpoints.card import CARD_FILE, model_card
from aigciqa.checkpoints.config import MetricConfig, WeightsFile
from aigciqa.errors import AlteredError, CheckpointError, TruncatedError, shortened
from aigciqa.heads import OutputsError
from aigciqa.utils.files import write_file
from aigciqa.utils.paths import shown

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
#: Bytes that a file may have beside the tensors: its header, and room to name tensors that don't belong there.
_SLACK = 16 << 20


def write_checkpoint(
    folder: str | os.PathLike[str], config: MetricConfig, tensors: Mapping[str, Tensor], card: str | None = None
) -> None:
    """Write a checkpoint of a metric's `state_dict()`; the model card is made from the config if absent.

    Raises:
        CheckpointError: the checkpoint could not be loaded again; nothing was written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    # copies, since safetensors refuses tensors that share memory, as tied layers do
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    check_values(tensors, str(folder))
    data = save(tensors)
    entry = {**config.to_dict(), **asdict(WeightsFile(len(data), hashlib.sha256(data).hexdigest()))}
    MetricConfig.from_dict(json.loads(json.dumps(entry)))
    text = json.dumps(entry, indent=2, ensure_ascii=False, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / CARD_FILE, (card if card is not None else model_card(config)).encode())
    write_file(folder / WEIGHTS_FILE, data)
    write_file(folder / CONFIG_FILE, f"{text}\n".encode())


class Checkpoint:
    """A checkpoint in a folder, to be loaded; `hub.HubCheckpoint` is one in a repo. Errors call it `source`."""

    def __init__(self, source: str) -> None:
        self.source = source

    def config_file(self) -> Path:
        path = Path(self.source, CONFIG_FILE)
        if not path.exists():
            raise CheckpointError(f"{self.source} is not a checkpoint: it has no {CONFIG_FILE}")
        return path

    def weights_file(self, weights: WeightsFile) -> Path:
        """`model.safetensors`, verified."""
        path = Path(self.source, WEIGHTS_FILE)
        verify(path, weights)
        return path

    def read_tensors(self, weights: WeightsFile, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights: one tensor for each of `expected`, which gives names, shapes and dtypes."""
        largest = 2 * sum(tensor.nbytes for tensor in expected.values()) + _SLACK
        if weights.size > largest:  # so much is not even downloaded
            expected_size = f"a checkpoint of this metric has at most {largest:,} bytes"
            raise CheckpointError(f"{self.source}: 'size' is {weights.size:,}; {expected_size}")
        tensors = read_safetensors(self.weights_file(weights))
        check_tensors(tensors, expected, self.source)
        return tensors

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Let errors say which checkpoint they are about; what can't be built from its config is one of them."""
        try:
            yield
        except (OptionError, OutputsError) as error:
            key = "backbone.options" if isinstance(error, OptionError) else "dimensions"
            raise self.refusal(CheckpointError(f"config.json: '{key}': {shortened(str(error), 300)}")) from error
        except CheckpointError as error:
            raise self.refusal(error) from error.__cause__

    def refusal(self, error: CheckpointError) -> CheckpointError:
        """An error of the same class that says which checkpoint it is about."""
        return error


def state_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Of the names, types, shapes and values of a `state_dict()`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def verify(path: Path, weights: WeightsFile) -> None:
    """Raise TruncatedError or AlteredError unless a file has the size and the sha256 that its config says."""
    if path.exists() and (size := path.stat().st_size) != weights.size:
        raise TruncatedError(f"{path} has {size} bytes, its config says {weights.size}: truncated or replaced")
    check_sha256(path, weights.sha256, "its config says")


def check_sha256(path: Path, wanted: str, says: str) -> None:
    """Raise AlteredError unless a file's sha256 begins as something says."""
    found = file_sha256(path)
    if not found.startswith(wanted):
        raise AlteredError(f"{path} has sha256 {found}, {says} {wanted}: it was altered; remove it, and fetch it again")


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error
    return digest.hexdigest()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a verified file into memory of its own: what later happens to the file changes nothing."""
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        if "backend" in inspect.signature(load_file).parameters:
            return load_file(path, backend="pread")
        return load(path.read_bytes())  # older safetensors would map the file, or else holds it twice for a moment
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:  # odd dtypes
        raise CheckpointError(f"{path} is not a safetensors file: {shortened(str(error), 200)}") from error


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError unless both have the same names, shapes and dtypes, and what was found is finite."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        named = (("lacks", missing), ("has unknown", extra))
        problems = " and ".join(f"{word} {shown([repr(name) for name in names])}" for word, names in named if names)
        raise CheckpointError(f"{where}: the file {problems}")
    for name, tensor in expected.items():
        for what in ("shape", "dtype", "layout"):
            has, wanted = getattr(found[name], what), getattr(tensor, what)
            if has != wanted:
                has, wanted = (tuple(x) if what == "shape" else x for x in (has, wanted))
                raise CheckpointError(f"{where}: {name!r} has {what} {has}; expected {wanted}")
    check_values(found, where)


def as_read(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """A metric's weights in the dtypes in which they are read, whatever the caller has cast them to.

    Raises:
        CheckpointError: they could not be read.
    """
    found = {name: tensor.to(expected[name].dtype) if name in expected else tensor for name, tensor in tensors.items()}
    check_tensors(found, expected, where)
    return found


def check_values(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError if a tensor holds NaN, infinity or a negative variance: scores would be NaN."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        # The sum is many times as fast, and finite unless the values are not, or are huge.
        if not math.isfinite(tensor.sum().item()) and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: {name!r} holds NaN or infinity")
        if name.endswith("running_var") and tensor.min().item() < 0:
            raise CheckpointError(f"{where}: {name!r} holds a negative variance")
