"""The decode loop: token ids of a prompt in, token ids of the answer out, one stream.

On a GPU a stream is fast with merged bf16 weights, grouped attention and a step recorded as a CUDA graph.

It draws the same tokens as `generate` of transformers (a test compares the two), with its processors.
Unlike `generate`, it is a generator in the caller's thread: the caller stops it by leaving, an interrupt
arrives where the caller can catch it, and a CUDA graph, which belongs to the thread that made it,
serves every answer of a session.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

from qwenft_assets.config import DecodingConfig
from qwenft_assets.model.device import GIB

FinishReason = Literal["stop", "length"]
"""The model ended its turn, or the answer reached its maximum length."""
GROUPED_ATTENTION = "qwenft_grouped"
WORKSPACE_BYTES = 2 * GIB
"""Activations of a long prompt, logits, CUDA graphs and libraries."""
WARM_UP_TOKENS = 4
"""A compiled step runs plainly once, is recorded once, and is replayed from then on."""


class Decoder:
    """Draws tokens from one model.

    Two ways to hold keys and values. A growing cache, as `generate` has it. Or a static one of
    `window_tokens`, whose addresses and shapes never change, so that `compile_step` can make one
    CUDA graph of a step.
    """

    def __init__(
        self,
        model: Any,
        window_tokens: int,
        *,
        compile_step: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
    ) -> None:
        """Make a decoder.

        Args:
            model: A causal language model of transformers, or a PeftModel.
            window_tokens: The longest prompt and answer together.
            compile_step: Given the step, returns a faster one; asks for the static cache.
        """
        self.model = model
        self.window_tokens = window_tokens
        self._static_cache: Any = None
        if compile_step is not None:
            from transformers import StaticCache

            self._static_cache = StaticCache(config=model.config, max_cache_len=window_tokens)
            self._static_step = compile_step(self._step_in_static_cache)

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.model.get_input_embeddings().weight.device

    def tokens(
        self,
        prompt_ids: Sequence[int],
        end_ids: Sequence[int],
        decoding: DecodingConfig,
        seed: int,
    ) -> Generator[int, None, FinishReason]:
        """The answer's token ids, each as soon as it is known; an end token is not among them.

        Args:
            prompt_ids: At least one, and fewer than `window_tokens`.
            end_ids: Tokens that end the answer.
            decoding: How tokens are drawn. The penalties count the prompt's tokens too.
            seed: Equal seeds draw equal answers.
        """
        import torch

        limit = min(decoding.max_new_tokens, self.window_tokens - len(prompt_ids))
        ids = torch.tensor([list(prompt_ids)], device=self.device)  # (1, tokens so far)
        pick = _picker(decoding, seed, self.device)
        cache = self._fresh_cache()
        on_gpu = self.device.type == "cuda"
        logits = self._prefill(ids, cache)
        token: Any = None
        for drawn in range(limit):
            if drawn and not on_gpu:
                logits = self._step(token, ids.shape[1] - 1, cache)
            token = pick(ids, logits)  # (1, 1)
            ids = torch.cat([ids, token], dim=1)
            arrived = _on_its_way_to_host(token)
            if on_gpu and drawn + 1 < limit:
                # Launched before this token is looked at, so that the GPU never waits for the host.
                # After an end token that is one step for nothing.
                logits = self._step(token, ids.shape[1] - 1, cache)
            token_id = arrived()
            if token_id in end_ids:
                return "stop"
            yield token_id
        return "length"

    def warm_up(self, prompt_ids: Sequence[int]) -> None:
        """Draw a few tokens, so that compiling is not part of the first answer."""
        greedy = DecodingConfig(temperature=0, max_new_tokens=WARM_UP_TOKENS)
        for _ in range(2):
            for _ in self.tokens(prompt_ids, (), greedy, seed=0):
                pass

    def _fresh_cache(self) -> Any:
        if self._static_cache is not None:
            self._static_cache.reset()
            return self._static_cache
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def _prefill(self, ids: Any, cache: Any) -> Any:
        """Logits after the prompt, float32 (1, vocabulary)."""
        import torch

        with torch.no_grad():
            output = self.model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        return output.logits[:, -1].float()

    def _step(self, token: Any, position: int, cache: Any) -> Any:
        """Logits after one more token, which stands at `position`."""
        import torch

        with torch.no_grad():
            if cache is not self._static_cache:
                output = self.model(input_ids=token, past_key_values=cache, use_cache=True)
                return output.logits[:, -1].float()
            # Filled on the device: a copy from the host would wait for everything launched before.
            where = torch.full((1, 1), position, device=token.device)
            return self._static_step(token, where)

    def _step_in_static_cache(self, token: Any, position: Any) -> Any:
        import torch

        slots = torch.arange(self.window_tokens, device=token.device)
        output = self.model(
            input_ids=token,
            position_ids=position,
            attention_mask=(slots <= position)[None, None],  # (1, 1, 1, window): what is written
            past_key_values=self._static_cache,
            use_cache=True,
        )
        return output.logits[:, -1].float()


def room_for_merging(model: Any, window_tokens: int) -> bool:
    """Whether the GPU has room for the model in bf16 with a full cache, beside what it holds already."""
    import gc

    import torch

    gc.collect()  # until then an unused model may still hold its memory
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

    The adapter was trained on these rounded weights; merged into those of the original model it would
    be another model.
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
    """Turn a function of GPU tensors into one CUDA graph, recorded once and then replayed.

    torch.compile would make somewhat fewer kernels, after more than two minutes for 28 layers; a
    recording takes a second, and a step of one token is bound by its launches.

    Args:
        step: A function of tensors that never move; its arguments and its result keep their shapes.

    Returns:
        The function. Its first call runs unrecorded, its second is recorded. Each call overwrites
        the result of the one before.
    """
    import torch

    graph: torch.cuda.CUDAGraph | None = None
    places: list[Any] = []
    results: list[Any] = []

    def run(*arguments: Any) -> Any:
        nonlocal graph
        if not places:  # libraries load kernels and allocate memory, which cannot be recorded
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
    """Make the model use `grouped_attention` to decode and SDPA to read the prompt."""
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
    """Attention of one new token that reads each key and value once.

    With a mask, SDPA first copies keys and values once for each query head of a group, seven times
    for Qwen2.5-7B, and that of a whole static cache.

    Args:
        module: The attention layer.
        query: (batch, heads, length, head size). For more than one token SDPA is used.
        key: (batch, key heads, cache length, head size).
        value: As `key`.
        attention_mask: True where attended; (batch, 1, length, cache length).
        scaling: Factor of the scores.
        kwargs: Further arguments of the attention interface.

    Returns:
        The output, (batch, length, heads, head size), and None for the attention weights.
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


