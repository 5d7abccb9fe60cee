"""Qwen2 and Llama decoders on flat batches: the arithmetic of transformers, in fewer, larger steps.

Layers that read the same input are one product, LoRA is part of it, attention takes all rows in one
kernel, and what stands between the products is fused. A test holds it to transformers' own forward.
The parameters are those of the PEFT model, so that training it here is training that model.
"""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from qwenft_assets.errors import ConfigError
from qwenft_assets.model.attention import attend
from qwenft_assets.model.batches import FlatBatch
from qwenft_assets.model.fsdp import run_layers, sharded
from qwenft_assets.model.linear import (
    DenseWeight,
    Fp8Weight,
    FrozenWeight,
    LoraLinear,
    LoraPart,
    Nf4Weight,
    fused,
    round_adapters,
    spare_columns,
)

if TYPE_CHECKING:
    import torch

FAMILIES = ("qwen2", "llama")
ADAPTER = "default"


def supports(config: Any) -> bool:
    """Whether a model of this config can be run here."""
    plain = getattr(config, "hidden_act", "silu") == "silu"
    windowed = getattr(config, "use_sliding_window", False)
    return config.model_type in FAMILIES and plain and not windowed


class FlatDecoder:
    """A PEFT model, or its base, as a function of flat batches."""

    def __init__(
        self,
        model: Any,
        *,
        weights: str,
        keep_4bit: bool = False,
        adapters: Sequence[str] = (ADAPTER,),
        shards: int = 1,
    ) -> None:
        """Stack the weights of a loaded model.

        Args:
            model: A PeftModel around a causal language model of FAMILIES, or such a model.
            weights: `nf4`, `bf16` or `fp32`, as the model was loaded; `fp8` rounds bf16 to 8 bits.
            keep_4bit: Keep `nf4` weights in 4 bits, a third of the memory; otherwise in bf16, the
                same numbers, without converting them for every product.
            adapters: Names of the model's adapters that may be used, the initial one first; the spare
                columns of the weights fit the largest.
            shards: Above 1, the weights of the layers are sharded over all processes; they may be on
                the CPU before, and only this decoder can run the model from here on.

        Raises:
            ConfigError: The model is of another family.
        """
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not supports(causal.config):
            raise ConfigError(
                f"{causal.config.model_type}: training.batching flattened and packed know "
                f"{' and '.join(FAMILIES)} only. Set training.batching to padded."
            )
        self.causal, self.core, self.config = causal, causal.model, causal.config
        self._hold = (weights, keep_4bit)
        self._adapters, self._adapter, self._shards = tuple(adapters), adapters[0], shards
        self._linear: list[tuple[LoraLinear, Sequence[Any]]] = []
        layers = (_Layer(layer, self._stack, self.config) for layer in self.core.layers)
        if shards > 1:
            self._through_layers = sharded(layers, self.head.device.type)
            self.layers = self._through_layers.layers
        else:
            self.layers = [*layers]
            self._through_layers = partial(run_layers, self.layers)

    @property
    def head(self) -> "torch.Tensor":
        """The language head, (vocabulary, hidden size)."""
        return self.causal.lm_head.weight

    def hidden_states(
        self,
        batch: FlatBatch,
        *,
        noise_alpha: float | None = None,
        training: bool = False,
        adapted: bool = True,
        checkpointing: bool = False,
    ) -> "torch.Tensor":
        """Hidden states after the last norm, (tokens, hidden size).

        Args:
            batch: On the model's device.
            noise_alpha: NEFTune's alpha; None for no noise.
            training: Whether dropout is on.
            adapted: False for the base without its adapter.
            checkpointing: Keep only the input of each layer, and compute the layer again for the
                gradient.
        """
        x = self.core.embed_tokens(batch.input_ids)
        if adapted:
            round_adapters([linear for linear, _ in self._linear], x.dtype)
        if noise_alpha is not None:
            x = x + neftune_noise(batch, x, noise_alpha)
        cos, sin = self.core.rotary_emb(x[None], batch.position_ids[None])  # (1, tokens, head size)
        rotation = (cos[0, :, None], sin[0, :, None])
        arguments = (rotation, batch, training, adapted)
        x = self._through_layers(x, *arguments, checkpointing=checkpointing)
        norm = self.core.norm
        return fused(rms_norm, x.device.type)(x, norm.weight, norm.variance_epsilon)

    def use_adapter(self, adapter: str) -> None:
        """Use the PEFT model's adapter of this name from now on.

        Raises:
            ValueError: The decoder was built without it.
        """
        if adapter not in self._adapters:
            raise ValueError(f"the decoder was built for {', '.join(self._adapters)}")
        if adapter == self._adapter:
            return
        self._adapter = adapter
        for linear, modules in self._linear:
            linear.use_adapter(*_adapter_of(modules, adapter))

    def _stack(self, modules: Sequence[Any]) -> LoraLinear:
        bases = [getattr(module, "base_layer", module) for module in modules]
        first, *others = (_adapter_of(modules, name) for name in self._adapters)
        outputs, inputs = sum(base.out_features for base in bases), bases[0].in_features
        # A sharded weight has no spare columns: what is gathered is not kept.
        spare = max(spare_columns(parts, outputs, inputs) for parts, _, _ in (first, *others))
        spare = spare if self._shards == 1 else 0
        stacked = LoraLinear(_frozen(bases, *self._hold, spare), *first)
        self._linear.append((stacked, modules))
        if self._shards > 1:
            _empty([base.weight for base in bases])
        return stacked


