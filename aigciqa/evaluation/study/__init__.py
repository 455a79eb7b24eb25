"""A study: people rate images in a browser, and one SQLite file keeps what they say.

settings -> store (`schema`, `sessions`) -> server (`pictures`, `progress`) -> votes.
"""

from __future__ import annotations

from aigciqa.evaluation.study.creation import Entry as Entry
from aigciqa.evaluation.study.creation import create_study as create_study
from aigciqa.evaluation.study.settings import Question as Question
from aigciqa.evaluation.study.settings import Settings as Settings
from aigciqa.evaluation.study.steps import Rater as Rater
from aigciqa.evaluation.study.steps import Step as Step
from aigciqa.evaluation.study.store import Study as Study
from aigciqa.evaluation.study.store import open_study as open_study
from aigciqa.evaluation.study.votes import Vote as Vote
from aigciqa.evaluation.study.votes import is_study as is_study
from aigciqa.evaluation.study.votes import read_votes as read_votes
