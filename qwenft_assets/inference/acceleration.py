"""What makes one stream fast on a GPU: merged bf16 weights, grouped attention, a recorded step."""

from collections.abc import Callable
from typing import Any

from qwenft_assets.config import DecodingConfig
from qwenft_assets.inference.decoder import Decoder
from qwenft_assets.model.device import GIB

GROUPED_ATTENTION = "qwenft_grouped"
WORKSPACE_BYTES = 2 * GIB
"""Activations of a long prompt, logits, CUDA graphs and libraries."""


def room_for_merging(model: Any, window_tokens: int) -> bool:
    """Whether the GPU holds the model in bf16 with a full cache, beside what is there already."""
    import gc

    import torch

    gc.collect()  # a model that was given up still holds its memory until then
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info()
    config = model.config
    head_size = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    cache_values = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size
    cache_bytes = 2 * cache_values * window_tokens
    is_quantized = getattr(model, "hf_quantizer", None) is not None
    weights_bytes = 2 * model.num_parameters() if is_quantized else 0
    return free_bytes > weights_bytes + cache_bytes + WORKSPACE_BYTES


def dequantized(model: Any) -> Any:
    """The base model with its 4-bit weights written out in bf16: the same function, to the bit.

    An adapter merged into the weights of the original model instead would not meet the rounding
    errors that it learned to live with.
    """
    import torch

    if getattr(model, "hf_quantizer", None) is None:
        return model
    model = model.dequantize(torch.bfloat16)
    torch.cuda.empty_cache()
    return model


def merged(model: Any) -> Any:
    """The base model with the adapter's update added to its weights: W + (alpha / rank) B A."""
    return model.merge_and_unload(safe_merge=True)


def fast_decoder(model: Any, window_tokens: int) -> Decoder:
    """A decoder with a static cache and a recorded step, for a merged model on a GPU."""
    use_grouped_attention(model)
    return Decoder(model, window_tokens, compile_step=recorded)


def recorded(step: Callable[..., Any]) -> Callable[..., Any]:
    """A function of GPU tensors as one CUDA graph: its launches are recorded once, then replayed.

    torch.compile would make somewhat fewer kernels of it, after more than two minutes for 28 layers;
    a recording takes a second, and the launches are what a step of one token waits for.

    Args:
        step: Works in place on tensors that never move; its arguments and its result keep their shapes.

    Returns:
        The function. Its first call runs plainly, its second is recorded. Each call overwrites the
        result of the one before.
    """
    import torch

    graph: torch.cuda.CUDAGraph | None = None
    places: list[Any] = []
    results: list[Any] = []

    def run(*arguments: Any) -> Any:
        nonlocal graph
        if (
            not places
        ):  # libraries load their kernels and take their memory, which no graph can hold
            places.extend(argument.clone() for argument in arguments)
            return step(*arguments)
        for place, argument in zip(places, arguments, strict=True):
            place.copy_(argument)
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                results.append(step(*places))
        graph.replay()
        return results[0]

    return run


def use_grouped_attention(model: Any) -> None:
    """Let the model attend by `grouped_attention` while it decodes, by SDPA while it reads."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
    AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)
    model.set_attn_implementation(GROUPED_ATTENTION)


def grouped_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    scaling: float,
    **kwargs: Any,
) -> tuple[Any, None]:
    """Attention of one new token, which reads each key and value once.

    With a mask, SDPA first copies keys and values once for each query head of a group, seven times
    for Qwen2.5-7B, and that of a whole static cache.

    Args:
        module: The attention layer.
        query: (batch, heads, length, head size). For more than one token SDPA does it.
        key: (batch, key heads, cache length, head size).
        value: As `key`.
        attention_mask: True where attended; (batch, 1, length, cache length).
        scaling: Of the scores.
        kwargs: What else the attention interface passes on.

    Returns:
        (batch, length, heads, head size), and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    batch, heads, length, head_size = query.shape
    if length > 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    key_heads = key.shape[1]
    grouped = query.view(batch, key_heads, heads // key_heads, head_size)
    scores = (grouped @ key.transpose(2, 3)).float() * scaling  # (batch, key heads, group, cache)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    weights = scores.softmax(dim=-1).to(value.dtype)
    attended = weights @ value  # (batch, key heads, group, head size)
    return attended.reshape(batch, 1, heads, head_size), None


def decoding_allows(decoding: DecodingConfig, device: str) -> bool:
    """Whether merging and compiling are asked for and of use."""
    return decoding.compile and device == "cuda"
