"""The stage: base and adapter over the held-out rows in one pass, figures and report out."""

import json
import time
from collections.abc import Sequence
from typing import Any

from qwenft_assets.child_process import Log
from qwenft_assets.config import DecodingConfig
from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.job import EvaluationJob
from qwenft_assets.evaluation.perplexity import EvaluatedRow, figures, figures_by_source
from qwenft_assets.evaluation.report import render_report
from qwenft_assets.inference.generate import answer_batch
from qwenft_assets.inference.load import LoadedModel, load_model
from qwenft_assets.mixture.build import MixedRow, read_mixture
from qwenft_assets.mixture.split import EVAL
from qwenft_assets.progress import ReportProgress
from qwenft_assets.rows import seeded_order
from qwenft_assets.storage import Storage, atomic_folder, write_json, write_text
from qwenft_assets.text.chatml import render_prompt
from qwenft_assets.training.loss import batches_by_length, row_losses
from qwenft_assets.training.tokens import TokenRow, tokenize_mixture


def evaluate(job: EvaluationJob, report_progress: ReportProgress, log: Log) -> dict[str, Any]:
    """Evaluate, and publish `evaluation/<recipe>/<version>/`.

    Returns:
        The content of evaluation.json.

    Raises:
        EvaluationError: There is nothing to evaluate, or a loss is not finite.
    """
    started = time.monotonic()
    storage = Storage(job.storage_root)
    device = "cuda" if job.device == "cuda" else "cpu"
    loaded = load_model(storage, job.recipe, job.adapter_version, job.base, job.training, device)
    mixed = read_mixture(storage, job.recipe)
    tokens = tokenize_mixture(
        mixed, job.mixture_version, loaded.tokenizer, loaded.base_path, job.training, storage
    )
    held_out = [row for row in tokens if row.split == EVAL]
    if not held_out:
        raise EvaluationError("the mixture holds out no row. Raise mixture.eval_fraction or rows.")
    log(f"{len(held_out)} held-out rows, base and adapter {job.adapter_version}")
    rows = evaluate_rows(loaded, held_out, job, report_progress)
    samples = _answer_samples(loaded, [item for item in mixed if item.split == EVAL], job)
    resamples, seed = job.settings.bootstrap_resamples, job.settings.seed
    result = {
        **figures(rows, resamples, seed),
        "per_source": figures_by_source(rows, resamples, seed),
        "adapter_version": job.adapter_version,
        "mixture_version": job.mixture_version,
        "base_model": job.base.name,
        "base_revision": job.base.revision,
        "base_path": str(loaded.base_path),
        "engine": job.engine,
        "attention": loaded.model.config._attn_implementation,  # noqa: SLF001  (no public name)
        "max_length_tokens": job.training.max_length_tokens,
        "supervise": job.training.supervise,
        "recipe": job.recipe,
        "inputs": job.inputs,
        "seconds": round(time.monotonic() - started, 1),
    }
    with atomic_folder(storage.evaluation(job.recipe, job.adapter_version)) as folder:
        lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        write_text(folder / "samples.jsonl", "".join(lines))
        write_text(folder / "report.md", render_report(result, samples))
        write_json(folder / "evaluation.json", result)
    return result


def evaluate_rows(
    loaded: LoadedModel,
    rows: Sequence[TokenRow],
    job: EvaluationJob,
    report_progress: ReportProgress,
) -> list[EvaluatedRow]:
    """Each row's loss under the base (the adapter switched off) and under the adapter."""
    supervise = job.training.supervise
    evaluated: dict[int, EvaluatedRow] = {}
    for indices in batches_by_length(rows, job.settings.batch_tokens):
        batch = [rows[n] for n in indices]
        with loaded.model.disable_adapter():
            base = row_losses(loaded.model, batch, supervise)
        adapter = row_losses(loaded.model, batch, supervise)
        for index, row, before, after in zip(indices, batch, base, adapter, strict=True):
            evaluated[index] = EvaluatedRow(
                row.row_id, row.source, after.tokens, before.nll, after.nll, row.truncated
            )
        report_progress(len(evaluated), len(rows), "held-out rows")
    return [evaluated[index] for index in range(len(rows))]


def _answer_samples(
    loaded: LoadedModel, held_out: Sequence[MixedRow], job: EvaluationJob
) -> list[dict[str, Any]]:
    """The same held-out rows answered greedily by base and adapter, for eyes rather than figures."""
    ordered = sorted(held_out, key=lambda item: seeded_order(job.settings.seed, item.row.row_id))
    chosen = [item.row for item in ordered[: job.settings.sample_rows]]
    if not chosen:
        return []
    use_row_system = job.training.system_prompt == "row"
    prompts = [
        render_prompt(row.instruction, row.input, row.system if use_row_system else None)
        for row in chosen
    ]
    decoding = DecodingConfig(temperature=0, max_new_tokens=job.settings.sample_max_new_tokens)
    with loaded.model.disable_adapter():
        base = answer_batch(loaded.model, loaded.tokenizer, prompts, decoding)
    adapter = answer_batch(loaded.model, loaded.tokenizer, prompts, decoding)
    return [
        {
            "row_id": row.row_id,
            "source": row.source,
            "instruction": row.instruction,
            "input": row.input,
            "reference": row.output,
            "base": base_answer,
            "adapter": adapter_answer,
        }
        for row, base_answer, adapter_answer in zip(chosen, base, adapter, strict=True)
    ]
