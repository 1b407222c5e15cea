"""Any video in, a video for random access out: the right frames, upright, the same bytes always.

The ffmpeg program is the oracle for pixels, a number drawn in the pixels for frames.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.container import decode_linear, open_video, video_stream
from pipeline.decode import decode_frames
from pipeline.errors import BadVideo
from pipeline.manifest import Video
from pipeline.probe import probe
from pipeline.shards.encoded import Encoded
from pipeline.shards.normalise import (
    SCALER,
    TO_BT709,
    Normaliser,
    Target,
    at_constant_rate,
    output_size,
)
from pipeline.shards.transcode import PRESETS, transcode
from tests.videos import (
    OPEN_GOP,
    cut_start_by_edit_list,
    marked_corner,
    read_number,
    write_packed_avi,
    write_video,
)

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
ENCODING = [name for name, preset in PRESETS.items() if preset.encoder]
FAST, COPY = PRESETS["fast"], PRESETS["copy"]


def described(path: Path, **other) -> Video:
    return Video.of(probe(path), **{"key": path.stem, "path": path, **other})


def saved(encoded: Encoded, path: Path) -> Video:
    """The row of an encoded video, from its own facts, and its bytes on disk."""
    path = path.with_suffix(f".{encoded.suffix}")
    path.write_bytes(encoded.data)
    return Video.of(encoded, key=path.stem, path=path)


def numbers(video: Video, frames=None) -> list[int]:
    frames = np.arange(video.frames) if frames is None else np.array(frames)
    return [read_number(picture) for picture in decode_frames(video, frames, timeout_seconds=30)]


def ffmpeg(*arguments) -> bytes:
    command = [FFMPEG, "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def pictures(path: Path, size: tuple[int, int], chain: str = "null") -> np.ndarray:
    """[T, H, W, 3] int of a file as the ffmpeg program shows it, upright, through `chain`."""
    arguments = ("-i", path, "-an", "-vf", f"{chain},format=rgb24", "-fps_mode", "passthrough")
    raw = np.frombuffer(ffmpeg(*arguments, "-f", "rawvideo", "-"), np.uint8)
    return raw.reshape(-1, size[1], size[0], 3).astype(int)


def kept_packets(path: Path) -> list[tuple[int, bool]]:
    with open_video(path) as container:
        packets = container.demux(video_stream(container))
        return sorted((p.pts, p.is_keyframe) for p in packets if p.size and not p.is_discard)


# --- the right frames ---


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Video:
    """75 numbered frames, GOP 250, B-frames, with sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    size = (160, 112)
    return described(write_video(path, frames=75, size=size, gop=250, b_frames=2, audio=True))


@pytest.fixture(scope="module")
def by_preset(clip, tmp_path_factory) -> dict[str, Video]:
    folder = tmp_path_factory.mktemp("presets")
    return {name: saved(transcode(clip, p), folder / name) for name, p in PRESETS.items()}


@pytest.mark.parametrize("name", PRESETS)
def test_the_facts_are_those_the_prober_finds(name, by_preset):
    video = by_preset[name]
    assert video == described(video.path)
    assert (video.frames, video.fps, video.vfr, video.start_pts) == (75, 25, False, 0)


@pytest.mark.parametrize("name", PRESETS)
def test_random_frames_are_the_frames_of_the_source(name, by_preset):
    @settings(max_examples=15, deadline=None)
    @given(frames=st.sets(st.integers(0, 74), min_size=1, max_size=16))
    def exact(frames):
        assert numbers(by_preset[name], sorted(frames)) == sorted(frames)

    assert numbers(by_preset[name]) == list(range(75))
    exact()


@pytest.mark.parametrize("name", PRESETS)
def test_random_access_gives_the_very_pixels_of_linear_decoding(name, by_preset):
    video = by_preset[name]
    with open_video(video.path) as container:
        linear = [frame.to_ndarray(format="rgb24") for _, frame in decode_linear(container)]
    for n in (0, 13, 40, 74):
        picture = decode_frames(video, np.array([n]), timeout_seconds=30)[0]
        assert np.array_equal(picture, linear[n])


