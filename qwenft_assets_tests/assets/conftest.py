"""Graphs of the first assets, each on a storage of its own."""

import dagster as dg
import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.assets.mixture_graph import CONFIG, Graph

REPORTS = PROJECT_ROOT / "data" / "my_dataset.json"


@pytest.fixture
def make_graph(tmp_path, monkeypatch):
    def make(rows=40, reports=REPORTS, mixture="seed: 42"):
        monkeypatch.setenv("QWENFT_STORAGE", str(tmp_path / "storage"))
        monkeypatch.delenv("QWENFT_SOURCES_ORIGIN", raising=False)
        path = tmp_path / "tiny.yaml"
        path.write_text(
            CONFIG.format(rows=rows, reports=reports, mixture=mixture), encoding="utf-8"
        )
        return Graph(str(path), Storage(tmp_path / "storage"), instance)

    with dg.DagsterInstance.ephemeral() as instance:
        yield make


@pytest.fixture
def mixed(make_graph):
    """A graph with its samples and an intact mixture."""
    graph = make_graph()
    assert graph.sample().success
    graph.mix()
    return graph
