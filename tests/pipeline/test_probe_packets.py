"""The packet scan: the facts of decoding, or decoding itself where packets do not tell."""

import subprocess
from fractions import Fraction

import av
import imageio_ffmpeg
import numpy as np
import pytest

from pipeline import probe as module
from pipeline.container import decode_linear, open_video, video_stream
from pipeline.errors import BadVideo
from pipeline.limits import Limits
from pipeline.probe import probe, try_probe
from pipeline.scan import Scan
from tests import videos

FRAMES = 50
VFR = [int(n * 100 + 40 * np.sin(n)) + 40 for n in range(FRAMES)]
ALT_REF = {"deadline": "good", "cpu-used": "4", "auto-alt-ref": "1", "lag-in-frames": "16"}
INTERLACED = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
TOLD = {
    "long_gop.mp4": {"gop": 250},
    "intra.mp4": {"gop": 1},
    "b_frames.mp4": {"gop": 20, "b_frames": 3},
    "open_gop.mp4": {"gop": 12, "b_frames": 3, "options": videos.OPEN_GOP},
    "open_gop.mkv": {"gop": 12, "b_frames": 3, "options": videos.OPEN_GOP},
    "open_gop.ts": {"gop": 12, "b_frames": 3, "options": videos.OPEN_GOP},
    "fragmented.mp4": {"gop": 12, "container_options": videos.FRAGMENTED},
    "sound_first.mp4": {"gop": 12, "audio": True},
    "ntsc.mkv": {"gop": 20, "b_frames": 2, "fps": Fraction(30000, 1001)},
    "rotated.mp4": {"gop": 12, "rotation": 90, "size": (96, 64)},
    "vfr.mp4": {"gop": 20, "times": VFR},
    "vfr.mkv": {"gop": 20, "times": VFR},
    "hevc.mp4": {"codec": "libx265", "gop": 20, "b_frames": 3},
    "hevc.ts": {"codec": "libx265", "gop": 20, "b_frames": 3},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 20},
    "vp8.webm": {"codec": "libvpx", "gop": 20, "options": {"deadline": "realtime"}},
    "asp.avi": {"codec": "mpeg4", "gop": 12},
    "asp_b_frames.avi": {"codec": "mpeg4", "gop": 12, "b_frames": 2},
    "asp.mp4": {"codec": "mpeg4", "gop": 12, "b_frames": 2},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
}
NOT_TOLD = {
    "h264.avi": {"gop": 12, "b_frames": 2},
    "h264.flv": {"gop": 12},
    "mpeg1.mpg": {"codec": "mpeg1video", "gop": 12},
    "mpeg2.ts": {"codec": "mpeg2video", "gop": 12, "b_frames": 2},
    "wmv2.wmv": {"codec": "wmv2", "gop": 12},
    "interlaced.mp4": {"gop": 20, "options": INTERLACED},
    "interlaced.ts": {"gop": 20, "options": INTERLACED},
}


def no_decoding(*_):
    raise AssertionError("decoded")


@pytest.mark.parametrize("name", TOLD)
def test_packets_tell_the_facts_of_decoding(tmp_path, name, monkeypatch):
    path = videos.write_video(tmp_path / name, frames=FRAMES, **TOLD[name])
    decoded = probe(path)
    assert decoded.frames == FRAMES
    monkeypatch.setattr(module, "scan_frames", no_decoding)
    assert probe(path, scan="packets") == decoded


@pytest.mark.parametrize("name", NOT_TOLD)
def test_where_packets_do_not_tell_all_frames_are_decoded(tmp_path, name, monkeypatch):
    path = videos.write_video(tmp_path / name, frames=FRAMES, **NOT_TOLD[name])
    assert probe(path, scan="packets") == probe(path)
    monkeypatch.setattr(module, "scan_frames", no_decoding)
    assert try_probe(path, scan="packets").what == "cannot be decoded (AssertionError: decoded)"


@pytest.mark.parametrize("skipped", [14, 15, 20, 21])
def test_packets_that_an_edit_list_cuts_away_do_not_count(tmp_path, skipped, monkeypatch):
    whole = videos.write_video(tmp_path / "whole.mp4", frames=FRAMES, gop=20, b_frames=2)
    path = videos.cut_start_by_edit_list(whole, tmp_path / "cut.mp4", frames=skipped)
    decoded = probe(path)
    assert decoded.frames == FRAMES - skipped
    monkeypatch.setattr(module, "scan_frames", no_decoding)
    assert probe(path, scan="packets") == decoded


def test_packed_b_frames_are_decoded(tmp_path):
    path = videos.write_packed_avi(tmp_path / "packed.avi", frames=FRAMES)
    assert probe(path, scan="packets") == probe(path)
    assert probe(path).frames == FRAMES


