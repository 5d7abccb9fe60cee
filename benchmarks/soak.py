"""Does a deployment that runs for long leak? 200 ticks and 50 runs on a tiny model, then the books.

    python benchmarks/soak.py [--ticks 200] [--runs 50]

A loopback Hub, a real daemon with its code server, a real web server that is asked after every tick.
The calendar is moved from tick to tick; whenever nothing runs, the reports are edited, and the next tick
finds that and rebuilds: two runs. Ticks in between are skipped: something runs, or nothing changed.
Memory, file handles and processes of daemon and web server are read after the first 20 ticks and at
the end (the least of two minutes), with pool slots, temporary folders and unfinished files. Prints one JSON object.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from qwenft_assets.automation.report import pools_report
from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets_tests.automation.daemon import Daemon, daemon
from qwenft_assets_tests.automation.weeks import (
    environment_on,
    is_known,
    is_quiet,
    make_unattended,
    runs,
    ticks,
    utc_now,
)
from qwenft_assets_tests.loopback_hub import loopback_hub
from qwenft_assets_tests.tiny_model import write_tiny_model

WARM_UP_TICKS = 20
SECONDS_TO_START = 120
SECONDS_TO_SETTLE = 120
MEBIBYTE = 2**20
QUERY = "{ assetNodes { id assetMaterializations(limit: 5) { runId } } runsOrError { __typename } }"


def tree_of(pid: int) -> list[psutil.Process]:
    """A process with all below it, but for the runs: they come and go."""
    root = psutil.Process(pid)
    found = [root, *root.children(recursive=True)]
    return [process for process in found if not _is_run(process)]


def _is_run(process: psutil.Process) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return True
    return "spawn_main" in line or "qwenft_assets.training" in line or "_assets.evaluation" in line


def books_of(pid: int) -> dict[str, Any]:
    """Processes, file handles and memory of a tree: MiB of pages of its own, also process by process."""
    while True:
        try:
            processes = tree_of(pid)
            each_mib = [round(process.memory_full_info().uss / MEBIBYTE) for process in processes]
            return {
                "processes": len(processes),
                "file_handles": sum(process.num_fds() for process in processes),
                "mib": sum(each_mib),
                "each_mib": each_mib,
            }
        except psutil.NoSuchProcess:  # one ended between the listing and the reading
            if not psutil.pid_exists(pid):
                raise


def settled_books_of(pid: int) -> dict[str, Any]:
    """The books at their least in two minutes.

    The daemon exchanges its code server now and then, and for a while there are two. A leak is in the
    least too.
    """
    least, end = books_of(pid), time.monotonic() + SECONDS_TO_SETTLE
    while time.monotonic() < end:
        time.sleep(2)
        least = min(least, books_of(pid), key=lambda books: books["mib"])
    return least


def edit(reports: Path, number: int) -> None:
    """Other answers in the reports file."""
    rows = json.loads(reports.read_text(encoding="utf-8"))
    edited = [{**row, "output": f"{row['output'].split(' #')[0]} #{number}"} for row in rows]
    reports.write_text(json.dumps(edited), encoding="utf-8")


def force_tick(running: Daemon) -> None:
    """Move the calendar to the next minute, and wait for its tick."""
    before = counted(running)[0]
    moment = running.now.replace(second=1, microsecond=0) + timedelta(minutes=1)
    running.move_calendar_to(moment)
    running.wait_until(lambda it: len(ticks(it, "rebuild_small")) > before, "a tick")


def counted(running: Daemon) -> tuple[int, int]:
    """Ticks of the schedule, and runs, so far."""
    with instance_of(running) as instance:
        return len(ticks(instance, "rebuild_small")), len(runs(instance))


def instance_of(running: Daemon) -> dg.DagsterInstance:
    """The deployment's instance."""
    return dg.DagsterInstance.from_config(running.deployment.environment()["DAGSTER_HOME"])


