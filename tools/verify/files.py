"""Whether the bytes that a manifest names are still there, the same, and decode."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.checksum import crc32, sha256
from pipeline.container import ByteRange
from pipeline.errors import BadVideo
from pipeline.facts import Facts
from pipeline.limits import Limits
from pipeline.manifest import Video
from pipeline.probe import check_file, examine
from tools.pool import Crashed, Stuck, supervised_map
from tools.probing import limit_memory
from tools.progress import progress
from tools.verify.findings import Finding, Row

INDEX_AGAIN = "restore it, or index again"
SHARD_AGAIN = "copy or write the shard again"
# The rows' frames were counted when the manifest was made; here it is enough that they are there.
LIMITS = Limits(min_frames=1, accept_truncated=True)
COMPARED = {field.name for field in fields(Facts)} - {"frames"}


@dataclass(frozen=True, slots=True)
class Stored:
    """A byte range that rows name. needed_frames: the rows use frames below that number.

    listed: how many rows are in the same file. decode: go through all frames as well.
    """

    video: Video
    needed_frames: int
    listed: int
    decode: bool

    @property
    def in_shard(self) -> bool:
        return self.video.offset > 0 or self.video.path.suffix.lower() == ".tar"


Place = tuple[Path, int, int, int]
Remarks = list[tuple[str, str]]


def place(row: Row) -> Place:
    video = row.video
    return video.path, video.offset, video.size, video.crc32


def check_files(
    rows: Sequence[Row], *, decode: bool, jobs: int, timeout_seconds: float
) -> list[Finding]:
    """Findings of all rows, in their order; each byte range is read once, however many rows use
    it. A file that takes longer than `timeout_seconds` or ends its process is unusable."""
    stored = list(_stored(rows, decode=decode).items())
    answers = supervised_map(
        check, [item for _, item in stored], jobs=jobs, timeout_seconds=timeout_seconds
    )
    remarks: dict[Place, Remarks] = {}
    with progress(len(stored), "verified") as shown:
        for index, outcome in shown(answers):
            at, item = stored[index]
            remarks[at] = _remarks(outcome, item)
    return [row.finding(code, detail) for row in rows for code, detail in remarks[place(row)]]


def sha256_of(places: Sequence[Place], *, jobs: int, timeout_seconds: float) -> dict[Place, str]:
    """Digest of every byte range that can be read in time."""
    answers = supervised_map(_sha256, places, jobs=jobs, timeout_seconds=timeout_seconds)
    with progress(len(places), "compared") as shown:
        return {places[n]: digest for n, digest in shown(answers) if isinstance(digest, str)}


def check(stored: Stored) -> BadVideo | Remarks:
    """For worker processes: why a byte range is unusable, or what else there is to say of it."""
    limit_memory()
    try:
        _check_bytes(stored)
        return _check_frames(stored) if stored.decode else []
    except BadVideo as error:
        return error


def _check_bytes(stored: Stored) -> None:
    video, path = stored.video, stored.video.path
    try:
        check_file(path)
    except BadVideo as error:
        if not stored.in_shard or error.code != "E-MISSING":
            raise
        what = f"{path.name} missing (the manifest lists {stored.listed} videos in it)"
        raise BadVideo("E-SHARD", what, path, SHARD_AGAIN) from error
    try:
        _check_length(stored, os.stat(path).st_size)
        with ByteRange(video.path, video.offset, video.size) as file:
            crc = crc32(file)
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise BadVideo("E-NOTFILE", what, path, "check the disk and permissions") from error
    if crc != video.crc32:
        what = f"its bytes differ from the manifest's (crc32 {crc:08x}, not {video.crc32:08x})"
        raise BadVideo("E-CHANGED", what, path, INDEX_AGAIN)


def _check_length(stored: Stored, length: int) -> None:
    video, path = stored.video, stored.video.path
    if stored.in_shard:
        end = video.offset + video.size
        if length < end:
            what = f"{path.name} has {length} bytes, its video {video.key} ends at {end}"
            raise BadVideo("E-SHARD", what, path, SHARD_AGAIN)
    elif not length:
        raise BadVideo("E-EMPTY", "is 0 bytes (interrupted download?)", path, INDEX_AGAIN)
    elif length != video.size:
        what = f"has {length} bytes, the manifest says {video.size}"
        raise BadVideo("E-CHANGED", what, path, INDEX_AGAIN)


def _check_frames(stored: Stored) -> Remarks:
    video = stored.video
    facts, remarks = examine(video.path, offset=video.offset, size=video.size, limits=LIMITS)
    if facts.frames < stored.needed_frames:
        what = f"{facts.frames} of {stored.needed_frames} frames decode"
        raise BadVideo("E-TRUNCATED", what, video.path, "re-encode it, or index again")
    wrong = sorted(name for name in COMPARED if getattr(facts, name) != getattr(video, name))
    if wrong:
        shown = ", ".join(f"{n} {getattr(facts, n)}, not {getattr(video, n)}" for n in wrong)
        raise BadVideo("E-CHANGED", f"differs from the manifest: {shown}", video.path, INDEX_AGAIN)
    found = [("N-STREAM", remark) for remark in remarks]
    if facts.damaged_frames:
        found.append(("N-DAMAGED", f"{facts.damaged_frames}/{facts.frames} frames damaged"))
    return found


def _stored(rows: Sequence[Row], *, decode: bool) -> dict[Place, Stored]:
    listed = Counter(row.video.path for row in rows)
    needed: Counter[Place] = Counter()
    for row in rows:
        end = row.video.first_frame + row.video.frames
        needed[place(row)] = max(needed[place(row)], end)
    return {
        place(row): Stored(row.video, needed[place(row)], listed[row.video.path], decode)
        for row in reversed(rows)  # so that the first of several rows gives its key
    }


def _remarks(outcome: BadVideo | Remarks | Stuck | Crashed, stored: Stored) -> Remarks:
    if isinstance(outcome, BadVideo):
        return [(outcome.code, f"{outcome.what} · {outcome.cure}")]
    if isinstance(outcome, Stuck):
        what = f"not verified within {outcome.seconds:g} s"
        return [("E-TIMEOUT", f"{what} · raise --timeout-seconds if it is a long video")]
    if isinstance(outcome, Crashed):
        what = f"the decoder crashed ({outcome.reason})"
        return [("E-CRASH", f"{what} · re-encode it or leave it out")]
    return outcome


def _sha256(at: Place) -> str:
    path, offset, size, _ = at
    return sha256(path, offset, size)
