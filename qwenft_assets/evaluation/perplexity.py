"""Losses of rows to figures: loss, perplexity, differences and their intervals. Numbers only."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.bootstrap import paired_interval
from qwenft_assets.model.loss import RowLoss, SpanLosses

SPANS = ("full", "answer")
LENGTH_EDGES = (128, 256, 512, 1_024, 2_048, 4_096)
"""Upper ends of the length buckets, in tokens of the whole row."""


class EvaluatedRow(NamedTuple):
    """One held-out row under each model; sums in nats over the same tokens."""

    row_id: str
    source: str
    question: str
    """Rows that ask the same have the same: they are drawn together."""
    length_tokens: int
    truncated: bool
    base: SpanLosses
    adapter: SpanLosses
    champion: SpanLosses | None = None
    """None where there is no champion to compare with, or it was trained on this question."""


def figures(rows: Sequence[EvaluatedRow], span: str, resamples: int, seed: int) -> dict[str, Any]:
    """Loss per token over all rows together, and what the adapter changed.

    Args:
        rows: The rows to count.
        span: `full` or `answer`: which tokens count.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        eval_loss, perplexity, base_eval_loss, base_perplexity (nats per token, and exp of it),
        delta_loss (adapter - base; below 0 is better), delta_loss_ci95, eval_tokens, eval_rows,
        eval_questions, truncated_rows; where rows have a champion, also champion_eval_loss,
        champion_perplexity, champion_delta_loss (adapter - champion), champion_delta_loss_ci95 and
        champion_rows, all over the rows that it was not trained on.

    Raises:
        EvaluationError: No token is counted, or a loss is not finite.
    """
    base, adapter = ([getattr(getattr(row, name), span) for row in rows] for name in MODELS)
    base_loss, adapter_loss = _mean(base), _mean(adapter)
    if not (math.isfinite(base_loss) and math.isfinite(adapter_loss)):
        raise EvaluationError(
            f"loss is not finite (base {base_loss}, adapter {adapter_loss}). Train again with a "
            "lower training.peak_learning_rate."
        )
    questions = [row.question for row in rows]
    result = {
        "eval_loss": adapter_loss,
        "perplexity": math.exp(adapter_loss),
        "base_eval_loss": base_loss,
        "base_perplexity": math.exp(base_loss),
        "delta_loss": adapter_loss - base_loss,
        "delta_loss_ci95": _interval(adapter, base, questions, resamples, seed),
        "eval_tokens": sum(loss.tokens for loss in adapter),
        "eval_rows": len(rows),
        "eval_questions": len(set(questions)),
        "truncated_rows": sum(row.truncated for row in rows),
    }
    return {**result, **_against_champion(rows, span, resamples, seed)}


MODELS = ("base", "adapter")


def figures_by(
    part_of: Callable[[EvaluatedRow], str],
    rows: Sequence[EvaluatedRow],
    span: str,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """The same figures for each part that has tokens to count, by name."""
    parts: dict[str, list[EvaluatedRow]] = {}
    for row in rows:
        parts.setdefault(part_of(row), []).append(row)
    return {
        part: figures(parts[part], span, resamples, seed)
        for part in sorted(parts)
        if any(getattr(row.adapter, span).tokens for row in parts[part])
    }


def length_bucket(row: EvaluatedRow) -> str:
    """The bucket of a row's length, such as `0257-0512`: it sorts as text does."""
    low = 0
    for high in LENGTH_EDGES:
        if row.length_tokens <= high:
            return f"{low + 1:04}-{high:04}"
        low = high
    return f"{low + 1:04}-"


def _against_champion(
    rows: Sequence[EvaluatedRow], span: str, resamples: int, seed: int
) -> dict[str, Any]:
    pairs = [
        (getattr(row.adapter, span), getattr(row.champion, span), row.question)
        for row in rows
        if row.champion is not None
    ]
    if not any(loss.tokens for loss, _, _ in pairs):
        return {}
    adapter, champion, questions = (list(column) for column in zip(*pairs, strict=True))
    loss = _mean(champion)
    if not math.isfinite(loss):
        raise EvaluationError(
            f"the champion's loss is not finite ({loss}). Roll it back with `qwenft releases "
            "rollback`."
        )
    return {
        "champion_eval_loss": loss,
        "champion_perplexity": math.exp(loss),
        "champion_delta_loss": _mean(adapter) - loss,
        "champion_delta_loss_ci95": _interval(adapter, champion, questions, resamples, seed),
        "champion_rows": len(pairs),
    }


def _mean(losses: Sequence[RowLoss]) -> float:
    tokens = sum(loss.tokens for loss in losses)
    if tokens == 0:
        raise EvaluationError("no token to evaluate. Raise mixture.eval_fraction or rows.")
    return math.fsum(loss.nll for loss in losses) / tokens


def _interval(
    after: Sequence[RowLoss],
    before: Sequence[RowLoss],
    questions: Sequence[str],
    resamples: int,
    seed: int,
) -> list[float]:
    pairs = zip(after, before, strict=True)
    difference = np.array([a.nll - b.nll for a, b in pairs], dtype=np.float64)
    tokens = np.array([loss.tokens for loss in after], dtype=np.float64)
    return list(paired_interval(difference, tokens, questions, resamples, seed))
