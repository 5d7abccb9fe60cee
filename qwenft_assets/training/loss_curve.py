"""The loss curve: a picture for the adapter's folder, and a thumbnail that the web UI shows inline."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Points = Sequence[tuple[int, float]]
"""(optimizer step, nats per token)"""
TRAIN_COLOR, EVAL_COLOR = "#808080", "#c04000"
THUMBNAIL_POINTS = (12, 8, 5)
"""Train points of a thumbnail; fewer are tried until it is small enough."""
SHARP: dict[Any, Any] = {
    "text.antialiased": False,
    "lines.antialiased": False,
    "patch.antialiased": False,
    "font.size": 7,
}
"""Matplotlib settings of a thumbnail: without smoothed edges four colours are enough."""


def draw_loss_curve(train: Points, evaluation: Points, path: Path) -> None:
    """Draw both curves; about 20 kB."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*train, strict=True), color=TRAIN_COLOR, linewidth=1.2, label="train")
    axes.plot(*zip(*evaluation, strict=True), color=EVAL_COLOR, marker="o", ms=4, label="eval")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})


def thumbnail(train: Points, evaluation: Points, max_bytes: int) -> bytes | None:
    """Both curves as a tiny PNG, train (grey) averaged over stretches; None if none is small enough."""
    for points in THUMBNAIL_POINTS:
        picture = _thumbnail(averaged(train, points), averaged(evaluation, points))
        if len(picture) <= max_bytes:
            return picture
    return None


def averaged(points: Points, stretches: int) -> list[tuple[float, float]]:
    """Means over at most `stretches` neighbouring stretches of nearly equal length."""
    size = -(-len(points) // stretches)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(step for step, _ in part) / len(part), sum(loss for _, loss in part) / len(part))
        for part in parts
    ]


def _thumbnail(
    train: Sequence[tuple[float, float]], evaluation: Sequence[tuple[float, float]]
) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SHARP):
        figure = Figure(figsize=(2.0, 0.7), dpi=100, layout="constrained")
        axes = figure.subplots()
        axes.plot(*zip(*train, strict=True), color=TRAIN_COLOR, linewidth=1)
        axes.plot(*zip(*evaluation, strict=True), color=EVAL_COLOR, linewidth=1, marker="o", ms=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.locator_params(nbins=2)
        axes.tick_params(length=2, width=0.6)
        return few_colour_png(figure)


def few_colour_png(figure: Any) -> bytes:
    """A figure drawn without smoothed edges, as the smallest PNG: four colours, two bits a pixel."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    palette = Image.open(drawn).convert("RGB").quantize(4, dither=Image.Dither.NONE)
    palette.save(small, "PNG", optimize=True, bits=2)
    return small.getvalue()
