"""The folder of stored flow: whose it is, and which videos it has. It survives kill -9.

flow.json          operator, its settings, encoding, bound, size and stride: of all of the folder
index.jsonl        one JSON object a video, added as soon as its file is whole
KEY.zip, KEY.npy   the flow, see tools.flow.compute
quarantine.jsonl   videos of the last run that have none, and why, if there are any
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Self

from pipeline.errors import DataError
from pipeline.manifest import Video
from pipeline.whole import whole_file
from tools.flow.compute import Settings, identity
from training.errors import ConfigError

INDEX, SETTINGS = "index.jsonl", "flow.json"


class Index:
    """The rows of a folder, by the keys of their videos. One process at a time.

    Raises ConfigError for a folder of other settings, or that has something else in it, DataError
    when another process has the folder, OSError when it cannot be written.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.path = folder, folder / INDEX
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder, settings.told())
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise DataError(
                f"error: another tools.flow writes the same folder · {folder} · wait for it, or "
                "stop it"
            ) from error
        self.rows = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def has(self, video: Video) -> bool:
        """Whether the flow of this very video is there, whole."""
        row = self.rows.get(video.key)
        if row is None or identity(video).items() - row.items():
            return False
        try:
            return (self.folder / row["path"]).stat().st_size == row["bytes"]
        except OSError:
            return False

    def add(self, row: dict) -> None:
        self._file.write(_line(row))
        self._file.flush()
        self.rows[row["key"]] = row

    def drop(self, key: str) -> None:
        """Forget what an earlier run had of a key; `finish` writes it."""
        self.rows.pop(key, None)

    def finish(self) -> None:
        """Each video once, in the order of their keys: then two finished folders are alike."""
        with whole_file(self.path) as file:
            file.writelines(_line(self.rows[key]) for key in sorted(self.rows))

    def _read(self) -> dict[str, dict]:
        """A last line that a killed process left unfinished is removed."""
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        self._file.truncate(whole)
        rows = map(json.loads, data[:whole].splitlines())
        return {row["key"]: row for row in rows}


def _line(row: dict) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _claim(folder: Path, now: dict) -> None:
    path = folder / SETTINGS
    if path.exists():
        _check_same(json.loads(path.read_text()), now, folder)
        return
    if any(path.suffix != ".partial" for path in folder.iterdir()):
        raise ConfigError(
            f"error: the folder is not empty, and not of an earlier run · {folder} · choose a new "
            "folder"
        )
    with whole_file(path) as file:
        file.write(json.dumps(now, indent=2).encode() + b"\n")


def _check_same(before: dict, now: dict, folder: Path) -> None:
    names = sorted(before.keys() | now.keys())
    changed = [
        f"{name} {before.get(name)} -> {now.get(name)}"
        for name in names
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise ConfigError(
            f"error: the folder has flow of other settings ({', '.join(changed)}) · {folder} · "
            "give those, or choose a new folder"
        )
