"""Moves by hand and moves cut short: promote, rollback, and a process killed halfway."""

import os
import signal
import subprocess
import sys

import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.errors import ReleaseError, StorageError
from qwenft_assets.records import HistoryLine
from qwenft_assets.release.history import champions_in_turn, read_history, withdrawal_of
from qwenft_assets.release.perplexity_plot import draw_perplexities, perplexity_thumbnail
from qwenft_assets.release.registry import (
    _who,
    is_decided,
    promote,
    read_champion,
    release_adapter,
    rollback,
)
from qwenft_assets_tests.made_up_records import made_up
from qwenft_assets_tests.release.made_up import CONFIG, FIRST, SECOND, THIRD, Registry

KILLED_AT_THE_POINTER = """
import os, signal, sys
from pathlib import Path
from qwenft_assets.release import registry
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.release.made_up import CONFIG, Registry

def die(folder, record):
    assert record.FILE == "champion.json"
    os.kill(os.getpid(), signal.SIGKILL)

made_up = Registry(Storage(Path(sys.argv[1])))
job = made_up.evaluate(sys.argv[2], loss=1.9)
registry.write_record = die
registry.release_adapter(CONFIG, job, made_up.storage)
"""


def champion_of(registry: Registry) -> str | None:
    return getattr(read_champion(registry.storage, "small"), "version", None)


def promoted(registry, version, *, force=False, why="asked for"):
    return promote(CONFIG, registry.storage, "small", version, why, force=force)


@pytest.fixture
def three(registry):
    """FIRST, then SECOND, then THIRD released; each better than the one before."""
    for version, loss in ((FIRST, 2.0), (SECOND, 1.8), (THIRD, 1.6)):
        assert registry.release(version, loss=loss).released
    return registry


def test_a_rollback_brings_back_the_champion_before_with_its_figures(three):
    entry = rollback(three.storage, "small", "wrong units")
    champion = read_champion(three.storage, "small")
    assert champion is not None
    assert (champion.version, champion.eval_loss) == (SECOND, 1.8)
    assert (entry.action, entry.previous, entry.why) == ("rollback", THIRD, "wrong units")
    assert entry.who
    assert entry.at.endswith("+00:00")
    assert three.history()[-1] == entry


def test_two_rollbacks_go_back_two_versions_and_a_third_finds_none(three):
    assert [rollback(three.storage, "small", "x").version for _ in range(2)] == [SECOND, FIRST]
    with pytest.raises(ReleaseError, match=f"{FIRST} is the first champion of small"):
        rollback(three.storage, "small", "x")
    assert champion_of(three) == FIRST


def test_a_version_rolled_back_is_refused_until_it_is_promoted(three):
    rollback(three.storage, "small", "wrong units")
    report = three.release(THIRD, loss=1.6)
    assert not report.released
    assert report.reasons[0].startswith("not_withdrawn: rolled back at ")
    assert "wrong units" in report.reasons[0]
    assert champion_of(three) == SECOND
    assert promoted(three, THIRD).forced is False
    assert champion_of(three) == THIRD
    assert three.release(THIRD, loss=1.6).reused


def test_nothing_released_is_nothing_to_roll_back(registry):
    with pytest.raises(ReleaseError, match="nothing was released yet"):
        rollback(registry.storage, "small", "x")


def test_a_rollback_to_an_adapter_that_was_deleted_is_refused(three):
    (three.storage.adapter("small", SECOND) / "training.json").unlink()
    with pytest.raises(ReleaseError, match=f"{SECOND}: no such adapter"):
        rollback(three.storage, "small", "x")
    assert champion_of(three) == THIRD


def test_the_gate_is_asked_before_a_promotion_and_force_overrules_it(registry):
    registry.release(FIRST)
    assert not registry.release(SECOND, loss=2.5).released
    with pytest.raises(
        ReleaseError, match=r"the gate says no \(not_worse_than_champion: .*--force"
    ):
        promoted(registry, SECOND)
    assert champion_of(registry) == FIRST
    entry = promoted(registry, SECOND, force=True, why="for the demo")
    assert (champion_of(registry), entry.forced, entry.previous) == (SECOND, True, FIRST)
    assert registry.release(SECOND, loss=2.5).reused, "a promotion by hand stands"
    assert rollback(registry.storage, "small", "x").version == FIRST


@pytest.mark.parametrize(
    ("version", "message"),
    [
        pytest.param(FIRST, "is the champion of small already", id="champion"),
        pytest.param("d" * 16, "no such adapter. There is: a", id="unknown"),
    ],
)
def test_promotions_that_make_no_sense(registry, version, message):
    registry.release(FIRST)
    with pytest.raises(ReleaseError, match=message):
        promoted(registry, version, force=True)
    assert len(registry.history()) == 1


