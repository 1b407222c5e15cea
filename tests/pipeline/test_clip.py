from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clip import ClipConfig, ClipPlan, check, training_plan, uniform_plan

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


@pytest.mark.parametrize("name", ["frames", "stride"])
def test_values_that_make_no_clip_are_refused(name):
    with pytest.raises(ValueError, match=f"clip.{name}: expected at least 1, got 0"):
        check(ClipConfig(**{name: 0}))
