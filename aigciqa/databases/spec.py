"""What is known of a database without its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DatabaseSpec:
    """What is known of a database without its files.

    Example:
        >>> from aigciqa import database_info
        >>> database_info("agiqa-3k").score_range
        {'quality': (0.0, 5.0), 'correspondence': (0.0, 5.0)}

    Attributes:
        name: as `load_database` takes it.
        title: as its authors call it.
        homepage: where it can be downloaded.
        license: as its authors state it.
        source: the paper that describes it.
        layout: path below the root -> what is expected there.
        score_range: dimension -> (lowest, highest) of the scale its authors give scores on.
        protocols: the splits it has, the default first.
        published: the rule of the protocol `"paper"`, that of the PKU authors' training code; None where it has none.
    """

    name: str
    title: str
    homepage: str
    license: str
    source: str
    layout: Mapping[str, str]
    score_range: Mapping[str, tuple[float, float]]
    protocols: tuple[str, ...]
    published: Literal["every fourth", "shuffled"] | None
