"""Statistics of groups of scores, against SciPy and against what can be said beforehand."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from aigciqa.stats.groups import Difference, Scores, differences, non_inferiority, summaries

PROMPTS = tuple(f"prompt {number}" for number in range(40))


def scored(shift: float, seed: int, prompts: tuple[str, ...] = PROMPTS, spread: float = 0.3) -> Scores:
    """One score a prompt: the prompt's own difficulty, `shift`, and noise."""
    difficulty = np.array([np.random.default_rng(sum(key.encode())).normal(3, 1) for key in prompts])
    return Scores(difficulty + shift + np.random.default_rng(seed).normal(0, spread, len(prompts)), prompts)


def test_summaries_are_sorted_and_their_figures_those_of_numpy() -> None:
    groups = {"worse": scored(0.0, 1), "empty": Scores(np.array([])), "better": scored(1.0, 2)}
    first, second, last = summaries(groups)
    assert (first.name, second.name, last.name) == ("better", "worse", "empty")
    values = groups["better"].values
    assert (first.n, first.mean, first.median, first.worst) == (40, values.mean(), np.median(values), values.min())
    assert first.low < first.mean < first.high
    assert last.n == 0
    assert all(math.isnan(value) for value in (last.mean, last.low, last.high, last.median, last.worst))


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).gamma(2, 1, 60)
    (found,) = summaries({"one": Scores(values)})
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.06 * width)


def test_the_interval_is_of_prompts_not_of_images() -> None:
    values = np.random.default_rng(0).normal(3, 1, 30)
    keys = tuple(f"{number}" for number in range(30))
    (single,) = summaries({"one": Scores(values, keys)})
    (repeated,) = summaries({"one": Scores(np.repeat(values, 10), tuple(np.repeat(keys, 10)))})
    (unknown,) = summaries({"one": Scores(np.repeat(values, 10))})
    assert repeated.n == 300
    assert repeated.mean == pytest.approx(single.mean)
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high))
    assert unknown.high - unknown.low == pytest.approx((single.high - single.low) / math.sqrt(10), rel=0.15)


def test_a_group_stands_alone_whatever_else_there_is_and_in_whatever_order() -> None:
    one = scored(0.0, 1)
    backwards = Scores(one.values[::-1], PROMPTS[::-1])
    alone = summaries({"one": one})
    beside = summaries({"other": scored(9.0, 2, PROMPTS[:7]), "one": backwards})
    assert (beside[1].low, beside[1].high) == pytest.approx((alone[0].low, alone[0].high))


