"""The champion pointer and its history, as files, decision by decision."""

from pathlib import Path

import pytest

from qwenft_assets.config import ReleaseConfig
from qwenft_assets.errors import ReleaseError
from qwenft_assets.release.history import last_decision
from qwenft_assets.release.registry import read_champion, release_adapter
from qwenft_assets.storage.files import read_json
from qwenft_assets_tests.release.made_up import BASE, CONFIG, FIRST, SECOND, THIRD


def test_the_first_adapter_better_than_its_base_becomes_the_champion(registry):
    report = registry.release(FIRST)
    assert (report.released, report.reused, report.previous) == (True, False, None)
    assert report.reasons[-1] == "no champion yet"
    assert {rule.name for rule in report.rules if rule.passed} >= {"better_than_base"}
    champion = read_champion(registry.storage, "small")
    assert champion == report.champion
    assert champion is not None
    assert (champion.version, champion.eval_loss) == (FIRST, 2.0)
    assert champion.as_json().items() >= BASE.items()
    (entry,) = registry.history()
    assert (entry.version, entry.released, entry.previous) == (FIRST, True, None)
    assert last_decision(registry.storage, "small") == entry


def test_a_refused_first_adapter_leaves_no_champion(registry):
    report = registry.release(FIRST, interval=(-0.2, 0.0))
    assert (report.released, report.champion) == (False, None)
    assert read_champion(registry.storage, "small") is None
    assert [entry.released for entry in registry.history()] == [False]


@pytest.mark.parametrize(
    "worse",
    [
        pytest.param({"loss": 2.1}, id="worse-than-the-champion"),
        pytest.param({"loss": 1.0, "interval": (-0.2, 0.1)}, id="no-better-than-the-base"),
    ],
)
def test_a_refusal_is_written_down_and_leaves_the_champion_alone(registry, worse):
    registry.release(FIRST)
    before = registry.pointer()
    report = registry.release(SECOND, **worse)
    assert (report.version, report.released, report.previous) == (SECOND, False, FIRST)
    assert report.champion is not None
    assert report.champion.version == FIRST
    assert registry.pointer() == before
    refusal = registry.history()[-1]
    assert (refusal.version, refusal.released) == (SECOND, False)
    assert refusal.reasons == report.reasons


def test_a_better_adapter_takes_over_and_the_history_keeps_both(registry):
    registry.release(FIRST)
    report = registry.release(SECOND, loss=1.9)
    assert (report.released, report.previous) == (True, FIRST)
    champion = read_champion(registry.storage, "small")
    assert champion is not None
    assert champion.version == SECOND
    assert [entry.version for entry in registry.history()] == [FIRST, SECOND]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param({"base_model": "other"}, id="base"),
        pytest.param({"base_revision": "2"}, id="revision"),
    ],
)
def test_another_base_starts_a_new_line(registry, line):
    registry.release(FIRST)
    report = registry.release(SECOND, loss=2.5, **line)
    assert report.released
    assert "a new line starts" in report.reasons[-1]
    champion = read_champion(registry.storage, "small")
    assert champion is not None
    assert champion.version == SECOND
    assert champion.as_json().items() >= line.items()


@pytest.mark.parametrize(
    ("evaluation", "released"),
    [
        pytest.param({}, True, id="released"),
        pytest.param({"interval": (-0.2, 0.0)}, False, id="refused"),
    ],
)
def test_an_unchanged_decision_is_reused_and_adds_no_line(registry, evaluation, released):
    first = registry.release(FIRST, **evaluation)
    files = {path: path.read_bytes() for path in registry.folder.iterdir()}
    again = registry.release(FIRST, **evaluation)
    assert (first.reused, again.reused) == (False, True)
    assert (again.released, again.reasons) == (released, first.reasons)
    assert {path: path.read_bytes() for path in registry.folder.iterdir()} == files


def test_other_release_settings_decide_anew(registry):
    registry.release(FIRST, interval=(-0.2, -0.1))
    strict = CONFIG.model_copy(update={"release": ReleaseConfig(min_delta_loss=0.5)})
    report = registry.release(FIRST, strict)
    assert (report.reused, report.released) == (False, False)
    assert [entry.settings["min_delta_loss"] for entry in registry.history()] == [0.0, 0.5]


def test_a_champion_evaluated_anew_is_not_held_against_itself(registry):
    registry.release(FIRST)
    report = registry.release(FIRST, interval=(-0.3, -0.1))
    assert (report.released, report.previous) == (True, FIRST)
    champion = read_champion(registry.storage, "small")
    assert champion is not None
    assert champion.delta_loss_ci95 == (-0.3, -0.1)


def test_an_older_adapter_can_come_back_only_if_it_beats_the_champion(registry):
    registry.release(FIRST)
    registry.release(SECOND, loss=1.9)
    assert registry.release(FIRST).released is False
    champion = read_champion(registry.storage, "small")
    assert champion is not None
    assert champion.version == SECOND


def test_recipes_have_champions_of_their_own(registry):
    registry.release(FIRST)
    assert read_champion(registry.storage, "large") is None
    assert last_decision(registry.storage, "large") is None


def test_a_lost_pointer_is_written_again(registry):
    registry.release(FIRST)
    Path(registry.folder / "champion.json").unlink()
    assert registry.release(FIRST).released
    assert (read_json(registry.folder / "champion.json") or {})["version"] == FIRST


def test_a_refusal_does_not_outlive_the_champion_it_was_held_against(registry):
    registry.release(FIRST)
    assert registry.release(SECOND, loss=2.1).released is False
    Path(registry.folder / "champion.json").unlink()
    report = registry.release(SECOND, loss=2.1)
    assert (report.released, report.reused, report.reasons[-1]) == (True, False, "no champion yet")


def test_without_an_evaluation_nothing_is_released(registry):
    job = registry.evaluate(FIRST)
    (registry.storage.evaluation("small", FIRST) / "evaluation.json").unlink()
    with pytest.raises(
        ReleaseError, match=r"not evaluated with the present settings .* Run `qwenft"
    ):
        release_adapter(CONFIG, job, registry.storage)
    assert not registry.folder.exists()


def test_an_evaluation_with_other_settings_does_not_count(registry):
    job = registry.evaluate(FIRST).model_copy(update={"inputs": "other"})
    with pytest.raises(ReleaseError, match="not evaluated with the present settings"):
        release_adapter(CONFIG, job, registry.storage)
    assert not registry.folder.exists()


def test_versions_are_released_in_turn(registry):
    losses = {FIRST: 2.0, SECOND: 2.2, THIRD: 1.8}
    outcomes = [registry.release(version, loss=loss).released for version, loss in losses.items()]
    assert outcomes == [True, False, True]
    assert [entry.previous for entry in registry.history()] == [None, FIRST, FIRST]
