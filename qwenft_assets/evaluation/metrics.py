"""The figures of an evaluation, computed from the losses of rows.

A metric is one decorated function: its result is written to evaluation.json under the function's name and
shown in the report and in the web UI, overall and for each source, length and span.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.bootstrap import paired_interval
from qwenft_assets.model.loss import SpanLosses

SPANS = ("full", "answer")
LENGTH_EDGES = (128, 256, 512, 1_024, 2_048, 4_096)
"""Upper ends of the length buckets, in tokens of the whole row."""
Figure = float | list[float]
"""A number, or the two ends of an interval."""


class EvaluatedRow(NamedTuple):
    """The losses of one held-out row under each model, over the same tokens."""

    row_id: str
    source: str
    question: str
    """Question id; rows with the same question share it, and the bootstrap draws them together."""
    length_tokens: int
    truncated: bool
    base: SpanLosses
    adapter: SpanLosses
    champion: SpanLosses | None = None
    """None if there is no champion to compare with, or it was trained on this question."""


class Losses(NamedTuple):
    """Losses of rows under one model."""

    nll: npt.NDArray[np.float64]
    """Negative log-likelihood in nats, summed over the counted tokens of each row: (rows,)."""
    tokens: npt.NDArray[np.int64]
    """Counted tokens of each row: (rows,)."""


class Comparison(NamedTuple):
    """The adapter and another model, base or champion, on the same tokens."""

    adapter: Losses
    other: Losses
    questions: Sequence[str]
    """Question id of each row: (rows,)."""
    resamples: int
    """Draws of the bootstrap."""
    seed: int
    """Seed of the bootstrap."""


@dataclass(frozen=True)
class Metric:
    """A figure and how it is shown."""

    name: str
    label: str
    """Heading of its column in the report."""
    format: str
    """Format specification of a number, such as `.2f`."""
    function: Callable[[Any], Figure]
    compares: bool
    """It takes a Comparison; otherwise the Losses of each model in turn."""
    in_report: bool

    @property
    def keys(self) -> tuple[str, ...]:
        """Its keys in evaluation.json, without those about the champion."""
        return (self.name,) if self.compares else (f"base_{self.name}", self.name)

    def text(self, figure: Figure) -> str:
        """A figure as the report shows it."""
        ends = figure if isinstance(figure, list | tuple) else [figure]
        return " to ".join(format(end, self.format) for end in ends)


METRICS: list[Metric] = []
Function = TypeVar("Function", bound=Callable[[Any], Figure])


def metric_of_model(
    label: str, number_format: str, *, in_report: bool = True
) -> Callable[[Function], Function]:
    """Register a function of the Losses of one model; it is computed for each model."""
    return _register(label, number_format, compares=False, in_report=in_report)


def metric_of_comparison(label: str, number_format: str) -> Callable[[Function], Function]:
    """Register a function of a Comparison; it is computed for adapter and base, adapter and champion."""
    return _register(label, number_format, compares=True, in_report=True)


def _register(
    label: str, number_format: str, *, compares: bool, in_report: bool
) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        METRICS.append(
            Metric(function.__name__, label, number_format, function, compares, in_report)
        )
        return function

    return register


def figures(rows: Sequence[EvaluatedRow], span: str, resamples: int, seed: int) -> dict[str, Any]:
    """All metrics over all rows together, with the counts that they are based on.

    Args:
        rows: The rows to count.
        span: `full` or `answer`: which tokens count.
        resamples: Draws of the bootstrap.
        seed: Seed of the bootstrap.

    Returns:
        Each metric of a model by its name for the adapter, with `base_` before it for the base; each
        metric of a comparison by its name for adapter and base; eval_tokens, eval_rows,
        eval_questions, truncated_rows. If rows have a champion, also champion_rows, and each metric
        with `champion_` before it, over the rows that the champion was not trained on.

    Raises:
        EvaluationError: No token is counted, or a loss is not finite.
    """
    base, adapter = (_losses(rows, model, span) for model in ("base", "adapter"))
    base_loss, adapter_loss = eval_loss(base), eval_loss(adapter)
    if not (math.isfinite(base_loss) and math.isfinite(adapter_loss)):
        raise EvaluationError(
            f"loss is not finite (base {base_loss}, adapter {adapter_loss}). Train again with a "
            "lower training.peak_learning_rate."
        )
    questions = [row.question for row in rows]
    return {
        **_of_model(adapter),
        **_of_model(base, "base_"),
        **_of_comparison(Comparison(adapter, base, questions, resamples, seed)),
        "eval_tokens": int(adapter.tokens.sum()),
        "eval_rows": len(rows),
        "eval_questions": len(set(questions)),
        "truncated_rows": sum(row.truncated for row in rows),
        **_against_champion(rows, span, resamples, seed),
    }


def figures_with_parts(
    rows: Sequence[EvaluatedRow], span: str, resamples: int, seed: int
) -> dict[str, Any]:
    """The figures of all rows, and under per_source, per_length and per_span those of each part."""
    return {
        **figures(rows, span, resamples, seed),
        "per_source": figures_by(attrgetter("source"), rows, span, resamples, seed),
        "per_length": figures_by(length_bucket, rows, span, resamples, seed),
        "per_span": {
            name: figures(rows, name, resamples, seed)
            for name in SPANS
            if _losses(rows, "adapter", name).tokens.any()
        },
    }


def figures_by(
    part_of: Callable[[EvaluatedRow], str],
    rows: Sequence[EvaluatedRow],
    span: str,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """The figures of each part that has tokens to count, by the name of the part."""
    parts: dict[str, list[EvaluatedRow]] = {}
    for row in rows:
        parts.setdefault(part_of(row), []).append(row)
    return {
        part: figures(parts[part], span, resamples, seed)
        for part in sorted(parts)
        if _losses(parts[part], "adapter", span).tokens.any()
    }


def length_bucket(row: EvaluatedRow) -> str:
    """The bucket of a row's length, such as `0257-0512`: it sorts as text does."""
    low = 0
    for high in LENGTH_EDGES:
        if row.length_tokens <= high:
            return f"{low + 1:04}-{high:04}"
        low = high
    return f"{low + 1:04}-"


