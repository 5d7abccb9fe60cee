"""Several processes of one job on Ray: `python -m qwenft_assets.processes.ray_job MODULE LAUNCHER`.

The step waits for this process, which is the driver of Ray Train: Ray Train places the processes, makes
their torch process group, and ends all of them when one dies. Driver and processes share an actor, the
board: the log and the result leave by it, the request to stop comes in.

A node may share the disk of the machine that runs the step. To find out, the driver leaves a mark below
its storage root; a node that does not see it works in a stage of its own, as any other machine does.
"""

import importlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwenft_assets.config import LauncherConfig, stage_folder
from qwenft_assets.errors import QwenftError, StorageError, WorkerError, error_by_name
from qwenft_assets.processes.child import (
    Log,
    request_stop,
    run_job,
    say_nothing,
    stop,
    stop_requested,
    stopping_between_steps,
)
from qwenft_assets.processes.ranks import PATIENCE, process_group
from qwenft_assets.processes.ray_cluster import connected
from qwenft_assets.processes.run import StageJob
from qwenft_assets.storage.root import Storage

SECONDS_BETWEEN_LOOKS = 0.5
OF_ONE_PROCESS = "memory://"


class Board:
    """An actor that driver and processes share."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._outcome: dict[str, Any] = {}
        self._stop = False

    def say(self, line: str) -> None:
        """Write a line to the run log."""
        self._lines.append(line)

    def take_lines(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def end(self, outcome: dict[str, Any]) -> None:
        """Leave the result or an error; the first one stays."""
        self._outcome = self._outcome or outcome

    def outcome(self) -> dict[str, Any]:
        """The result or the first error; empty while there is none."""
        return self._outcome

    def ask_to_stop(self) -> None:
        """Ask all processes to save their state and end."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Whether the processes were asked to stop."""
        return self._stop


def run_on_ray(module: str, launcher: LauncherConfig, job: StageJob, log: Log) -> dict[str, Any]:
    """Run `module.work` in each of the processes; the result of the first.

    Raises:
        QwenftError: What one of them reported.
        WorkerError: One was lost.
    """
    with connected(launcher, own_disks=job.storage_url is not None):
        import ray

        board = _make_board()
        with stopping_between_steps(), _listening(board, log), mark_of(job.storage_root) as mark:
            problem = _fit(module, launcher, job, board, mark)
        outcome: dict[str, Any] = ray.get(board.outcome.remote())
    if "error" in outcome:
        raise error_by_name(outcome["kind"])(outcome["error"])
    if "result" in outcome:
        return outcome["result"]
    if stop_requested():
        stop()
    raise WorkerError(
        f"one of the {launcher.processes} processes that Ray ran for {module} was lost ({problem}). "
        "Run the same command again: it goes on from the last checkpoint."
    )


def _make_board() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's node: it must outlive the loss of any other node.
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Board)
    return actor.remote()


