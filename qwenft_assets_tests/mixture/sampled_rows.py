"""Rows and samples as the stage before leaves them, small enough to reason about."""

import random
from collections.abc import Sequence
from typing import Any

from qwenft_assets.config import SOURCE_NAMES, Config, SourceName
from qwenft_assets.rows import InstructionRow, make_row, rows_to_table, rows_version
from qwenft_assets.sources.local_reports import reports_path
from qwenft_assets.sources.sample import settings_version
from qwenft_assets.storage.files import sha256_of_file, write_json, write_parquet
from qwenft_assets.storage.root import Storage

WORDS = [
    first + second
    for first in ("ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe")
    for second in (
        "ban",
        "cel",
        "dir",
        "fos",
        "gut",
        "ham",
        "jek",
        "kip",
        "lor",
        "mux",
        "nat",
        "pex",
    )
]


def words(seed: Any, count: int) -> str:
    """A text of `count` words; texts of other seeds share next to nothing."""
    rng = random.Random(str(seed))
    return " ".join(rng.choice(WORDS) + rng.choice(WORDS) for _ in range(count))


def row(source: str, number: Any, instruction: str = "", output: str = "", **fields: str):
    """A row whose question and answer are its own unless given."""
    return make_row(
        source=source,
        upstream_id=str(number),
        instruction=instruction or words((source, number, "question"), 12),
        output=output or words((source, number, "answer"), 20),
        **{
            "license": "private" if source == "local_reports" else "MIT",
            "revision": "abc",
            "admitted_by": "all",
            **fields,
        },
    )


def rows_of(source: str, count: int) -> list[InstructionRow]:
    return [row(source, number) for number in range(count)]


def put_sample(
    config: Config,
    storage: Storage,
    source: SourceName,
    rows: Sequence[InstructionRow],
    **more: Any,
) -> None:
    """A sample as the stage before leaves it."""
    folder = storage.source_sample(source)
    write_parquet(folder / "rows.parquet", rows_to_table(rows))
    reports = source == "local_reports"
    manifest = {
        "version": rows_version(rows),
        "identity": "rules-1",
        "settings": settings_version(config, source),
        "quota": None,
        "exhausted": True,
        "rows": len(rows),
        "revision": sha256_of_file(reports_path(config)) if reports else "abc",
        "sha256": sha256_of_file(folder / "rows.parquet"),
        **more,
    }
    write_json(folder / "manifest.json", manifest)


def put_samples(config: Config, storage: Storage, **counts: int) -> None:
    """Samples of three sources: 30, 60 and 30 rows unless told otherwise."""
    wanted = {"local_reports": 30, "slimorca": 60, "pubmedqa": 30} | counts
    for source in SOURCE_NAMES:
        if source in wanted:
            put_sample(config, storage, source, rows_of(source, wanted[source]))


def small_config(rows: int = 100, **mixture: Any) -> Config:
    """A config of one recipe over three sources."""
    ratios = {"local_reports": 0.25, "slimorca": 0.50, "pubmedqa": 0.25}
    recipes = {"small": {"rows": rows, "ratios": ratios}}
    return Config.model_validate({"name": "test", "mixture": {"recipes": recipes} | mixture})
