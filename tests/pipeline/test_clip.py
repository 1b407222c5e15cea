from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clip import (
    ClipConfig,
    ClipPlan,
    check,
    check_views,
    frames_of_segments,
    interval_starts,
    segment_starts,
    segments,
    span,
    training_plan,
    uniform_plan,
)

shapes = st.tuples(st.integers(1, 400), st.integers(1, 40), st.integers(1, 8))
samplings = st.sampled_from(["same", "random"])


def shown(plan: ClipPlan) -> list[list[int]]:
    return [plan.frames[rows].tolist() for rows in plan.views]


@given(shape=shapes, sampling=samplings, views=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_plans_decode_each_frame_once_and_stay_in_the_video(shape, sampling, views, seed):
    video_frames, frames, stride = shape
    config = ClipConfig(frames, stride, sampling)
    plan = training_plan(video_frames, config, views, np.random.default_rng(seed))
    assert plan.frames.tolist() == sorted(set(plan.frames.tolist()))
    assert plan.frames.min() >= 0 and plan.frames.max() < video_frames
    assert {f for clip in shown(plan) for f in clip} == set(plan.frames.tolist())
    for clip in shown(plan):
        steps = np.diff(clip) % video_frames
        assert len(clip) == frames
        assert (steps == stride % video_frames).all()
        if (frames - 1) * stride < video_frames:
            assert clip == list(range(clip[0], clip[0] + frames * stride, stride))


@given(shape=shapes, seed=st.integers(0, 2**32))
def test_views_of_the_same_clip_are_equal(shape, seed):
    config = ClipConfig(shape[1], shape[2], "same")
    plan = training_plan(shape[0], config, 2, np.random.default_rng(seed))
    assert shown(plan)[0] == shown(plan)[1]


def test_random_clips_start_everywhere_with_equal_chance():
    config, rng = ClipConfig(4, 2, "random"), np.random.default_rng(0)
    starts = [shown(training_plan(16, config, 1, rng))[0][0] for _ in range(20_000)]
    counts = np.bincount(starts)
    assert len(counts) == 10  # 16 frames - span of 7 + 1
    # chi-square with 9 degrees of freedom exceeds 27.9 once in a thousand draws
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9


def test_uniform_clips_reach_from_the_first_to_the_last_frame():
    clips = shown(uniform_plan(100, ClipConfig(8, 2), 5))
    assert clips[0][0] == 0 and clips[-1][-1] == 99
    assert np.ptp(np.diff([clip[0] for clip in clips])) <= 1
    assert shown(uniform_plan(99, ClipConfig(9, 1), 1)) == [list(range(45, 54))]


def test_a_short_video_is_looped():
    assert shown(uniform_plan(3, ClipConfig(8, 1), 1)) == [[0, 1, 2, 0, 1, 2, 0, 1]]


# Intervals


def starts_of(plan: ClipPlan) -> list[int]:
    return [clip[0] for clip in shown(plan)]


def drawn_starts(starts, video_frames: int, config: ClipConfig, count: int) -> np.ndarray:
    """[count, views] starts, drawn one after the other."""
    rng = np.random.default_rng(0)
    return np.array([starts(video_frames, config, rng) for _ in range(count)])


long_enough = st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(0, 300)).map(
    lambda shape: (*shape[:2], (shape[0] - 1) * shape[1] + 1 + shape[2])
)


@given(
    shape=long_enough,
    interval=st.sampled_from(["decreasing", "uniform", "increasing"]),
    power=st.floats(1e-3, 50),
    seed=st.integers(0, 2**32),
)
def test_both_clips_of_a_pair_fit(shape, interval, power, seed):
    frames, stride, video_frames = shape
    config = ClipConfig(frames, stride, "interval", interval, power)
    plan = training_plan(video_frames, config, 2, np.random.default_rng(seed))
    for clip in shown(plan):
        assert clip == list(range(clip[0], clip[0] + frames * stride, stride))
        assert clip[-1] < video_frames


