"""How long a container says it is, from its outermost boxes alone: nothing is decoded.

A download that stopped leaves a file shorter than its own headers say. FFmpeg plays what is there
and, for Matroska, does not even mention it; so the prober compares.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

MP4_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"}
EBML, SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")


def declared_bytes(file: BinaryIO) -> int | None:
    """Length in bytes that the container claims; None when its format does not tell."""
    head = _at(file, 0, 12)
    if head[4:8] in MP4_FIRST_BOXES:
        return max((end for _, end in mp4_boxes(file)), default=None)
    if head[:4] == b"RIFF":
        return _riff_end(file)
    if head[:4] == EBML:
        return _matroska_end(file)
    return None


def lacks_moov(file: BinaryIO) -> bool:
    """An MP4 or QuickTime file without the box that says where its frames are."""
    if _at(file, 4, 4) not in MP4_FIRST_BOXES:
        return False
    return all(kind != b"moov" for kind, _ in mp4_boxes(file))


def declared_samples(file: BinaryIO) -> int:
    """Most frames that the index of an MP4's video track lists; 0 where there is none.

    FFmpeg builds its own index, 24 bytes a frame, before anything is read: 12 bytes of a file that
    lists a thousand million frames of equal size would cost 24 GB.
    """
    if _at(file, 4, 4) not in MP4_FIRST_BOXES:
        return 0
    media = list(_inside(file, 0, _length(file), (b"moov", b"trak", b"mdia")))
    counts = [0]
    for start, end in media:
        handlers = [_at(file, at + 8, 4) for at, _ in _inside(file, start, end, (b"hdlr",))]
        if b"vide" not in handlers:
            continue
        for kind in (b"stsz", b"stz2"):
            path = (b"minf", b"stbl", kind)
            counts += (
                int.from_bytes(_at(file, at + 8, 4)) for at, _ in _inside(file, start, end, path)
            )
    return max(counts)


def mp4_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(type, end position) of the top-level boxes (ISO/IEC 14496-12, 4.2)."""
    for kind, _, end in _boxes(file, 0, _length(file)):
        yield kind, end


def _boxes(file: BinaryIO, start: int, length: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, position of the content, end position) of the boxes in [start, length)."""
    while start + 8 <= length:
        size, kind = struct.unpack(">I4s", _at(file, start, 8))
        head = 8
        if size == 1:  # a 64-bit size follows
            wide, head = _at(file, start + 8, 8), 16
            size = struct.unpack(">Q", wide)[0] if len(wide) == 8 else 16
        if size == 0:  # up to the end of the file
            size = length - start
        if size < 8:
            return
        yield kind, start + head, start + size
        start += size


def _inside(
    file: BinaryIO, start: int, end: int, path: tuple[bytes, ...]
) -> Iterator[tuple[int, int]]:
    """(position of the content, end position) of every box at `path` below [start, end)."""
    for kind, content, behind in _boxes(file, start, end):
        if kind == path[0] and len(path) == 1:
            yield content, behind
        elif kind == path[0]:
            yield from _inside(file, content, min(behind, end), path[1:])


def _riff_end(file: BinaryIO) -> int | None:
    """End of the last RIFF chunk; files over 1 GB have several (OpenDML)."""
    end = None
    start, head = 0, _at(file, 0, 8)
    while len(head) == 8 and head[:4] == b"RIFF":
        size = struct.unpack("<I", head[4:])[0]
        if size in (0, 0xFFFFFFFF):  # written to a pipe: never filled in
            return None
        end = start + 8 + size
        start = end + size % 2
        head = _at(file, start, 8)
    return end


def _matroska_end(file: BinaryIO) -> int | None:
    """End of the segment (RFC 8794 element sizes); None when it was written without a size."""
    header_size, at = _ebml_size(file, 4)
    if header_size is None or _at(file, at + header_size, 4) != SEGMENT:
        return None
    segment_size, body = _ebml_size(file, at + header_size + 4)
    return None if segment_size is None else body + segment_size


def _ebml_size(file: BinaryIO, start: int) -> tuple[int | None, int]:
    """Value of the variable-length number at `start`, and the position behind it."""
    first = _at(file, start, 1)
    if not first or not first[0]:
        return None, start
    length = 9 - first[0].bit_length()
    value = int.from_bytes(_at(file, start, length)) & ((1 << 7 * length) - 1)
    unknown = value == (1 << 7 * length) - 1
    return None if unknown else value, start + length


def _at(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _length(file: BinaryIO) -> int:
    return file.seek(0, 2)
