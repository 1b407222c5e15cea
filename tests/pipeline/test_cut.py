"""A part of a file shows the very pictures that the whole file shows, and costs its own bytes."""

from __future__ import annotations

import io
from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.augment import AugmentConfig, training_draw
from pipeline.clip import ClipPlan
from pipeline.container import video_stream
from pipeline.cut import WHOLE_BYTES, cut
from pipeline.decode import decode_pictures, read_bytes
from pipeline.errors import BadVideo
from pipeline.graph import GraphSpec, Lane
from pipeline.manifest import Video
from pipeline.probe import probe
from pipeline.render import picture
from pipeline.sample import clip_tracks
from tests.videos import OPEN_GOP, cut_start_by_edit_list, write_video

FRAMES, GOP = 72, 12
OPEN_HEVC = {"x265-params": "open-gop=1:scenecut=0:log-level=none:pools=1"}
CUT = {
    "h264.mp4": {},
    "h264_b_frames.mp4": {"b_frames": 3},
    "h264_open_gop.mp4": {"b_frames": 3, "options": OPEN_GOP | {"preset": "medium"}},
    "h264_sound.mp4": {"audio": True},
    "late_start.mkv": {"times": [100 * n + 9000 for n in range(FRAMES)]},
    "hevc_b_frames.mp4": {"codec": "libx265", "b_frames": 3},
    "hevc_open_gop.mp4": {"codec": "libx265", "b_frames": 3, "options": OPEN_HEVC},
    "vp9.mp4": {"codec": "libvpx-vp9"},
    "mjpeg.mp4": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
}
WHOLE = {
    "vfr.mkv": {"times": [n * 100 + n // 9 * 100 for n in range(FRAMES)]},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "h264.ts": {},
}


def described(path) -> Video:
    return Video.of(probe(path), key=path.stem, path=path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Video]:
    folder = tmp_path_factory.mktemp("cut")
    return {
        name: described(write_video(folder / name, frames=FRAMES, gop=GOP, **kind))
        for name, kind in (CUT | WHOLE).items()
    }


def shown(encoded: np.ndarray) -> list[list[np.ndarray]]:
    """Planes of all frames of a file in memory, in order."""
    with av.open(io.BytesIO(encoded.tobytes())) as container:
        stream = video_stream(container)
        stream.codec_context.thread_count = 1
        frames = [frame for packet in container.demux(stream) for frame in packet.decode()]
        assert not any(frame.is_corrupt for frame in frames)
        return [
            list(picture(frame, width=frame.width, height=frame.height, rotation=0).planes)
            for frame in frames
        ]


def same(video: Video, frames: list[int], part: tuple[np.ndarray, np.ndarray]) -> bool:
    encoded, numbers = part
    pictures, all_shown = (
        decode_pictures(video, np.array(frames), timeout_seconds=30),
        shown(encoded),
    )
    return all(
        np.array_equal(*planes)
        for one, n in zip(pictures, numbers, strict=True)
        for planes in zip(one.planes, all_shown[n], strict=True)
    )


@pytest.mark.parametrize("kind", CUT)
@settings(max_examples=4, deadline=None)
@given(
    start=st.integers(0, FRAMES - 1),
    stride=st.integers(1, 4),
    count=st.integers(1, 6),
    second=st.integers(0, FRAMES - 1),
)
def test_a_part_shows_the_frames_of_the_whole(kind, start, stride, count, second, videos):
    clip = range(start, FRAMES, stride)[:count]
    frames = sorted({*clip, second})
    part = cut(videos[kind], np.array(frames), whole_bytes=0)
    assert same(videos[kind], frames, part)


@pytest.mark.parametrize("kind", CUT)
def test_only_the_run_of_the_key_frame_is_copied(kind, videos):
    """From 36 to 44, and what is stored before it; of MJPEG the two frames alone."""
    video = videos[kind]
    encoded, numbers = cut(video, np.array([40, 44]), whole_bytes=0)
    assert numbers.tolist() == ([0, 1] if video.codec == "mjpeg" else [4, 8])
    assert len(shown(encoded)) <= 9 + 3
    assert len(encoded) < video.size


@pytest.mark.parametrize("kind", ["h264_open_gop.mp4", "hevc_open_gop.mp4"])
def test_two_clips_with_open_gops_are_one_run(kind, videos):
    """A decoder that goes on with an open GOP would look for what is not there."""
    part = cut(videos[kind], np.array([14, 50]), whole_bytes=0)
    assert same(videos[kind], [14, 50], part) and part[1][1] - part[1][0] == 36


def test_two_clips_far_apart_are_two_runs(videos):
    encoded, numbers = cut(videos["h264.mp4"], np.array([2, 3, 65, 66]), whole_bytes=0)
    assert len(shown(encoded)) == 4 + 7 and numbers.tolist() == [2, 3, 4 + 5, 4 + 6]


@pytest.mark.parametrize("kind", WHOLE)
def test_what_cannot_be_cut_goes_whole(kind, videos):
    encoded, numbers = cut(videos[kind], np.array([40, 44]), whole_bytes=0)
    assert np.array_equal(encoded, read_bytes(videos[kind])) and numbers.tolist() == [40, 44]


def test_a_small_file_goes_whole(videos):
    video = videos["h264.mp4"]
    assert video.size <= WHOLE_BYTES
    assert np.array_equal(cut(video, np.array([40]))[0], read_bytes(video))


def test_an_edit_list(tmp_path, videos):
    """Frame 0 stands amid a GOP; behind the next key frame nothing is hidden, and it is cut."""
    path = cut_start_by_edit_list(videos["h264_b_frames.mp4"].path, tmp_path / "cut.mp4", frames=15)
    video = described(path)
    for frames in ([0, 3], [5, 20], [30, 33]):
        assert same(video, frames, cut(video, np.array(frames), whole_bytes=0))


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libx264"])
def test_an_index_that_calls_every_frame_a_key_frame(tmp_path, codec):
    path = write_video(tmp_path / "a.mp4", frames=40, gop=GOP, codec=codec)
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    video = described(path)
    assert same(video, [18, 20], cut(video, np.array([18, 20]), whole_bytes=0))


def test_a_segment_and_a_byte_range(tmp_path, videos):
    video = videos["h264_b_frames.mp4"]
    (tmp_path / "shard").write_bytes(b"x" * 99 + video.path.read_bytes() + b"y" * 99)
    inside = replace(video, path=tmp_path / "shard", offset=99, first_frame=30, frames=42)
    part = cut(inside, np.array([10, 12]), whole_bytes=0)
    assert part[0].size < video.size and same(video, [40, 42], part)


def test_a_file_that_has_gone_or_shrunk_is_named(tmp_path):
    video = described(write_video(tmp_path / "gone.mp4", frames=40, gop=GOP))
    video.path.write_bytes(video.path.read_bytes()[: video.size // 2])
    with pytest.raises(BadVideo, match=r"E-TRUNCATED.*bytes are there"):
        cut(video, np.array([30]), whole_bytes=0)
    video.path.unlink()
    with pytest.raises(BadVideo, match=r"E-MISSING.*gone\.mp4"):
        cut(video, np.array([30]), whole_bytes=0)


@pytest.mark.parametrize("kind", ["vp9.mp4", "mjpeg.mp4"])
def test_a_graph_decodes_a_part_as_the_whole(kind, videos):
    """As on a GPU, which takes frames by their numbers; DALI's CPU build knows these codecs."""
    video, plan = videos[kind], ClipPlan.of([np.array([40, 42, 44]), np.array([3, 5, 7])])
    augment, rng = AugmentConfig(size=16, blur=0.0), np.random.default_rng(0)
    draws = [[training_draw(64, 64, augment, rng)] for _ in range(2)]
    encoded, numbers = cut(video, plan.frames, whole_bytes=0)
    part = replace(video, first_frame=0), replace(plan, frames=numbers)
    views = []
    for file, (row, clips) in ((read_bytes(video), (video, plan)), (encoded, part)):
        lane = Lane(GraphSpec("nvdec", "cpu", (augment,) * 2, True, False, 1, 1, 1))
        lane.submit(clip_tracks(file, row, clips, list(plan.views), draws))
        views.append(lane.collect()[0])
    assert encoded.size < video.size
    assert all((ours == theirs).all() for ours, theirs in zip(*views, strict=True))
