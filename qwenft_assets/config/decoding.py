"""How answers are drawn."""

from __future__ import annotations

from pydantic import Field

from qwenft_assets.config.section import Section


class DecodingConfig(Section):
    """How `infer`, `chat` and `serve` draw tokens."""

    max_new_tokens: int = Field(default=512, gt=0, description="Of one answer, at most.")
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
