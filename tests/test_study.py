"""The study's file: votes once and for good, orders, repeats and gold, tallies that equal the votes, versions."""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import os
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigciqa.errors import InputError, OutputExistsError
from aigciqa.evaluation.study import (
    Entry,
    Question,
    Study,
    StudySettings,
    create_study,
    is_study,
    open_study,
    read_votes,
    schema,
)
from aigciqa.evaluation.study import votes as votes_module
from aigciqa.evaluation.study.progress import Count, items, mean, overview
from aigciqa.evaluation.study.settings import paper_question
from aigciqa.evaluation.study.steps import Step
from aigciqa.evaluation.study.votes import votes_csv

KEYS = (f"key-{number:08}" for number in itertools.count())
PAIRS = StudySettings(method="pairs")
TWO = (Question("quality", "How good?"), Question("mood", "How happy?"))


def entries(count: int, **cells: Any) -> list[Entry]:
    return [Entry(f"{number}.png", **cells) for number in range(count)]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = schema.connect

    def fast(path: Any, *, write: bool) -> sqlite3.Connection:
        connection = connect(path, write=write)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    monkeypatch.setattr(schema, "connect", fast)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Study]]:
    """Makes studies, which are closed in the end."""
    made: list[Study] = []

    def study(listed: list[Entry] | int = 3, **values: Any) -> Study:
        listed = entries(listed) if isinstance(listed, int) else listed
        made.append(create_study(tmp_path / f"{len(made)}.db", listed, StudySettings(**values)))
        return made[-1]

    yield study
    for each in made:
        each.close()


def rate_all(study: Study, rater: int, answer: Callable[[Step], float] = lambda step: 3) -> list[Step]:
    """Votes until nothing is left; returns the steps."""
    step, steps = study.step(rater), []
    while step.status == "rate":
        assert step.slot is not None
        assert step.question is not None
        steps.append(step)
        recorded, step = study.vote(rater, next(KEYS), step.slot, step.question, answer(step), 2.0)
        assert recorded
    return steps


def vote(study: Study, rater: int, score: float = 3, key: str | None = None, seconds: float = 2.0) -> Step:
    """One vote on what is shown; returns what was shown."""
    step = study.step(rater)
    recorded, _ = study.vote(rater, key or next(KEYS), step.slot or 0, step.question or "", score, seconds)
    assert recorded
    return step


def scores(study: Study) -> list[float]:
    return [each.score for each in read_votes(study.path)]


