"""Checkpoints: all that changes step n+1, in one file that is either complete or not there.

A checkpoint is `step_00001000.pt` with its sha256 beside it. The hash is put in place first and
the file second, each under a temporary name, synced and renamed; so at every instant the newest
file that has a matching hash is a complete checkpoint. Plain types and tensors only: everything
loads with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.errors import CheckpointError

FORMAT = 1


@dataclass
class Checkpoint:
    """State after `step` steps of the run. stage: the stage whose method this is."""

    step: int
    stage: str
    method: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    config: dict[str, Any]
    classes: list[str]
    data_fingerprint: str
    versions: dict[str, str]
    world: int = 1
    format: int = FORMAT


def save(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint and remove all but the newest `keep`. Raises OSError on a full disk.

    Raises CheckpointError when a weight is not finite: such a state must not replace a good one.
    """
    _refuse_nan(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(asdict(checkpoint), buffer)
    content = buffer.getbuffer()
    path = folder / f"step_{checkpoint.step:08d}.pt"
    digest = hashlib.sha256(content).hexdigest()
    _write(_hash_file(path), f"{digest}  {path.name}\n".encode())
    _write(path, content)
    for old in sorted(folder.glob("step_*.pt"))[:-keep]:
        old.unlink()
        _hash_file(old).unlink(missing_ok=True)
    return path


def load(path: Path) -> Checkpoint:
    """Read one checkpoint. Raises CheckpointError when it is missing, damaged or foreign."""
    if path.is_dir():
        raise CheckpointError(f"error: a folder, expected a checkpoint file · {path}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"error: no such checkpoint · {path} · {error.strerror}") from error
    hash_file = _hash_file(path)
    if hash_file.exists():
        words = hash_file.read_text(errors="replace").split()
        if not words or hashlib.sha256(content).hexdigest() != words[0]:
            raise CheckpointError(
                f"error: the checkpoint is damaged (sha256 differs) · {path} · use an earlier one"
            )
    return _parsed(content, path)


def newest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest complete checkpoint of a run, or None if there is no file at all.

    `say` is told of each one passed over. Raises CheckpointError when none of several loads: to
    start from scratch would overwrite what may still be saved by hand.
    """
    paths = sorted(folder.glob("step_*.pt"), reverse=True)
    for path in paths:
        try:
            if not _hash_file(path).exists():
                raise CheckpointError(f"error: the checkpoint has no sha256 beside it · {path}")
            return load(path)
        except CheckpointError as error:
            say(f"passed over: {str(error).removeprefix('error: ')}")
    if paths:
        raise CheckpointError(
            f"error: none of {len(paths)} checkpoints is whole · {folder} · restore one, or start "
            "anew with another run.dir"
        )
    return None


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, to name a checkpoint in results."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parsed(content: bytes, path: Path) -> Checkpoint:
    try:
        fields = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"error: not a checkpoint that loads safely · {path} · {reason}"
        ) from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise CheckpointError(f"error: not a checkpoint of this program's format {FORMAT} · {path}")
    return Checkpoint(**fields)


def _write(path: Path, content: bytes | memoryview) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _refuse_nan(checkpoint: Checkpoint) -> None:
    for name, tensor in checkpoint.method.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"error: {name} is not finite at step {checkpoint.step} · the last checkpoint is "
                "kept · lower optim.lr"
            )
