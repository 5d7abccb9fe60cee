"""What automation conditions request: on new data versions only, and `large` only where named."""

import dagster as dg
import pytest

from qwenft_assets.assets.upstream import observation
from qwenft_assets.config import RECIPE_NAMES, SOURCE_NAMES, Config
from qwenft_assets.definitions import build_defs

CHAIN = ("mixed_dataset", "lora_adapter", "evaluation", "release")
OF_SMALL = ("local_reports", "slimorca", "pubmedqa")
BY_CONDITION = {"dagster/from_automation_condition": "true"}
WHOLE_CHAIN = {name: {"small"} for name in CHAIN}


class World:
    """An instance, the graph of a config, and what its conditions have seen so far."""

    def __init__(self, instance):
        self.instance = instance
        self.restart()

    def restart(self, *recipes, **sections):
        """Another config, and a daemon that has seen nothing yet."""
        automation = {"recipes": recipes or ["small"], **sections.pop("automation", {})}
        config = Config.model_validate({"name": "own", "automation": automation, **sections})
        self.defs, self.cursor = build_defs(config), None
        # The first look only takes note of what is there.
        assert self.requested() == {}

    def observe(self, version, *sources):
        for source in sources:
            self.instance.report_runless_asset_event(observation(source, version))

    def sample(self, version, *sources, **tags):
        """Samples, as a run with these tags would leave them."""
        for source in sources or SOURCE_NAMES:
            self.tell("source_sample", source, version, tags)

    def build(self, version):
        for asset in CHAIN:
            for recipe in RECIPE_NAMES:
                self.tell(asset, recipe, version)

    def tell(self, asset, partition, version, tags=None):
        event = dg.AssetMaterialization(
            asset,
            partition=partition,
            metadata={"revision": version},
            tags={"dagster/data_version": version},
        )

        @dg.op(name=f"make_{asset}", out=dg.Out(dg.Nothing))
        def make():
            yield event
            yield dg.Output(None)

        @dg.job(name=f"{asset}_job")
        def job():
            make()

        job.execute_in_process(instance=self.instance, tags=tags or {})

    def requested(self):
        result = dg.evaluate_automation_conditions(
            defs=self.defs, instance=self.instance, cursor=self.cursor
        )
        self.cursor = result.cursor
        names = ("source_sample", *CHAIN, "published_adapter")
        found = {name: result.get_requested_partitions(dg.AssetKey(name)) for name in names}
        return {name: keys for name, keys in found.items() if keys}


@pytest.fixture
def world():
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(instance)


def test_another_commit_samples_the_sources_of_that_repository_which_a_recipe_mixes(world):
    world.sample("1")
    world.observe("1", *SOURCE_NAMES)
    assert world.requested() == {}, "they were read from what is there"
    world.observe("1", "slimorca", "local_reports")
    assert world.requested() == {}
    world.observe("2", "stackexchange_ai", "stackexchange_ic")
    assert world.requested() == {}, "no recipe of automation.recipes mixes them"
    world.observe("2", "slimorca")
    assert world.requested() == {"source_sample": {"slimorca"}}
    assert world.requested() == {}, "not twice"
    world.observe("2", "local_reports")
    assert world.requested() == {"source_sample": {"local_reports"}}


def test_what_was_never_sampled_is_not_sampled_because_it_was_seen(world):
    world.observe("1", "slimorca")
    assert world.requested() == {}


def test_what_a_sampling_run_reports_of_upstream_starts_nothing(world):
    world.sample("a")
    world.requested()
    world.sample("b", "slimorca")
    world.observe("b", "slimorca")
    assert "source_sample" not in world.requested()


def test_nothing_is_mixed_while_one_of_its_sources_was_never_sampled(world):
    world.sample("a", *OF_SMALL[:2], **BY_CONDITION)
    assert world.requested() == {}
    world.sample("a", OF_SMALL[2], **BY_CONDITION)
    assert world.requested() == WHOLE_CHAIN, "whatever becomes of the sources of `large`"


def test_large_is_requested_where_the_config_names_it(world):
    world.restart(*RECIPE_NAMES)
    world.sample("a", **BY_CONDITION)
    assert world.requested() == {name: {"small", "large"} for name in CHAIN}


def test_samples_with_the_same_data_version_request_nothing_and_another_one_does(world):
    world.sample("a")
    world.build("a")
    world.requested()
    world.sample("a", **BY_CONDITION)
    assert world.requested() == {}
    world.sample("b", "pubmedqa", **BY_CONDITION)
    assert world.requested() == WHOLE_CHAIN


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_a_schedule_is_followed_for_its_own_recipe_named_or_not(world, recipe):
    world.sample("a")
    world.build("a")
    world.requested()
    # Also by equal samples: the champion is confirmed.
    world.sample("a", "pubmedqa", **{"dagster/schedule_name": f"rebuild_{recipe}"})
    assert world.requested() == {name: {recipe} for name in CHAIN}


def test_work_by_hand_is_followed_only_where_the_config_says_so(world):
    world.sample("a")
    world.build("a")
    world.requested()
    world.sample("b", "pubmedqa")
    world.tell("mixed_dataset", "small", "b")
    assert world.requested() == {}
    world.restart(automation={"switched_on": ["automation_conditions"]})
    world.tell("mixed_dataset", "small", "c")
    assert world.requested()["lora_adapter"] == {"small"}
    world.build("c")
    world.requested()
    world.sample("c", "pubmedqa")
    assert world.requested()["mixed_dataset"] == {"small"}


def test_a_champion_is_published_where_the_config_says_so(world):
    world.restart(publishing={"target": "folder", "folder": "/nowhere"})
    world.sample("a", **BY_CONDITION)
    assert world.requested() == {**WHOLE_CHAIN, "published_adapter": {"small"}}
