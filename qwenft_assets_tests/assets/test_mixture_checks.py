"""The checks read what lies on disk: a planted fault stops the run before anything is trained on it."""

import json

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenft_assets.assets.mixture import mixed_dataset
from qwenft_assets.assets.sources import source_sample
from qwenft_assets.resources import ProjectResource
from qwenft_assets.rows import MIXED_SCHEMA
from qwenft_assets.storage import MIXTURE_FILE, Storage, read_json, sha256_of_file, write_json
from qwenft_assets_tests.commands import make_deployment


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A deployment whose sources are sampled and whose mixture is built."""
    deployment = make_deployment(tmp_path, "unused")
    monkeypatch.setenv("QWENFT_STORAGE", str(deployment.storage))
    resource = ProjectResource(config_path=str(deployment.config))
    for source in ("local_reports", "slimorca", "pubmedqa"):
        assert dg.materialize(
            [source_sample], resources={"project": resource}, partition_key=source
        ).success
    assert build(resource).success
    return resource, Storage(deployment.storage).mixed_dataset("small")


@dg.asset(deps=[mixed_dataset], partitions_def=mixed_dataset.partitions_def)
def after_the_mixture() -> None:
    """Stands for training."""


def build(resource):
    return dg.materialize(
        [mixed_dataset, after_the_mixture],
        resources={"project": resource},
        partition_key="small",
        raise_on_error=False,
    )


def outcome(result):
    checks = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    return checks, any(e.step_key == "after_the_mixture" for e in result.get_step_success_events())


def believe(folder):
    """Make the builder take the files as they are for its own."""
    manifest = read_json(folder / "manifest.json") or {}
    manifest["sha256"] = sha256_of_file(folder / MIXTURE_FILE)
    manifest["rows_sha256"] = sha256_of_file(folder / "rows.parquet")
    write_json(folder / "manifest.json", manifest)


def test_a_sound_mixture_passes(project):
    resource, _ = project
    checks, went_on = outcome(build(resource))
    assert checks == {
        "schema_valid": True,
        "ratios_kept_or_shortfall_named": True,
        "no_row_in_both_splits": True,
    }
    assert went_on


def test_a_question_on_both_sides_stops_the_run(project):
    resource, folder = project
    table = pq.read_table(folder / "rows.parquet")
    sides = table.column("split").to_pylist()
    row = sides.index("train")
    double = table.slice(row, 1).set_column(
        table.schema.get_field_index("split"), MIXED_SCHEMA.field("split"), pa.array(["eval"])
    )
    pq.write_table(pa.concat_tables([table, double]), folder / "rows.parquet")
    lines = (folder / MIXTURE_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / MIXTURE_FILE).write_text("".join([*lines, lines[row]]), encoding="utf-8")
    believe(folder)
    checks, went_on = outcome(build(resource))
    assert checks["schema_valid"]
    assert not checks["no_row_in_both_splits"]
    assert not went_on


def test_a_line_with_another_key_stops_the_run(project):
    resource, folder = project
    lines = (folder / MIXTURE_FILE).read_text(encoding="utf-8").splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "source": "slimorca"})
    (folder / MIXTURE_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    believe(folder)
    checks, went_on = outcome(build(resource))
    assert not checks["schema_valid"]
    assert not went_on


@pytest.mark.parametrize("named", [True, False], ids=["shortfall-named", "unexplained"])
def test_ratios_may_be_off_only_with_a_reason(project, named):
    resource, folder = project
    manifest = read_json(folder / "manifest.json") or {}
    manifest["ratios_got"]["slimorca"] -= 0.05
    manifest["shortfall"] = {"slimorca": 2} if named else {}
    write_json(folder / "manifest.json", manifest)
    checks, went_on = outcome(build(resource))
    assert checks["ratios_kept_or_shortfall_named"] is named
    assert went_on is named


def test_a_source_that_is_not_sampled_fails_with_the_command_that_mends_it(project, tmp_path):
    resource, folder = project
    (folder.parent.parent / "source_sample" / "slimorca" / "manifest.json").unlink()
    failures = build(resource).filter_events(lambda event: event.is_step_failure)
    failure = failures[0].step_failure_data.user_failure_data
    assert failure is not None
    message = failure.description or ""
    assert "slimorca is not sampled" in message
    assert "--select source_sample --partition slimorca" in message