def _losses(rows: Sequence[EvaluatedRow], model: str, span: str) -> Losses:
    losses = [getattr(getattr(row, model), span) for row in rows]
    return Losses(
        np.array([loss.nll for loss in losses], dtype=np.float64),
        np.array([loss.tokens for loss in losses], dtype=np.int64),
    )


def _of_model(losses: Losses, prefix: str = "") -> dict[str, Figure]:
    return {
        prefix + metric.name: metric.function(losses) for metric in METRICS if not metric.compares
    }


def _of_comparison(comparison: Comparison, prefix: str = "") -> dict[str, Figure]:
    return {
        prefix + metric.name: metric.function(comparison) for metric in METRICS if metric.compares
    }


def _against_champion(
    rows: Sequence[EvaluatedRow], span: str, resamples: int, seed: int
) -> dict[str, Any]:
    rows = [row for row in rows if row.champion is not None]
    adapter, champion = (_losses(rows, model, span) for model in ("adapter", "champion"))
    if not adapter.tokens.any():
        return {}
    loss = eval_loss(champion)
    if not math.isfinite(loss):
        raise EvaluationError(
            f"the champion's loss is not finite ({loss}). Roll it back with `qwenft releases "
            "rollback`."
        )
    questions = [row.question for row in rows]
    return {
        **_of_model(champion, "champion_"),
        **_of_comparison(Comparison(adapter, champion, questions, resamples, seed), "champion_"),
        "champion_rows": len(rows),
    }


# The metrics, in the order in which they are written and shown.


@metric_of_model(
    "loss", ".4f", in_report=False
)  # the report has the perplexity, which is exp of it
def eval_loss(losses: Losses) -> float:
    """Nats per token over all rows together.

    Raises:
        EvaluationError: No token is counted.
    """
    tokens = int(losses.tokens.sum())
    if tokens == 0:
        raise EvaluationError("no token to evaluate. Raise mixture.eval_fraction or rows.")
    return math.fsum(losses.nll) / tokens


@metric_of_model("perplexity", ".2f")
def perplexity(losses: Losses) -> float:
    """Exp of the mean loss per token."""
    return math.exp(eval_loss(losses))


@metric_of_comparison("Δ loss", "+.4f")
def delta_loss(comparison: Comparison) -> float:
    """Change in nats per token; below 0 the adapter is better."""
    return eval_loss(comparison.adapter) - eval_loss(comparison.other)


@metric_of_comparison("95 % interval", "+.4f")
def delta_loss_ci95(comparison: Comparison) -> list[float]:
    """95 % interval of `delta_loss`, by a paired bootstrap over questions."""
    adapter, other, questions, resamples, seed = comparison
    tokens = adapter.tokens.astype(np.float64)
    return list(paired_interval(adapter.nll - other.nll, tokens, questions, resamples, seed))