def test_an_adapter_that_was_never_evaluated_is_not_promoted(registry):
    registry.evaluate(SECOND)
    (registry.storage.evaluation("small", SECOND) / "evaluation.json").unlink()
    with pytest.raises(ReleaseError, match="never evaluated"):
        promoted(registry, SECOND, force=True)


def test_a_kill_before_the_pointer_moves_leaves_the_old_champion_and_the_next_run_finishes(
    registry,
):
    registry.release(FIRST)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_POINTER, str(registry.storage.root), SECOND],
        cwd=PROJECT_ROOT,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert champion_of(registry) == FIRST
    assert [line.version for line in registry.history()] == [FIRST, SECOND]
    assert champions_in_turn(registry.history(), FIRST) == [FIRST]
    job = registry.evaluate(SECOND, loss=1.9)
    report = release_adapter(CONFIG, job, registry.storage)
    assert (report.released, champion_of(registry)) == (True, SECOND)
    assert len(registry.history()) == 2, "the move is finished, not decided again"


def test_a_rollback_cut_short_can_be_asked_for_again():
    lines = [
        made_up(HistoryLine, version=FIRST),
        made_up(HistoryLine, version=SECOND),
        made_up(HistoryLine, action="rollback", version=FIRST),
    ]
    assert champions_in_turn(lines, SECOND) == [FIRST, SECOND]
    assert champions_in_turn(lines, FIRST) == [FIRST]


@pytest.mark.parametrize(
    ("released", "champion", "expected"),
    [
        pytest.param([], FIRST, [FIRST], id="a-pointer-without-a-history"),
        pytest.param([FIRST, FIRST], FIRST, [FIRST], id="released-twice-is-one"),
        pytest.param([FIRST, SECOND], FIRST, [FIRST], id="written-down-then-killed"),
        pytest.param([FIRST, SECOND], THIRD, [THIRD], id="a-pointer-that-no-line-tells-of"),
        pytest.param([FIRST, SECOND, FIRST], FIRST, [FIRST, SECOND, FIRST], id="it-came-back"),
    ],
)
def test_champions_in_turn_end_with_the_one_that_is_pointed_to(released, champion, expected):
    lines = [made_up(HistoryLine, version=version) for version in released]
    refused = made_up(HistoryLine, action="refuse", version="d" * 16, released=False)
    assert champions_in_turn([*lines, refused], champion) == expected


def test_what_was_moved_by_hand_is_decided_for_the_champion_alone(registry):
    jobs = {}
    for version, loss in ((FIRST, 2.0), (SECOND, 1.8)):
        jobs[version] = registry.evaluate(version, loss=loss)
        assert not is_decided(CONFIG, jobs[version], registry.storage)
        assert release_adapter(CONFIG, jobs[version], registry.storage).released
        assert is_decided(CONFIG, jobs[version], registry.storage)
    rollback(registry.storage, "small", "wrong units")
    assert is_decided(CONFIG, jobs[FIRST], registry.storage)
    assert not is_decided(CONFIG, jobs[SECOND], registry.storage)
    report = release_adapter(CONFIG, jobs[FIRST], registry.storage)
    assert (report.released, report.reused, len(registry.history())) == (True, True, 3)


def test_a_history_with_a_broken_line_says_which(registry):
    registry.release(FIRST)
    with (registry.folder / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write("{oops\n")
    with pytest.raises(StorageError, match=r"history\.jsonl: line 2 is not JSON"):
        read_history(registry.storage, "small")


def test_perplexities_over_versions_are_drawn(three, tmp_path):
    three.release("d" * 16, loss=2.5)
    draw_perplexities(three.history(), tmp_path / "perplexities.png")
    assert (tmp_path / "perplexities.png").read_bytes().startswith(b"\x89PNG")
    small = perplexity_thumbnail(three.history())
    assert small.startswith(b"\x89PNG")
    assert len(small) < 700, "longer Markdown is not shown in place"
    assert small != perplexity_thumbnail(three.history()[:2])


def test_a_rollback_withdraws_the_version_that_was_rolled_back_and_no_other(registry):
    registry.release(FIRST)
    registry.release(SECOND, loss=1.9)
    rollback(registry.storage, "small", "wrong units")
    history = registry.history()
    assert "wrong units" in (withdrawal_of(SECOND, history) or "")
    assert withdrawal_of(FIRST, history) is None
    assert withdrawal_of(THIRD, history) is None


def test_a_user_without_a_name_is_told_by_number(monkeypatch):
    def nameless():
        raise OSError("No username set in the environment")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert _who() == f"uid {os.getuid()}"
