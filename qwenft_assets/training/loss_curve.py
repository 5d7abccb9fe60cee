"""The loss curve as a small PNG, for the adapter's folder and the web UI."""

from collections.abc import Sequence
from pathlib import Path


def draw_loss_curve(
    train: Sequence[tuple[int, float]], evaluation: Sequence[tuple[int, float]], path: Path
) -> None:
    """Draw (step, nats per token) of both curves; about 20 kB."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*train, strict=True), color="#9aa7b5", linewidth=1.2, label="train")
    if evaluation:
        axes.plot(
            *zip(*evaluation, strict=True), color="#c2410c", marker="o", markersize=4, label="eval"
        )
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})
