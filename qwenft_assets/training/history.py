"""What a training run has seen so far; a checkpoint carries it along."""

import math
from dataclasses import dataclass, field

from qwenft_assets.errors import TrainingError


@dataclass
class LossHistory:
    """Losses by optimizer step, in nats per token, and what the steps were made of."""

    train: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    eval: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    learning_rate: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    seconds: float = 0.0
    """Of training and evaluation together, up to the last checkpoint or the end."""
    eval_seconds: float = 0.0
    attention: str = ""
    """Which way attention took."""
    train_tokens: int = 0
    """Real ones that went through the model."""
    padding_tokens: int = 0
    resumed_at: list[int] = field(default_factory=list[int])
    """Steps at which a run went on after one that was cut off."""
    halved_at: list[int] = field(default_factory=list[int])
    """Steps at which memory ran out and the passes were halved."""

    def require_finite(self) -> None:
        """See that no loss is infinite or no number.

        Raises:
            TrainingError: One is; says at which step.
        """
        for name, points in (("train", self.train), ("eval", self.eval)):
            for step, loss in points:
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"{name} loss is {loss} at step {step}: training diverged, nothing was "
                        "saved. Lower training.peak_learning_rate, or use weights: bf16."
                    )
