"""25 kills at random moments over all stages; benchmarks/random_kills.py does a hundred."""

import pytest

from qwenft_assets_tests.faults.random_kills import STAGES, random_kills


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_every_stage_recovers_from_kills_at_random_moments(tiny_config, tmp_path):
    outcomes = list(random_kills(tiny_config, tmp_path, kills=25, seed=3407))
    assert [outcome for outcome in outcomes if outcome.problems] == []
    assert {outcome.stage for outcome in outcomes} == set(STAGES)
    assert any(outcome.over_an_older_artifact for outcome in outcomes)