class _Layer:
    """One decoder layer."""

    def __init__(self, layer: Any, stack: Any, config: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before_attention, self.before_mlp = (
            layer.input_layernorm,
            layer.post_attention_layernorm,
        )
        self.qkv = stack([attention.q_proj, attention.k_proj, attention.v_proj])
        self.output = stack([attention.o_proj])
        self.gate_up = stack([mlp.gate_proj, mlp.up_proj])
        self.down = stack([mlp.down_proj])
        self.heads = config.num_attention_heads
        self.key_heads = config.num_key_value_heads
        self.head_size = attention.head_dim

    @property
    def linears(self) -> Mapping[str, LoraLinear]:
        """The linear layers, by name."""
        return {"qkv": self.qkv, "output": self.output, "gate_up": self.gate_up, "down": self.down}

    def __call__(self, x: "torch.Tensor", *arguments: Any, checkpointing: bool) -> "torch.Tensor":
        """(tokens, hidden size) to the same shape; the arguments are those of _forward."""
        if checkpointing:
            from torch.utils.checkpoint import checkpoint

            return checkpoint(self._forward, x, *arguments, use_reentrant=False)
        return self._forward(x, *arguments)

    def _forward(
        self,
        x: "torch.Tensor",
        rotation: "tuple[torch.Tensor, torch.Tensor]",
        batch: FlatBatch,
        training: bool,
        adapted: bool,
    ) -> "torch.Tensor":
        device = x.device.type
        mode = {"training": training, "adapted": adapted}
        norm = self.before_attention
        normed = fused(rms_norm, device)(x, norm.weight, norm.variance_epsilon)
        qkv = self.qkv(normed, **mode).unflatten(1, (-1, self.head_size))
        query, key, value = qkv.split([self.heads, self.key_heads, self.key_heads], dim=1)
        query, key = fused(rotate, device)(query, key, *rotation)
        attended = attend(query, key, value, batch).flatten(1)
        norm = self.before_mlp
        x, normed = fused(add_and_norm, device)(
            x, self.output(attended, **mode), norm.weight, norm.variance_epsilon
        )
        activated = swiglu(self.gate_up(normed, **mode))
        return x + self.down(activated, **mode)


def rms_norm(x: "torch.Tensor", weight: "torch.Tensor", epsilon: float) -> "torch.Tensor":
    """Root mean square norm (Zhang and Sennrich, 2019), computed in float32."""
    import torch

    values = x.float()
    scaled = values * torch.rsqrt(values.pow(2).mean(dim=-1, keepdim=True) + epsilon)
    return weight * scaled.to(x.dtype)


def add_and_norm(
    x: "torch.Tensor", update: "torch.Tensor", weight: "torch.Tensor", epsilon: float
) -> "tuple[torch.Tensor, torch.Tensor]":
    """The residual sum, and its norm."""
    total = x + update
    return total, rms_norm(total, weight, epsilon)


def rotate(
    query: "torch.Tensor", key: "torch.Tensor", cos: "torch.Tensor", sin: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Rotary position embedding (Su et al., 2021) of (tokens, heads, head size)."""
    import torch

    def rotated(part: torch.Tensor) -> torch.Tensor:
        first, second = part.chunk(2, dim=-1)
        return part * cos + torch.cat((-second, first), dim=-1) * sin

    return rotated(query), rotated(key)


def swiglu(gate_up: "torch.Tensor") -> "torch.Tensor":
    """silu(gate) * up (Shazeer, 2020): (tokens, 2 width) to (tokens, width).

    Autograd would make the gradient of the two halves separately, each as a full matrix of zeros with
    one half filled in: three times the memory traffic of the widest tensors of a layer.
    """
    return _swiglu_function().apply(gate_up)


def _swiglu_value(gate_up: "torch.Tensor") -> "torch.Tensor":
    from torch.nn.functional import silu

    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up


def _swiglu_gradient(gate_up: "torch.Tensor", of_value: "torch.Tensor") -> "torch.Tensor":
    """Gradient with respect to gate and up, side by side; computed in float32 at least."""
    import torch

    precision = torch.promote_types(gate_up.dtype, torch.float32)
    gate, up = (half.to(precision) for half in gate_up.chunk(2, dim=-1))
    of_value = of_value.to(precision)
    sigmoid = torch.sigmoid(gate)
    of_gate = of_value * up * sigmoid * (1 + gate * (1 - sigmoid))
    of_up = of_value * gate * sigmoid
    return torch.cat([half.to(gate_up.dtype) for half in (of_gate, of_up)], dim=-1)


@cache
def _swiglu_function() -> Any:
    """The autograd function, defined at first use because its base class needs torch."""
    import torch

    class Swiglu(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(gate_up)
            return fused(_swiglu_value, gate_up.device.type)(gate_up)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            (gate_up,) = ctx.saved_tensors
            return fused(_swiglu_gradient, gate_up.device.type, apart=True)(gate_up, gradients[0])

    return Swiglu


def neftune_noise(batch: FlatBatch, embedded: "torch.Tensor", alpha: float) -> "torch.Tensor":
    """Uniform noise of NEFTune (Jain et al., 2023): each row's bound follows from its own length.

    The bound is alpha / sqrt(length * hidden size). transformers takes the length of the whole flat
    batch, which makes the noise of short rows several times too small.
    """
    import torch

    lengths = torch.tensor(batch.lengths, dtype=torch.float32)
    bounds = alpha / (lengths * embedded.shape[1]).sqrt()
    by_token = bounds.repeat_interleave(torch.tensor(batch.lengths)).to(embedded.device)
    noise = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1)
    return (noise * by_token[:, None]).to(embedded.dtype)


def _adapter_of(modules: Sequence[Any], name: str) -> tuple[list[LoraPart], float, float]:
    """The named adapter of stacked layers: its parts, alpha / rank, and dropout."""
    parts: list[LoraPart] = []
    start, scale, dropout = 0, 1.0, 0.0
    for module in modules:
        size = getattr(module, "base_layer", module).out_features
        if name in getattr(module, "lora_A", {}):
            a, b = (getattr(module, matrix)[name].weight for matrix in ("lora_A", "lora_B"))
            parts.append(LoraPart(start, size, a, b))
            scale = module.scaling[name]
            dropout = getattr(module.lora_dropout[name], "p", 0.0)
        start += size
    return parts, scale, dropout


def _frozen(
    bases: Sequence[Any], weights: str, keep_4bit: bool, spare_columns: int
) -> FrozenWeight:
    import torch
    from torch.nn.functional import pad

    given = [base.bias for base in bases]
    bias = torch.cat([part.detach() for part in given]) if given[0] is not None else None
    parts = [base.weight for base in bases]
    if hasattr(parts[0], "quant_state"):
        in_4bit = Nf4Weight(parts, bias)
        return (
            in_4bit if keep_4bit else DenseWeight(in_4bit.dense(spare_columns), bias, spare_columns)
        )
    stacked = torch.cat([part.detach() for part in parts]) if len(parts) > 1 else parts[0].detach()
    if weights == "fp8":
        rounded = Fp8Weight(stacked, bias)
        _empty(parts)
        return rounded
    # The layers become views of the stacked weight: nothing is in memory twice.
    stacked = pad(stacked, (0, spare_columns)) if spare_columns else stacked
    held = DenseWeight(stacked, bias, spare_columns)
    for part, view in zip(parts, held.weight.split([p.shape[0] for p in parts]), strict=True):
        part.data = view
    return held


def _empty(parts: Sequence[Any]) -> None:
    """Free a model's own weights: from here on only this decoder can run it."""
    for part in parts:
        part.data = part.data.new_empty(0)
