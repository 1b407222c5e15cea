"""Frame n by random access is frame n by linear decoding, told by a number drawn in the pixels."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import decode, render
from pipeline.container import decode_linear, open_video, video_stream
from pipeline.decode import decode_frames, decode_pictures, every_frame, read_bytes
from pipeline.errors import BadVideo
from pipeline.manifest import Video
from pipeline.probe import probe
from tests.videos import marked_corner, read_number, write_audio, write_video

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
    "mpeg1_b_frames.mpg": {"codec": "mpeg1video", "gop": 12, "b_frames": 2},
    "mpeg2_b_frames.mp4": {"codec": "mpeg2video", "gop": 12, "b_frames": 2},
    "mpeg2_b_frames.ts": {"codec": "mpeg2video", "gop": 12, "b_frames": 2},
    "h264_b_frames.asf": {"gop": 12, "b_frames": 2},
    "wmv2.asf": {"codec": "wmv2", "gop": 12},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 30},
    "hevc.mp4": {"codec": "libx265", "gop": 20},
    "hevc_b_frames.mp4": {"codec": "libx265", "gop": 20, "b_frames": 3},
    "hevc_open_gop.mp4": {
        "codec": "libx265",
        "gop": 15,
        "b_frames": 3,
        "options": {"x265-params": "open-gop=1:scenecut=0:log-level=none:pools=1"},
    },
    "late_start.mkv": {"gop": 12, "times": [100 * n + 9000 for n in range(FRAMES)]},
    "jitter.mkv": {"gop": 20, "times": [int(n * 100 + 40 * np.sin(n)) + 40 for n in range(FRAMES)]},
    "vfr.mkv": {"gop": 20, "times": [n * 100 + n // 9 * 100 for n in range(FRAMES)]},
}


def described(path) -> Video:
    return Video.of(probe(path), key=path.stem, path=path)


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
    assert differing(videos[kind]) == []


# Seeks: where they are used, and where they are not believed


@pytest.fixture
def only_seeks(monkeypatch):
    def never(*_):
        raise AssertionError("decoded from the start")

    monkeypatch.setattr(decode, "decode_linear", never)


@pytest.fixture
def seeks(monkeypatch) -> list[int]:
    """The frames that a seek was made to."""
    made = []
    real = decode.from_key_frame

    def noted(container, video, n, **more):
        made.append(n)
        return real(container, video, n, **more)

    monkeypatch.setattr(decode, "from_key_frame", noted)
    return made


def linear(path) -> list[np.ndarray]:
    with open_video(path) as container:
        return [frame.to_ndarray(format="rgb24") for _, frame in decode_linear(container)]


def differing(video: Video) -> list[int]:
    """Frames that random access, one by one, shows unlike decoding from the start."""
    pairs = enumerate(linear(video.path))
    return [
        n
        for n, truth in pairs
        if not np.array_equal(decode_frames(video, np.array([n]), timeout_seconds=30)[0], truth)
    ]


@pytest.mark.parametrize(
    "kind",
    ["h264_short_gop.mp4", "h264_open_gop.mp4", "hevc_open_gop.mp4", "mpeg2_b_frames.mp4",
     "mpeg4_b_frames.avi", "wmv2.asf", "late_start.mkv"],
)  # fmt: skip
def test_short_gops_are_reached_by_seeking_alone(kind, videos, only_seeks):
    """Frames 58 and 59 of an open GOP are stored after the key frame that is shown as 60."""
    for n in range(56, 76):
        assert numbers(videos[kind], [n]) == [n]
    assert numbers(videos[kind], range(50, 75)) == list(range(50, 75))


def test_the_first_frames_need_no_seek(videos, seeks):
    """None up to the second key frame; a later clip of the same video has its own."""
    video = videos["h264_short_gop.mp4"]
    assert numbers(video, [11]) == [11] and seeks == [None]
    assert numbers(video, [11, 80]) == [11, 80] and seeks == [None, None, 80]
    assert numbers(video, [12, 80]) == [12, 80] and seeks == [None, None, 80, 12, 80]


@pytest.mark.parametrize(("first", "last"), [(0, 5), (0, 40), (31, 44), (20, 21)])
@pytest.mark.parametrize("kind", ["h264_b_frames.mp4", "h264_short_gop.mp4", "hevc_b_frames.mp4"])
def test_nothing_is_made_of_frames_that_no_view_shows(kind, first, last, videos, monkeypatch):
    """Calls are counted: conversions, packets decoded, and packets read behind the last."""
    converted, given = [], []
    picture, needed = render.picture, decode.needed_frames

    def noting_picture(frame, **shown):
        converted.append(frame.pts)
        return picture(frame, **shown)

    def noting_packets(packets, *rest):
        return needed((given.append(p.pts) or p for p in packets), *rest)

    monkeypatch.setattr(render, "picture", noting_picture)
    monkeypatch.setattr(decode, "needed_frames", noting_packets)
    video = videos[kind]
    decode_pictures(video, np.array([first, last]), timeout_seconds=30)
    unit = 1 / (video.fps * video.time_base)
    assert [pts / unit for pts in converted] == [first, last]
    # One packet tells that the last was the last; three that are shown behind it may stand before.
    most = 4 if "b_frames" in kind else 1
    assert len([pts for pts in given if pts / unit > last]) <= most


@pytest.mark.parametrize("damaged", [False, True])
def test_pictures_that_no_other_is_made_from_are_passed_over(damaged, tmp_path, monkeypatch):
    """Damage in one of them is none of the others'."""
    path = write_video(tmp_path / "a.mp4", frames=40, gop=40, b_frames=3)
    video, wanted = described(path), np.array([12, 24, 36])
    truth = decode_frames(video, wanted, timeout_seconds=30)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        # ISO/IEC 14496-10, 7.3.1: two bits behind the first of the byte are nal_ref_idc.
        ends = [p for p in packets[1:] if not bytes(p)[4] >> 5 & 3]
    assert len(ends) >= 15
    if damaged:
        data = bytearray(path.read_bytes())
        for p in ends:
            data[p.pos + 8 : p.pos + p.size] = bytes(p.size - 8)
        path.write_bytes(data)
    decoded = []
    monkeypatch.setattr(decode, "_collect", noting_numbers(decoded))
    assert np.array_equal(decode_frames(video, wanted, timeout_seconds=30), truth)
    assert len(decoded) <= 37 - len([p for p in ends if p.pts * 25 * p.time_base < 36]) + 3


