"""Single ticks of the sensors: what they request, and what they say when they do not."""

import json
import shutil
from typing import Any

import dagster as dg
import pytest
from huggingface_hub import constants

from qwenft_assets.automation.requests import REBUILD_TAG, RECIPES_TAG
from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.definitions import defs
from qwenft_assets_tests.automation.ticks import RESOURCES, sensor_tick, stretches
from qwenft_assets_tests.automation.weeks import SLIMORCA, add_rows
from qwenft_assets_tests.loopback_hub import loopback_hub


def test_the_reports_sensor_asks_once_for_each_revision(place):
    first = sensor_tick(place, "local_reports_changed")
    assert "the first build is started by rebuild_small" in first.skip_message
    place.sample("local_reports")
    assert "unchanged: local_reports " in sensor_tick(place, "local_reports_changed").skip_message
    rows = json.loads(place.reports.read_text("utf-8"))
    place.reports.write_text(json.dumps(rows[1:]), encoding="utf-8")
    tick = sensor_tick(place, "local_reports_changed")
    assert stretches(tick) == [("local_reports", "local_reports")]
    assert tick.run_requests[0].tags[RECIPES_TAG] == "small"
    again = sensor_tick(place, "local_reports_changed", tick.cursor)
    assert again.run_requests == []
    assert "requested before" in again.skip_message


def test_a_sensor_waits_for_a_rebuild_under_way_and_asks_then(place):
    place.sample("local_reports")
    rows = json.loads(place.reports.read_text("utf-8"))
    place.reports.write_text(json.dumps(rows[1:]), encoding="utf-8")
    run = place.instance.create_run_for_job(
        defs.resolve_job_def("finetune_job"),
        tags={"dagster/partition": "small"},
        status=dg.DagsterRunStatus.STARTED,
    )
    waiting = sensor_tick(place, "local_reports_changed")
    assert waiting.run_requests == []
    assert f"waits for finetune_job {run.run_id}" in waiting.skip_message
    place.instance.report_run_canceled(run)
    asked = sensor_tick(place, "local_reports_changed", waiting.cursor)
    assert stretches(asked) == [("local_reports", "local_reports")]


def test_a_sensor_rebuilds_large_only_where_the_config_names_it(place):
    place.sample("local_reports")
    place.write_config("automation: {recipes: [small, large]}")
    rows = json.loads(place.reports.read_text("utf-8"))
    place.reports.write_text(json.dumps(rows[1:]), encoding="utf-8")
    tick = sensor_tick(place, "local_reports_changed")
    assert tick.run_requests[0].tags[RECIPES_TAG] == "small,large"


def test_a_missing_reports_file_is_told_and_starts_nothing(place):
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


def finished(place, stretch, status=dg.DagsterRunStatus.SUCCESS, wanted="2"):
    return place.instance.create_run_for_job(
        defs.resolve_job_def("sources_job"),
        tags={
            REBUILD_TAG: "rebuild_small/2026-11-30T03:00",
            RECIPES_TAG: "small",
            "qwenft/sampling_runs": wanted,
            "qwenft/why": "because",
            "dagster/asset_partition_range_start": stretch,
            "dagster/asset_partition_range_end": stretch,
        },
        status=status,
    )


def followed(place, run) -> Any:
    repository = defs.get_repository_def()
    sensor: Any = repository.get_sensor_def("continue_rebuild")
    event = dg.DagsterEvent(
        event_type_value="PIPELINE_SUCCESS", job_name="sources_job", message="done"
    )
    context = dg.build_run_status_sensor_context(
        sensor_name="continue_rebuild",
        dagster_event=event,
        dagster_instance=place.instance,
        dagster_run=run,
        repository_def=repository,
        resources=RESOURCES,
    )
    return sensor(context)


def test_the_mixture_follows_when_all_sources_are_sampled(place):
    first = finished(place, "local_reports")
    assert "1 of 2 sampling runs are there" in followed(place, first).skip_message
    failed = finished(place, "pubmedqa", dg.DagsterRunStatus.FAILURE)
    assert "samples pubmedqa is FAILURE" in followed(place, first).skip_message
    again = finished(place, "pubmedqa")
    (request,) = followed(place, again)
    assert request.job_name == "finetune_job"
    assert request.partition_key == "small"
    assert request.tags[REBUILD_TAG] == failed.tags[REBUILD_TAG]
    assert request.run_key == "rebuild_small/2026-11-30T03:00/finetune_job/small"


def test_a_run_by_hand_is_followed_by_nothing(place):
    run = place.instance.create_run_for_job(defs.resolve_job_def("sources_job"))
    assert "no part of a rebuild" in followed(place, run).skip_message


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


def test_the_hub_sensor_asks_each_repository_once_and_starts_what_moved(place, upstream):
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
    moved = sensor_tick(place, "hub_revisions_changed")
    assert stretches(moved) == [("slimorca", "slimorca")]
    again = sensor_tick(place, "hub_revisions_changed", moved.cursor)
    assert "requested before" in again.skip_message


def test_the_hub_sensor_starts_nothing_while_the_hub_is_down(place, upstream):
    place.sample("slimorca")
    upstream.faults.fraction, upstream.faults.kinds = 1.0, ("503",)
    tick = sensor_tick(place, "hub_revisions_changed")
    assert tick.run_requests == []
    assert "slimorca: upstream cannot be asked: " in tick.skip_message
    assert "failed after 2 attempts" in tick.skip_message


def test_a_release_is_published_where_the_config_says_so(place):
    run = place.instance.create_run_for_job(
        defs.resolve_job_def("finetune_job"),
        tags={REBUILD_TAG: "rebuild_small/2026-11-30T03:00", "dagster/partition": "small"},
        status=dg.DagsterRunStatus.SUCCESS,
    )
    assert "publishing.target is null" in followed(place, run).skip_message
    place.write_config(f'publishing: {{target: folder, folder: "{place.folder}"}}')
    (request,) = followed(place, run)
    assert (request.job_name, request.partition_key) == ("publish_job", "small")
