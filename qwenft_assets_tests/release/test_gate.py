"""The decision: every rule on figures that pass it and figures that break it, and by how much."""

import pytest

from qwenft_assets.config import ReleaseConfig
from qwenft_assets.release.gate import better_than_base, decide

CHAMPION = "c" * 16
EVALUATION = {
    "eval_loss": 2.0,
    "delta_loss": -0.10,
    "delta_loss_ci95": [-0.15, -0.05],
    "eval_rows": 40,
    "eval_questions": 38,
    "leaked_rows": 0,
    "per_source": {
        "slimorca": {"eval_loss": 1.9, "base_eval_loss": 2.0},
        "pubmedqa": {"eval_loss": 2.02, "base_eval_loss": 2.0},
    },
    "canaries": {
        "base": {"stops": 1.0, "does_not_loop": 0.5},
        "adapter": {"stops": 0.9, "does_not_loop": 0.5},
    },
    "champion_version": CHAMPION,
    "champion_delta_loss": -0.01,
    "champion_delta_loss_ci95": [-0.02, 0.004],
}
RULES = [
    "better_than_base", "not_worse_than_champion", "no_source_worse_than_base", "canaries_pass",
    "no_leakage", "not_withdrawn",
]  # fmt: skip


def evaluation(**changed):
    return {**EVALUATION, **changed}


def broken(candidate, settings=None, champion=CHAMPION, withdrawn=None):
    """Name and detail of each rule that says no."""
    decision = decide(candidate, champion, settings or ReleaseConfig(), withdrawn)
    assert [rule.name for rule in decision.rules] == RULES
    assert decision.passed is all(rule.passed for rule in decision.rules)
    return {rule.name: rule.detail for rule in decision.rules if not rule.passed}


def test_good_figures_pass_and_say_why():
    decision = decide(evaluation(), CHAMPION, ReleaseConfig())
    assert decision.passed
    assert decision.reasons == (
        "better than the base: delta loss -0.1000, 95 % interval -0.1500 to -0.0500",
        f"not worse than champion {CHAMPION}: delta loss -0.0100, 95 % interval -0.0200 to +0.0040",
    )


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
    assert list(broken(candidate, settings)) == ([] if better else ["better_than_base"])


def test_a_rule_says_by_how_much_it_is_broken():
    detail = broken(evaluation(delta_loss=-0.01, delta_loss_ci95=[-0.05, 0.03]))["better_than_base"]
    assert detail == (
        "delta loss -0.0100, 95 % interval -0.0500 to +0.0300; its upper end is 0.0300 above the "
        "+0.0000 it must lie below"
    )


def test_one_question_proves_nothing():
    assert "one held-out question" in broken(evaluation(eval_questions=1))["better_than_base"]


@pytest.mark.parametrize(
    ("interval", "allowed", "excess"),
    [
        pytest.param([-0.02, 0.004], 0.0, None, id="cannot-be-told-apart"),
        pytest.param([0.0, 0.02], 0.0, None, id="touches-zero"),
        pytest.param([0.01, 0.02], 0.0, "0.0100", id="worse-beyond-chance"),
        pytest.param([0.01, 0.02], 0.01, None, id="within-what-is-allowed"),
        pytest.param([0.03, 0.05], 0.01, "0.0200", id="beyond-what-is-allowed"),
    ],
)
def test_against_the_champion(interval, allowed, excess):
    found = broken(
        evaluation(champion_delta_loss_ci95=interval),
        ReleaseConfig(max_champion_delta_loss=allowed),
    )
    assert list(found) == ([] if excess is None else ["not_worse_than_champion"])
    if excess is not None:
        assert f"its lower end is {excess} above" in found["not_worse_than_champion"]
        assert CHAMPION in found["not_worse_than_champion"]


