"""Public benchmarks by EleutherAI's lm-eval, an optional extra, on base and adapter."""

import importlib
import importlib.util
from typing import Any, cast

from qwenft_assets.config import PROJECT_ROOT, EvaluationConfig
from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.models import ADAPTER, BASE, using_adapter_of
from qwenft_assets.inference.load import LoadedModel
from qwenft_assets.processes.child import Log

Scores = dict[str, dict[str, dict[str, float]]]
"""Task, then metric, then model."""


def run_benchmarks(loaded: LoadedModel, settings: EvaluationConfig, log: Log) -> Scores:
    """Score every task of `evaluation.benchmarks`; none: nothing is imported.

    Raises:
        EvaluationError: lm-eval is not installed, or knows no such task.
    """
    if not settings.benchmarks:
        return {}
    if importlib.util.find_spec("lm_eval") is None:
        raise EvaluationError(
            "evaluation.benchmarks needs lm-eval. Install it with `pip install 'qwenft[bench]'`, or "
            "remove that setting."
        )
    lm_eval, models, tasks = (
        cast("Any", importlib.import_module(f"lm_eval{name}"))
        for name in ("", ".models.huggingface", ".tasks")
    )
    own = settings.benchmark_tasks_path
    manager = tasks.TaskManager(include_path=str(PROJECT_ROOT / own) if own else None)
    unknown = [task for task in settings.benchmarks if task not in manager.all_tasks]
    if unknown:
        raise EvaluationError(
            f"evaluation.benchmarks: lm-eval has no task {unknown[0]!r}. `lm-eval ls tasks` lists "
            "them; evaluation.benchmark_tasks_path adds your own."
        )
    model = models.HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=8)
    scores: Scores = {}
    for who in (BASE, ADAPTER):
        log(f"benchmarks {', '.join(settings.benchmarks)} of the {who}")
        with using_adapter_of(loaded.model, who):
            answer = lm_eval.simple_evaluate(
                model=model,
                tasks=list(settings.benchmarks),
                task_manager=manager,
                limit=settings.benchmark_rows,
                bootstrap_iters=0,
                random_seed=settings.seed,
            )
        for task, metrics in answer["results"].items():
            for metric, value in metrics.items():
                if isinstance(value, float) and not metric.partition(",")[0].endswith("_stderr"):
                    scores.setdefault(task, {}).setdefault(metric, {})[who] = value
    return scores
