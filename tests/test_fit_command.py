"""`aigciqa fit`: what it passes on, what it prints, how it ends. Fitting itself is a stand-in here."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import aigciqa
from aigciqa.cli.fit import main
from aigciqa.errors import HubError, InputError, OutputExistsError
from aigciqa.training.fit.ratings import read_ratings
from aigciqa.training.fit.text import figures_text

RESULTS = {
    "quality": {
        "ratings": 60,
        "groups": 20,
        "srcc": [0.612, 0.431, 0.746],
        "plcc": [0.64, 0.47, 0.767],
        "rmse": [12.31, 10.04, 14.22],
        "controls": {"nr-lite": {"srcc": [0.21, -0.034, 0.44]}, "generator's mean": {"srcc": [0.305, None, None]}},
        "learning_curve": {"20": 0.42, "40": 0.55, "60": 0.61, "120": [0.66, 0.5, 0.8]},
        "warnings": ["quality: the generators alone may explain these ratings, says a sentence of more than a line."],
    },
    "fun": {
        "ratings": 12,
        "groups": 12,
        "accuracy": [0.5, 0.25, 0.75],
        "controls": {},
        "learning_curve": {"12": 0.5},
        "warnings": [],
    },
}
TEXT = """\
quality: 60 ratings, each predicted without those of its group (20)
                                SRCC               PLCC               RMSE
fitted head        0.61 [0.43, 0.75]  0.64 [0.47, 0.77]  12.3 [10.0, 14.2]
nr-lite           0.21 [−0.03, 0.44]
generator's mean                0.30
SRCC by ratings: 20: 0.42, 40: 0.55, 60: 0.61,
expected of 120: 0.66 [0.50, 0.80]
Warning: quality: the generators alone may explain these ratings, says a
  sentence of more than a line.

fun: 12 pairs, each predicted without those of its group (12)
                      accuracy
fitted head  0.50 [0.25, 0.75]
accuracy by pairs: 12: 0.50
"""


class Fitting:
    """Stands in for `aigciqa.training.fit.fit`."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.candidates: list[str] = []

    def fit_head(self, ratings: str, *, output: str, **options: Any) -> aigciqa.Metric:
        self.options = {"ratings": ratings, "output": output, **options}
        if self.error is not None:
            raise self.error
        warnings.warn("the interval includes 0", stacklevel=2)
        metric = aigciqa.create_metric("nr-lite")
        metric.config = replace(metric.config, results=RESULTS)
        return metric

    def suggest_ratings(
        self, ratings: str, images: Any, n: int, *, metric: str | None = None, dimensions: Any = None, **options: Any
    ) -> list[aigciqa.Item]:
        assert options.keys() <= {"score_ranges", "references", "device", "workers", "cache_dir", "progress"}
        self.options = {"ratings": ratings, "metric": metric, "dimensions": dimensions}
        self.candidates = [item.image for item in images]
        return [aigciqa.Item(image) for image in reversed(self.candidates)][:n]


@pytest.fixture
def fitting(monkeypatch: pytest.MonkeyPatch) -> Fitting:
    stand_in = Fitting()
    monkeypatch.setitem(sys.modules, "aigciqa.training.fit.fit", stand_in)  # type: ignore[arg-type]
    return stand_in


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="aigciqa fit")


def test_figures_and_what_to_do_next(fitting: Fitting) -> None:
    done = run("ratings.csv", "-o", "my head")
    assert (done.exit_code, done.stdout) == (0, TEXT)
    assert done.stderr.splitlines() == [
        "WARNING: the interval includes 0",
        "my head: score other images of this kind with",
        "    aigciqa score IMAGES --weights 'my head/'",
    ]
    assert fitting.options == {
        "ratings": "ratings.csv", "output": "my head", "overwrite": False, "seed": 0, "progress": True,
        "cache_dir": None,
    }  # fmt: skip
    quiet = run("ratings.csv", "-o", "my head", "--quiet")
    assert (quiet.stdout, quiet.stderr) == (TEXT, "WARNING: the interval includes 0\n")
    assert fitting.options["progress"] is False


def test_a_table_of_figures_fits_a_terminal() -> None:
    worst = {"srcc": [-0.1234, -0.5678, -0.001], "plcc": [-0.1234, -0.5678, -0.001], "rmse": [99.94, 78.5, 1234.5]}
    curve = {"25": 0.1, "50": 0.1, "75": 0.1, "100": 0.1, "200": [0.2, 0.1, 0.3]}
    figures = {"ratings": 100, "groups": 100, **worst, "controls": {"a generator's mean": worst}}
    lines = figures_text({"quality": {**figures, "learning_curve": curve, "warnings": ["word " * 40]}}).splitlines()
    assert max(map(len, lines)) <= 80


