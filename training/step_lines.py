"""A file of one JSON object a step, as metrics.jsonl, that a resumed run continues."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


class StepLines:
    """Lines are written as they come; those of steps after `step` are about to be made again and
    go at the start. say: is told of a line that cannot be written, which costs the line alone.
    """

    def __init__(self, path: Path, *, step: int, say: Callable[[str], None]):
        self.path, self.say = path, say
        if path.exists():
            _drop_after(path, step)
        self._file = path.open("a", buffering=1)  # a killed run keeps its lines

    def write(self, step: int, entry: dict) -> None:
        try:
            self._file.write(json.dumps({"step": step, **entry}) + "\n")
        except OSError as error:
            self.say(f"{self.path.name}: {error.strerror}, step {step} is not written")


def read(path: Path) -> list[dict]:
    """All whole lines of such a file, whoever is writing it; none where there is no file."""
    if not path.exists():
        return []
    return [entry for line in path.read_text().splitlines() if (entry := _parsed(line))]


def _drop_after(path: Path, step: int) -> None:
    kept = [json.dumps(entry) + "\n" for entry in read(path) if entry["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def _parsed(line: str) -> dict | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None  # the last line of a killed process may be cut
