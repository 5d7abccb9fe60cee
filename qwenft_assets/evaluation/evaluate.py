"""The stage: base, champion and adapter over held-out rows and prompts; figures and report out."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.benchmarks import run_benchmarks
from qwenft_assets.evaluation.canaries import canary_shares
from qwenft_assets.evaluation.generations import answer_greedily, load_prompts, side_by_side
from qwenft_assets.evaluation.job import EvaluationJob
from qwenft_assets.evaluation.losses import losses_by_model
from qwenft_assets.evaluation.metrics import SPANS, EvaluatedRow, figures_with_parts
from qwenft_assets.evaluation.models import ADAPTER, BASE, CHAMPION, load_models, using_adapter_of
from qwenft_assets.evaluation.report import draw_pictures, render_report
from qwenft_assets.hashing import seeded_order
from qwenft_assets.inference.load import LoadedModel
from qwenft_assets.mixture.build import MixedRow, read_mixture
from qwenft_assets.mixture.deduplication import question_key
from qwenft_assets.mixture.frozen_eval import read_frozen_eval
from qwenft_assets.mixture.split import EVAL, TRAIN
from qwenft_assets.model.fsdp import is_sharded
from qwenft_assets.model.tokens import TokenRow, tokenize_mixture, tokenize_rows
from qwenft_assets.processes.child import Log
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.progress import ReportProgress
from qwenft_assets.records import EvaluationResult
from qwenft_assets.rows import rows_version
from qwenft_assets.storage.files import (
    atomic_folder,
    read_parquet,
    sha256_of_file,
    write_json,
    write_parquet,
    write_text,
)
from qwenft_assets.storage.locking import hold_device
from qwenft_assets.storage.root import Storage
from qwenft_assets.text.chatml import render_prompt
from qwenft_assets.training.job import training_record

TRAINED_QUESTIONS_FILE = "trained_questions.parquet"


class HeldOut(NamedTuple):
    """The rows to evaluate on, and what the adapter was trained on."""

    mixed: list[MixedRow]
    tokens: Sequence[TokenRow]
    questions: list[str]
    """Question key of each row; rows with the same question share it."""
    trained_questions: frozenset[str]


def evaluate(
    job: EvaluationJob, report_progress: ReportProgress, log: Log, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Evaluate, and publish `evaluation/<recipe>/<version>/`.

    Of several processes each takes its share of the held-out rows; the first one does the rest, but for
    answers of a sharded model, which all draw together.

    Returns:
        The content of evaluation.json; of a process that is not the first, nothing.

    Raises:
        EvaluationError: There is nothing to evaluate, or a loss is not finite.
    """
    # A worker whose parent was killed may still be at it: the locks are its own.
    storage = Storage(job.storage_root, job.storage_url)
    with ExitStack() as held:
        if ranks.is_main_process:
            held.enter_context(storage.lock(f"evaluating-{job.recipe}", log))
            held.enter_context(hold_device(job.device, log))
            held.enter_context(storage.working_on(makes=job.makes(storage)))
        ranks.barrier()
        return _evaluate(job, storage, report_progress, log, ranks)


def _evaluate(
    job: EvaluationJob, storage: Storage, report_progress: ReportProgress, log: Log, ranks: Ranks
) -> dict[str, Any]:
    started = time.monotonic()
    settings = job.settings
    loaded = load_models(job, storage, log, ranks)
    who = [BASE, ADAPTER, *([CHAMPION] if job.champion_version is not None else [])]
    with ranks.main_process_first():  # and writes the cache of tokens
        held_out = read_held_out(job, loaded, storage)
    log(f"{len(held_out.tokens)} held-out rows under {', '.join(who)} {job.adapter_version}")
    rows = evaluate_rows(loaded.model, held_out, job, storage, report_progress, ranks)
    answers_alone = not is_sharded(loaded.model)
    if answers_alone and not ranks.is_main_process:
        return {}
    samples, canaries = _answers(loaded, held_out.mixed, job, who, report_progress)
    if not ranks.is_main_process:
        return {}
    result = {
        **figures_with_parts(
            rows, job.training.supervise, settings.bootstrap_resamples, settings.seed
        ),
        "canaries": canaries,
        "benchmarks": run_benchmarks(loaded, settings, log),
        "leaked_rows": sum(key in held_out.trained_questions for key in held_out.questions),
        "adapter_version": job.adapter_version,
        "champion_version": job.champion_version,
        "mixture_version": job.mixture_version,
        "eval_set": "frozen" if settings.frozen_eval else "split",
        "eval_set_version": rows_version([item.row for item in held_out.mixed]),
        "base_model": job.base.name,
        "base_revision": job.base.revision,
        "base_path": str(loaded.base_path),
        "engine": job.engine,
        "attention": loaded.model.config._attn_implementation,  # noqa: SLF001  (no public name)
        "max_length_tokens": job.training.max_length_tokens,
        "supervise": job.training.supervise,
        "recipe": job.recipe,
        "processes": ranks.size,
        "inputs": job.inputs,
        "seconds": round(time.monotonic() - started, 1),
    }
    record = training_record(storage, job.recipe, job.adapter_version) or {}
    with atomic_folder(storage.evaluation(job.recipe, job.adapter_version)) as folder:
        questions = pa.array(sorted(held_out.trained_questions), pa.string())
        write_parquet(folder / TRAINED_QUESTIONS_FILE, pa.table({"question": questions}))
        write_parquet(folder / "row_losses.parquet", _loss_table(rows))
        lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        write_text(folder / "samples.jsonl", "".join(lines))
        pictures = draw_pictures(result, record.get("loss_history"), folder)
        write_text(folder / "report.md", render_report(result, samples, pictures))
        files = sorted(file for file in folder.iterdir() if file.is_file())
        result["files"] = {file.name: sha256_of_file(file) for file in files}
        write_json(folder / EvaluationResult.FILE, result)
    return result


