"""Single ticks of the schedules: what they request, and what they say when they do not."""

from typing import Any

import dagster as dg

from qwenft_assets.automation.schedules import confirm_unchanged
from qwenft_assets.definitions import defs
from qwenft_assets.partitions import SOURCES
from qwenft_assets_tests.automation.ticks import SMALL, schedule_tick, stretches


def test_everything_is_off_until_switched_on_but_what_follows_it():
    repository = defs.get_repository_def()
    instigators = [*repository.schedule_defs, *repository.sensor_defs]
    on = {each.name for each in instigators if each.default_status.value == "RUNNING"}
    assert on == {"automation_conditions", "report_failure"}
    assert {each.name for each in instigators} - on == {
        "rebuild_small",
        "rebuild_large",
        "local_reports_changed",
        "hub_revisions_changed",
    }
    assert all(len(each.description or "") > 60 for each in instigators)


def test_the_first_tick_samples_every_source_of_the_recipe_in_one_run(place):
    tick = schedule_tick(place)
    assert stretches(tick) == [("local_reports", "pubmedqa")]
    assert tick.run_requests[0].tags["qwenft/rebuild"] == "rebuild_small/2026-11-30T03:00"
    assert stretches(schedule_tick(place, "rebuild_large")) == [
        ("local_reports", "stackexchange_biomed")
    ]


def test_only_what_changed_is_sampled(place):
    sample_in_a_run(place)
    place.reports.write_text(place.reports.read_text("utf-8") + "\n", encoding="utf-8")
    place.write_config("mixture: {seed: 1}")
    tick = schedule_tick(place)
    assert stretches(tick) == [("local_reports", "local_reports")]
    assert "local_reports: revision " in tick.run_requests[0].tags["qwenft/why"]


def test_a_sample_that_this_instance_has_never_seen_made_is_reported_beside_what_changed(place):
    place.sample(*SMALL)
    place.reports.write_text(place.reports.read_text("utf-8") + "\n", encoding="utf-8")
    assert stretches(schedule_tick(place)) == [("local_reports", "pubmedqa")]


def test_a_sample_that_failed_beside_another_does_not_hold_the_mixture_back(place):
    assert sample_in_a_run(place).success
    right = place.reports.read_text("utf-8")
    place.reports.write_text("[", encoding="utf-8")
    assert not sample_in_a_run(place).success
    assert set(statuses(place)) == {"FAILED"}
    place.reports.write_text(right + "\n", encoding="utf-8")
    assert stretches(schedule_tick(place)) == [("local_reports", "local_reports")]
    assert statuses(place) == ["FAILED", "MATERIALIZED", "MATERIALIZED"]


def sample_in_a_run(place):
    return defs.resolve_job_def("sources_job").execute_in_process(
        instance=place.instance,
        tags={
            "dagster/asset_partition_range_start": SMALL[0],
            "dagster/asset_partition_range_end": SMALL[-1],
        },
        raise_on_error=False,
    )


def statuses(place):
    key = dg.AssetKey("source_sample")
    found = place.instance.get_status_by_partition(key, list(SMALL), SOURCES)
    return [found[source].name for source in SMALL]


def test_a_missing_mixture_is_due_although_no_source_changed(place):
    place.sample(*SMALL)
    tick = schedule_tick(place)
    assert stretches(tick) == [("local_reports", "pubmedqa")]
    assert tick.run_requests[0].tags["qwenft/why"] == "no source changed, but no mixture yet"


def test_a_rebuild_under_way_is_not_started_twice(place):
    run = place.instance.create_run_for_job(
        defs.resolve_job_def("finetune_job"),
        tags={"dagster/partition": "small"},
        status=dg.DagsterRunStatus.STARTED,
    )
    tick = schedule_tick(place)
    assert tick.run_requests == []
    assert run.run_id in tick.skip_message


def test_a_config_without_the_recipe_skips(place):
    ratios = "{local_reports: 1}"
    place.write_config(f"mixture: {{recipes: {{small: {{rows: 9, ratios: {ratios}}}}}}}")
    assert "has no recipe large" in schedule_tick(place, "rebuild_large").skip_message


def test_a_tick_without_news_confirms_what_stands_with_the_figures_it_has(place):
    def tell(asset, partition):
        place.instance.report_runless_asset_event(
            dg.AssetMaterialization(
                asset,
                partition=partition,
                metadata={"perplexity": 12.5, "unchanged": False},
                tags={"dagster/data_version": "v1"},
            )
        )

    for source in SMALL:
        tell("source_sample", source)
    tell("release", "small")
    confirm_unchanged(place.instance, ["slimorca"], "small")
    for asset, partition, events in (
        ("source_sample", "slimorca", 2),
        ("source_sample", "pubmedqa", 1),
        ("release", "small", 2),
    ):
        filters = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[partition])
        records = place.instance.fetch_materializations(filters, limit=9).records
        assert len(records) == events
        newest: Any = records[0].asset_materialization
        assert newest.metadata["perplexity"].value == 12.5
        assert newest.metadata["unchanged"].value is (events == 2)
        assert newest.tags["dagster/data_version"] == "v1"
