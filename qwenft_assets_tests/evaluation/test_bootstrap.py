"""The interval: how often it is wrong, with few and many questions, alone and in groups."""

import numpy as np
import pytest

from qwenft_assets.evaluation.bootstrap import _t_quantile, expanded_tail, paired_interval

SIMULATIONS = 200
ALLOWED_FALSE_ALARMS = range(4, 17)  # 2 to 8 % of 200


def null_comparison(generator, questions, rows_of_each):
    """Two models that are equally good: rows of one question share what they differ by."""
    tokens = generator.integers(20, 400, (questions, rows_of_each)).astype(float)
    shared = generator.normal(0, 0.3, (questions, 1))
    own = generator.normal(0, 0.1, (questions, rows_of_each))
    groups = np.repeat(np.arange(questions), rows_of_each).astype(str)
    return ((shared + own) * tokens).ravel(), tokens.ravel(), list(groups)


@pytest.mark.parametrize(
    ("questions", "rows_of_each"),
    [
        pytest.param(200, 1, id="a-row-a-question"),
        pytest.param(60, 5, id="five-rows-a-question"),
        pytest.param(12, 3, id="few-questions"),
    ],
)
def test_equal_models_give_a_false_alarm_in_2_to_8_of_100(questions, rows_of_each):
    generator = np.random.default_rng(20_261_125)
    alarms = 0
    for _ in range(SIMULATIONS):
        difference, tokens, groups = null_comparison(generator, questions, rows_of_each)
        low, high = paired_interval(difference, tokens, groups, resamples=1_000, seed=0)
        alarms += not low <= 0 <= high
    assert alarms in ALLOWED_FALSE_ALARMS


def test_without_groups_related_rows_would_raise_far_more_false_alarms():
    generator = np.random.default_rng(20_261_125)
    alarms = 0
    for _ in range(SIMULATIONS):
        difference, tokens, _ = null_comparison(generator, 60, 5)
        alone = [str(n) for n in range(len(tokens))]
        low, high = paired_interval(difference, tokens, alone, resamples=1_000, seed=0)
        alarms += not low <= 0 <= high
    assert alarms > 2 * ALLOWED_FALSE_ALARMS.stop


def test_a_real_difference_is_seen():
    generator = np.random.default_rng(1)
    difference, tokens, groups = null_comparison(generator, 200, 1)
    low, high = paired_interval(difference - 0.1 * tokens, tokens, groups, 2_000, 0)
    assert low < -0.1 < high < 0


@pytest.mark.parametrize(
    ("groups", "tail"),
    [
        # Normal tail at sqrt(n / (n-1)) t, with t of 4 and 19 degrees from a table: 2.776, 2.093.
        pytest.param(5, 0.00095, id="five"),
        pytest.param(20, 0.01588, id="twenty"),
        pytest.param(100_000, 0.025, id="many"),
    ],
)
def test_fewer_groups_are_cut_further_out(groups, tail):
    assert expanded_tail(groups) == pytest.approx(tail, rel=0.01)


def test_rows_without_tokens_change_nothing():
    difference, tokens = np.array([1.0, -2.0, 0.0]), np.array([10.0, 10.0, 0.0])
    with_empty = paired_interval(difference, tokens, ["a", "b", "c"], 500, 0)
    assert with_empty == paired_interval(difference[:2], tokens[:2], ["a", "b"], 500, 0)


def test_a_single_group_is_cut_as_if_there_were_many():
    assert expanded_tail(1) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706), (2, 4.3027), (5, 2.5706), (30, 2.0423)],  # of Student's t at 97.5 %, from a table
)
def test_quantiles_of_students_t_are_those_of_a_table(degrees, quantile):
    assert _t_quantile(0.975, degrees) == pytest.approx(quantile, rel=2e-4)
