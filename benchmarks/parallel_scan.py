"""Scanning Stack Exchange by one process, by two, and by this one and an actor of Ray beside it.

    python benchmarks/parallel_scan.py [--questions 200000] [--rounds 3]

The generated questions of stackexchange_scan.py, scanned in turn, each in a fresh program:

one_core    one process, held on one core, with one thread of Arrow;
one         one process as by default, which matches the next rows while it converts those before;
two         `sources.scan_processes: 2`: this process, and one that it starts;
two_by_ray  the same with `launcher.kind: ray`: this process, and an actor of a Ray cluster of this
            machine that runs already; the seconds of its start are told apart.

Each program scans twice: `first` holds the start of the other process, `next` is what a further source of
the same run takes. Wall seconds and CPU seconds of the whole process tree, medians of the rounds; samples,
manifests and kept files are compared byte by byte. Prints JSON lines.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
from stackexchange_scan import SOURCE, config_of, generate

from qwenft_assets.processes.ray_cluster import connected
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.root import Storage

WAYS = ("one_core", "one", "two", "two_by_ray")
SCANS = ("first", "next")
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Generate, measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.folder)))
        return
    ways = [way for way in WAYS if way != "two_by_ray" or importlib.util.find_spec("ray")]
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), options.questions)
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way in ways:
                runs[way].append(in_own_program(way, folder))
    medians = {way: median_of(of_way) for way, of_way in runs.items()}
    for way, result in medians.items():
        times = {
            f"times_{base}": {
                scan: round(medians[base][f"{scan}_seconds"] / result[f"{scan}_seconds"], 2)
                for scan in SCANS
            }
            for base in ("one_core", "one")
        }
        print(json.dumps({"what": way, **result, **times}))
    digests = {digest for of_way in runs.values() for run in of_way for digest in run["sha256"]}
    print(
        json.dumps(
            {
                "questions": options.questions,
                "same_bytes": len(digests) == 1,
                "load_average": os.getloadavg(),
                "machine": f"{os.cpu_count()} cores, {platform.machine()}",
                "versions": {
                    n: version(n) for n in ("pyarrow", "ray") if importlib.util.find_spec(n)
                },
            }
        )
    )


def in_own_program(way: str, folder: str) -> dict[str, Any]:
    """One measurement in a fresh program."""
    command = [sys.executable, __file__, "--only", way, "--folder", folder]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def median_of(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The median of each figure."""
    names = [name for name in runs[0] if name != "sha256"]
    return {name: round(median(run[name] for run in runs), 2) for name in names}


def measure(way: str, folder: Path) -> dict[str, Any]:
    """Two scans, one after the other."""
    if way == "one_core":
        os.sched_setaffinity(0, {0})
        pa.set_cpu_count(1)
    processes = 2 if way.startswith("two") else 1
    config = config_of(folder, "ray" if way == "two_by_ray" else "local", processes)
    pa.array([""])  # imports pandas, which no scan should have to
    found: dict[str, Any] = {"sha256": []}
    with ExitStack() as stack:
        if way == "two_by_ray":
            started = time.monotonic()
            stack.enter_context(connected(config.launcher))
            found["ray_start_seconds"] = time.monotonic() - started
        for scan in SCANS:
            root = stack.enter_context(tempfile.TemporaryDirectory())
            storage = Storage(Path(root))
            cpu, started = cpu_seconds(), time.monotonic()
            sample_source(config, SOURCE, storage)
            found[f"{scan}_seconds"] = time.monotonic() - started
            found[f"{scan}_cpu_seconds"] = cpu_seconds() - cpu
            found["sha256"].append(digest_of(storage.source_sample(SOURCE)))
    return found


def digest_of(folder: Path) -> str:
    """Of the names and bytes of all files of a sample."""
    written = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".parquet", ".json"}:
            written.update(path.name.encode() + path.read_bytes())
    return written.hexdigest()


def cpu_seconds() -> float:
    """User and system time of this process and of all below it, those that have ended included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    below, before = {os.getpid()}, 0
    while len(below) > before:
        before = len(below)
        below |= {pid for pid, parent in parents.items() if parent in below}
    return sum(ticks.get(pid, 0) for pid in below) / TICKS


if __name__ == "__main__":
    main()
