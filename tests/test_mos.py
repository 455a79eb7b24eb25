"""`aigciqa mos`: votes of every form read or refused, what is written, and who reads it after."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import aigciqa
from aigciqa.cli import mos
from aigciqa.cli.main import main
from aigciqa.databases import load_database
from aigciqa.errors import InputError
from aigciqa.evaluation import study
from aigciqa.evaluation.question_scores import METHODS
from aigciqa.evaluation.study import Entry, StudySettings, create_study
from aigciqa.evaluation.study.votes import votes_csv
from aigciqa.evaluation.votes import read_votes
from tests.conftest import draw

LONG = """image,rater,score
a.png,ann,5
a.png,bob,4
b.png,ann,3
b.png,bob,1
c.png,ann,4
c.png,bob,2
"""
MEANS = {"a.png": 4.5, "b.png": 2.0, "c.png": 3.0}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["mos", *map(str, arguments)], prog_name="aigciqa")


def file(folder: Path, text: str, name: str = "votes.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def means(source: Any, **options: Any) -> dict[str, float]:
    """Image -> its only score, by the mean."""
    found = aigciqa.mean_opinion_scores(source, method="mean", **options)
    return {str(row["image"]): row[found.questions[0]] for row in found.rows}


def refusal(folder: Path, text: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_votes(file(folder, text), **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (LONG, "utf-8"),
        (LONG.replace(",", ";"), "utf-8-sig"),
        (LONG.replace(",", "\t").replace("\n", "\r\n"), "utf-16"),
        ("image,ann,bob\na.png,5,4\nb.png,3,1\nc.png,4,2\n", "utf-8"),
        ("image;ann;bob\na.png;5,0;4,0\nb.png;3,0;1,0\nc.png;4,0;2,0\n", "utf-8-sig"),
        ("bob, image ,ann\n4,a.png,5\n1,b.png,3\n2,c.png,4\n\n,,\n", "utf-8"),
    ],
)
def test_votes_are_read_as_spreadsheets_write_them(text: str, encoding: str, tmp_path: Path) -> None:
    assert means(file(tmp_path, text, encoding=encoding)) == MEANS


def test_votes_are_read_from_a_spreadsheet_and_from_rows(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in (["image", "ann", "bob"], ["a.png", 5, 4], ["b.png", 3, 1], ["c.png", 4, None], ["d.png", None, 2]):
        book.active.append(row)
    book.save(tmp_path / "votes.xlsx")
    assert means(tmp_path / "votes.xlsx") == {"a.png": 4.5, "b.png": 2.0, "c.png": 4.0, "d.png": 2.0}
    rows = list(csv.DictReader(LONG.splitlines()))
    assert means([{**row, "score": float(row["score"])} for row in rows]) == MEANS


def test_several_questions_are_a_column_each(tmp_path: Path) -> None:
    votes = "image,rater,question,score\n" + "".join(
        f"{image}.png,{rater},{question},{score}\n"
        for image, rater, question, score in [
            ("a", "ann", "quality", 5), ("a", "bob", "quality", 4), ("a", "cyd", "quality", 3),
            ("b", "ann", "quality", 2), ("b", "bob", "quality", 2), ("b", "cyd", "quality", 5),
            ("a", "ann", "aesthetics", 1), ("a", "bob", "aesthetics", 2), ("b", "ann", "aesthetics", 5),
        ]
    )  # fmt: skip
    found = aigciqa.mean_opinion_scores(file(tmp_path, votes), method="mean")
    assert found.questions == ("quality", "aesthetics")
    assert [(row["quality"], row["aesthetics"], row["votes"]) for row in found.rows] == [(4, 1.5, 2), (3, 5, 1)]
    assert found.rows[0]["quality_std"] == 1
    assert math.isnan(found.rows[1]["aesthetics_low"])


def test_the_votes_of_a_study_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    votes = [
        study.Vote("a.png", "r1", "quality", 90, "rated"), study.Vote("a.png", "r2", "quality", 70, "rated"),
        study.Vote("a.png", "r1", "quality", 10, "repeat"), study.Vote("x.png", "r1", "quality", 0, "training"),
        study.Vote("g.png", "r2", "quality", 0, "gold"),
    ]  # fmt: skip
    monkeypatch.setattr(study, "read_votes", lambda path: iter(votes))
    monkeypatch.setattr(study.votes, "places", lambda path: {})
    path = file(tmp_path, "", "study.db")
    assert means(path) == {"a.png": 80}
    exported = "image,rater,question,score,kind,seconds,at\n" + "".join(
        f"{vote.image},{vote.rater},{vote.question},{vote.score},{vote.kind},1.5,2026-01-01\n" for vote in votes
    )
    assert means(file(tmp_path, exported), scale=(0, 100)) == {"a.png": 80}
    votes[:] = [
        study.Vote("a.png", "r1", "best", 1, "rated", "b.png"),
        study.Vote("a.png", "r2", "best", 0.5, "rated", "b.png"),
    ]
    assert read_votes(path).is_pairs
    exported = "image,other,rater,question,score,kind\na.png,b.png,r1,best,1,rated\na.png,b.png,r2,best,0.5,rated\n"
    assert read_votes(file(tmp_path, exported)).votes == read_votes(path).votes
    votes.clear()
    with pytest.raises(InputError, match="no votes yet"):
        read_votes(path)


def test_a_studys_paths_lead_to_its_images_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also past other images that lie beside the study as its own lie where it was made."""
    for folder in ("project/out", "project/studies/out", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    for path in ("project/out/a.png", "project/studies/out/a.png", "project/cat.png"):
        Image.fromarray(draw(8, 8)).save(tmp_path / path)
    monkeypatch.chdir(tmp_path / "project")
    with create_study("studies/study.db", [Entry("out/a.png", reference="cat.png"), Entry("gone.png")]) as made:
        rater = made.invite().id
        for number in range(2):
            step = made.step(rater)
            made.vote(rater, f"key-of-{number}", step.slot or 0, step.question or "", 4)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("../project/studies/study.db", "--method", "mean", "-o", "ratings.csv").exit_code == 0
    gone, found = rows_of(Path("ratings.csv"))
    assert (gone["image"], found["image"], found["reference"]) == (
        "gone.png", "../project/out/a.png", "../project/cat.png"
    )  # fmt: skip


def test_all_that_is_wrong_with_votes_is_one_error(tmp_path: Path) -> None:
    text = refusal(
        tmp_path, "image,rater,score\na.png,ann,7\na.png,,4\n,bob,3\nb.png,ann,\nb.png,bob,good\nb.png,cyd,0\n"
    )
    for words in (
        "vote off the scale 1 to 5: 2 cells: row 2 is 7, row 7 is 0", "empty 'rater': 1 cell: row 3",
        "empty 'image': 1 cell: row 4", "vote without a number: 2 cells: row 5 is empty, row 6 is 'good'",
        "`scale=(0, 100)`",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,rater,scor\na.png,ann,5\n", "unknown column 'scor': is it 'score'?"),
        ("image,rater,qestion,score\na.png,ann,q,5\n", "unknown column 'qestion': is it 'question'?"),
        ("image,rater,mark\na.png,ann,5\n", "no column 'score'; found: 'image', 'rater', 'mark'"),
        ("picture,rater,score\na.png,ann,5\n", "no column 'image'"),
        ("image,subject,score\na.png,1,5\n", "no column 'rater'; found: 'image', 'subject', 'score'"),
        ("image,ann,note\na.png,5,nice\n", "column that is no rater's: it holds no number: 1 cell: 'note'"),
        ("image,ann,bob\na.png,5,4\nb.png,,\n", "image without a vote: 1 cell: row 3: b.png"),
        ("image,ann,bob\na.png,5,9\n", "row 2, bob is 9"),
        ("image,prompt\na.png,a cat\n", "no column of a rater"),
        ("image,rater,score\na.png,ann,5,4\n", "more cells than columns"),
        ("image,rater,score\n", "no rows"),
        ("image,rater,prompt,score\na.png,ann,cat,5\na.png,bob,dog,5\n", "'prompt' unlike in another row of the image"),
        ("left,right,choice\na,b,first\nb,b,left\n", "choice that is none of left, right, same, tie: 1 cell: row 2"),
        ("left,right,choice\na,b,left\nb,b,left\n", "image beside itself: 1 cell: row 3"),
        ("winner,loser,votes\na,b,-1\n", "number of votes that is none: 1 cell: row 2"),
        ("image,other,rater,score\na,b,ann,1\nb,b,ann,1\n", "image beside itself: 1 cell: row 3"),
        ("image,other,rater,score\na,b,ann,0.3\n", "score of a pair that is none of 0, 0.5, 1: 1 cell: row 2 is 0.3"),
        ("image,ann,bob,Mean\na.png,5,4,4.5\n", "column that sums up raters: leave it out: 1 cell: 'Mean'"),
    ],
)
def test_what_is_refused_and_why(text: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, text)


