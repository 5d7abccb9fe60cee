"""A training run: its job, what its steps have seen so far, and how many of them there are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import TrainingError
from qwenft_assets.model.batches import pack_best_fit
from qwenft_assets.processes.run import Run
from qwenft_assets.training.job import TrainingJob


@dataclass
class LossHistory:
    """Losses by optimizer step, in nats per token, and what the steps cost; part of each checkpoint."""

    train: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    eval: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    learning_rate: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    seconds: float = 0.0
    """Training and evaluation together, up to the last checkpoint or the end."""
    eval_seconds: float = 0.0
    attention: str = ""
    """The attention kernel of the run."""
    train_tokens: int = 0
    """Tokens that went through the model, without padding."""
    padding_tokens: int = 0
    resumed_at: list[int] = field(default_factory=list[int])
    """Steps at which an interrupted run was resumed."""
    halved_at: list[int] = field(default_factory=list[int])
    """Steps at which memory ran out and the passes were halved."""

    def require_finite(self) -> None:
        """See that every loss is a finite number.

        Raises:
            TrainingError: One is not; names the step.
        """
        for name, points in (("train", self.train), ("eval", self.eval)):
            for step, loss in points:
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"{name} loss is {loss} at step {step}: training diverged, nothing was "
                        "saved. Lower training.peak_learning_rate, or use weights: bf16."
                    )


@dataclass(frozen=True)
class TrainingRun(Run[TrainingJob]):
    """One training job in this process."""

    history: LossHistory = field(default_factory=LossHistory)

    @property
    def settings(self) -> TrainingConfig:
        """The training section of the config."""
        return self.job.settings

    @cached_property
    def checkpoints(self) -> Path:
        """The folder of this run's checkpoints."""
        return self.storage.adapters(self.job.recipe) / f".{self.job.version}.checkpoints"


def sequences(lengths: Sequence[int], settings: TrainingConfig) -> list[list[int]]:
    """The sequences that an optimizer step counts: single rows, or packs of rows.

    Args:
        lengths: Tokens of each row.
        settings: Of the run.

    Returns:
        Row indices of each sequence.
    """
    if settings.batching == "packed":
        return pack_best_fit(lengths, settings.max_length_tokens)
    return [[index] for index in range(len(lengths))]


def optimizer_steps(sequence_count: int, settings: TrainingConfig) -> int:
    """Steps of the whole run; at least one."""
    return max(round(-(-sequence_count // settings.step_sequences) * settings.epochs), 1)


def evaluation_interval(settings: TrainingConfig, steps: int) -> int:
    """Optimizer steps between two evaluations: as configured, or more in a long run."""
    return max(settings.evaluate_every_steps, -(-steps // settings.max_evaluations))
