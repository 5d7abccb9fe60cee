"""What a rebuild changed, and what it bought, in one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwenft_assets.records import MixtureDiff
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import Storage


def mixture_changes(
    storage: Storage, recipe: str, since: str | None = None
) -> list[dict[str, Any]] | None:
    """The rows by which the mixture differs from the build before; None for the first build.

    Args:
        storage: Where the mixture is.
        recipe: Its recipe.
        since: A mixture's version; when that is the present one, nothing has changed.
    """
    diff = read_json(storage.mixed_dataset(recipe) / MixtureDiff.FILE)
    if diff is not None and diff["version"] == since:
        return []
    return None if diff is None or diff["previous_version"] is None else diff["changes"]


def what_changed(changes: Sequence[Mapping[str, Any]] | None) -> str:
    """Such as `slimorca: 40 added (upstream), 3 removed (quota)`."""
    if changes is None:
        return "first build"
    by_source = dict[str, list[str]]()
    for change in changes:
        words = f"{change['rows']} {change['change']} ({change['cause']})"
        by_source.setdefault(change["source"], []).append(words)
    return (
        "; ".join(f"{name}: {', '.join(words)}" for name, words in by_source.items())
        or "no row of the mixture"
    )


def what_it_bought(evaluation: Mapping[str, Any]) -> str:
    """Perplexity against the champion's on the same rows, or the base's where there is none."""
    perplexity = f"perplexity {evaluation['perplexity']:.2f}"
    if "champion_perplexity" in evaluation:
        low, high = evaluation["champion_delta_loss_ci95"]
        return (
            f"{perplexity}, the champion before it {evaluation['champion_perplexity']:.2f} (loss "
            f"{evaluation['champion_delta_loss']:+.4f} nats per token, 95 % interval {low:+.4f} to "
            f"{high:+.4f})"
        )
    low, high = evaluation["delta_loss_ci95"]
    return (
        f"{perplexity}, the base {evaluation['base_perplexity']:.2f} (loss "
        f"{evaluation['delta_loss']:+.4f} nats per token, 95 % interval {low:+.4f} to {high:+.4f})"
    )
