"""The training process: `python -m qwenft_assets.training.worker`, started by the asset."""

from typing import Any

from qwenft_assets.child_process import Log, run_job
from qwenft_assets.progress import progress_bar
from qwenft_assets.training.job import TrainingJob
from qwenft_assets.training.train import silence_libraries, train


def work(job: TrainingJob, log: Log) -> dict[str, Any]:
    """Train with a progress bar on standard error."""
    silence_libraries()
    with progress_bar(f"training {job.recipe}") as report_progress:
        return train(job, report_progress, log)


if __name__ == "__main__":
    run_job(TrainingJob, work)
