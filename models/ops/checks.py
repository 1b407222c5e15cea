"""What several ops refuse, each in one line that names the op, the argument and its shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def require_vectors(op: str, **tensors: Tensor) -> None:
    """Raises ValueError for one that is empty, not floating, or not where the first is."""
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            raise ValueError(f"{op}: {name} {list(tensor.shape)} is empty")
        if not tensor.is_floating_point():
            raise ValueError(
                f"{op}: {name} {list(tensor.shape)} is {tensor.dtype}; "
                "expected float32, bfloat16 or float64"
            )
        require_device(op, name, tensor, beside=next(iter(tensors.items())))


def require_device(op: str, name: str, tensor: Tensor, *, beside: tuple[str, Tensor]) -> None:
    """Raises ValueError for a tensor that is not where `beside`, another and its name, is."""
    other_name, other = beside
    if tensor.device != other.device:
        raise ValueError(
            f"{op}: {name} {list(tensor.shape)} is on {tensor.device}, "
            f"{other_name} {list(other.shape)} on {other.device}; move one to the other"
        )


def require_temperature(op: str, temperature: float, *, known: str) -> None:
    """Raises ValueError for one not above 0; `known` says what a paper has."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"{op}: temperature {temperature} must be above 0; {known}")


def refuse_second_derivative(op: str) -> None:
    """Raises RuntimeError in a backward pass by create_graph, to which a first derivative that the
    op computed would be a constant.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{op}: there is no second derivative; write the loss in plain torch")
