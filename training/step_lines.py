"""A file of one JSON object a step, as metrics.jsonl, that a resumed run continues."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipeline.whole import whole_file
from training.errors import ConfigError


class StepLines:
    """Lines are written as they come; those of steps after `step` are about to be made again and
    go at the start. say: is told of a line that cannot be written, which costs the line alone.
    """

    def __init__(self, path: Path, *, step: int, say: Callable[[str], None]):
        self.path, self.say = path, say
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
    """Raises ConfigError where the shorter file cannot be written; the longer one stays."""
    entries = read(path)
    kept = [entry for entry in entries if entry["step"] <= step]
    if len(kept) == len(entries) and _ends_whole(path):
        return
    try:
        with whole_file(path, sync=False) as file:
            file.writelines(f"{json.dumps(entry)}\n".encode() for entry in kept)
    except OSError as error:
        raise ConfigError(
            f"error: cannot drop the lines after step {step} · {path} · {error.strerror} · free "
            "some space, or make the folder writable"
        ) from error


def _ends_whole(path: Path) -> bool:
    """Whether the last line was written to its end; so is that of no file."""
    return not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")


def _parsed(line: str) -> dict | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None  # the last line of a killed process may be cut
