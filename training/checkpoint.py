"""Checkpoints: all that changes step n+1, in one file that is either complete or not there.

A checkpoint is `step_00001000.pt` with its sha256 beside it. The hash is put in place first and
the file second, each under a temporary name, synced and renamed; so at every instant the newest
file that has a matching hash is a complete checkpoint. Plain types and tensors only: everything
loads with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from pipeline.whole import whole_file
from training.errors import CheckpointError

FORMAT = 2


@dataclass
class Checkpoint:
    """State after `step` steps of the run. stage: the stage whose method this is.

    rank_statistics: of a run of several processes, the running statistics of batch norm of each;
    `method` has their mean, and all else of the method is the same in every process. flow: operator
    and encoding of the optical flow that the run was given so far; empty: none.
    """

    step: int
    stage: str
    method: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    config: dict[str, Any]
    classes: list[str]
    data_fingerprint: str
    versions: dict[str, str]
    world: int = 1
    rank_statistics: list[dict[str, torch.Tensor]] = field(default_factory=list)
    flow: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


def save(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint and remove all but the newest `keep`. Raises OSError on a full disk.

    Raises CheckpointError when a weight is not finite: such a state must not replace a good one.
    """
    _refuse_nan(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    for left_by_a_killed_process in folder.glob("step_*.partial"):
        left_by_a_killed_process.unlink()
    buffer = io.BytesIO()
    torch.save({f.name: getattr(checkpoint, f.name) for f in fields(Checkpoint)}, buffer)
    content = buffer.getbuffer()
    path = folder / f"step_{checkpoint.step:08d}.pt"
    digest = hashlib.sha256(content).hexdigest()
    for own, text in ((_hash_file(path), f"{digest}  {path.name}\n".encode()), (path, content)):
        with whole_file(own) as file:
            file.write(text)
    # Files of later steps are damaged ones that a resumed run has passed over: they do not count.
    for old in [p for p in files(folder) if step_of(p) <= checkpoint.step][:-keep]:
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
    paths = files(folder)
    for path in reversed(paths):
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


def files(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or not, oldest first."""
    return sorted(folder.glob("step_*[0-9].pt"), key=step_of)


def step_of(path: Path) -> int:
    """1000 for step_00001000.pt."""
    return int(path.stem.removeprefix("step_"))


def _parsed(encoded: bytes, path: Path) -> Checkpoint:
    try:
        content = torch.load(io.BytesIO(encoded), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can trip torch's unpickler in any way
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"error: not a checkpoint that loads safely · {path} · {reason}"
        ) from error
    named = {f.name for f in fields(Checkpoint)}
    needed = named - {"flow"}  # the first of this format had none
    is_ours = isinstance(content, dict) and content.get("format") == FORMAT
    if not is_ours or not needed <= set(content) <= named:
        raise CheckpointError(
            f"error: not a checkpoint of this program's format {FORMAT} · {path} · weights of "
            "others go into a training by backbone.weights, into evaluate.py with --recipe"
        )
    return Checkpoint(**content)


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _refuse_nan(checkpoint: Checkpoint) -> None:
    for name, tensor in checkpoint.method.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"error: {name} is not finite at step {checkpoint.step} · the last checkpoint is "
                "kept · lower optim.lr"
            )
