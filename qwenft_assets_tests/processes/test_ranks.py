"""Rows over processes, and what one process by itself answers."""

import pytest

from qwenft_assets.processes.ranks import ALONE, shares
from qwenft_assets.processes.torchrun import first_cause

STEP = [2048, 40, 41, 300, 700, 1200, 55, 9]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 11])
def test_every_row_of_a_step_is_one_process_s_and_shares_keep_their_order(size):
    found = shares(STEP, size)
    assert sorted(n for indices in found for n in indices) == list(range(len(STEP)))
    assert all(indices == sorted(indices) for indices in found)
    assert len(found) == size
    assert found == shares(STEP, size)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        pytest.param([8, 7, 6, 5], [[0, 3], [1, 2]], id="tokens-not-rows"),
        pytest.param([9, 3, 3, 3], [[0], [1, 2, 3]], id="one-long-row"),
        pytest.param([5, 5, 5, 5], [[0, 2], [1, 3]], id="ties-by-index"),
        pytest.param([5], [[0], []], id="fewer-rows-than-processes"),
    ],
)
def test_tokens_are_shared_evenly(lengths, expected):
    assert shares(lengths, 2) == expected


def test_one_process_takes_every_row_and_has_nobody_to_ask():
    assert ALONE.share(STEP) == list(range(len(STEP)))
    assert ALONE.any(False, True) == [False, True]
    assert ALONE.sum_numbers(1.5, 2) == [1.5, 2]
    assert ALONE.largest(3) == 3
    assert ALONE.gather(["a"]) == ["a"]
    assert ALONE.broadcast("b") == "b"


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        pytest.param([1, -9], 137, id="killed-and-its-partner-that-lost-it"),
        pytest.param([1, 4], 4, id="told-and-its-partner-that-lost-it"),
        pytest.param([143, 143], 143, id="all-were-asked-to-stop"),
        pytest.param([1, 1], 1, id="a-bug"),
        pytest.param([-15], 143, id="ended-before-it-listened"),
    ],
)
def test_the_exit_code_is_that_of_the_cause(codes, expected):
    assert first_cause(codes) == expected
