"""aigciqa: perceptual quality metrics for AI-generated images.

    metric = aigciqa.create_metric("nr-lite")
    score = metric("out.png")

The names below are resolved on first use, so `import aigciqa` imports nothing else. On Linux it asks torch for huge
pages, which torch looks at when it makes its first tensor; THP_MEM_ALLOC_ENABLE=0 in the environment declines them.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigciqa.checkpoints.imagenet import load_imagenet as load_imagenet
    from aigciqa.convert import convert_checkpoint as convert_checkpoint
    from aigciqa.databases import Database as Database
    from aigciqa.databases import Sample as Sample
    from aigciqa.databases import Split as Split
    from aigciqa.databases import database_info as database_info
    from aigciqa.databases import list_databases as list_databases
    from aigciqa.databases import load_database as load_database
    from aigciqa.errors import CheckpointError as CheckpointError
    from aigciqa.errors import DatabaseError as DatabaseError
    from aigciqa.errors import HubError as HubError
    from aigciqa.errors import ImageError as ImageError
    from aigciqa.errors import WeightsError as WeightsError
    from aigciqa.metric import Metric as Metric
    from aigciqa.metric import create_metric as create_metric
    from aigciqa.plotting import plot_quality_map as plot_quality_map
    from aigciqa.records import Item as Item
    from aigciqa.records import Record as Record
    from aigciqa.registry import MetricSpec as MetricSpec
    from aigciqa.registry import list_metrics as list_metrics
    from aigciqa.registry import metric_info as metric_info
    from aigciqa.scoring.engine import score_files as score_files
    from aigciqa.scoring.to_file import ScoredFile as ScoredFile
    from aigciqa.scoring.to_file import score_to_file as score_to_file

__version__ = "0.1.0"

if sys.platform == "linux":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_HOME = {
    "CheckpointError": "aigciqa.errors",
    "Database": "aigciqa.databases",
    "DatabaseError": "aigciqa.errors",
    "HubError": "aigciqa.errors",
    "ImageError": "aigciqa.errors",
    "Item": "aigciqa.records",
    "Metric": "aigciqa.metric",
    "MetricSpec": "aigciqa.registry",
    "Record": "aigciqa.records",
    "Sample": "aigciqa.databases",
    "ScoredFile": "aigciqa.scoring.to_file",
    "Split": "aigciqa.databases",
    "WeightsError": "aigciqa.errors",
    "convert_checkpoint": "aigciqa.convert",
    "create_metric": "aigciqa.metric",
    "database_info": "aigciqa.databases",
    "list_databases": "aigciqa.databases",
    "list_metrics": "aigciqa.registry",
    "load_database": "aigciqa.databases",
    "load_imagenet": "aigciqa.checkpoints.imagenet",
    "metric_info": "aigciqa.registry",
    "plot_quality_map": "aigciqa.plotting",
    "score_files": "aigciqa.scoring.engine",
    "score_to_file": "aigciqa.scoring.to_file",
}
__all__ = [
    "CheckpointError",
    "Database",
    "DatabaseError",
    "HubError",
    "ImageError",
    "Item",
    "Metric",
    "MetricSpec",
    "Record",
    "Sample",
    "ScoredFile",
    "Split",
    "WeightsError",
    "__version__",
    "convert_checkpoint",
    "create_metric",
    "database_info",
    "list_databases",
    "list_metrics",
    "load_database",
    "load_imagenet",
    "metric_info",
    "plot_quality_map",
    "score_files",
    "score_to_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aigciqa' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
