"""When an adapter becomes the champion, and where it is shared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwenft_assets.config.section import Section, TargetName


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
    hub_private: bool = Field(default=True, description="Of a repository that is created.")
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
        default="bf16", description="Of the published adapter; the stored one stays fp32."
    )
    merged_weights: Literal["bf16", "fp16"] = Field(
        default="bf16",
        description="Of a merged model. fp16 rounds eight times finer, which small models need.",
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