def noting_numbers(decoded: list[int]):
    """`_collect` that also lists the numbers of the frames that come."""
    collect = decode._collect

    def noting(frames):
        for number, frame in frames:
            decoded.append(number)
            yield number, frame

    return lambda frames, *rest: collect(noting(frames), *rest)


@pytest.mark.parametrize("last", [5, 80])
def test_decoding_starts_near_and_ends_with_the_frame_asked_for(videos, monkeypatch, last):
    decoded = []
    monkeypatch.setattr(decode, "_collect", noting_numbers(decoded))
    assert numbers(videos["late_start.mkv"], [last]) == [last]
    assert decoded[0] > last - 12 and decoded[-1] == last


def test_near_frames_share_a_seek(videos, seeks):
    assert numbers(videos["h264_short_gop.mp4"], [23, 35, 48, 83]) == [23, 35, 48, 83]
    assert seeks == [23, 48, 83]  # 23 is the last frame of its GOP


@pytest.mark.parametrize("kind", ["mpeg1_b_frames.mpg", "mpeg2_b_frames.ts", "vfr.mkv"])
def test_no_seek_where_times_do_not_tell_numbers(kind, videos, seeks):
    assert numbers(videos[kind], [80]) == [80] and not seeks


def test_decoding_after_a_seek_uses_one_thread_too(videos, monkeypatch):
    """Workers are the parallelism: on 64 cores each would start 16 threads."""
    opened = []
    real = decode.open_indexed

    @contextlib.contextmanager
    def noted(*arguments, **options):
        with real(*arguments, **options) as container:
            opened.append(container)
            yield container
            assert video_stream(container).codec_context.thread_count == 1

    monkeypatch.setattr(decode, "open_indexed", noted)
    assert numbers(videos["h264_short_gop.mp4"], [80]) == [80] and len(opened) == 1


def call_all_key_frames_mp4(path) -> None:
    """As some muxers do: no table of sync samples, so every sample is one."""
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))


