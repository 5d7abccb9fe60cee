"""How long the recipe `large` takes from its samples to a checked mixture, and how much memory.

    .venv/bin/python benchmarks/mixture_build.py [--candidates 400000] [--rows 240000]

Generates candidates out of the words of the bundled samples, as often as they stand there, with
planted copies, near-duplicates and repeated questions; builds, checks and measures lengths in a
process of its own, so that its peak of memory is that of the build alone; then builds again with
nothing changed. Nothing is downloaded: the tokenizer is that of the demo's base model.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwenft_assets.config import Config, SourceName, load_config
from qwenft_assets.mixture import build, selection, verification
from qwenft_assets.mixture.lengths import report_lengths
from qwenft_assets.model.row_lengths import row_lengths
from qwenft_assets.rows import InstructionRow, make_row, rows_to_table, rows_version
from qwenft_assets.sources.sample import sample_source, settings_version
from qwenft_assets.storage.files import read_parquet, sha256_of_file, write_json, write_parquet
from qwenft_assets.storage.root import Storage

SHARE_OF_CANDIDATES: dict[SourceName, float] = {
    "local_reports": 0.04,
    "slimorca": 0.45,
    "pubmedqa": 0.01,
    "stackexchange_ai": 0.20,
    "stackexchange_ic": 0.12,
    "stackexchange_biomed": 0.18,
}
COPIES, NEAR_COPIES, SAME_QUESTIONS, CHANGED_WORDS = 0.03, 0.03, 0.05, 0.03
MEAN_QUESTION_WORDS, MEAN_ANSWER_WORDS = 70, 130
STEPS: dict[str, tuple[Any, str]] = {
    "read samples": (build, "read_samples"),
    "exact duplicates": (selection, "drop_duplicates"),
    "near-duplicates": (selection, "drop_near_duplicates"),
    "similar questions": (build, "question_clusters"),
    "write rows": (build, "_write_rows"),
    "diff": (build, "difference"),
}


def main() -> None:
    """Generate, build twice, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--candidates", type=int, default=400_000)
    parser.add_argument("--rows", type=int, default=240_000)
    parser.add_argument("--build-in", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build_in:
        print(json.dumps(build_once(Storage(Path(options.build_in)), options.rows)))
        return
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(Path(folder))
        config = config_of(options.rows)
        started = time.monotonic()
        characters = generate(config, storage, options.candidates)
        print(
            f"{options.candidates:,} candidates of {characters / options.candidates:,.0f} characters, "
            f"generated in {time.monotonic() - started:.0f} s; {os.cpu_count()} cores",
            flush=True,
        )
        row_lengths(config.training, storage)  # converts the demo's base model, once
        for title in ("first build", "nothing changed"):
            command = [sys.executable, __file__, "--build-in", folder, "--rows", str(options.rows)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            show(title, json.loads(done.stdout))
            sys.stdout.flush()


def build_once(storage: Storage, rows: int) -> dict[str, Any]:
    """Build, check, measure lengths; seconds by step and the peak of memory."""
    config = config_of(rows)
    seconds: dict[str, float] = defaultdict(float)
    for step, (module, name) in STEPS.items():
        setattr(module, name, timed(getattr(module, name), step, seconds))
    started = time.monotonic()
    counter = row_lengths(config.training, storage)
    report = timed(build.build_mixture, "build", seconds)(config, "large", storage, counter)
    findings = timed(verification.verify_mixture, "checks", seconds)(config, storage, "large")
    lengths = timed(report_lengths, "lengths", seconds)(storage, "large", counter, 2048)
    total = time.monotonic() - started
    seconds["other"] = total - seconds["build"] - seconds["checks"] - seconds["lengths"]
    seconds["rest of the build"] = seconds.pop("build") - sum(seconds[step] for step in STEPS)
    return {
        "seconds": total,
        "cpu_seconds": time.process_time(),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "steps": dict(seconds),
        "reused": report.reused,
        "rows": report.manifest["rows"],
        "dropped": {k: n for k, n in report.manifest.items() if k.startswith("dropped_")},
        "checks": {name: finding.passed for name, finding in findings.items()},
        "tokens": lengths.by_source["all"]["tokens"],
        "bytes": report.manifest["files"],
    }


def timed(function: Callable[..., Any], step: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """The same function, its time added to `seconds`."""

    def run(*args: Any, **options: Any) -> Any:
        started = time.monotonic()
        try:
            return function(*args, **options)
        finally:
            seconds[step] += time.monotonic() - started

    return run


def config_of(rows: int) -> Config:
    """The demo's config with the original recipe `large`, of `rows` rows."""
    demo = load_config(None)
    original = Config(name="benchmark").mixture.recipes["large"].ratios
    values = demo.model_dump()
    values["mixture"]["recipes"]["large"] = {"rows": rows, "ratios": original}
    return Config.model_validate(values)


def generate(config: Config, storage: Storage, candidates: int) -> int:
    """Write a sample of each source; returns how many characters they have together."""
    vocabulary, weights = words_of_samples(config)
    characters = 0
    for number, (source, share) in enumerate(SHARE_OF_CANDIDATES.items()):
        rng, rnd = np.random.default_rng(number), random.Random(number)
        count = round(candidates * share)
        rows = list(generated_rows(source, count, vocabulary, weights, rng, rnd))
        characters += sum(len(row.instruction) + len(row.output) for row in rows)
        put_sample(config, storage, source, rows)
    return characters


def words_of_samples(config: Config) -> tuple[Any, Any]:
    """The words of the bundled samples and how often each stands there."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for source in SHARE_OF_CANDIDATES:
            storage = Storage(Path(folder))
            sample_source(config, source, storage)
            table = read_parquet(storage.source_sample(source) / "rows.parquet")
            for name in ("instruction", "input", "output"):
                for text in table.column(name).to_pylist():
                    counts.update(str(text).split())
    words = sorted(counts)
    weights = np.array([counts[word] for word in words], np.float64)
    return np.array(words, object), np.cumsum(weights / weights.sum())


def generated_rows(
    source: str, count: int, vocabulary: Any, weights: Any, rng: Any, rnd: random.Random
) -> Iterator[InstructionRow]:
    """Rows of one source, some of them copies of earlier ones."""
    earlier: list[tuple[str, str]] = []

    def text(mean_words: int) -> str:
        size = max(5, int(rng.lognormal(np.log(mean_words) - 0.18, 0.6)))
        return " ".join(vocabulary[np.searchsorted(weights, rng.random(size))])

    def changed(value: str) -> str:
        return " ".join(
            text(5).split()[0] if rnd.random() < CHANGED_WORDS else word for word in value.split()
        )

    for number in range(count):
        draw = rnd.random()
        question, answer = text(MEAN_QUESTION_WORDS), text(MEAN_ANSWER_WORDS)
        if earlier and draw < COPIES + NEAR_COPIES + SAME_QUESTIONS:
            question, other = rnd.choice(earlier)
            if draw < COPIES + NEAR_COPIES:
                answer = other
            if draw < NEAR_COPIES:
                question, answer = changed(question), changed(answer)
        else:
            earlier.append((question, answer))
        yield make_row(
            source=source,
            upstream_id=str(number),
            instruction=question,
            output=answer,
            url=f"https://{source}.example/questions/{number}",
            author=f"question: asker {number}; answer: writer {number}",
            license="CC BY-SA 4.0" if source.startswith("stackexchange") else "MIT",
            revision="generated",
            admitted_by="all",
        )


def put_sample(
    config: Config, storage: Storage, source: SourceName, rows: list[InstructionRow]
) -> None:
    """A sample as the stage before leaves it."""
    folder = storage.source_sample(source)
    write_parquet(folder / "rows.parquet", rows_to_table(rows))
    reports = Path(__file__).parent.parent / config.sources.local_reports.path
    manifest = {
        "version": rows_version(rows),
        "identity": "generated",
        "settings": settings_version(config, source),
        "quota": None,
        "exhausted": True,
        "rows": len(rows),
        "revision": sha256_of_file(reports) if source == "local_reports" else "generated",
        "sha256": sha256_of_file(folder / "rows.parquet"),
    }
    write_json(folder / "manifest.json", manifest)


def show(title: str, figures: dict[str, Any]) -> None:
    """One build as lines."""
    dropped = ", ".join(f"{key[8:]} {n:,}" for key, n in figures["dropped"].items())
    print(
        f"\n{title}: {figures['seconds']:.1f} s ({figures['cpu_seconds']:.1f} s of CPU), "
        f"peak RSS {figures['peak_gib']:.2f} GiB"
    )
    print(
        f"  {figures['rows']:,} rows, {figures['tokens']:,} tokens, dropped {dropped}, reused "
        f"{figures['reused']}, checks passed {all(figures['checks'].values())}"
    )
    for step, seconds in sorted(figures["steps"].items(), key=lambda item: -item[1]):
        share = seconds / figures["seconds"]
        print(f"  {step:<20} {seconds:7.1f} s  {share:6.1%}")


if __name__ == "__main__":
    main()
