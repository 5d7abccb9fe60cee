"""After training: how an adapter is measured, released and shared, and how it answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwenft_assets.config.section import Section, TargetName


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
    seed: int = Field(default=0, description="Seed of these draws.")
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


class ReleaseConfig(Section):
    """When an adapter becomes the champion: every rule must hold."""

    min_delta_loss: float = Field(
        default=0.0,
        ge=0,
        description="Nats per token by which the adapter must beat the base beyond the interval.",
    )
    max_champion_delta_loss: float = Field(
        default=0.0,
        ge=0,
        description="Nats per token by which it may be worse than the champion beyond the interval.",
    )
    max_source_regression: float = Field(
        default=0.02,
        ge=0,
        description="Share of the base's loss by which it may be worse on any one source.",
    )
    min_canary_share: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Share of prompts that must pass each canary, where the base passes as many.",
    )


class PublishingConfig(Section):
    """Where a released adapter is shared, and under which names; tokens come from the environment."""

    target: TargetName | None = Field(
        default=None,
        description="Where each new champion is published unattended; null: nowhere.",
    )
    hub_repo: str | None = Field(default=None, description="owner/name of a model on the Hub.")
    hub_dataset_repo: str | None = Field(
        default=None, description="owner/name of a dataset on the Hub."
    )
    hub_private: bool = Field(default=True, description="Create repositories as private.")
    github_repo: str | None = Field(default=None, description="owner/name whose releases to use.")
    git_remote: str | None = Field(default=None, description="URL or folder of a git repository.")
    git_branch: str | None = Field(
        default=None, description="null: `main` for code-only, the content's name for git-lfs."
    )
    folder: str | None = Field(default=None, description="A folder for copies.")
    base_model: str | None = Field(
        default=None, description="The base model's public name, where training took a folder."
    )
    base_revision: str | None = Field(default=None, description="Its commit on the Hub.")
    license: str = Field(
        default="apache-2.0",
        description="Licence of the adapter, as the Hub names it; the base model's must allow it.",
    )
    languages: tuple[str, ...] = Field(default=("en", "zh"), description="Codes, ISO 639-1.")
    weights: Literal["bf16", "fp32"] = Field(
        default="bf16", description="Precision of the published adapter; the stored one stays fp32."
    )
    merged_weights: Literal["bf16", "fp16"] = Field(
        default="bf16",
        description="Precision of a merged model. fp16 rounds eight times finer, which small models need.",
    )
    shard_gb: float = Field(
        default=1.9, gt=0, description="Largest file of a merged model; GitHub takes below 2."
    )
    llama_cpp: str | None = Field(
        default=None, description="Checkout of llama.cpp, whose converter makes GGUF files."
    )
    scan_exempt: tuple[str, ...] = Field(
        default=("qwenft_assets_tests/*",),
        description="Paths of made-up secrets, for tests; private rows are looked for there too.",
    )


class DecodingConfig(Section):
    """How `infer`, `chat` and `serve` draw the tokens of an answer."""

    max_new_tokens: int = Field(default=512, gt=0, description="Longest answer, in tokens.")
    temperature: float = Field(default=0.8, ge=0, allow_inf_nan=False, description="0: greedy.")
    top_p: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Draw among the likeliest tokens that hold this share of the probability.",
    )
    repetition_penalty: float = Field(
        default=1.3,
        gt=0,
        allow_inf_nan=False,
        description="Divides the logits of tokens that were there before; 1: none.",
    )
    no_repeat_ngram_size: int = Field(default=3, ge=0, description="0: n-grams may repeat.")
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="null: another answer each time."
    )
    window_tokens: int = Field(
        default=4096,
        gt=16,
        description="Prompt and answer together; less where the base model reads less.",
    )
    compile: bool = Field(
        default=True,
        description="On a GPU with room: merge the adapter into bf16 weights and record the decode "
        "step as one CUDA graph, several times the speed.",
    )
