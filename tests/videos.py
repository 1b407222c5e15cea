"""Real videos for tests, encoded through PyAV, with the frame number drawn into the pixels."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Picture = Callable[[int], np.ndarray]

OPEN_GOP = {"x264-params": "open-gop=1:min-keyint=12:b-adapt=0"}  # with gop=12, b_frames=3
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
FASTSTART = {"movflags": "+faststart"}
# type, version and flags, two times, track, reserved, duration, reserved, layer .. volume
MATRIX_BEHIND_TKHD = 4 + 4 + 8 + 4 + 4 + 4 + 8 + 8
NUMBER_BITS = 12  # numbers below 4096
COLUMNS, ROWS = 4, 3
QUIET = {"libx264": {"threads": "1"}, "libx265": {"x265-params": "log-level=none:pools=1"}}
FAST = {"libx264": {"preset": "ultrafast", "crf": "18"}, "libx265": {"preset": "ultrafast"}}
FAST["libvpx-vp9"] = {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"}


def number_frame(n: int, width: int, height: int) -> np.ndarray:
    """Picture [H, W, 3] uint8 with `n` as a 4 x 3 grid of black and white blocks, one per bit."""
    bits = (n >> np.arange(NUMBER_BITS)) & 1
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    luma = (bits.reshape(ROWS, COLUMNS)[rows][:, columns] * 255).astype(np.uint8)
    return np.repeat(luma[:, :, None], 3, axis=2)


def read_number(rgb: np.ndarray) -> int:
    """The number drawn by `number_frame`, from the mean of the middle half of each block."""
    height, width = rgb.shape[0] / ROWS, rgb.shape[1] / COLUMNS
    bits = 0
    for bit in range(NUMBER_BITS):
        row, column = divmod(bit, COLUMNS)
        top, left = int((row + 0.25) * height), int((column + 0.25) * width)
        bottom, right = int((row + 0.75) * height) + 1, int((column + 0.75) * width) + 1
        bits |= int(rgb[top:bottom, left:right].mean() > 127) << bit
    return bits


def marked_corner(width: int, height: int) -> np.ndarray:
    """Black picture [H, W, 3] uint8 whose top left quarter is white."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 255
    return picture


def write_video(
    path: Path,
    *,
    frames: int = 40,
    size: tuple[int, int] = (64, 64),
    fps: int | Fraction = 25,
    codec: str = "libx264",
    gop: int = 250,
    b_frames: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
    rotation: int = 0,
    pixel_format: str = "yuv420p",
    times: list[int] | None = None,
    audio: bool = False,
    pixels: Picture | None = None,
) -> Path:
    """Encode frames 0 .. frames - 1; the container follows the suffix of `path`.

    size: (width, height) as stored. pixels(n): [H, W, 3] uint8 of frame n, by default its number.
    rotation: degrees clockwise that turn the stored picture upright, written as display matrix.
    times: presentation time of every frame in 1/(100 fps), for variable frame rates.
    audio: add a silent AAC track before the video.
    """
    width, height = size
    pixels = pixels or (lambda n: number_frame(n, width, height))
    rate = Fraction(fps)
    with av.open(
        str(path), "w", format=container_format, container_options=container_options or {}
    ) as container:
        sound = container.add_stream("aac", rate=8000) if audio else None
        settings = {**QUIET.get(codec, {}), **FAST.get(codec, {}), **(options or {})}
        video = container.add_stream(codec, rate=rate, options=settings)
        video.width, video.height, video.pix_fmt = width, height, pixel_format
        video.gop_size, video.max_b_frames = gop, b_frames
        if times:
            video.codec_context.time_base = 1 / (rate * 100)
        if rotation:
            video.set_display_rotation(-rotation)
        if not frames:
            container.start_encoding()  # writes the headers, which the first frame else does
        for n in range(frames):
            picture = av.VideoFrame.from_ndarray(pixels(n), format="rgb24")
            if times:
                picture.pts, picture.time_base = times[n], 1 / (rate * 100)
            container.mux(video.encode(picture))
        container.mux(video.encode())
        if sound:
            _mux_silence(container, sound, seconds=float(frames / rate))
    return path


def _mux_silence(container, stream, *, seconds: float) -> None:
    for block in range(max(1, int(seconds * 8000 / 1024))):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 8000, block * 1024
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_audio(path: Path, *, seconds: float = 0.5) -> Path:
    """A file with one silent AAC track and no video."""
    with av.open(str(path), "w") as container:
        _mux_silence(container, container.add_stream("aac", rate=8000), seconds=seconds)
    return path