@pytest.mark.parametrize(
    ("name", "codec", "short", "gop"),
    [
        ("fast", "h264", 112, 12),
        ("small", "h264", 112, 12),
        ("nvdec", "hevc", 112, 16),
        ("mjpeg", "mjpeg", 112, 1),
    ],
)
def test_key_frames_stand_at_a_fixed_distance(name, codec, short, gop, by_preset):
    video = by_preset[name]
    assert (video.codec, min(video.width, video.height)) == (codec, short)
    assert video.keyframe_distance_frames == gop
    packets = kept_packets(video.path)
    assert [n for n, (_, is_key) in enumerate(packets) if is_key] == list(range(0, 75, gop))
    with open_video(video.path) as container:
        times = [(p.pts, p.dts) for p in container.demux(video_stream(container)) if p.size]
    assert all(shown == decoded for shown, decoded in times)  # no B-frames
    assert [shown for shown, _ in times] == sorted(shown for shown, _ in times)


@pytest.mark.parametrize("name", PRESETS)
def test_one_stream_of_video_with_the_index_in_front_and_no_tags(name, by_preset):
    path = by_preset[name].path
    data = path.read_bytes()
    assert data[4:8] == b"ftyp" and data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert not {"encoder", "creation_time"} & container.metadata.keys()
        assert "encoder" not in container.streams[0].metadata


