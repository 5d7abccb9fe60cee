"""Single ticks of the sensors: what they observe, and what they say when they do not."""

import json
import shutil
from typing import Any

import pytest
from dagster._core.definitions.observe import observe
from huggingface_hub import constants

from qwenft_assets.assets.upstream import dataset_commits, reports_file
from qwenft_assets.config import PROJECT_ROOT, SOURCE_NAMES
from qwenft_assets.sources.registry import repositories
from qwenft_assets.storage.files import sha256_of_file
from qwenft_assets_tests.automation.ticks import RESOURCES, sensor_tick
from qwenft_assets_tests.automation.weeks import SLIMORCA, add_rows
from qwenft_assets_tests.loopback_hub import loopback_hub


def observed(tick):
    """Partition to data version of what a tick observed; a tick of these sensors starts no run."""
    assert tick.run_requests == []
    return {event.partition: event.tags["dagster/data_version"] for event in tick.asset_events}


def test_the_reports_sensor_observes_each_revision_once(place):
    first = sensor_tick(place, "local_reports_changed")
    assert "local_reports: not sampled yet" in first.skip_message
    assert observed(first) == {}
    place.sample("local_reports")
    known = sensor_tick(place, "local_reports_changed")
    assert "unchanged: local_reports " in known.skip_message
    rows = json.loads(place.reports.read_text("utf-8"))
    place.reports.write_text(json.dumps(rows[1:]), encoding="utf-8")
    tick = sensor_tick(place, "local_reports_changed", known.cursor)
    assert observed(tick) == {"local_reports": sha256_of_file(place.reports)}
    assert [event.asset_key.to_user_string() for event in tick.asset_events] == ["reports_file"]
    assert "observed: local_reports: revision " in tick.skip_message
    again = sensor_tick(place, "local_reports_changed", tick.cursor)
    assert observed(again) == {}


def test_a_missing_reports_file_is_reported_and_starts_nothing(place):
    place.sample("local_reports")
    place.reports.unlink()
    tick = sensor_tick(place, "local_reports_changed")
    assert tick.run_requests == []
    assert "upstream cannot be asked" in tick.skip_message
    assert str(place.reports) in tick.skip_message


@pytest.mark.parametrize(
    ("origin", "offline", "words"),
    [
        pytest.param("samples", "", "sources.origin is samples", id="no-hub"),
        pytest.param("hub", "1", "HF_HUB_OFFLINE is set", id="offline"),
    ],
)
def test_the_hub_sensor_asks_nobody_without_a_hub(place, monkeypatch, origin, offline, words):
    monkeypatch.setenv("QWENFT_SOURCES_ORIGIN", origin)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    assert words in sensor_tick(place, "hub_revisions_changed").skip_message


@pytest.fixture
def upstream(place, monkeypatch):
    """A loopback Hub that the client in this process asks."""
    monkeypatch.setenv("QWENFT_SOURCES_ORIGIN", "hub")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    shutil.copytree(PROJECT_ROOT / "data" / "samples", place.folder / "upstream")
    with loopback_hub(place.folder / "upstream") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        files = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place.folder / "cache"))
        yield hub


def test_the_hub_sensor_asks_each_repository_once_and_observes_what_moved(place, upstream):
    place.sample("slimorca", "pubmedqa", "stackexchange_ai")
    upstream.requests.clear()
    quiet = sensor_tick(place, "hub_revisions_changed")
    assert "unchanged: slimorca " in quiet.skip_message
    assert "stackexchange" not in quiet.skip_message, "no recipe that sensors rebuild mixes it"
    assert upstream.requests == [
        "GET /api/datasets/Open-Orca/SlimOrca",
        "GET /api/datasets/qiaojin/PubMedQA",
    ]
    add_rows(upstream.folder / SLIMORCA, "the planet on which it rains diamonds", rows=1)
    moved = sensor_tick(place, "hub_revisions_changed", quiet.cursor)
    assert list(observed(moved)) == ["slimorca"]
    again = sensor_tick(place, "hub_revisions_changed", moved.cursor)
    assert observed(again) == {}


def test_observing_by_hand_asks_each_repository_once(place, upstream):
    seen = dict[str, str]()
    for asset in (dataset_commits, reports_file):
        result = observe([asset], instance=place.instance, resources=RESOURCES)
        for event in result.get_asset_observation_events():
            data: Any = event.event_specific_data
            found = data.asset_observation
            seen[found.partition] = found.tags["dagster/data_version"]
    assert set(seen) == set(SOURCE_NAMES)
    assert seen["local_reports"] == sha256_of_file(place.reports)
    assert len([r for r in upstream.requests if "/api/datasets/" in str(r)]) == len(
        set(repositories().values())
    )


def test_the_hub_sensor_starts_nothing_while_the_hub_is_down(place, upstream):
    place.sample("slimorca")
    upstream.faults.fraction, upstream.faults.kinds = 1.0, ("503",)
    tick = sensor_tick(place, "hub_revisions_changed")
    assert tick.run_requests == []
    assert "slimorca: upstream cannot be asked: " in tick.skip_message
    assert "failed after 2 attempts" in tick.skip_message
