"""The two things almost every test needs: the demo's settings, and a place to write."""

from pathlib import Path

import pytest

from qwenft_assets.config import PROJECT_ROOT, Config
from qwenft_assets.config_file import load_config
from qwenft_assets.storage import Storage

ENVIRONMENT = ("QWENFT_CONFIG", "QWENFT_STORAGE", "QWENFT_SOURCES_ORIGIN")


@pytest.fixture
def demo_config(monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return load_config(PROJECT_ROOT / "configs" / "demo.yaml")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path / "storage")
    storage.ensure_writable()
    return storage
