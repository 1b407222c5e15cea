"""Odd and hostile videos: used as the table of faults says, or refused with its code."""

import ctypes
import os
import socket
import struct
from pathlib import Path

import av
import pytest

from pipeline.container import decode_linear, open_video
from pipeline.errors import BadVideo
from pipeline.limits import Limits
from pipeline.probe import examine, probe, try_probe
from tests import videos

SCANS = ("decode", "packets")


def refusal(path, **options) -> BadVideo:
    error = try_probe(path, **options)
    assert isinstance(error, BadVideo), error
    return error


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "whole.mp4"
    return videos.write_video(
        path, frames=90, size=(128, 96), gop=12, container_options=videos.FASTSTART
    )


# Files that end early


def test_a_truncated_file_may_be_accepted_up_to_its_first_damaged_frame(tmp_path, whole):
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    assert refusal(path).what == "36 of 90 frames"
    facts = probe(path, limits=Limits(accept_truncated=True))
    assert facts.damaged_frames == 0
    with open_video(path) as container:
        flags = [frame.is_corrupt for _, frame in decode_linear(container)]
    assert facts.frames == (flags.index(True) if True in flags else len(flags))
    assert 30 < facts.frames <= 36
    pictures = [f for n, f in decode_frames_of(path) if n < facts.frames]
    numbers = [videos.read_number(frame.to_ndarray(format="rgb24")) for frame in pictures]
    assert numbers == list(range(facts.frames))


def decode_frames_of(path):
    with open_video(path) as container:
        yield from decode_linear(container)


