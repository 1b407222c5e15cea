import pickle
from dataclasses import replace

import numpy as np
import pytest

from pipeline.clip import ClipConfig, clip_at, uniform_plan
from pipeline.decode import decode_frames
from pipeline.manifest import Manifest, write_manifest
from pipeline.windows import Windows, one_random, sliding, uniform

CLIP = ClipConfig(frames=4, stride=3)  # spans 10 frames; the videos have 12 to 21


@pytest.fixture
def manifest(tiny_data) -> Manifest:
    return Manifest.read(tiny_data)


def starts_of(windows: Windows, row: int) -> list[int]:
    return windows.start_frame[windows.owner == row].tolist()


def test_windows_slide_as_long_as_they_fit(manifest):
    windows = sliding(manifest, CLIP, step=4)
    assert [starts_of(windows, row) for row in (0, 3, 4, 8, 9)] == [
        [0], [0, 4], [0, 4], [0, 4, 8], [0, 4, 8],
    ]  # fmt: skip
    assert len(windows) == len(windows.owner) == sum(len(starts_of(windows, n)) for n in range(10))


def test_uniform_windows_are_the_clips_of_the_uniform_plan(manifest):
    windows = uniform(manifest, CLIP, 3)
    for row in range(10):
        expected = uniform_plan(manifest[row].frames, CLIP, 3).starts
        assert starts_of(windows, row) == expected.tolist()


def test_a_window_is_a_row_of_its_own(manifest):
    windows = sliding(manifest, CLIP, step=4)
    at = int(np.flatnonzero(windows.owner == 8)[1])
    video, whole = windows[at], manifest[8]
    assert (video.key, video.path, video.label) == (whole.key, whole.path, whole.label)
    assert (video.first_frame, video.frames) == (4, 10)
    plan = uniform_plan(video.frames, CLIP, 1)
    shown = decode_frames(video, plan.frames, timeout_seconds=30)
    expected = decode_frames(whole, clip_at(4, CLIP, whole.frames), timeout_seconds=30)
    assert np.array_equal(shown, expected)


def test_windows_of_a_segment_count_from_its_first_frame(manifest, tmp_path):
    segment = replace(manifest[9], first_frame=5, frames=16)
    path = tmp_path / "segment.parquet"
    written = write_manifest(path, [segment], classes=manifest.classes, options={})
    windows = sliding(written, CLIP, step=4)
    assert windows.start_frame.tolist() == [0, 4]
    assert [windows[n].first_frame for n in range(2)] == [5, 9]


def test_a_video_shorter_than_a_window_is_one(manifest):
    long = ClipConfig(frames=40, stride=1)
    for windows in (sliding(manifest, long, 20), one_random(manifest, long, seed=3)):
        assert windows.owner.tolist() == list(range(10))
        assert [windows[row].frames for row in range(10)] == list(range(12, 22))


def test_random_windows_follow_from_the_seed(manifest):
    one, same, other = (one_random(manifest, CLIP, seed).start_frame for seed in (1, 1, 2))
    assert one.tolist() == same.tolist() != other.tolist()
    many = np.array([one_random(manifest, CLIP, seed).start_frame[9] for seed in range(400)])
    assert np.bincount(many, minlength=12).tolist()[:12].count(0) == 0 and many.max() == 11


def test_a_worker_process_has_the_same_windows(manifest):
    windows = sliding(manifest, CLIP, step=4)
    again = pickle.loads(pickle.dumps(windows))
    assert [again[n] for n in range(len(again))] == [windows[n] for n in range(len(windows))]
    assert (again.codecs, again.rotated, again.path) == ({"h264"}, False, manifest.path)
