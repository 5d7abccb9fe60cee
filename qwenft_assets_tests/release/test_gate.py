"""The decision: against the base by the whole interval, against the champion by the loss."""

import pytest

from qwenft_assets.config import ReleaseConfig
from qwenft_assets.release.gate import better_than_base, decide

EVALUATION = {
    "eval_loss": 2.0,
    "delta_loss": -0.10,
    "delta_loss_ci95": [-0.15, -0.05],
    "base_model": "Qwen/Qwen2.5-7B-Instruct",
    "base_revision": "a09a354",
    "mixture_version": "1234567890abcdef",
}


def evaluation(**changed):
    return {**EVALUATION, **changed}


@pytest.mark.parametrize(
    ("interval", "margin", "better"),
    [
        pytest.param([-0.15, -0.05], 0.0, True, id="all-below-zero"),
        pytest.param([-0.15, 0.0], 0.0, False, id="touches-zero"),
        pytest.param([-0.15, 0.01], 0.0, False, id="holds-zero"),
        pytest.param([0.01, 0.05], 0.0, False, id="all-above-zero"),
        pytest.param([0.0, 0.0], 0.0, False, id="no-change"),
        pytest.param([-0.15, -0.05], 0.04, True, id="beyond-the-margin"),
        pytest.param([-0.15, -0.05], 0.05, False, id="touches-the-margin"),
        pytest.param([-0.15, -0.05], 0.10, False, id="within-the-margin"),
    ],
)
def test_better_than_the_base_means_the_whole_interval(interval, margin, better):
    settings = ReleaseConfig(min_delta_loss=margin)
    candidate = evaluation(delta_loss_ci95=interval)
    assert better_than_base(candidate, settings) is better
    assert decide(candidate, None, settings).passed is better


@pytest.mark.parametrize(
    ("champion", "passed", "reason"),
    [
        pytest.param(None, True, "no champion yet", id="no-champion"),
        pytest.param(
            evaluation(eval_loss=2.1),
            True,
            "better than the champion: eval loss 2.0000 against 2.1000",
            id="better",
        ),
        pytest.param(
            evaluation(eval_loss=1.9),
            False,
            "not better than the champion: eval loss 2.0000 against 1.9000",
            id="worse",
        ),
        pytest.param(
            evaluation(),
            False,
            "not better than the champion: eval loss 2.0000 against 2.0000",
            id="equal",
        ),
        pytest.param(
            evaluation(eval_loss=1.0, base_model="other"), True, "a new line starts", id="base"
        ),
        pytest.param(
            evaluation(eval_loss=1.0, base_revision="other"),
            True,
            "a new line starts",
            id="base-revision",
        ),
        pytest.param(
            evaluation(eval_loss=1.0, mixture_version="other"),
            True,
            "a new line starts",
            id="mixture",
        ),
    ],
)
def test_against_the_champion(champion, passed, reason):
    decision = decide(evaluation(), champion, ReleaseConfig())
    assert decision.passed is passed
    assert decision.reasons[0] == (
        "better than the base: delta loss -0.1000, 95 % interval -0.1500 to -0.0500"
    )
    assert reason in decision.reasons[1]


@pytest.mark.parametrize(
    "champion",
    [
        pytest.param(None, id="no-champion"),
        pytest.param(evaluation(eval_loss=9.0), id="worse-champion"),
        pytest.param(evaluation(mixture_version="other"), id="new-line"),
    ],
)
def test_not_better_than_the_base_is_refused_whatever_the_champion(champion):
    candidate = evaluation(delta_loss=-0.02, delta_loss_ci95=[-0.06, 0.02])
    decision = decide(candidate, champion, ReleaseConfig())
    assert decision.passed is False
    assert decision.reasons == (
        "not better than the base beyond chance: delta loss -0.0200, "
        "95 % interval -0.0600 to +0.0200",
    )
