"""A real Dagster daemon in a process of its own, whose calendar a test can move.

Only the daemon's clock is moved, by the place that Dagster keeps for it; schedules, sensors, queue,
run launcher and runs are as in use. Run as a script, this file is that process.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets_tests.commands import Deployment

CALENDAR_VARIABLE = "QWENFT_TEST_CALENDAR"
SECONDS_TO_WAIT = 600


@dataclass
class Daemon:
    """The running daemon of a deployment."""

    deployment: Deployment
    process: subprocess.Popen
    calendar: Path
    log: Path

    @property
    def now(self) -> datetime:
        return datetime.now(tz=UTC) + timedelta(seconds=float(self.calendar.read_text()))

    def move_calendar_to(self, moment: datetime) -> None:
        """Let the daemon's clock go on from `moment`."""
        part = self.calendar.with_suffix(".part")
        part.write_text(str((moment - datetime.now(tz=UTC)).total_seconds()))
        part.replace(self.calendar)

    def wait_until(self, holds: Callable[[dg.DagsterInstance], object], what: str) -> float:
        """Seconds until `holds` is true of the instance."""
        started = time.monotonic()
        with dg.DagsterInstance.from_config(self.deployment.environment()["DAGSTER_HOME"]) as it:
            while not holds(it):
                assert self.process.poll() is None, self.log.read_text()[-4000:]
                waited = time.monotonic() - started
                assert waited < SECONDS_TO_WAIT, f"{what}: not seen. {self.log.read_text()[-4000:]}"
                time.sleep(0.3)
        return time.monotonic() - started


@contextmanager
def daemon(
    deployment: Deployment, start_at: datetime, environment: Mapping[str, str]
) -> Iterator[Daemon]:
    """Run the daemon for the duration of the block."""
    calendar, log = deployment.folder / "calendar", deployment.folder / "daemon.log"
    calendar.write_text(str((start_at - datetime.now(tz=UTC)).total_seconds()))
    command = [sys.executable, __file__, "run", "-w", "workspace.yaml"]
    with log.open("a") as output:
        process = subprocess.Popen(
            command,
            cwd=PROJECT_ROOT,
            env={**environment, CALENDAR_VARIABLE: str(calendar), "PYTHONPATH": str(PROJECT_ROOT)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Daemon(deployment, process, calendar, log)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _run_with_calendar() -> None:
    import dagster._time as clock
    from dagster._daemon.cli import cli

    calendar = Path(os.environ[CALENDAR_VARIABLE])

    def offset() -> timedelta:
        return timedelta(seconds=float(calendar.read_text()))

    clock._mockable_get_current_datetime = lambda: datetime.now(tz=UTC) + offset()
    clock._mockable_get_current_timestamp = lambda: time.time() + offset().total_seconds()
    cli()


if __name__ == "__main__":
    _run_with_calendar()
