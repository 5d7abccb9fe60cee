"""How many optimizer steps and evaluations a run has; told without torch."""

from collections.abc import Sequence

from qwenft_assets.config import TrainingConfig
from qwenft_assets.model.batches import pack_best_fit


def sequences(lengths: Sequence[int], settings: TrainingConfig) -> list[list[int]]:
    """What an optimizer step counts: single rows, or packs of rows; as indices of rows.

    Args:
        lengths: Of the rows, in tokens.
        settings: Of the run.
    """
    if settings.batching == "packed":
        return pack_best_fit(lengths, settings.max_length_tokens)
    return [[index] for index in range(len(lengths))]


def optimizer_steps(sequence_count: int, settings: TrainingConfig) -> int:
    """Steps of the whole run; at least one."""
    return max(round(-(-sequence_count // settings.step_sequences) * settings.epochs), 1)


def evaluation_interval(settings: TrainingConfig, steps: int) -> int:
    """Optimizer steps from one evaluation to the next: as set, or wider in a long run."""
    return max(settings.evaluate_every_steps, -(-steps // settings.max_evaluations))
