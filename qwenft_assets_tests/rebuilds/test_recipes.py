"""What changed and what it bought, in words."""

import pytest

from qwenft_assets.rebuilds.recipes import mixture_changes, what_changed, what_it_bought
from qwenft_assets.storage.files import write_json

CHANGES = [
    {"source": "slimorca", "change": "added", "cause": "upstream", "rows": 40},
    {"source": "slimorca", "change": "removed", "cause": "quota", "rows": 3},
    {"source": "pubmedqa", "change": "moved", "cause": "split", "rows": 1},
]
BASE = {
    "perplexity": 16.704,
    "base_perplexity": 26.451,
    "delta_loss": -0.45961,
    "delta_loss_ci95": [-0.49638, -0.42241],
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            CHANGES,
            "slimorca: 40 added (upstream), 3 removed (quota); pubmedqa: 1 moved (split)",
            id="several",
        ),
        pytest.param([], "no row of the mixture", id="none"),
        pytest.param(None, "first build", id="first"),
    ],
)
def test_what_changed(changes, words):
    assert what_changed(changes) == words


def test_changes_are_those_since_the_build_before(storage):
    write_json(
        storage.mixed_dataset("small") / "diff.json",
        {"previous_version": "a", "version": "b", "changes": CHANGES},
    )
    assert mixture_changes(storage, "small") == CHANGES
    assert mixture_changes(storage, "small", since="a") == CHANGES
    assert mixture_changes(storage, "small", since="b") == []
    assert mixture_changes(storage, "large") is None


def test_the_first_champion_is_held_against_the_base():
    assert what_it_bought(BASE) == (
        "perplexity 16.70, the base 26.45 (loss -0.4596 nats per token, 95 % interval -0.4964 to "
        "-0.4224)"
    )


def test_a_later_one_is_held_against_the_champion_before_it():
    figures = {
        **BASE,
        "champion_perplexity": 17.02,
        "champion_delta_loss": -0.0191,
        "champion_delta_loss_ci95": [-0.04, 0.002],
    }
    assert what_it_bought(figures) == (
        "perplexity 16.70, the champion before it 17.02 (loss -0.0191 nats per token, 95 % interval "
        "-0.0400 to +0.0020)"
    )
