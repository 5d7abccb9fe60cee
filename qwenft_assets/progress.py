"""Progress of one long step, on the terminal's standard error.

A bar where standard error is a terminal; a plain line every few seconds where it is not (a log, the
daemon's captured output), so that neither is silent for long.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10.0


class ReportProgress(Protocol):
    """Long-running functions call it to report their progress."""

    def __call__(self, done: float, total: int, note: str = "") -> None:
        """Report that `done` of `total` units are finished; a total of 0 is unknown."""
        ...


def no_progress(done: float, total: int, note: str = "") -> None:
    """The default: drops the report."""


@contextmanager
def progress_bar(title: str, *, shown: bool = True) -> Iterator[ReportProgress]:
    """A reporter that draws a bar called `title`, or writes lines; silent if not shown."""
    if not shown:
        yield no_progress
        return
    if not sys.stderr.isatty():
        yield _line_reporter(title)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None, note="")

        def report(done: float, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total or None, note=note)

        yield report


def also_logged(
    report_progress: ReportProgress, log: Callable[[str], None], title: str
) -> ReportProgress:
    """A reporter that also writes a line to a run's log every few seconds."""
    last_line = time.monotonic()

    def report(done: float, total: int, note: str = "") -> None:
        nonlocal last_line
        report_progress(done, total, note)
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            log(f"{title} {int(done)}/{total or '?'} {note}".rstrip())

    return report


def _line_reporter(title: str) -> ReportProgress:
    last_line = time.monotonic()

    def report(done: float, total: int, note: str = "") -> None:
        nonlocal last_line
        now = time.monotonic()
        unfinished = done > 0 and (done < total or not total)
        if unfinished and now - last_line < SECONDS_BETWEEN_LINES:
            return
        last_line = now
        print(f"  {title} {int(done)}/{total or '?'} {note}".rstrip(), file=sys.stderr, flush=True)  # noqa: T201

    return report
