"""`aigciqa mos`: people's votes turned into opinion scores."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from aigciqa.cli.common import check_apart, check_table_output, command, complain, overwrite_option, put, writing

_METHODS = ("p910", "bt500", "p913", "zscore", "mean")


@command("mos")
@click.argument("votes", metavar="VOTES", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", metavar="FILE.csv", type=click.Path(path_type=Path),
    help="Write the scores: what train, evaluate and fit read.",
)  # fmt: skip
@click.option("--raters", metavar="FILE.csv", type=click.Path(path_type=Path), help="Write a table of the raters.")
@click.option(
    "--method", type=click.Choice(_METHODS), default="p910",
    help="p910: maximum likelihood of biases and inconsistencies; bt500: raters screened; p913: biases taken off, then "
    "screened; zscore; mean. Pairs always go to the model of Bradley and Terry.",
)  # fmt: skip
@click.option(
    "--scale", type=(float, float), default=(1, 5), metavar="LOW HIGH",
    help="Lowest and highest vote. A study's own is known.",
)  # fmt: skip
@click.option("-q", "--question", metavar="NAME", default="quality", help="What was asked, where the votes do not say.")
@click.option(
    "--by", metavar="parent|REGEX",
    help="Of pairs, compare groups instead of images: the name of the image's folder, or what a regular expression "
    "matches in its path.",
)  # fmt: skip
@overwrite_option
@click.option("--quiet", is_flag=True, help="Nothing on standard output where -o writes a file.")
def main(
    votes: Path,
    output: Path | None,
    raters: Path | None,
    method: str,
    scale: tuple[float, float],
    question: str,
    by: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Turn people's votes into opinion scores with intervals.

    VOTES is a study that aigciqa rate made (.db), or a table (.csv, .xlsx, .parquet): with the columns image, rater,
    score and perhaps question; with image and a column for each rater; or pairs, with left, right, choice or winner,
    loser, votes.

    The raters' agreement goes to standard output, and the scores where -o does not write them. Exit status: 0 done, 2
    usage error.
    """
    from aigciqa.evaluation.opinion_scores import check_table, mean_opinion_scores

    for option, path in (("-o", output), ("--raters", raters)):
        check_table_output(option, path, [votes])
        if path is not None:
            check_table(path)
    check_apart(("-o", output), ("--raters", raters))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = mean_opinion_scores(votes, method=method, scale=scale, question=question, by=by)
    for note in (*(str(warning.message) for warning in caught), *found.notes):
        complain(note)
    with writing():
        if raters is not None:
            found.write_raters(raters)  # first, for it may be refused
        if output is not None:
            found.write(output)
        if output is None or not quiet:
            tables = [*found.summary(), *([found.scores()] if output is None else [])]
            text = "\n\n".join(f"{table.title}\n{table.aligned()}" for table in tables)
            put(f"Method: {found.method}. In brackets: 95% intervals.\n\n{text}")
