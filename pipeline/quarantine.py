"""The list of damaged videos: one JSON line each in quarantine.jsonl, and a budget."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from pipeline.errors import DataError

MOST_PRINTED = 20


class Quarantine:
    """Remembers damaged videos over restarts; complains when they are too many.

    videos: how many the data set has. Raises DataError once more than `max_bad_fraction` of them
    are damaged. `say` prints the first few as they are found.
    """

    def __init__(self, path: Path, *, videos: int, max_bad_fraction: float, say=print):
        self.path, self.videos, self.max_bad_fraction = path, videos, max_bad_fraction
        self.say = say
        text = path.read_text("utf-8", errors="replace") if path.exists() else ""
        # Not splitlines: a name may hold line ends of Unicode.
        self.known = {entry["path"]: entry for entry in map(_parse, text.split("\n")) if entry}
        # New lines must not continue one that a killed process left half written.
        self.before_next = "\n" if text and not text.endswith("\n") else ""

    def note(self, entries: list[dict]) -> None:
        """Add `entries`, each {path, code, detail, ...}; a path already known is not added."""
        fresh = {entry["path"]: entry for entry in entries if entry["path"] not in self.known}
        if not fresh:
            return
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in fresh.values()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self.before_next + "".join(lines))
        self.before_next = ""
        for entry in fresh.values():
            if len(self.known) < MOST_PRINTED:
                self.say(f"quarantined [{entry['code']}] {entry['path']} · {entry['detail']}")
            self.known[entry["path"]] = entry
        self._check_budget()

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


def _parse(line: str) -> dict | None:
    """One entry; None for a line that a killed process left half written."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