def test_other_columns_of_a_long_form_are_left_out_with_a_warning(tmp_path: Path) -> None:
    votes = LONG.replace("score", "score,country").replace("\n", ",x\n").replace("country,x", "country")
    done = run(file(tmp_path, votes), "--method", "mean")
    assert done.exit_code == 0
    assert "columns that are not read: 'country'" in done.stderr


def test_empty_cells_of_rows_are_images_that_a_rater_did_not_see() -> None:
    rows = csv.DictReader(["image,ann,bob", "a.png,5,4", "b.png,3,"])
    assert [row["votes"] for row in aigciqa.mean_opinion_scores(rows, method="mean").rows] == [2, 1]


def test_cells_that_pandas_calls_nan_are_empty() -> None:
    nan = math.nan
    rows = [{"image": name, "rater": "ann", "score": 3, "prompt": nan} for name in ("a.png", "b.png")]
    found = aigciqa.mean_opinion_scores(rows, method="mean")
    assert list(found.rows[0]) == ["image", "quality", "quality_std", "quality_low", "quality_high", "votes"]
    wide = [{"image": "a.png", "ann": np.int64(3), "bob": np.float32(nan)}, {"image": "b.png", "bob": np.float32(5)}]
    assert [(vote.rater, vote.score) for vote in read_votes(wide).votes] == [("ann", 3), ("bob", 5)]
    with pytest.raises(
        InputError, match=r"empty 'rater': 1 cell: row 3\n- vote without a number: 1 cell: row 3 is empty"
    ):
        read_votes([*rows, {"image": "c.png", "rater": nan, "score": nan}])


