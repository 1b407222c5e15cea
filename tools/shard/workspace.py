"""The output folder: whose it is, what is done of it already, and what stays when all is done.

shard-000000.tar, shard-000000.json, ...   a shard and its size, sha256 and plan
manifest.parquet                           written last: with it the folder is complete
quarantine.jsonl, duplicates.jsonl         what was left out, if anything was
.shard/                                    while at work: lock, job, facts*.jsonl, spool/
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pipeline.errors import DataError
from pipeline.manifest import Manifest
from pipeline.shards.spool import Spooled, room_for
from pipeline.whole import FULL_DISK, whole_file
from tools.shard.errors import Refused

OURS = re.compile(r"shard-\d{6}\.(tar|json)")
LEFT_OVER = re.compile(r"(shard-\d{6}\.(tar|json)|\w+\.(parquet|jsonl))\..*\.partial")


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`, counted from 1, of the samples."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


class Workspace:
    """The output folder while one run has it; made by `open_workspace`.

    facts: of the samples that are encoded. Files of the spool may be gone where a shard has them.
    """

    def __init__(self, folder: Path, part: Part | None):
        self.folder, self.work = folder, folder / ".shard"
        self.spool = self.work / "spool"
        self._journal = self.work / (f"facts-{part}.jsonl" if part else "facts.jsonl")
        self.facts: dict[int, Spooled] = {}

    def begin(self, job: dict) -> None:
        """Check that the folder's work is this job, and read how far it is."""
        (self.folder / "manifest.parquet").unlink(missing_ok=True)  # its shards are not all there
        record = self.work / "job.json"
        if record.exists():
            _check_same(json.loads(record.read_text()), job, self.folder)
        else:
            self.write(record, [job])
        self.spool.mkdir(exist_ok=True)
        _end_last_line(self._journal)
        for journal in sorted(self.work.glob("facts*.jsonl")):
            self.facts |= {facts.number: facts for facts in _read_facts(journal)}

    def note(self, facts: Spooled) -> None:
        """Remember that a sample is encoded."""
        line = facts.to_json().encode() + b"\n"
        journal = self._journal
        with room_for(journal, needed=len(line)), journal.open("ab", buffering=0) as file:
            if file.write(line) < len(line):
                raise OSError(FULL_DISK[0], os.strerror(FULL_DISK[0]))
        self.facts[facts.number] = facts

    def write(self, path: Path, entries: Sequence[dict]) -> None:
        """One JSON object a line; no file for none, so that an old one cannot mislead."""
        if not entries:
            path.unlink(missing_ok=True)
            return
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        data = text.encode("utf-8", "backslashreplace")
        with room_for(path, needed=len(data)), whole_file(path) as file:
            file.write(data)

    def drop_shards(self, kept: set[str]) -> None:
        """Remove shards of an earlier plan, and what killed runs left half written."""
        for path in self.folder.iterdir():
            if OURS.fullmatch(path.name) and path.name not in kept:
                path.unlink()
        self.drop_left_overs()

    def drop_left_overs(self) -> None:
        """Remove what processes that ended left half written."""
        for path in self.folder.iterdir():
            if LEFT_OVER.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all that is needed while at work only."""
        shutil.rmtree(self.work, ignore_errors=True)


@contextmanager
def open_workspace(folder: Path, part: Part | None) -> Iterator[Workspace]:
    """The folder, taken for one run: several parts may share it, any other run has it alone.

    Raises Refused when another run has it, or it holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    space = Workspace(folder, part)
    known = space.work.exists() or (folder / "manifest.parquet").exists()
    if not known and any(folder.iterdir()):
        raise Refused(
            f"error: the folder is not empty, and not of an earlier run · {folder} · choose a new "
            "folder"
        )
    space.work.mkdir(exist_ok=True)
    with ExitStack() as locks:
        locks.enter_context(_lock(space.work / "lock", folder, shared=part is not None))
        if part:
            locks.enter_context(_lock(space.work / f"lock-{part}", folder, shared=False))
        try:
            yield space
        finally:
            if not part and not (space.work / "job.json").exists():
                space.close()


@contextmanager
def _lock(path: Path, folder: Path, *, shared: bool) -> Iterator[None]:
    """The kernel frees a lock when its process ends, however that happens."""
    with path.open("a+") as file:
        if not _take(file, shared):
            raise Refused(
                f"error: the folder is in use by {_holder(path)} · {folder} · wait for that run, "
                "or choose another folder"
            )
        file.truncate(0)
        if not shared:
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _take(file: TextIO, shared: bool) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        # The run that had the lock may have removed the file with all its work.
        return os.stat(file.name).st_ino == os.fstat(file.fileno()).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _holder(path: Path) -> str:
    """Who has the lock; where parts share it, those that have their own."""
    for one in (path, *sorted(path.parent.glob("lock-*"))):
        with suppress(FileNotFoundError), one.open() as file:
            holder = file.read()
            if holder and not _take(file, shared=True):
                return holder
    return "another run"


def complete(folder: Path, job: dict) -> Manifest | None:
    """The manifest of a folder in which nothing is left to do.

    None when there is none, or its shards are not all there with their sizes. Raises Refused for
    the result of another job.
    """
    path = folder / "manifest.parquet"
    if not path.exists():
        return None
    try:
        manifest = Manifest.read(path)
    except DataError as error:
        raise Refused(
            f"error: the manifest of an earlier run cannot be read · {path} · remove it and give "
            "the same command again"
        ) from error
    _check_same(manifest.options, job, folder)
    sidecars = [_whole_shard(path) for path in folder.glob("shard-*.json")]
    samples = sum(sidecar["samples"] for sidecar in sidecars if sidecar)
    return manifest if samples == len(manifest) else None


def _whole_shard(path: Path) -> dict | None:
    """The sidecar at `path`, if its shard is there with its size."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        sidecar = json.loads(path.read_text())
        if path.with_suffix(".tar").stat().st_size == sidecar["size"]:
            return sidecar
    return None


def _check_same(before: dict, now: dict, folder: Path) -> None:
    names = sorted(before.keys() | now.keys())
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        differences = ", ".join(
            _difference(name, before.get(name), now.get(name)) for name in changed
        )
        raise Refused(
            f"error: the folder is of another job ({differences}) · {folder} · choose a new "
            "folder, or remove this one"
        )


def _difference(name: str, before: object, now: object) -> str:
    values = (before, now)
    told = all(value is None or isinstance(value, bool | int | float) for value in values)
    short = name in ("preset", "split", "tool")
    return f"{name} {before} -> {now}" if told or short else f"another {name}"


def _end_last_line(journal: Path) -> None:
    """A line that a killed process left unfinished must not swallow the next one."""
    if journal.exists():
        with journal.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read() not in (b"", b"\n"):
                file.write(b"\n")


def _read_facts(journal: Path) -> Iterator[Spooled]:
    for line in journal.read_text("utf-8", errors="replace").split("\n"):
        with suppress(ValueError):  # the last line of a killed process may be cut
            yield Spooled.from_json(line)
