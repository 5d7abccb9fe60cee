"""Whole numbers from ratios: they add up, stay within what is there, and say what is missing."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwenft_assets.config import MixtureConfig, Recipe
from qwenft_assets.errors import MixtureError
from qwenft_assets.mixture.quotas import Quota, allocate, apportion, fill

KEYS = st.sampled_from("abcdef")
WEIGHTS = st.dictionaries(
    KEYS, st.floats(min_value=0.001, max_value=1_000, allow_nan=False), min_size=1
)
SMALL = Recipe(rows=100, ratios={"local_reports": 0.25, "slimorca": 0.50, "pubmedqa": 0.25})
LARGE = Recipe(rows=100, ratios={"slimorca": 0.6, "bio": 0.4})


def mixture(shortfall: str = "redistribute") -> MixtureConfig:
    return MixtureConfig.model_validate({"shortfall": shortfall})


def small_quotas(shortfall: str, local: int, slimorca: int, pubmedqa: int) -> dict[str, Quota]:
    available = {"local_reports": local, "slimorca": slimorca, "pubmedqa": pubmedqa}
    return allocate(SMALL, mixture(shortfall), available)


@given(total=st.integers(0, 300_000), weights=WEIGHTS)
@settings(deadline=None)
@example(total=10, weights=dict.fromkeys("abcdef", 0.1))
@example(total=1, weights={"a": 0.001, "b": 1_000.0})
def test_shares_sum_to_the_total_and_are_off_by_less_than_one_row(total, weights):
    shares = apportion(total, weights)
    assert sum(shares.values()) == total
    assert list(shares) == list(weights)
    for key, weight in weights.items():
        exact = total * weight / math.fsum(weights.values())
        assert abs(shares[key] - exact) < 1 + 1e-6


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [
        pytest.param(2_000, {"a": 0.25, "b": 0.5, "c": 0.25}, [500, 1_000, 500], id="option-a"),
        pytest.param(
            240_000,
            {"a": 0.05, "b": 0.45, "c": 0.2, "d": 0.2, "e": 0.1},
            [12_000, 108_000, 48_000, 48_000, 24_000],
            id="option-b",
        ),
        pytest.param(10, {"a": 1.0, "b": 1.0, "c": 1.0}, [4, 3, 3], id="tie-goes-to-the-first"),
        pytest.param(5, {"a": 0.31, "b": 0.69}, [2, 3], id="largest-remainder"),
        pytest.param(0, {"a": 1.0}, [0], id="nothing"),
    ],
)
def test_shares_are_in_proportion(total, weights, shares):
    assert list(apportion(total, weights).values()) == shares


@given(total=st.integers(0, 5_000), weights=WEIGHTS, data=st.data())
@settings(deadline=None)
def test_filling_takes_all_it_can_and_never_more_than_there_is(total, weights, data):
    room = {key: data.draw(st.integers(0, 1_000)) for key in weights}
    filled = fill(total, weights, room)
    assert sum(filled.values()) == min(total, sum(room.values()))
    assert all(0 <= filled[key] <= room[key] for key in weights)


def test_what_one_cannot_take_goes_to_the_others_in_proportion():
    weights = {"a": 0.25, "b": 0.50, "c": 0.25}
    assert fill(100, weights, {"a": 10, "b": 500, "c": 500}) == {"a": 10, "b": 60, "c": 30}
    assert fill(100, weights, {"a": 10, "b": 55, "c": 500}) == {"a": 10, "b": 55, "c": 35}


def test_enough_rows_are_taken_as_asked():
    for shortfall in ("redistribute", "repeat", "fail"):
        assert small_quotas(shortfall, 25, 500, 500) == {
            "local_reports": Quota(asked=25, available=25, unique=25, repeats=0),
            "slimorca": Quota(asked=50, available=500, unique=50, repeats=0),
            "pubmedqa": Quota(asked=25, available=500, unique=25, repeats=0),
        }


def test_shortfall_is_redistributed():
    assert small_quotas("redistribute", 10, 500, 500) == {
        "local_reports": Quota(asked=25, available=10, unique=10, repeats=0),
        "slimorca": Quota(asked=50, available=500, unique=60, repeats=0),
        "pubmedqa": Quota(asked=25, available=500, unique=30, repeats=0),
    }


def test_shortfall_is_filled_with_repeats():
    assert small_quotas("repeat", 10, 500, 500) == {
        "local_reports": Quota(asked=25, available=10, unique=10, repeats=15),
        "slimorca": Quota(asked=50, available=500, unique=50, repeats=0),
        "pubmedqa": Quota(asked=25, available=500, unique=25, repeats=0),
    }


def test_shortfall_is_an_error_that_counts_what_is_missing():
    with pytest.raises(MixtureError) as raised:
        small_quotas("fail", 10, 500, 500)
    message = str(raised.value)
    assert message.startswith("local_reports: 25 rows asked, 10 there, 15 missing.")
    assert "mixture.shortfall" in message


def test_too_few_rows_everywhere_are_all_taken():
    assert [quota.unique for quota in small_quotas("redistribute", 3, 4, 5).values()] == [3, 4, 5]


def test_source_without_rows_is_not_repeated():
    quotas = small_quotas("repeat", 0, 500, 500)
    assert quotas["local_reports"] == Quota(asked=25, available=0, unique=0, repeats=0)


@pytest.mark.parametrize(
    ("pubmedqa", "biomed", "taken"),
    [
        pytest.param(500, 500, (20, 20), id="equal-parts"),
        pytest.param(5, 500, (5, 35), id="one-short"),
        pytest.param(500, 5, (35, 5), id="the-other-short"),
        pytest.param(0, 500, (0, 40), id="one-empty"),
    ],
)
def test_sources_of_a_group_share_equally_as_far_as_they_reach(pubmedqa, biomed, taken):
    available = {"slimorca": 500, "pubmedqa": pubmedqa, "stackexchange_biomed": biomed}
    for shortfall in ("redistribute", "repeat", "fail"):
        quotas = allocate(LARGE, mixture(shortfall), available)
        assert (quotas["pubmedqa"].unique, quotas["stackexchange_biomed"].unique) == taken
        assert (quotas["pubmedqa"].asked, quotas["stackexchange_biomed"].asked) == (20, 20)
        assert quotas["slimorca"].unique == 60
        assert sum(quota.repeats for quota in quotas.values()) == 0


def test_group_that_falls_short_repeats_both_in_proportion():
    available = {"slimorca": 500, "pubmedqa": 3, "stackexchange_biomed": 9}
    quotas = allocate(LARGE, mixture("repeat"), available)
    assert (quotas["pubmedqa"].repeats, quotas["stackexchange_biomed"].repeats) == (7, 21)


@given(
    rows=st.integers(2, 1_000),
    available=st.fixed_dictionaries(
        dict.fromkeys(("slimorca", "pubmedqa", "stackexchange_biomed"), st.integers(0, 600))
    ),
    shortfall=st.sampled_from(["redistribute", "repeat"]),
)
@settings(deadline=None)
def test_quotas_add_up_whatever_is_there(rows, available, shortfall):
    recipe = Recipe(rows=rows, ratios=LARGE.ratios)
    quotas = allocate(recipe, mixture(shortfall), available)
    assert list(quotas) == ["slimorca", "pubmedqa", "stackexchange_biomed"]
    assert sum(quota.asked for quota in quotas.values()) == rows
    assert all(0 <= quota.unique <= quota.available for quota in quotas.values())
    taken = sum(quota.unique + quota.repeats for quota in quotas.values())
    if shortfall == "redistribute":
        assert taken == min(rows, sum(available.values()))
    elif available["slimorca"] and available["pubmedqa"] + available["stackexchange_biomed"]:
        assert taken == rows