@pytest.mark.parametrize("shape", [(4, 2, 6), (16, 2, 30), (8, 1, 1)])
def test_clips_of_a_short_video_start_anywhere_and_loop(shape):
    frames, stride, video_frames = shape
    config = ClipConfig(frames, stride, "interval")
    starts = drawn_starts(interval_starts, video_frames, config, 4000)
    assert starts.min() == 0 and starts.max() == video_frames - 1
    cells = np.bincount(starts[:, 0] * video_frames + starts[:, 1], minlength=video_frames**2)
    expected = 4000 / video_frames**2
    # The Wilson-Hilferty bound that chi-square exceeds once in a thousand draws
    freedom = max(1, video_frames**2 - 1)
    bound = freedom * (1 - 2 / (9 * freedom) + 3.09 * np.sqrt(2 / (9 * freedom))) ** 3
    assert ((cells - expected) ** 2 / expected).sum() < bound


def test_the_first_video_that_fits_has_one_pair():
    config = ClipConfig(4, 2, "interval")
    assert (drawn_starts(interval_starts, 7, config, 100) == 0).all()
    assert set(drawn_starts(interval_starts, 6, config, 100).ravel()) == set(range(6))


def test_either_clip_of_a_pair_is_the_earlier_and_the_earlier_is_uniform():
    config = ClipConfig(4, 1, "interval")
    starts = drawn_starts(interval_starts, 103, config, 20_000)
    apart = starts[:, 1] - starts[:, 0]
    forward, backward = (apart > 0).sum(), (apart < 0).sum()
    assert abs(forward - backward) < 4 * np.sqrt(forward + backward)
    # Each distance leaves M - k places, of which one is the first and one the last: 2 / M in all.
    for at_an_end in (starts.min(axis=1) == 0, starts.max(axis=1) == 99):
        assert abs(at_an_end.sum() - 400) < 4 * 20
    near = starts[np.abs(apart) == 10].min(axis=1)
    assert near.min() < 5 and near.max() > 84  # 0 to 100 - 10 - 1
    assert abs(near.mean() - 44.5) < 4 * 26 / np.sqrt(len(near))  # 90 places: deviation 26


def test_clips_of_a_five_minute_video_overlap_in_22_percent():
    """300 frames, 16 frames of stride 2: M = 270, 1 - (1 - 32 / 270)^2 = 0.223."""
    starts = drawn_starts(interval_starts, 300, ClipConfig(16, 2, "interval"), 20_000)
    overlap = (np.abs(np.diff(starts)) < 32).mean()
    assert abs(overlap - 0.223) < 4 * np.sqrt(0.223 * 0.777 / 20_000)


# Segments


@given(
    video_frames=st.integers(1, 400),
    frames=st.integers(1, 20),
    stride=st.integers(1, 4),
    number=st.integers(1, 8),
    seed=st.integers(0, 2**32),
)
def test_segments_give_queries_keys_and_one_query_again(video_frames, frames, stride, number, seed):
    config = ClipConfig(frames, stride, "segments", segments=number)
    plan = training_plan(video_frames, config, 2 * number + 1, np.random.default_rng(seed))
    starts, parts = starts_of(plan), segments(video_frames, number)
    assert plan.starts.tolist() == starts and plan.starts.dtype == np.int64
    span = (frames - 1) * stride + 1
    for (first, end), query, key in zip(
        parts, starts[:number], starts[number : 2 * number], strict=True
    ):
        assert first <= query < end and first <= key < end
        assert (query == key) == (end - first == 1)
        if end - first > span:
            assert max(query, key) + span <= end
    again, ends = shown(plan)[-1], (shown(plan)[0], shown(plan)[number - 1])
    assert again in ends
    if video_frames >= number > 1:
        # What tells a method which query it is.
        assert (starts[-1] != starts[0]) == (again == ends[1])


