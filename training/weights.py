"""Files of weights: those that others publish, and the exported ones of tools.export."""

from __future__ import annotations

import argparse
import json
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from models import Method
from models.weights import Loaded, head_state, load_backbone
from training.errors import CheckpointError

SAFETENSORS = ".safetensors"
CONFIG = "config.json"  # beside exported weights: their recipe, and what they are
# The files of tools.export by their format.
EXPORTED = {"kinema": "model.safetensors", "torchvision": "torchvision.pth",
            "mmaction2": "mmaction2.pth"}  # fmt: skip

# Besides tensors and plain types, published checkpoints hold their command line (VCLR) and best
# accuracy (CoCLR). These classes only hold values; any other one is refused.
_SCALAR = np._core.multiarray.scalar
HARMLESS = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]


def load(path: Path, backbone: nn.Module) -> Loaded:
    """Copies the weights of a file into `backbone`, as `models.weights.load_backbone`.

    Raises CheckpointError where the file cannot be read or does not fit.
    """
    try:
        return load_backbone(backbone, read(path), norm_eps=norm_eps_beside(path))
    except ValueError as error:
        raise CheckpointError(f"error: the weights do not fit · {path} · {error}") from error


def start_heads(path: Path, method: Method) -> None:
    """Starts the method's projection heads from the one in a file.

    Raises CheckpointError where the file cannot be read, has no head, or another.
    """
    try:
        method.start_heads(head_state(read(path)))
    except ValueError as error:
        raise CheckpointError(
            f"error: the heads cannot start from this file (backbone.head_weights) · {path} · "
            f"{error}"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """What a file of safetensors or of torch.save holds: tensors and plain types.

    Raises CheckpointError where there is none, or one that holds anything else.
    """
    if path.is_dir():
        raise CheckpointError(f"error: a folder, expected a file of weights · {path}")
    if not path.exists():
        raise CheckpointError(f"error: no such file of weights · {path}")
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can trip torch's unpickler in any way
        raise CheckpointError(_unreadable(path, error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"error: a {type(content).__name__}, expected a state dict · {path} · save the "
            "network's state_dict()"
        )
    return content


def recipe_beside(path: Path) -> dict[str, Any]:
    """The recipe that tools.export wrote beside exported weights, as plain values.

    Raises CheckpointError where there is none.
    """
    beside = path.with_name(CONFIG)
    try:
        return json.loads(beside.read_text())["recipe"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"error: no {CONFIG} of tools.export beside the weights · {path} · name their network "
            "and clip with --recipe"
        ) from error


def norm_eps_beside(path: Path) -> float | None:
    """With which the batch norms of exported weights were trained, by the file beside them; 0: the
    network's own; None where the weights are not exported ones.
    """
    beside = path.with_name(CONFIG)
    is_exported = path.suffix == SAFETENSORS or path.name in EXPORTED.values()
    if not is_exported or not beside.is_file():
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):  # some other program's config.json
        return float(json.loads(beside.read_text())["backbone"]["norm_eps"])
    return None


def _unreadable(path: Path, error: Exception) -> str:
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign:
        return (
            f"error: refused: besides tensors the file holds {foreign[1]}, and loading that could "
            f"run code · {path} · ask for the state dict alone"
        )
    if isinstance(error, OSError) and error.strerror:
        return f"error: cannot read the weights · {path} · {error.strerror}"
    # What torch has to say is advice to load it unsafely.
    kind = "safetensors" if path.suffix == SAFETENSORS else "torch.save"
    return f"error: not a file of {kind}, or a damaged one · {path}"
