import pytest

from qwenft_assets.training.loss_curve import averaged, draw_loss_curve, thumbnail

EVALUATION = [(10, 3.1), (20, 2.9)]


def falling(steps):
    return [(step, 4 - step / steps + (step * 37 % 11) / 40) for step in range(1, steps + 1)]


def test_averages_stand_for_neighbouring_steps():
    points = [(1, 4.0), (2, 2.0), (3, 3.0), (4, 1.0), (5, 7.0)]
    assert averaged(points, 3) == [(1.5, 3.0), (3.5, 2.0), (5.0, 7.0)]
    assert averaged(points, 10) == points


@pytest.mark.parametrize("steps", [1, 20, 675, 5_000])
def test_a_thumbnail_is_small_enough_to_be_shown_in_place(steps):
    picture = thumbnail(falling(steps), EVALUATION, 700)
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert len(picture) <= 700


def test_no_thumbnail_is_better_than_one_that_is_too_large():
    assert thumbnail(falling(20), EVALUATION, 50) is None


def test_the_large_curve_is_a_png(tmp_path):
    draw_loss_curve(falling(50), EVALUATION, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
