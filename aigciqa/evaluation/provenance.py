"""What a checkpoint says it was trained on, and whether it has seen the images it is to be judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aigciqa.errors import InputError

if TYPE_CHECKING:
    from aigciqa.databases import Database, Sample

_PROTOCOL_OPTIONS = ("folds", "fold")


@dataclass(frozen=True)
class Training:
    """The entry `training` of a checkpoint's config, as far as it names a split.

    Attributes:
        database: name of the database.
        protocol: of the split.
        seed: of the split.
        split: its digest; empty if the checkpoint does not say.
        options: of the protocol: `folds` and `fold`.
    """

    database: str
    protocol: str
    seed: int = 0
    split: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def recorded(cls, training: Mapping[str, Any]) -> Training | None:
        """Read a config's `training`; None where it names no database and protocol."""
        database, protocol = training.get("database"), training.get("protocol")
        if not isinstance(database, str) or not isinstance(protocol, str):
            return None
        seed, split, options = training.get("seed"), training.get("split"), training.get("options")
        return cls(
            database,
            protocol,
            seed if isinstance(seed, int) else 0,
            split if isinstance(split, str) else "",
            {name: options[name] for name in _PROTOCOL_OPTIONS if isinstance(options, Mapping) and name in options},
        )


def seen_warning(label: str, training: Training, database: Database, samples: Sequence[Sample]) -> str | None:
    """Why figures of these samples flatter a checkpoint: it was trained, or its epoch chosen, on some of them.

    The checkpoint's split is made again; where that does not give the digest the checkpoint recorded, nothing can be
    said for sure, and that is the warning. None where it has seen none of them, or is of another database.
    """
    if training.database != database.name:
        return None
    named = f"{label} was trained on {training.database}, protocol {training.protocol}, seed {training.seed}"
    try:
        split = database.split(training.protocol, seed=training.seed, **training.options)
    except InputError as error:
        return f"{named}, which can't be made again here ({error}): it may have been trained on these images"
    if training.split and split.digest != training.split:
        return (
            f"{named}, but that split has another digest here ({split.digest[:12]}, recorded {training.split[:12]}): "
            "labels or options differ, and it may have been trained on these images"
        )
    evaluated = {sample.image for sample in samples}
    trained = evaluated & {sample.image for sample in split.train}
    if trained:
        return f"{named}: {len(trained)} of these {len(evaluated)} images are among those it was trained on"
    chosen = evaluated & {sample.image for sample in split.validation}
    if chosen:
        return f"{named}: its epoch was chosen on {len(chosen)} of these {len(evaluated)} images"
    return None
