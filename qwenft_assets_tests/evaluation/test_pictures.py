"""Pictures show the figures: bars in their order and height, whiskers that never turn round."""

import io

import numpy as np
import pytest
from PIL import Image

from qwenft_assets.evaluation.report import _whiskers, draw_pictures, losses_thumbnail


def own(base, adapter, interval=(-0.2, -0.05)):
    return {
        "base_eval_loss": base,
        "eval_loss": adapter,
        "delta_loss": adapter - base,
        "delta_loss_ci95": list(interval),
    }


RESULT = {
    **own(3.0, 2.0),
    "per_source": {"pubmedqa": own(4.0, 1.0), "slimorca": own(2.0, 3.0)},
    "per_length": {"0001-0128": own(3.0, 2.0)},
}


def bars_of(picture, *, reddish):
    """First column and height in pixels of each grey or reddish bar, right of the axis.

    Four colours are all there are: the axes share the adapter's.
    """
    red, _, blue = np.moveaxis(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")), 2, 0)
    coloured = red.astype(int) - blue > 60
    found = coloured if reddish else ~coloured & (np.abs(red.astype(int) - 128) < 10)
    heights = found.sum(axis=0)
    starts = np.flatnonzero((heights > 6) & (np.roll(heights, 1) <= 6))
    return [(int(start), int(heights[start])) for start in starts if start > 30]


def test_the_thumbnail_has_a_pair_of_bars_a_source_and_one_for_all():
    picture = losses_thumbnail(RESULT)
    base, adapter = (bars_of(picture, reddish=one) for one in (False, True))
    assert len(base) == len(adapter) == 3
    order = sorted([*base, *adapter])
    assert [bar in base for bar in order] == [True, False] * 3
    heights = [bar[1] for bar in order]
    assert heights[0] > heights[1]  # pubmedqa became better
    assert heights[2] < heights[3]  # slimorca worse
    assert heights[4] == pytest.approx(3 * heights[0] / 4, abs=2)


def test_whiskers_reach_to_the_ends_of_the_interval_and_never_turn_round():
    parts = [own(3.0, 2.9, (-0.2, 0.05)), own(3.0, 2.7, (-0.25, -0.35))]
    below, above = _whiskers(parts)
    assert below == pytest.approx([0.1, 0])
    assert above == pytest.approx([0.15, 0])


def test_a_loss_curve_is_drawn_only_where_training_left_one(tmp_path):
    history = {"train": [(1, 3.0), (2, 2.0)], "eval": [(2, 2.1)]}
    with_curve = draw_pictures(RESULT, history, tmp_path)
    assert with_curve["Loss while training"] == "loss_curve.png"
    for name in with_curve.values():
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 300
    assert set(draw_pictures(RESULT, None, tmp_path)) == {"Loss by source", "Loss by length"}
