"""The figures that the PKU-I2IQA paper publishes (arXiv 2311.15556, five tables, 200 rows)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from aigciqa.tables.csv_text import read_records

DATABASE = "pku-i2iqa"
_TABLES = Path(__file__).with_name("pku_i2iqa_results.csv")
#: Protocol of the library -> table of the paper.
PROTOCOLS: Mapping[str, str] = MappingProxyType(
    {"paper": "all", "all": "all", "sd": "sd", "mj": "mj", "sd-mj": "sd-mj", "mj-sd": "mj-sd"}
)


class Published(NamedTuple):
    """A row of the paper; its PLCC is of the scores as they are, without a mapping."""

    srcc: float
    plcc: float


def published(protocol: str, kind: str, backbone: str, dimension: str) -> Published | None:
    """The paper's row, or None where it has none.

    Args:
        protocol: of the library (`paper`, `sd`, `mj`, `sd-mj`, `mj-sd`); `all` is the paper's name for `paper`.
        kind: `nr` or `fr`.
        backbone: as in the table of metrics.
        dimension: `quality`, `authenticity`, `correspondence` or `overall`.

    Example:
        >>> from aigciqa.evaluation import published
        >>> published("paper", "nr", "vgg16", "quality")
        Published(srcc=0.6734, plcc=0.6854)
    """
    return _rows().get((PROTOCOLS.get(protocol, ""), kind, backbone, dimension))


@functools.cache
def _rows() -> dict[tuple[str, str, str, str], Published]:
    return {
        (row["protocol"], row["kind"], row["backbone"], row["dimension"]): Published(
            float(row["srcc"]), float(row["plcc"])
        )
        for row in read_records(_TABLES, "protocol")
    }
