"""The folder of a run: a checkpoint, and below `training/` what the run keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from aigciqa.checkpoints.card import CARD_FILE, model_card
from aigciqa.checkpoints.config import MetricConfig, read_config
from aigciqa.checkpoints.format import CONFIG_FILE, WEIGHTS_FILE, write_checkpoint
from aigciqa.errors import CheckpointError, InputError, OutputExistsError
from aigciqa.tables.csv_text import csv_lines
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.files import write_file

if TYPE_CHECKING:
    from aigciqa.databases import Split


class RunFolder:
    """The folder of a run.

    Attributes:
        path: of the folder, which holds the checkpoint of the best epoch.
        state_file: what a run goes on from.
        log_file: a row for each epoch.
        split_file: which images were trained on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_file = path / "training" / "state.pt"
        self.log_file = path / "training" / "log.csv"
        self.split_file = path / "training" / "split.json"

    def check(self, resume: bool) -> None:
        """Check that the folder is new, or has a run to go on with.

        The state is written before the checkpoint: a run without it was killed in its first epoch, and has nothing to
        lose.

        Raises:
            InputError: nothing to resume.
            OutputExistsError: a run or a checkpoint is there, or a file that a checkpoint would replace.
        """
        has_checkpoint = (self.path / CONFIG_FILE).exists()
        if resume and self.state_file.exists():
            return
        if resume and (has_checkpoint or not self.split_file.exists()):
            what = self.state_file.relative_to(self.path)
            raise InputError(f"nothing to resume in {self.path}: it holds no {what}; train anew in another folder")
        if self.state_file.exists() or has_checkpoint:
            raise OutputExistsError(
                f"{self.path} holds a run or a checkpoint already: resume it, or name another folder"
            )
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

    def _changed_card(self) -> str | None:
        """The card, if someone has changed it since it was written."""
        try:
            card = (self.path / CARD_FILE).read_bytes().decode()
            config, _ = read_config(self.path / CONFIG_FILE)
        except (FileNotFoundError, CheckpointError):
            return None
        return None if card == model_card(config) else card
