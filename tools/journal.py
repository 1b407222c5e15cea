"""What is already known of the videos of an index that is under way: it survives kill -9.

Only of usable ones: why another was refused may have been mended without a trace in the file, by
permissions, a disk that answers again, or a PyAV with more codecs.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Self

from pipeline.errors import DataError
from pipeline.probe import Probe

FACTS = {field.name for field in fields(Probe)}
FRACTIONS = ("fps", "time_base")
Key = tuple[str, int, int, int, str]


@dataclass(frozen=True, slots=True)
class Target:
    """What a worker probes: bytes [offset, offset + size) of a file; size None: to its end."""

    path: Path
    offset: int = 0
    size: int | None = None
    scan: str = "decode"

    def key(self) -> Key | None:
        """Equal as long as the bytes are, as far as a file system tells; None: no such file."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        size = status.st_size if self.size is None else self.size
        return str(self.path), self.offset, size, status.st_mtime_ns, self.scan


class Journal:
    """One JSON object a line, appended as soon as a video is known. One process at a time.

    Lines that do not say what this version writes are passed over; a last line that was cut off is
    removed. Raises DataError when another process has the journal, OSError when it cannot be
    written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise DataError(
                f"error: another tools.index writes the same manifest · {path} · wait for it, or "
                "stop it"
            ) from error
        self._known = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def get(self, key: Key | None) -> Probe | None:
        return self._known.get(key) if key else None

    def add(self, key: Key | None, facts: Probe) -> None:
        if key is None:
            return
        path, offset, size, mtime_ns, scan = key
        line = {"path": path, "offset": offset, "size": size, "mtime_ns": mtime_ns, "scan": scan}
        line["facts"] = asdict(facts) | {name: str(getattr(facts, name)) for name in FRACTIONS}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[Key, Probe]:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        self._file.truncate(whole)
        records = (_record(line) for line in data[:whole].splitlines())
        return dict(record for record in records if record)


def _record(line: bytes) -> tuple[Key, Probe] | None:
    try:
        record = json.loads(line)
        key = tuple(record[name] for name in ("path", "offset", "size", "mtime_ns", "scan"))
        hash(key)
        facts = record["facts"]
        facts |= {name: Fraction(facts[name]) for name in FRACTIONS}
        return (key, Probe(**facts)) if facts.keys() == FACTS else None
    except (ValueError, KeyError, TypeError):
        return None