def write_cover_art(path: Path) -> Path:
    """A file with one silent AAC track and an attached picture: a video stream in name only."""
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(number_frame(1, 64, 64), format="rgb24")
        for packet in [*cover.encode(picture.reformat(format="yuvj420p")), *cover.encode()]:
            container.mux(packet)
        _mux_silence(container, sound, seconds=0.5)
    return path


def cut_start_by_edit_list(source: Path, path: Path, *, frames: int) -> Path:
    """The MP4 `source` with an edit list that skips its first `frames`: packets stay, as with
    `ffmpeg -ss ... -c copy`, but frame 0 of the result shows number `frames`."""
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        shift = int(frames / stream.average_rate / stream.time_base)
        for packet in old.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                new.mux(packet)
    return path


def move_index_to_front(path: Path) -> None:
    """Rewrite an MP4 in place with moov before mdat, its chunk offsets moved along."""
    data = path.read_bytes()
    boxes, start = {}, 0
    while start < len(data):
        size = int.from_bytes(data[start : start + 4])
        boxes[data[start + 4 : start + 8]] = data[start : start + size]
        start += size
    moov = bytearray(boxes.pop(b"moov"))
    table = moov.index(b"stco") + 4 + 4
    count = int.from_bytes(moov[table : table + 4])
    for at in range(table + 4, table + 4 + 4 * count, 4):
        moov[at : at + 4] = (int.from_bytes(moov[at : at + 4]) + len(moov)).to_bytes(4)
    head = boxes.pop(b"ftyp")
    path.write_bytes(head + moov + b"".join(boxes.values()))


def display_matrix(path: Path) -> tuple[int, int, int, int]:
    """a, b, c, d of the display matrix in an MP4's track header, read from its bytes."""
    data = path.read_bytes()
    at = data.index(b"tkhd") + MATRIX_BEHIND_TKHD
    a, b, _, c, d = struct.unpack(">5i", data[at : at + 20])
    return a >> 16, b >> 16, c >> 16, d >> 16


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Overwrite a, b, c, d of the display matrix in an MP4's track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + MATRIX_BEHIND_TKHD
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 20] = struct.pack(">5i", a, b, 0, c, d)
    path.write_bytes(data)


def write_packed_avi(path: Path, *, frames: int, gop: int = 12) -> Path:
    """MPEG-4 ASP in AVI with packed B-frames as DivX 5 writes them, frame numbers drawn in.

    Of a reference frame P and the B-frame shown before it, both are in one chunk, and the next
    chunk holds only a "not coded" frame. User data that ends in "p" announces this.
    """
    packets = _mpeg4_packets(frames, gop)
    chunks = []
    while packets:
        data, is_key = packets.pop(0)
        if packets and _vop_type(packets[0][0]) == "B":
            chunks += [(data + packets.pop(0)[0], is_key), (NOT_CODED, False)]
        else:
            chunks.append((data, is_key))
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
        for n, (data, is_key) in enumerate(chunks):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = n
            packet.is_keyframe = is_key
            container.mux(packet)
    return path


# ISO/IEC 14496-2: start code, type P, no whole second, marker, 5 bits of time (25 fps), marker,
# vop_coded 0, stuffing.
NOT_CODED = bytes.fromhex("000001b6") + bytes([0b01010000, 0b01001111])


def _vop_type(data: bytes) -> str:
    """I, P, B or S of the first picture in an MPEG-4 packet."""
    return "IPBS"[data[data.index(b"\x00\x00\x01\xb6") + 4] >> 6]


def _mpeg4_packets(frames: int, gop: int) -> list[tuple[bytes, bool]]:
    """(data, key frame) in decoding order, with one B-frame before each P, named as DivX's."""
    codec = av.CodecContext.create("mpeg4", "w")
    codec.width, codec.height, codec.pix_fmt = 64, 64, "yuv420p"
    codec.time_base, codec.framerate = Fraction(1, 25), Fraction(25)
    codec.gop_size, codec.max_b_frames, codec.bit_rate = gop, 1, 2_000_000
    codec.thread_count = 1
    packets = []
    for n in range(frames):
        picture = av.VideoFrame.from_ndarray(number_frame(n, 64, 64), format="rgb24")
        picture.pts = n
        packets += codec.encode(picture)
    packets += codec.encode()
    encoder_name = re.compile(rb"\x00\x00\x01\xb2Lavc[^\x00]*")
    return [
        (encoder_name.sub(b"\x00\x00\x01\xb2DivX503b1393p", bytes(packet)), packet.is_keyframe)
        for packet in packets
    ]
