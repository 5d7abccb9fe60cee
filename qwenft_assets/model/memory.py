"""How much of a GPU a training run needs, part by part, and how an optimizer step is cut to fit it.

The figures follow from the shapes that the flat decoder keeps for the gradient; what one pass needs
on top (kernels, fragments) is a share found by measuring, see benchmarks/RESULTS.md.
"""

from dataclasses import dataclass
from typing import Any

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import DeviceError
from qwenft_assets.model.device import GIB
from qwenft_assets.model.fsdp import can_shard
from qwenft_assets.model.head import BLOCK_TOKENS
from qwenft_assets.processes.ranks import Ranks

BYTES_PER_WEIGHT = {"nf4": 0.5 + 4 / 64, "fp8": 2.0, "bf16": 2.0, "fp32": 4.0}
"""Bytes that one weight of a linear layer takes. In 4 bits, 64 weights share a scale; fp8 weights are held
twice (see Fp8Weight)."""
CONTEXT_GIB = 0.7
"""What CUDA and its libraries take before the first tensor."""
SLACK = 1.10
"""Factor on the bytes of activations, for the allocator's fragments and the kernels' workspace."""
RECOMPUTE_FACTOR = 1.4
UNPACK_COST_TOKENS = 800.0
"""Turning all 4-bit weights into bf16 once takes as long as the products of so many tokens."""
PASS_COST_TOKENS = 500.0
"""What a pass costs however few tokens it has: each weight is read, each kernel launched."""
CPU_MICRO_BATCH_TOKENS = 4_096
GATHERED_LAYERS = 3
"""Layers of a sharded model that are whole at a time: the current one, and the next one twice, as it
arrives and as it is laid out. Derived from how FSDP2 works, not measured."""


@dataclass(frozen=True)
class ModelShape:
    """What of a decoder's config decides its memory."""

    layers: int
    hidden: int
    intermediate: int
    query_width: int
    key_width: int
    vocabulary: int
    tied: bool

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers of the decoder."""
        attention = self.hidden * (2 * self.query_width + 2 * self.key_width)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def vocabulary_weights(self) -> int:
        """Weights of the embedding and the head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)


@dataclass(frozen=True)
class MemoryPlan:
    """How a step is cut, and what that takes."""

    keep_4bit: bool
    """Hold nf4 weights in 4 bits; otherwise in bf16, which is faster."""
    checkpointing: bool
    micro_batch_tokens: int
    """Tokens of one forward pass."""
    parts_gib: dict[str, float]
    """weights, activations, optimizer, logits, context: GiB of each at the peak."""
    shards: int = 1
    """Processes that hold the layers' frozen weights together; 1: each holds them whole."""

    @property
    def peak_gib(self) -> float:
        """The whole."""
        return sum(self.parts_gib.values())