def read_held_out(job: EvaluationJob, loaded: LoadedModel, storage: Storage) -> HeldOut:
    """The frozen rows where the config has them, else the mixture's eval rows.

    Raises:
        EvaluationError: There is none.
    """
    mixed = read_mixture(storage, job.recipe)
    trained = frozenset(question_key(item.row) for item in mixed if item.split == TRAIN)
    frozen = read_frozen_eval(job.settings)
    if frozen:
        held_out = [MixedRow(row, EVAL, 0) for row in frozen]
        tokens = tokenize_rows(held_out, loaded.tokenizer.backend_tokenizer, job.training)
    else:
        held_out = [item for item in mixed if item.split == EVAL]
        tokens = tokenize_mixture(
            mixed,
            job.mixture_version,
            loaded.tokenizer.backend_tokenizer,
            job.training,
            storage,
        )
        tokens = tokens.only(tokens.splits == EVAL)
    if not held_out:
        raise EvaluationError("the mixture holds out no row. Raise mixture.eval_fraction or rows.")
    return HeldOut(held_out, tokens, [question_key(item.row) for item in held_out], trained)


def evaluate_rows(
    model: Any,
    held_out: HeldOut,
    job: EvaluationJob,
    storage: Storage,
    report_progress: ReportProgress,
    ranks: Ranks = ALONE,
) -> list[EvaluatedRow]:
    """Each row's losses under base and adapter, and under the champion where that is fair.

    A rebuild moves rows between train and eval: rows whose question the champion was trained on
    would flatter it, so they are left out of that comparison.
    """
    champion = job.champion_version
    who = (BASE, ADAPTER) if champion is None else (BASE, ADAPTER, CHAMPION)
    losses = losses_by_model(
        model, held_out.tokens, job.settings.batch_tokens, who, report_progress, ranks
    )
    known = frozenset[str]()
    if champion is not None:
        known = _trained_questions(storage.evaluation(job.recipe, champion))
    return [
        EvaluatedRow(
            row_id=row.row_id,
            source=row.source,
            question=question,
            length_tokens=len(row.input_ids),
            truncated=row.truncated,
            base=losses[BASE][n],
            adapter=losses[ADAPTER][n],
            champion=losses[CHAMPION][n] if CHAMPION in losses and question not in known else None,
        )
        for n, (row, question) in enumerate(zip(held_out.tokens, held_out.questions, strict=True))
    ]


def _trained_questions(evaluation_folder: Path) -> frozenset[str]:
    path = evaluation_folder / TRAINED_QUESTIONS_FILE
    if not path.exists():
        return frozenset()
    questions: list[Any] = read_parquet(path).column("question").to_pylist()
    return frozenset(questions)


def _answers(
    loaded: LoadedModel,
    held_out: Sequence[MixedRow],
    job: EvaluationJob,
    who: Sequence[str],
    report_progress: ReportProgress,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Fixed prompts and some held-out rows answered by each model; and the canaries' shares."""
    settings = job.settings
    prompts = load_prompts(settings)
    ordered = sorted(held_out, key=lambda item: seeded_order(settings.seed, item.row.row_id))
    chosen = [item.row for item in ordered[: settings.sample_rows]]
    use_row_system = job.training.system_prompt == "row"
    asked = [render_prompt(p.instruction, p.input, p.system) for p in prompts]
    held = [
        render_prompt(row.instruction, row.input, row.system if use_row_system else None)
        for row in chosen
    ]
    of_prompts, of_rows = {}, {}
    for name in who:
        with using_adapter_of(loaded.model, name):
            of_prompts[name], of_rows[name] = (
                answer_greedily(loaded.model, loaded.tokenizer, texts, tokens, report_progress)
                for texts, tokens in (
                    (asked, settings.prompt_max_new_tokens),
                    (held, settings.sample_max_new_tokens),
                )
            )
    items = [
        {"kind": "prompt", "id": p.id, "instruction": p.instruction, "input": p.input}
        for p in prompts
    ]
    samples = [
        {
            "kind": "held_out",
            "row_id": row.row_id,
            "source": row.source,
            "instruction": row.instruction,
            "input": row.input,
            "reference": row.output,
        }
        for row in chosen
    ]
    questions = [f"{prompt.instruction}\n{prompt.input}" for prompt in prompts]
    shares = {name: canary_shares(questions, of_prompts[name]) for name in who}
    return [*side_by_side(items, of_prompts), *side_by_side(samples, of_rows)], shares


def _loss_table(rows: Sequence[EvaluatedRow]) -> pa.Table:
    """What every figure is made of, row by row: nats and tokens by model and span."""
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows]
        for name in ("row_id", "source", "question", "length_tokens", "truncated")
    }
    for span in SPANS:
        columns[f"{span}_tokens"] = [getattr(row.adapter, span).tokens for row in rows]
        for name in (BASE, ADAPTER, CHAMPION):
            columns[f"{name}_{span}_nll"] = [
                None if getattr(row, name) is None else getattr(getattr(row, name), span).nll
                for row in rows
            ]
    types = {name: pa.float64() for name in columns if name.endswith("_nll")}
    return pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