def _picker(decoding: DecodingConfig, seed: int, device: Any) -> Callable[[Any, Any], Any]:
    """A function from ids (1, tokens) and logits (1, vocabulary) to the next token (1, 1)."""
    import torch

    process = logits_processors(decoding)
    source = torch.Generator(device).manual_seed(seed)

    def pick(ids: Any, logits: Any) -> Any:
        scores = process(ids, logits)
        if decoding.temperature == 0:
            return scores.argmax(dim=-1, keepdim=True)
        return torch.multinomial(scores.softmax(dim=-1), num_samples=1, generator=source)

    return pick


def logits_processors(decoding: DecodingConfig) -> Any:
    """The processors of transformers for these settings, in the order in which it applies them."""
    from transformers import (
        LogitsProcessorList,
        NoRepeatNGramLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopPLogitsWarper,
    )

    processors = LogitsProcessorList()
    if decoding.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(decoding.repetition_penalty)))
    if decoding.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size))
    if decoding.temperature not in {0, 1}:
        processors.append(TemperatureLogitsWarper(float(decoding.temperature)))
    if decoding.temperature and decoding.top_p < 1:
        processors.append(TopPLogitsWarper(decoding.top_p))
    return processors


def _on_its_way_to_host(token: Any) -> Callable[[], int]:
    """Start copying a token (1, 1) to the host; the returned function waits for it alone."""
    import torch

    if token.device.type != "cuda":
        return lambda: int(token)
    host = torch.empty((1, 1), dtype=token.dtype, pin_memory=True)
    host.copy_(token, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> int:
        copied.synchronize()
        return int(host)

    return wait
