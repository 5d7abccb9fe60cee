"""How sure a difference between two models is, from the rows that both have read."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

RESAMPLES_AT_ONCE = 100
"""Keeps the draws over 24,000 questions below 20 MB."""
CONFIDENCE = 0.95


def paired_interval(
    difference: npt.NDArray[np.float64],
    tokens: npt.NDArray[np.float64],
    groups: Sequence[str],
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """95 % interval of a difference in loss per token: paired bootstrap over groups of rows.

    Paired, because both models are read on the same rows: how hard a row is cancels out. Whole
    groups are drawn, because rows that ask the same, and tokens of one row, are not independent.

    The percentiles are those of the expanded percentile interval, since the plain one is too narrow
    where groups are few. One group alone tells nothing about others: its interval has no width.

    Args:
        difference: Nats by which the models differ on each row, summed over its tokens: (rows,).
        tokens: Counted tokens of each row: (rows,); at least one is not 0.
        groups: Which rows belong together: (rows,).
        resamples: How often to draw as many groups as there are.
        seed: Of the draws.

    Source:
        Efron 1979; Hesterberg 2015, What Teachers Should Know About the Bootstrap, 5.3.
    """
    _, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    group_difference = np.bincount(group_of_row, weights=difference)  # (groups,)
    group_tokens = np.bincount(group_of_row, weights=tokens)
    counted = group_tokens > 0
    group_difference, group_tokens = group_difference[counted], group_tokens[counted]
    count = len(group_tokens)
    generator = np.random.default_rng(seed)
    deltas = np.empty(resamples)
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        stop = min(start + RESAMPLES_AT_ONCE, resamples)
        drawn = generator.integers(0, count, size=(stop - start, count))  # (resamples, groups)
        deltas[start:stop] = group_difference[drawn].sum(axis=1) / group_tokens[drawn].sum(axis=1)
    tail = expanded_tail(count)
    low, high = np.quantile(deltas, [tail, 1 - tail])
    return float(low), float(high)


def expanded_tail(count: int) -> float:
    """The share to cut off at either end, below 2.5 % where there are few groups.

    A bootstrap of n groups is as narrow as a normal interval with the variance divided by n, where a
    t interval divides it by n - 1.
    """
    if count < 2:  # noqa: PLR2004  (no spread to speak of)
        return (1 - CONFIDENCE) / 2
    quantile = _t_quantile((1 + CONFIDENCE) / 2, count - 1)
    return NormalDist().cdf(-math.sqrt(count / (count - 1)) * quantile)


def _t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees, else the series of A&S 26.7.5."""
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:  # noqa: PLR2004
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))
