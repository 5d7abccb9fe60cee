"""Answers: a stream of text with its figures."""

import random
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwenft_assets.config import DecodingConfig
from qwenft_assets.errors import PromptError
from qwenft_assets.inference.decoder import Decoder
from qwenft_assets.text.chatml import END_OF_TEXT, TURN_END

SEEDS = 2**31


@dataclass(frozen=True)
class AnsweringModel:
    """A model ready to answer."""

    decoder: Decoder
    tokenizer: Any
    base_name: str
    adapter_version: str | None
    """None for the base alone."""
    base_path: Path
    is_merged: bool = False
    """The adapter is part of bf16 weights, and the decode step is compiled."""
    load_seconds: float = 0.0

    @property
    def window_tokens(self) -> int:
        """The longest prompt and answer together."""
        return self.decoder.window_tokens

    def count_tokens(self, prompt: str) -> int:
        """How many tokens a rendered prompt has."""
        return len(self._encode(prompt))

    def answer(
        self, prompt: str, decoding: DecodingConfig, stop: threading.Event | None = None
    ) -> "Answer":
        """The answer to a rendered prompt: iterate over it for its text, piece by piece.

        Args:
            prompt: As render_prompt or render_conversation gives it.
            decoding: How tokens are drawn.
            stop: Set it from another thread or a signal handler to end the answer early.

        Raises:
            PromptError: The prompt leaves no room for an answer.
        """
        prompt_ids = self._encode(prompt)
        if len(prompt_ids) >= self.window_tokens:
            raise PromptError(
                f"the prompt has {len(prompt_ids)} tokens, the window {self.window_tokens}. Shorten "
                "it, or raise decoding.window_tokens where the base model reads more."
            )
        return Answer(self, prompt_ids, decoding, stop or threading.Event())

    def _encode(self, prompt: str) -> list[int]:
        return self.tokenizer(prompt, add_special_tokens=False).input_ids


class Answer:
    """One answer; its text comes by iterating, its figures are whole when that ends.

    Leaving the loop, by an interrupt too, ends the answer: what came until then is its text.
    """

    def __init__(
        self,
        model: AnsweringModel,
        prompt_ids: Sequence[int],
        decoding: DecodingConfig,
        stop: threading.Event,
    ) -> None:
        """Begin nothing yet: the first token is drawn when the first piece is asked for."""
        self.text = ""
        self.prompt_tokens = len(prompt_ids)
        self.tokens = 0
        """Tokens of the answer, without the one that ended it."""
        self.first_token_seconds: float | None = None
        self.seconds = 0.0
        self.finish_reason: Literal["stop", "length", "stopped"] = "stopped"
        self.seed = decoding.seed if decoding.seed is not None else random.randrange(SEEDS)
        """Given to `--seed`, it draws this answer again."""
        self._pieces = self._generate(model, prompt_ids, decoding, stop)

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, none of them empty."""
        return self._pieces

    @property
    def tokens_per_second(self) -> float | None:
        """Speed after the first token; None for an answer of one token or none."""
        if self.first_token_seconds is None or self.tokens <= 1:
            return None
        return (self.tokens - 1) / max(self.seconds - self.first_token_seconds, 1e-9)

    def _generate(
        self,
        model: AnsweringModel,
        prompt_ids: Sequence[int],
        decoding: DecodingConfig,
        stop: threading.Event,
    ) -> Generator[str]:
        tokenizer = model.tokenizer
        ids: list[int] = []
        text = _TextStream(tokenizer)
        started = time.monotonic()
        tokens = model.decoder.tokens(prompt_ids, end_token_ids(tokenizer), decoding, self.seed)
        while not stop.is_set():
            try:
                ids.append(next(tokens))
            except StopIteration as end:
                self.finish_reason = end.value
                break
            finally:
                self.seconds = time.monotonic() - started
                self.tokens = len(ids)
            if self.first_token_seconds is None:
                self.first_token_seconds = self.seconds
            if piece := text.add(ids[-1]):
                self.text += piece
                yield piece
        if rest := text.rest(ids):
            self.text += rest
            yield rest


class _TextStream:
    """Text of tokens that come one by one; a character of several tokens comes when it is whole."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream([], skip_special_tokens=True)
        self._shown = ""

    def add(self, token_id: int) -> str:
        piece = self._stream.step(self._tokenizer.backend_tokenizer, token_id) or ""
        self._shown += piece
        return piece

    def rest(self, ids: list[int]) -> str:
        """What an answer that broke off inside a character still lacks."""
        whole = self._tokenizer.decode(ids, skip_special_tokens=True)
        return whole[len(self._shown) :] if whole.startswith(self._shown) else ""


def answer_batch(
    model: Any, tokenizer: Any, prompts: Sequence[str], decoding: DecodingConfig
) -> list[str]:
    """The answers to several rendered prompts, in their order, without blanks around them.

    One after the other: padded into one batch, the penalties would count padding, and rounding
    would depend on the neighbours. No prompt is too long: a report shows every row it draws.
    """
    longest = max((len(tokenizer(prompt).input_ids) for prompt in prompts), default=0)
    decoder = Decoder(model, longest + decoding.max_new_tokens)
    answering = AnsweringModel(decoder, tokenizer, "", None, Path())
    answers = [answering.answer(prompt, decoding) for prompt in prompts]
    return ["".join(answer).strip() for answer in answers]


def context_tokens(model: Any, decoding: DecodingConfig) -> int:
    """The window asked for, as far as the model's positions reach."""
    return min(decoding.window_tokens, model.config.max_position_embeddings)


def end_token_ids(tokenizer: Any) -> list[int]:
    """Tokens that end an answer."""
    return tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])


def generation_options(tokenizer: Any, decoding: DecodingConfig) -> dict[str, Any]:
    """The same settings as arguments of transformers' `generate`, for servers that call it."""
    sampling = (
        {
            "do_sample": True,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": 0,
        }
        if decoding.temperature > 0
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    return {
        **sampling,
        "max_new_tokens": decoding.max_new_tokens,
        "repetition_penalty": decoding.repetition_penalty,
        "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
        "eos_token_id": end_token_ids(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": True,
    }
