"""A source is a file and a field: its code is found by its name."""

import pytest

from qwenft_assets.config import SOURCE_NAMES, SourcesConfig
from qwenft_assets.sources.registry import bundled_sources, repositories, scan_source
from qwenft_assets.sources.scan import Scan


def test_every_field_but_origin_and_processes_is_a_source_in_this_order():
    others = {"origin"}
    assert tuple(name for name in SourcesConfig.model_fields if name not in others) == SOURCE_NAMES


@pytest.mark.parametrize("source", bundled_sources())
def test_a_source_is_read_by_the_code_that_bears_its_name(demo_config, source):
    scan = scan_source(demo_config, source)
    assert isinstance(scan, Scan)
    assert scan.shards


def test_only_the_users_own_rows_have_no_public_repository():
    assert [name for name in SOURCE_NAMES if name not in repositories()] == ["local_reports"]
    assert all(repo_id.count("/") == 1 for repo_id in repositories().values())


def test_the_demo_samples_all_sources_that_came_with_it():
    assert set(SOURCE_NAMES[:6]) <= set(bundled_sources())
