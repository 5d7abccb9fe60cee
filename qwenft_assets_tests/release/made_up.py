"""Releases of made-up evaluations in a real storage: real files, no model."""

from qwenft_assets.config import Config, EvaluationConfig, TrainingConfig
from qwenft_assets.evaluation.job import EvaluationJob
from qwenft_assets.model.base import BaseModelRef
from qwenft_assets.release.history import read_history
from qwenft_assets.release.registry import read_champion, release_adapter
from qwenft_assets.storage.files import write_json

CONFIG = Config(name="test")
FIRST, SECOND, THIRD = "a" * 16, "b" * 16, "c" * 16
BASE = {"base_model": "tiny", "base_revision": "1", "mixture_version": "m1"}
LINE = ("base_model", "base_revision")
CHANCE = 0.05
"""Half of the width of the interval that made-up comparisons with a champion have."""


class Registry:
    """Releases of made-up evaluations in one storage."""

    def __init__(self, storage):
        self.storage = storage
        self.folder = storage.release("small")

    def evaluate(self, version, loss=2.0, interval=(-0.2, -0.1), **line):
        """Write an evaluation against the present champion, and return the job it came from."""
        inputs = f"inputs-{version}-{loss}-{interval}-{sorted(line.items())}"
        champion = read_champion(self.storage, "small")
        rival = champion if champion and champion.version != version else None
        comparable = rival and all(getattr(rival, key) == {**BASE, **line}[key] for key in LINE)
        write_json(self.storage.adapter("small", version) / "training.json", {"version": version})
        result = {
            "eval_loss": loss,
            "perplexity": 7.0,
            "base_eval_loss": loss + 0.15,
            "base_perplexity": 8.0,
            "delta_loss": -0.15,
            "delta_loss_ci95": list(interval),
            "eval_rows": 40,
            "eval_questions": 40,
            "leaked_rows": 0,
            "per_source": {"slimorca": {"eval_loss": loss, "base_eval_loss": loss + 0.15}},
            "canaries": {"base": {}, "adapter": {}},
            "adapter_version": version,
            "champion_version": rival.version if rival and comparable else None,
            "inputs": inputs,
            **BASE,
            **line,
        }
        if rival and comparable:
            delta = loss - rival.eval_loss
            ends = [delta - CHANCE, delta + CHANCE]
            result |= {"champion_delta_loss": delta, "champion_delta_loss_ci95": ends}
        write_json(self.storage.evaluation("small", version) / "evaluation.json", result)
        return EvaluationJob(
            recipe="small",
            adapter_version=version,
            mixture_version=result["mixture_version"],
            inputs=inputs,
            champion_version=result["champion_version"],
            base=BaseModelRef(name="tiny", revision="1", kind="folder", path="/tiny"),
            engine="peft",
            training=TrainingConfig(),
            settings=EvaluationConfig(),
            device="cpu",
            storage_root=self.storage.root,
        )

    def release(self, version, config=CONFIG, **evaluation):
        return release_adapter(config, self.evaluate(version, **evaluation), self.storage)

    def history(self):
        return read_history(self.storage, "small")

    def pointer(self):
        return (self.folder / "champion.json").read_bytes()
