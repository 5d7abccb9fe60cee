"""Rows end to end, cut into passes, and packed: every row once, in order, and never over the limit."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_assets.model.batches import common_start, flatten, pack_best_fit, passes
from qwenft_assets_tests.training.tiny_rows import token_row, token_rows

LENGTHS = st.lists(st.integers(1, 70), max_size=40)


def test_each_position_predicts_the_next_token_of_its_own_row():
    rows = [token_row(1, 3), token_row(2, 2)]
    batch = flatten(rows, "full")
    (a, b, c), (d, e) = (row.input_ids for row in rows)
    assert batch.input_ids.tolist() == [a, b, c, d, e]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert batch.counted.tolist() == [0, 1, 3]
    assert batch.targets.tolist() == [b, c, e]
    assert batch.row_starts.tolist() == [0, 3, 5]
    assert batch.lengths == (3, 2)


def test_the_prompt_predicts_nothing_when_only_the_answer_counts():
    batch = flatten([token_row(1, 4, answer_start=2)], "answer")
    assert batch.counted.tolist() == [1, 2]
    assert batch.targets.tolist() == batch.input_ids.tolist()[2:]


def test_a_row_without_anything_to_predict_counts_nothing():
    batch = flatten([token_row(1, 4, answer_start=4), token_row(2, 1)], "answer")
    assert batch.lengths == (4, 1)
    assert batch.counted.tolist() == batch.targets.tolist() == []


def test_a_start_that_rows_share_is_laid_once_and_seen_by_each():
    start, rests = [7, 8, 9], ([10, 11], [12, 13, 14])
    rows = [
        replace(token_row(n, 1, answer_start=4), input_ids=start + r) for n, r in enumerate(rests)
    ]
    batch = flatten(rows, "full", shared_tokens=3)
    assert batch.input_ids.tolist() == [7, 8, 9, 10, 11, 12, 13, 14]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4, 5]
    assert batch.row_starts.tolist() == [0, 3, 5, 8]
    assert batch.lengths == (3, 2, 3)
    assert batch.shared is not None
    assert batch.shared.keys.tolist() == [0, 1, 2, *(0, 1, 2, 3, 4), *(0, 1, 2, 5, 6, 7)]
    assert batch.shared.key_starts.tolist() == [0, 3, 8, 14]
    assert batch.shared.key_lengths == (3, 5, 6)
    # The last token of the start predicts another one in each row, those before it the same.
    assert batch.counted.tolist() == [0, 1, 2, 2, 3, 5, 6]
    assert batch.targets.tolist() == [8, 9, 10, 12, 11, 13, 14]
    of_rows = batch.targets[batch.shared.counted_of_rows].tolist()
    assert of_rows == [*rows[0].input_ids[1:], *rows[1].input_ids[1:]]
    answers = flatten(rows, "answer", shared_tokens=3)
    assert answers.counted.tolist() == [3, 5, 6]
    assert answers.targets.tolist() == [11, 13, 14]
    assert answers.shared is not None
    assert answers.shared.counted_of_rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("rows", "common"),
    [
        pytest.param([[*range(10), 1], [*range(10), 2, 3]], 10, id="up-to-where-they-differ"),
        pytest.param([[*range(12)], [*range(20)]], 11, id="each-row-keeps-a-token"),
        pytest.param([[*range(12)], [*range(12)]], 11, id="equal-rows"),
        pytest.param([[*range(7), 1], [*range(7), 2]], 0, id="not-worth-it"),
        pytest.param([[5, *range(12)], [6, *range(12)]], 0, id="nothing-in-common"),
        pytest.param([[*range(12)], [0]], 0, id="a-row-of-one-token"),
        pytest.param([[*range(12)]], 0, id="a-single-row"),
    ],
)
def test_the_common_start_of_rows(rows, common):
    made = [replace(token_row(n, 1), input_ids=ids) for n, ids in enumerate(rows)]
    assert common_start(made) == common


@given(LENGTHS, st.integers(1, 100), st.none() | st.integers(1, 9))
def test_passes_hold_every_row_in_order_within_their_limits(lengths, max_tokens, max_rows):
    found = list(passes(lengths, max_tokens, max_rows))
    assert [index for indices in found for index in indices] == list(range(len(lengths)))
    for indices in found:
        assert indices
        assert len(indices) <= (max_rows or len(lengths))
        assert sum(lengths[n] for n in indices) <= max_tokens or len(indices) == 1


@given(LENGTHS, st.integers(1, 100))
def test_packs_hold_every_row_once_within_their_capacity(lengths, capacity):
    packs = pack_best_fit(lengths, capacity)
    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    for pack in packs:
        assert sum(lengths[n] for n in pack) <= capacity or len(pack) == 1
    assert packs == pack_best_fit(lengths, capacity)


@pytest.mark.parametrize(
    ("lengths", "capacity", "packs"),
    [
        pytest.param([6, 4, 5, 5], 10, [[0, 1], [2, 3]], id="exact"),
        pytest.param([7, 6, 3, 4], 10, [[0, 2], [1, 3]], id="the-fullest-that-takes-it"),
        pytest.param([30, 2, 3], 10, [[0], [2, 1]], id="longer-than-a-pack"),
    ],
)
def test_rows_go_into_the_fullest_pack_that_takes_them(lengths, capacity, packs):
    assert pack_best_fit(lengths, capacity) == packs


def test_packs_of_real_lengths_are_nearly_full():
    lengths = [len(row.input_ids) for row in token_rows(*[5 + (n * 37) % 400 for n in range(500)])]
    packs = pack_best_fit(lengths, 2048)
    assert sum(lengths) / (2048 * len(packs)) > 0.97
