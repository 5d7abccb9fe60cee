"""The graph as Dagster sees it, and that looking at it costs no heavy import."""

import os
import pkgutil
import subprocess
import sys
from typing import Any

import dagster as dg
import pytest

import qwenft_assets
from qwenft_assets.config import RECIPE_NAMES, SOURCE_NAMES, Config
from qwenft_assets.definitions import build_defs, defs
from qwenft_assets.resources import GpuResource

FLOW = ["source_sample", "mixed_dataset", "lora_adapter", "evaluation", "release"]
UPSTREAM = {"dataset_commits", "reports_file"}
GROUPS = ["sources", "mixture", "training", "evaluation", "release"]
OPTIONAL = "published_adapter"
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "unsloth",
    "bitsandbytes",
    "accelerate",
)


def node(name) -> Any:
    return defs.resolve_asset_graph().get(dg.AssetKey(name))


def test_the_graph_is_what_is_read_then_five_assets_in_flow_order_and_an_optional_one():
    names = [key.to_user_string() for key in defs.resolve_asset_graph().toposorted_asset_keys]
    assert set(names[:2]) == UPSTREAM
    assert [*FLOW, OPTIONAL] == names[2:]
    parents = {name: {key.to_user_string() for key in node(name).parent_keys} for name in names}
    assert parents == {
        **{name: set() for name in UPSTREAM},
        "source_sample": UPSTREAM,
        "mixed_dataset": {"source_sample"},
        "lora_adapter": {"mixed_dataset"},
        "evaluation": {"lora_adapter", "mixed_dataset"},
        "release": {"evaluation", "mixed_dataset"},
        OPTIONAL: {"release"},
    }


@pytest.mark.parametrize(
    ("name", "group"), [*zip(FLOW, GROUPS, strict=True), (OPTIONAL, "release")]
)
def test_every_asset_is_described(name, group):
    asset = node(name)
    assert asset.group_name == group
    assert asset.kinds
    assert asset.owners == ["team:qwenft"]
    assert asset.code_version
    assert len(asset.description) > 40


def test_what_is_read_is_observed_and_each_sample_comes_from_its_own_place():
    graph = defs.resolve_asset_graph()
    seen = []
    for name in UPSTREAM:
        assert node(name).is_observable
        assert not node(name).is_materializable
        assert len(node(name).description) > 30
        keys = node(name).partitions_def.get_partition_keys()
        seen += keys
        mapping = node("source_sample").partition_mappings[dg.AssetKey(name)]
        for key in keys:
            subset = node(name).partitions_def.subset_with_partition_keys([key])
            below = mapping.get_downstream_partitions_for_partitions(
                subset, node(name).partitions_def, node("source_sample").partitions_def
            )
            assert list(below.get_partition_keys()) == [key]
    assert sorted(seen) == sorted(SOURCE_NAMES)
    assert graph.observable_asset_keys == {dg.AssetKey(name) for name in UPSTREAM}


def test_partitions_are_the_sources_and_the_recipes():
    assert node("source_sample").partitions_def.get_partition_keys() == list(SOURCE_NAMES)
    for name in (*FLOW[1:], OPTIONAL):
        assert node(name).partitions_def.get_partition_keys() == list(RECIPE_NAMES)


def test_what_uses_the_gpu_stands_in_one_queue():
    assert [name for name in FLOW if node(name).pools == {"gpu"}] == ["lora_adapter", "evaluation"]


def test_two_jobs_rebuild_everything_and_a_third_publishes():
    selected = [
        {
            key.to_user_string()
            for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys
        }
        for job in ("sources_job", "finetune_job", "publish_job")
    ]
    assert selected == [{"source_sample"}, set(FLOW[1:]), {OPTIONAL}]


def test_a_rebuild_is_one_plus_away_from_the_mixture_and_does_not_publish():
    graph = defs.resolve_asset_graph()
    selected = dg.AssetSelection.from_string("mixed_dataset+").resolve(graph)
    assert {key.to_user_string() for key in selected} == set(FLOW[1:])


def test_blocking_checks_guard_mixture_and_adapter():
    checks = {
        key.name: defs.resolve_asset_graph().get(key).blocking
        for key in defs.resolve_asset_graph().asset_check_keys
    }
    graph: Any = defs.resolve_asset_graph()
    for key in graph.asset_check_keys:
        assert graph.get(key).partitions_def.get_partition_keys() == list(RECIPE_NAMES)
    assert checks == {
        "schema_valid": True,
        "ratios_kept_or_shortfall_named": True,
        "no_leakage": True,
        "no_contamination": True,
        "release_gate": True,
        "loss_is_finite": True,
        "adapter_better_than_base": False,
    }


@pytest.mark.parametrize("module", ["qwenft_assets.definitions", "qwenft_assets.cli"])
def test_importing_loads_no_heavy_module(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_another_config_gives_another_graph():
    automation = {
        "switched_on": ["rebuild_small"],
        "rebuild_small_cron": "5 4 * * 2",
        "fresh_days": None,
    }
    own = build_defs(Config.model_validate({"name": "own", "automation": automation}))
    schedule = own.resolve_schedule_def("rebuild_small")
    assert schedule.cron_schedule == "5 4 * * 2"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert defs.resolve_schedule_def("rebuild_small").cron_schedule == "0 3 * * 1"
    assert node("release").freshness_policy
    assert not own.resolve_asset_graph().get(dg.AssetKey("release")).freshness_policy


def test_a_resource_is_replaced_by_name():
    own = build_defs(Config(name="own"), resources={"gpu": GpuResource(device="cpu")})
    found: Any = own.resources
    assert found["gpu"].device == "cpu"
    assert set(found) == set(defs.resources or {})


def test_only_the_definitions_read_a_config_on_import():
    names = [
        module.name
        for module in pkgutil.walk_packages(qwenft_assets.__path__, "qwenft_assets.")
        if not module.name.endswith(("__main__", ".definitions"))
    ]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "QWENFT_CONFIG": "/nowhere/broken.yaml"},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "Warning" not in answer.stderr


def test_looking_at_the_graph_warns_of_nothing():
    answer = subprocess.run(
        [sys.executable, "-c", "import qwenft_assets.definitions"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stderr == ""
