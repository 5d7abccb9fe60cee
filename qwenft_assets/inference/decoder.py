"""The decode loop: token ids of a prompt in, token ids of the answer out, one stream.

It draws what `generate` of transformers draws (a test holds the two together), with its processors.
What it adds: it is a generator in the caller's thread. The caller stops it by leaving, an interrupt
arrives where the caller can catch it, and a CUDA graph, which belongs to the thread that made it,
serves every answer of a session.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

from qwenft_assets.config import DecodingConfig

FinishReason = Literal["stop", "length"]
"""The model ended its turn, or the answer reached its longest."""
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
