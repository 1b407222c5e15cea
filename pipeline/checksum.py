"""Checksums of a file's bytes, read a piece at a time."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

from pipeline.container import ByteRange

CHUNK_BYTES = 1 << 20


def crc32(file: ByteRange) -> int:
    """Of the bytes that are left to read."""
    crc = 0
    while chunk := file.read(CHUNK_BYTES):
        crc = zlib.crc32(chunk, crc)
    return crc


def sha256(path: str | Path, offset: int = 0, size: int | None = None) -> str:
    """Hexadecimal, of bytes [offset, offset + size) of a file; size None: to its end."""
    with ByteRange(path, offset, size) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