@pytest.fixture(scope="module", params=["libvpx", "libvpx-vp9"])
def alt_ref(request, tmp_path_factory):
    """A two-pass WebM with alt-ref frames, which are coded but never shown."""
    folder = tmp_path_factory.mktemp("alt_ref")
    path = folder / f"{request.param}.webm"
    for number in (1, 2):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "lavfi"]
        command += ["-i", f"testsrc2=s=64x64:r=25:d={FRAMES / 25}", "-c:v", request.param]
        command += [word for k, v in ALT_REF.items() for word in (f"-{k}", v)]
        command += ["-b:v", "60k", "-pass", str(number), "-passlogfile", str(folder / "log")]
        subprocess.run([*command, "-threads", "1", str(path)], check=True)
    return path


def test_hidden_alt_ref_frames_do_not_count(alt_ref, monkeypatch):
    with open_video(alt_ref) as container:
        stream = video_stream(container)
        packets = [bytes(p) for p in container.demux(stream) if p.size]
    if "vp9" in alt_ref.name:
        assert any(data[-1] & 0xE0 == 0xC0 for data in packets)  # a superframe holds it
    else:
        assert len(packets) > FRAMES  # it has a packet of its own
    decoded = probe(alt_ref)
    assert decoded.frames == FRAMES
    monkeypatch.setattr(module, "scan_frames", no_decoding)
    assert probe(alt_ref, scan="packets") == decoded


def test_a_lone_hidden_vp9_frame_does_not_count(tmp_path):
    """Some muxers store the parts of a superframe as packets of their own."""
    from pipeline.scan import _vp9_pictures

    packet = av.Packet
    assert _vp9_pictures(packet(bytes([0b1000_0010, 0, 0]))) == 1  # key frame, shown
    assert _vp9_pictures(packet(bytes([0b1000_0100, 0, 0]))) == 0  # inter frame, hidden
    assert _vp9_pictures(packet(bytes([0b1000_1000, 0]))) == 1  # shows an older one
    assert _vp9_pictures(packet(bytes([0b1011_0001, 0, 0]))) == 1  # profile 3 has a bit more
    assert _vp9_pictures(packet(bytes([0b1011_0010, 0, 0]))) == 0


def test_a_stream_that_starts_between_key_frames_is_decoded(tmp_path):
    whole = videos.write_video(tmp_path / "whole.ts", frames=FRAMES, gop=20, b_frames=2)
    data = whole.read_bytes()
    with open_video(whole) as container:
        stream = video_stream(container)
        at = [p.pos for p in container.demux(stream) if p.size][5]
    path = tmp_path / "tail.ts"
    tables = data[: 188 * 3]  # SDT, PAT and PMT
    path.write_bytes(tables + data[at:])
    facts = probe(path, scan="packets")
    with open_video(path) as container:
        assert facts.frames == sum(1 for _ in decode_linear(container)) < FRAMES
    assert facts == probe(path)


def test_a_cut_file_is_refused_alike(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        faststart = videos.FASTSTART if name == "a.mp4" else {}
        path = videos.write_video(
            tmp_path / name, frames=FRAMES, gop=12, container_options=faststart
        )
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        refusals = [try_probe(path, scan=scan) for scan in ("decode", "packets")]
        assert str(refusals[0]) == str(refusals[1])
        assert refusals[0].code == "E-TRUNCATED"


def test_limits_hold_for_packets(tmp_path):
    path = videos.write_video(tmp_path / "a.mkv", frames=30)
    for scan in ("decode", "packets"):
        error = try_probe(path, scan=scan, limits=Limits(max_frames=29))
        assert isinstance(error, BadVideo)
        assert (error.code, error.what) == ("E-TOOBIG", "more than max_frames 29 frames")
        assert probe(path, scan=scan, limits=Limits(max_frames=30)).frames == 30


def test_only_the_first_frame_is_decoded(tmp_path, monkeypatch):
    path = videos.write_video(tmp_path / "a.mp4", frames=FRAMES, gop=12)
    from pipeline import scan

    given = []
    original = scan.decode_packet

    def spy(stream, packet, tally):
        given.append(packet)
        return original(stream, packet, tally)

    monkeypatch.setattr(scan, "decode_packet", spy)
    probe(path, scan="packets")
    assert len(given) < 10


@pytest.mark.parametrize(
    ("pictures", "span", "time_base", "rate"),
    [
        (3, 2, Fraction(1, 25), Fraction(25)),
        (2, 5, Fraction(1, 3), Fraction(3, 5)),
        (40_001, 333_331, Fraction(1, 90_000), Fraction(40_000 * 90_000, 333_331)),
        (1, 0, Fraction(1, 25), None),
        (4, 1, Fraction(1, 10**9), None),
    ],
)
def test_a_measured_rate_fits_the_manifest(pictures, span, time_base, rate):
    """Both sides of the fraction are int32 there."""
    measured = Scan(times=[0] * (pictures - 1) + [span]).measured_rate(time_base)
    assert (measured is None) == (rate is None)
    if rate is not None:
        assert measured.numerator < 2**31
        assert abs(measured / rate - 1) < Fraction(1, 10**9)
