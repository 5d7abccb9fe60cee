"""What automation conditions request: on new data versions only, and `large` only where named."""

import dagster as dg
import pytest

from qwenft_assets.config import RECIPE_NAMES, SOURCE_NAMES, Config
from qwenft_assets.definitions import build_defs

CHAIN = ("mixed_dataset", "lora_adapter", "evaluation", "release")


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def defs_of(*recipes):
    settings = {"name": "own", "automation": {"recipes": recipes}}
    return build_defs(Config.model_validate(settings))


def sample(instance, version, sources=SOURCE_NAMES):
    for source in sources:
        tell(instance, "source_sample", source, version)


def tell(instance, asset, partition, version):
    instance.report_runless_asset_event(
        dg.AssetMaterialization(asset, partition=partition, tags={"dagster/data_version": version})
    )


def requested(instance, cursor=None, recipes=("small",)):
    defs = defs_of(*recipes)
    result = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=cursor)
    found = {name: result.get_requested_partitions(dg.AssetKey(name)) for name in CHAIN}
    return {name: keys for name, keys in found.items() if keys}, result.cursor


def build(instance, version):
    for asset in CHAIN:
        for recipe in RECIPE_NAMES:
            tell(instance, asset, recipe, version)


def test_nothing_is_requested_while_a_source_was_never_sampled(instance):
    _, cursor = requested(instance)
    sample(instance, "a", SOURCE_NAMES[:-1])
    assert requested(instance, cursor)[0] == {}


def test_the_first_samples_request_small_and_never_large(instance):
    # The first look only takes note of what is there.
    _, cursor = requested(instance)
    sample(instance, "a")
    assert requested(instance, cursor)[0] == {name: {"small"} for name in CHAIN}


def test_large_is_requested_where_the_config_names_it(instance):
    _, cursor = requested(instance, recipes=RECIPE_NAMES)
    sample(instance, "a")
    assert requested(instance, cursor, RECIPE_NAMES)[0] == {
        name: {"small", "large"} for name in CHAIN
    }


def test_samples_with_the_same_data_version_request_nothing_and_another_one_does(instance):
    sample(instance, "a")
    build(instance, "a")
    _, cursor = requested(instance)
    sample(instance, "a")
    found, cursor = requested(instance, cursor)
    assert found == {}
    sample(instance, "b", ["pubmedqa"])
    found, cursor = requested(instance, cursor)
    assert found == {"mixed_dataset": {"small"}}
    # The rows of the mixture did not change after all: nothing is trained.
    tell(instance, "mixed_dataset", "small", "a")
    assert requested(instance, cursor)[0] == {}


def test_a_new_mixture_is_trained_and_evaluated(instance):
    sample(instance, "a")
    build(instance, "a")
    _, cursor = requested(instance)
    tell(instance, "mixed_dataset", "small", "b")
    found, cursor = requested(instance, cursor)
    assert found["lora_adapter"] == {"small"}
    assert set().union(*found.values()) == {"small"}
