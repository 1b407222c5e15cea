import os
from pathlib import Path

import av
import pytest

from pipeline.container import ByteRange, Tally, decode_linear, open_video
from tests import videos


def numbers(path, offset=0, size=None):
    """The drawn number of every frame, in the order of decode_linear, checked to count from 0."""
    shown = []
    with open_video(path, offset, size) as container:
        for n, frame in decode_linear(container):
            assert n == len(shown)
            shown.append(videos.read_number(frame.to_ndarray(format="rgb24")))
    return shown


MADE = {
    "long_gop.mp4": {"gop": 250},
    "b_frames.mp4": {"gop": 12, "b_frames": 2},
    "open_gop.mp4": {"gop": 12, "b_frames": 3, "options": videos.OPEN_GOP},
    "fragmented.mp4": {"gop": 12, "container_options": videos.FRAGMENTED},
    "sound.mp4": {"audio": True},
    "hevc.mp4": {"codec": "libx265", "b_frames": 2},
    "asp.avi": {"codec": "mpeg4", "gop": 12, "b_frames": 2},
    "h264.avi": {"gop": 12, "b_frames": 2},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 20},
    "b_frames.mkv": {"gop": 12, "b_frames": 2},
    "b_frames.ts": {"gop": 12, "b_frames": 2},
    "h264.flv": {"gop": 12},
    "mpeg1.mpg": {"codec": "mpeg1video", "gop": 12},
    "wmv2.wmv": {"codec": "wmv2", "gop": 12},
}


@pytest.mark.parametrize("name", MADE)
def test_frames_come_in_order_and_all(tmp_path, name):
    path = videos.write_video(tmp_path / name, frames=40, **MADE[name])
    assert numbers(path) == list(range(40))


def test_packed_b_frames_come_in_order_and_all(tmp_path):
    path = videos.write_packed_avi(tmp_path / "packed.avi", frames=40)
    assert numbers(path) == list(range(40))


def test_frames_cut_by_an_edit_list_are_not_there(tmp_path):
    whole = videos.write_video(tmp_path / "whole.mp4", frames=40, b_frames=2, gop=12)
    cut = videos.cut_start_by_edit_list(whole, tmp_path / "cut.mp4", frames=15)
    assert numbers(cut) == list(range(15, 40))
    tally = Tally()
    with open_video(cut) as container:
        assert len(list(decode_linear(container, tally))) == 25
    assert tally == Tally(packets=25)


def test_a_byte_range_hides_its_surroundings(tmp_path):
    video = videos.write_video(tmp_path / "a.mp4", frames=10).read_bytes()
    tar = tmp_path / "some.tar"
    tar.write_bytes(b"x" * 777 + video + b"y" * 999)
    assert numbers(tar, 777, len(video)) == list(range(10))
    with ByteRange(tar, 777, len(video)) as file:
        assert file.read() == video
        assert file.seek(-3, os.SEEK_END) == len(video) - 3
        assert file.read(10) == video[-3:]
        assert file.read(10) == b""


def test_a_byte_range_ends_with_its_file(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(b"0123456789")
    with ByteRange(path, 4, 100) as file:
        assert (file.size, file.read()) == (6, b"456789")


@pytest.mark.parametrize("name", ["neighbour.mp4", "file:neighbour.mp4"])
def test_a_playlist_opens_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    videos.write_video(tmp_path / "neighbour.mp4", frames=3)
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile {name}\n")
    with pytest.raises(av.FFmpegError), open_video(playlist):
        pass


def test_no_descriptor_is_left_open(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", frames=3)
    broken = tmp_path / "b.mp4"
    broken.write_bytes(b"nothing")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        numbers(path)
        with pytest.raises(av.FFmpegError), open_video(broken):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_tally_counts_what_does_not_decode(tmp_path):
    path = videos.write_video(
        tmp_path / "a.mp4", frames=40, gop=5, container_options=videos.FASTSTART
    )
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[7]
        data[entry.pos : entry.pos + entry.size] = b"\xff" * entry.size
    path.write_bytes(data)
    tally = Tally()
    with open_video(path) as container:
        frames = sum(1 for _ in decode_linear(container, tally))
    assert (tally.packets, tally.errors, tally.cut) == (40, 1, False)
    assert 30 <= frames < 40