def test_options_are_passed_on(fitting: Fitting) -> None:
    options = ["-m", "nr-resnet50", "-d", "fun,quality", "-d", "style", "-r", "prompts", "--seed", "3", "--overwrite"]
    run("r.csv", "-o", "out", *options, "--device", "cpu", "--workers", "0", "--cache", "features")
    assert fitting.options == {
        "ratings": "r.csv", "output": "out", "metric": "nr-resnet50", "dimensions": ("fun", "quality", "style"),
        "references": "prompts", "seed": 3, "overwrite": True, "device": "cpu", "workers": 0, "cache_dir": "features",
        "progress": True,
    }  # fmt: skip
    run("r.csv", "-o", "out", "--no-cache")
    assert fitting.options["cache_dir"] is False


@pytest.mark.parametrize(
    ("given", "ranges"),
    [
        (["1,5"], (1, 5)),
        (["fun=-1,1", "quality=0,100"], {"fun": (-1, 1), "quality": (0, 100)}),
        (["a=b=0,1"], {"a=b": (0, 1)}),
    ],
)
def test_ranges(fitting: Fitting, given: list[str], ranges: Any) -> None:
    assert run("r.csv", "-o", "out", *(f"--score-range={text}" for text in given)).exit_code == 0
    assert fitting.options["score_ranges"] == ranges


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "name the folder of the checkpoint with -o, or images to choose from with --suggest"),
        (["-o", "out", "--score-range", "5"], "expected LOW,HIGH or NAME=LOW,HIGH"),
        (["-o", "out", "--score-range", "1,5,9"], "expected LOW,HIGH or NAME=LOW,HIGH"),
        (["-o", "out", "--score-range", "1,5", "--score-range", "fun=1,5"], "name a dimension in each"),
        (["-o", "out", "--score-range", "a=1,5", "--score-range", "a=1,9"], "a range is given twice for a"),
        (["-o", "out", "--cache", "x", "--no-cache"], "give one of them"),
        (["--suggest", "gone/*"], "'gone/*' matches no file"),
        (["-o", f"new/{'x' * 299}"], "the name is too long for this system; choose a shorter one"),
    ],
)
def test_usage_errors(fitting: Fitting, arguments: list[str], problem: str) -> None:
    done = run("r.csv", *arguments)
    assert done.exit_code == 2
    assert problem in " ".join(done.stderr.split())
    assert fitting.options == {}


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            InputError("r.csv: 2 problems\n- row 2: no\n- row 3: no"),
            2,
            "Error: r.csv: 2 problems\n- row 2: no\n- row 3",
        ),
        (OutputExistsError("out is there: pass `overwrite=True`"), 2, "out is there: pass --overwrite"),
        (HubError("no network"), 1, "Error: no network"),
        (OSError(28, "No space left on device"), 1, "the disk is full: make room, and run"),
        (KeyboardInterrupt(), 130, "aigciqa fit: interrupted"),
    ],
)
def test_how_it_ends(fitting: Fitting, error: BaseException, status: int, said: str) -> None:
    fitting.error = error
    done = run("r.csv", "-o", "out")
    assert (done.exit_code, done.stdout) == (status, "")
    assert said in done.stderr


def test_what_to_rate_next(fitting: Fitting, write_images: Callable[..., list[str]], tmp_path: Path) -> None:
    images = write_images("unrated", "a.png", "b.png", "c.png")
    done = run("r.csv", "--suggest", str(tmp_path / "unrated"), "-n", "2", "-d", "fun")
    assert done.exit_code == 0, done.stderr
    assert fitting.candidates == images
    assert done.stdout.splitlines() == [images[2], images[1]]
    assert fitting.options["dimensions"] == ("fun",)
    both = run("r.csv", "-o", "out", "--suggest", images[0], "--suggest", images[2])
    assert both.stdout == f"{TEXT}{images[2]}\n{images[0]}\n"
    (tmp_path / "empty").mkdir()
    assert "no images there" in run("r.csv", "--suggest", str(tmp_path / "empty")).stderr


def test_ratings_that_can_not_be_used_are_listed(fitting: Fitting, tmp_path: Path) -> None:
    """The error of `read_ratings` comes out line by line."""
    (tmp_path / "r.csv").write_text("image,quality\na.png,good\nb.png,2\n")
    with pytest.raises(InputError) as error:
        read_ratings(tmp_path / "r.csv")
    fitting.error = error.value
    done = run(str(tmp_path / "r.csv"), "-o", "out")
    assert done.exit_code == 2
    assert f"Error: {error.value}\n" in done.stderr
