"""Looks at the machine itself: Python, CPUs, memory and the limits that a process meets."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
from multiprocessing.connection import Listener
from pathlib import Path

from tools.doctor.findings import LOW, OFF, OK, STOP, Finding, amount
from tools.doctor.limits import cpu_quota, memory_info, memory_limit

OLDEST_PYTHON = (3, 11)
LEAST_MEMORY = 4 * 2**30  # torch, DALI and two workers hold about 2.5 GiB before any data
# Batches that wait in shared memory for configs/videomoco_k400.yaml: 4 workers with 2 each, of
# 32 clips of 32 frames of 340 x 256 pixels in 3 bytes.
BIG_CLIPS = 4 * 2 * 32 * 32 * 340 * 256 * 3
LEAST_OPEN_FILES, GOOD_OPEN_FILES = 1024, 65536
LEAST_TEMPORARY = 2**30


def python() -> list[Finding]:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return [Finding("Python", STOP, version, "all of it", "install Python 3.11 or newer", {})]
    return [Finding("Python", OK, version, data={"version": version})]


def cpus() -> list[Finding]:
    usable, quota = len(os.sched_getaffinity(0)), cpu_quota()
    data = {"usable": usable, "quota": quota, "installed": os.cpu_count()}
    value = f"{usable} usable of {os.cpu_count()}"
    if quota is None or quota >= usable:
        return [Finding("CPUs", OK, value, data=data)]
    threads = max(1, int(quota))
    return [
        Finding(
            "CPUs",
            LOW,
            f"{value}, but a quota of {quota:g}",
            f"{usable} threads on time for {quota:g}: each waits for the others",
            f"export OMP_NUM_THREADS={threads}, run.threads={threads}, or raise the container's "
            "--cpus",
            data,
        )
    ]


def memory() -> list[Finding]:
    info, limit = memory_info(), memory_limit()
    total = info.get("MemTotal", 0)
    usable = min(total, limit) if limit else total
    granted = f", a limit below the machine's {amount(total)}" if usable < total else ""
    value = f"{amount(usable)}{granted}, {amount(info.get('MemAvailable', 0))} free on the machine"
    data = {"usable_bytes": usable, "total_bytes": total, "limit_bytes": limit}
    if usable >= LEAST_MEMORY:
        return [Finding("memory", OK, value, data=data)]
    return [
        Finding(
            "memory", LOW, value,
            f"training needs about {amount(LEAST_MEMORY)} beside its data",
            "data.workers=0 and a small data.batch_size, or raise the container's --memory",
            data,
        )
    ]  # fmt: skip


def shared_memory(path: str = "/dev/shm") -> list[Finding]:
    """Workers hand their batches over through it."""
    name = path
    cure = "mount it larger (docker run --shm-size=8g) or data.workers=0"
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        effect = "data.workers above 0"
        return [Finding(name, LOW, f"{error.strerror}", effect, cure)]
    data = {"total_bytes": usage.total, "free_bytes": usage.free}
    value = f"{amount(usage.total)}, {amount(usage.free)} free"
    if usage.free >= BIG_CLIPS:
        return [Finding(name, OK, value, data=data)]
    effect = f"workers with big clips need about {amount(BIG_CLIPS)}"
    return [Finding(name, LOW, value, effect, cure, data)]


def open_files() -> list[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    data = {"soft": soft, "hard": hard}
    value = "unlimited" if soft == unlimited else str(soft)
    if soft == unlimited or soft >= LEAST_OPEN_FILES:
        return [Finding("ulimit -n", OK, value, data=data)]
    reach = GOOD_OPEN_FILES if hard == unlimited else min(hard, GOOD_OPEN_FILES)
    cure = f"ulimit -n {reach}"
    if reach < LEAST_OPEN_FILES:
        cure = f"docker run --ulimit nofile={GOOD_OPEN_FILES}, or /etc/security/limits.conf"
    effect = "workers, pipes and sockets of a run can need more: 'Too many open files'"
    return [Finding("ulimit -n", LOW, value, effect, cure, data)]


def temporary_folder() -> list[Finding]:
    """Worker processes are reached by sockets in it, whose path may have some 100 bytes only."""
    name, cure = "TMPDIR", "export TMPDIR=/tmp, or another short path on a disk with space"
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryDirectory(prefix="pymp-") as own:
            Listener(tempfile.mktemp(prefix="listener-", dir=own), "AF_UNIX").close()
    except OSError as error:
        why = error.strerror or str(error)
        return [Finding(name, LOW, " ".join(why.split()), "data.workers above 0", cure)]
    free = shutil.disk_usage(folder).free
    data = {"path": folder, "free_bytes": free}
    value = f"{folder}, {amount(free)} free"
    if (asked := os.environ.get("TMPDIR")) and os.path.abspath(asked) != folder:
        value = f"{value}, because {asked} cannot be written"
        return [Finding(name, LOW, value, "temporary files go elsewhere than asked", cure, data)]
    if free >= LEAST_TEMPORARY:
        return [Finding(name, OK, value, data=data)]
    effect = f"compilers and worker processes write there, up to {amount(LEAST_TEMPORARY)}"
    return [Finding(name, LOW, value, effect, cure, data)]


def home() -> list[Finding]:
    """Triton and torch.compile keep what they compiled there."""
    cure = "export HOME, or TRITON_CACHE_DIR and TORCHINDUCTOR_CACHE_DIR, to a folder of yours"
    effect = "compiled GPU kernels are not kept from run to run"
    try:
        folder = Path.home()
    except RuntimeError as error:
        return [Finding("home", LOW, str(error), effect, cure)]
    if not os.access(folder, os.W_OK):
        return [Finding("home", LOW, f"{folder} cannot be written", effect, cure)]
    return [Finding("home", OK, str(folder))]


def host_name() -> list[Finding]:
    """Processes of a run find each other by it."""
    name = socket.gethostname()
    try:
        socket.gethostbyname(name)
    except OSError as error:
        return [
            Finding(
                "host name", OFF, f"{name}: {error.strerror}", "runs of several processes",
                f"add '127.0.0.1 {name}' to /etc/hosts, or export GLOO_SOCKET_IFNAME=lo",
            )
        ]  # fmt: skip
    return [Finding("host name", OK, name)]


LOOKS = {
    "Python": python,
    "CPUs": cpus,
    "memory": memory,
    "/dev/shm": shared_memory,
    "ulimit -n": open_files,
    "TMPDIR": temporary_folder,
    "home": home,
    "host name": host_name,
}
