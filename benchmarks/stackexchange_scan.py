"""Scanning Stack Exchange: the usual row-by-row loop against this project's scan.

    python benchmarks/stackexchange_scan.py [--questions 200000] [--rounds 3] [--ray]

Writes generated questions with answers in the real schema (HTML of 200 to 4,000 characters, 5 % on
topic), then, each in a process of its own, one after the other:

(a) `datasets` streaming row by row, any(keyword in text.lower()), BeautifulSoup on what matched;
(b) this project's sample of the source;
(b2) the same on twice the questions, to see whether memory grows.

The rows (b) keeps are checked against a plain whole-word loop over the same files. With --ray, (c) is
the sample over Ray Data on a cluster of this machine, once; its files are compared with those of (b)
byte by byte. Prints JSON lines.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qwenft_assets.config import Config
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.sources.stackexchange import REPO_ID, shipped_keywords
from qwenft_assets.storage.root import Storage

SOURCE = "stackexchange_ic"
SITES = ("electronics.stackexchange.com", "dsp.stackexchange.com")
QUESTIONS_IN_A_SHARD = 20_000
ON_TOPIC = 0.05
ANSWER = pa.struct(
    [
        ("answer_id", pa.int64()),
        ("author", pa.string()),
        ("author_id", pa.int64()),
        ("author_profile", pa.string()),
        ("pm_score", pa.int64()),
        ("selected", pa.bool_()),
        ("text", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("qid", pa.int64()),
        ("question", pa.string()),
        ("answers", pa.list_(ANSWER)),
        ("date", pa.string()),
        ("metadata", pa.list_(pa.string())),
    ]
)
LETTERS = "etaoinshrdlucmfwypvbgk"


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3, help="of all three; medians are printed")
    parser.add_argument("--ray", action="store_true", help="also over Ray Data; compare the bytes")
    parser.add_argument("--only", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(MEASURES[options.only](options.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        once, twice = Path(folder) / "once", Path(folder) / "twice"
        generate(once, options.questions)
        generate(twice, 2 * options.questions)
        of_each = {
            "rowwise": ("rowwise", once),
            "ours": ("ours", once),
            "ours_twice": ("ours", twice),
        }
        rounds = [
            {name: in_own_process(*what) for name, what in of_each.items()}
            for _ in range(options.rounds)
        ]
        results = {name: median_run([a_round[name] for a_round in rounds]) for name in of_each}
        kept = set(results["ours"]["kept"])
        if options.ray:
            results["ours_over_ray"] = in_own_process("ours_over_ray", once)
        for result in results.values():
            result.pop("kept", None)
        digests = {result.pop("sha256") for name, result in results.items() if name in SAME_BYTES}
        results["ours_twice"].pop("sha256")
        same_rows = kept == whole_word_reference(once)
    for name, result in results.items():
        print(json.dumps({"what": name, **result}))
    same = {"same_rows_as_whole_word_loop": same_rows, "same_bytes": len(digests) == 1}
    print(json.dumps({**compared(results), **same}))


def compared(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many times as fast, and on what machine."""
    speeds = {name: result["rows_per_second"] for name, result in results.items()}
    return {
        "ratio_rows_per_second": round(speeds["ours"] / speeds["rowwise"], 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {n: version(n) for n in ("datasets", "pyarrow", "beautifulsoup4")},
    }


def in_own_process(what: str, folder: Path) -> dict[str, Any]:
    """One measurement in a fresh process, so that peak memory is its own."""
    command = [sys.executable, __file__, "--only", what, "--folder", str(folder)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def median_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run of median speed, with the largest memory of all."""
    run = sorted(runs, key=lambda result: result["seconds"])[len(runs) // 2]
    return {**run, "peak_rss_mib": max(result["peak_rss_mib"] for result in runs)}


def rowwise(folder: Path) -> dict[str, Any]:
    """The usual loop: every row a Python dict, substrings, BeautifulSoup."""
    from bs4 import BeautifulSoup
    from datasets import load_dataset

    keywords = [keyword.lower() for keyword in plain_keywords()]
    files = sorted(str(path) for path in folder.rglob("*.parquet"))
    rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
    started, scanned, kept = time.monotonic(), 0, 0
    for row in rows:
        scanned += 1
        text = row["question"]
        if any(keyword in text.lower() for keyword in keywords):
            best = max(row["answers"], key=lambda answer: answer["pm_score"])
            for html in (text, best["text"]):
                BeautifulSoup(html, "html.parser").get_text()
            kept += 1
    return figures(folder, scanned, kept, time.monotonic() - started)


def ours(folder: Path, launcher: str = "local") -> dict[str, Any]:
    """This project's sample, written to disk."""
    config = config_of(folder, launcher)
    with tempfile.TemporaryDirectory() as root:
        storage = Storage(Path(root))
        pa.array(
            [""]
        )  # imports pandas; (a) has its libraries imported before its clock starts, too
        started = time.monotonic()
        manifest = sample_source(config, SOURCE, storage).manifest
        seconds = time.monotonic() - started
        table = pq.read_table(storage.source_sample(SOURCE) / "rows.parquet")
        result = figures(folder, manifest["scanned"], manifest["rows"], seconds)
        digest = digest_of(storage.source_sample(SOURCE))
        return {**result, "kept": table.column("upstream_id").to_pylist(), "sha256": digest}


def ours_over_ray(folder: Path) -> dict[str, Any]:
    """The same with `launcher.kind: ray`; the start of the cluster is among the seconds."""
    return ours(folder, "ray")


def digest_of(folder: Path) -> str:
    """Hash of the names and bytes of all files of a sample."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".parquet", ".json"}:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def config_of(folder: Path, launcher: str) -> Config:
    """The generated files as the source."""
    source = {"sites": list(SITES), "keywords": {"words": list(plain_keywords())}}
    sources = {"origin": str(folder), SOURCE: source}
    return Config.model_validate(
        {"name": "bench", "launcher": {"kind": launcher}, "sources": sources}
    )


MEASURES = {"rowwise": rowwise, "ours": ours, "ours_over_ray": ours_over_ray}
SAME_BYTES = ("ours", "ours_over_ray")


def figures(folder: Path, scanned: int, kept: int, seconds: float) -> dict[str, Any]:
    """Speed, and the peak memory of this process."""
    mebibytes = sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 2**20
    return {
        "scanned": scanned,
        "kept_rows": kept,
        "seconds": round(seconds, 2),
        "rows_per_second": round(scanned / seconds),
        "parquet_mib_per_second": round(mebibytes / seconds, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def whole_word_reference(folder: Path) -> set[str]:
    """Ids that a plain loop keeps by the whole-word rule."""
    alternatives = "|".join(re.escape(keyword) for keyword in plain_keywords())
    pattern = re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE | re.ASCII)
    kept: set[str] = set()
    for path in folder.rglob("*.parquet"):
        table = pq.read_table(path, columns=["qid", "question"])
        pairs = zip(table["qid"].to_pylist(), table["question"].to_pylist(), strict=True)
        kept |= {f"{path.parent.name}/{qid}" for qid, question in pairs if pattern.search(question)}
    return kept


def plain_keywords() -> tuple[str, ...]:
    """The words of the shipped list that are words and nothing else."""
    words = shipped_keywords(SOURCE).words
    return tuple(word for word in words if re.fullmatch(r"[a-z][a-z -]*[a-z]", word))


def generate(folder: Path, questions: int) -> None:
    """Write the files as the Hub repository lays them out."""
    draw = random.Random(7)
    vocabulary = ["".join(draw.choices(LETTERS, k=draw.randint(2, 10))) for _ in range(5_000)]
    paragraphs = [
        f"<p>{' '.join(draw.choices(vocabulary, k=draw.randint(12, 90)))}.</p>\n"
        for _ in range(4_000)
    ]
    keywords = plain_keywords()
    for shard, start in enumerate(range(0, questions, QUESTIONS_IN_A_SHARD)):
        rows = []
        for qid in range(start, min(start + QUESTIONS_IN_A_SHARD, questions)):
            html = "".join(draw.choices(paragraphs, k=draw.randint(1, 6)))
            if draw.random() < ON_TOPIC:
                html += f"<p>and the {draw.choice(keywords)} of it &lt; 5</p><pre><code>x = 1\n</code></pre>"
            answers = [
                {
                    "answer_id": qid * 10 + n,
                    "author": "a",
                    "author_id": n,
                    "author_profile": "https://example.org/users/1",
                    "pm_score": n,
                    "selected": n == 1,
                    "text": "".join(draw.choices(paragraphs, k=draw.randint(1, 4))),
                }
                for n in range(2)
            ]
            links = [f"https://example.org/{qid}", "https://example.org", "https://example.org/u"]
            rows.append(
                {
                    "qid": qid,
                    "question": html,
                    "answers": answers,
                    "date": "2021/01/01",
                    "metadata": links,
                }
            )
        path = folder / REPO_ID / "data" / SITES[shard % 2] / f"train-{shard:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=1_000)


if __name__ == "__main__":
    main()