def _fit(module: str, launcher: LauncherConfig, job: StageJob, board: Any, mark: Path) -> str:
    """Run the processes to their end; what went wrong, in one line."""
    from fsspec import filesystem
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpu = job.device == "cuda"
    handler: Any = FSSpecHandler
    resources = {"CPU": launcher.ray_cpus_per_process, **({"GPU": 1} if on_gpu else {})}
    trainer = TorchTrainer(
        run_rank,
        train_loop_config={
            "module": module,
            "job": job.model_dump(mode="json"),
            "mark": str(mark),
            "board": board,
        },
        scaling_config=ScalingConfig(
            num_workers=launcher.processes, use_gpu=on_gpu, resources_per_worker=resources
        ),
        torch_config=TorchConfig(
            # As in ranks.py.
            backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            timeout_s=int(PATIENCE.total_seconds()),
        ),
        run_config=RunConfig(
            name="job",
            # Ray Train wants a disk that all nodes share, for notes that nobody reads.
            storage_path="notes",
            storage_filesystem=PyFileSystem(handler(filesystem("memory"))),
            failure_config=FailureConfig(max_failures=0),  # the next run goes on
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return "it ended without a result"


def run_rank(settings: dict[str, Any]) -> None:
    """One of the processes, within Ray Train."""
    import ray
    from ray.train import get_context

    board = settings["board"]
    worker = importlib.import_module(settings["module"])
    is_main_process = get_context().get_world_rank() == 0
    log: Log = board.say.remote if is_main_process else say_nothing
    threading.Thread(target=_obey, args=(board,), daemon=True).start()
    job = _staged_by_all(worker.JOB.model_validate(settings["job"]), Path(settings["mark"]), board)
    if job is None:
        return
    if is_main_process and job.storage_url:
        log(f"on Ray node {socket.gethostname()}: {job.storage_url} staged in {job.storage_root}")
    try:
        result = worker.work(job, log)
    except QwenftError as error:
        ray.get(board.end.remote(_as_outcome(error)))
        raise
    except SystemExit:  # it was asked to stop, and has saved its state
        return
    if is_main_process:
        ray.get(board.end.remote({"result": result}))


@contextmanager
def mark_of(storage_root: Path) -> Iterator[Path]:
    """A file below the storage root while the block runs; a node that sees it shares the disk."""
    # The name lets `Storage.recover` remove the mark of a driver that was killed.
    mark = storage_root / f".ray.{socket.gethostname()}.{os.getpid()}.part"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def on_this_node(job: StageJob, mark: Path) -> StageJob:
    """The job with the paths of this node.

    Args:
        job: As the driver has it.
        mark: The driver's `mark_of`.

    Raises:
        QwenftError: The node neither sees the driver's disk nor can stage the job; names the node.
    """
    if mark.exists():
        return job.model_copy(update={"storage_url": None})
    node = f"Ray node {socket.gethostname()}"
    if job.storage_url is None or job.storage_url.startswith(OF_ONE_PROCESS):
        raise StorageError(
            f"{node}: {job.storage_url or job.storage_root} is the storage root, and this node does not "
            "see it. Set storage_root to s3://bucket/path, which each node reads and writes by itself, "
            "or mount that folder on every node at the same path."
        )
    folder = stage_folder(job.storage_url, os.environ.get("QWENFT_STAGE"))
    storage = Storage(folder, job.storage_url)
    try:
        storage.ensure_writable()
        with storage.lock("ray-node"):  # one process of a node downloads, the others wait
            storage.recover()
            return job.staged(storage)
    except QwenftError as error:
        raise type(error)(f"{node}: {error}") from error


def _staged_by_all(job: StageJob, mark: Path, board: Any) -> StageJob | None:
    """The job on this node; None for all processes if it cannot be staged for one of them.

    An error raised within Ray Train would print a traceback beside the line that the board has.
    """
    import ray

    staged = None
    try:
        staged = on_this_node(job, mark)
    except QwenftError as error:
        ray.get(board.end.remote(_as_outcome(error)))
    with process_group(job.device) as ranks:
        (failed,) = ranks.any(staged is None)
    return None if failed else staged


def _as_outcome(error: QwenftError) -> dict[str, str]:
    return {"error": str(error), "kind": type(error).__name__}


def _obey(board: Any) -> None:
    import ray

    while not ray.get(board.stop_requested.remote()):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    request_stop()


@contextmanager
def _listening(board: Any, log: Log) -> Iterator[None]:
    """Inside, lines of the board go to the log, and a request to stop goes to the board."""
    import ray

    over = threading.Event()

    def listen() -> None:
        asked = False
        while True:
            ending = over.wait(SECONDS_BETWEEN_LOOKS)
            for line in ray.get(board.take_lines.remote()):
                log(line)
            if ending:
                return
            if stop_requested() and not asked:
                asked = True
                ray.get(board.ask_to_stop.remote())

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        over.set()
        listener.join()


def main(module: str, launcher: LauncherConfig) -> None:
    """Run the job that the parent sent on Ray."""
    worker = importlib.import_module(module)
    run_job(worker.JOB, lambda job, log: run_on_ray(module, launcher, job, log))


if __name__ == "__main__":
    # Ray finds `run_rank` by the name of its module, which here would be __main__.
    importlib.import_module("qwenft_assets.processes.ray_job").main(
        sys.argv[1], LauncherConfig.model_validate_json(sys.argv[2])
    )
