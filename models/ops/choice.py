"""Which implementation of an op runs, and the checks that cost too much for every step."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

KERNEL_DTYPES = (torch.float32, torch.bfloat16)

# Similarities of unit vectors are at most 1, so logits at most 1 / 0.023 = 43.5 and their
# exponentials within [1e-19, 8e18]: float32 needs no shift by the largest, however many add up.
SHIFT_BELOW_TEMPERATURE = 0.023

_debug = False


def implementation(op: str, *tensors: Tensor) -> Literal["triton", "reference"]:
    """What `models.ops.<op>` runs for floating tensors like these.

    "triton" for float32 and bfloat16 on a GPU where the op has kernels and Triton is installed;
    otherwise "reference", the equation in plain torch, which takes every device and dtype.
    """
    on_gpu = all(tensor.is_cuda and tensor.dtype in KERNEL_DTYPES for tensor in tensors)
    return "triton" if on_gpu and _has_kernels(op) else "reference"


@cache
def _has_kernels(op: str) -> bool:
    return bool(find_spec("triton") and find_spec(f"models.ops.{op}_triton"))


def kernels(op: str) -> ModuleType:
    """The module of an op's kernels. Imported on first use: Triton is optional."""
    return import_module(f"models.ops.{op}_triton")


def needs_shift(temperature: float, *, unit: bool) -> bool:
    """Whether a row's largest logit has to be subtracted before the exponential."""
    return not unit or temperature < SHIFT_BELOW_TEMPERATURE


def set_debug(on: bool) -> None:
    """Whether ops look into their tensors' values, which reads each of them once more a step.

    On a CPU a bad value is a ValueError. A GPU stops at it, with the message, when it gets there:
    no step waits for the check.
    """
    global _debug
    _debug = on


def require_unit(op: str, **tensors: Tensor) -> None:
    """In debug mode, refuses rows whose length is not 1 within bfloat16's rounding."""
    if not _debug:
        return
    for name, tensor in tensors.items():
        # bfloat16 has 8 bits: a rounded unit vector is at most 2 ** -8 too long or too short.
        lengths = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).norm(dim=-1)
        unit = ((lengths - 1).abs() <= 2**-8).all()
        message = (
            f"{op}: {name} {list(tensor.shape)} has rows that are not of unit length; "
            "normalise it, or say unit=False"
        )
        if tensor.is_cuda:
            torch._assert_async(unit, message)
        elif not unit:
            raise ValueError(message)
