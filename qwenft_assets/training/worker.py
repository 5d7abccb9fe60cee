"""The training process: `python -m qwenft_assets.training.worker`, started by the asset."""

from typing import Any

from qwenft_assets.model.engines import engine_named
from qwenft_assets.processes.child import Log, run_job
from qwenft_assets.processes.ranks import process_group
from qwenft_assets.progress import progress_bar
from qwenft_assets.training.job import TrainingJob
from qwenft_assets.training.run import TrainingRun
from qwenft_assets.training.train import silence_libraries, train

JOB = TrainingJob


def work(job: TrainingJob, log: Log) -> dict[str, Any]:
    """Train, as one of the processes that were started, with the first one's progress bar."""
    engine_named(job.engine).start(job.device)  # Unsloth is imported before what it patches
    silence_libraries()
    with (
        process_group(job.device) as ranks,
        progress_bar(f"training {job.recipe}", shown=ranks.is_main_process) as report_progress,
    ):
        return train(TrainingRun(job, ranks, log, report_progress))


if __name__ == "__main__":
    run_job(JOB, work)
