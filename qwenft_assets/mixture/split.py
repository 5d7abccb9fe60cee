"""Train and eval: by question, so that no question stands on both sides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from qwenft_assets.mixture.deduplication import question_key
from qwenft_assets.mixture.quotas import apportion
from qwenft_assets.rows import InstructionRow, seeded_order

TRAIN = "train"
EVAL = "eval"


def split_by_question(
    rows: Sequence[InstructionRow], eval_fraction: float, seed: int
) -> dict[str, str]:
    """Which side each row stands on: row id to `train` or `eval`.

    Every source gives its share of the eval rows, as near as whole groups allow; at least one row
    is held out and at least one is trained on, unless all rows ask the same.
    """
    groups: defaultdict[str, list[InstructionRow]] = defaultdict(list)
    for row in rows:
        groups[question_key(row)].append(row)
    wanted = min(max(1, round(len(rows) * eval_fraction)), len(rows) - 1)
    by_source = Counter(row.source for row in rows)
    room = apportion(wanted, {source: float(by_source[source]) for source in sorted(by_source)})
    sides: dict[str, str] = {}
    for key in sorted(groups, key=lambda key: seeded_order(seed, key)):
        group = groups[key]
        source = group[0].source
        side = EVAL if len(group) <= room[source] else TRAIN
        room[source] -= len(group) if side == EVAL else 0
        sides |= {row.row_id: side for row in group}
    if EVAL not in sides.values() and len(groups) > 1:
        # No group fits into its source's share: the smallest is nearest to what was asked.
        smallest = min(groups.values(), key=len)
        sides |= {row.row_id: EVAL for row in smallest}
    return sides


def leaked_questions(rows: Iterable[tuple[InstructionRow, str]]) -> list[str]:
    """Row ids of eval rows whose question also stands in train."""
    pairs = [(row.row_id, question_key(row), side) for row, side in rows]
    trained = {key for _, key, side in pairs if side == TRAIN}
    return sorted({row_id for row_id, key, side in pairs if side == EVAL and key in trained})