@pytest.mark.parametrize(
    ("champion", "changed", "said"),
    [
        pytest.param(None, {}, "no champion yet", id="none"),
        pytest.param("d" * 16, {}, "a new line starts", id="of-another-base"),
    ],
)
def test_without_a_comparable_champion_the_rule_holds(champion, changed, said):
    worse = evaluation(champion_delta_loss_ci95=[1.0, 2.0], **changed)
    assert broken(worse, champion=champion) == {}
    assert said in decide(worse, champion, ReleaseConfig()).reasons[1]


def test_a_champion_that_knows_every_row_is_no_comparison():
    candidate = evaluation()
    for name in ("champion_delta_loss", "champion_delta_loss_ci95"):
        del candidate[name]
    assert "a new line starts" in decide(candidate, CHAMPION, ReleaseConfig()).reasons[1]


@pytest.mark.parametrize(
    ("eval_loss", "allowed", "refused"),
    [
        pytest.param(2.039, 0.02, False, id="within-the-limit"),
        pytest.param(2.042, 0.02, True, id="beyond-the-limit"),
        pytest.param(2.042, 0.05, False, id="more-allowed"),
        pytest.param(1.5, 0.0, False, id="better"),
    ],
)
def test_no_source_may_pay_for_the_others(eval_loss, allowed, refused):
    sources = {
        **EVALUATION["per_source"],
        "pubmedqa": {"eval_loss": eval_loss, "base_eval_loss": 2},
    }
    found = broken(evaluation(per_source=sources), ReleaseConfig(max_source_regression=allowed))
    assert list(found) == (["no_source_worse_than_base"] if refused else [])
    if refused:
        assert found["no_source_worse_than_base"].startswith("pubmedqa +2.1% of the base's loss")


@pytest.mark.parametrize(
    ("base", "adapter", "refused"),
    [
        pytest.param(1.0, 0.8, False, id="reaches-the-share"),
        pytest.param(1.0, 0.7, True, id="below-the-share"),
        pytest.param(0.5, 0.5, False, id="as-good-as-a-weak-base"),
        pytest.param(0.5, 0.4, True, id="below-a-weak-base"),
        pytest.param(0.0, 0.0, False, id="the-base-cannot-either"),
    ],
)
def test_canaries_are_held_against_the_share_or_a_weaker_base(base, adapter, refused):
    shares = {"base": {"stops": base}, "adapter": {"stops": adapter}}
    found = broken(evaluation(canaries=shares))
    assert list(found) == (["canaries_pass"] if refused else [])
    if refused:
        assert found["canaries_pass"].startswith(f"stops holds for {adapter:.0%} of the answers")


def test_without_prompts_there_are_no_canaries():
    assert broken(evaluation(canaries={"base": {}, "adapter": {}})) == {}


def test_a_leaked_row_is_refused():
    assert broken(evaluation(leaked_rows=2))["no_leakage"].startswith("2 of 40 held-out rows")


def test_a_version_that_was_rolled_back_does_not_come_back_by_itself():
    assert broken(evaluation(), withdrawn="rolled back by ann") == {
        "not_withdrawn": "rolled back by ann"
    }


def test_every_broken_rule_is_a_reason():
    bad = evaluation(delta_loss_ci95=[0.0, 0.1], leaked_rows=1)
    reasons = decide(bad, CHAMPION, ReleaseConfig()).reasons
    assert [reason.partition(":")[0] for reason in reasons] == ["better_than_base", "no_leakage"]


@pytest.mark.parametrize(
    ("losses", "tail"),
    [
        pytest.param((1.9, 2.1), "2.0% allowed", id="one"),
        pytest.param((2.2, 2.1), "; 2 sources are worse: pubmedqa, slimorca", id="two"),
    ],
)
def test_sources_that_became_worse_are_all_named(losses, tail):
    names = ("slimorca", "pubmedqa")
    worse = {
        name: {"eval_loss": loss, "base_eval_loss": 2.0}
        for name, loss in zip(names, losses, strict=True)
    }
    detail = broken(evaluation(per_source=worse))["no_source_worse_than_base"]
    assert detail.endswith(tail)
