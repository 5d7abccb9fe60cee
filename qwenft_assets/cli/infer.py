"""`qwenft infer`: one question, one streamed answer; or a file of questions."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenft_assets.cli.answering import (
    Given,
    answering_models,
    decoded_input,
    with_decoding,
    with_decoding_options,
)
from qwenft_assets.cli.options import (
    AdapterOption,
    ConfigOption,
    RecipeOption,
    load,
    recipe_named,
)
from qwenft_assets.errors import PromptError
from qwenft_assets.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwenft_assets.config import DecodingConfig
    from qwenft_assets.inference.generate import AnsweringModel


@with_decoding_options
def infer(
    text: Annotated[
        str | None, typer.Argument(help="What to ask; `-` reads it from standard input.")
    ] = None,
    recipe: RecipeOption = "small",
    config: ConfigOption = None,
    adapter: AdapterOption = None,
    supplement: Annotated[
        str, typer.Option("--input", help="Supplementary information, as in a training row.")
    ] = "",
    system: Annotated[str | None, typer.Option("--system", help="Another system prompt.")] = None,
    batch: Annotated[
        Path | None,
        typer.Option("--batch", help="JSON lines of {instruction, input, system} to answer."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Of --batch. Else <batch>.answers.jsonl beside it."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answer with its figures as JSON.")
    ] = False,
    *,
    decoding: Given,
) -> None:
    """Ask the adapter one question; the answer streams to standard output.

    Examples: `qwenft infer "What does a low-dropout regulator do?"`,
    `qwenft infer Summarise --input "$(cat report.txt)" --adapter none`,
    `git log -1 | qwenft infer - --json`, `qwenft infer --batch questions.jsonl --temperature 0`
    """
    settings = with_decoding(load(config), decoding)
    if (text is None) == (batch is None):
        raise PromptError(
            "nothing to ask, or too much: give either TEXT (`-` for stdin) or --batch."
        )
    if batch is not None and (supplement or system is not None):
        raise PromptError("--input and --system: a batch names them row by row. Put them there.")
    if output is not None and batch is None:
        raise PromptError("--output: only a --batch has one. Redirect standard output instead.")
    models = answering_models(settings, recipe_named(settings, recipe), adapter)
    if batch is not None:
        _answer_batch(models.get, adapter, batch, output, settings.decoding, as_json=as_json)
        return
    question = decoded_input(sys.stdin.buffer.read()).strip() if text == "-" else text or ""
    if not question.strip():
        raise PromptError("the question is empty. Give it as an argument or on standard input.")

    from qwenft_assets.text.chatml import render_prompt

    prompt = render_prompt(question, supplement, system)
    _answer(models.get(adapter), prompt, settings.decoding, as_json=as_json)


def _answer(
    model: "AnsweringModel", prompt: str, decoding: "DecodingConfig", *, as_json: bool
) -> None:
    answer = model.answer(prompt, decoding)
    for piece in answer:
        if not as_json:
            print(piece, end="", flush=True)
    if not as_json:
        print()
        return
    figures = {
        "answer": answer.text,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": answer.tokens,
        "finish_reason": answer.finish_reason,
        "seconds": round(answer.seconds, 3),
        "first_token_seconds": answer.first_token_seconds and round(answer.first_token_seconds, 3),
        "tokens_per_second": answer.tokens_per_second and round(answer.tokens_per_second, 1),
        "load_seconds": model.load_seconds,
        "seed": answer.seed,
        "base_model": model.base_name,
        "adapter_version": model.adapter_version,
    }
    print(json.dumps(figures, ensure_ascii=False))


def _answer_batch(
    load_model: "Callable[[str | None], AnsweringModel]",
    adapter: str | None,
    batch: Path,
    output: Path | None,
    decoding: "DecodingConfig",
    *,
    as_json: bool,
) -> None:
    from qwenft_assets.inference.batch import answer_file, read_questions

    questions = read_questions(batch)
    target = output or batch.with_suffix(".answers.jsonl")
    if not target.parent.is_dir():
        raise PromptError(f"{target.parent}: no such folder. Create it, or name another --output.")
    model = load_model(adapter)
    with progress_bar("answering") as report_progress:
        report = answer_file(model, questions, target, decoding, report_progress)
    if as_json:
        figures = {"output": str(target), "rows": report.rows, "resumed": report.resumed}
        print(json.dumps({**figures, "tokens": report.tokens}))
    else:
        resumed = f", {report.resumed} of them by an earlier run" if report.resumed else ""
        print(f"{target}: {report.rows} answered, {report.tokens} tokens{resumed}")
