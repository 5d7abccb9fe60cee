"""The evaluation process: `python -m qwenft_assets.evaluation.worker`, started by the asset."""

from typing import Any

from qwenft_assets.child_process import Log, run_job
from qwenft_assets.evaluation.evaluate import evaluate
from qwenft_assets.evaluation.job import EvaluationJob
from qwenft_assets.progress import progress_bar
from qwenft_assets.training.train import silence_libraries


def work(job: EvaluationJob, log: Log) -> dict[str, Any]:
    """Evaluate with a progress bar on standard error."""
    silence_libraries()
    with progress_bar(f"evaluating {job.recipe}") as report_progress:
        return evaluate(job, report_progress, log)


if __name__ == "__main__":
    run_job(EvaluationJob, work)
