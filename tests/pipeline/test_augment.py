from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import augment
from pipeline.augment import (
    AugmentConfig,
    check,
    evaluation_draws,
    of_view,
    of_views,
    training_draw,
)

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
    (draw,) = evaluation_draws(width, height, AugmentConfig(eval_scale=scale))
    top, left, bottom, right = draw.roi
    assert np.isclose((right - left) * width, (bottom - top) * height)
    assert np.isclose((right - left) * width, scale * min(width, height))
    assert np.isclose(top + bottom, 1) and np.isclose(left + right, 1)
    assert not draw.flip and draw.blur_sigma == 0 and (draw.color == np.eye(3, 4)).all()


@given(width=sides, height=sides, scale=st.floats(0.1, 1))
def test_three_crops_stand_along_the_long_side(width, height, scale):
    config = AugmentConfig(eval_scale=scale, eval_crops=3)
    draws = evaluation_draws(width, height, config)
    (central,) = evaluation_draws(width, height, AugmentConfig(eval_scale=scale))
    assert draws[1].roi == central.roi
    across = [(draw.roi[1], draw.roi[3]) for draw in draws]
    down = [(draw.roi[0], draw.roi[2]) for draw in draws]
    long, short = (across, down) if width >= height else (down, across)
    assert short == [short[1]] * 3
    assert long[0][0] == 0 and long[2][1] == 1
    assert np.allclose([end - start for start, end in long], long[1][1] - long[1][0])
    assert np.isclose((across[0][1] - across[0][0]) * width, scale * min(width, height))
    assert np.isclose((down[0][1] - down[0][0]) * height, scale * min(width, height))


@given(width=sides, height=sides, scale=st.floats(0.1, 1))
def test_ten_crops_are_corners_and_centre_and_their_mirror_images(width, height, scale):
    ten, five, (central,) = (
        evaluation_draws(width, height, AugmentConfig(eval_scale=scale, eval_crops=crops))
        for crops in (10, 5, 1)
    )
    assert [draw.flip for draw in ten] == [False] * 5 + [True] * 5
    assert [draw.roi for draw in ten] == 2 * [draw.roi for draw in five]
    *corners, last = five
    assert last.roi == central.roi
    touched = [(top == 0, left == 0, bottom == 1, right == 1) for top, left, bottom, right in
               (draw.roi for draw in corners)]  # fmt: skip
    for own, (vertical, horizontal) in zip(touched, [(0, 1), (0, 3), (2, 1), (2, 3)], strict=True):
        assert own[vertical] and own[horizontal]
    side = scale * min(width, height)
    for top, left, bottom, right in (draw.roi for draw in corners):
        assert np.isclose((right - left) * width, side)
        assert np.isclose((bottom - top) * height, side)


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


def test_contrast_about_the_clip_is_every_operation_in_turn_about_its_mean():
    """The order of the operations is told by what they do to a far-off, coloured picture."""
    config = AugmentConfig(
        jitter=1.0, grayscale=0.2, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2,
        contrast_about="clip",
    )  # fmt: skip
    pixels = np.random.default_rng(1).uniform(0, 255, (50, 3))
    orders = set()
    for seed in range(60):
        draw = training_draw(320, 240, config, np.random.default_rng(seed))
        ours = pixels @ draw.color[:, :3].T + draw.color[:, 3] + draw.mean_matrix @ pixels.mean(0)
        levels, order = in_turn(pixels, config, np.random.default_rng(seed))
        assert np.allclose(ours, levels)
        orders.add(order)
    assert len(orders) > 15  # of 24


def in_turn(pixels: np.ndarray, config: AugmentConfig, rng) -> tuple[np.ndarray, tuple[int, ...]]:
    """The colour of `training_draw` without a map that joins its operations."""
    augment.random_crop(320, 240, config, rng)
    rng.random(2)  # flip, jitter
    b, c, s = (rng.uniform(0.2, 1.8) for _ in range(3))
    turn = rng.uniform(-0.2, 0.2)
    grey = lambda v: (v @ np.array([0.299, 0.587, 0.114]))[:, None]  # noqa: E731
    operations = [
        lambda v: b * v,
        lambda v: c * (v - v.mean(0)) + v.mean(0),
        lambda v: s * (v - grey(v)) + grey(v),
        lambda v: v @ augment.hue(turn)[:3, :3].T,
    ]
    order = tuple(rng.permutation(4))
    for which in order:
        pixels = operations[which](pixels)
    return (grey(pixels) * np.ones(3) if rng.random() < config.grayscale else pixels), order


