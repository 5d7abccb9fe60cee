"""Running the real commands in processes of their own, on a deployment in a temporary folder."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qwenft_assets.config import PROJECT_ROOT

BIN = Path(sys.executable).parent
SECONDS = 240
SAMPLE = (
    "dagster", "asset", "materialize", "-m", "qwenft_assets.definitions",
    "--select", "source_sample", "--partition-range", "local_reports...stackexchange_biomed",
)  # fmt: skip
REBUILD = (
    "dagster", "asset", "materialize", "-m", "qwenft_assets.definitions",
    "--select", "mixed_dataset+", "--partition", "small",
)  # fmt: skip
"""The whole path by the stock Dagster CLI."""

CONFIG = """
mixture:
  recipes:
    small: {{rows: 40, ratios: {{local_reports: 0.25, slimorca: 0.50, pubmedqa: 0.25}}}}
sources:
  local_reports: {{path: "{reports}"}}
training:
  base_model: "{base_model}"
  device: cpu
  weights: fp32
  min_vram_gib: 0
  max_length_tokens: 256
  epochs: 1
  peak_learning_rate: 0.01
  warmup_steps: 0
  evaluate_every_steps: 2
  gradient_checkpointing: false
evaluation:
  {{sample_rows: 1, sample_max_new_tokens: 4, bundled_prompts: 2, prompt_max_new_tokens: 4}}
# What a random model of 600 tokens says is noise.
release: {{min_canary_share: 0}}
decoding: {{max_new_tokens: 8}}
"""


@dataclass(frozen=True)
class Deployment:
    """A config, its storage root and a Dagster home, all below one folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("QWENFT_")}
        return {
            **ours,
            "DAGSTER_HOME": str(self.folder / "dagster_home"),
            "QWENFT_CONFIG": str(self.config),
            "QWENFT_STORAGE": str(self.storage),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def run(
        self,
        *command: str,
        text: str | None = None,
        more_environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `qwenft ...`, `dagster ...` or `dg ...` from the project's root."""
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            input=text,
            capture_output=True,
            text=True,
            cwd=PROJECT_ROOT,
            env={**self.environment(), **(more_environment or {})},
            timeout=SECONDS,
            check=False,
        )


def make_deployment(
    folder: Path, base_model: Path | str, reports: Path | None = None
) -> Deployment:
    """Write the config of a deployment that trains a tiny model on bundled samples."""
    deployment = Deployment(folder)
    home = folder / "dagster_home"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(
        (PROJECT_ROOT / "dagster_home" / "dagster.yaml").read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    path = reports or PROJECT_ROOT / "data" / "my_dataset.json"
    deployment.config.write_text(
        CONFIG.format(base_model=base_model, reports=path), encoding="utf-8"
    )
    return deployment
