"""A tiny deployment whose mixture is there and whose adapter is not."""

from pathlib import Path

import pytest

from qwenft_assets_tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-qwen2"
    write_tiny_model(folder)
    return folder
