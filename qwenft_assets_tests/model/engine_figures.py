"""What one engine makes of a tiny model: `python -m ...engine_figures ENGINE FOLDER OUT [DEVICE]`.

It runs in a process of its own, because Unsloth has to be imported before what it patches.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwenft_assets.config import TrainingConfig
from qwenft_assets.model.batches import flatten
from qwenft_assets.model.engines import engine_named
from qwenft_assets.model.engines.peft import load_tokenizer
from qwenft_assets.model.memory import MemoryPlan
from qwenft_assets.training.forward_passes import Passes, make_passes
from qwenft_assets.training.run import LossHistory
from qwenft_assets.training.trainer import TokenSteps, make_trainer
from qwenft_assets_tests.training.tiny_rows import token_row, token_rows, training_run

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
    device: str = "cpu"

    def settings(self, **changes: Any) -> TrainingConfig:
        weights = "bf16" if self.device == "cuda" else "fp32"  # as the GPU's kernels ask
        own = {"engine": self.engine, "device": self.device, "weights": weights}
        return TrainingConfig.model_validate(SETTINGS | own | changes)

    def plan(self, settings: TrainingConfig) -> MemoryPlan | None:
        """All that fits in one pass on a GPU."""
        checkpointing = settings.gradient_checkpointing is True
        return MemoryPlan(False, checkpointing, 4096, {}) if self.device == "cuda" else None

    def model(self, settings: TrainingConfig) -> Any:
        """An adapter that is the same for all engines: its numbers follow from the names."""
        import torch

        torch.manual_seed(settings.seed)
        engine = engine_named(self.engine)
        base = engine.load_base(self.folder, settings.weights, self.device)
        model = engine.add_lora(base, settings.lora)
        draw = torch.Generator().manual_seed(1)
        for name, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                scale = 0.2 if "lora_A" in name else 0.02
                values = torch.randn(parameter.shape, generator=draw) * scale
                parameter.data = values.to(self.device)
        return model

    def sums(self, **changes: Any) -> list[float]:
        """Nats of the first four rows in one pass, and of each of them alone."""
        import torch

        settings = self.settings(**changes)
        passes: Passes = make_passes(self.model(settings), settings, self.plan(settings))
        passes.model.train()
        rows, found = ROWS[:4], []
        for some in (rows, *[[row] for row in rows]):
            torch.manual_seed(3)  # NEFTune's noise
            loss = passes.sum_of_losses(some, settings, self.device, LossHistory())
            found.append(float(loss.detach()))
        return found

    def leak(self) -> float:
        """Nats by which a token's loss moves at most when another row of its batch changes."""
        import torch
        from torch.nn.functional import cross_entropy

        settings = self.settings()
        forward = make_passes(self.model(settings), settings, self.plan(settings)).decoder
        assert forward is not None
        other = replace(ROWS[3], input_ids=token_row(99, len(ROWS[3].input_ids)).input_ids)
        found: list[torch.Tensor] = []
        for last in (ROWS[3], other):
            batch = flatten([*ROWS[:3], last], "full", self.device)
            with torch.no_grad():
                hidden = forward.hidden_states(batch)[batch.counted]
                logits = (hidden @ forward.head.t()).float()
            losses = cross_entropy(logits, batch.targets, reduction="none")
            found.append(losses[: sum(batch.lengths[:3]) - 3])
        return float((found[0] - found[1]).abs().max())

    def attention_calls(self) -> dict[str, int]:
        """How often a pass over four rows runs each kernel of attention, as torch's profiler counts."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        settings = self.settings()
        forward = make_passes(self.model(settings), settings, self.plan(settings)).decoder
        assert forward is not None
        batch = flatten(ROWS[:4], "full", self.device)
        with torch.no_grad():
            forward.hidden_states(batch)  # Triton compiles in the first pass
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                forward.hidden_states(batch)
        names = ("scaled_dot_product_attention", "_flash_attention_forward", "flash_attn", "fw")
        return {
            event.key: event.count
            for event in seen.key_averages()
            if event.key.startswith(("aten::", "flash_attn", "xformers"))
            and any(name in event.key for name in names)
        }

    def run(self, name: str, stop_after: int | None = None, resume: bool = False) -> dict[str, Any]:
        """Train 20 steps; the losses, and the adapter in a file."""
        from safetensors.torch import save_file
        from transformers import TrainerCallback

        settings = self.settings()
        run = training_run(settings, self.out / name, device=self.device)
        tokenizer = load_tokenizer(self.folder)
        plan = self.plan(settings)
        trainer = make_trainer(run, self.model(settings), tokenizer, ROWS, EVAL_ROWS, plan)
        trained: Any = trainer.model
        in_training_mode, taken = trained.training, list[list[int]]()
        train = TokenSteps.train

        def noted(self: TokenSteps, chosen: Sequence[int], step: int) -> Any:
            taken.append(list(chosen))
            return train(self, chosen, step)

        class Stop(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop |= state.global_step == stop_after

        trainer.add_callback(Stop())
        last = str(run.checkpoints / "checkpoint-10") if resume else None
        TokenSteps.train = noted
        try:
            trainer.train(resume_from_checkpoint=last)
        finally:
            TokenSteps.train = train
        adapter = {
            n: p.detach().cpu().clone() for n, p in trained.named_parameters() if p.requires_grad
        }
        save_file(adapter, self.out / f"{name}.safetensors")
        return {
            "train": run.history.train,
            "eval": run.history.eval,
            "attention": run.history.attention,
            "steps": trainer.state.global_step,
            "rows_of_steps": taken,
            "training_mode": in_training_mode,
            "trainer": [f"{kind.__module__}.{kind.__name__}" for kind in type(trainer).__mro__],
            "dtypes": sorted({str(p.dtype) for p in adapter.values()}),
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
            "leak": self.leak(),
            "attention_calls": self.attention_calls(),
            "whole": whole,
            "resumed": self.run("parts", resume=True),
        }


def main() -> None:
    """Write figures.json beside the adapters."""
    engine, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    device = sys.argv[4] if len(sys.argv) > 4 else "cpu"
    engine_named(engine).start(device)
    import torch

    torch.set_num_threads(1)
    figures = Bench(engine, folder, out, device).figures()
    (out / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
