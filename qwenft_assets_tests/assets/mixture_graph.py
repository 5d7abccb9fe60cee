"""The first assets on an ephemeral instance, and how to read and damage what they leave."""

import json
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow as pa

from qwenft_assets.assets.mixture import mixed_dataset
from qwenft_assets.assets.sources import source_sample
from qwenft_assets.assets.training import lora_adapter
from qwenft_assets.resources import GpuResource, ProjectResource, WorkerResource
from qwenft_assets.rows import MIXED_SCHEMA
from qwenft_assets.storage.files import (
    read_json,
    read_parquet,
    sha256_of_file,
    write_json,
    write_parquet,
    write_text,
)
from qwenft_assets.storage.root import MIXTURE_FILE, Storage

CONFIG = """
mixture:
  {mixture}
  recipes:
    small: {{rows: {rows}, ratios: {{local_reports: 0.25, slimorca: 0.50, pubmedqa: 0.25}}}}
sources:
  local_reports: {{path: "{reports}"}}
training: {{base_model: /nowhere, device: cpu, weights: fp32, min_vram_gib: 0}}
"""
FIRST, LAST = "local_reports", "pubmedqa"


@dataclass(frozen=True)
class Graph:
    """The graph on a config and a storage of its own."""

    config_path: str
    storage: Storage
    instance: dg.DagsterInstance

    def materialize(self, *assets: Any, **options: Any) -> dg.ExecuteInProcessResult:
        resources = {
            "project": ProjectResource(config_path=self.config_path),
            "gpu": GpuResource(),
            "worker": WorkerResource(),
        }
        return dg.materialize(
            list(assets),
            instance=self.instance,
            resources=resources,
            raise_on_error=False,
            **options,
        )

    def sample(self, first: str = FIRST, last: str = LAST) -> dg.ExecuteInProcessResult:
        tags = {
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        }
        return self.materialize(source_sample, tags=tags)

    def mix(self) -> dg.ExecuteInProcessResult:
        """The mixture, and training behind it where no check blocks."""
        assets = (source_sample, mixed_dataset, lora_adapter)
        return self.materialize(
            *assets, partition_key="small", selection=[mixed_dataset, lora_adapter]
        )


def checks_of(result):
    evaluations = {check.check_name: check for check in result.get_asset_check_evaluations()}
    return evaluations, {name: check.passed for name, check in evaluations.items()}


def failures_of(result):
    return {
        event.step_key: event.step_failure_data.user_failure_data.description
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
    }


def steps_started(result):
    return [event.step_key for event in result.all_events if event.event_type_value == "STEP_START"]


def metadata_of(result, asset):
    events = result.get_asset_materialization_events()
    (event,) = [event for event in events if event.asset_key == dg.AssetKey(asset)]
    return event.materialization.metadata


def records_of(table):
    return [record.data for record in table.records]


def replace_rows(storage, change):
    """Rewrite rows.parquet and the JSONL after `change`, with the hashes in the manifest."""
    folder = storage.mixed_dataset("small")
    rows = read_parquet(folder / "rows.parquet").to_pylist()
    change(rows)
    write_parquet(folder / "rows.parquet", pa.Table.from_pylist(rows, schema=MIXED_SCHEMA))
    keys = ("instruction", "input", "output")
    replace_lines(storage, [{key: row[key] for key in keys} for row in rows])


def replace_lines(storage, values):
    folder = storage.mixed_dataset("small")
    lines = [json.dumps(value, ensure_ascii=False) + "\n" for value in values]
    write_text(folder / MIXTURE_FILE, "".join(lines))
    manifest = read_json(folder / "manifest.json") or {}
    files = {name: sha256_of_file(folder / name) for name in manifest["files"]}
    write_json(folder / "manifest.json", {**manifest, "files": files})


def lines_of(storage):
    text = (storage.mixed_dataset("small") / MIXTURE_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]
