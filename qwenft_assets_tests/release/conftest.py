"""A registry of its own for each test."""

import pytest

from qwenft_assets_tests.release.made_up import Registry


@pytest.fixture
def registry(storage):
    return Registry(storage)