@pytest.mark.parametrize("name", ENCODING)
def test_encoded_pictures_are_8_bit_420_in_square_pixels(name, by_preset):
    with av.open(str(by_preset[name].path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == ("yuvj420p" if name == "mjpeg" else "yuv420p")
        assert stream.sample_aspect_ratio == 1


def test_scene_cuts_get_no_key_frames_of_their_own(tmp_path):
    def cut(n):
        return np.full((64, 64, 3), 255 * (n // 5 % 2), np.uint8)

    path = write_video(tmp_path / "cuts.mp4", frames=48, gop=5, pixels=cut)
    video = saved(transcode(described(path), FAST), tmp_path / "out")
    packets = kept_packets(video.path)
    assert [n for n, (_, is_key) in enumerate(packets) if is_key] == [0, 12, 24, 36]


# --- the same bytes ---

AGAIN = """
import hashlib, pickle, sys
from pipeline.shards.transcode import PRESETS, transcode
video = pickle.load(sys.stdin.buffer)
for preset in PRESETS.values():
    print(hashlib.sha256(transcode(video, preset).data).hexdigest())
"""


def test_every_run_in_every_process_gives_the_same_bytes(clip, by_preset):
    import pickle

    here = [hashlib.sha256(v.path.read_bytes()).hexdigest() for v in by_preset.values()]
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", AGAIN],
            input=pickle.dumps(clip),
            capture_output=True,
            cwd=Path(__file__).parents[3],
            env={"PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo", "LC_ALL": "C", "PATH": ""},
            timeout=120,
        )
        assert done.stdout.decode().split() == here, done.stderr.decode()


# --- parts of files ---


def test_a_byte_range_inside_a_tar_is_a_video(clip, by_preset, tmp_path):
    (tmp_path / "shard.tar").write_bytes(b"x" * 777 + clip.path.read_bytes() + b"y" * 99)
    inside = replace(clip, path=tmp_path / "shard.tar", offset=777)
    for name in ("small", "copy"):
        assert transcode(inside, PRESETS[name]).data == by_preset[name].path.read_bytes()


@pytest.mark.parametrize("gop", [10, 250])
def test_a_segment_holds_its_own_frames(gop, tmp_path):
    whole = described(write_video(tmp_path / "whole.mp4", frames=90, gop=gop, b_frames=2))
    for first, frames in ((0, 7), (31, 20), (70, 20)):
        expected = list(range(first, first + frames))
        row = replace(whole, first_frame=first, frames=frames)
        by_row = transcode(row, FAST)
        assert numbers(saved(by_row, tmp_path / "segment")) == expected
        assert transcode(whole, FAST, first_frame=first, frames=frames) == by_row


def test_a_segment_after_a_seek_that_lies_is_decoded_from_the_start(tmp_path):
    whole = described(write_video(tmp_path / "whole.mp4", frames=90, gop=10))
    lying = replace(whole, start_pts=whole.start_pts + 1000, fps=Fraction(7))
    segment = saved(transcode(lying, FAST, first_frame=60, frames=9), tmp_path / "segment")
    assert numbers(segment) == list(range(60, 69)) and segment.fps == 7


def test_copying_a_segment_is_refused(clip):
    with pytest.raises(
        BadVideo, match=r"E-FORMAT\]: frames 10 to 19 are a part of .* preset that re-encodes"
    ):
        transcode(clip, COPY, first_frame=10, frames=10)
    with pytest.raises(BadVideo, match=r"frames 0 to 19 are a part of their file"):
        transcode(replace(clip, frames=20), COPY)


# --- the copy ---

COPIED = {
    "open_gop.mp4": {"gop": 12, "b_frames": 3, "options": OPEN_GOP},
    "turned.mp4": {"rotation": 90},
    "late.ts": {"gop": 20, "b_frames": 2},
    "h264.mkv": {"gop": 20, "b_frames": 2},
    "asp.avi": {"codec": "mpeg4", "gop": 12, "b_frames": 2, "size": (160, 112)},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 30},
    "vp8.webm": {"codec": "libvpx", "gop": 30, "options": {"auto-alt-ref": "1", "crf": "20"}},
    "hevc.mp4": {"codec": "libx265", "gop": 20, "b_frames": 3},
    "vfr.mkv": {"gop": 20, "times": [100 * n + 40 * (n % 3) for n in range(50)]},
    "ntsc.mp4": {"fps": Fraction(30000, 1001), "audio": True},
    "mpeg2.mpg": {"codec": "mpeg2video", "gop": 12},
    "edited.mp4": {},
    "packed.avi": {},
}


@pytest.mark.parametrize("kind", COPIED)
def test_a_copy_has_the_very_frames(kind, tmp_path):
    path = tmp_path / kind
    if kind == "packed.avi":
        write_packed_avi(path, frames=50)
    elif kind == "edited.mp4":
        source = write_video(tmp_path / "source.mp4", frames=50, gop=25, b_frames=2)
        cut_start_by_edit_list(source, path, frames=8)
    else:
        write_video(path, frames=50, **COPIED[kind])
    video = described(path)
    stale = replace(video, crc32=0)  # of a copy is told what was read
    copy = saved(transcode(stale, COPY), tmp_path / "copy")
    found = described(copy.path)
    assert (found.frames, found.rotation, found.vfr) == (copy.frames, video.rotation, copy.vfr)
    assert found.crc32 == copy.crc32
    frames = np.arange(video.frames)
    before = decode_frames(video, frames, timeout_seconds=30)
    assert np.array_equal(decode_frames(copy, frames, timeout_seconds=30), before)
    remuxed = kind not in ("vp8.webm", "packed.avi", "mpeg2.mpg")
    assert (copy.path.suffix == ".mp4") == remuxed == (copy.crc32 != video.crc32)
    assert copy.start_pts == 0 or not remuxed


# --- sizes ---


@pytest.mark.parametrize(
    ("size", "aspect", "short", "expected"),
    [
        ((1280, 720), 1, 256, (456, 256)),  # 455.1
        ((720, 1280), 1, 256, (256, 456)),
        ((1280, 720), 1, 128, (228, 128)),
        ((320, 240), 1, 256, (320, 240)),  # never enlarged
        ((321, 241), 1, 256, (320, 240)),
        ((720, 576), Fraction(16, 15), 256, (342, 256)),  # 4:3 PAL is 768 x 576: 341.3
        ((1440, 1080), Fraction(4, 3), 256, (456, 256)),
        ((352, 480), Fraction(20, 11), 256, (342, 256)),
        ((200, 300), Fraction(1, 2), 256, (100, 300)),
        ((17, 16), 1, 256, (16, 16)),
    ],
)
def test_output_sizes(size, aspect, short, expected):
    assert output_size(*size, pixel_aspect=Fraction(aspect), short_side=short) == expected


@settings(deadline=None)
@given(
    st.integers(16, 5000),
    st.integers(16, 5000),
    st.fractions(Fraction(1, 4), 4),
    st.integers(9, 300),
)
def test_sizes_are_even_not_enlarged_and_of_the_same_shape(width, height, aspect, half):
    new = output_size(width, height, pixel_aspect=aspect, short_side=2 * half)
    shown = (float(width * aspect), float(height))
    assert all(side % 2 == 0 and side >= 2 for side in new)
    scale = min(1.0, 2 * half / min(shown))
    for side, length in zip(new, shown, strict=True):
        assert side <= max(2, length) and abs(side - scale * length) <= 2
    if scale < 1:
        assert min(new) == 2 * half


@pytest.mark.parametrize("name", ENCODING)
@pytest.mark.parametrize("size", [(16, 16), (2000, 64)])
def test_extreme_sizes_encode(name, size, tmp_path):
    path = write_video(tmp_path / "v.mp4", frames=20, size=size)
    video = saved(transcode(described(path), PRESETS[name]), tmp_path / "out")
    assert (video.width, video.height, video.frames) == (*size, 20)


def test_pixels_of_absurd_shape_are_refused(tmp_path):
    path = tmp_path / "wide.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=320x64:d=0.2", "-vf", "setsar=60", path)
    with pytest.raises(BadVideo, match=r"E-TOOBIG\]: is 19200x64 in square pixels"):
        transcode(described(path), FAST)


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(299_999, 10_007), 1000])
def test_odd_frame_rates_are_kept(fps, tmp_path):
    path = write_video(tmp_path / "v.mp4", frames=30, fps=fps)
    video = saved(transcode(replace(described(path), fps=Fraction(fps)), FAST), tmp_path / "out")
    assert (video.fps, video.vfr) == (fps, False) and video == described(video.path)
    assert numbers(video, [3, 13, 29]) == [3, 13, 29]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(rotation, tmp_path):
    stored = lambda n: np.rot90(marked_corner(96, 48), k=rotation // 90)  # noqa: E731
    size = (48, 96) if rotation != 180 else (96, 48)
    path = write_video(tmp_path / "r.mp4", frames=4, size=size, rotation=rotation, pixels=stored)
    video = saved(transcode(described(path), FAST), tmp_path / "out")
    assert (video.rotation, video.width, video.height) == (0, 96, 48)
    picture = decode_frames(video, np.array([2]), timeout_seconds=30)[0]
    assert picture[4:20, 4:44].mean() > 230 and picture[28:, 52:].mean() < 25


def test_a_stream_that_changes_its_size_comes_out_in_one(tmp_path):
    halves = [
        write_video(tmp_path / f"{n}.ts", frames=20, size=size, gop=20)
        for n, size in enumerate([(96, 64), (192, 128)])
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(half.read_bytes() for half in halves))
    video = saved(transcode(described(path), FAST), tmp_path / "out")
    assert (video.frames, video.width, video.height) == (40, 96, 64)
    assert numbers(video, range(40)) == [*range(20), *range(20)]


# --- times ---


def held(times: list[int | None], fps=Fraction(25), time_base=Fraction(1, 1000)) -> list[int]:
    """Which source frame stands at each output time."""
    frames = []
    for n, time in enumerate(times):
        frame = av.VideoFrame(16, 16, "gray")
        frame.pts, frame.time_base, frame.opaque = time, time_base, n
        frames.append(frame)
    shown = at_constant_rate(frames, fps=fps, time_base=time_base)
    return [frame.opaque for frame, count in shown for _ in range(count)]


def test_a_frame_is_held_until_the_next_one_comes():
    assert held([0, 40, 80, 120]) == [0, 1, 2, 3]
    assert held([500, 540, 700, 740]) == [0, 1, 1, 1, 1, 2, 3]
    assert held([0, 10, 40, 41, 80]) == [1, 3, 4]  # the last of several takes the place
    assert held([0, 59, 80]) == [0, 1, 2] and held([0, 60, 80]) == [0, 0, 2]  # half goes up
    assert held([0, 40, 80, 0, 40]) == [0, 1, 2, 3, 4]  # two parts strung together
    assert held([None, None, None]) == [0, 1, 2] and held([0, None, 80]) == [0, 1, 2]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40, unique=True).map(sorted))
