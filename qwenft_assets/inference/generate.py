"""Answers, as a stream of text or as a batch."""

import threading
from collections.abc import Generator, Sequence
from typing import Any

from qwenft_assets.config import DecodingConfig
from qwenft_assets.text.chatml import END_OF_TEXT, TURN_END


def stream_answer(
    model: Any,
    tokenizer: Any,
    prompt: str,
    decoding: DecodingConfig,
    stop: threading.Event | None = None,
) -> Generator[str]:
    """The answer to a rendered prompt, piece by piece; ends at `<|im_end|>`, which is not shown.

    Args:
        model: The base model or a PeftModel.
        tokenizer: Its tokenizer.
        prompt: As render_prompt or render_conversation gives it.
        decoding: How tokens are drawn.
        stop: Set it from another thread, or leave the iterator, to end the answer early.
    """
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer, set_seed

    stopped = stop or threading.Event()

    class Stop(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002
            return input_ids.new_full((len(input_ids),), stopped.is_set(), dtype=torch.bool)

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    inputs = _encode(tokenizer, [prompt], model)
    failures: list[BaseException] = []

    def generate() -> None:
        try:
            with torch.inference_mode():
                model.generate(
                    **inputs,
                    **generation_options(tokenizer, decoding),
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([Stop()]),
                )
        except BaseException as error:  # noqa: BLE001  (raised again below, in the caller's thread)
            failures.append(error)
            streamer.end()

    if decoding.seed is not None:
        set_seed(decoding.seed)
    thread = threading.Thread(target=generate, daemon=True)
    thread.start()
    try:
        for piece in streamer:
            if piece:
                yield piece
    finally:
        stopped.set()
        thread.join()
    if failures:
        raise failures[0]


def answer_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    decoding: DecodingConfig,
) -> list[str]:
    """The answers to several rendered prompts, in their order."""
    import torch
    from transformers import set_seed

    if decoding.seed is not None:
        set_seed(decoding.seed)
    inputs = _encode(tokenizer, prompts, model)
    with torch.inference_mode():
        output = model.generate(**inputs, **generation_options(tokenizer, decoding))
    answers = output[:, inputs["input_ids"].shape[1] :]  # (prompts, new tokens)
    return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


def generation_options(tokenizer: Any, decoding: DecodingConfig) -> dict[str, Any]:
    """Arguments of `generate`; temperature 0 is greedy."""
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
        "eos_token_id": tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT]),
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": True,
    }


def _encode(tokenizer: Any, prompts: Sequence[str], model: Any) -> dict[str, Any]:
    # Generation goes on from the last position, so padding stands on the left here.
    inputs = tokenizer(
        list(prompts),
        add_special_tokens=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    device = model.get_input_embeddings().weight.device
    return {
        "input_ids": inputs["input_ids"].to(device),
        "attention_mask": inputs["attention_mask"].to(device),
    }
