"""Short hashes and seeded orders: the same in every process, for good."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_assets.hashing import seeded_order, short_hash


@pytest.mark.parametrize(
    ("left", "right"),
    [
        pytest.param(("ab", "c"), ("a", "bc"), id="where-parts-end"),
        pytest.param(("ab",), ("a", "b"), id="how-many-parts"),
        pytest.param((None,), ("",), id="none-is-not-empty"),
        pytest.param(("a", None), ("a",), id="a-last-none"),
        pytest.param((), ("",), id="nothing-is-not-empty"),
        pytest.param(("a", "b"), ("b", "a"), id="order"),
    ],
)
def test_short_hash_tells_parts_apart(left, right):
    assert short_hash(*left) != short_hash(*right)


@given(st.lists(st.text(max_size=5), max_size=3), st.lists(st.text(max_size=5), max_size=3))
@settings(deadline=None, max_examples=200)
def test_short_hash_is_equal_exactly_for_equal_parts(left, right):
    assert (short_hash(*left) == short_hash(*right)) == (left == right)


def test_short_hash_is_the_same_in_every_process_and_version():
    assert short_hash("slimorca", "1") == "cf015040ff62c5e6"


def test_seeded_order_depends_on_the_seed_and_the_row_alone():
    ids = [short_hash(str(n)) for n in range(50)]
    in_order = sorted(ids, key=lambda row_id: seeded_order(42, row_id))
    assert sorted([*ids[25:], *ids[:25]], key=lambda row_id: seeded_order(42, row_id)) == in_order
    assert sorted(ids, key=lambda row_id: seeded_order(43, row_id)) != in_order
    assert in_order not in (ids, sorted(ids))
    without_some = [row_id for row_id in in_order if row_id not in ids[:10]]
    assert sorted(ids[10:], key=lambda row_id: seeded_order(42, row_id)) == without_some
