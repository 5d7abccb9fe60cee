"""Old versions go where the config says so; the champion and the way back never do."""

import os

import pytest

from qwenft_assets.records import Champion, HistoryLine
from qwenft_assets.release.pruning import prune_versions
from qwenft_assets.storage.files import append_json_line, write_json
from qwenft_assets_tests.made_up_records import made_up, put

VERSIONS = [letter * 16 for letter in "abcdef"]


@pytest.fixture
def filled(storage):
    """Six adapters with evaluations, oldest first; a, b and c were champion in turn; f is the latest."""
    for age, version in enumerate(VERSIONS):
        record = storage.adapter("small", version) / "training.json"
        write_json(record, {"version": version})
        os.utime(record, (1_000_000 + age, 1_000_000 + age))
        write_json(storage.evaluation("small", version) / "evaluation.json", {})
    (storage.adapters("small") / ".half.checkpoints" / "checkpoint-1").mkdir(parents=True)
    write_json(storage.adapters("small") / "latest.json", {"version": VERSIONS[5]})
    for version in VERSIONS[:3]:
        line = made_up(HistoryLine, version=version)
        append_json_line(storage.release("small") / "history.jsonl", line.as_json())
    put(storage.release("small"), Champion, version=VERSIONS[2])
    return storage


def left(storage):
    return sorted(path.parent.name[0] for path in storage.adapters("small").glob("*/training.json"))


@pytest.mark.parametrize(
    ("keep", "removed", "kept"),
    [
        pytest.param(None, [], "abcdef", id="all-by-default"),
        pytest.param(6, [], "abcdef", id="as-many-as-there-are"),
        pytest.param(2, ["a", "d"], "bcef", id="champion-and-the-one-before-stay"),
        pytest.param(1, ["a", "d", "e"], "bcf", id="the-latest-stays"),
    ],
)
def test_what_goes_and_what_stays(filled, demo_config, keep, removed, kept):
    config = demo_config.model_copy(update={"keep_versions": keep})
    assert [version[0] for version in prune_versions(config, "small", filled)] == removed
    assert left(filled) == list(kept)
    evaluations = filled.root / "evaluation" / "small"
    assert sorted(path.name[0] for path in evaluations.iterdir()) == list(kept)
    assert (filled.adapters("small") / ".half.checkpoints").is_dir()


def test_without_a_champion_the_newest_stay(filled, demo_config):
    (filled.release("small") / "champion.json").unlink()
    config = demo_config.model_copy(update={"keep_versions": 2})
    prune_versions(config, "small", filled)
    assert left(filled) == ["e", "f"]
