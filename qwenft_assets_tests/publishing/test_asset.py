"""The asset `published_adapter`: off by default, a copy and a record of it where it is on."""

import dagster as dg
import pytest

from qwenft_assets.assets.publishing import published_adapter
from qwenft_assets.publishing.manifest import verify_copy
from qwenft_assets.resources import ProjectResource
from qwenft_assets_tests.publishing.conftest import VERSION


@pytest.fixture
def materialize(released):
    def run():
        with dg.DagsterInstance.ephemeral() as instance:
            return dg.materialize(
                [published_adapter],
                instance=instance,
                partition_key="small",
                resources={"project": ProjectResource()},
                raise_on_error=False,
            )

    return run


def test_asked_for_while_off_it_says_so_in_one_line(materialize):
    result = materialize()
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    description = failed.step_failure_data.user_failure_data.description
    assert description.startswith("publishing.target is null: publishing is off.")


def test_switched_on_it_publishes_the_champion_once(materialize, released, tmp_path):
    text = released.deployment.config.read_text(encoding="utf-8")
    released.deployment.config.write_text(
        text + f"  target: folder\n  folder: {tmp_path / 'copies'}\n", encoding="utf-8"
    )
    for unchanged in (False, True):
        (event,) = materialize().get_asset_materialization_events()
        shown = event.materialization.metadata
        assert shown["unchanged"].value is unchanged
        assert shown["adapter_version"].value == VERSION
        assert verify_copy(tmp_path / "copies" / f"adapter-small-{VERSION}").unlisted == ()
    assert event.materialization.tags["dagster/data_version"] == VERSION
    assert len(shown["files"].records) == len(
        verify_copy(tmp_path / "copies" / f"adapter-small-{VERSION}").manifest.files
    )
