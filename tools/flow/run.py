"""All videos of a manifest that the folder does not have yet, in watched worker processes."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from pipeline.errors import BadVideo, DataError
from pipeline.manifest import Manifest, Video
from tools.flow.compute import Maker
from tools.flow.index import Index
from tools.lines import write_lines
from tools.pool import Crashed, Stuck, supervised_map
from tools.progress import progress
from tools.shard.run import codes

SHOWN_EXAMPLES = 3


@dataclass
class Result:
    """What one run did. rejected: an entry of the quarantine for each bad video."""

    videos: int
    made: int = 0
    seconds: float = 0.0
    rejected: list[dict] = field(default_factory=list)


def make(
    source: Manifest, index: Index, maker: Maker, *, jobs: int, timeout_seconds: float
) -> Result:
    """Raises OSError where flow cannot be written, DataError where it would replace that of others.

    A changed video's flow is made anew, and what there was of one that is bad by now is forgotten.
    """
    begun = time.monotonic()
    videos = [source[n] for n in range(len(source))]
    missing = [video for video in videos if not index.has(video)]
    _refuse_others(missing, index)
    result = Result(len(videos))
    outcomes = supervised_map(maker, missing, jobs=jobs, timeout_seconds=timeout_seconds)
    with closing(outcomes), progress(len(missing), "computed") as shown:
        for number, outcome in shown(outcomes):
            outcome = _verdict(outcome, missing[number])
            if isinstance(outcome, BadVideo):
                result.rejected.append(_entry(missing[number], outcome))
                index.drop(missing[number].key)
                continue
            index.add(outcome)
            result.made += 1
    result.seconds = time.monotonic() - begun
    _drop_left_overs(index.folder)
    index.finish()
    return result


def note_rejected(result: Result, path: Path, *, most: float) -> None:
    """Writes the quarantine, or removes an old one.

    Raises DataError where more than this fraction of the videos is in it.
    """
    path.unlink(missing_ok=True)
    rejected = sorted(result.rejected, key=lambda entry: entry["key"])
    if not rejected:
        return
    write_lines(path, rejected)
    if len(rejected) > most * result.videos:
        examples = "".join(f"\n  {e['path']} · {e['detail']}" for e in rejected[:SHOWN_EXAMPLES])
        raise DataError(
            f"error: {len(rejected)} of {result.videos} videos have no flow, more than "
            f"--max-bad-fraction={most:g} ({codes(rejected)}) · {path} · mend or remove them and "
            f"index again; what is computed is kept{examples}"
        )


def bytes_an_hour(index: Index) -> float:
    """Of video, where its rate is known."""
    seconds = size = 0.0
    for row in index.rows.values():
        if rate := Fraction(row["fps"]):
            seconds += float(row["source_frames"] / rate)
            size += row["bytes"]
    return 3600 * size / seconds if seconds else 0.0


def _refuse_others(missing: list[Video], index: Index) -> None:
    """Raise DataError for a key that the folder has of another file: its flow would be lost."""
    sources = {video.key: index.rows[video.key]["source"]
               for video in missing if video.key in index.rows}  # fmt: skip
    others = [v for v in missing if sources.get(v.key, str(v.path)) != str(v.path)]
    if others:
        first = others[0]
        raise DataError(
            f"error: the folder has flow of {len(others)} other videos with the same keys (as "
            f"{first.key}, of {sources[first.key]}) · {index.folder} · choose a new folder for "
            f"{first.path}"
        )


def _verdict(outcome: dict | BadVideo | OSError | Stuck | Crashed, video: Video) -> dict | BadVideo:
    if isinstance(outcome, OSError):
        raise outcome
    if isinstance(outcome, Stuck):
        what = f"not computed within {outcome.seconds:g} s"
        return BadVideo("E-TIMEOUT", what, video.path, "raise --timeout-seconds")
    if isinstance(outcome, Crashed):
        what = f"the process that computed it ended ({outcome.reason})"
        return BadVideo("E-CRASH", what, video.path, "re-encode it or leave it out")
    return outcome


def _entry(video: Video, error: BadVideo) -> dict[str, str]:
    detail = f"{error.what} · {error.cure}"
    return {"path": error.path, "code": error.code, "detail": detail, "key": video.key}


def _drop_left_overs(folder: Path) -> None:
    """What killed processes left half written."""
    for path in folder.rglob("*.partial"):
        path.unlink(missing_ok=True)