def test_an_image_without_a_vote_on_each_question_is_named() -> None:
    asked = {"a.png": ("quality", "mood"), "b.png": ("quality",)}
    votes = [{"image": name, "rater": "ann", "score": 3, "question": each} for name in asked for each in asked[name]]
    found = aigciqa.mean_opinion_scores(votes, method="mean")
    assert math.isnan(found.rows[1]["mood"])
    assert found.notes == ("1 image without a score for every question, which train and evaluate refuse: b.png",)


def test_two_questions_do_not_share_a_column() -> None:
    rows = [{"image": "a.png", "rater": "ann", "score": 3, "question": name} for name in ("fun", "fun_std")]
    with pytest.raises(InputError, match="can't be called 'fun_std'"):
        aigciqa.mean_opinion_scores(rows, method="mean")


def test_a_rater_has_one_vote_on_an_image(tmp_path: Path) -> None:
    found = aigciqa.mean_opinion_scores(file(tmp_path, f"{LONG}a.png,bob,2\nb.png,ann,3\n"), method="mean")
    assert found.rows[0]["quality"] == 4  # of 5 and the mean of 4 and 2
    assert found.rows[1]["quality"] == 2
    assert "quality: 2 votes of a rater on an image again: one vote each, the mean; 1 differed" in found.notes


def noisy(images: int = 12, raters: int = 8) -> list[dict[str, Any]]:
    """Votes of raters, of whom `r0` clicks 4, and `r1` has the scale the other way round."""
    rng = np.random.default_rng(0)
    votes = np.clip(np.round(np.linspace(1.5, 4.5, images)[:, None] + rng.normal(0, 0.6, (images, raters))), 1, 5)
    votes[:, 0], votes[:, 1] = 4, 6 - votes[:, 1]
    return [
        {"image": f"{image}.png", "rater": f"r{rater}", "score": votes[image, rater]}
        for image in range(images)
        for rater in range(raters)
    ]


