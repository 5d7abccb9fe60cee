"""qiaojin/PubMedQA, expert-labelled part: a question, sections of an abstract, an answer (MIT)."""

from collections.abc import Iterator
from functools import cache, partial
from importlib.resources import files as package_files
from typing import Any

import pyarrow as pa

from qwenft_assets.config import Config
from qwenft_assets.rows import InstructionRow, make_row
from qwenft_assets.sources.origin import Repository, open_repository
from qwenft_assets.sources.parquet import open_parquet
from qwenft_assets.sources.scan import Scan, Tally

REPO_ID = "qiaojin/PubMedQA"
FOLDER = "pqa_labeled"
LICENSE = "MIT"
SHAPE = {
    "pubid": pa.int64(),
    "question": pa.string(),
    "context": pa.struct([("contexts", pa.list_(pa.string())), ("labels", pa.list_(pa.string()))]),
    "long_answer": pa.string(),
    "final_decision": pa.string(),
}


@cache
def official_test_ids() -> frozenset[int]:
    """PubMed ids of PubMedQA's official test set (github.com/pubmedqa/pubmedqa): 500 numbers."""
    listing = package_files("qwenft_assets.sources") / "pubmedqa_official_test_ids.txt"
    return frozenset(int(line) for line in listing.read_text(encoding="utf-8").split())


def scan_pubmedqa(config: Config) -> Scan:
    """The labelled questions, without the official test set unless the config wants it."""
    settings = config.sources.pubmedqa
    repository = open_repository(config.sources.origin, REPO_ID, settings.revision)
    files = repository.require_files(FOLDER, ".parquet")
    revision = repository.revision_of(files)
    held_out = official_test_ids() if settings.holdout_official_test else frozenset[int]()

    return Scan(revision, tuple(files), partial(_read, repository, revision, held_out))


def _read(
    repository: Repository, revision: str, held_out: frozenset[int], path: str, tally: Tally
) -> Iterator[InstructionRow]:
    with open_parquet(repository, path, SHAPE) as parquet:
        for batch in parquet.iter_batches(columns=list(SHAPE)):
            tally.bytes_read += batch.nbytes
            for upstream in batch.to_pylist():
                tally.scanned += 1
                row = to_row(upstream, revision, held_out)
                if isinstance(row, str):
                    tally.dropped[row] += 1
                else:
                    yield row


def to_row(
    upstream: dict[str, Any], revision: str, held_out: frozenset[int]
) -> InstructionRow | str:
    """One upstream row as an instruction row, or the reason why it is none.

    The sections stand in the input as `LABEL: text`, so that the model learns to read, not to
    recall; the answer is the long answer followed by the decision. The annotators'
    `reasoning_*_pred` fields are not used.
    """
    pubid = upstream["pubid"]
    if pubid in held_out:
        return "official_test"
    context = upstream["context"] or {}
    texts, labels = context.get("contexts") or [], context.get("labels") or []
    question, answer = (upstream[key] or "" for key in ("question", "long_answer"))
    decision = upstream["final_decision"]
    if pubid is None or len(texts) != len(labels) or decision not in {"yes", "no", "maybe"}:
        return "malformed"
    if not question.strip() or not answer.strip() or not texts:
        return "empty_text"
    return make_row(
        source="pubmedqa",
        upstream_id=str(pubid),
        instruction=question.strip(),
        input="\n".join(f"{label}: {text}" for label, text in zip(labels, texts, strict=True)),
        output=f"{answer.strip()}\n\nDecision: {decision}",
        url=f"https://pubmed.ncbi.nlm.nih.gov/{pubid}/",
        author="PubMedQA",
        license=LICENSE,
        revision=revision,
        admitted_by="all",
    )
