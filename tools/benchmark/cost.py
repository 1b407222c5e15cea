"""What a step asks of the arithmetic units, and what they can give."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from tools.benchmark.conditions import device_name
from tools.benchmark.floor import DEVICES

PRODUCT_SIDE, TRIES = 1024, 5


def flops_of(work: Callable[[], object]) -> int:
    """Multiplications and additions of the convolutions and matrix products that torch runs in
    `work`, backward passes included; our own fused operations are not seen.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return counter.get_total_flops()


def most_flops(device: str) -> float:
    """Operations a second, at most: a GPU's by its data sheet in bfloat16; for other GPUs and for
    the threads that torch has on a CPU, the best rate of a matrix product measured here.
    """
    if device == "cuda" and device_name() in DEVICES:
        return DEVICES[device_name()].flops
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    side = 8 * PRODUCT_SIDE if device == "cuda" else PRODUCT_SIDE
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(_seconds(a, b) for _ in range(TRIES))


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    a @ b
    if a.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