def test_the_table_of_raters(tmp_path: Path) -> None:
    found = aigciqa.mean_opinion_scores(noisy())
    clicker, reverse, honest = found.raters[:3]
    assert (clicker["rejected"], clicker["why"], clicker["votes"]) == ("yes", "one value in all 12 votes", 12)
    assert math.isnan(clicker["bias"])
    assert (reverse["rejected"], reverse["correlation"] < 0) == ("no", True)
    assert "the other way round" in reverse["why"]
    assert (honest["rejected"], honest["why"]) == ("no", "")
    assert honest["inconsistency"] < reverse["inconsistency"]
    assert [row["votes"] for row in found.rows] == [7] * 12
    assert "quality: 1 of 8 raters rejected" in found.notes
    found.write_raters(tmp_path / "raters.csv")
    written = rows_of(tmp_path / "raters.csv")
    names = ["question", "rater", "votes", "bias", "inconsistency", "correlation", "rejected", "why"]
    assert list(written[0]) == names
    assert written[0]["bias"] == ""
    mostly = [row | {"score": 5.0} if row["rater"] == "r2" and row["image"] != "3.png" else row for row in noisy()]
    odd = next(row for row in aigciqa.mean_opinion_scores(mostly).raters if row["rater"] == "r2")
    assert (odd["rejected"], odd["why"]) == ("no", "one value in 11 of 12 votes")


def test_the_command_writes_what_the_other_commands_read(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "prompt.png"):
        Image.fromarray(draw(64, 64)).save(tmp_path / name)
    votes = LONG.replace("score", "score,reference,generator").replace("\n", ",prompt.png,net\n")
    votes = votes.replace("generator,prompt.png,net", "generator").replace("\nb.png,bob,1", "\nb.png,bob,2")
    path, output, raters = file(tmp_path, votes), tmp_path / "out" / "ratings.csv", tmp_path / "raters.csv"
    done = run(path, "-o", output, "--raters", raters)
    assert done.exit_code == 0, done.output
    assert "Agreement of the raters" in done.stdout
    assert "Opinion scores" not in done.stdout
    rows = rows_of(output)
    scores = ["quality", "quality_std", "quality_low", "quality_high", "votes"]
    assert list(rows[0]) == ["image", "reference", "generator", *scores]
    assert rows[0]["image"] == "../a.png"
    assert [row["rater"] for row in rows_of(raters)] == ["ann", "bob"]
    database = load_database("folder", output.parent)
    assert [Path(sample.image).resolve() for sample in database.samples] == [tmp_path / f"{name}.png" for name in "abc"]
    assert database.samples[0].reference is not None
    assert database.samples[0].generator == "net"
    assert dict(database.samples[0].scores) == {"quality": float(rows[0]["quality"])}
    evaluated = CliRunner().invoke(main, ["evaluate", "folder", str(output.parent), "-m", "nr-lite", "--part", "all"])
    assert evaluated.exit_code == 0, evaluated.output
    assert run(path, "-o", output, "--quiet").stdout == ""


