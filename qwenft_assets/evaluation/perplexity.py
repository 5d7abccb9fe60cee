"""Losses of rows to figures: loss, perplexity, difference and its interval. Numbers only, no model."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qwenft_assets.errors import EvaluationError

RESAMPLES_AT_ONCE = 100


class EvaluatedRow(NamedTuple):
    """One held-out row under both models; sums in nats over the same tokens."""

    row_id: str
    source: str
    tokens: int
    base_nll: float
    adapter_nll: float
    truncated: bool


def figures(rows: Sequence[EvaluatedRow], resamples: int, seed: int) -> dict[str, Any]:
    """Loss per token over all rows together, and what the adapter changed.

    Returns:
        eval_loss, perplexity, base_eval_loss, base_perplexity (nats per token, and exp of it),
        delta_loss (adapter - base; below 0 is better), delta_loss_ci95, eval_tokens, eval_rows,
        truncated_rows.

    Raises:
        EvaluationError: No token is counted, or a loss is not finite.
    """
    tokens = sum(row.tokens for row in rows)
    if tokens == 0:
        raise EvaluationError("no token to evaluate. Raise mixture.eval_fraction or rows.")
    base = sum(row.base_nll for row in rows) / tokens
    adapter = sum(row.adapter_nll for row in rows) / tokens
    if not (math.isfinite(base) and math.isfinite(adapter)):
        raise EvaluationError(
            f"loss is not finite (base {base}, adapter {adapter}). Train again with a lower "
            "training.peak_learning_rate."
        )
    return {
        "eval_loss": adapter,
        "perplexity": math.exp(adapter),
        "base_eval_loss": base,
        "base_perplexity": math.exp(base),
        "delta_loss": adapter - base,
        "delta_loss_ci95": list(bootstrap_interval(rows, resamples, seed)),
        "eval_tokens": tokens,
        "eval_rows": len(rows),
        "truncated_rows": sum(row.truncated for row in rows),
    }


def figures_by_source(
    rows: Sequence[EvaluatedRow], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The same figures for each source that has tokens to count, by name."""
    sources = sorted({row.source for row in rows if row.tokens})
    return {
        source: figures([row for row in rows if row.source == source], resamples, seed)
        for source in sources
    }


def bootstrap_interval(
    rows: Sequence[EvaluatedRow], resamples: int, seed: int
) -> tuple[float, float]:
    """95 % interval of delta_loss: paired percentile bootstrap over rows (Efron, 1979).

    Paired, because both models are read on the same rows: how hard a row is cancels out. Whole rows
    are drawn, because tokens of one row are not independent.
    """
    tokens: npt.NDArray[np.float64] = np.array([row.tokens for row in rows], dtype=np.float64)
    difference = np.array([row.adapter_nll - row.base_nll for row in rows], dtype=np.float64)
    generator = np.random.default_rng(seed)
    deltas: list[npt.NDArray[np.float64]] = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        size = (min(RESAMPLES_AT_ONCE, resamples - start), len(rows))
        drawn = generator.integers(0, len(rows), size=size)  # (resamples, rows)
        counted = tokens[drawn].sum(axis=1)
        usable = counted > 0  # a draw of rows without tokens has no loss
        deltas.append(difference[drawn].sum(axis=1)[usable] / counted[usable])
    low, high = np.percentile(np.concatenate(deltas), [2.5, 97.5])
    return float(low), float(high)
