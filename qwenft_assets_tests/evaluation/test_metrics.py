"""Figures out of per-row sums, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation import metrics
from qwenft_assets.evaluation.metrics import EvaluatedRow, figures_by, length_bucket
from qwenft_assets.model.loss import RowLoss, SpanLosses

RESAMPLES = 500
NO_ANSWER = RowLoss(0.0, 0)


def row(tokens, base_nll, adapter_nll, source="slimorca", truncated=False, **changed):
    def spans(nll):
        return SpanLosses(RowLoss(nll, tokens), NO_ANSWER)

    row_id = f"{source}-{tokens}-{base_nll}"
    plain = EvaluatedRow(
        row_id, source, row_id, tokens + 1, truncated, spans(base_nll), spans(adapter_nll)
    )
    return plain._replace(**changed)


def figures(rows, resamples=RESAMPLES, seed=0, span="full"):
    return metrics.figures(rows, span, resamples, seed)


def interval(rows, resamples=RESAMPLES, seed=0):
    return figures(rows, resamples, seed)["delta_loss_ci95"]


def figures_by_source(rows, resamples=RESAMPLES, seed=0):
    return figures_by(lambda one: one.source, rows, "full", resamples, seed)


SHORT = row(10, 20.0, 10.0)
LONG = row(30, 30.0, 36.0, truncated=True)


def random_rows(generator, count, true_delta):
    """Rows whose adapter changes each token by `true_delta` nats on average over the population."""
    tokens = generator.integers(20, 200, count)
    base = generator.normal(3.0, 0.5, count) * tokens
    change = generator.normal(true_delta, 0.3, count) * tokens
    return [
        row(int(t), float(b), float(b + c), question=str(n))
        for n, (t, b, c) in enumerate(zip(tokens, base, change, strict=True))
    ]


def test_every_figure_of_two_rows():
    result = figures([SHORT, LONG], RESAMPLES, seed=0)
    low, high = result["delta_loss_ci95"]
    expected = {
        "eval_loss": pytest.approx(1.15),
        "perplexity": pytest.approx(3.158193),
        "base_eval_loss": pytest.approx(1.25),
        "base_perplexity": pytest.approx(3.490343),
        "delta_loss": pytest.approx(-0.10),
        "eval_tokens": 40,
        "eval_rows": 2,
        "eval_questions": 2,
        "truncated_rows": 1,
    }
    assert {name: result[name] for name in expected} == expected
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
    assert interval(rows, seed=7) == interval(rows, seed=7)
    assert interval(rows, seed=7) != interval(rows, seed=8)


@pytest.mark.parametrize("resamples", [100, 250, 2000])
def test_the_interval_holds_the_figure_for_any_number_of_resamples(resamples):
    result = figures(random_rows(np.random.default_rng(2), 40, -0.05), resamples)
    low, high = result["delta_loss_ci95"]
    assert low < result["delta_loss"] < high


def test_pairing_takes_out_how_hard_a_row_is():
    """Rows differ by far more than the adapter changes them: unpaired, nothing would be seen."""
    rows = [row(10, 10.0 * n, 10.0 * n - 0.5) for n in range(1, 21)]
    assert interval(rows) == pytest.approx([-0.05, -0.05])


def test_rows_that_ask_the_same_are_drawn_together():
    """Ten copies of one question are one observation, not ten."""
    alone = [row(10, 20.0, 20.0 + change, question=str(change)) for change in (-3, -1, 0, 1)]
    copies = [one for one in alone for _ in range(10)]
    asked_anew = [one._replace(question=f"{n}") for n, one in enumerate(copies)]
    wide, narrow = interval(copies), interval(asked_anew)
    assert wide == pytest.approx(interval(alone))
    assert narrow[1] - narrow[0] < 0.5 * (wide[1] - wide[0])


def test_the_answer_span_counts_the_answer_alone():
    def spans(full, answer):
        return SpanLosses(RowLoss(full, 10), RowLoss(answer, 4))

    one = row(10, 0.0, 0.0, base=spans(20.0, 10.0), adapter=spans(15.0, 2.0))
    result = figures([one], span="answer")
    assert (result["eval_tokens"], result["base_eval_loss"], result["eval_loss"]) == (4, 2.5, 0.5)
    assert figures([one])["eval_loss"] == 1.5


def test_the_champion_is_compared_on_the_rows_it_did_not_train_on():
    def champion(nll):
        return SpanLosses(RowLoss(nll, 10), NO_ANSWER)

    rows = [
        row(10, 30.0, 20.0, question="a", champion=champion(22.0)),
        row(10, 30.0, 24.0, question="b", champion=champion(20.0)),
        row(10, 30.0, 10.0, question="trained on"),
    ]
    result = figures(rows)
    assert result["champion_rows"] == 2
    assert result["champion_eval_loss"] == pytest.approx(2.1)
    assert result["champion_delta_loss"] == pytest.approx(0.1)
    low, high = result["champion_delta_loss_ci95"]
    assert low == pytest.approx(-0.2)
    assert high == pytest.approx(0.4)
    assert result["delta_loss"] == pytest.approx(-1.2)


def test_without_a_champion_there_is_nothing_about_one():
    assert not any(name.startswith("champion") for name in figures([SHORT, LONG]))


@pytest.mark.parametrize(
    ("length", "bucket"),
    [
        pytest.param(1, "0001-0128", id="shortest"),
        pytest.param(128, "0001-0128", id="edge"),
        pytest.param(129, "0129-0256", id="past-the-edge"),
        pytest.param(2_048, "1025-2048", id="full-window"),
        pytest.param(9_000, "4097-", id="longest"),
    ],
)
def test_length_buckets(length, bucket):
    assert length_bucket(SHORT._replace(length_tokens=length)) == bucket


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
