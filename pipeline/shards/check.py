"""Are the tars of a manifest those that were indexed? One look at each file, before a run starts.

A missing tar would otherwise show as hundreds of bad videos, and an exchanged one as damage in the
middle of a run. What a look cannot see, single wrong bytes, the rows' crc32 finds (tools/verify).
"""

from __future__ import annotations

import os
import stat
import tarfile
import time
from pathlib import Path

from pipeline.errors import DataError
from pipeline.manifest import Manifest
from pipeline.shards.tar import BLOCK_BYTES, END_BYTES, BadShard, whole_blocks

BRING_BACK = "bring it back, or index again with python -m tools.index"
OCTAL_LIMIT_BYTES = 8 << 30  # a header's size field ends here; behind it others are used


def require_shards(manifest: Manifest) -> None:
    """Raises DataError naming the first tar that `check_shards` finds, and how many more."""
    bad = check_shards(manifest)
    if not bad:
        return
    more = f", and {len(bad) - 1} more are missing or changed" if len(bad) > 1 else ""
    first = bad[0]
    raise DataError(f"error[{first.code}]: {first.what}{more} · {first.path} · {first.cure}")


def check_shards(manifest: Manifest) -> list[BadShard]:
    """What is wrong with the tars of a manifest: missing, unreadable, cut off or exchanged.

    Costs an open and a read of one block a tar. A tar counts as exchanged when the manifest's last
    video in it does not follow on a header with its size.
    """
    ranges = manifest.last_ranges()
    found = (_check(path, *last, manifest, len(ranges)) for path, last in ranges.items())
    return [bad for bad in found if bad]


def _check(path: Path, offset: int, size: int, manifest: Manifest, shards: int) -> BadShard | None:
    name = path.name
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return BadShard("E-SHARD", f"{name} is no regular file", path, BRING_BACK)
        with path.open("rb", buffering=0) as file:
            block = os.pread(file.fileno(), BLOCK_BYTES, offset - BLOCK_BYTES)
    except FileNotFoundError:
        what = f"{name} missing (manifest lists {shards})"
        return BadShard("E-SHARD", what, path, BRING_BACK)
    except OSError as error:
        what = f"{name} cannot be read ({error.strerror or error})"
        return BadShard("E-SHARD", what, path, "check the disk and permissions")
    end = offset + whole_blocks(size) + END_BYTES
    if status.st_size < end:
        what = f"{name} is truncated: {status.st_size} bytes, at least {end} when it was indexed"
        return BadShard("E-SHARD", what, path, "copy it again")
    if not _announces(block, size):
        times = f"it is of {_day(path)}, the manifest of {_day(manifest.path)}"
        what = f"{name} is not the shard that was indexed ({times})"
        return BadShard("E-SHARD", what, path, BRING_BACK)
    return None


def _announces(block: bytes, size: int) -> bool:
    """The block is the header of a tar member of `size` bytes."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return header.size == size or size >= OCTAL_LIMIT_BYTES


def _day(path: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
