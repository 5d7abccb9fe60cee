"""The evaluation as a page for people, and its pictures for the report and the web UI."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenft_assets.evaluation.metrics import METRICS
from qwenft_assets.training.loss_curve import SHARP, draw_loss_curve, few_colour_png

BASE_COLOR, CHAMPION_COLOR, ADAPTER_COLOR = "#808080", "#3070a0", "#c04000"
SERIES = (
    ("base", "base_eval_loss", BASE_COLOR),
    ("champion", "champion_eval_loss", CHAMPION_COLOR),
    ("adapter", "eval_loss", ADAPTER_COLOR),
)
SAMPLE_PARTS = ("instruction", "input", "reference", "base", "champion", "adapter")


def render_report(
    result: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], pictures: Mapping[str, str]
) -> str:
    """Markdown: figures overall and by part, pictures, canaries, then answers side by side.

    Args:
        result: As in evaluation.json.
        samples: Prompts and held-out rows with each model's answer. They are untrusted text, so
            they stand in fences that no row can close.
        pictures: File name by caption.
    """
    low, high = result["delta_loss_ci95"]
    lines = [
        f"# Evaluation of {result['recipe']} adapter {result['adapter_version']}",
        "",
        f"Base {result['base_model']} at {result['base_revision']}, mixture "
        f"{result['mixture_version']}, {result['eval_rows']} held-out rows "
        f"({result['eval_set']}), {result['eval_tokens']} tokens, {result['truncated_rows']} rows "
        f"cut at {result['max_length_tokens']} tokens.",
        "",
        f"Loss {result['base_eval_loss']:.4f} → {result['eval_loss']:.4f} nats per token "
        f"(difference {result['delta_loss']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}); "
        f"perplexity {result['base_perplexity']:.2f} → {result['perplexity']:.2f}. The interval is "
        f"a paired bootstrap over {result['eval_questions']} questions.",
        *_champion(result),
        *_table("source", result["per_source"]),
        *_table("tokens of the row", result["per_length"]),
        *_table("what is counted", result["per_span"]),
    ]
    for caption, file in pictures.items():
        lines += ["", f"![{caption}]({file})"]
    lines += [*_canaries(result["canaries"]), *_benchmarks(result["benchmarks"])]
    for number, sample in enumerate(samples, 1):
        lines += ["", f"## Sample {number}: {sample.get('source') or sample['id']}"]
        for part in SAMPLE_PARTS:
            if sample.get(part):
                lines += ["", f"{part}:", "", *fenced(sample[part])]
    return "\n".join(lines) + "\n"


def fenced(text: str) -> list[str]:
    """Text as a code block, in a fence longer than any run of backticks inside it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}text", text, fence]


def _champion(result: Mapping[str, Any]) -> list[str]:
    if "champion_delta_loss" not in result:
        return []
    low, high = result["champion_delta_loss_ci95"]
    return [
        "",
        f"Against champion {result['champion_version']}, on {result['champion_rows']} rows that it "
        f"was not trained on: difference {result['champion_delta_loss']:+.4f}, 95 % interval "
        f"{low:+.4f} to {high:+.4f}; its perplexity {result['champion_perplexity']:.2f}.",
    ]


def _table(label: str, parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Counts, every metric, and the difference to the champion, a line for each part."""
    shown = [
        m for m in METRICS if m.in_report and all(own.keys() >= {*m.keys} for own in parts.values())
    ]
    of_models = [metric for metric in shown if not metric.compares]
    comparing = [metric for metric in shown if metric.compares]
    headings = [f"{model} {m.label}" for m in of_models for model in ("base", "adapter")]
    headings += [metric.label for metric in comparing]
    aligned = ["---:"] * (2 + 2 * len(of_models))
    aligned += ["---" if m.name.endswith("_ci95") else "---:" for m in comparing]
    lines = [
        "",
        f"| {label} | rows | tokens | {' | '.join(headings)} | Δ to champion |",
        f"|---|{'|'.join(aligned)}|---:|",
    ]
    for name, own in parts.items():
        figures = [m.text(own[key]) for m in [*of_models, *comparing] for key in m.keys]
        champion = own.get("champion_delta_loss")
        lines.append(
            f"| {name} | {own['eval_rows']} | {own['eval_tokens']} | {' | '.join(figures)} | "
            f"{'-' if champion is None else f'{champion:+.4f}'} |"
        )
    return lines


def _canaries(canaries: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not any(canaries.values()):
        return []
    lines = [
        "",
        f"| answers that pass | {' | '.join(canaries)} |",
        "|---|" + "---:|" * len(canaries),
    ]
    for canary in next(iter(canaries.values())):
        shares = " | ".join(f"{of_model[canary]:.0%}" for of_model in canaries.values())
        lines.append(f"| {canary} | {shares} |")
    return lines


def _benchmarks(benchmarks: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    if not benchmarks:
        return []
    lines = ["", "| benchmark | metric | base | adapter |", "|---|---|---:|---:|"]
    for task, metrics in benchmarks.items():
        for metric, values in metrics.items():
            lines.append(f"| {task} | {metric} | {values['base']:.4f} | {values['adapter']:.4f} |")
    return lines


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
