"""What a checkpoint says it was trained on, and whether it has seen the images it is evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aigciqa.errors import InputError

if TYPE_CHECKING:
    from aigciqa.databases import Database, Sample


@dataclass(frozen=True)
class Training:
    """The entry `training` of a checkpoint's config, as far as it names a split.

    `split` is its digest, empty if the checkpoint does not say; `options` are those of the protocol.
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
        seed, split, given = training.get("seed"), training.get("split"), training.get("options")
        options = given if isinstance(given, Mapping) else {}
        return cls(
            database,
            protocol,
            seed if isinstance(seed, int) else 0,
            split if isinstance(split, str) else "",
            {name: options[name] for name in ("folds", "fold") if isinstance(options.get(name), int)},
        )


def seen_warning(label: str, training: Training, database: Database, samples: Sequence[Sample]) -> str | None:
    """A warning if a checkpoint was trained on some of the samples, or its epoch chosen on them: its figures flatter.

    The checkpoint's split is made again; if its digest is not the recorded one, the warning says that nobody can tell.
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
