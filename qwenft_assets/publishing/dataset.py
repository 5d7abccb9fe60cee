"""The mixture as a dataset for others: its public rows with their provenance, and a card."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from qwenft_assets.errors import PublishingError
from qwenft_assets.progress import ReportProgress
from qwenft_assets.publishing.data_table import attribution, data_table, hub_datasets
from qwenft_assets.publishing.scan import PRIVATE_ROW, Scanner
from qwenft_assets.publishing.subject import Subject
from qwenft_assets.rows import is_private, table_to_rows
from qwenft_assets.storage.files import atomic_path
from qwenft_assets.text.personal_data import find_personal_data

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

SPLITS = ("train", "eval")
FIELDS = (
    "row_id", "source", "instruction", "input", "output", "system", "url", "author", "license",
    "revision",
)  # fmt: skip
PERSONAL_KINDS = {"phone", "credit_card", "cn_id_card"}
"""On top of what stops any file: not worth a row of a public dataset."""
HUB_LICENSES = {"MIT": "mit", "CC BY-SA 4.0": "cc-by-sa-4.0", "Apache-2.0": "apache-2.0"}
SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
LARGEST_CATEGORY = "100K<n<1M"


def write_dataset(
    subject: Subject, folder: Path, scanner: Scanner, report_progress: ReportProgress
) -> dict[str, int]:
    """Write train.jsonl and eval.jsonl in the order of the mixture.

    Returns:
        Counts: rows by split, and `dropped_<reason>`: private rows, rows that quote one, and public
        rows with secrets or personal data.

    Raises:
        PublishingError: The mixture was rebuilt since, or no row of it may leave.
    """
    mixture = subject.mixture_folder
    if mixture is None:
        raise PublishingError(
            f"{subject.storage.mixed_dataset(subject.recipe)}: was rebuilt since {subject.version} "
            "was trained on it. Publish the dataset of the present version, or train again."
        )
    counts: Counter[str] = Counter()
    parquet = pq.ParquetFile(mixture / "rows.parquet")
    with (
        atomic_path(folder / "train.jsonl") as train_part,
        atomic_path(folder / "eval.jsonl") as eval_part,
        train_part.open("w", encoding="utf-8") as train,
        eval_part.open("w", encoding="utf-8") as held_out,
    ):
        files = {"train": train, "eval": held_out}
        done = 0
        for batch in parquet.iter_batches(1_000):
            table = pa.Table.from_batches([batch])
            for row, split in zip(table_to_rows(table), table["split"].to_pylist(), strict=True):
                line = json.dumps({name: getattr(row, name) for name in FIELDS}, ensure_ascii=False)
                text = "\n".join((row.instruction, row.input, row.output, row.system or ""))
                reason = (
                    "private" if is_private(row.license) else _reason_to_drop(text, line, scanner)
                )
                if reason is None:
                    files[str(split)].write(line + "\n")
                counts[f"dropped_{reason}" if reason else str(split)] += 1
            done += batch.num_rows
            report_progress(done, parquet.metadata.num_rows, "rows looked at")
    if not any(counts[split] for split in SPLITS):
        raise PublishingError(
            f"{mixture}: no row of it may leave ({dict(counts)}). Publish the adapter, or a mixture "
            "with public rows."
        )
    return dict(sorted(counts.items()))


def _reason_to_drop(text: str, line: str, scanner: Scanner) -> str | None:
    if scanner.private.quoted_in(line):
        return PRIVATE_ROW.replace(" ", "_")
    if PERSONAL_KINDS & find_personal_data(text).keys() or scanner.kinds_in(
        line, any_machine=False
    ):
        return "personal_data"
    return None


def dataset_license(subject: Subject) -> str:
    """The licence of the whole: share-alike rows pass theirs on, several others are `other`."""
    names = {share.license for share in subject.shares if not share.private}
    ids = {HUB_LICENSES.get(name, "other") for name in names}
    if "cc-by-sa-4.0" in ids and ids <= {"cc-by-sa-4.0", "mit"}:
        return "cc-by-sa-4.0"  # MIT rows may be passed on under it
    return ids.pop() if len(ids) == 1 else "other"


def render_dataset_card(subject: Subject, counts: dict[str, int]) -> "DatasetCard":
    """The card of the public rows of a mixture."""
    from huggingface_hub import DatasetCard, DatasetCardData

    rows = sum(counts.get(split, 0) for split in SPLITS)
    license_ = dataset_license(subject)
    named: dict[str, Any] = {"license_name": "by-row"} if license_ == "other" else {}
    name = (subject.config.publishing.hub_dataset_repo or f"{subject.recipe}-mixture").split("/")
    data = DatasetCardData(
        license=license_,
        language=list(subject.config.publishing.languages),
        task_categories=["text-generation"],
        source_datasets=sorted(set(hub_datasets(subject).values())) or None,
        size_categories=next((c for n, c in SIZE_CATEGORIES if rows < n), LARGEST_CATEGORY),
        pretty_name=name[-1],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": s, "path": f"{s}.jsonl"} for s in SPLITS],
            }
        ],
        tags=["sft", "qwenft"],
        **named,
    )
    where = subject.config.publishing.hub_dataset_repo or "path/to/this/folder"
    passed_on = (
        "Each row is under the licence it names"
        if license_ == "other"
        else f"Each row is under the licence it names; the whole may be passed on under {license_}"
    )
    dropped = {
        key.removeprefix("dropped_").replace("_", " "): n
        for key, n in counts.items()
        if key.startswith("dropped_")
    }
    left_out = ", ".join(f"{reason} ({n})" for reason, n in dropped.items()) or "none"
    body = f"""# {name[-1]}

The public rows of mixture `{subject.mixture_version}`, on which adapter `{subject.version}` of {subject.base_model} was
trained: {counts.get("train", 0)} train and {counts.get("eval", 0)} held-out rows, split by question, in the order of the
mixture. Left out: {left_out}.

```python
import datasets
rows = datasets.load_dataset("{where}")  # DatasetDict: train, eval
```

Each row has `instruction`, `input`, `output`, its own `system` prompt where it has one, and where it came from: `source`,
`url`, `author`, `license`, `revision`.

## Rows and licences

{data_table(subject, public_only=True)}

{passed_on}. The counts in the table are those of the mixture, before rows were left out.

## Attribution

{attribution(subject)}

## Limits

Answers were written by people and by models; nobody checked them for this dataset. Rows with e-mail addresses, phone
numbers, keys or the like were left out where their shape gives them away, which does not find all.
"""
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body}")