def ask(port: int) -> None:
    """One question to the web server, as its lineage page asks; waits while it starts."""
    body = json.dumps({"query": QUERY}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                if "errors" in json.load(answer):
                    raise RuntimeError("the web server answered with errors")
                return
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def soak(wanted_ticks: int, wanted_runs: int) -> dict[str, Any]:
    """Run it and return the books."""
    started = time.monotonic()
    folder = PROJECT_ROOT / "build" / "soak"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reports = folder / "my_dataset.json"
    write_tiny_model(folder / "tiny")
    shutil.copy(PROJECT_ROOT / "data" / "my_dataset.json", reports)
    deployment = make_unattended(folder / "deployment", folder / "tiny", reports)
    text = deployment.config.read_text(encoding="utf-8")
    text = text.replace("[rebuild_small, local_reports_changed]", "[rebuild_small]")
    deployment.config.write_text(f'{text}  rebuild_small_cron: "* * * * *"\n', encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with loopback_hub(PROJECT_ROOT / "data" / "samples") as hub:
        # Of their own, so that what is left there was left by them.
        temporary = folder / "tmp"
        temporary.mkdir()
        environment = {**environment_on(hub, deployment), "TMPDIR": str(temporary)}
        with daemon(deployment, utc_now(), environment) as running:
            command = [Path(sys.executable).with_name("dagster-webserver"), "-w", "workspace.yaml"]
            with (folder / "webserver.log").open("w") as log:
                web = subprocess.Popen(
                    [*map(str, command), "-h", "127.0.0.1", "-p", str(port)],
                    cwd=PROJECT_ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            try:
                figures = _live(running, web.pid, port, reports, wanted_ticks, wanted_runs)
            finally:
                web.terminate()
                web.wait(timeout=60)
        storage = deployment.storage
        figures |= {
            "temporary_things_left": sorted(path.name for path in temporary.iterdir()),
            "unfinished_files_left": [str(p) for p in storage.rglob("*.part")],
            "minutes": round((time.monotonic() - started) / 60, 1),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {name: version(name) for name in ("dagster", "torch")},
        }
    return figures


def _live(
    running: Daemon, web_pid: int, port: int, reports: Path, wanted_ticks: int, wanted_runs: int
) -> dict[str, Any]:
    books: dict[str, Any] = {}
    running.wait_until(lambda it: is_known(it, "rebuild_small"), "the schedule")
    forced = 0
    while True:
        done_ticks, done_runs = counted(running)
        if done_ticks >= WARM_UP_TICKS and "early" not in books:
            books["early"] = _settled(running, web_pid)
        if done_ticks >= wanted_ticks and done_runs >= wanted_runs:
            running.wait_until(lambda it, n=done_runs: is_quiet(it, n), "the last runs")
            break
        with instance_of(running) as instance:
            quiet = is_quiet(instance, done_runs)
        if quiet and done_ticks and done_runs < wanted_runs:
            edit(reports, forced)
        force_tick(running)
        forced += 1
        ask(port)
        memory = books_of(running.process.pid)["each_mib"], books_of(web_pid)["each_mib"]
        print(f"{done_ticks} ticks, {done_runs} runs, MiB {memory}", file=sys.stderr, flush=True)
    books["late"] = _settled(running, web_pid)
    left = [p for p in psutil.Process(running.process.pid).children(recursive=True) if _is_run(p)]
    with instance_of(running) as instance:
        found = runs(instance)
        statuses = dict.fromkeys(sorted({run.status.value for run in found}), 0)
        for run in found:
            statuses[run.status.value] += 1
        books |= {"ticks": done_ticks, "runs": statuses, "pools": pools_report(instance)}
    growth = {
        name: round(books["late"][name]["mib"] / books["early"][name]["mib"] - 1, 3)
        for name in ("daemon", "web")
    }
    return {**books, "memory_growth": growth, "run_processes_left": len(left)}


def _settled(running: Daemon, web_pid: int) -> dict[str, Any]:
    return {"daemon": settled_books_of(running.process.pid), "web": settled_books_of(web_pid)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=200)
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    print(json.dumps(soak(options.ticks, options.runs), indent=2))
