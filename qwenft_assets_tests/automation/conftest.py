"""A deployment on the bundled samples, and an instance, for ticks evaluated in this process."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from qwenft_assets.config import PROJECT_ROOT, Config, SourceName, load_config
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.root import Storage

CONFIG = """
sources: {{local_reports: {{path: "{reports}"}}}}
training: {{base_model: "{base}", device: cpu, weights: fp32}}
{more}
"""


@dataclass(frozen=True)
class Place:
    """A config with its storage and reports, below one folder; the environment names it."""

    folder: Path
    instance: dg.DagsterInstance

    @property
    def reports(self) -> Path:
        return self.folder / "reports.json"

    @property
    def config(self) -> Config:
        return load_config()

    @property
    def storage(self) -> Storage:
        return Storage(self.folder / "storage")

    def write_config(self, more: str = "") -> None:
        text = CONFIG.format(reports=self.reports, base=self.folder / "no-model", more=more)
        (self.folder / "own.yaml").write_text(text, encoding="utf-8")

    def sample(self, *sources: SourceName) -> None:
        for source in sources:
            sample_source(self.config, source, self.storage)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("QWENFT_CONFIG", str(tmp_path / "own.yaml"))
    monkeypatch.setenv("QWENFT_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("QWENFT_SOURCES_ORIGIN", raising=False)
    shutil.copy(PROJECT_ROOT / "data" / "my_dataset.json", tmp_path / "reports.json")
    with dg.instance_for_test() as instance:
        place = Place(tmp_path, instance)
        place.write_config()
        yield place
