"""The fixed prompts, and what base, champion and adapter answer to them, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from qwenft_assets.config import PROJECT_ROOT, DecodingConfig, EvaluationConfig
from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.canaries import Answer
from qwenft_assets.inference.generate import generation_options
from qwenft_assets.model.fsdp import is_sharded
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.storage.files import read_json_lines

BUNDLED_PROMPTS = Path(__file__).with_name("prompts.jsonl")
EXAMPLE = '{"id": "...", "instruction": "...", "input": ""}'
BATCH_PROMPTS = 16


class EvalPrompt(BaseModel):
    """One question that every version is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(min_length=1)
    instruction: str = Field(min_length=1)
    input: str = ""
    system: str | None = None


def load_prompts(settings: EvaluationConfig) -> list[EvalPrompt]:
    """The first `bundled_prompts` of the bundled ones, then all of the user's file where it is.

    Raises:
        EvaluationError: A line of the user's file is not a prompt, or two have one id.
    """
    prompts = _read(BUNDLED_PROMPTS)[: settings.bundled_prompts]
    own = PROJECT_ROOT / Path(settings.prompts_path).expanduser()
    if own.is_file():
        prompts += _read(own)
    ids = [prompt.id for prompt in prompts]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise EvaluationError(f"{own}: the id {twice[0]!r} is taken. Give that prompt another one.")
    return prompts


def _read(path: Path) -> list[EvalPrompt]:
    return read_json_lines(path, EvalPrompt, EvaluationError, EXAMPLE)


def answer_greedily(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    report_progress: ReportProgress = no_progress,
) -> list[Answer]:
    """Answers to rendered prompts, in their order, by plain greedy decoding.

    Without the penalties that `infer` decodes with: they would hide a model that repeats itself.
    """
    import torch

    options = generation_options(
        tokenizer,
        DecodingConfig(
            max_new_tokens=max_new_tokens,
            temperature=0,
            repetition_penalty=1,
            no_repeat_ngram_size=0,
        ),
    )
    device = model.get_input_embeddings().weight.device
    # The processes that hold a model together draw the same answers, each step with all of them.
    together = {"synced_gpus": is_sharded(model)}
    # Longest first, so that prompts of like length share a batch.
    order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), BATCH_PROMPTS):
        batch = order[start : start + BATCH_PROMPTS]
        inputs = tokenizer(
            [prompts[n] for n in batch],
            add_special_tokens=False,
            padding=True,
            padding_side="left",  # generation goes on from the last position
            return_tensors="pt",
        )
        ids, mask = (inputs[name].to(device) for name in ("input_ids", "attention_mask"))
        with torch.no_grad():
            output = model.generate(input_ids=ids, attention_mask=mask, **options, **together)
        for n, new in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
            answers[n] = _answer(tokenizer, new, options["eos_token_id"])
        report_progress(len(answers), len(prompts), "prompts answered")
    return [answers[n] for n in range(len(prompts))]


def _answer(tokenizer: Any, new: Sequence[int], ends: Sequence[int]) -> Answer:
    end = next((n for n, token in enumerate(new) if token in ends), len(new))
    return Answer(tokenizer.decode(new[:end]).strip(), stopped=end < len(new))


def side_by_side(
    items: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[Answer]]
) -> list[dict[str, Any]]:
    """Each item with what each model answered, and whether it ended by itself."""
    return [
        {
            **item,
            **{model: of_model[n].text for model, of_model in answers.items()},
            "stopped": {model: of_model[n].stopped for model, of_model in answers.items()},
        }
        for n, item in enumerate(items)
    ]
