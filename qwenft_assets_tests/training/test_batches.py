"""Rows end to end, cut into passes, and packed: every row once, in order, and never over the limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_assets.training.batches import flatten, pack_best_fit, passes
from qwenft_assets.training.tokens import NOT_SUPERVISED
from qwenft_assets_tests.training.tiny_rows import token_row, token_rows

LENGTHS = st.lists(st.integers(1, 70), max_size=40)


def test_each_position_predicts_the_next_token_of_its_own_row():
    rows = [token_row(1, 3), token_row(2, 2)]
    batch = flatten(rows, "full")
    (a, b, c), (d, e) = (row.input_ids for row in rows)
    assert batch.input_ids.tolist() == [a, b, c, d, e]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert batch.targets.tolist() == [b, c, NOT_SUPERVISED, e, NOT_SUPERVISED]
    assert batch.row_starts.tolist() == [0, 3, 5]
    assert batch.lengths == (3, 2)


def test_the_prompt_predicts_nothing_when_only_the_answer_counts():
    batch = flatten([token_row(1, 4, answer_start=2)], "answer")
    ids = batch.input_ids.tolist()
    assert batch.targets.tolist() == [NOT_SUPERVISED, ids[2], ids[3], NOT_SUPERVISED]


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
