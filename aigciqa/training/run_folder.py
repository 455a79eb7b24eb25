"""The folder of a run: a checkpoint, and below `training/` the log and the state that the run goes on from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aigciqa.checkpoints.card import CARD_FILE, model_card
from aigciqa.checkpoints.config import MetricConfig, read_config
from aigciqa.checkpoints.format import CONFIG_FILE, WEIGHTS_FILE, write_checkpoint
from aigciqa.databases.sample import below
from aigciqa.databases.splits import PARTS, Split
from aigciqa.errors import CheckpointError, InputError, OutputExistsError
from aigciqa.images.reading import read_content
from aigciqa.tables.csv_text import csv_lines
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.files import replacing, write_file
from aigciqa.utils.paths import shown

#: 1 had no format in it and other targets, 2 other names of settings.
FORMAT = 3
#: Settings that may be others when a run goes on: they don't change what was done.
FREE = ("epochs", "patience", "activation_checkpointing")


class RunFolder:
    """The folder of a run: the checkpoint of the best epoch, the state that a run goes on from, log and split."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_file = path / "training" / "state.pt"
        self.log_file = path / "training" / "log.csv"
        self.split_file = path / "training" / "split.json"

    def check(self, resume: bool) -> None:
        """Check that the folder is new, or has a run to go on with.

        The state is written before the checkpoint: a run without it was killed in its first epoch, and has nothing to
        lose.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is not a folder: name one for the checkpoint")
        has_checkpoint = (self.path / CONFIG_FILE).exists()
        if resume and self.state_file.exists():
            return
        if resume and (has_checkpoint or not self.split_file.exists()):
            what = self.state_file.relative_to(self.path)
            raise InputError(f"nothing to resume in {self.path}: it holds no {what}; train anew in another folder")
        if self.state_file.exists():
            raise OutputExistsError(f"{self.path} holds a run: pass `resume=True` to go on with it, or name another")
        if has_checkpoint:
            raise OutputExistsError(f"{self.path} holds a checkpoint, and no run to go on with: name another folder")
        for name in (CARD_FILE, WEIGHTS_FILE):
            if (self.path / name).exists():
                raise OutputExistsError(f"{self.path / name} would be replaced: move it away, or name another folder")

    def prepare(self, split: Split, resume: bool) -> None:
        """Make the folder of a new run; what another run has done to it since it was checked is seen here."""
        self.check(resume)
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        if not self.state_file.exists():
            split.save(self.split_file)

    def write_checkpoint(self, config: MetricConfig, weights: Mapping[str, Tensor]) -> None:
        """Write the checkpoint; a card that someone has changed is kept."""
        write_checkpoint(self.path, config, weights, self._changed_card())

    def write_log(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write a row for each epoch."""
        rows = [{**row, "epoch": int(row["epoch"])} for row in history]
        write_file(self.log_file, csv_lines(rows, list(rows[0])).encode())

    def tensorboard(self) -> Any:
        """A writer of TensorBoard's event files."""
        with needs_extra("train", "--tensorboard needs tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        return SummaryWriter(self.path / "training" / "tensorboard")

    def license(self) -> str | None:
        """The license of the checkpoint, if there is one that has it."""
        config = self._config()
        return None if config is None else config.license

    def _changed_card(self) -> str | None:
        """The card, if someone has changed it since it was written."""
        path, config = self.path / CARD_FILE, self._config()
        if config is None or not path.exists():
            return None
        card = path.read_bytes().decode()
        return None if card == model_card(config) else card

    def _config(self) -> MetricConfig | None:
        """The config of the checkpoint; None if there is none, or a broken one."""
        try:
            return read_config(self.path / CONFIG_FILE)[0]
        except (FileNotFoundError, CheckpointError):
            return None


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state whole or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        try:
            torch.save({"format": FORMAT, **state}, file)
        except RuntimeError as error:  # torch's own, raised after the one that stopped it
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_state(path: Path, settings: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """Read the state of a run and check that it is one of these settings and of this split."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises anything on broken data
        raise CheckpointError(f"{path} is damaged, or of another kind: train anew in another folder") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} was written by another version of aigciqa: train anew in another folder")
    changed = [key for key, value in settings.items() if state["settings"].get(key) != value and key not in FREE]
    _refuse(path, [*changed, *_changed_split(state, split)])
    return state


def check_images(path: Path, state: Mapping[str, Any], images: Mapping[str, str]) -> None:
    """Raise InputError if images, as `digests` gives them, are not those of the run whose state is at a path."""
    known = state["images"]
    changed = [name for name, digest in images.items() if known.get(name) != digest]
    _refuse(path, [f"the images {shown(changed)}"] if changed else [])


def split_metadata(split: Split) -> dict[str, Any]:
    """What a state keeps of the split, so that what differs can be named."""
    ratings = {sample.name: dict(sample.scores) for part in PARTS for sample in getattr(split, part)}
    parts = {part: [sample.name for sample in getattr(split, part)] for part in PARTS}
    return {"split": split.digest, "parts": parts, "ratings": ratings}


def digests(paths: Iterable[str], root: Path, workers: int) -> dict[str, str]:
    """The sha256 of images' files, or of images inside a Parquet file, by their paths below the root."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda path: hashlib.sha256(read_content(path)).hexdigest(), distinct)
        return {below(root, path): digest for path, digest in zip(distinct, found, strict=True)}


def _changed_split(state: Mapping[str, Any], split: Split) -> list[str]:
    if state["split"] == split.digest:
        return []
    now = split_metadata(split)
    if state["parts"] == now["parts"]:
        changed = [name for name, scores in now["ratings"].items() if state["ratings"][name] != scores]
        if changed:
            return [f"the ratings of {shown(changed)}"]
    return ["the split of the database"]


def _refuse(path: Path, changed: list[str]) -> None:
    if changed:
        differing = ", ".join(changed)
        raise InputError(f"the run of {path} differs in {differing}: train as it did, or in another folder")
