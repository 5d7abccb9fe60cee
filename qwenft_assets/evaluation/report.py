"""The evaluation as a page for people."""

from collections.abc import Mapping, Sequence
from typing import Any


def render_report(result: Mapping[str, Any], samples: Sequence[Mapping[str, str]]) -> str:
    """Markdown: figures overall and by source, then answers side by side.

    Rows are untrusted text, so they stand in fences that no row can close.
    """
    low, high = result["delta_loss_ci95"]
    lines = [
        f"# Evaluation of {result['recipe']} adapter {result['adapter_version']}",
        "",
        f"Base {result['base_model']} at {result['base_revision']}, mixture "
        f"{result['mixture_version']}, {result['eval_rows']} held-out rows, "
        f"{result['eval_tokens']} tokens, {result['truncated_rows']} rows cut at "
        f"{result['max_length_tokens']} tokens.",
        "",
        f"Loss {result['base_eval_loss']:.4f} → {result['eval_loss']:.4f} nats per token "
        f"(difference {result['delta_loss']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}); "
        f"perplexity {result['base_perplexity']:.2f} → {result['perplexity']:.2f}.",
        "",
        "| source | rows | tokens | base perplexity | adapter perplexity | Δ loss | 95 % interval |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for source, own in result["per_source"].items():
        own_low, own_high = own["delta_loss_ci95"]
        lines.append(
            f"| {source} | {own['eval_rows']} | {own['eval_tokens']} | "
            f"{own['base_perplexity']:.2f} | {own['perplexity']:.2f} | {own['delta_loss']:+.4f} | "
            f"{own_low:+.4f} to {own_high:+.4f} |"
        )
    for number, sample in enumerate(samples, 1):
        lines += ["", f"## Sample {number}: {sample['source']}"]
        for part in ("instruction", "input", "reference", "base", "adapter"):
            if sample[part]:
                lines += ["", f"{part}:", "", *fenced(sample[part])]
    return "\n".join(lines) + "\n"


def fenced(text: str) -> list[str]:
    """Text as a code block, in a fence longer than any run of backticks inside it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}text", text, fence]
