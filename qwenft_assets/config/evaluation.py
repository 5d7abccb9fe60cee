"""What a new adapter is measured on."""

from __future__ import annotations

from pydantic import Field

from qwenft_assets.config.section import Section


class EvaluationConfig(Section):
    """Loss and perplexity on held-out rows, and answers: base against adapter and champion."""

    frozen_eval: str | None = Field(
        default=None,
        description="JSON lines of {instruction, input, output, system, source} to evaluate on in "
        "place of the split, so that rebuilds compare; kept out of every mixture.",
    )
    batch_tokens: int = Field(
        default=16_384,
        gt=0,
        description="Tokens in one forward pass; fewer where memory has no room for them.",
    )
    bootstrap_resamples: int = Field(
        default=2_000, ge=100, description="Draws behind each 95 % interval."
    )
    seed: int = Field(default=0, description="Of these draws.")
    sample_rows: int = Field(default=4, ge=0, description="Held-out rows answered side by side.")
    sample_max_new_tokens: int = Field(
        default=48, gt=0, description="Tokens of each such answer at most."
    )
    bundled_prompts: int = Field(
        default=12, ge=0, le=12, description="How many of the bundled prompts are answered."
    )
    prompts_path: str = Field(
        default="data/eval_prompts.jsonl",
        description="More prompts, where the file is there: JSON lines of {id, instruction, input}.",
    )
    prompt_max_new_tokens: int = Field(
        default=256, gt=0, description="An answer that is not over by then does not stop."
    )
    benchmarks: tuple[str, ...] = Field(
        default=(), description="Tasks of lm-eval, run on base and adapter; needs qwenft[bench]."
    )
    benchmark_tasks_path: str | None = Field(
        default=None, description="Folder with lm-eval tasks of one's own."
    )
    benchmark_rows: int | None = Field(
        default=None, gt=0, description="Rows of each task; null: all."
    )
