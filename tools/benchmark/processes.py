"""What this process and all that it started take of the machine, as /proc tells it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")  # of processor time in a second
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
# Fields of /proc/<pid>/stat behind the name, which may hold anything: proc(5) numbers them from 3.
PARENT, USER, SYSTEM, RESIDENT = 4 - 3, 14 - 3, 15 - 3, 24 - 3


@dataclass(frozen=True)
class Usage:
    """cpu_seconds: since each began. resident_bytes: pages that several share count in each.
    read_bytes: asked of files, whether or not a disk had to move.
    """

    cpu_seconds: float
    resident_bytes: int
    open_files: int
    read_bytes: int
    processes: int


def usage(root: int | None = None) -> Usage:
    """Of the process `root`, by default this one, and of all below it that are running."""
    found = [one for pid in family(root or os.getpid()) if (one := _of(pid))]
    cpu, resident, files, read = (sum(column) for column in zip(*found, strict=True))
    return Usage(cpu, resident, files, read, len(found))


def family(root: int) -> list[int]:
    """The process and all below it, loader workers and the server that they fork from included."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found = [root]
    for pid in found:  # which grows
        found += children.get(pid, [])
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for folder in PROC.iterdir():
        if folder.name.isdecimal() and (stat := _stat(int(folder.name))):
            yield int(folder.name), int(stat[PARENT])


def _stat(pid: int) -> list[str]:
    """Nothing of a process that has ended."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _of(pid: int) -> tuple[float, int, int, int] | None:
    stat, folder = _stat(pid), PROC / str(pid)
    try:
        files = len(list((folder / "fd").iterdir()))
        read = int((folder / "io").read_text().split()[1])  # rchar: <bytes>
    except OSError:
        return None
    if not stat:
        return None
    seconds = (int(stat[USER]) + int(stat[SYSTEM])) / TICKS
    return seconds, int(stat[RESIDENT]) * PAGE_BYTES, files, read
