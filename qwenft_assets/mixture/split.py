"""Train and eval: by groups of rows that ask the same or nearly the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from qwenft_assets.config import SimilarQuestionsConfig
from qwenft_assets.hashing import seeded_order
from qwenft_assets.mixture.deduplication import TextView, question_key, question_text
from qwenft_assets.mixture.quotas import apportion
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.rows import InstructionRow
from qwenft_assets.text.near_duplicates import clusters, similar_pairs

TRAIN = "train"
EVAL = "eval"


class Leak(NamedTuple):
    """An eval row and a train row that asks the same or nearly the same, by row id."""

    eval_row: str
    train_row: str


def question_clusters(
    rows: Iterable[InstructionRow],
    settings: SimilarQuestionsConfig,
    report_progress: ReportProgress = no_progress,
) -> dict[str, str]:
    """Row id to its group: rows that ask the same, and chains of questions that are alike.

    The name of a group is the smallest row id in it, whatever the order of the rows.
    """
    first: dict[str, InstructionRow] = {}
    key_of: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row.row_id):
        key_of[row.row_id] = key = question_key(row)
        first.setdefault(key, row)
    questions = list(first.values())
    pairs = similar_pairs(TextView(questions, question_text), settings, report_progress)
    roots = clusters(len(questions), [(pair.first, pair.second) for pair in pairs])
    group_of_key = {key: questions[root].row_id for key, root in zip(first, roots, strict=True)}
    return {row_id: group_of_key[key] for row_id, key in key_of.items()}


def split_rows(
    rows: Sequence[InstructionRow],
    group_of: Mapping[str, str],
    eval_fraction: float,
    seed: int,
    frozen_eval: Collection[str] | None = None,
) -> dict[str, str]:
    """Which side each row stands on: row id to `train` or `eval`; a group is never torn apart.

    Every source gives its share of the eval rows, as near as whole groups allow; at least one row
    is held out and at least one is trained on, unless there is one group only.

    Args:
        rows: What is split.
        group_of: Row id to the name of its group.
        eval_fraction: Share of the rows to hold out.
        seed: Decides which groups are held out.
        frozen_eval: Row ids of an evaluation set to keep: their groups are held out, and no other.
    """
    groups: defaultdict[str, list[InstructionRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.row_id):
        groups[group_of[row.row_id]].append(row)
    if frozen_eval is not None:
        held_out = {group_of[row_id] for row_id in frozen_eval if row_id in group_of}
        return {row.row_id: EVAL if group_of[row.row_id] in held_out else TRAIN for row in rows}
    wanted = min(max(1, round(len(rows) * eval_fraction)), len(rows) - 1)
    by_source = Counter(row.source for row in rows)
    room = apportion(wanted, {source: float(by_source[source]) for source in sorted(by_source)})
    sides: dict[str, str] = {}
    for name in sorted(groups, key=lambda name: seeded_order(seed, name)):
        group = groups[name]
        source = group[0].source
        side = EVAL if len(group) <= room[source] else TRAIN
        room[source] -= len(group) if side == EVAL else 0
        sides |= {row.row_id: side for row in group}
    if EVAL not in sides.values() and len(groups) > 1:
        # No group fits into its source's share: the smallest is nearest to what was asked.
        smallest = min(groups.values(), key=len)
        sides |= {row.row_id: EVAL for row in smallest}
    return sides


def find_leaks(
    rows: Sequence[tuple[InstructionRow, str]],
    settings: SimilarQuestionsConfig,
    report_progress: ReportProgress = no_progress,
) -> list[Leak]:
    """Eval rows whose group also stands in train, each with one train row of it."""
    group_of = question_clusters((row for row, _ in rows), settings, report_progress)
    trained: dict[str, str] = {}
    for row, side in rows:
        if side == TRAIN:
            group = group_of[row.row_id]
            trained[group] = min(row.row_id, trained.get(group, row.row_id))
    held_out = {row.row_id: group_of[row.row_id] for row, side in rows if side == EVAL}
    return [
        Leak(row_id, trained[group])
        for row_id, group in sorted(held_out.items())
        if group in trained
    ]
