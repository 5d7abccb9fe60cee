"""A tiny Qwen2 that was really trained and evaluated, and the same once more with broken answers."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from qwenft_assets.config import PROJECT_ROOT, Config
from qwenft_assets.evaluation.evaluate import evaluate
from qwenft_assets.evaluation.job import EvaluationJob, plan_evaluation
from qwenft_assets.hashing import short_hash
from qwenft_assets.mixture.build import build_mixture
from qwenft_assets.progress import no_progress
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.files import read_json, read_parquet, write_json, write_parquet
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import TrainingJob, plan_training
from qwenft_assets.training.run import TrainingRun
from qwenft_assets.training.train import train

SHARES = {"local_reports": 0.25, "slimorca": 0.50, "pubmedqa": 0.25}
TRAINING = {
    "device": "cpu",
    "weights": "fp32",
    "min_vram_gib": 0,
    "max_length_tokens": 256,
    "epochs": 1,
    "peak_learning_rate": 0.01,
    "warmup_steps": 0,
    "evaluate_every_steps": 2,
    "gradient_checkpointing": False,
}


@dataclass(frozen=True)
class Trained:
    """A deployment with an adapter and its evaluation."""

    config: Config
    storage: Storage
    training: TrainingJob
    job: EvaluationJob
    result: dict[str, Any]

    def evaluated_with(self, training: dict[str, Any] | None = None, **settings) -> dict[str, Any]:
        """The figures of the same adapter under other settings, in the same process."""
        job = self.job.model_copy(
            update={
                "settings": self.job.settings.model_copy(
                    update={"sample_rows": 0, "bundled_prompts": 0, **settings}
                ),
                "training": self.job.training.model_copy(update=training or {}),
            }
        )
        return evaluate(job, no_progress, ignore_line)


def ignore_line(line: str) -> None:
    """A log that keeps nothing."""


def tiny_config(base: Path, **evaluation: Any) -> Config:
    return Config.model_validate(
        {
            "name": "tiny",
            "sources": {"local_reports": {"path": str(PROJECT_ROOT / "data/my_dataset.json")}},
            "mixture": {
                "recipes": {"small": {"rows": 40, "ratios": SHARES}},
                "eval_fraction": 0.25,
            },
            "training": {**TRAINING, "base_model": str(base)},
            "evaluation": {
                "sample_rows": 2,
                "sample_max_new_tokens": 4,
                "bundled_prompts": 2,
                "prompt_max_new_tokens": 4,
                **evaluation,
            },
            "release": {"min_canary_share": 0},  # what a random model says is noise
        }
    )


def build(config: Config, storage: Storage) -> None:
    """Samples and mixture."""
    for source in ("local_reports", "slimorca", "pubmedqa"):
        sample_source(config, source, storage)
    build_mixture(config, "small", storage)


def train_and_evaluate(config: Config, storage: Storage) -> Trained:
    training = plan_training(config, "small", storage, "cpu")
    train(TrainingRun(training))
    job = plan_evaluation(config, training, storage)
    return Trained(config, storage, training, job, evaluate(job, no_progress, ignore_line))


def with_broken_answers(trained: Trained, folder: Path) -> Storage:
    """A copy of the deployment whose train answers are digits drawn at random."""
    shutil.copytree(trained.storage.root, folder)
    storage = Storage(folder)
    mixture = storage.mixed_dataset("small")
    table = read_parquet(mixture / "rows.parquet")
    rows = table.to_pylist()
    draw = random.Random(0)
    for row in rows:
        if row["split"] == "train":
            row["output"] = "".join(draw.choices("0123456789", k=len(row["output"])))
    write_parquet(mixture / "rows.parquet", pa.Table.from_pylist(rows, schema=table.schema))
    manifest = read_json(mixture / "manifest.json") or {}
    version = short_hash(manifest["version"], "broken")
    write_json(mixture / "manifest.json", {**manifest, "version": version})
    return storage
