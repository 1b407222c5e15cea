"""Frame n by random access is frame n by linear decoding, told by a number drawn in the pixels."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import decode
from pipeline.container import decode_linear, open_video
from pipeline.decode import decode_frames, read_bytes
from pipeline.errors import BadVideo
from pipeline.manifest import Video
from pipeline.probe import probe
from tests.videos import marked_corner, read_number, write_video

FRAMES = 90
KINDS = {
    "h264_long_gop.mp4": {"gop": 250},
    "h264_short_gop.mp4": {"gop": 12},
    "h264_b_frames.mp4": {"gop": 30, "b_frames": 3},
    "h264_open_gop.mp4": {
        "gop": 15,
        "b_frames": 3,
        "options": {"x264-params": "open-gop=1:scenecut=0", "preset": "medium"},
    },
    "h264_intra_only.mp4": {"gop": 1},
    "h264.mkv": {"gop": 20, "b_frames": 2},
    "h264.ts": {"gop": 20, "b_frames": 2},
    "h264_ntsc.mp4": {"gop": 20, "fps": Fraction(30000, 1001)},
    "mpeg4.avi": {"codec": "mpeg4", "gop": 12},
    "mpeg4_b_frames.avi": {"codec": "mpeg4", "gop": 12, "b_frames": 2},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 30},
    "hevc.mp4": {"codec": "libx265", "gop": 20},
    "hevc_b_frames.mp4": {"codec": "libx265", "gop": 20, "b_frames": 3},
    "vfr.mkv": {"gop": 20, "times": [int(n * 100 + 40 * np.sin(n)) + 40 for n in range(FRAMES)]},
}


def described(path) -> Video:
    found = {k: v for k, v in asdict(probe(path)).items() if k in Video.__dataclass_fields__}
    return Video(key=path.stem, path=path, offset=0, **found)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    paths = {n: write_video(folder / n, frames=FRAMES, **kind) for n, kind in KINDS.items()}
    return {name: described(path) for name, path in paths.items()}


def numbers(video, frames) -> list[int]:
    pictures = decode_frames(video, np.array(sorted(frames)), timeout_seconds=30)
    return [read_number(picture) for picture in pictures]


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_frame_by_random_access_is_the_right_one(kind, videos):
    video = videos[kind]
    assert video.frames == FRAMES
    assert [numbers(video, [n])[0] for n in range(0, FRAMES, 7)] == list(range(0, FRAMES, 7))
    assert numbers(video, range(FRAMES)) == list(range(FRAMES))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(frames=st.sets(st.integers(0, FRAMES - 1), min_size=1, max_size=20))
def test_any_set_of_frames_is_exact(kind, frames, videos):
    assert numbers(videos[kind], frames) == sorted(frames)


@pytest.mark.parametrize("kind", ["h264_short_gop.mp4", "h264_open_gop.mp4", "hevc.mp4"])
def test_random_access_gives_the_very_pixels_of_linear_decoding(kind, videos):
    video = videos[kind]
    with open_video(video.path) as container:
        linear = [frame.to_ndarray(format="rgb24") for _, frame in decode_linear(container)]
    for n in (0, 31, 45, 46, 89):
        picture = decode_frames(video, np.array([n]), timeout_seconds=30)[0]
        assert np.array_equal(picture, linear[n])


def test_short_gops_are_reached_by_seeking_alone(videos, monkeypatch):
    def never(*_):
        raise AssertionError("decoded from the start")

    monkeypatch.setattr(decode, "decode_linear", never)
    assert numbers(videos["h264_short_gop.mp4"], [80, 84]) == [80, 84]
    assert numbers(videos["h264_open_gop.mp4"], range(60, 75)) == list(range(60, 75))


def test_a_seek_that_lands_wrong_is_not_believed(videos):
    video = videos["h264_short_gop.mp4"]
    lying = {"start_pts": video.start_pts + 1000, "fps": Fraction(7)}
    fields = {name: getattr(video, name) for name in Video.__dataclass_fields__} | lying
    assert decode_frames(Video(**fields), np.array([70]), timeout_seconds=30).shape == (
        1,
        64,
        64,
        3,
    )


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_videos_stand_upright(tmp_path, rotation):
    stored = lambda n: np.rot90(marked_corner(64, 48), k=rotation // 90)  # noqa: E731
    size = (48, 64) if rotation != 180 else (64, 48)
    path = write_video(tmp_path / "r.mp4", frames=4, size=size, rotation=rotation, pixels=stored)
    picture = decode_frames(described(path), np.array([2]), timeout_seconds=30)[0]
    assert picture.shape == (48, 64, 3)
    assert picture[4:20, 4:28].mean() > 230 and picture[28:, 36:].mean() < 25


def test_a_byte_range_inside_another_file_is_a_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=20, gop=5)
    content = path.read_bytes()
    (tmp_path / "shard.bin").write_bytes(b"x" * 777 + content + b"y" * 99)
    video = described(path)
    fields = {name: getattr(video, name) for name in Video.__dataclass_fields__}
    fields |= {"path": tmp_path / "shard.bin", "offset": 777}
    assert numbers(Video(**fields), [3, 17]) == [3, 17]
    assert read_bytes(Video(**fields)).tobytes() == content


def test_a_video_that_has_shrunk_names_the_frame(tmp_path):
    path = write_video(tmp_path / "cut.mkv", frames=60, gop=12)
    video = described(path)
    path.write_bytes(path.read_bytes()[: video.size // 2])
    with pytest.raises(BadVideo, match=r"error\[E-TRUNCATED\]: frame 59 of 60 does not decode · "):
        decode_frames(video, np.array([59]), timeout_seconds=30)
    with pytest.raises(BadVideo, match=r"E-TRUNCATED.*of .* bytes are there"):
        read_bytes(video)


def test_a_video_that_has_gone_is_named(tmp_path):
    path = write_video(tmp_path / "gone.mp4", frames=4)
    video = described(path)
    path.unlink()
    with pytest.raises(BadVideo, match=r"gone\.mp4"):
        decode_frames(video, np.array([0]), timeout_seconds=30)


def test_slow_decoding_is_cut_off(videos):
    with pytest.raises(
        BadVideo, match=r"error\[E-TIMEOUT\]: decoding took more than 0 s · .*\.mp4"
    ):
        decode_frames(videos["h264_long_gop.mp4"], np.array([50]), timeout_seconds=0)
