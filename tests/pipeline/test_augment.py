from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import augment
from pipeline.augment import AugmentConfig, evaluation_draw, training_draw

sides = st.integers(1, 2000)


@given(width=sides, height=sides, seed=st.integers(0, 2**32))
def test_crops_lie_in_the_picture_with_allowed_area_and_aspect(width, height, seed):
    config = AugmentConfig()
    top, left, bottom, right = training_draw(width, height, config, np.random.default_rng(seed)).roi
    assert 0 <= top < bottom <= 1 + 1e-9 and 0 <= left < right <= 1 + 1e-9
    w, h = (right - left) * width, (bottom - top) * height
    assert config.ratio[0] - 1e-6 <= w / h <= config.ratio[1] + 1e-6
    fits = 1 / 3 <= width / height <= 3  # else the fallback may be smaller than the least area
    assert not fits or w * h >= config.scale[0] * width * height * (1 - 1e-6)


@given(width=sides, height=sides, scale=st.floats(0.1, 1))
def test_evaluation_takes_the_central_square(width, height, scale):
    draw = evaluation_draw(width, height, AugmentConfig(eval_scale=scale))
    top, left, bottom, right = draw.roi
    assert np.isclose((right - left) * width, (bottom - top) * height)
    assert np.isclose((right - left) * width, scale * min(width, height))
    assert np.isclose(top + bottom, 1) and np.isclose(left + right, 1)
    assert not draw.flip and draw.blur_sigma == 0 and (draw.color == np.eye(3, 4)).all()


def test_coins_fall_as_often_as_asked():
    config = AugmentConfig(flip=0.3, blur=0.6, grayscale=0.2, jitter=0.8, solarize=0.1)
    rng = np.random.default_rng(0)
    many = [training_draw(320, 240, config, rng) for _ in range(4000)]
    grey = [np.allclose(d.color[0, :3], d.color[1, :3]) for d in many]
    untouched = [np.allclose(d.color, np.eye(3, 4)) for d in many]
    for coins, chance in (
        ([d.flip for d in many], 0.3),
        ([d.blur_sigma > 0 for d in many], 0.6),
        ([d.solarize_from < 256 for d in many], 0.1),
        (grey, 0.2),
        (untouched, 0.2 * 0.8),
    ):
        assert abs(np.mean(coins) - chance) < 4 * np.sqrt(chance * (1 - chance) / len(many))


def test_colour_maps_do_what_their_names_say():
    rgb = np.array([200.0, 90.0, 30.0])

    def apply(matrix):
        return matrix[:3, :3] @ rgb + matrix[:3, 3]

    assert np.allclose(apply(augment.brightness(0.5)), rgb / 2)
    assert np.allclose(apply(augment.contrast(0.5)), (rgb + 127.5) / 2)
    assert np.allclose(apply(augment.contrast(0.0)), 127.5)
    luma = 0.299 * 200 + 0.587 * 90 + 0.114 * 30
    assert np.allclose(apply(augment.saturation(0.0)), luma)
    assert np.allclose(apply(augment.saturation(2.0)), 2 * rgb - luma)
    assert np.allclose(apply(augment.hue(0.0)), rgb)


@given(turn=st.floats(-0.5, 0.5))
def test_hue_keeps_luma_and_grey_and_turns_back(turn):
    matrix = augment.hue(turn)
    grey = np.array([80.0, 80.0, 80.0, 1.0])
    assert np.allclose(matrix @ grey, grey, atol=0.02)  # YIQ's published figures have four digits
    assert np.allclose(augment.LUMA @ matrix[:3, :3], augment.LUMA)
    assert np.allclose(augment.hue(-turn) @ matrix, np.eye(4))


def test_a_third_of_a_turn_takes_red_towards_green_or_blue():
    red = np.array([200.0, 40.0, 40.0, 1.0])
    turned = (augment.hue(1 / 3) @ red)[:3] / 255
    there = colorsys.rgb_to_hsv(*np.clip(turned, 0, 1))[0]
    assert abs(there - 1 / 3) < 0.12 or abs(there - 2 / 3) < 0.12


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("flip", 1.5, "augment.flip: expected a probability, got 1.5"),
        ("scale", [0.5], r"augment.scale: expected \[low, high\] with 0 < low <= high"),
        ("ratio", [2.0, 1.0], r"augment.ratio: expected \[low, high\] with 0 < low <= high"),
        ("eval_scale", 1.2, "at most 1, the whole picture"),
        ("size", 0, "augment.size: expected at least 1 pixel, got 0"),
    ],
)
def test_values_out_of_range_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        augment.check(AugmentConfig(**{field: value}))