def test_matched_differences_are_those_within_prompts() -> None:
    first, second = scored(0.2, 1), scored(0.0, 2)
    (found,) = differences({"first": first, "second": second})
    inside = first.values - second.values
    assert (found.first, found.second, found.n, found.matched) == ("first", "second", 40, True)
    assert found.difference == pytest.approx(inside.mean())
    assert found.win_rate == np.mean(inside > 0)
    assert found.p_value == pytest.approx(stats.ttest_rel(first.values, second.values).pvalue)
    low, high = stats.bootstrap((inside,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_matching_finds_what_the_prompts_hide() -> None:
    first, second = scored(0.2, 1), scored(0.0, 2)
    (matched,) = differences({"first": first, "second": second})
    (unmatched,) = differences({"first": Scores(first.values), "second": Scores(second.values)})
    assert matched.is_significant
    assert not unmatched.is_significant
    assert not unmatched.matched


def test_only_prompts_in_common_count_and_several_images_of_one_are_averaged() -> None:
    first = Scores(np.array([1.0, 3.0, 5.0, 100.0]), ("a", "a", "b", "only here"))
    second = Scores(np.array([2.0, 1.0, 4.0, -100.0]), ("a", "b", "b", "only there"))
    (found,) = differences({"first": first, "second": second})
    assert (found.n, found.matched) == (2, True)
    assert found.difference == pytest.approx(((2 - 2) + (5 - 2.5)) / 2)
    assert found.win_rate == 0.75


def test_unmatched_differences_are_welchs_test_and_the_probability_of_superiority() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(3.3, 1, 30), rng.normal(3, 0.5, 80).round(1)
    (found,) = differences({"first": Scores(first), "second": Scores(second)})
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert (found.n, found.matched) == (30, False)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.win_rate == pytest.approx(stats.mannwhitneyu(first, second).statistic / 30 / 80)
    low, high = stats.bootstrap(
        (first, second), lambda x, y, axis: x.mean(axis) - y.mean(axis), n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))


def test_one_prompt_in_common_is_no_match() -> None:
    first = Scores(np.array([1.0, 2.0, 3.0]), ("a", "b", "c"))
    second = Scores(np.array([1.0, 2.0, 3.0]), ("c", "d", "e"))
    (found,) = differences({"first": first, "second": second})
    assert not found.matched
    assert found.difference == 0
    assert found.p_value == 1


def test_unmatched_images_of_one_prompt_count_once() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(3.5, 1, 12), rng.normal(3, 1, 14)
    singles = {"first": Scores(first), "second": Scores(second)}
    repeated = {
        name: Scores(
            np.repeat(scores.values, 9), tuple(np.repeat([f"{name} {n}" for n in range(len(scores.values))], 9))
        )
        for name, scores in singles.items()
    }
    assert differences(repeated)[0].p_value == pytest.approx(differences(singles)[0].p_value)


def test_p_values_are_corrected_by_holm() -> None:
    groups = {
        name: scored(shift, seed) for seed, (name, shift) in enumerate(zip("abcd", (0, 0.1, 0.2, 0.25), strict=True))
    }
    found = differences(groups)
    assert [(each.first, each.second) for each in found] == list(itertools.combinations("abcd", 2))
    raw = np.array([stats.ttest_rel(groups[each.first].values, groups[each.second].values).pvalue for each in found])
    order = np.argsort(raw)
    expected = np.minimum(np.maximum.accumulate(raw[order] * np.arange(6, 0, -1)), 1)
    assert [found[index].p_value for index in order] == pytest.approx(list(expected))
    assert [each.is_significant for each in found] == [each.p_value < 0.05 for each in found]
    assert len({each.is_significant for each in found}) == 2


def test_a_baseline_is_compared_with_every_other_group() -> None:
    groups = {"a": scored(0, 1), "base": scored(0.1, 2), "c": scored(1, 3)}
    found = differences(groups, baseline="base")
    assert [(each.first, each.second) for each in found] == [("a", "base"), ("c", "base")]
    assert found[1].difference > 0
    with pytest.raises(ValueError, match=r"'bass' is none of the groups: a, base, c"):
        differences(groups, baseline="bass")


def test_margins_above_a_share_of_the_baseline() -> None:
    base, other = scored(0.0, 1), scored(-0.5, 2, PROMPTS[10:])
    found, unmatched = non_inferiority({"other": other, "base": base, "far": Scores(base.values)}, "base", 0.9)
    inside = other.values - 0.9 * base.values[10:]
    assert (found.name, found.n, found.matched) == ("other", 30, True)
    assert (found.mean, found.baseline_mean) == pytest.approx((other.values.mean(), base.values[10:].mean()))
    assert found.margin == pytest.approx(inside.mean())
    low, high = stats.bootstrap((inside,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))
    assert not unmatched.matched
    assert unmatched.margin == pytest.approx(0.1 * base.values.mean())
    (nothing,) = non_inferiority({"none": Scores(np.array([])), "base": base}, "base", 0.9)
    assert (nothing.n, math.isnan(nothing.mean), math.isnan(nothing.margin)) == (0, True, True)


def test_swapping_two_groups_turns_everything_round() -> None:
    first, second = scored(0.1, 1), scored(0.0, 2)
    (found,) = differences({"first": first, "second": second})
    (turned,) = differences({"second": second, "first": first})
    assert (turned.difference, turned.low, turned.high) == pytest.approx((-found.difference, -found.high, -found.low))
    assert turned.win_rate == pytest.approx(1 - found.win_rate)
    assert turned.p_value == pytest.approx(found.p_value)


def test_a_difference_is_turned_round() -> None:
    found = Difference("new", "old", 8, True, 0.5, 0.25, 1.0, 0.75, 0.01, True, pairs=16)
    turned = found.turned()
    assert turned == Difference("old", "new", 8, True, -0.5, -1.0, -0.25, 0.25, 0.01, True, pairs=16)
    assert turned.turned() == found


def test_twice_the_same_is_the_same() -> None:
    groups = {"a": scored(0, 1), "b": Scores(np.arange(9.0)), "c": scored(0.5, 2)}
    assert differences(groups) == differences(groups)
    assert summaries(groups) == summaries(groups)


def test_what_is_not_finite_was_not_scored() -> None:
    whole, holes = scored(0.3, 1), scored(0.0, 2)
    values = holes.values.copy()
    values[[3, 5]] = math.nan, math.inf
    (found,) = differences({"whole": whole, "holes": Scores(values, PROMPTS)})
    kept = np.isfinite(values)
    assert found.n == 38
    assert found.difference == pytest.approx((whole.values - values)[kept].mean())
    assert {each.name: each.n for each in summaries({"holes": Scores(values), "whole": whole})} == {
        "holes": 38,
        "whole": 40,
    }


@pytest.mark.parametrize("keys", [None, ("a",)])
def test_a_single_score_has_no_interval_and_proves_nothing(keys: tuple[str, ...] | None) -> None:
    (one,) = summaries({"one": Scores(np.array([4.0]), keys)})
    assert (one.mean, one.median, one.worst) == (4, 4, 4)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    (found,) = differences({"one": Scores(np.array([4.0]), keys), "many": Scores(np.linspace(0, 1, 50))})
    assert (found.n, found.win_rate, found.p_value, found.is_significant) == (1, 1.0, 1.0, False)
    assert math.isnan(found.low)


@pytest.mark.parametrize(("n", "significant"), [(2, False), (5, False), (6, True), (40, True)])
def test_few_prompts_prove_nothing_however_clear(n: int, significant: bool) -> None:
    groups = {"high": Scores(np.full(n, 5.0), PROMPTS[:n]), "low": Scores(np.full(n, 1.0), PROMPTS[:n])}
    (found,) = differences(groups)
    assert found.p_value == pytest.approx(2 / 2**n)
    assert found.is_significant is significant
    assert (found.difference, found.low, found.high, found.win_rate) == (4, 4, 4, 1)


@pytest.mark.parametrize(("n", "significant"), [(2, False), (3, False), (4, True), (40, True)])
def test_few_unmatched_scores_prove_nothing_however_clear(n: int, significant: bool) -> None:
    (found,) = differences({"high": Scores(np.full(n, 5.0)), "low": Scores(np.full(n, 1.0))})
    assert found.p_value == pytest.approx(2 / math.comb(2 * n, n))
    assert found.is_significant is significant


def test_equal_constants_do_not_differ_though_their_means_round_differently() -> None:
    (found,) = differences({"a": Scores(np.full(1000, 0.1)), "b": Scores(np.full(997, 0.1))})
    assert (found.p_value, found.win_rate, found.is_significant) == (1, 0.5, False)
    (same,) = differences({"a": scored(0, 1), "b": scored(0, 1)})
    assert (same.difference, same.low, same.high, same.p_value, same.win_rate) == (0, 0, 0, 1, 0.5)


def test_equal_images_do_not_differ_though_their_prompts_means_round_differently() -> None:
    one, several = Scores(np.full(40, 0.1), PROMPTS), Scores(np.full(120, 0.1), PROMPTS * 3)
    (found,) = differences({"several": several, "one": one})
    assert (found.n, found.matched, found.difference, found.p_value, found.win_rate) == (40, True, 0, 1, 0.5)


def test_the_order_of_scores_makes_no_difference() -> None:
    values = np.random.default_rng(5).normal(3, 1, 997)
    for seed in range(20):
        turned = np.random.default_rng(seed).permutation(values)
        groups = {"turned": Scores(turned), "base": Scores(values)}
        assert differences(groups)[0].difference == 0
        assert non_inferiority(groups, "base", 1)[0].margin == 0
    up, down = Scores(np.array([1.1, 2.9]), ("a", "b")), Scores(np.array([1.8, 2.2]), ("a", "b"))
    assert non_inferiority({"up": up, "down": down}, "down", 1)[0].margin == 0


def test_very_many_pairs_take_the_memory_of_a_few() -> None:
    groups = {f"{number}": Scores(np.arange(6.0) + number, PROMPTS[:6]) for number in range(60)}
    tracemalloc.start()
    found = differences(groups)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(each.first, each.second) for each in found] == list(itertools.combinations(groups, 2))
    assert {each.difference for each in found if each.first == "0"} == {-float(number) for number in range(1, 60)}
    assert peak < 10e6


