"""The evaluation as pictures, for the report and for the web UI."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenft_assets.training.loss_curve import SHARP, draw_loss_curve, few_colour_png

BASE_COLOR, CHAMPION_COLOR, ADAPTER_COLOR = "#808080", "#3070a0", "#c04000"
SERIES = (
    ("base", "base_eval_loss", BASE_COLOR),
    ("champion", "champion_eval_loss", CHAMPION_COLOR),
    ("adapter", "eval_loss", ADAPTER_COLOR),
)


def draw_pictures(
    result: Mapping[str, Any], loss_history: Mapping[str, Any] | None, folder: Path
) -> dict[str, str]:
    """Draw what `result` has figures for; returns file name by caption."""
    pictures = {"Loss by source": "loss_by_source.png", "Loss by length": "loss_by_length.png"}
    draw_losses({**result["per_source"], "all": result}, folder / "loss_by_source.png")
    draw_losses(result["per_length"], folder / "loss_by_length.png", "tokens of the row")
    if loss_history and loss_history["train"] and loss_history["eval"]:
        pictures["Loss while training"] = "loss_curve.png"
        draw_loss_curve(loss_history["train"], loss_history["eval"], folder / "loss_curve.png")
    return pictures


def draw_losses(parts: Mapping[str, Mapping[str, Any]], path: Path, label: str = "") -> None:
    """Bars of base, champion and adapter for each part.

    The whisker on the adapter's bar is the interval of its difference to the base, so that a
    whisker which ends below the base's bar means better beyond chance.
    """
    from matplotlib.figure import Figure

    shown = [series for series in SERIES if all(series[1] in own for own in parts.values())]
    figure = Figure(figsize=(max(6, 1.3 * len(parts)), 3.4), dpi=90, layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(shown)
    for n, (name, key, color) in enumerate(shown):
        places = [place + (n - (len(shown) - 1) / 2) * width for place in range(len(parts))]
        heights = [own[key] for own in parts.values()]
        whiskers = _whiskers(list(parts.values())) if name == "adapter" else None
        axes.bar(places, heights, width, label=name, color=color, yerr=whiskers, capsize=3)
    axes.set_xticks(range(len(parts)), [name.replace("_", "_\n", 1) for name in parts], fontsize=8)
    axes.set(ylabel="loss (nats per token)", xlabel=label)
    axes.grid(alpha=0.25, axis="y")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(shown))
    figure.savefig(path, metadata={"Software": None})


def losses_thumbnail(result: Mapping[str, Any]) -> bytes:
    """Base (grey) and adapter (red) by source in alphabetical order, then all, as a tiny PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    parts = [*result["per_source"].values(), result]
    with mpl.rc_context(SHARP):
        figure = Figure(figsize=(2.0, 0.6), dpi=100, layout="constrained")
        axes = figure.subplots()
        for offset, key, color in (
            (-0.2, "base_eval_loss", BASE_COLOR),
            (0.2, "eval_loss", ADAPTER_COLOR),
        ):
            places = [place + offset for place in range(len(parts))]
            axes.bar(places, [own[key] for own in parts], 0.4, color=color)
        axes.set_xticks([])
        axes.spines[["top", "right"]].set_visible(False)
        axes.locator_params(axis="y", nbins=2)
        axes.tick_params(length=2, width=0.6)
        return few_colour_png(figure)


def _whiskers(parts: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Distances of base + interval from the adapter's loss, below and above; never negative."""
    ends = [own["delta_loss_ci95"] for own in parts]
    deltas = [own["delta_loss"] for own in parts]
    below = [max(delta - low, 0) for delta, (low, _) in zip(deltas, ends, strict=True)]
    above = [max(high - delta, 0) for delta, (_, high) in zip(deltas, ends, strict=True)]
    return [below, above]
