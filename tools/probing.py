"""Rows of annotations -> facts of their videos, in watched worker processes, with a journal."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.annotations import Row
from pipeline.errors import BadVideo
from pipeline.probe import Probe, ScanKind, try_probe
from tools.journal import Journal, Target
from tools.pool import Crashed, Stuck, supervised_map
from tools.progress import progress

# Longest time for one video: a core decodes some 260 frames of 720p a second, so 43 minutes fit.
VIDEO_SECONDS = 300.0
# A crafted index can make the demuxer ask for any amount; 40 megapixels and their reference
# frames take under 2 GB.
WORKER_BYTES = 4 << 30

Outcome = tuple[Row, Probe | BadVideo]


def limit_memory() -> None:
    """Bounds what a worker process may allocate; nothing in the process that the user started."""
    if multiprocessing.parent_process() is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (WORKER_BYTES, WORKER_BYTES))


def probe_target(target: Target) -> Probe | BadVideo:
    limit_memory()
    return try_probe(target.path, offset=target.offset, size=target.size, scan=target.scan)


def probe_rows(
    rows: Sequence[Row],
    *,
    jobs: int,
    timeout_seconds: float,
    scan: ScanKind = "decode",
    journal: Journal | None = None,
    function: Callable[[Target], Probe | BadVideo] = probe_target,
) -> list[Outcome]:
    """Facts of every row, or why it is unusable, in the rows' order.

    Rows that share a byte range are probed once; what the journal knows is not probed again. A
    video whose probe takes longer than `timeout_seconds` or ends its process is unusable.
    """
    targets = [Target(row.path, row.offset, row.size, scan) for row in rows]
    known: dict[Target, Probe | BadVideo | None] = {
        target: _unnameable(row) for row, target in zip(rows, targets, strict=True)
    }
    keys = {target: target.key() for target, fact in known.items() if fact is None}
    if journal is not None:
        known |= {target: journal.get(key) for target, key in keys.items()}
        if found := sum(known[target] is not None for target in keys):
            print(f"  continuing: {found} videos are known from the run before", flush=True)
    todo = [target for target, fact in known.items() if fact is None]
    answers = supervised_map(function, todo, jobs=jobs, timeout_seconds=timeout_seconds)
    with progress(len(todo), "probed") as shown:
        for index, outcome in shown(answers):
            target = todo[index]
            known[target] = _verdict(outcome, target.path)
            if journal is not None and isinstance(outcome, Probe):
                journal.add(keys[target], outcome)
    return [(row, known[target]) for row, target in zip(rows, targets, strict=True)]


def _verdict(outcome: Probe | BadVideo | Stuck | Crashed, path: Path) -> Probe | BadVideo:
    if isinstance(outcome, Stuck):
        what = f"not decoded within {outcome.seconds:g} s"
        return BadVideo("E-TIMEOUT", what, path, "raise --timeout-seconds if it is a long video")
    if isinstance(outcome, Crashed):
        what = f"the decoder crashed ({outcome.reason})"
        return BadVideo("E-CRASH", what, path, "re-encode it or leave it out")
    return outcome


def _unnameable(row: Row) -> BadVideo | None:
    """Neither parquet nor JSON can hold a file name that is not UTF-8."""
    try:
        f"{row.key}{row.path}".encode()
    except UnicodeEncodeError:
        return BadVideo("E-NOTFILE", "its name is not UTF-8", row.path, "rename it")
    return None
