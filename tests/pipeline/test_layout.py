import io
import struct

import pytest

from pipeline.layout import declared_bytes, declared_samples, lacks_moov, mp4_boxes
from tests import videos


def box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def wide_box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I4sQ", 1, kind, 16 + len(payload)) + payload


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mkv", "libx264")]
)
def test_a_whole_file_declares_its_length(tmp_path, name, codec):
    data = videos.write_video(tmp_path / name, frames=10, codec=codec).read_bytes()
    assert declared_bytes(io.BytesIO(data)) == len(data)
    assert declared_bytes(io.BytesIO(data[:-1])) == len(data)


@pytest.mark.parametrize(
    "data", [b"", b"R", b"RIFF", b"\x1a\x45\xdf\xa3", b"\x00\x00\x00\x08ftyp", b"no container"]
)
def test_stumps_do_not_break_it(data):
    assert declared_bytes(io.BytesIO(data)) in (None, 8)


def test_boxes_with_64_bit_and_open_sizes():
    data = box(b"ftyp", b"isom") + wide_box(b"mdat", b"12345") + struct.pack(">I4s", 0, b"free")
    assert list(mp4_boxes(io.BytesIO(data + b"rest"))) == [
        (b"ftyp", 12),
        (b"mdat", 33),
        (b"free", 45),
    ]


def test_moov_is_looked_for_behind_the_frames():
    start = box(b"ftyp", b"isom") + box(b"mdat", b"moov")
    assert lacks_moov(io.BytesIO(start))
    assert not lacks_moov(io.BytesIO(start + box(b"moov", b"")))
    assert not lacks_moov(io.BytesIO(b"RIFF1234AVI "))


def test_a_segment_of_unknown_length_promises_nothing():
    header = bytes.fromhex("1a45dfa3 80 18538067 01ffffffffffffff")
    assert declared_bytes(io.BytesIO(header + b"clusters")) is None
    known = bytes.fromhex("1a45dfa3 80 18538067 88")
    assert declared_bytes(io.BytesIO(known)) == len(known) + 8


def test_a_second_riff_chunk_counts_and_may_start_behind_a_padding_byte():
    first = struct.pack("<4sI", b"RIFF", 5) + b"AVI x" + b"\0"
    second = struct.pack("<4sI", b"RIFF", 100)
    assert declared_bytes(io.BytesIO(first)) == 13
    assert declared_bytes(io.BytesIO(first + second)) == 14 + 8 + 100
    assert declared_bytes(io.BytesIO(struct.pack("<4sI", b"RIFF", 0) + b"AVI ")) is None


def track(handler: bytes, samples: int, kind: bytes = b"stsz") -> bytes:
    table = box(kind, bytes(8) + struct.pack(">I", samples))
    described = box(b"hdlr", bytes(8) + handler + bytes(13))
    return box(b"trak", box(b"mdia", described + box(b"minf", box(b"stbl", table))))


def test_the_index_of_a_video_track_tells_its_frames():
    sound, picture = track(b"soun", 5_000_000), track(b"vide", 300)
    start = box(b"ftyp", b"isom")
    assert declared_samples(io.BytesIO(start + box(b"moov", sound + picture))) == 300
    compact = track(b"vide", 1 << 31, b"stz2")
    assert declared_samples(io.BytesIO(start + box(b"moov", picture + compact))) == 1 << 31
    assert declared_samples(io.BytesIO(start + box(b"moov", sound))) == 0
    assert declared_samples(io.BytesIO(b"RIFF1234AVI ")) == 0
    cut = (start + box(b"moov", picture))[:-7]
    assert declared_samples(io.BytesIO(cut)) in (0, 300)


def test_the_index_of_a_real_file_tells_its_frames(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", frames=37, b_frames=2, audio=True)
    with path.open("rb") as file:
        assert declared_samples(file) == 37