def test_frames_behind_the_first_damaged_one_of_a_truncated_file_are_left_out(tmp_path, whole):
    data = bytearray(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with av.open(str(whole)) as container:
        entry = container.streams.video[0].index_entries[20]
    data[entry.pos + entry.size // 2] ^= 0xFF
    path = tmp_path / "cut.mp4"
    path.write_bytes(data)
    first = [frame.is_corrupt for _, frame in decode_frames_of(path)].index(True)
    facts = probe(path, limits=Limits(accept_truncated=True))
    assert (facts.frames, facts.damaged_frames) == (first, 0)
    assert 10 < facts.frames < 30 and facts.keyframe_distance_frames == 12


def test_a_truncated_file_needs_the_frames_of_a_clip(tmp_path, whole):
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    clean = probe(path, limits=Limits(accept_truncated=True)).frames
    enough = Limits(accept_truncated=True, min_frames=clean)
    assert probe(path, limits=enough).frames == clean
    error = refusal(path, limits=Limits(accept_truncated=True, min_frames=clean + 1))
    assert (error.code, error.what) == ("E-TRUNCATED", f"{clean} of 90 frames")


# Streams


def write_streams(path, *, sizes, cover=False):
    """A file with one video stream for each size, behind a cover picture if asked for."""
    with av.open(str(path), "w") as container:
        art = None
        if cover:
            art = container.add_stream("mjpeg", rate=1)
            art.width, art.height, art.pix_fmt = 64, 64, "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
        streams = [container.add_stream("libx264", rate=25) for _ in sizes]
        for stream, (width, height) in zip(streams, sizes, strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = videos.FAST["libx264"]
        if art:
            picture = av.VideoFrame.from_ndarray(videos.number_frame(1, 64, 64), format="rgb24")
            for packet in [*art.encode(picture.reformat(format="yuvj420p")), *art.encode()]:
                container.mux(packet)
        for stream, (width, height) in zip(streams, sizes, strict=True):
            for n in range(7):
                picture = videos.number_frame(n, width, height)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("scan", SCANS)
def test_of_two_video_streams_the_first_is_used_and_noted(tmp_path, scan):
    path = write_streams(tmp_path / "a.mp4", sizes=[(96, 64), (64, 64)])
    facts, remarks = examine(path, scan=scan)
    assert (facts.frames, facts.width, facts.height) == (7, 96, 64)
    assert remarks == ["2 video streams, the first is used"]
    assert examine(write_streams(tmp_path / "b.mp4", sizes=[(96, 64)]))[1] == []


def test_a_picture_before_the_video_is_passed_over(tmp_path):
    path = write_streams(tmp_path / "a.mp4", sizes=[(96, 64)], cover=True)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    facts, remarks = examine(path)
    assert (facts.width, facts.frames, remarks) == (96, 7, [])


def test_a_size_that_changes_in_mid_stream_is_noted(tmp_path):
    parts = [
        videos.write_video(tmp_path / f"{side}.ts", frames=5, size=(side, 64)).read_bytes()
        for side in (64, 128)
    ]
    path = tmp_path / "c.ts"
    path.write_bytes(b"".join(parts))
    facts, remarks = examine(path)
    assert (facts.frames, facts.width) == (10, 64)
    assert remarks == [
        "its size changes in mid-stream (64x64, 128x64): all frames are scaled to the first"
    ]


# Budgets


def boxes_of(data: bytes, kind: bytes) -> int:
    return data.index(kind) + 4


def listing(path, target, samples: int):
    """The one-track MP4 `path`, its index claiming `samples` frames of one byte each."""
    data = bytearray(path.read_bytes())
    at = boxes_of(data, b"stsz")
    data[at : at + 12] = struct.pack(">III", 0, 1, samples)
    at = boxes_of(data, b"stsc")
    data[at + 12 : at + 16] = struct.pack(">I", samples)
    at = boxes_of(data, b"stts")
    data[at + 8 : at + 12] = struct.pack(">I", samples)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("scan", SCANS)
def test_an_index_of_200_million_frames_is_refused_before_it_is_built(tmp_path, scan, monkeypatch):
    path = videos.write_video(tmp_path / "a.mp4", frames=20)
    bomb = listing(path, tmp_path / "bomb.mp4", 200_000_000)

    def opened(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr("pipeline.probe.open_video", opened)
    error = refusal(bomb, scan=scan)
    assert (error.code, error.what) == ("E-TOOBIG", "more than max_frames 1000000 frames")
    assert error.cure == "cut it into shorter videos"


def test_many_frames_at_a_thousand_a_second(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", frames=1500, size=(16, 16), fps=1000)
    for scan in SCANS:
        facts = probe(path, scan=scan)
        assert (facts.frames, facts.fps, facts.vfr) == (1500, 1000, False)
        error = refusal(path, scan=scan, limits=Limits(max_frames=1000))
        assert (error.code, error.what) == ("E-TOOBIG", "more than max_frames 1000 frames")


def test_a_claimed_duration_of_ten_years_is_only_a_claim(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", frames=20)
    plain, data = probe(path), bytearray(path.read_bytes())
    for kind, behind in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        at = boxes_of(data, kind) + behind
        data[at : at + 4] = struct.pack(">I", (1 << 32) - 2)
    path.write_bytes(data)
    for scan in SCANS:
        facts = probe(path, scan=scan)
        assert (facts.frames, facts.fps, facts.vfr) == (20, plain.fps, False)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_no_frame_over_the_pixel_budget_is_decoded(tmp_path, name, monkeypatch):
    """FFmpeg decodes frames to describe a stream; that must not allocate what is refused."""
    path = videos.write_video(tmp_path / name, frames=12, size=(256, 256))
    given = []
    original = av.open
    monkeypatch.setattr(
        "pipeline.container.av.open", lambda *a, **k: given.append(k) or original(*a, **k)
    )
    error = refusal(path, limits=Limits(max_pixels=60_000))
    assert error.what == "0.0655 Mpx (256x256) > max_pixels 0.06 Mpx"
    assert given[0]["options"]["max_pixels"] == "60000"


# What is only unusual


@pytest.mark.parametrize(
    "size", [(321, 241), (16, 16), (2000, 64), (17, 1001)], ids=lambda s: f"{s[0]}x{s[1]}"
)
def test_odd_sizes(tmp_path, size):
    path = videos.write_video(
        tmp_path / "a.mkv", frames=3, size=size, codec="ffv1", pixel_format="yuv420p"
    )
    facts = probe(path)
    assert (facts.width, facts.height, facts.frames) == (*size, 3)


def test_pixels_that_are_not_square_stay_so(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for n in range(3):
            picture = videos.number_frame(n, 96, 64)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2
    assert (probe(path).width, probe(path).height) == (96, 64)


def test_metadata_that_is_not_utf8_is_passed_over(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for n in range(3):
            picture = videos.number_frame(n, 64, 64)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert b"TITLE" in data
    path.write_bytes(data.replace(b"TITLE", b"\xc9t\xe9\xff\xfe"))
    assert probe(path).frames == 3


@pytest.mark.parametrize("name", ["()!#;[]&=,'.mp4", "n" * 251 + ".mp4", "a\tb\nc.mp4", "$(x).mp4"])
def test_any_name_that_a_file_can_have(tmp_path, name, whole):
    path = tmp_path / name
    path.write_bytes(whole.read_bytes())
    assert probe(path).frames == 90


# What must not be followed

PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile {neighbour}\n",
    "concat_url": "ffconcat version 1.0\nfile {url}\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{neighbour}\n#EXT-X-ENDLIST\n",
    "hls_url": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD type="static" mediaPresentationDuration="PT1S"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>{url}</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>",
}
SUFFIXES = (".mp4", ".m3u8", ".ffconcat", ".sdp", ".mpd")
CODES = {"concat": "E-FORMAT", "hls": "E-FORMAT", "sdp": "E-FORMAT", "dash": "E-NOTVIDEO"}
IN_OPEN, NONBLOCK = 0x20, os.O_NONBLOCK


@pytest.fixture
def watched(tmp_path):
    """A neighbouring video, and a function that says whether anyone has opened it."""
    path = videos.write_video(tmp_path / "neighbour.ts", frames=3)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(NONBLOCK)
    assert descriptor >= 0 and libc.inotify_add_watch(descriptor, bytes(path), IN_OPEN) >= 0

    def opened() -> bool:
        try:
            return bool(os.read(descriptor, 4096))
        except BlockingIOError:
            return False

    yield path, opened
    os.close(descriptor)


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def called(server) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_no_file_and_no_socket(tmp_path, watched, server, kind, monkeypatch):
    neighbour, opened = watched
    monkeypatch.chdir(tmp_path)
    port = server.getsockname()[1]
    text = PLAYLISTS[kind].format(
        neighbour=neighbour.name, url=f"http://127.0.0.1:{port}/a.ts", port=port
    )
    for suffix in SUFFIXES:
        path = Path(f"list{suffix}")
        path.write_text(text)
        assert refusal(path).code == CODES[kind.split("_")[0]]
        # Past the look at its first bytes, FFmpeg itself must refuse as well.
        with pytest.raises(av.FFmpegError), open_video(path):
            pass
    assert not opened()
    assert not called(server)


def test_the_watchers_above_would_notice(watched, server):
    neighbour, opened = watched
    neighbour.read_bytes()
    assert opened() and not opened()
    with socket.create_connection(server.getsockname()):
        assert called(server)


@pytest.mark.parametrize("name", ["http://127.0.0.1:{}/a.mp4", "rtsp://127.0.0.1:{}/a"])
def test_an_address_is_no_path(tmp_path, server, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = name.format(server.getsockname()[1])
    for path in (address, tmp_path / address):
        error = refusal(path)
        assert (error.code, error.what) == (
            "E-NOTFILE",
            "is an address: remote videos are not read",
        )
    assert refusal("a:b.mp4").code == "E-MISSING"
    assert not called(server)
