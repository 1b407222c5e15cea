"""CPU and memory that this process may use: what the kernel has, less what its cgroups allow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
NO_LIMIT = 2**60  # version 1 says "no limit" by a number near 2^63


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs worth of time that the cgroups of this process grant; None without a limit."""
    found = []
    for folder in _folders("", root):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdecimal():
            found.append(int(quota) / int(period))
    for folder in _folders("cpu", root):
        quota, period = (_read(folder / f"cpu.cfs_{what}_us") for what in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal():  # -1: no limit
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the cgroups of this process grant; None without a limit."""
    texts = [_read(folder / "memory.max") for folder in _folders("", root)]
    texts += [_read(folder / "memory.limit_in_bytes") for folder in _folders("memory", root)]
    limits = [int(text) for text in texts if text.isdecimal()]
    return min((limit for limit in limits if limit < NO_LIMIT), default=None)


def memory_info(root: Path = ROOT) -> dict[str, int]:
    """Bytes by the names of /proc/meminfo."""
    lines = (line.split() for line in _read(root / "proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1}


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """Folder of this process's cgroup for a controller ("": version 2) and of all above it.

    In a container the file system often shows only what is below its own cgroup, at the top.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controllers
            inside = top / path.lstrip("/")
            yield inside
            yield from (above for above in inside.parents if above.is_relative_to(top))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
