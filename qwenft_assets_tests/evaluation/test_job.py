"""An evaluation is done again exactly when something it depends on has changed."""

import pytest

from qwenft_assets.evaluation.job import is_current
from qwenft_assets_tests.release.made_up import FIRST, SECOND, THIRD, Registry


@pytest.fixture
def job(storage):
    """The job of a second version, while the first is the champion."""
    registry = Registry(storage)
    registry.release(FIRST)
    return registry.evaluate(SECOND)


@pytest.mark.parametrize(
    ("changed", "current"),
    [
        pytest.param({}, True, id="the-same"),
        pytest.param({"inputs": "others"}, False, id="other-inputs"),
        pytest.param({"champion_version": THIRD}, False, id="another-champion"),
        pytest.param({"champion_version": None}, False, id="no-champion-then"),
    ],
)
def test_a_result_stands_while_inputs_and_champion_are_the_same(job, changed, current):
    result = {"inputs": job.inputs, "champion_version": FIRST, **changed}
    assert is_current(result, job) is current


def test_the_comparison_that_made_a_champion_still_stands(job):
    champion = job.model_copy(update={"champion_version": None})
    assert is_current({"inputs": job.inputs, "champion_version": FIRST}, champion)
    assert not is_current({"inputs": "others", "champion_version": FIRST}, champion)
    assert not is_current(None, champion)