def test_held_frames_follow_the_written_rule(times):
    slots = [int(Fraction(time - times[0], 40) + Fraction(1, 2)) for time in times]
    expected = [
        max(n for n, slot in enumerate(slots) if slot <= out) for out in range(slots[-1] + 1)
    ]
    assert held(times) == expected


VARIABLE = [0, 40, 80, 240, 250, 260, 300, 340, 380, 540, 580, 620, 660, 700, 740, 780]


def test_variable_rate_becomes_constant_as_ffmpegs_fps_filter_does_it(tmp_path):
    times = [time * 25 // 10 for time in VARIABLE]  # in 1/2500 s
    path = write_video(tmp_path / "vfr.mkv", frames=len(times), times=times, gop=8)
    source = described(path)
    assert source.vfr and (video := saved(transcode(source, FAST), tmp_path / "out"))
    assert not video.vfr and video.fps == source.fps
    raw = ffmpeg("-i", path, "-vf", f"fps={source.fps}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    truth = np.frombuffer(raw, np.uint8).reshape(-1, 64, 64, 3)
    expected = [read_number(picture) for picture in truth]
    assert numbers(video) == expected[: video.frames] and len(expected) - video.frames in (0, 1)


def test_times_that_give_endless_frames_are_refused(tmp_path):
    times = [100 * n for n in range(20)] + [10_000_000]
    path = write_video(tmp_path / "gap.mkv", frames=21, times=times)
    video = replace(described(path), fps=Fraction(25))
    with pytest.raises(BadVideo, match=r"E-FORMAT\]: at 25 fps its times give over \d+ frames"):
        transcode(video, FAST)


def test_late_first_times_and_edit_lists_begin_at_zero(tmp_path):
    source = write_video(tmp_path / "source.mp4", frames=50, gop=25, b_frames=2)
    edited = cut_start_by_edit_list(source, tmp_path / "edited.mp4", frames=8)
    assert numbers(saved(transcode(described(edited), FAST), tmp_path / "a")) == list(range(8, 50))
    late = described(write_video(tmp_path / "late.ts", frames=40, gop=20, b_frames=2))
    assert late.start_pts > 0
    video = saved(transcode(late, FAST), tmp_path / "b")
    assert (video.start_pts, numbers(video)) == (0, list(range(40)))


# --- damage ---


def test_a_file_that_has_been_cut_is_refused(clip, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.path.read_bytes()[: clip.size // 2])
    for preset in (FAST, COPY):
        with pytest.raises(BadVideo, match=rf"E-TRUNCATED\]: {clip.size // 2} of {clip.size} byt"):
            transcode(replace(clip, path=path), preset)


def test_fewer_frames_than_the_row_says_are_refused(tmp_path):
    video = described(write_video(tmp_path / "v.mkv", frames=40, gop=10))
    with pytest.raises(BadVideo, match=r"E-TRUNCATED\]: 40 of 41 frames · .* index again"):
        transcode(replace(video, frames=41), FAST)


def test_a_file_that_is_gone_or_no_video_is_named(clip, tmp_path):
    with pytest.raises(BadVideo, match=r"E-MISSING\]: no such file · .*gone\.mp4"):
        transcode(replace(clip, path=tmp_path / "gone.mp4"), FAST)
    (tmp_path / "text.mp4").write_bytes(b"x" * clip.size)
    for preset in (FAST, COPY):
        with pytest.raises(BadVideo, match=r"E-CORRUPT\]: .*text\.mp4"):
            transcode(replace(clip, path=tmp_path / "text.mp4"), preset)


def damaged(path: Path, packets: list[int], source: Path, *, intact_bytes: int = 4) -> Path:
    """`source` with the payload of some packets zeroed but for its first bytes."""
    with open_video(source) as container:
        stream = video_stream(container)
        places = [(p.pos, p.size) for p in container.demux(stream) if p.size]
    data = bytearray(source.read_bytes())
    for packet in packets:
        pos, size = places[packet]
        data[pos + intact_bytes : pos + size] = bytes(size - intact_bytes)
    path.write_bytes(data)
    return path


def test_the_place_of_a_lost_frame_is_held_by_the_one_before(tmp_path):
    source = write_video(tmp_path / "source.mp4", frames=96, gop=1)
    video = described(damaged(tmp_path / "v.mp4", [33, 70], source))
    assert numbers(video) == [n for n in range(96) if n not in (33, 70)] and video.vfr
    encoded = saved(transcode(video, FAST), tmp_path / "out")
    assert numbers(encoded) == [{33: 32, 70: 69}.get(n, n) for n in range(96)]


def test_concealed_frames_keep_their_number(tmp_path):
    source = write_video(tmp_path / "source.mp4", frames=96, gop=12, size=(160, 112))
    video = described(damaged(tmp_path / "v.mp4", [35], source, intact_bytes=40))
    encoded = transcode(video, FAST)
    with open_video(video.path) as container:
        assert encoded.frames == video.frames == sum(1 for _ in decode_linear(container))
    assert probe(video.path).damaged_frames > 0


def test_many_damaged_frames_are_refused(tmp_path):
    source = write_video(tmp_path / "source.mp4", frames=96, gop=12)
    row = described(source)
    path = damaged(tmp_path / "v.mp4", list(range(5, 90, 6)), source)
    with pytest.raises(BadVideo, match=r"E-CORRUPT\]: \d+/96 frames damaged"):
        transcode(replace(row, path=path), FAST)


# --- pixels, against the ffmpeg program ---

SMOOTH = "gradients=s=480x352:r=25:d=0.4:n=4:seed=7:speed=0.05:c0=red:c1=green:c2=blue:c3=white"
X264 = "-c:v libx264 -preset veryfast -crf 8 -threads 1 -pix_fmt"
X265 = "-c:v libx265 -preset ultrafast -crf 8 -x265-params log-level=none -pix_fmt"
HDR = (
    "scale=out_color_matrix=bt2020,"
    "setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084:range=tv"
)

# name -> (file suffix, filters on the smooth source, encoder)
STANDARD = {
    "8-bit": ("mp4", "null", f"{X264} yuv420p"),
    "BT.601": ("mp4", "setparams=colorspace=smpte170m", f"{X264} yuv420p"),
    "BT.709": ("mp4", "scale=out_color_matrix=bt709", f"{X264} yuv420p"),
    "full range": ("mp4", "scale=out_range=pc", f"{X264} yuv420p"),
    "10-bit": ("mp4", "null", f"{X264} yuv420p10le"),
    "10-bit HEVC": ("mp4", "null", f"{X265} yuv420p10le"),
    "4:2:2": ("mp4", "null", f"{X264} yuv422p"),
    "4:2:2 10-bit": ("mp4", "null", f"{X264} yuv422p10le"),
    "4:4:4": ("mp4", "null", f"{X264} yuv444p"),
    "grey": ("mp4", "null", f"{X264} gray"),
    "RGB": ("mp4", "null", "-c:v libx264rgb -crf 8 -pix_fmt rgb24"),
    "alpha": ("mov", "null", "-c:v qtrle -pix_fmt argb"),
    "alpha VP9": ("webm", "null", "-c:v libvpx-vp9 -crf 8 -b:v 0 -cpu-used 8 -pix_fmt yuva420p"),
    "odd size": ("mkv", "scale=321:241,setsar=1", "-c:v ffv1 -pix_fmt yuv420p"),
    "wide pixels": ("mp4", "setsar=4/3", f"{X264} yuv420p"),
    "tall pixels": ("mp4", "setsar=8/9", f"{X264} yuv420p"),
    "motion JPEG": ("mov", "null", "-c:v mjpeg -q:v 2 -pix_fmt yuvj422p"),
    "HDR": ("mp4", HDR, f"{X265} yuv420p10le"),
}


def mean_difference(video: Video, source: Path, before: str = "", after: str = "") -> float:
    """Mean absolute difference in 8-bit RGB, over all pixels, channels and frames, between an
    encoded video and its source as the program scales it without encoding; it reads both."""
    size = video.width, video.height
    scaled = f"{before}scale={size[0]}:{size[1]}:flags={SCALER}{after}"
    truth = pictures(source, size, scaled)
    assert len(truth) == video.frames
    return np.abs(truth - pictures(video.path, size)).mean()


@pytest.mark.parametrize("kind", STANDARD)
def test_pixels_are_those_of_the_ffmpeg_program(kind, tmp_path):
    suffix, filters, encoder = STANDARD[kind]
    path = tmp_path / f"source.{suffix}"
    ffmpeg("-f", "lavfi", "-i", SMOOTH, "-vf", filters, *encoder.split(), path)
    video = saved(transcode(described(path), FAST), tmp_path / "out")
    sizes = {"wide pixels": (466, 256), "tall pixels": (310, 256), "odd size": (320, 240)}
    assert (video.width, video.height) == sizes.get(kind, (350, 256))
    after = f":out_color_matrix=bt709:{TO_BT709},format=yuv420p" if kind == "HDR" else ""
    assert mean_difference(video, path, after=after) < 2
    context = open_context(video.path)
    assert (context.pix_fmt, context.color_range) == ("yuv420p", 1)
    assert context.colorspace == {"HDR": 1, "BT.709": 1, "motion JPEG": 5}.get(kind, 6)
    assert (context.color_primaries, context.color_trc) == ((1, 1) if after else (2, 2))


def open_context(path: Path):
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context


@pytest.mark.parametrize("name", ["nvdec", "mjpeg"])
@pytest.mark.parametrize("kind", ["BT.709", "full range", "10-bit"])
def test_the_other_encoders_keep_the_colours_too(name, kind, tmp_path):
    suffix, filters, encoder = STANDARD[kind]
    path = tmp_path / f"source.{suffix}"
    ffmpeg("-f", "lavfi", "-i", SMOOTH, "-vf", filters, *encoder.split(), path)
    video = saved(transcode(described(path), PRESETS[name]), tmp_path / "out")
    assert mean_difference(video, path) < 2


INTERLACED = (
    "-f lavfi -i gradients=s=480x352:r=50:d=0.6:n=4:seed=7:c0=red:c1=green:c2=blue:c3=white "
    "-vf scroll=h=0.02,tinterlace=interleave_top,setparams=field_mode=tff -c:v libx264 -crf 8 "
    "-flags +ilme+ildct -threads 1 -pix_fmt yuv420p"
)


def test_interlaced_video_is_deinterlaced(tmp_path):
    path = tmp_path / "source.mp4"
    ffmpeg(*INTERLACED.split(), path)
    source = described(path)
    video = saved(transcode(source, FAST), tmp_path / "out")
    assert video.frames == source.frames == 15
    assert mean_difference(video, path, before="bwdif=mode=send_frame:deint=interlaced,") < 2


def test_rotated_video_in_wide_pixels_matches_the_program(tmp_path):
    """Turned by a quarter, wide pixels are tall ones."""
    upright = tmp_path / "upright.mp4"
    ffmpeg("-f", "lavfi", "-i", SMOOTH, "-vf", "setsar=4/3", *f"{X264} yuv420p".split(), upright)
    path = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", upright, "-c", "copy", path)
    video = saved(transcode(described(path), FAST), tmp_path / "out")
    assert (video.width, video.height) == (256, 466)
    assert mean_difference(video, path) < 2


def pq(nits: float) -> float:
    """SMPTE ST 2084, inverse EOTF."""
    y = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def test_diffuse_white_of_hdr_becomes_white():
    """Against SMPTE ST 2084 and a display of gamma 2.4 whose white is 203 nits."""
    nits = np.array([5, 26, 100, 203, 1000])
    frame = av.VideoFrame(64 * len(nits), 64, "yuv420p10le")
    columns = np.repeat([round(64 + 876 * pq(n)) for n in nits], 64)
    fill(frame, np.tile(columns, (64, 1)), 512)
    frame.color_trc, frame.colorspace = 16, 9  # the rest unsaid, as many files leave it
    target = Target.of(frame, (frame.width, frame.height), jpeg=False)
    (out,) = Normaliser(target, rotation=0, path="hdr.mp4").push(frame)
    luma = out.to_ndarray()[:64].reshape(64, -1, 64).mean((0, 2))
    assert (luma - 16) / 219 == pytest.approx(np.minimum(1, (nits / 203) ** (1 / 2.4)), abs=0.02)


def fill(frame: av.VideoFrame, luma: np.ndarray, chroma: int) -> None:
    """16-bit planes of a frame whose rows have no padding."""
    frame.planes[0].update(luma.astype(np.uint16).tobytes())
    for plane in frame.planes[1:]:
        plane.update(np.full(plane.buffer_size // 2, chroma, np.uint16).tobytes())


@pytest.mark.parametrize(
    ("tags", "expected"),  # matrix, primaries, transfer; numbers of ITU-T H.273
    [
        ((2, 2, 2), (6, 2, 2)),  # untagged: BT.601, as swscale reads it
        ((6, 6, 6), (6, 6, 6)),
        ((5, 5, 6), (5, 5, 6)),
        ((1, 1, 1), (1, 1, 1)),
        ((7, 2, 2), (6, 2, 2)),  # SMPTE 240M
        ((9, 9, 14), (1, 1, 1)),
        ((9, 9, 16), (1, 1, 1)),  # PQ
        ((9, 9, 18), (1, 1, 1)),  # HLG
        ((2, 2, 16), (1, 1, 1)),
        ((2, 9, 2), (1, 1, 1)),
    ],
)
def test_the_colours_of_the_result(tags, expected):
    frame = av.VideoFrame(64, 64, "yuv420p10le")
    frame.colorspace, frame.color_primaries, frame.color_trc = tags
    target = Target.of(frame, (32, 32), jpeg=False)
    assert (target.matrix, target.primaries, target.transfer) == expected
    assert target.pixel_format == "yuv420p"
    jpeg = Target.of(frame, (32, 32), jpeg=True)
    assert (jpeg.matrix, jpeg.pixel_format) == (6, "yuvj420p")


def test_no_frame_is_lost_where_a_deinterlaced_stream_changes():
    frames = [av.VideoFrame(side, side, "yuv420p") for side in (64, 64, 96, 96, 64)]
    normaliser = Normaliser(Target.of(frames[0], (32, 32), jpeg=False), rotation=0, path="a.mp4")
    normaliser.deinterlace = True
    out = [len(normaliser.push(frame)) for frame in frames]
    assert sum(out) + len(normaliser.flush()) == len(frames) and out[0] == 0


def test_captions_and_other_side_data_are_not_encoded(tmp_path):
    """A53 captions would go into the H.264 stream."""
    frame = av.VideoFrame(64, 64, "yuv420p")
    frame.pict_type = 1
    target = Target.of(frame, (32, 32), jpeg=False)
    (out,) = Normaliser(target, rotation=0, path="a.mp4").push(frame)
    assert out.pict_type == 0 and not list(out.side_data)


def test_pictures_that_cannot_be_converted_are_named():
    frame = av.VideoFrame(64, 64, "yuv420p")
    target = Target.of(frame, (32, 32), jpeg=False)
    with pytest.raises(BadVideo, match=r"E-FORMAT\]: its pictures \(yuv420p, 64x64\) cannot be"):
        Normaliser(replace(target, matrix=99), rotation=0, path="a.mp4").push(frame)
