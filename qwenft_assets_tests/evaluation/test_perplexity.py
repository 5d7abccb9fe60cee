"""Figures out of per-row sums, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.perplexity import (
    EvaluatedRow,
    bootstrap_interval,
    figures,
    figures_by_source,
)

RESAMPLES = 500


def row(tokens, base_nll, adapter_nll, source="slimorca", truncated=False):
    row_id = f"{source}-{tokens}-{base_nll}"
    return EvaluatedRow(row_id, source, tokens, base_nll, adapter_nll, truncated)


SHORT = row(10, 20.0, 10.0)
LONG = row(30, 30.0, 36.0, truncated=True)


def random_rows(generator, count, true_delta):
    """Rows whose adapter changes each token by `true_delta` nats on average over the population."""
    tokens = generator.integers(20, 200, count)
    base = generator.normal(3.0, 0.5, count) * tokens
    change = generator.normal(true_delta, 0.3, count) * tokens
    return [
        row(int(t), float(b), float(b + c)) for t, b, c in zip(tokens, base, change, strict=True)
    ]


def test_every_figure_of_two_rows():
    result = figures([SHORT, LONG], RESAMPLES, seed=0)
    low, high = result.pop("delta_loss_ci95")
    assert result == {
        "eval_loss": pytest.approx(1.15),
        "perplexity": pytest.approx(3.158193),
        "base_eval_loss": pytest.approx(1.25),
        "base_perplexity": pytest.approx(3.490343),
        "delta_loss": pytest.approx(-0.10),
        "eval_tokens": 40,
        "eval_rows": 2,
        "truncated_rows": 1,
    }
    # Of the four draws, one in four is SHORT twice (-1.0), one in four LONG twice (+0.2).
    assert (low, high) == pytest.approx((-1.0, 0.2))


def test_tokens_weigh_the_same_wherever_they_stand():
    mean_of_rows = (10 / 10 + 36 / 30) / 2
    assert figures([SHORT, LONG], RESAMPLES, seed=0)["eval_loss"] != pytest.approx(mean_of_rows)
    split = [row(15, 15.0, 18.0), row(15, 15.0, 18.0)]  # LONG in two halves
    for name in ("eval_loss", "base_eval_loss", "perplexity", "delta_loss"):
        whole = figures([SHORT, LONG], RESAMPLES, seed=0)[name]
        assert figures([SHORT, *split], RESAMPLES, seed=0)[name] == pytest.approx(whole)


@pytest.mark.parametrize(
    ("adapter_nll", "sign"),
    [
        pytest.param(8.0, -1, id="better-is-below-zero"),
        pytest.param(10.0, 0, id="equal-is-zero"),
        pytest.param(12.0, 1, id="worse-is-above-zero"),
    ],
)
def test_sign_of_the_difference_and_its_interval(adapter_nll, sign):
    result = figures([row(5, 10.0, adapter_nll), row(5, 10.0, adapter_nll)], RESAMPLES, seed=0)
    assert np.sign(result["delta_loss"]) == sign
    assert [np.sign(end) for end in result["delta_loss_ci95"]] == [sign, sign]


def test_a_single_row_has_an_interval_of_no_width():
    result = figures([SHORT], RESAMPLES, seed=0)
    assert result["delta_loss_ci95"] == [result["delta_loss"]] * 2 == [-1.0, -1.0]


def test_the_interval_depends_on_the_seed_alone():
    rows = random_rows(np.random.default_rng(1), 40, -0.05)
    assert bootstrap_interval(rows, RESAMPLES, 7) == bootstrap_interval(rows, RESAMPLES, 7)
    assert bootstrap_interval(rows, RESAMPLES, 7) != bootstrap_interval(rows, RESAMPLES, 8)


@pytest.mark.parametrize("resamples", [100, 250, 2000])
def test_the_interval_holds_the_figure_for_any_number_of_resamples(resamples):
    rows = random_rows(np.random.default_rng(2), 40, -0.05)
    low, high = bootstrap_interval(rows, resamples, 0)
    assert low < figures(rows, resamples, 0)["delta_loss"] < high


def test_95_percent_intervals_hold_the_truth_about_as_often():
    generator = np.random.default_rng(3)
    samples = [random_rows(generator, 60, -0.05) for _ in range(200)]
    intervals = [bootstrap_interval(rows, RESAMPLES, 0) for rows in samples]
    held = sum(low <= -0.05 <= high for low, high in intervals)
    # Binomial(200, 0.95) has a standard deviation of 3; a percentile bootstrap is a little narrow.
    assert 178 <= held <= 199


def test_pairing_takes_out_how_hard_a_row_is():
    """Rows differ by far more than the adapter changes them: unpaired, nothing would be seen."""
    rows = [row(10, 10.0 * n, 10.0 * n - 0.5) for n in range(1, 21)]
    low, high = bootstrap_interval(rows, RESAMPLES, 0)
    assert (low, high) == pytest.approx((-0.05, -0.05))


def test_rows_without_tokens_change_no_figure():
    result = figures([SHORT, LONG, row(0, 0.0, 0.0)], RESAMPLES, seed=0)
    assert result["eval_loss"] == pytest.approx(1.15)
    assert (result["eval_rows"], result["eval_tokens"]) == (3, 40)
    assert all(math.isfinite(end) for end in result["delta_loss_ci95"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param([], "no token to evaluate", id="no-rows"),
        pytest.param([row(0, 0.0, 0.0)], "no token to evaluate", id="no-tokens"),
        pytest.param([SHORT, row(3, 1.0, math.nan)], "adapter nan", id="adapter-nan"),
        pytest.param([SHORT, row(3, math.nan, 1.0)], "base nan", id="base-nan"),
        pytest.param([SHORT, row(3, 1.0, math.inf)], "adapter inf", id="adapter-infinite"),
    ],
)
def test_figures_that_would_mean_nothing_are_refused(rows, message):
    with pytest.raises(EvaluationError, match=message):
        figures(rows, RESAMPLES, seed=0)


def test_sources_add_up_to_the_whole():
    rows = [SHORT, LONG, row(7, 9.0, 8.0, "pubmedqa"), row(4, 6.0, 7.0, "local_reports")]
    whole, parts = figures(rows, RESAMPLES, 0), figures_by_source(rows, RESAMPLES, 0)
    assert list(parts) == ["local_reports", "pubmedqa", "slimorca"]
    for name in ("eval_tokens", "eval_rows", "truncated_rows"):
        assert sum(part[name] for part in parts.values()) == whole[name]
    for name in ("eval_loss", "base_eval_loss", "delta_loss"):
        summed = sum(part[name] * part["eval_tokens"] for part in parts.values())
        assert summed / whole["eval_tokens"] == pytest.approx(whole[name])


def test_a_source_whose_rows_keep_no_token_does_not_stop_the_others():
    rows = [SHORT, row(0, 0.0, 0.0, "pubmedqa", truncated=True)]
    assert list(figures_by_source(rows, RESAMPLES, 0)) == ["slimorca"]
