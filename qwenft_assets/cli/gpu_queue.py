"""The queue for the GPU: who holds it while a run waits, and runs whose process was killed."""

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from qwenft_assets.storage.locking import is_alive

PROCESS_TAG = "qwenft/process"
"""Tag of a run with the host and process that execute it; Dagster watches only runs it launched."""
EXIT_INTERRUPTED = 130
INTERRUPTED = "qwenft: interrupted. The same command goes on where it stopped."
POOL = "gpu"
SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_LINES = 60.0


def process_tag() -> dict[str, str]:
    """The tag of a run that this process executes."""
    return {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}


def end_stale_runs(instance: Any) -> None:
    """Mark runs as failed whose process was killed, and free what they hold of the pools."""
    import dagster as dg

    unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=unfinished)):
        host, _, pid = run.tags.get(PROCESS_TAG, "").rpartition(":")
        if host != socket.gethostname() or is_alive(int(pid)):
            continue
        instance.report_run_failed(run, f"Its process {pid} was killed; found by a later run.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        print(f"· run {run.run_id[:8]} was killed: marked as failed", file=sys.stderr)


@contextmanager
def reporting_gpu_holders(instance: Any, run_id: str) -> Iterator[None]:
    """While the run waits for a place in the pool, say on standard error who has it.

    Dagster looks for Ctrl-C between steps and inside them, and not while it waits for a place: a run
    that waits is ended here.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(instance, run_id, reader, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)


def _watch(instance: Any, run_id: str, signals: int, done: threading.Event) -> None:
    last_line = -SECONDS_BETWEEN_LINES
    interrupted = False
    while not done.is_set():
        ready, _, _ = select.select([signals], [], [], SECONDS_BETWEEN_LOOKS)
        if ready:
            interrupted = bool(os.read(signals, 1)) or interrupted
        queue = instance.event_log_storage.get_concurrency_info(POOL)
        waiting = any(s.run_id == run_id and not s.assigned_timestamp for s in queue.pending_steps)
        if not waiting or done.is_set():
            continue
        if interrupted:
            _leave(instance, run_id)
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            holders = ", ".join(_format_holder(instance, slot) for slot in queue.claimed_slots)
            print(f"· waiting for the GPU, held by {holders}", file=sys.stderr, flush=True)


def _leave(instance: Any, run_id: str) -> NoReturn:
    """End a run, with this process, that has no step at hand."""
    run = instance.get_run_by_id(run_id)
    instance.report_run_canceled(run, "Interrupted while it waited for the GPU.")
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    print(INTERRUPTED, file=sys.stderr, flush=True)
    os._exit(EXIT_INTERRUPTED)


def _format_holder(instance: Any, slot: Any) -> str:
    record = instance.get_run_record_by_id(slot.run_id)
    if record is None:
        return f"{slot.step_key} of run {slot.run_id[:8]}"
    minutes = max(time.time() - (record.start_time or time.time()), 0) / 60
    partition = record.dagster_run.tags.get("dagster/partition", "")
    process = record.dagster_run.tags.get(PROCESS_TAG)
    by = f", process {process}" if process else ""
    return f"{slot.step_key} {partition} of run {slot.run_id[:8]} for {minutes:.0f} min{by}"