def test_contrast_about_grey_looks_at_no_mean_and_draws_the_same_numbers():
    """Brightness apart, no other operation moves mid grey: as a clip's mean it is the same."""
    configs = [AugmentConfig(brightness=0, contrast_about=about) for about in ("grey", "clip")]
    for seed in range(40):
        ours, other = (training_draw(320, 240, c, np.random.default_rng(seed)) for c in configs)
        assert (ours.mean_matrix == 0).all()
        assert (ours.roi, ours.flip, ours.blur_sigma) == (other.roi, other.flip, other.blur_sigma)
        assert np.allclose(ours.color[:, :3], other.color[:, :3])
        grey = other.mean_matrix @ np.full(3, augment.MID_GREY)
        assert np.allclose(ours.color[:, 3], other.color[:, 3] + grey, atol=0.02)


# Views


def test_a_view_is_the_rest_with_its_own_values():
    config = AugmentConfig(size=24, blur=1.0, views={1: {"blur": 0.1, "scale": [0.5, 1]}})
    assert of_view(config, 0) == AugmentConfig(size=24, blur=1.0)
    assert of_view(config, 1) == AugmentConfig(size=24, blur=0.1, scale=[0.5, 1])
    assert of_views(config, 3) == (of_view(config, 0), of_view(config, 1), of_view(config, 0))
    check(config)


def test_a_view_that_the_method_does_not_take_is_refused():
    config = AugmentConfig(views={2: {"blur": 0.1}})
    assert len(of_views(config, 3)) == 3
    with pytest.raises(ValueError) as caught:
        of_views(config, 2)
    assert str(caught.value) == "augment.views.2: the method takes 2 views, numbered from 0"


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({1: {"blurr": 0.1}}, "1.blurr: unknown key · did you mean 'blur'?"),
        ({0: {"x": 1}}, "0.x: unknown key · known: scale, ratio, flip, jitter, brightness, contr"),
        ({0: {3: 1}}, "0.3: unknown key · known: scale"),
        ({1: {"blur": 1.1}}, "1.blur: expected a probability, got 1.1"),
        ({1: {"blur": "much"}}, "1.blur: expected a number, got 'much'"),
        ({1: {"blur": True}}, "1.blur: expected a number, got True"),
        ({1: {"blur": None}}, "1.blur: expected a number, got None"),
        ({1: {"scale": 0.5}}, "1.scale: expected a list of numbers, got 0.5"),
        ({1: {"scale": [0.5, "x"]}}, "1.scale: expected a list of numbers, got [0.5, 'x']"),
        ({1: {"scale": [0.5, 1.5]}}, "1.scale and augment.views.1.eval_scale: at most 1"),
        ({1: {"hue": -0.1}}, "1.hue: expected at least 0, got -0.1"),
        ({1: {"contrast_about": 3}}, "1.contrast_about: expected a word, got 3"),
        ({1: {"contrast_about": "x"}}, "1.contrast_about: expected grey or clip, got 'x'"),
        *[
            ({1: {name: 1}}, f"1.{name}: is the same in all views · set augment.{name}")
            for name in ("size", "mean", "std", "consistent", "views", "eval_scale", "eval_crops")
        ],
        ({1: 3}, "1: expected a group of keys, got 3"),
        ({-1: {}}, "-1: views are numbered from 0"),
    ],
)
def test_what_a_view_cannot_have_is_refused(views, message):
    with pytest.raises(ValueError) as caught:
        check(AugmentConfig(views=views))
    assert str(caught.value).startswith(f"augment.views.{message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("flip", 1.5, "augment.flip: expected a probability, got 1.5"),
        ("scale", [0.5], r"augment.scale: expected \[low, high\] with 0 < low <= high"),
        ("ratio", [2.0, 1.0], r"augment.ratio: expected \[low, high\] with 0 < low <= high"),
        ("eval_scale", 1.2, "at most 1, the whole picture"),
        ("eval_crops", 2, "augment.eval_crops: expected 1, 3, 5 or 10, got 2"),
        ("saturation", -0.5, "augment.saturation: expected at least 0, got -0.5"),
        ("contrast_about", "mean", "augment.contrast_about: expected grey or clip, got 'mean'"),
        ("size", 0, "augment.size: expected at least 1 pixel, got 0"),
        ("mean", [0.5], r"augment.mean: expected one each of red, green, blue, got \[0.5\]"),
        ("std", [1.0, 1.0, 0.0], r"augment.std: expected numbers above 0, got \[1.0, 1.0, 0.0\]"),
    ],
)
def test_values_out_of_range_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        check(AugmentConfig(**{field: value}))
