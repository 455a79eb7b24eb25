"""How well scores agree with people: correlations with intervals, tests between metrics, tables and plots."""

from __future__ import annotations

from aigciqa.evaluation.evaluate import evaluate as evaluate
from aigciqa.evaluation.precomputed import PrecomputedScores as PrecomputedScores
from aigciqa.evaluation.predictions import Predictions as Predictions
from aigciqa.evaluation.predictions import predict as predict
from aigciqa.evaluation.results import Comparison as Comparison
from aigciqa.evaluation.results import Evaluation as Evaluation
from aigciqa.evaluation.results import Published as Published
from aigciqa.evaluation.results import Result as Result
from aigciqa.evaluation.results import Setting as Setting
from aigciqa.evaluation.results import published as published
from aigciqa.stats.bootstrap import Interval as Interval
from aigciqa.stats.correlations import Agreement as Agreement
from aigciqa.stats.correlations import Logistic as Logistic
from aigciqa.stats.correlations import agreement as agreement
from aigciqa.stats.correlations import fit_logistic as fit_logistic
from aigciqa.stats.correlations import krcc as krcc
from aigciqa.stats.correlations import plcc as plcc
from aigciqa.stats.correlations import plcc_fitted as plcc_fitted
from aigciqa.stats.correlations import rmse_fitted as rmse_fitted
from aigciqa.stats.correlations import srcc as srcc
from aigciqa.stats.correlations import srcc_within as srcc_within
from aigciqa.stats.significance import Test as Test
from aigciqa.stats.significance import steiger as steiger
from aigciqa.stats.significance import williams as williams
