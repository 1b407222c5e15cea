import os
import pickle
import random
import signal
import socket
import zlib
from fractions import Fraction

import numpy as np
import pytest

from pipeline.container import decode_linear, open_video
from pipeline.errors import BadVideo
from pipeline.probe import Limits, check_file, probe, try_probe
from tests import videos


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """90 frames with the index in front, so that a cut file still opens."""
    path = tmp_path_factory.mktemp("probe") / "whole.mp4"
    return videos.write_video(
        path, frames=90, size=(128, 96), gop=12, container_options=videos.FASTSTART
    )


def refusal(path, **options) -> BadVideo:
    with pytest.raises(BadVideo) as caught:
        probe(path, **options)
    assert caught.value.path == str(path)
    return caught.value


def written(folder, data: bytes, name="clip.mp4"):
    path = folder / name
    path.write_bytes(data)
    return path


def test_facts_of_a_plain_video(tmp_path):
    path = videos.write_video(
        tmp_path / "a.mp4", frames=40, size=(96, 64), fps=Fraction(30000, 1001), gop=12, b_frames=2
    )
    facts = probe(path)
    data = path.read_bytes()
    assert (facts.size, facts.crc32) == (len(data), zlib.crc32(data))
    assert (facts.frames, facts.fps, facts.codec) == (40, Fraction(30000, 1001), "h264")
    assert (facts.width, facts.height, facts.rotation) == (96, 64, 0)
    assert (facts.keyframe_distance_frames, facts.vfr, facts.start_pts) == (12, False, 0)
    assert (facts.time_base, facts.damaged_frames) == (Fraction(1, 30000), 0)


@pytest.mark.parametrize(
    ("name", "options", "codec"),
    [
        ("a.mp4", {"codec": "libx265"}, "hevc"),
        ("a.avi", {"codec": "mpeg4", "b_frames": 2}, "mpeg4"),
        ("a.webm", {"codec": "libvpx-vp9"}, "vp9"),
        ("a.mkv", {"b_frames": 2}, "h264"),
        ("a.ts", {"b_frames": 2}, "h264"),
        ("a.mp4", {"container_options": videos.FRAGMENTED}, "h264"),
        ("wrong_suffix.avi", {"container_format": "mp4"}, "h264"),
    ],
)
def test_frames_are_counted_in_every_container(tmp_path, name, options, codec):
    facts = probe(videos.write_video(tmp_path / name, frames=37, **options))
    assert (facts.frames, facts.codec, facts.fps, facts.vfr) == (37, codec, 25, False)


def test_header_that_promises_too_much_after_an_edit(tmp_path):
    source = videos.write_video(tmp_path / "whole.mp4", frames=90, gop=250)
    path = videos.cut_start_by_edit_list(source, tmp_path / "cut.mp4", frames=15)
    with open_video(path) as container:
        assert container.streams.video[0].frames == 90
    assert (probe(path).frames, probe(path).vfr, probe(path).start_pts) == (75, False, 0)


def test_times_that_do_not_tell_the_frame(tmp_path):
    times = [n * 100 + n % 2 * 60 for n in range(30)]
    assert probe(videos.write_video(tmp_path / "a.mp4", frames=30, times=times)).vfr
    # 0.3 frames early or late still rounds to the right number
    times = [n * 100 + n % 3 * 15 for n in range(30)]
    assert not probe(videos.write_video(tmp_path / "b.mkv", frames=30, times=times)).vfr
    assert probe(videos.write_packed_avi(tmp_path / "packed.avi", frames=30)).vfr


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_vfr_flag_follows_its_definition(tmp_path, name):
    path = videos.write_video(tmp_path / name, frames=50, fps=Fraction(24000, 1001), b_frames=2)
    facts = probe(path)
    with open_video(path) as container:
        times = [frame.pts for _, frame in decode_linear(container)]
    numbers = [round((t - facts.start_pts) * facts.time_base * facts.fps) for t in times]
    assert facts.vfr == (numbers != list(range(50)))
    assert facts.start_pts == times[0]