@pytest.mark.filterwarnings("error")
def test_a_question_of_ones_own_needs_no_name_to_be_read(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(draw(64, 64)).save(tmp_path / name)
    assert run(file(tmp_path, LONG), "-q", "beauty", "--method", "mean", "-o", tmp_path / "manifest.csv").exit_code == 0
    assert load_database("folder", tmp_path).dimensions == ("beauty",)


def test_without_output_the_scores_are_printed(tmp_path: Path) -> None:
    done = run(file(tmp_path, LONG), "--method", "mean")
    assert "4.500 [−1.853, 10.853]      2\n" in done.stdout
    assert done.exit_code == 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_orders_the_images(method: str) -> None:
    rows = aigciqa.mean_opinion_scores(noisy(), method=method).rows
    scores = [row["quality"] for row in rows]
    assert np.corrcoef(scores, np.arange(12))[0, 1] > 0.9
    assert all(row["quality_low"] <= row["quality"] <= row["quality_high"] for row in rows)


def test_the_command_has_the_methods() -> None:
    assert tuple(METHODS) == mos._METHODS
    with pytest.raises(InputError, match="unknown method 'median'; expected one of p910, bt500"):
        aigciqa.mean_opinion_scores(noisy(), method="median")


def test_what_one_should_know_is_said() -> None:
    apart = [row | {"image": f"{row['rater'] in ('r2', 'r3')}{row['image']}"} for row in noisy()]
    assert any("fall into 2 parts" in note for note in aigciqa.mean_opinion_scores(apart).notes)
    subsets = [row for row in noisy() if (row["rater"], row["image"]) != ("r3", "0.png")]
    assert any("saw different images" in note for note in aigciqa.mean_opinion_scores(subsets, method="zscore").notes)
    lonely = [*noisy(), {"image": "z.png", "rater": "once", "score": 3}]
    found = aigciqa.mean_opinion_scores(lonely)
    assert "quality: 1 image left out, on which only rejected raters voted: z.png" in found.notes
    assert len(found.rows) == 12


PAIRS = """left,right,choice,rater
net/1.png,web/1.png,left,ann
net/1.png,web/1.png,left,bob
web/1.png,net/1.png,same,cyd
web/2.png,net/2.png,left,ann
net/2.png,web/2.png,left,bob
net/2.png,web/2.png,left,cyd
"""


def test_pairs_become_strengths(tmp_path: Path) -> None:
    counted = "winner,loser,votes\na.png,b.png,30\nb.png,a.png,10\n"
    found = aigciqa.mean_opinion_scores(file(tmp_path, counted))
    assert found.method == "bradley-terry"
    assert [row["quality"] for row in found.rows] == pytest.approx([math.log(3) / 2, -math.log(3) / 2])
    assert [row["votes"] for row in found.rows] == [40, 40]
    error = found.rows[0]["quality_std"] / math.sqrt(40)
    assert found.rows[0]["quality_high"] - found.rows[0]["quality"] == pytest.approx(1.959964 * error)
    listed = aigciqa.mean_opinion_scores(file(tmp_path, PAIRS))
    assert [row["image"] for row in listed.rows] == ["net/1.png", "web/1.png", "web/2.png", "net/2.png"]
    assert [row["rater"] for row in listed.raters] == ["ann", "bob", "cyd"]
    assert any("fall into 2 parts" in note for note in listed.notes)
    assert listed.agreement[0].alpha == pytest.approx(1 / 12)


def test_both_images_of_a_pair_have_its_prompts(tmp_path: Path) -> None:
    """One that is always the other of its pair as well; in the study itself and in its export."""
    study = tmp_path / "study.db"
    pairs = [("a.png", "b.png"), ("a.png", "c.png"), ("b.png", "c.png")]
    listed = [Entry(image, other, reference="cat.png", prompt="a cat") for image, other in pairs]
    with create_study(study, listed, StudySettings(method="pairs")) as made:
        rater = made.invite().id
        for number in range(3):
            step = made.step(rater)
            made.vote(rater, f"key-of-{number}", step.slot or 0, step.question or "", number / 2)
    export = tmp_path / "votes.csv"
    export.write_bytes(b"".join(votes_csv(study)))
    for source in (study, export):
        rows = aigciqa.mean_opinion_scores(source).rows
        assert {(row["image"], row["reference"], row["prompt"]) for row in rows} == {
            (name, "cat.png", "a cat") for name in ("a.png", "b.png", "c.png")
        }


def test_pairs_rank_groups(tmp_path: Path) -> None:
    path = file(tmp_path, PAIRS)
    done = run(path, "--by", "parent", "-o", tmp_path / "ranking.csv")
    assert done.exit_code == 0, done.output
    net, web = rows_of(tmp_path / "ranking.csv")
    assert (net["group"], web["group"]) == ("net", "web")
    assert float(net["quality"]) > 0 > float(web["quality"])
    assert net["votes"] == "6"
    assert float(net["quality_low"]) < float(net["quality"])
    assert "puts all images that were compared into one group" in run(path, "--by", "png").stderr
    assert "Error: --by '(': expected parent or a regular expression: missing )" in run(path, "--by", "(").stderr
    assert "by is for votes on pairs" in run(file(tmp_path, LONG), "--by", "parent").stderr


def test_whoever_chose_is_not_rejected_for_the_winners_being_listed_first(tmp_path: Path) -> None:
    rows = [f"{winner}.png,{loser}.png,ann" for winner in range(5) for loser in range(winner + 1, 5)]
    found = aigciqa.mean_opinion_scores(file(tmp_path, "\n".join(["winner,loser,rater", *rows, "4.png,0.png,bob"])))
    assert [(row["rater"], row["votes"], row["rejected"]) for row in found.raters] == [
        ("ann", 10, "no"),
        ("bob", 1, "no"),
    ]


def test_a_rater_to_whom_all_pairs_are_the_same_is_rejected() -> None:
    rng = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(6)]
    pairs = [rng.permutation(names)[:2] for _ in range(40)]
    votes = [
        {"left": left, "right": right, "rater": rater, "choice": "same" if rater == "idle" else choice}
        for left, right in pairs
        for choice in ["left" if left < right else "right"]
        for rater in ("ann", "bob", "idle")
    ]
    found = aigciqa.mean_opinion_scores(votes)
    nobody = [{"left": left, "right": right, "choice": "same"} for left, right in pairs]
    undecided = aigciqa.mean_opinion_scores(nobody)
    assert [row["quality"] for row in undecided.rows] == pytest.approx([0] * 6)
    assert "none was chosen over another: so that scores are finite" in undecided.notes[0]
    assert [row["rejected"] for row in found.raters] == ["no", "no", "yes"]
    assert found.raters[2]["why"] == "the same of all 40 pairs"
    scores = {row["image"]: row["quality"] for row in found.rows}
    assert sorted(scores, key=scores.__getitem__, reverse=True) == names