def test_a_group_without_scores_is_compared_with_nothing() -> None:
    found = differences({"none": Scores(np.array([math.nan])), "a": scored(0, 1), "b": scored(0.5, 2)})
    assert [math.isnan(each.p_value) for each in found] == [True, True, False]
    assert math.isnan(found[0].difference)
    assert math.isnan(found[0].win_rate)
    assert found[0].n == 0
    assert not found[0].is_significant
    (alone,) = differences({"a": scored(0, 1), "b": scored(0.5, 2)})
    assert found[2].p_value == alone.p_value  # what can't be tested is not counted


def test_false_alarms_are_as_rare_as_they_say() -> None:
    alarms = sum(
        differences({"a": scored(0, 2 * seed, PROMPTS[:10]), "b": scored(0, 2 * seed + 1, PROMPTS[:10])})[
            0
        ].is_significant
        for seed in range(400)
    )
    assert stats.binomtest(alarms, 400, 0.05).pvalue > 0.01


def test_many_prompts_are_resampled_in_blocks() -> None:
    values = np.random.default_rng(0).normal(3, 1, 25_000)
    (found,) = summaries({"many": Scores(values)})
    half = 1.96 * values.std() / math.sqrt(25_000)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"one-dimensional.*\(2, 2\)"):
        Scores(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="3 scores but 2 keys"):
        Scores(np.zeros(3), ("a", "b"))


def test_a_group_of_one_prompt_takes_no_share_of_the_correction() -> None:
    rng = np.random.default_rng(3)
    both = {name: Scores(rng.normal(shift, 1, 30)) for name, shift in (("a", 0.0), ("b", 0.6))}
    (alone,) = differences(both)
    with_one = differences({**both, "screenshot": Scores(np.array([9.0]))})
    assert [each.p_value for each in with_one] == [alone.p_value, 1.0, 1.0]
    assert [each.is_significant for each in with_one[1:]] == [False, False]