@pytest.mark.parametrize(
    ("rotation", "matrix"),
    [  # a, b, c, d of the display matrix: x' = ax + cy, y' = bx + dy, y downwards
        (90, (0, 1, -1, 0)),
        (180, (-1, 0, 0, -1)),
        (270, (0, -1, 1, 0)),
    ],
)
def test_rotation_turns_the_picture_upright(tmp_path, rotation, matrix):
    path = videos.write_video(
        tmp_path / "a.mp4",
        frames=3,
        size=(96, 64),
        rotation=rotation,
        pixels=lambda n: videos.marked_corner(96, 64),
    )
    assert videos.display_matrix(path) == matrix
    facts = probe(path)
    assert facts.rotation == rotation
    with open_video(path) as container:
        stored = next(frame for _, frame in decode_linear(container)).to_ndarray(format="rgb24")
    upright = np.rot90(stored, k=-facts.rotation // 90)
    assert upright.shape[:2] == (facts.height, facts.width)
    # The display matrix carries the marked corner's direction (-1, -1) to its displayed place.
    a, b, c, d = matrix
    right, down = -a - c > 0, -b - d > 0
    half = (facts.height // 2, facts.width // 2)
    quarter = upright[down * half[0] :][: half[0], right * half[1] :][:, : half[1]]
    assert quarter.mean() > 240
    assert upright.mean() < 80


def test_mirrored_display_is_refused(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", frames=3, rotation=180)
    videos.set_display_matrix(path, (-1, 0, 0, 1))
    error = refusal(path)
    assert (error.code, error.what) == ("E-FORMAT", "its display matrix mirrors the picture")


def test_first_moving_stream_is_taken(tmp_path):
    assert probe(videos.write_video(tmp_path / "a.mp4", frames=9, audio=True)).frames == 9


def test_range_inside_another_file(tmp_path, whole):
    tar = written(tmp_path, b"p" * 1000 + whole.read_bytes() + b"q" * 500, "a.tar")
    size = whole.stat().st_size
    assert probe(tar, offset=1000, size=size) == probe(whole)


HTML = b"\xef\xbb\xbf \n<!DOCTYPE html><html><body>404 not found</body></html>" * 20
CONTENTS = {
    "empty": (b"", "E-EMPTY", "is 0 bytes (interrupted download?)"),
    "html": (HTML, "E-NOTVIDEO", "looks like an HTML page"),
    "json": (b'{"error": "no such video"}', "E-NOTVIDEO", "looks like JSON"),
    "concat": (b"ffconcat version 1.0\nfile other.mp4\n", "E-FORMAT", "is a playlist (concat)"),
    "hls": (b"#EXTM3U\n#EXTINF:1,\nother.ts\n", "E-FORMAT", "is a playlist (HLS)"),
    "sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", "E-FORMAT", "is a session description (SDP)"),
    "mp3": (b"ID3\4\0\0\0\0\0\0" + b"\0" * 900, "E-NOVIDEO", "is an MP3 audio file"),
    "gif": (b"GIF89a" + b"\0" * 900, "E-FORMAT", "is a GIF, which is not read"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_no_video_is_named(tmp_path, name):
    data, code, what = CONTENTS[name]
    error = refusal(written(tmp_path, data))
    assert error.code == code
    assert error.what.startswith(what)


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_are_no_video(tmp_path, seed):
    error = refusal(written(tmp_path, random.Random(seed).randbytes(3000)))
    assert error.code == "E-NOTVIDEO"
    assert error.what.startswith("no video in an accepted container (")


def test_message_is_one_line_with_code_place_and_cure(tmp_path):
    path = written(tmp_path, b"")
    assert str(refusal(path)) == (
        f"error[E-EMPTY]: is 0 bytes (interrupted download?) · {path} · download or copy it again"
    )


def test_truncated_with_its_index_in_front(tmp_path, whole):
    data = whole.read_bytes()
    error = refusal(written(tmp_path, data[: len(data) * 6 // 10]))
    assert (error.code, error.what) == ("E-TRUNCATED", "36 of 90 frames")


@pytest.mark.parametrize(
    ("name", "codec", "b_frames"),
    [("a.mkv", "libx264", 0), ("a.webm", "libvpx-vp9", 0), ("a.avi", "mpeg4", 2)],
)
def test_truncated_elsewhere(tmp_path, name, codec, b_frames):
    path = videos.write_video(tmp_path / name, frames=90, codec=codec, gop=12, b_frames=b_frames)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    error = refusal(path)
    assert error.code == "E-TRUNCATED"
    decoded, promised = map(int, error.what.removesuffix(" frames").split(" of "))
    assert promised == 90
    assert 20 < decoded < 80


def test_truncated_after_an_edit_promises_what_the_edit_leaves(tmp_path, whole):
    path = videos.cut_start_by_edit_list(whole, tmp_path / "cut.mp4", frames=14)
    videos.move_index_to_front(path)
    data = path.read_bytes()
    assert probe(path).frames == 76
    path.write_bytes(data[: len(data) * 6 // 10])
    assert refusal(path).what.endswith(" of 76 frames")


def test_truncated_without_index(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", frames=20)
    path.write_bytes(path.read_bytes()[:1500])
    error = refusal(path)
    assert error.code == "E-TRUNCATED"
    assert error.what == "the moov box is missing, so no frame can be found"


def test_a_cut_that_costs_no_frame_is_accepted(tmp_path):
    path = videos.write_video(tmp_path / "a.mkv", frames=20)
    path.write_bytes(path.read_bytes()[:-1])  # in the cues, behind all frames
    assert probe(path).frames == 20


def flipped(data: bytes, first: int, count: int, seed: int) -> bytes:
    damaged, rng = bytearray(data), random.Random(seed)
    for _ in range(count):
        damaged[rng.randrange(first, len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def test_many_damaged_frames(tmp_path, whole):
    data = whole.read_bytes()
    error = refusal(written(tmp_path, flipped(data, data.index(b"mdat") + 8, 300, seed=0)))
    assert error.code == "E-CORRUPT"
    damaged, total = map(int, error.what.removesuffix(" frames damaged").split("/"))
    assert 45 < damaged <= total == 90


def test_few_damaged_frames_are_counted(tmp_path, whole):
    data = whole.read_bytes()
    path = written(tmp_path, flipped(data, data.index(b"mdat") + 8, 3, seed=3))
    facts = probe(path)
    assert 0 < facts.damaged_frames <= 4
    error = refusal(path, limits=Limits(max_damaged_fraction=0.01))
    assert (error.code, error.what) == ("E-CORRUPT", f"{facts.damaged_frames}/90 frames damaged")


@pytest.mark.parametrize("seed", range(25))
def test_damage_anywhere_is_refused_or_harmless(tmp_path, whole, seed):
    path = written(tmp_path, flipped(whole.read_bytes(), 0, 40, seed))
    facts = try_probe(path)
    assert isinstance(facts, BadVideo) or facts.frames >= 2


def test_audio_only(tmp_path):
    error = refusal(videos.write_audio(tmp_path / "a.mp4"))
    assert (error.code, error.what) == ("E-NOVIDEO", "only audio streams")


def test_cover_art_is_no_video(tmp_path):
    error = refusal(videos.write_cover_art(tmp_path / "a.m4a"))
    assert (error.code, error.what) == ("E-NOVIDEO", "only audio streams")


def test_no_frames(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", frames=0, container_options=videos.FRAGMENTED)
    error = refusal(path)
    assert (error.code, error.what) == ("E-NOFRAMES", "no frame can be decoded")
    error = refusal(videos.write_video(tmp_path / "b.mp4", frames=0))
    assert (error.code, error.what) == ("E-NOFRAMES", "is a container without any stream")


def test_one_frame(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", frames=1)
    error = refusal(path)
    assert (error.code, error.what) == ("E-SHORT", "1 frame, at least 2 are needed")
    assert probe(path, limits=Limits(min_frames=1)).frames == 1


def test_unknown_codec(tmp_path, whole):
    path = written(tmp_path, whole.read_bytes().replace(b"avc1", b"zzzz"))
    error = refusal(path)
    assert (error.code, error.what) == ("E-CODEC", "no decoder here for its codec")


def test_pixel_budget_before_decoding(tmp_path, whole):
    error = refusal(whole, limits=Limits(max_pixels=10_000))
    assert (error.code, error.what) == ("E-TOOBIG", "0.0123 Mpx (128x96) > max_pixels 0.01 Mpx")
    black = np.zeros((6400, 6400, 3), np.uint8)
    path = videos.write_video(
        tmp_path / "bomb.avi",
        frames=1,
        size=(6400, 6400),
        codec="mjpeg",
        pixel_format="yuvj420p",
        pixels=lambda n: black,
    )
    error = refusal(path)
    assert (error.code, error.what) == ("E-TOOBIG", "41 Mpx (6400x6400) > max_pixels 40 Mpx")


def test_resolution_that_grows_in_mid_stream(tmp_path):
    small = videos.write_video(tmp_path / "a.ts", frames=5, size=(64, 64)).read_bytes()
    large = videos.write_video(tmp_path / "b.ts", frames=5, size=(128, 128)).read_bytes()
    path = written(tmp_path, small + large, "c.ts")
    assert (probe(path).frames, probe(path).width) == (10, 64)
    assert refusal(path, limits=Limits(max_pixels=10_000)).code == "E-TOOBIG"


def test_short_side(tmp_path):
    error = refusal(videos.write_video(tmp_path / "a.mp4", frames=3, size=(64, 8)))
    assert error.code == "E-TINY"
    assert error.what == "64x8: the short side is under 16 pixels"


@pytest.fixture
def alarm():
    """A test that hangs ends after 10 seconds."""

    def ring(*_):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_named_pipe_does_not_hang(tmp_path, alarm):
    os.mkfifo(tmp_path / "a.mp4")
    error = refusal(tmp_path / "a.mp4")
    assert (error.code, error.what) == ("E-NOTFILE", "is a named pipe")


def test_what_is_no_file(tmp_path, alarm):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "broken.mp4").symlink_to("nowhere")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
        kinds = {
            "folder.mp4": "is a directory",
            "socket.mp4": "is a socket",
            "broken.mp4": "is a broken link",
            "loop.mp4": "cannot be read (Too many levels of symbolic links)",
        }
        for name, what in kinds.items():
            error = refusal(tmp_path / name)
            assert (error.code, error.what) == ("E-NOTFILE", what)
    assert refusal("/dev/null").what == "is a device"


def test_missing_and_unreadable(tmp_path, monkeypatch):
    error = refusal(tmp_path / "none.mp4")
    assert (error.code, error.what) == ("E-MISSING", "no such file")
    error = refusal(tmp_path / ("x" * 300))
    assert (error.code, error.what) == ("E-NOTFILE", "cannot be read (File name too long)")
    path = videos.write_video(tmp_path / "a.mp4", frames=3)
    check_file(path)

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.container.os.open", denied)  # root may read everything
    error = refusal(path)
    assert (error.code, error.what) == ("E-NOTFILE", "cannot be read (Permission denied)")


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "it's.mp4", 'say "hi".mp4', "-i.mp4", "100%d.mp4", "été 視頻.mp4", "a:b.mp4"],
)
def test_names_are_only_names(tmp_path, whole, name, monkeypatch):
    written(tmp_path, whole.read_bytes(), name)
    monkeypatch.chdir(tmp_path)
    assert probe(name).frames == 90


def test_refusals_travel_between_processes(tmp_path):
    error = try_probe(tmp_path / "none.mp4")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.code, copy.cure) == ("E-MISSING", "check the path")