def shape_of(config: Any) -> ModelShape:
    """The shape of a transformers config."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        query_width=config.num_attention_heads * head,
        key_width=config.num_key_value_heads * head,
        vocabulary=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
    )


def plan_memory(
    shape: ModelShape,
    settings: TrainingConfig,
    trainable_parameters: int,
    largest_step_tokens: int,
    longest_row_tokens: int,
    available_gib: float,
    processes: int = 1,
) -> MemoryPlan:
    """The fastest way to cut an optimizer step that fits.

    Weighed against each other: weights held in bf16 or in 4 bits, few passes or many, layers kept or
    computed again. What the settings fix stays fixed. Weights are sharded only where nothing else fits.

    Args:
        shape: Of the base model.
        settings: Of the run.
        trainable_parameters: Of the adapter.
        largest_step_tokens: Tokens of the largest optimizer step.
        longest_row_tokens: A pass is never smaller.
        available_gib: What this process may take of the GPU.
        processes: That train together, each on a GPU of its own.

    Raises:
        DeviceError: Nothing fits; says what would help, and by how much.
    """
    asked = settings.gradient_checkpointing
    plans = [
        _fit(
            shape,
            settings,
            trainable_parameters,
            (keep_4bit, checkpointing, shards),
            longest_row_tokens,
            largest_step_tokens,
            available_gib,
        )
        for checkpointing in ([False, True] if asked == "auto" else [bool(asked)])
        for keep_4bit in _ways_to_hold(settings)
        for shards in _ways_to_shard(settings, processes)
    ]
    fitting = [plan for plan in plans if plan.peak_gib <= available_gib]
    if fitting:
        return min(
            fitting, key=lambda plan: (plan.shards, _relative_cost(plan, largest_step_tokens))
        )
    smallest = min(plans, key=lambda plan: plan.peak_gib)
    each = f" on each of {smallest.shards} GPUs" if smallest.shards > 1 else ""
    raise DeviceError(
        f"training needs {smallest.peak_gib:.1f} GiB of GPU memory{each} with passes of one row of "
        f"{longest_row_tokens} tokens, {available_gib:.1f} are free ({_format_plan(smallest)}). Lower "
        "training.max_length_tokens, set training.gradient_checkpointing to auto, or use weights: "
        "nf4."
    )


def shards_of(settings: TrainingConfig, plan: MemoryPlan | None, ranks: Ranks) -> int:
    """Processes that hold the weights of the layers together; 1: each holds them whole.

    Args:
        settings: Of the run.
        plan: What GPU memory allows. None on a CPU, which shards only where the settings say true.
        ranks: The processes that train together.
    """
    if plan is not None:
        return plan.shards
    asked = settings.shard_base_weights is True and can_shard(settings, ranks.size)
    return ranks.size if asked else 1


def _ways_to_hold(settings: TrainingConfig) -> list[bool]:
    """Whether 4-bit weights stay in 4 bits: whichever is faster, where the engine has the choice."""
    if settings.weights != "nf4":
        return [False]
    return [False, True] if settings.engine_traits.nf4_as_bf16 else [True]


def _ways_to_shard(settings: TrainingConfig, processes: int) -> list[int]:
    if not can_shard(settings, processes):
        return [1]
    return [processes] if settings.shard_base_weights is True else [1, processes]


def _fit(
    shape: ModelShape,
    settings: TrainingConfig,
    trainable: int,
    option: tuple[bool, bool, int],
    needed_tokens: int,
    largest_step_tokens: int,
    available_gib: float,
) -> MemoryPlan:
    keep_4bit, checkpointing, shards = option
    parts = fixed_gib(shape, settings, trainable, keep_4bit=keep_4bit, shards=shards)
    per_token = activation_bytes_per_token(shape, checkpointing=checkpointing) * SLACK / GIB
    room = int(max(available_gib - sum(parts.values()), 0) / per_token)
    tokens = settings.micro_batch_tokens or min(max(room, needed_tokens), largest_step_tokens)
    parts["activations"] = per_token * tokens
    return MemoryPlan(keep_4bit, checkpointing, tokens, parts, shards)


def _relative_cost(plan: MemoryPlan, step_tokens: int) -> float:
    """Time of a step, in units of the products of one token; see benchmarks/RESULTS.md."""
    passes = -(-step_tokens // plan.micro_batch_tokens)
    sweeps = 3 if plan.checkpointing else 2
    work = step_tokens * (RECOMPUTE_FACTOR if plan.checkpointing else 1.0)
    in_4bit = passes * sweeps * UNPACK_COST_TOKENS if plan.keep_4bit else 0.0
    return work + passes * PASS_COST_TOKENS + in_4bit


def fixed_gib(
    shape: ModelShape,
    settings: TrainingConfig,
    trainable: int,
    *,
    keep_4bit: bool,
    shards: int = 1,
) -> dict[str, float]:
    """What does not grow with the tokens of a pass, in GiB by part."""
    kind = settings.weights
    per_weight = BYTES_PER_WEIGHT[kind]
    if kind == "nf4" and not keep_4bit:
        per_weight += 2.0  # both are held
    element = 4 if kind == "fp32" else 2
    of_layers = shape.linear_weights * per_weight
    if shards > 1:
        of_layers *= 1 / shards + min(GATHERED_LAYERS / shape.layers, 1)
    weights = of_layers + shape.vocabulary_weights * element
    if kind == "nf4" and keep_4bit:  # the largest stack of layers, in bf16 for a moment
        weights += 2 * shape.hidden * shape.intermediate * 2
    # fp32 adapter and gradient, and two moments: a byte each in the 8-bit optimizer.
    moments = 2 if settings.optimizer == "adamw_8bit" else 8
    block = BLOCK_TOKENS * shape.vocabulary
    return {
        "context": CONTEXT_GIB,
        "weights": weights / GIB,
        "optimizer": trainable * (4 + 4 + moments) / GIB,
        "logits": block * 2 * element / GIB,
    }


def activation_bytes_per_token(shape: ModelShape, *, checkpointing: bool) -> int:
    """What one token keeps for the gradient, in bytes, with bf16 activations; see decoder._Layer."""
    residuals_and_norms = 4 * shape.hidden
    attention = 4 * shape.query_width + 2 * shape.key_width
    of_layer = 2 * (residuals_and_norms + attention + 3 * shape.intermediate)
    for_a_moment = 2 * 4 * shape.intermediate
    if checkpointing:
        return 2 * shape.hidden * shape.layers + of_layer + for_a_moment
    return of_layer * shape.layers + for_a_moment


def _format_plan(plan: MemoryPlan) -> str:
    return ", ".join(f"{name} {gib:.1f}" for name, gib in plan.parts_gib.items())


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch reports that the memory of the GPU or of the machine is used up."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_cached() -> None:
    """Return unused GPU memory from torch's allocator, whose free blocks may be too fragmented."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
