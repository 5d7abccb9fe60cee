"""How many rows each source gives: whole numbers from ratios, within what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwenft_assets.config import MixtureConfig, Recipe
from qwenft_assets.errors import MixtureError


@dataclass(frozen=True)
class Quota:
    """One source's part of a recipe, in rows."""

    asked: int
    """What the ratio asks for."""
    available: int
    """Distinct rows at hand."""
    unique: int
    """Distinct rows taken."""
    repeats: int
    """Copies of train rows that fill the rest (shortfall: repeat)."""


def allocate(
    recipe: Recipe, config: MixtureConfig, available: Mapping[str, int]
) -> dict[str, Quota]:
    """Quotas of every source that a recipe names, in the recipe's order.

    Sources of one group share its rows equally as far as each reaches. A shortfall goes to the
    other ratios in proportion (`redistribute`), is filled with copies (`repeat`), or is an error.

    Raises:
        MixtureError: `shortfall: fail`, and a source has fewer rows than its ratio asks for.
    """
    members = {key: config.groups.get(key, (key,)) for key in recipe.ratios}
    asked_of_key = apportion(recipe.rows, recipe.ratios)
    asked = asked_rows(recipe, config)
    reach = {key: sum(available[name] for name in names) for key, names in members.items()}
    short = {
        key: asked_of_key[key] - reach[key] for key in members if reach[key] < asked_of_key[key]
    }
    if short and config.shortfall == "fail":
        key, missing = next(iter(short.items()))
        raise MixtureError(
            f"{key}: {asked_of_key[key]} rows asked, {reach[key]} there, {missing} missing. Lower "
            "its ratio or `rows`, raise max_rows of the source, or set mixture.shortfall to "
            "redistribute or repeat."
        )
    if config.shortfall == "redistribute":
        taken_of_key = fill(recipe.rows, recipe.ratios, reach)
    else:
        taken_of_key = {key: min(asked_of_key[key], reach[key]) for key in members}
    quotas: dict[str, Quota] = {}
    for key, sources in members.items():
        room = {name: available[name] for name in sources}
        unique = fill(taken_of_key[key], dict.fromkeys(sources, 1.0), room)
        missing_rows = asked_of_key[key] - taken_of_key[key] if config.shortfall == "repeat" else 0
        with_rows = {name: float(unique[name]) for name in sources if unique[name]}
        repeats = apportion(missing_rows, with_rows) if with_rows else {}
        for name in sources:
            quotas[name] = Quota(asked[name], available[name], unique[name], repeats.get(name, 0))
    return quotas


def asked_rows(recipe: Recipe, config: MixtureConfig) -> dict[str, int]:
    """Rows that the ratios ask of each source; a group's are shared equally."""
    asked: dict[str, int] = {}
    for key, rows in apportion(recipe.rows, recipe.ratios).items():
        asked |= apportion(rows, dict.fromkeys(config.groups.get(key, (key,)), 1.0))
    return asked


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers in proportion to `weights` that sum to `total`, by largest remainder (Hamilton).

    Ties go to the earlier key.
    """
    weight_sum = sum(weights.values())
    exact = {key: total * weight / weight_sum for key, weight in weights.items()}
    shares = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: shares[key] - exact[key])
    for key in by_remainder[: total - sum(shares.values())]:
        shares[key] += 1
    return shares


def fill(total: int, weights: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """As `apportion`, none beyond its `room`; what one cannot take goes to the others in proportion.

    Sums to `total`, or to all the room there is.
    """
    filled = dict.fromkeys(weights, 0)
    open_weights = {key: weight for key, weight in weights.items() if room[key]}
    while open_weights and (left := total - sum(filled.values())):
        for key, share in apportion(left, open_weights).items():
            filled[key] = min(filled[key] + share, room[key])
        open_weights = {key: w for key, w in open_weights.items() if filled[key] < room[key]}
    return filled
