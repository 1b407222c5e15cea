"""Peak memory of a piece of work beyond what was there before it: its inputs do not count.

On a GPU it is what torch's allocator had in use at most. On a CPU it is the growth of the resident
set, which also holds what MKL and oneDNN take for themselves; it is measured in a fresh process,
whose allocator gives every larger block back to the system when it is freed. In a process that has
run for a while, freed blocks stay resident and their reuse would look free.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

Work = Callable[[], object]

# glibc would raise its threshold to the largest block freed so far, up to 32 MiB, and keep smaller
# ones. 64 KiB: noise.
MMAP_THRESHOLD = {"MALLOC_MMAP_THRESHOLD_": "65536"}
RESET_PEAK = "5"  # what /proc/<pid>/clear_refs takes to set VmHWM to VmRSS


def extra_bytes_in_fresh_process(works: Callable[[], dict[str, Work]]) -> dict[str, int]:
    """Of every work that `works` builds, by name; for a CPU. `works` has to be picklable.

    A work that fails is missing in the result.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    arguments = (works, torch.get_num_threads(), theirs)
    with _environment(MMAP_THRESHOLD):
        process = context.Process(target=_send_extra_bytes, args=arguments)
        process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the process that measures memory ended with exit code {process.exitcode}"
        ) from None
    finally:
        process.join()


def extra_bytes(work: Work) -> int:
    """Of one run on a CPU, after one to warm up; in a process that `MMAP_THRESHOLD` is set for."""
    work()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before = _status_bytes("VmRSS")
    result = work()
    peak = _status_bytes("VmHWM")
    del result
    return max(0, peak - before)


def extra_bytes_on_gpu(work: Work) -> int:
    work()
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = work()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return peak - before


def free_bytes(device: str) -> int:
    """What can still be had without driving others out."""
    if device == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for later counts as taken
        return torch.cuda.mem_get_info()[0]
    return _bytes_in(Path("/proc/meminfo"), "MemAvailable")


def _send_extra_bytes(works, threads: int, pipe) -> None:
    torch.set_num_threads(threads)
    found = {}
    for name, work in works().items():
        try:
            found[name] = extra_bytes(work)
        except Exception as error:  # somebody else's code; the caller shows a gap
            print(f"memory of {name} is not measured: {type(error).__name__}: {error}")
    pipe.send(found)


def _status_bytes(field: str) -> int:
    return _bytes_in(Path("/proc/self/status"), field)


def _bytes_in(path: Path, field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", path.read_text())[1])


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """For processes started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
