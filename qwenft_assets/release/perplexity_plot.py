"""Perplexity over versions: every adapter that came before the gate, and which were released."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenft_assets.records import HistoryLine
from qwenft_assets.release.history import BY_HAND
from qwenft_assets.storage.files import atomic_path
from qwenft_assets.training.loss_curve import SHARP, few_colour_png

BASE_COLOR, RELEASED_COLOR, REFUSED_COLOR = "#808080", "#c04000", "#000000"
THUMBNAIL_VERSIONS = 20


def draw_perplexities(history: Sequence[HistoryLine], path: Path) -> None:
    """Base, released and refused versions in the order of their decisions."""
    from matplotlib.figure import Figure

    decisions = _decisions(history)
    figure = Figure(figsize=(6, 3.2), dpi=90, layout="constrained")
    axes = figure.subplots()
    _plot(axes, decisions, size=5)
    axes.set_xticks(
        range(len(decisions)),
        [f"{line.version[:6]}\n{line.at[:10]}" for line in decisions],
        fontsize=7,
    )
    axes.set_ylabel("perplexity on held-out rows")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


def perplexity_thumbnail(history: Sequence[HistoryLine]) -> bytes:
    """The newest versions as a tiny PNG: base grey, released red, refused black."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SHARP):
        figure = Figure(figsize=(2.0, 0.7), dpi=100, layout="constrained")
        axes = figure.subplots()
        _plot(axes, _decisions(history)[-THUMBNAIL_VERSIONS:], size=3)
        axes.set_xticks([])
        axes.locator_params(axis="y", nbins=2)
        axes.tick_params(length=2, width=0.6)
        return few_colour_png(figure)


def _decisions(history: Sequence[HistoryLine]) -> list[HistoryLine]:
    """One line a version: the newest decision of the gate on it."""
    newest = {line.version: line for line in history if line.action not in BY_HAND}
    return sorted(newest.values(), key=lambda line: line.at)


def _plot(axes: Any, decisions: Sequence[HistoryLine], size: int) -> None:
    base = [line.base_perplexity for line in decisions]
    axes.plot(range(len(base)), base, color=BASE_COLOR, linewidth=1, label="base")
    for released, color, label in (
        (True, RELEASED_COLOR, "released"),
        (False, REFUSED_COLOR, "refused"),
    ):
        places = [n for n, line in enumerate(decisions) if line.released is released]
        heights = [decisions[n].perplexity for n in places]
        if places:
            axes.plot(places, heights, "o", color=color, markersize=size, label=label)
    axes.spines[["top", "right"]].set_visible(False)
