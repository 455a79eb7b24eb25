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
    from aigciqa.convert import convert_checkpoint as convert_checkpoint
    from aigciqa.create import create_metric as create_metric
    from aigciqa.create import load_imagenet as load_imagenet
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
    from aigciqa.evaluation.opinion_scores import OpinionScores as OpinionScores
    from aigciqa.evaluation.opinion_scores import mean_opinion_scores as mean_opinion_scores
    from aigciqa.images.generation.parameters import GenerationParameters as GenerationParameters
    from aigciqa.images.generation.read import read_generation as read_generation
    from aigciqa.metric import Metric as Metric
    from aigciqa.plotting import plot_quality_map as plot_quality_map
    from aigciqa.records import Item as Item
    from aigciqa.records import Record as Record
    from aigciqa.registry import MetricSpec as MetricSpec
    from aigciqa.registry import list_metrics as list_metrics
    from aigciqa.registry import metric_info as metric_info
    from aigciqa.scoring.engine import score_files as score_files
    from aigciqa.scoring.scores_in_files import write_scores as write_scores
    from aigciqa.scoring.to_file import ScoredFile as ScoredFile
    from aigciqa.scoring.to_file import score_to_file as score_to_file
    from aigciqa.training.fit.fit import fit_head as fit_head
    from aigciqa.training.fit.fit import suggest_ratings as suggest_ratings

__version__ = "0.1.0"

if sys.platform == "linux":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

#: Names by the module that they come from; type checkers read them above.
_NAMES = {
    "aigciqa.convert": ("convert_checkpoint",),
    "aigciqa.create": ("create_metric", "load_imagenet"),
    "aigciqa.databases": ("Database", "Sample", "Split", "database_info", "list_databases", "load_database"),
    "aigciqa.errors": ("CheckpointError", "DatabaseError", "HubError", "ImageError", "WeightsError"),
    "aigciqa.evaluation.opinion_scores": ("OpinionScores", "mean_opinion_scores"),
    "aigciqa.images.generation.parameters": ("GenerationParameters",),
    "aigciqa.images.generation.read": ("read_generation",),
    "aigciqa.metric": ("Metric",),
    "aigciqa.plotting": ("plot_quality_map",),
    "aigciqa.records": ("Item", "Record"),
    "aigciqa.registry": ("MetricSpec", "list_metrics", "metric_info"),
    "aigciqa.scoring.engine": ("score_files",),
    "aigciqa.scoring.scores_in_files": ("write_scores",),
    "aigciqa.scoring.to_file": ("ScoredFile", "score_to_file"),
    "aigciqa.training.fit.fit": ("fit_head", "suggest_ratings"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aigciqa' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
