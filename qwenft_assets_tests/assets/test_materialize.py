"""The first two assets materialised: what the instance is told, and how a run fails."""

from qwenft_assets.storage.files import read_json
from qwenft_assets_tests.assets.mixture_graph import (
    FIRST,
    checks_of,
    failures_of,
    metadata_of,
    records_of,
    steps_started,
)


def test_samples_are_one_materialization_a_partition(make_graph):
    graph = make_graph()
    events = graph.sample().get_asset_materialization_events()
    by_partition = {event.partition: event.materialization for event in events}
    assert list(by_partition) == ["local_reports", "slimorca", "pubmedqa"]
    for source, materialization in by_partition.items():
        manifest = read_json(graph.storage.source_sample(source) / "manifest.json") or {}
        assert materialization.tags["dagster/data_version"] == manifest["version"]
        assert materialization.metadata["dagster/row_count"].value == manifest["rows"] > 0
        assert len(materialization.metadata["first_rows"].records) == 5


def test_an_intact_mixture_passes_its_checks_and_training_begins(make_graph):
    graph = make_graph()
    assert graph.sample().success
    result = graph.mix()
    _, passed = checks_of(result)
    assert passed == {
        "schema_valid": True,
        "ratios_kept_or_shortfall_named": True,
        "no_leakage": True,
        "no_contamination": True,
    }
    assert steps_started(result) == ["mixed_dataset", "lora_adapter"]
    assert "/nowhere: no such folder" in failures_of(result)["lora_adapter"]
    shown = metadata_of(result, "mixed_dataset")
    assert (shown["dagster/row_count"].value, shown["eval_rows"].value) == (40, 4)
    rows = {record["source"]: record["rows"] for record in records_of(shown["rows_by_source"])}
    assert rows == {"local_reports": 10, "slimorca": 20, "pubmedqa": 10}
    assert shown["unchanged"].value is False
    assert sum(record["rows"] for record in records_of(shown["licenses"])) == 40
    ratios = {record["part"]: record for record in records_of(shown["ratios"])}
    assert ratios["slimorca"] == {
        "part": "slimorca",
        "asked": 0.5,
        "got_by_rows": 0.5,
        "short_rows": 0,
    }
    assert shown["diff"].value == "first build"
    assert "/nowhere: no such folder" in shown["lengths_unknown"].value
    dropped = {record["reason"]: record["rows"] for record in records_of(shown["dropped"])}
    assert dropped == {
        "frozen_eval": 0,
        "contaminated": 0,
        "duplicate": 0,
        "near_duplicate": 0,
        "over_long": 0,
    }


def test_a_shortfall_is_named_and_passes(make_graph):
    graph = make_graph(rows=400)
    assert graph.sample().success
    result = graph.mix()
    checks, passed = checks_of(result)
    check = checks["ratios_kept_or_shortfall_named"]
    assert passed["ratios_kept_or_shortfall_named"] is True
    manifest = read_json(graph.storage.mixed_dataset("small") / "manifest.json") or {}
    assert manifest["shortfall"]
    assert check.metadata["shortfall"].value == manifest["shortfall"]
    log = graph.instance.all_logs(result.run_id)
    for source, missing in manifest["shortfall"].items():
        line = f"mixed_dataset small: {source} is {missing} rows short of its ratio"
        assert any(line in entry.user_message for entry in log)


def test_a_broken_source_fails_the_run_with_its_one_line(make_graph, tmp_path):
    reports = tmp_path / "reports.json"
    reports.write_text('[{"instruction": "What is a transistor?"}]', encoding="utf-8")
    result = make_graph(reports=reports).sample(FIRST, FIRST)
    assert not result.success
    description = failures_of(result)["source_sample"]
    assert description.startswith(f"{reports}: row 1: ")
    assert "'output'" in description
    assert "\n" not in description
    assert not result.get_asset_materialization_events()


def test_a_source_that_was_not_sampled_fails_the_mixture_with_the_command_to_run(make_graph):
    graph = make_graph()
    assert graph.sample(FIRST, FIRST).success
    result = graph.mix()
    assert (
        "slimorca is not sampled, or its sample is damaged" in failures_of(result)["mixed_dataset"]
    )
    assert "--partition slimorca" in failures_of(result)["mixed_dataset"]
    assert steps_started(result) == ["mixed_dataset"]