@given(video_frames=st.integers(1, 400), number=st.integers(1, 12))
def test_segments_are_equal_and_the_last_takes_the_rest(video_frames, number):
    parts = segments(video_frames, number)
    assert len(parts) == number and all(first < end for first, end in parts)
    if video_frames < number:
        assert all(end - first == 1 for first, end in parts)
        assert [first for first, _ in parts] == sorted(first for first, _ in parts)
        assert {first for first, _ in parts} == set(range(video_frames))
        return
    assert [end for _, end in parts[:-1]] == [first for first, _ in parts[1:]]
    assert (parts[0][0], parts[-1][1]) == (0, video_frames)
    assert {end - first for first, end in parts[:-1]} <= {video_frames // number}


def test_pairs_of_frames_in_a_segment_are_all_equally_likely():
    config = ClipConfig(1, 1, "segments", segments=2)
    starts = drawn_starts(segment_starts, 8, config, 12_000)
    cells = np.bincount(starts[:, 0] * 4 + starts[:, 2], minlength=16).reshape(4, 4)
    assert (np.diag(cells) == 0).all()
    apart = cells[~np.eye(4, dtype=bool)]
    # chi-square with 11 degrees of freedom exceeds 31.3 once in a thousand draws
    assert ((apart - 1000) ** 2 / 1000).sum() < 31.3
    coins = (starts[:, 4] == starts[:, 0]).mean()
    assert abs(coins - 0.5) < 4 * 0.5 / np.sqrt(12_000)


@pytest.mark.parametrize(
    ("video_frames", "parts"),
    [
        (300, [(0, 100), (100, 200), (200, 300)]),
        (11, [(0, 3), (3, 6), (6, 11)]),
        (3, [(0, 1), (1, 2), (2, 3)]),
        (2, [(0, 1), (0, 1), (1, 2)]),
        (1, [(0, 1), (0, 1), (0, 1)]),
    ],
)
def test_three_segments(video_frames, parts):
    assert segments(video_frames, 3) == parts


def test_clips_of_short_segments_run_on_into_the_next():
    """Segments of five frames, clips of seven: the last one goes on with the video's beginning."""
    config = ClipConfig(7, 1, "segments")
    clips = [shown(training_plan(15, config, 7, np.random.default_rng(seed))) for seed in range(40)]
    assert {views[0][0] for views in clips} == set(range(5))
    assert {views[2][0] for views in clips} == set(range(10, 15))
    assert all(views[2] == [(views[2][0] + t) % 15 for t in range(7)] for views in clips)


def test_frames_shown_twice_are_decoded_once():
    config = ClipConfig(1, 1, "segments")
    plans = [training_plan(300, config, 7, np.random.default_rng(seed)) for seed in range(20)]
    assert all(len(plan.views) == 7 and len(plan.frames) == 6 for plan in plans)


# What is refused


@pytest.mark.parametrize("name", ["frames", "stride", "segments"])
def test_values_that_make_no_clip_are_refused(name):
    with pytest.raises(ValueError, match=f"clip.{name}: expected at least 1, got 0"):
        check(ClipConfig(**{name: 0}))


@pytest.mark.parametrize("power", [0.0, -1.0, float("nan")])
def test_a_power_that_makes_no_distribution_is_refused(power):
    with pytest.raises(ValueError, match=f"clip.interval_power: expected above 0, got {power}"):
        check(ClipConfig(interval_power=power))


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 4))
def test_the_least_length_gives_every_segment_two_starts_and_no_less_does(number, frames, stride):
    config = ClipConfig(frames, stride, segments=number)

    def fewest_starts(video_frames: int) -> int:
        parts = segments(video_frames, number)
        return min(end - first - span(frames, stride) + 1 for first, end in parts)

    least = frames_of_segments(config)
    assert fewest_starts(least) == 2 > fewest_starts(least - 1)


@pytest.mark.parametrize(
    ("sampling", "views", "message"),
    [
        (
            "interval", 7,
            "clip.sampling: interval makes 2 views, the method takes 7 · use random, or a method "
            "of two views",
        ),
        (
            "segments", 2,
            "clip.segments: 3 make 7 views, 2 S + 1, the method takes 2 · give clip.segments "
            "the number of method.segments, or use another clip.sampling",
        ),
    ],
)  # fmt: skip
def test_a_sampling_of_another_number_of_views_is_refused(sampling, views, message):
    with pytest.raises(ValueError) as caught:
        check_views(ClipConfig(sampling=sampling), views)
    assert str(caught.value) == message
    for sampling, fits in (("interval", 2), ("segments", 7), ("same", 5), ("random", 1)):
        check_views(ClipConfig(sampling=sampling), fits)
