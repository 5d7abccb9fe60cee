"""The picture of perplexity over versions: what is drawn where, and as what."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from qwenft_assets.records import HistoryLine
from qwenft_assets.release.perplexity_plot import _decisions, _plot
from qwenft_assets_tests.made_up_records import made_up


def line(version, day, perplexity, action="release"):
    return made_up(
        HistoryLine,
        version=version * 16,
        at=f"2026-11-{day:02}T03:00:00+00:00",
        action=action,
        released=action != "refuse",
        perplexity=perplexity,
        base_perplexity=9.0,
    )


HISTORY = [line("a", 1, 8.0), line("b", 8, 8.5, "refuse"), line("c", 15, 7.5)]


def drawn(history):
    """Places and heights by label."""
    axes = Figure().subplots()
    _plot(axes, _decisions(history), size=3)
    return {
        of.get_label(): [tuple(point) for point in np.asarray(of.get_xydata()).tolist()]
        for of in axes.get_lines()
    }


def test_released_and_refused_versions_stand_where_they_were_decided():
    assert drawn(HISTORY) == {
        "base": [(0, 9.0), (1, 9.0), (2, 9.0)],
        "released": [(0, 8.0), (2, 7.5)],
        "refused": [(1, 8.5)],
    }


@pytest.mark.parametrize("history", [HISTORY[:1], HISTORY[1:2]], ids=["released", "refused"])
def test_what_did_not_happen_has_no_place_in_the_legend(history):
    assert set(drawn(history)) == {"base", "released" if history[0].released else "refused"}


def test_a_version_stands_once_by_its_newest_decision_and_moves_by_hand_do_not_count():
    again = [*HISTORY, line("b", 16, 8.4, "release"), line("a", 17, 8.0, "promote")]
    assert drawn(again)["released"] == [(0, 8.0), (1, 7.5), (2, 8.4)]
