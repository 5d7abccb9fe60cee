"""What a training and its evaluation left, and whether two of them are the same."""

from dataclasses import dataclass
from typing import Any

import pytest

from qwenft_assets.evaluation.job import read_evaluation
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import training_record

LOSS_TOLERANCE = 2e-5
"""Nats per token."""
WEIGHT_TOLERANCE = 2e-4
"""Of adapter weights after steps of 1e-2: Adam divides by tiny second moments."""


@dataclass(frozen=True)
class Outcome:
    """What training and evaluation left."""

    weights: Any
    record: dict[str, Any]
    evaluation: dict[str, Any] | None


def outcome_of(storage: Storage, version: str) -> Outcome:
    from safetensors.numpy import load_file

    record = training_record(storage, "small", version)
    evaluation = read_evaluation(storage, "small", version)
    assert record is not None
    path = storage.adapter("small", version) / "adapter_model.safetensors"
    return Outcome(load_file(path), record, evaluation)


def require_same_training(ours: Outcome, theirs: Outcome) -> None:
    for kind in ("learning_rate", "train", "eval"):
        own, other = (one.record["loss_history"][kind] for one in (ours, theirs))
        assert [step for step, _ in own] == [step for step, _ in other]
        assert [n for _, n in own] == pytest.approx([n for _, n in other], abs=LOSS_TOLERANCE)
    largest = max(abs(ours.weights[n] - theirs.weights[n]).max() for n in theirs.weights)
    assert largest <= WEIGHT_TOLERANCE
    for name in ("version", "steps", "train_tokens", "padding_tokens", "train_rows"):
        assert ours.record[name] == theirs.record[name], name
    assert ours.record.keys() == theirs.record.keys()


def require_same_evaluation(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> None:
    assert ours is not None
    assert theirs is not None
    assert ours.keys() == theirs.keys()
    for name in ("eval_loss", "base_eval_loss", "delta_loss"):
        assert ours[name] == pytest.approx(theirs[name], abs=LOSS_TOLERANCE), name
    for name in ("eval_rows", "eval_tokens", "mixture_version", "inputs"):
        assert ours[name] == theirs[name], name