def call_all_key_frames_avi(path) -> None:
    data = bytearray(path.read_bytes())
    index = data.rindex(b"idx1") + 8
    for entry in range(index, index + int.from_bytes(data[index - 4 : index], "little"), 16):
        data[entry + 4 : entry + 8] = (0x10).to_bytes(4, "little")  # AVIIF_KEYFRAME
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "mpeg4"), ("a.avi", "wmv2"), ("a.avi", "msmpeg4"), ("a.mp4", "libvpx-vp9")],
)
def test_an_index_that_calls_every_frame_a_key_frame(tmp_path, name, codec):
    """After a seek into a GOP, MPEG-4 shows grey ghosts and says nothing; VP9 fails."""
    path = write_video(tmp_path / name, frames=40, gop=12, codec=codec)
    call_all_key_frames_avi(path) if path.suffix == ".avi" else call_all_key_frames_mp4(path)
    assert differing(described(path)) == []


def test_an_open_gop_that_is_called_closed(tmp_path):
    """The decoder then shows the pictures before the key frame, made from nothing."""
    path = write_video(tmp_path / "a.mp4", frames=40, gop=12, codec="mpeg2video", b_frames=2)
    data = bytearray(path.read_bytes())
    at = -1
    while (at := data.find(b"\x00\x00\x01\xb8", at + 1)) >= 0:  # ISO/IEC 13818-2, 6.2.2.6
        data[at + 7] |= 0x40
    path.write_bytes(data)
    assert differing(described(path)) == []


def test_damage_is_concealed_as_from_the_start(tmp_path):
    """The hole in a key frame is filled from the picture before it, which a seek leaves out."""
    path = write_video(tmp_path / "a.mp4", frames=40, gop=12)
    with av.open(str(path)) as container:
        keys = [p for p in container.demux(video=0) if p.size and p.is_keyframe]
        hole = keys[2].pos + keys[2].size // 2
    data = bytearray(path.read_bytes())
    data[hole : hole + 6] = b"\xff" * 6
    path.write_bytes(data)
    assert 0 < probe(path).damaged_frames < 3
    assert differing(described(path)) == []


def noise(n: int) -> np.ndarray:
    """Takes more bytes than any number: a file is only read as far as the manifest says."""
    return np.random.default_rng(n).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("fps", [10, 50])
def test_a_video_replaced_by_one_of_another_rate(tmp_path, fps):
    """Then times no longer tell numbers as the manifest says."""
    old = described(write_video(path := tmp_path / "a.mp4", frames=60, gop=12, pixels=noise))
    write_video(path, frames=60, gop=12, fps=fps)
    assert path.stat().st_size < old.size
    assert numbers(old, [20, 21, 40]) == [20, 21, 40]
    assert numbers(old, [50]) == [50]


def test_a_video_replaced_by_one_without_times(tmp_path):
    """FFmpeg does not know those of H.264 with B-frames in ASF."""
    old = described(write_video(path := tmp_path / "a.mkv", frames=60, gop=12, pixels=noise))
    write_video(path, container_format="asf", frames=60, gop=12, b_frames=1)
    assert path.stat().st_size < old.size
    assert numbers(old, [40, 50]) == [40, 50]


def test_a_video_replaced_by_sound(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=60, gop=12)
    video = described(path)
    write_audio(path)
    with pytest.raises(BadVideo, match=r"E-CORRUPT.*no video stream with a decoder"):
        decode_frames(video, np.array([50]), timeout_seconds=30)


