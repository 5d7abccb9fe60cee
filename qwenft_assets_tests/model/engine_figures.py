"""What one engine makes of a tiny model: `python -m ...engine_figures ENGINE FOLDER OUT`.

A process of its own, because Unsloth has to be imported before what it patches.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenft_assets.config import TrainingConfig
from qwenft_assets.model.engines import engine_named
from qwenft_assets.progress import no_progress
from qwenft_assets.training.forward_passes import Passes, make_passes
from qwenft_assets.training.history import LossHistory
from qwenft_assets.training.trainer import make_trainer
from qwenft_assets_tests.training.tiny_rows import token_rows

ROWS = token_rows(*[5 + (n * 23) % 57 for n in range(16)])
EVAL_ROWS = token_rows(30, 12, 47, split="eval")
SETTINGS = {
    "device": "cpu",
    "weights": "fp32",
    "max_length_tokens": 64,
    "lora": {"rank": 4, "alpha": 8},
    "epochs": 10,
    "peak_learning_rate": 5e-3,
    "lr_schedule": "constant",
    "warmup_steps": 0,
    "optimizer": "adamw_torch",
    "neftune_alpha": None,
    "gradient_checkpointing": False,
    "evaluate_every_steps": 10,
}


@dataclass
class Bench:
    """One engine on one folder."""

    engine: str
    folder: Path
    out: Path

    def settings(self, **changes: Any) -> TrainingConfig:
        return TrainingConfig.model_validate(SETTINGS | {"engine": self.engine} | changes)

    def model(self, settings: TrainingConfig) -> Any:
        """An adapter that is the same for all engines: its numbers follow from the names."""
        import torch

        torch.manual_seed(settings.seed)
        engine = engine_named(self.engine)
        model = engine.add_lora(engine.load_base(self.folder, "fp32", "cpu"), settings.lora)
        draw = torch.Generator().manual_seed(1)
        for name, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                scale = 0.2 if "lora_A" in name else 0.02
                parameter.data = torch.randn(parameter.shape, generator=draw) * scale
        return model

    def sums(self, **changes: Any) -> list[float]:
        """Nats of the first four rows in one pass, and of each of them alone."""
        import torch

        settings = self.settings(**changes)
        passes: Passes = make_passes(self.model(settings), settings, None)
        passes.model.train()
        rows, found = ROWS[:4], []
        for some in (rows, *[[row] for row in rows]):
            torch.manual_seed(3)  # NEFTune's noise
            found.append(float(passes.sum_of_losses(some, settings, "cpu", LossHistory()).detach()))
        return found

    def run(self, name: str, stop_after: int | None = None, resume: bool = False) -> dict[str, Any]:
        """Train 20 steps; the losses, and the adapter in a file."""
        from safetensors.torch import save_file
        from transformers import TrainerCallback

        settings, history = self.settings(), LossHistory()
        model = self.model(settings)
        folder = self.out / name
        trainer = make_trainer(
            model,
            ROWS,
            EVAL_ROWS,
            settings,
            folder,
            plan=None,
            history=history,
            report_progress=no_progress,
            log=lambda _: None,
        )

        class Stop(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop |= state.global_step == stop_after

        trainer.add_callback(Stop())
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-10") if resume else None)
        adapter = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        save_file(adapter, self.out / f"{name}.safetensors")
        return {
            "train": history.train,
            "eval": history.eval,
            "attention": history.attention,
            "steps": trainer.state.global_step,
        }

    def figures(self) -> dict[str, Any]:
        """All of it."""
        whole = self.run("whole")
        self.run("parts", stop_after=10)
        return {
            "flat": self.sums(),
            "padded": self.sums(batching="padded"),
            "answers": self.sums(supervise="answer"),
            "noisy": self.sums(neftune_alpha=5.0),
            "recomputed": self.sums(gradient_checkpointing=True),
            "whole": whole,
            "resumed": self.run("parts", resume=True),
        }


def main() -> None:
    """Write figures.json beside the adapters."""
    engine, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    engine_named(engine).start("cpu")
    import torch

    torch.set_num_threads(1)
    figures = Bench(engine, folder, out).figures()
    (out / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
