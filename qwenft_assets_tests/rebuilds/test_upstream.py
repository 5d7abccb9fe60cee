"""Which sources a rebuild samples, and in how many runs."""

import pytest

from qwenft_assets.config import SOURCE_NAMES
from qwenft_assets.rebuilds.upstream import contiguous, sources_of_recipe


def test_a_rebuild_samples_only_what_its_recipe_mixes(demo_config):
    assert sources_of_recipe(demo_config, "small") == ["local_reports", "slimorca", "pubmedqa"]
    assert sources_of_recipe(demo_config, "large") == list(SOURCE_NAMES[:6])


@pytest.mark.parametrize(
    ("sources", "stretches"),
    [
        pytest.param(SOURCE_NAMES, [(SOURCE_NAMES[0], SOURCE_NAMES[-1])], id="all"),
        pytest.param(["slimorca"], [("slimorca", "slimorca")], id="one"),
        pytest.param(
            ["local_reports", "pubmedqa", "stackexchange_ai"],
            [("local_reports", "local_reports"), ("pubmedqa", "stackexchange_ai")],
            id="with-a-gap",
        ),
        pytest.param([], [], id="none"),
    ],
)
def test_neighbouring_partitions_share_a_run(sources, stretches):
    assert list(contiguous(sources)) == stretches