def tallied(study: Study) -> dict[tuple[int, str], tuple[int, float, float]]:
    with study.reading() as database:
        rows = database.execute("SELECT item, question, votes, total, squares FROM item_tally WHERE votes > 0")
        return {(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}


def test_each_rater_sees_each_image_once_in_an_order_of_its_own(make: Callable[..., Study]) -> None:
    study = make(30)
    orders = [[step.pictures for step in rate_all(study, study.invite().id)] for _ in range(3)]
    assert all(sorted(order) == [(number,) for number in range(1, 31)] for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert len(scores(study)) == 90


def test_a_vote_that_is_sent_again_counts_once(make: Callable[..., Study]) -> None:
    study = make()
    rater = study.invite().id
    step = study.step(rater)
    first = study.vote(rater, "the-same-key", step.slot or 0, "quality", 4)
    again = study.vote(rater, "the-same-key", step.slot or 0, "quality", 4)
    assert first == again
    assert first[0]
    assert scores(study) == [4]


def test_of_two_tabs_the_later_vote_is_not_recorded_and_shows_what_comes_next(make: Callable[..., Study]) -> None:
    study = make()
    rater = study.invite().id
    step = study.step(rater)
    recorded, after = study.vote(rater, next(KEYS), step.slot or 0, "quality", 4)
    other, same = study.vote(rater, next(KEYS), step.slot or 0, "quality", 1)
    assert (recorded, other) == (True, False)
    assert same == after
    assert scores(study) == [4]


@pytest.mark.parametrize("score", [None, 0, 6, 2.5, math.nan, math.inf, "3", True, [3]])
def test_a_vote_without_a_choice_is_refused(make: Callable[..., Study], score: Any) -> None:
    study = make()
    rater = study.invite().id
    step = study.step(rater)
    with pytest.raises(InputError, match="no choice of this study"):
        study.vote(rater, next(KEYS), step.slot or 0, "quality", score)
    assert scores(study) == []
    assert study.step(rater) == step


def test_another_raters_key_and_a_key_of_another_kind_are_refused(make: Callable[..., Study]) -> None:
    study = make()
    one, two = study.invite().id, study.invite().id
    vote(study, one, key="one-and-only")
    with pytest.raises(InputError, match="another vote's"):
        vote(study, two, key="one-and-only")
    with pytest.raises(InputError, match="another vote's"):
        study.undo(one, "one-and-only")
    with pytest.raises(InputError, match="at least 8 characters"):
        vote(study, one, key="short")


def test_undo_is_a_new_row_and_goes_back_step_by_step(make: Callable[..., Study]) -> None:
    study = make(3, questions=TWO)
    rater = study.invite().id
    steps = [vote(study, rater, score) for score in (1, 2, 3)]
    for step in reversed(steps):
        recorded, now = study.undo(rater, next(KEYS))
        assert recorded
        assert (now.slot, now.question, now.pictures) == (step.slot, step.question, step.pictures)
    assert study.undo(rater, next(KEYS))[0] is False
    assert scores(study) == []
    assert tallied(study) == {}
    with study.reading() as database:
        assert database.execute("SELECT COUNT(*), SUM(sign) FROM votes").fetchone()[:] == (6, 0)
        assert database.execute("SELECT SUM(done) FROM items").fetchone()[0] == 0
    vote(study, rater, 5)
    assert scores(study) == [5]


def test_an_undo_that_is_sent_again_takes_back_one_vote(make: Callable[..., Study]) -> None:
    study = make()
    rater = study.invite().id
    vote(study, rater, 1)
    vote(study, rater, 2)
    assert study.undo(rater, "undo-once")[0]
    assert study.undo(rater, "undo-once")[0]
    assert scores(study) == [1]


def test_votes_are_never_changed(make: Callable[..., Study]) -> None:
    study = make()
    vote(study, study.invite().id)
    with (
        sqlite3.connect(study.path) as database,
        pytest.raises(sqlite3.IntegrityError, match="votes are never changed"),
    ):
        database.execute("UPDATE votes SET score = 5")


def test_a_skipped_image_has_a_reason_no_score_and_can_be_taken_back(make: Callable[..., Study]) -> None:
    study = make(2)
    rater = study.invite().id
    step = study.step(rater)
    recorded, after = study.skip(rater, next(KEYS), step.slot or 0, "can't judge it")
    assert recorded
    assert (after.slot, after.finished) != (step.slot, 0)
    assert scores(study) == []
    with study.reading() as database:
        assert database.execute("SELECT reason, score FROM votes").fetchone()[:] == ("can't judge it", None)
    assert study.undo(rater, next(KEYS))[1].slot == step.slot
    assert len(rate_all(study, rater)) == 2


def test_training_comes_first_and_does_not_count(make: Callable[..., Study]) -> None:
    study = make([*entries(3), Entry("t1.png", kind="training"), Entry("t2.png", kind="training")])
    steps = rate_all(study, study.invite().id)
    assert [step.training for step in steps] == [True, True, False, False, False]
    assert [step.pictures for step in steps[:2]] == [(4,), (5,)]
    assert [(step.finished, step.total) for step in steps] == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert [step.notice for step in steps] == ["begin", None, "counts", None, None]
    kinds = collections.Counter(each.kind for each in read_votes(study.path))
    assert kinds == {"rated": 3, "training": 2}
    assert sum(votes for votes, _, _ in tallied(study).values()) == 3


def test_repeats_and_gold_images_come_in_between(make: Callable[..., Study]) -> None:
    golden = [Entry(f"g{number}.png", kind="gold", expected={"quality": 1}) for number in range(3)]
    study = make([*entries(40), *golden], repeats=3)
    rater = study.invite().id
    steps = rate_all(study, rater)
    assert len(steps) == steps[-1].total == 46
    seen = [step.pictures[0] for step in steps]
    again = [number for number, picture in enumerate(seen) if picture in seen[:number]]
    assert len(again) == 3
    assert all(number - seen.index(seen[number]) > 5 for number in again)
    gold = [number for number, picture in enumerate(seen) if picture > 40]
    assert len(gold) == 3
    assert max(again + gold) < 42  # not all in the end
    kinds = collections.Counter(each.kind for each in read_votes(study.path))
    assert kinds == {"rated": 40, "repeat": 3, "gold": 3}


@pytest.mark.parametrize("repeats", [2, 5])
def test_a_small_study_has_its_repeats_as_well(make: Callable[..., Study], repeats: int) -> None:
    study = make(3, repeats=repeats)
    steps = rate_all(study, study.invite().id)
    seen = [step.pictures for step in steps]
    assert collections.Counter(collections.Counter(seen).values())[2] in (2, 3)
    assert all(one != next_one for one, next_one in itertools.pairwise(seen))


def test_the_least_voted_come_first_and_none_beyond_what_is_asked(make: Callable[..., Study]) -> None:
    study = make(10, votes_per_image=2)
    raters = [study.invite().id for _ in range(4)]
    for _ in range(5):
        vote(study, raters[0])
    first = {each.image for each in read_votes(study.path)}
    for _ in range(3):  # of the five nobody has rated, two are before the first rater, now and next
        vote(study, raters[1])
    second = [each.image for each in read_votes(study.path) if each.rater == "r2"]
    assert not first & set(second)
    for rater in raters:
        rate_all(study, rater)
    votes = collections.Counter(each.image for each in read_votes(study.path))
    assert set(votes.values()) == {2}
    assert len(votes) == 10
    assert study.step(study.invite().id).status == "done"


def test_an_image_that_somebody_left_open_is_given_to_others_in_the_end(
    make: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(2, votes_per_image=1)
    study.step(study.invite().id)  # is shown the one, the other loaded ahead, and never comes back
    other = study.invite().id
    assert study.step(other).status == "done"
    monkeypatch.setattr("aigciqa.evaluation.study.sessions.HELD_SECONDS", -1.0)
    assert len(rate_all(study, other)) == 2


def test_what_was_left_open_and_has_its_votes_is_not_shown_again(
    make: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(4, votes_per_image=1)
    away = study.invite().id
    vote(study, away)
    study.undo(away, next(KEYS))
    study.step(away)  # the first has an undone vote, which stays; the second was loaded ahead
    monkeypatch.setattr("aigciqa.evaluation.study.sessions.HELD_SECONDS", -1.0)
    rate_all(study, study.invite().id)
    assert len(rate_all(study, away)) == 1
    votes = collections.Counter(each.image for each in read_votes(study.path))
    assert sorted(votes.values()) == [1, 1, 1, 2]


def test_images_per_rater(make: Callable[..., Study]) -> None:
    study = make(20, images_per_rater=4, repeats=1)
    assert len(rate_all(study, study.invite().id)) == 5


def test_breaks(make: Callable[..., Study]) -> None:
    study = make(7, break_every=3)
    notices = [step.notice for step in rate_all(study, study.invite().id)]
    assert notices == ["begin", None, None, "break", None, None, "break"]
    study = make(7, break_every=0)
    assert [step.notice for step in rate_all(study, study.invite().id)].count("break") == 0


def test_questions_follow_each_other_and_the_prompt_is_shown_where_it_is_needed(make: Callable[..., Study]) -> None:
    prompted = Question("correspondence", "Does it match?", with_prompt=True)
    study = make(
        [Entry("a.png", reference="p.png", prompt="a cat")], questions=(Question("quality", "How good?"), prompted)
    )
    steps = rate_all(study, study.invite().id)
    assert [(step.question, step.reference, step.prompt) for step in steps] == [
        ("quality", None, None),
        ("correspondence", 2, "a cat"),
    ]
    assert 2 in steps[0].upcoming  # the image prompt is loaded ahead


def test_pairs_are_scored_by_image_whichever_side_it_is_on(make: Callable[..., Study]) -> None:
    study = make([Entry(f"{n}-a.png", other=f"{n}-b.png") for n in range(20)], method="pairs")
    steps = rate_all(study, study.invite().id, lambda step: 1.0)  # always the left one
    lefts = [step.pictures[0] for step in steps]
    names = dict(enumerate(_names(study), 1))
    votes = list(read_votes(study.path))
    assert {each.score for each in votes} == {0.0, 1.0}  # sides are drawn
    for left, each in zip(lefts, votes, strict=True):
        assert names[left] == (each.image if each.score == 1.0 else each.other)


def _names(study: Study) -> list[str]:
    with study.reading() as database:
        return [os.fsdecode(row[0]) for row in database.execute("SELECT name FROM pictures ORDER BY id")]


def test_a_closed_study_takes_no_votes(make: Callable[..., Study]) -> None:
    study = make()
    rater = study.invite().id
    step = vote(study, rater)
    study.set_closed(True)
    assert study.step(rater).status == "closed"
    assert study.vote(rater, next(KEYS), step.slot or 0, "quality", 3)[0] is False
    assert study.undo(rater, next(KEYS))[0] is False
    study.set_closed(False)
    assert len(rate_all(study, rater)) == 2


def test_a_deleted_rater_leaves_no_trace(make: Callable[..., Study]) -> None:
    study = make(12, repeats=2, questions=TWO)
    kept, gone = study.invite("Kept"), study.invite("Gone-Away")
    for rater in (kept, gone):
        rate_all(study, rater.id, lambda step: 1 + (step.slot or 0) % 5)
        study.undo(rater.id, next(KEYS))
    before = [each for each in read_votes(study.path) if each.rater == kept.name]
    study.delete_rater(gone.id)
    assert list(read_votes(study.path)) == before
    assert [rater.id for rater in study.raters()] == [kept.id]
    assert sum(votes for votes, _, _ in tallied(study).values()) == sum(each.kind == "rated" for each in before)
    study.close()
    assert b"Gone-Away" not in Path(study.path).read_bytes()
    assert gone.secret.encode() not in Path(study.path).read_bytes()
    with open_study(study.path) as again:
        assert again.invite().id > gone.id  # nobody else gets that name
        with pytest.raises(InputError, match="no rater r99"):
            again.delete_rater(99)


def test_votes_may_be_read_by_one_thread_after_another(make: Callable[..., Study]) -> None:
    """As the server does while it answers others, too."""
    study = make(3)
    rate_all(study, study.invite().id, lambda step: 3)
    lines = votes_csv(study.path)
    with ThreadPoolExecutor() as one, ThreadPoolExecutor() as other:
        found = [worker.submit(next, lines, None).result() for worker in (one, other) * 3]
    assert [line is not None for line in found] == [True] * 4 + [False] * 2


def test_no_deletion_waits_for_who_reads_the_votes(make: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes_module, "_PART", 2)
    study = make(5)
    gone = study.invite("Gone-Away")
    rate_all(study, gone.id, lambda step: 3)
    assert [each.score for each in read_votes(study.path)] == [3] * 5
    monkeypatch.setattr(schema, "WAIT_SECONDS", 0.1)
    with open_study(study.path) as other:
        reading = read_votes(study.path)
        next(reading)
        other.delete_rater(gone.id)
        wal = Path(f"{study.path}-wal")
        assert b"Gone-Away" not in Path(study.path).read_bytes() + wal.read_bytes()
        assert len(list(reading)) == 1  # what was read already


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(["vote", "skip", "undo", "again"]), max_size=40), st.integers(1, 3))
def test_whatever_raters_do_tallies_equal_the_votes(
    tmp_path_factory: pytest.TempPathFactory, acts: list[str], raters: int
) -> None:
    listed = [*entries(4), Entry("g.png", kind="gold", expected={"quality": 2})]
    path = tmp_path_factory.mktemp("study") / "study.db"
    with create_study(path, listed, StudySettings(repeats=1, votes_per_image=2, questions=TWO)) as study:
        ids = [study.invite().id for _ in range(raters)]
        key = next(KEYS)
        for number, act in enumerate(acts):
            rater = ids[number % raters]
            step = study.step(rater)
            if act == "undo":
                study.undo(rater, next(KEYS))
            elif step.status == "rate" and step.slot is not None and step.question is not None:
                if act == "skip":
                    study.skip(rater, next(KEYS), step.slot, "")
                elif act == "vote" or number % raters:
                    key = next(KEYS)
                    study.vote(rater, key, step.slot, step.question, 1 + number % 5)
        held: collections.defaultdict[tuple[str, str], list[float]] = collections.defaultdict(list)
        seen = collections.Counter((each.rater, each.image, each.question, each.kind) for each in read_votes(path))
        assert set(seen.values()) <= {1}  # each at most once
        for each in read_votes(path):
            if each.kind == "rated":
                held[each.image, each.question].append(each.score)
        names = _names(study)
        assert {(names[item - 1], question): row for (item, question), row in tallied(study).items()} == {
            key: (len(each), sum(each), sum(score**2 for score in each)) for key, each in held.items()
        }


def test_progress_and_flags(make: Callable[..., Study]) -> None:
    golden = [Entry(f"g{number}.png", kind="gold", expected={"quality": 1}) for number in range(3)]
    study = make([*entries(12), *golden], repeats=4)
    fair, same, fast, wild = (study.invite(name).id for name in ("fair", "same", "fast", "wild"))
    rate_all(study, fair, lambda step: 1 if step.pictures[0] > 12 else 1 + step.pictures[0] % 5)
    rate_all(study, same, lambda step: 3)
    seen: set[int] = set()

    def contradict(step: Step) -> float:
        again = step.pictures[0] in seen
        seen.add(step.pictures[0])
        return 5 if again else 1 + step.pictures[0] % 2

    rate_all(study, wild, contradict)
    while (step := study.step(fast)).status == "rate":
        assert step.slot is not None
        study.vote(fast, next(KEYS), step.slot, "quality", 1 + step.pictures[0] % 5 * (step.pictures[0] <= 12), 0.3)
    whole = overview(study)
    assert (whole.votes, whole.items, whole.complete) == (48, 12, 12)
    flags = {each.rater.label: each.flags for each in whole.raters}
    assert flags["fair"] == []
    assert flags["same"] == ["clicks one value", "misses gold pictures"]
    assert flags["fast"] == ["too fast"]
    assert flags["wild"] == ["contradicts own votes"]
    by_name = {each.rater.label: each for each in whole.raters}
    assert by_name["same"].same == Count(12, 12)
    assert by_name["same"].missed == Count(3, 3)
    assert by_name["wild"].contradictions == Count(4, 4)
    assert by_name["fast"].quick == Count(12, 12)
    assert by_name["fair"].finished == 19


def test_scores_so_far(make: Callable[..., Study]) -> None:
    study = make(2)
    one, two, three = (study.invite().id for _ in range(3))
    for rater, good in ((one, 5), (two, 4), (three, 3)):
        rate_all(study, rater, lambda step, good=good: good if step.pictures == (1,) else 1)  # type: ignore[misc]
    best = items(study, "quality", "best", 0)
    assert [each.image for each in best] == ["0.png", "1.png"]
    assert [each.image for each in items(study, "quality", "worst", 0)] == ["1.png", "0.png"]
    assert [each.image for each in items(study, "quality", "unsure", 0)] == ["0.png", "1.png"]
    first = best[0].means["quality"]
    assert (first.votes, first.value) == (3, 4.0)
    half = 4.302653 / math.sqrt(3)  # Student's t of 2 degrees of freedom
    assert first.low == pytest.approx(4 - half, abs=1e-5)
    assert first.high == 5.0  # not beyond the scale
    assert mean(1, 3, 9, (1, 5)).value == 3
    assert math.isnan(mean(1, 3, 9, (1, 5)).low)
    assert items(study, "quality", "votes", 1) == []


def test_the_widest_interval_is_that_of_fewer_votes_though_others_differ_more(make: Callable[..., Study]) -> None:
    """3 and 4: 3.5 +- 12.706 * 0.5; 1, 5, 1, 5: 3 +- 3.182 * 1.155."""
    study = make(2, images_per_rater=1)
    grades = iter((1, 5, 1, 5))
    raters = [study.invite().id for _ in range(20)]
    seen = {rater: study.step(rater).pictures[0] for rater in raters}
    for rater in [each for each in raters if seen[each] == 1][:4]:
        rate_all(study, rater, lambda step: next(grades))
    for rater, grade in zip([each for each in raters if seen[each] == 2], (3, 4), strict=False):
        rate_all(study, rater, lambda step, grade=grade: grade)  # type: ignore[misc]
    assert [each.image for each in items(study, "quality", "unsure", 0)] == ["1.png", "0.png"]


def test_the_file_is_the_owners_and_goes_on(make: Callable[..., Study]) -> None:
    study = make(2, votes_per_image=3, instructions="Look.", questions=TWO)
    if sys.platform != "win32":
        assert stat.S_IMODE(os.stat(study.path).st_mode) == 0o600
    rater = study.invite("me")
    vote(study, rater.id)
    study.close()
    with open_study(study.path) as again:
        assert again.settings == study.settings
        assert again.rater(rater.secret) == rater
        assert again.rater("guess") is None
        assert again.step(rater.id).question == "mood"


def test_names_that_are_no_text_and_hostile_ones_survive(make: Callable[..., Study]) -> None:
    names = ["<script>alert(1)</script>.png", "a\nb.png", 'it\'s "quoted".png', os.fsdecode(b"\xff\xfe.png")]
    study = make([Entry(name, prompt="half a pair: \ud800, NUL: \0") for name in names])
    rate_all(study, study.invite().id)
    assert sorted(each.image for each in read_votes(study.path)) == sorted(names)


def test_what_is_no_study_or_of_another_version_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with pytest.raises(InputError, match="no such study"):
        open_study(path)
    for content in (b"", b"image,score\n", b"SQLite format 3\0" + bytes(100)):
        path.write_bytes(content)
        for function in (open_study, lambda file: list(read_votes(file))):
            with pytest.raises(InputError, match="no study of aigciqa rate"):
                function(path)
        assert not is_study(path)
        with pytest.raises(OutputExistsError, match="is there already"):
            create_study(path, entries(1))
        assert path.read_bytes() == content
    path.unlink()
    left = tmp_path / "study.db-wal"
    left.write_bytes(b"votes")
    with pytest.raises(OutputExistsError, match="is left of a study that is gone"):
        create_study(path, entries(1))
    left.write_bytes(b"")  # as reading leaves it
    create_study(path, entries(1)).close()
    assert is_study(path)
    for version, why in ((2, "a newer aigciqa made it: update"), (0, "an older aigciqa made it")):
        with sqlite3.connect(path) as database:
            database.execute(f"PRAGMA user_version = {version}")
        database.close()
        before = path.read_bytes()
        with pytest.raises(InputError, match=why):
            open_study(path)
        with pytest.raises(InputError, match=f"version {version}, this aigciqa reads version 1"):
            next(read_votes(path))
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["study.db"]


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    create_study(path, entries(3)).close()
    content = path.read_bytes()
    for damaged in (content[:5000], content[:4096] + bytes(len(content) - 4096)):
        path.write_bytes(damaged)
        for function in (open_study, lambda file: list(read_votes(file)), lambda file: list(votes_csv(file))):
            with pytest.raises(InputError, match=r"study\.db' can't be used: "):
                function(path)


def test_a_study_that_another_program_holds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "WAIT_SECONDS", 0.01)
    path = tmp_path / "study.db"
    create_study(path, entries(1)).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match="can't be used: database is locked"):
            open_study(path)


