"""What kernels of several losses share: how their work is cut, and arithmetic Triton lacks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def log_one_plus(x):
    """log(1 + x) for x in [0, 1], without the digits of x that 1 + x loses.

    2 artanh(z) = 2 (z + z^3 / 3 + z^5 / 5 + ...) with z = x / (2 + x) <= 1/3: what is left out is
    below (1/3)^16 / 17 = 1.4e-9 of it.
    """
    z = x / (2.0 + x)
    square = z * z
    series = 1.0 / 15
    series = series * square + 1.0 / 13
    series = series * square + 1.0 / 11
    series = series * square + 1.0 / 9
    series = series * square + 1.0 / 7
    series = series * square + 1.0 / 5
    series = series * square + 1.0 / 3
    return 2.0 * z * (series * square + 1.0)


@dataclass(frozen=True)
class Tiles:
    """How a kernel cuts its work: tiles of queries, each with one part of the keys at a time."""

    queries: int
    keys: int
    parts: int
    part_keys: int
    warps: int
    stages: int


# Queries, keys, warps and stages of the largest tile that compiles without a spilled register for
# sm_80, sm_90 and sm_100, then of all smaller ones.
Cut = tuple[tuple[int, int, int, int], tuple[int, int, int, int]]
Cuts = dict[tuple[int, int], Cut]  # by bytes of a number and dimensions up to


def cut_for(cuts: Cuts, dim: int, itemsize: int) -> Cut | None:
    """The one for vectors of `dim` numbers of `itemsize` bytes; None where they are too long."""
    fitting = (cut for (size, most), cut in cuts.items() if size == itemsize and dim <= most)
    return next(fitting, None)


def tiles(cut: Cut, batch: int, slots: int, *, most_parts: int, processors: int) -> Tiles:
    """Cuts `batch` queries by `slots` keys for a GPU of `processors` multiprocessors.

    Where `most_parts` parts of the keys are too few to fill it, the tiles of queries get smaller.
    """
    largest, smaller = cut
    queries = max(16, min(largest[0], triton.next_power_of_2(batch)))
    while queries > 16 and triton.cdiv(batch, queries) * most_parts < processors:
        queries //= 2
    _, keys, warps, stages = largest if queries == largest[0] else smaller
    parts = min(most_parts, processors // triton.cdiv(batch, queries), triton.cdiv(slots, keys))
    part_keys = triton.cdiv(triton.cdiv(slots, max(1, parts)), keys) * keys
    return Tiles(
        queries=queries,
        keys=keys,
        parts=triton.cdiv(slots, part_keys),
        part_keys=part_keys,
        warps=warps,
        stages=stages,
    )


def block_dim(dim: int) -> int:
    """Triton's blocks are powers of 2, and 16 the least of a product."""
    return max(16, triton.next_power_of_2(dim))


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    if device.type != "cuda":
        return 1  # Triton's interpreter
    return torch.cuda.get_device_properties(device).multi_processor_count


def product_dtype(keys: Tensor) -> tl.dtype:
    """Keys' own; but Triton 3.7's interpreter multiplies bfloat16 as if it were integers."""
    interpreted = triton.knobs.runtime.interpret
    return tl.bfloat16 if keys.dtype == torch.bfloat16 and not interpreted else tl.float32


def precision() -> str:
    """Of float32 products: as torch's own, exact but for order unless the user allowed TF32."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
