"""The evaluation as a page for people."""

from collections.abc import Mapping, Sequence
from typing import Any

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
    lines = [
        "",
        f"| {label} | rows | tokens | base perplexity | adapter perplexity | Δ loss | "
        "95 % interval | Δ to champion |",
        "|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    for name, own in parts.items():
        low, high = own["delta_loss_ci95"]
        champion = own.get("champion_delta_loss")
        lines.append(
            f"| {name} | {own['eval_rows']} | {own['eval_tokens']} | "
            f"{own['base_perplexity']:.2f} | {own['perplexity']:.2f} | {own['delta_loss']:+.4f} | "
            f"{low:+.4f} to {high:+.4f} | {'-' if champion is None else f'{champion:+.4f}'} |"
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
