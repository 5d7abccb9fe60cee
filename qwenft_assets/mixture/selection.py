"""Which of the sampled rows a recipe takes: rules first, then quotas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from qwenft_assets.config import Config, MixtureConfig, Recipe
from qwenft_assets.errors import MixtureError
from qwenft_assets.hashing import seeded_order
from qwenft_assets.mixture.decontamination import find_contaminated, read_evaluation_file
from qwenft_assets.mixture.deduplication import (
    Removal,
    drop_duplicates,
    drop_near_duplicates,
    question_key,
)
from qwenft_assets.mixture.frozen_eval import read_frozen_eval
from qwenft_assets.mixture.quotas import Quota, allocate
from qwenft_assets.mixture.samples import require_extended
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.rows import InstructionRow


class TokenCounter(Protocol):
    """Counts tokens as training will see the rows, before anything is cut off."""

    @property
    def identity(self) -> str:
        """Equal for counters that count the same: tokenizer, template, system prompt."""
        ...

    def count(
        self, rows: Sequence[InstructionRow], report_progress: ReportProgress
    ) -> Sequence[int]:
        """Tokens of each row, prompt and answer together."""
        ...


class Selection(NamedTuple):
    """What a recipe takes of the candidates."""

    pools: dict[str, list[InstructionRow]]
    """Usable rows by source, in the seeded order in which quotas take them."""
    quotas: dict[str, Quota]
    removed: list[Removal]


def select_rows(
    candidates: Sequence[InstructionRow],
    recipe: Recipe,
    config: Config,
    samples: Mapping[str, Mapping[str, Any]],
    token_counter: TokenCounter | None = None,
    report_progress: ReportProgress = no_progress,
) -> Selection:
    """Leave out what the rules forbid, then give each source its quota.

    Args:
        candidates: All sampled rows, in order of priority.
        recipe: What is wanted.
        config: The rules.
        samples: The manifest of each source's sample.
        token_counter: Needed for `over_long: drop` and `fail`.
        report_progress: Called along the way.

    Raises:
        MixtureError: A source has too few rows, or a row is too long, and the config says `fail`.
    """
    frozen = {question_key(row): row.row_id for row in read_frozen_eval(config.evaluation)}
    asked_again = [
        Removal(row, "frozen_eval", frozen[question_key(row)], 1.0)
        for row in (candidates if frozen else ())
        if question_key(row) in frozen
    ]
    gone = {removal.row.row_id for removal in asked_again}
    kept, removed = apply_rules(
        [row for row in candidates if row.row_id not in gone], config.mixture, report_progress
    )
    removed = asked_again + removed
    pools: dict[str, list[InstructionRow]] = {source: [] for source in samples}
    for row in sorted(kept, key=lambda row: seeded_order(config.mixture.seed, row.row_id)):
        pools[row.source].append(row)
    measured: set[str] = set()
    while True:
        available = {source: len(rows) for source, rows in pools.items()}
        require_extended(recipe, config, available, samples)
        quotas = allocate(recipe, config.mixture, available)
        if token_counter is None:
            return Selection(pools, quotas, removed)
        chosen = [row for source, quota in quotas.items() for row in pools[source][: quota.unique]]
        fresh = [row for row in chosen if row.row_id not in measured]
        if not fresh:
            return Selection(pools, quotas, removed)
        # Rows that fill the place of an over-long one may be over-long themselves: hence the loop.
        over_long = _over_long(fresh, config, token_counter, report_progress)
        measured |= {row.row_id for row in fresh}
        removed += over_long
        gone = {removal.row.row_id for removal in over_long}
        pools = {
            source: [row for row in rows if row.row_id not in gone]
            for source, rows in pools.items()
        }


def apply_rules(
    candidates: Sequence[InstructionRow],
    config: MixtureConfig,
    report_progress: ReportProgress = no_progress,
) -> tuple[list[InstructionRow], list[Removal]]:
    """Drop rows of evaluation files, duplicates, near-duplicates: rows that stay, and the removals."""
    removed: list[Removal] = []
    kept = list(candidates)
    if config.contaminated == "drop":
        files = [read_evaluation_file(path) for path in config.decontaminate]
        removed += find_contaminated(candidates, files, report_progress)
        gone = {removal.row.row_id for removal in removed}
        kept = [row for row in candidates if row.row_id not in gone]
    kept, duplicates = drop_duplicates(kept)
    kept, near_duplicates = drop_near_duplicates(kept, config.near_duplicates, report_progress)
    return kept, removed + duplicates + near_duplicates


def _over_long(
    rows: Sequence[InstructionRow],
    config: Config,
    token_counter: TokenCounter,
    report_progress: ReportProgress,
) -> list[Removal]:
    limit = config.training.max_length_tokens
    tokens = token_counter.count(rows, report_progress)
    over_long = [
        Removal(row, "over_long", f"{count} tokens", 0.0)
        for row, count in zip(rows, tokens, strict=True)
        if count > limit
    ]
    if over_long and config.mixture.over_long == "fail":
        first = over_long[0]
        raise MixtureError(
            f"{first.row.source}: {len(over_long)} rows are longer than training.max_length_tokens "
            f"{limit}; the first is {first.row.upstream_id} with {first.partner}. Shorten them, "
            "raise max_length_tokens, or set mixture.over_long to truncate or drop."
        )
    return over_long
