"""The evaluation process: `python -m qwenft_assets.evaluation.worker`, started by the asset."""

from typing import Any

from qwenft_assets.evaluation.evaluate import evaluate
from qwenft_assets.evaluation.job import EvaluationJob
from qwenft_assets.processes.child import Log, run_job
from qwenft_assets.processes.ranks import process_group
from qwenft_assets.progress import progress_bar
from qwenft_assets.training.train import silence_libraries

JOB = EvaluationJob


def work(job: EvaluationJob, log: Log) -> dict[str, Any]:
    """Evaluate, as one of the processes that were started, with the first one's progress bar."""
    silence_libraries()
    with (
        process_group(job.device) as ranks,
        progress_bar(f"evaluating {job.recipe}", shown=ranks.is_main_process) as report_progress,
    ):
        return evaluate(job, report_progress, log, ranks)


if __name__ == "__main__":
    run_job(JOB, work)
