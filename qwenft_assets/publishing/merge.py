"""Base and adapter as one 16-bit model, and the proof that it answers as they do.

Merging is done in fp32 on the base's 16-bit weights, never on 4-bit ones: what is merged into rounded
weights is rounded away.
"""

import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qwenft_assets.config import DecodingConfig
from qwenft_assets.errors import PublishingError
from qwenft_assets.inference.generate import answer_batch
from qwenft_assets.model.base import BaseModelRef, fetch_base_model
from qwenft_assets.model.engines.peft import load_adapter, load_base, load_tokenizer
from qwenft_assets.progress import ReportProgress
from qwenft_assets.publishing.adapter import copy_tokenizer
from qwenft_assets.publishing.subject import Subject
from qwenft_assets.storage.files import atomic_folder, read_json, write_json
from qwenft_assets.text.chatml import render_prompt

VERIFICATION_FILE = "merge_verification.json"
MAX_LOGIT_DIFFERENCE = 1e-4
"""Between base + adapter and merged, both in fp32; a share of the largest logit where that is above 1."""
MAX_ROUNDING_KL_NATS = 0.02
"""Between the merged model in fp32 and its rounded weights, mean over positions."""
GREEDY = DecodingConfig(
    temperature=0, max_new_tokens=24, repetition_penalty=1.0, no_repeat_ngram_size=0
)
PROMPTS = tuple(
    render_prompt(question, "")
    for question in (
        "What does a low-dropout regulator do?",
        "Explain phase margin in one paragraph.",
        "Why do we decouple supply pins?",
        "What is metastability, and how is it handled between clock domains?",
        "Describe how a SAR converter finds its result.",
        "What limits the bandwidth of an operational amplifier?",
        "When is a buck converter the better choice?",
        "What is gradient descent?",
        "Explain overfitting to a new colleague.",
        "What does attention compute in a transformer?",
        "Why is a held-out set kept apart?",
        "What is the difference between precision and recall?",
        "How does LoRA change a weight matrix?",
        "What does perplexity measure?",
        "What is a confidence interval?",
        "What is a randomised controlled trial?",
        "How do beta blockers act?",
        "What does an electrocardiogram show?",
        "Explain how vaccines work.",
        "请解释什么是低压差稳压器。",
    )
)


class Behaviour(NamedTuple):
    """The answers of a model to the fixed prompts."""

    answers: list[str]
    """Greedy."""
    logits: list[Any]
    """One (prompt length, vocabulary) fp32 tensor a prompt, on the CPU."""


def merged_weights(
    subject: Subject, base: BaseModelRef, dtype: str, report_progress: ReportProgress
) -> Path:
    """A folder with the merged model in safetensors shards, tokenizer and verification.

    Made once for each adapter version, base revision and dtype.

    Args:
        subject: The adapter.
        base: Its base model.
        dtype: Of the files: `bfloat16`, `float16`, or `float32` for tests of the arithmetic.
        report_progress: Called between steps.

    Raises:
        PublishingError: The merged model does not answer as base and adapter do.
    """
    shard_gb = subject.config.publishing.shard_gb
    folder = subject.storage.cache("merged") / f"{subject.version}-{dtype}-{shard_gb:g}"
    if read_json(folder / VERIFICATION_FILE) is not None:
        return folder
    import torch

    base_folder = fetch_base_model(base, subject.storage)
    tokenizer = load_tokenizer(base_folder)
    report_progress(0, 5, "loading the base in 16 bits, computing in fp32")
    model = load_adapter(load_base(base_folder, "fp32", "cpu"), subject.adapter_folder)
    report_progress(1, 5, "asking base and adapter")
    separate = behaviour(model, tokenizer)
    report_progress(2, 5, "merging")
    model = model.merge_and_unload(safe_merge=True)
    merged = behaviour(model, tokenizer)
    difference = require_equal(separate, merged)
    report_progress(3, 5, "writing shards")
    with atomic_folder(folder) as part:
        model.config.use_cache = True
        model.to(getattr(torch, dtype)).save_pretrained(part, max_shard_size=f"{shard_gb}GB")
        copy_tokenizer(subject.adapter_folder, part)
        del model
        gc.collect()
        report_progress(4, 5, "reading the files again")
        written = behaviour(load_base(part, "fp32", "cpu").eval(), tokenizer)
        kl_nats = mean_kl_nats(separate, written)
        if kl_nats > MAX_ROUNDING_KL_NATS:
            finer = ", or set publishing.merged_weights to fp16" if dtype == "bfloat16" else ""
            raise PublishingError(
                f"merged weights in {dtype} answer differently: {kl_nats:.4f} nats of KL divergence a "
                f"token on fixed prompts, {MAX_ROUNDING_KL_NATS} at most. Publish the adapter{finer}."
            )
        same = sum(a == b for a, b in zip(separate.answers, written.answers, strict=True))
        write_json(
            part / VERIFICATION_FILE,
            {
                "prompts": len(PROMPTS),
                "max_logit_difference_fp32": difference,
                "same_greedy_answers_fp32": len(PROMPTS),
                "dtype": dtype,
                "mean_kl_nats": kl_nats,
                "same_greedy_answers": same,
            },
        )
    report_progress(5, 5)
    return folder


def behaviour(model: Any, tokenizer: Any, prompts: Sequence[str] = PROMPTS) -> Behaviour:
    """Greedy answers and prompt logits of a model."""
    import torch

    answers = [answer_batch(model, tokenizer, [prompt], GREEDY)[0] for prompt in prompts]
    logits: list[Any] = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
            logits.append(model(input_ids=ids).logits[0].float().cpu())  # (length, vocabulary)
    return Behaviour(answers, logits)


def require_equal(separate: Behaviour, merged: Behaviour) -> float:
    """The largest difference of a logit, in fp32.

    Raises:
        PublishingError: An answer differs, or a logit by more than rounding.
    """
    difference = max(
        (a - b).abs().max().item() for a, b in zip(separate.logits, merged.logits, strict=True)
    )
    largest = max(a.abs().max().item() for a in separate.logits)
    allowed = MAX_LOGIT_DIFFERENCE * max(1.0, largest)
    differing = [n for n, a in enumerate(separate.answers) if a != merged.answers[n]]
    if difference > allowed or differing:
        raise PublishingError(
            f"the merged model is not base + adapter: logits differ by up to {difference:.2e} "
            f"({allowed:.0e} at most), {len(differing)} of {len(merged.answers)} greedy "
            "answers differ. Nothing was written; publish the adapter itself."
        )
    return difference


def mean_kl_nats(reference: Behaviour, other: Behaviour) -> float:
    """KL(reference || other) of the next token, mean over all positions of all prompts, in nats."""
    import torch

    total, positions = 0.0, 0
    for a, b in zip(reference.logits, other.logits, strict=True):
        log_p, log_q = torch.log_softmax(a, -1), torch.log_softmax(b, -1)
        total += (log_p.exp() * (log_p - log_q)).sum().item()
        positions += len(a)
    return total / positions


def copy_merged(merged: Path, folder: Path) -> None:
    """Put the merged model into `folder`, by hard links where the disk allows them."""
    for file in sorted(merged.iterdir()):
        try:
            (folder / file.name).hardlink_to(file)
        except OSError:
            shutil.copyfile(file, folder / file.name)