def test_votes_are_read_where_nothing_can_be_written(
    make: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(2)
    rate_all(study, study.invite().id)
    study.close()
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may be allowed to write anywhere
    assert len(list(read_votes(study.path))) == 2
    assert os.listdir(tmp_path) == ["0.db"]


def test_a_study_that_moved_with_its_pictures_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    (before / "outputs").mkdir(parents=True)
    (before / "outputs/0.png").touch()
    monkeypatch.chdir(before)
    create_study("study.db", [Entry("outputs/0.png"), Entry("outputs/gone.png")]).close()
    monkeypatch.chdir(tmp_path)
    with open_study("before/study.db") as study:
        assert study.path_of(1) == str(before / "outputs/0.png")
    before.rename(after)
    with open_study("after/study.db") as study:
        assert study.path_of(1) == str(after / "outputs/0.png")
        assert study.path_of(2) == str(before / "outputs/gone.png")


@pytest.mark.parametrize(
    ("listed", "values", "why"),
    [
        ([], {}, "at least one image"),
        ([Entry("t.png", kind="training")], {}, "at least one image"),
        ([Entry("a.png", other="b.png")], {}, "takes single images"),
        ([Entry("a.png")], {"method": "pairs"}, "takes pairs"),
        ([Entry("a.png"), Entry("g.png", kind="gold", expected={"quality": 9})], {}, "from 1 to 5; got quality 9"),
        ([Entry("a.png"), Entry("g.png", kind="gold", expected={"mood": 3})], {}, "one of the questions"),
    ],
)
def test_what_makes_no_study(tmp_path: Path, listed: list[Entry], values: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        create_study(tmp_path / "study.db", listed, StudySettings(**values))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"method": "stars"}, "method is one of grades, slider, pairs"),
        ({"questions": ()}, "one question or more"),
        ({"questions": (TWO[0], TWO[0])}, "each of another name"),
        ({"questions": (TWO[0], Question("quality_std", "?"))}, "can't be called 'quality_std' beside 'quality'"),
        ({"labels": ("bad", "good")}, "labels are five"),
        ({"votes_per_image": 0}, "votes_per_image is a whole number from 1 to 1,000,000,000; got 0"),
        ({"votes_per_image": 10**23}, "votes_per_image is a whole number from 1 to"),
        ({"repeats": -1}, "repeats is a whole number from 0 to"),
        ({"size": 2.5}, "size is a whole number from 1 to"),
        ({"instructions": "x" * 20_001}, "at most 20,000 characters"),
    ],
)
def test_settings_that_are_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        StudySettings(**values)


@pytest.mark.parametrize(
    ("name", "text"),
    [("image", "?"), ("votes", "?"), ("two words", "?"), ("1st", "?"), ("mood", " "), ("mood", "\udcff")],
)
def test_questions_that_are_refused(name: str, text: str) -> None:
    with pytest.raises(InputError, match=r"called|needs a text|not UTF-8"):
        Question(name, text)


def test_questions_of_the_paper() -> None:
    asked = [paper_question(name, "grades") for name in ("quality", "authenticity", "correspondence")]
    assert [each is not None and each.with_prompt for each in asked] == [False, False, True]
    paired = paper_question("quality", "pairs")
    assert paired is not None
    assert paired.text == "Which picture is of better quality?"
    assert paper_question("aesthetics", "grades") is None


@pytest.mark.parametrize(
    ("method", "good", "bad"), [("slider", [0, 100, 33.5], [-1, 101, None]), ("pairs", [0, 0.5, 1], [0.4, 2, None])]
)
def test_choices(method: Any, good: list[float], bad: list[Any]) -> None:
    chosen = StudySettings(method=method)
    assert all(map(chosen.is_choice, good))
    assert not any(map(chosen.is_choice, bad))