def test_a_search_for_a_key_frame_is_cut_off(tmp_path, only_seeks):
    """There is none behind the seek, whatever the manifest says."""
    path = write_video(tmp_path / "a.mp4", frames=40, gop=250, codec="mpeg4")
    call_all_key_frames_mp4(path)
    video = replace(described(path), keyframe_distance_frames=1)
    with pytest.raises(BadVideo, match="E-TIMEOUT"):
        decode_frames(video, np.array([30]), timeout_seconds=0)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_videos_stand_upright(tmp_path, rotation):
    stored = lambda n: np.rot90(marked_corner(64, 48), k=rotation // 90)  # noqa: E731
    size = (48, 64) if rotation != 180 else (64, 48)
    path = write_video(tmp_path / "r.mp4", frames=4, size=size, rotation=rotation, pixels=stored)
    picture = decode_frames(described(path), np.array([2]), timeout_seconds=30)[0]
    assert picture.shape == (48, 64, 3)
    assert picture[4:20, 4:28].mean() > 230 and picture[28:, 36:].mean() < 25


@pytest.mark.parametrize("kind", ["h264_b_frames.mp4", "hevc.mp4", "mpeg2_b_frames.ts", "vp9.webm"])
def test_pictures_stay_as_they_are_while_decoding_goes_on(kind, videos):
    """Their planes are the decoder's own memory, which it must not use again."""
    video, pictures, copies = videos[kind], [], []
    with open_video(video.path) as container:
        for _, frame in decode_linear(container):
            pictures.append(render.picture(frame, width=64, height=64, rotation=0))
            copies.append([plane.copy() for plane in pictures[-1].planes])
    decode_pictures(video, np.arange(FRAMES), timeout_seconds=30)
    for picture, planes in zip(pictures, copies, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(picture.planes, planes, strict=True))


def test_a_byte_range_inside_another_file_is_a_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=20, gop=5)
    content = path.read_bytes()
    (tmp_path / "shard.bin").write_bytes(b"x" * 777 + content + b"y" * 99)
    video = replace(described(path), path=tmp_path / "shard.bin", offset=777)
    assert numbers(video, [3, 17]) == [3, 17]
    assert read_bytes(video).tobytes() == content


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_segment_holds_the_files_frames_from_its_first_on(kind, data, videos):
    first = data.draw(st.integers(0, FRAMES - 1))
    segment = replace(videos[kind], first_frame=first, frames=FRAMES - first)
    frames = data.draw(st.sets(st.integers(0, FRAMES - first - 1), min_size=1, max_size=6))
    assert numbers(segment, frames) == [first + n for n in sorted(frames)]


def test_a_late_segment_is_reached_by_seeking(videos, only_seeks):
    """Its first frames have small numbers but are far into the file."""
    segment = replace(videos["h264_short_gop.mp4"], first_frame=70, frames=20)
    assert numbers(segment, [0, 1, 19]) == [70, 71, 89]


def test_a_video_that_has_shrunk_names_the_frame(tmp_path):
    path = write_video(tmp_path / "cut.mkv", frames=60, gop=12)
    video = described(path)
    path.write_bytes(path.read_bytes()[: video.size // 2])
    with pytest.raises(BadVideo, match=r"error\[E-TRUNCATED\]: frame 59 of 60 does not decode · "):
        decode_frames(video, np.array([59]), timeout_seconds=30)
    segment = replace(video, first_frame=40, frames=20)
    with pytest.raises(BadVideo, match=r"error\[E-TRUNCATED\]: frame 19 of 20 does not decode · "):
        decode_frames(segment, np.array([19]), timeout_seconds=30)
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


# A whole video, one picture at a time


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 7])
def test_every_frame_in_order(kind, stride, videos):
    pictures = every_frame(videos[kind], stride=stride)
    assert [read_number(picture) for picture in pictures] == list(range(0, FRAMES, stride))


def test_every_frame_of_a_segment(videos):
    segment = replace(videos["h264_b_frames.mp4"], first_frame=41, frames=20)
    found = [read_number(picture) for picture in every_frame(segment, stride=6)]
    assert found == [41, 47, 53, 59]


def test_every_frame_of_damaged_videos(tmp_path):
    path = write_video(tmp_path / "cut.mkv", frames=60, gop=12)
    video = described(path)
    path.write_bytes(path.read_bytes()[: video.size // 2])
    with pytest.raises(BadVideo, match=r"error\[E-TRUNCATED\]: frame \d+ of 60 does not decode · "):
        list(every_frame(video))
    path.write_bytes(b"x" * video.size)
    with pytest.raises(BadVideo, match=r"error\[E-"):
        list(every_frame(video))
    path.unlink()
    with pytest.raises(BadVideo, match=r"cut\.mkv"):
        list(every_frame(video))


def test_what_its_reader_raises_is_no_damage(videos):
    with pytest.raises(ZeroDivisionError):
        for _ in every_frame(videos["h264_long_gop.mp4"]):
            raise ZeroDivisionError