def test_what_only_rejected_raters_compared_is_left_out_and_is_no_part() -> None:
    votes = [{"left": f"{n}.png", "right": "x.png", "choice": "same", "rater": "idle"} for n in range(10)]
    votes += [{"left": "a.png", "right": "b.png", "choice": way, "rater": "ann"} for way in ("left", "left", "right")]
    found = aigciqa.mean_opinion_scores(votes)
    assert {row["image"]: row["votes"] for row in found.rows} == {"a.png": 3, "b.png": 3}
    assert found.notes == (
        "quality: 1 of 2 raters rejected",
        "quality: 11 images left out, on which only rejected raters voted: 0.png, x.png, 1.png, 2.png, 3.png and "
        "6 more",
    )
    assert (found.agreement[0].images, found.agreement[0].votes) == (2, 3)


def test_a_group_that_is_compared_with_no_other_is_named() -> None:
    pairs = [("a/1.png", "b/1.png"), ("b/1.png", "a/1.png"), ("c/1.png", "c/2.png"), ("c/2.png", "c/1.png")]
    found = aigciqa.mean_opinion_scores([{"winner": one, "loser": two} for one, two in pairs], by="parent")
    assert [row["group"] for row in found.rows] == ["a", "b"]
    assert found.notes == ("quality: 1 group left out, compared with no other: c",)


def test_usage_errors(tmp_path: Path) -> None:
    path, pairs = file(tmp_path, LONG), file(tmp_path, "winner,loser\na,b\nb,a\n", "pairs.csv")
    for arguments, words in (
        ((tmp_path / "none.csv",), "no such file"),
        ((file(tmp_path, "", "votes.txt"),), "votes are in a file that ends in one of .csv"),
        ((path, "-o", path), "would overwrite"),
        ((path, "-o", tmp_path / "ratings.json"), "name a file that ends in .csv"),
        ((path, "-o", tmp_path / "x.csv", "--raters", tmp_path / "x.csv"), "name the same file"),
        ((path, "--scale", "1", "4"), "off the scale 1 to 4"),
        ((path, "--scale", "5", "1"), "from its lowest vote to its highest"),
        ((pairs, "--raters", tmp_path / "r.csv", "-o", tmp_path / "x.csv"), "no table of raters"),
        ((path, "-q", "votes"), "a question can't be called 'votes'"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2, words
        assert words in done.stderr
        assert not (tmp_path / "x.csv").exists()
