"""The list of damaged videos: one JSON line each in quarantine.jsonl, and a budget."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from pathlib import Path

from pipeline.errors import DataError
from pipeline.manifest import Manifest
from pipeline.refused import Refused

MOST_PRINTED = 20


class Quarantine:
    """Remembers damaged videos over restarts; complains when they are too many.

    videos: how many the data set has. Raises DataError once more than `max_bad_fraction` of them
    are damaged. `say` prints the first few as they are found.
    """

    def __init__(self, path: Path, *, videos: int, max_bad_fraction: float, say=print):
        self.path, self.videos, self.max_bad_fraction = path, videos, max_bad_fraction
        self.say = say
        self.known = _entries(path.read_text("utf-8", errors="replace")) if path.exists() else {}

    def note(self, entries: list[dict]) -> None:
        """Add `entries`, each {path, key, code, detail, ...}; a key already known is not added."""
        fresh = {_key(entry): entry for entry in entries if _key(entry) not in self.known}
        if not fresh:
            return
        try:
            fresh = self._add(fresh)
        except OSError as error:
            self.say(f"{self.path.name}: {error.strerror}, {len(fresh)} videos are not listed")
        for entry in fresh.values():
            if len(self.known) < MOST_PRINTED:
                self.say(f"quarantined [{entry['code']}] {_place(entry)} · {entry['detail']}")
            self.known[_key(entry)] = entry
        self._check_budget()

    def refused(self, manifest: Manifest) -> Refused:
        """The listed videos that ended a worker or a lane, in the samples where they first did."""
        refused = Refused()
        ended = {key: entry for key, entry in self.known.items() if "sample" in entry}
        for index, key in enumerate(manifest.keys if ended else ()):
            if entry := ended.get(key):
                refused.add(index, entry["sample"], entry)
        return refused

    def _add(self, fresh: dict[str, dict]) -> dict[str, dict]:
        """Write the entries that no other process of the run has written, and return those."""
        with self.path.open("a+", encoding="utf-8", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            self.known |= _entries(text)
            fresh = {key: entry for key, entry in fresh.items() if key not in self.known}
            # New lines must not continue one that a killed process left half written.
            gap = "\n" if fresh and text and not text.endswith("\n") else ""
            lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in fresh.values()]
            file.write(gap + "".join(lines))
        return fresh

    def _check_budget(self) -> None:
        if len(self.known) <= self.max_bad_fraction * self.videos:
            return
        codes = Counter(entry["code"] for entry in self.known.values()).most_common(3)
        reasons = ", ".join(f"{code} {count}" for code, count in codes)
        raise DataError(
            f"error: {len(self.known)} of {self.videos} videos are damaged ({reasons}), more than "
            f"data.max_bad_fraction={self.max_bad_fraction} · {self.path} · mend or remove them, "
            "index again, or raise data.max_bad_fraction"
        )


def _entries(text: str) -> dict[str, dict]:
    # Not splitlines: a name may hold line ends of Unicode.
    return {_key(entry): entry for entry in map(_parse, text.split("\n")) if entry}


def _key(entry: dict) -> str:
    """What a video is known by: many may be in one file, a shard."""
    return entry.get("key", entry["path"])


def _place(entry: dict) -> str:
    path, key = entry["path"], _key(entry)
    return path if Path(path).stem == Path(key).stem else f"{path}: {key}"


def _parse(line: str) -> dict | None:
    """One entry; None for a line that a killed process left half written."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
