"""Swapped prediction in tiles of logits that never leave the chip.

Forward, a program holds a tile of rows and walks over one part of the prototypes; the parts are
then joined. Backward is one kernel for both gradients, which are each other's mirror: a program
holds a tile of the side that gets the gradient and walks over a part of the other. Parts are added
in order: no atomics. Logits are to base 2.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops import launch_triton as launch
from models.ops.launch_triton import LOG2_E, Cuts, Tiles

# N rows, P prototypes, D dimensions, S parts


@triton.jit
def _load_vectors(vectors, numbers, count, dims, PRODUCT: tl.constexpr, D: tl.constexpr):
    """[BLOCK, BLOCK_D] of rows `numbers`, 0 from row `count` on."""
    inside = (numbers < count)[:, None] & (dims < D)[None, :]
    at = numbers.to(tl.int64)[:, None] * D + dims[None, :]
    return tl.load(vectors + at, mask=inside, other=0.0).to(PRODUCT)


@triton.jit
def _predict_kernel(
    z,  # [N, D]
    prototypes,  # [P, D]
    assignment,  # [N, P]
    peak,  # [S, N], out: the largest logit of the part
    mass,  # [S, N], out: sum_p exp2(l_ip - peak)
    weight,  # [S, N], out: sum_p q_ip
    lag,  # [S, N], out: sum_p q_ip (peak - l_ip)
    N,
    P,
    part_prototypes,  # a multiple of BLOCK_P
    scale,  # log2(e) / temperature
    D: tl.constexpr,
    PRODUCT: tl.constexpr,  # dtype that products take
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    part = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    first = part * part_prototypes
    last = tl.minimum(first + part_prototypes, P)
    batch = _load_vectors(z, rows, N, dims, PRODUCT, D)
    highest = tl.full([BLOCK_N], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    assigned = tl.zeros([BLOCK_N], tl.float32)
    behind = tl.zeros([BLOCK_N], tl.float32)
    for start in range(first, last, BLOCK_P):
        columns = start + tl.arange(0, BLOCK_P)
        known = (columns < last)[None, :]
        c = _load_vectors(prototypes, columns, last, dims, PRODUCT, D)
        logit = tl.dot(batch, tl.trans(c), input_precision=PRECISION) * scale
        at = rows.to(tl.int64)[:, None] * P + columns[None, :]
        q = tl.load(assignment + at, mask=(rows < N)[:, None] & known, other=0.0).to(tl.float32)
        largest = tl.maximum(highest, tl.max(tl.where(known, logit, -float("inf")), 1))
        gap = largest[:, None] - logit
        # At first nothing is assigned, and 0 times infinity is no number.
        behind += assigned * tl.where(highest == -float("inf"), 0.0, largest - highest)
        behind += tl.sum(q * gap, 1)
        assigned += tl.sum(q, 1)
        p = tl.exp2(tl.where(known, -gap, -float("inf")))
        total = total * tl.exp2(highest - largest) + tl.sum(p, 1)
        highest = largest
    out = part.to(tl.int64) * N + rows
    tl.store(peak + out, highest, mask=rows < N)
    tl.store(mass + out, total, mask=rows < N)
    tl.store(weight + out, assigned, mask=rows < N)
    tl.store(lag + out, behind, mask=rows < N)


@triton.jit
def _join_predictions_kernel(
    peaks,  # [S, N]
    masses,  # [S, N]
    weights,  # [S, N]
    lags,  # [S, N]
    loss,  # [N], out: the row's share of the mean
    peak,  # [N], out: the largest logit
    share,  # [N], out: the weight over sum_p exp2(l_ip - peak)
    N,
    S,
    BLOCK_N: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    known = rows < N
    highest = tl.load(peaks + rows, mask=known, other=0.0)
    total = tl.load(masses + rows, mask=known, other=1.0)
    assigned = tl.load(weights + rows, mask=known, other=0.0)
    behind = tl.load(lags + rows, mask=known, other=0.0)
    for part in range(1, S):
        at = tl.cast(part, tl.int64) * N + rows
        other = tl.load(peaks + at, mask=known, other=0.0)
        mass = tl.load(masses + at, mask=known, other=1.0)
        weight = tl.load(weights + at, mask=known, other=0.0)
        lag = tl.load(lags + at, mask=known, other=0.0)
        largest = tl.maximum(highest, other)
        total = total * tl.exp2(highest - largest) + mass * tl.exp2(other - largest)
        behind += assigned * (largest - highest) + lag + weight * (largest - other)
        assigned += weight
        highest = largest
    tl.store(loss + rows, (behind + assigned * tl.log2(total)) / (LOG2_E * N), mask=known)
    tl.store(peak + rows, highest, mask=known)
    tl.store(share + rows, assigned / total, mask=known)


@triton.jit
def _pull_kernel(
    of_loss,  # []
    mine,  # [X, D]: z or prototypes, the side of the gradient
    others,  # [Y, D]: the other of the two
    assignment,  # of x of mine and y of others at x * mine_stride + y * other_stride
    peak,  # [N]
    share,  # [N]
    gradient,  # [S, X, D], out
    X,
    Y,
    part_others,  # a multiple of BLOCK_Y
    mine_stride,
    other_stride,
    scale,  # log2(e) / temperature
    rate,  # 1 / (temperature N)
    BY_Z: tl.constexpr,
    D: tl.constexpr,
    PRODUCT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    part = tl.program_id(1)
    x = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    dims = tl.arange(0, BLOCK_D)
    first = part * part_others
    last = tl.minimum(first + part_others, Y)
    held = _load_vectors(mine, x, X, dims, PRODUCT, D)
    total = tl.zeros([BLOCK_X, BLOCK_D], tl.float32)
    if BY_Z:
        high = tl.load(peak + x, mask=x < X, other=0.0)[:, None]
        w = tl.load(share + x, mask=x < X, other=0.0)[:, None]
    for start in range(first, last, BLOCK_Y):
        y = start + tl.arange(0, BLOCK_Y)
        if not BY_Z:
            high = tl.load(peak + y, mask=y < last, other=0.0)[None, :]
            w = tl.load(share + y, mask=y < last, other=0.0)[None, :]
        vectors = _load_vectors(others, y, last, dims, PRODUCT, D)
        logit = tl.dot(held, tl.trans(vectors), input_precision=PRECISION) * scale
        inside = (x < X)[:, None] & (y < last)[None, :]
        at = x.to(tl.int64)[:, None] * mine_stride + y.to(tl.int64)[None, :] * other_stride
        q = tl.load(assignment + at, mask=inside, other=0.0).to(tl.float32)
        pull = w * tl.exp2(tl.where(inside, logit - high, -float("inf"))) - q
        total = tl.dot(pull.to(PRODUCT), vectors, acc=total, input_precision=PRECISION)
    total *= tl.load(of_loss).to(tl.float32) * rate
    at = (part.to(tl.int64) * X + x)[:, None] * D + dims[None, :]
    tl.store(gradient + at, total, mask=(x < X)[:, None] & (dims < D)[None, :])


# Of the forward pass, then of the backward pass, which holds sums [held, D] as well. Sizes that are
# no multiples of 16 take the most registers: with these, too, nothing is spilled.
FORWARD_CUTS: Cuts = {
    (2, 128): ((64, 64, 8, 2), (32, 64, 4, 2)),
    (2, 256): ((64, 32, 8, 2), (32, 32, 4, 2)),
    (2, 512): ((32, 32, 4, 2), (16, 32, 4, 2)),
    (4, 128): ((32, 16, 8, 2), (16, 32, 4, 2)),
}
BACKWARD_CUTS: Cuts = {
    (2, 128): ((64, 64, 8, 2), (32, 64, 4, 2)),
    (2, 256): ((64, 32, 8, 2), (32, 32, 4, 2)),
    (2, 512): ((32, 32, 8, 2), (16, 32, 4, 2)),
    (4, 128): ((16, 32, 4, 2), (16, 32, 4, 2)),
}


def fits(z: Tensor, prototypes: Tensor) -> bool:
    """Whether there is a tile for vectors this long."""
    of_products = z.shape[1], _wider(z, prototypes).element_size()
    return all(launch.cut_for(cuts, *of_products) for cuts in (FORWARD_CUTS, BACKWARD_CUTS))


def forward_tiles(z: Tensor, prototypes: Tensor, *, processors: int) -> Tiles:
    """Cuts for a GPU of `processors` multiprocessors; a part takes four numbers a row."""
    cut = launch.cut_for(FORWARD_CUTS, z.shape[1], _wider(z, prototypes).element_size())
    count = len(prototypes)
    return launch.tiles(cut, len(z), count, most_parts=count, processors=processors)


def backward_tiles(held: Tensor, passing: Tensor, *, processors: int) -> Tiles:
    """As `forward_tiles`; a part takes D numbers a vector held.

    At most passing / D parts, which together take no more than the assignment.
    """
    count, dim = passing.shape
    cut = launch.cut_for(BACKWARD_CUTS, dim, _wider(held, passing).element_size())
    most_parts = max(1, count // dim)
    return launch.tiles(cut, len(held), count, most_parts=most_parts, processors=processors)


def _wider(first: Tensor, second: Tensor) -> Tensor:
    """The one whose dtype products of both take."""
    return max(first, second, key=Tensor.element_size)


def _options(held: Tensor, passing: Tensor, cut: Tiles) -> dict:
    """Constants and launch options of the kernels that walk."""
    return {
        "D": held.shape[1],
        "PRODUCT": launch.product_dtype(_wider(held, passing)),
        "PRECISION": launch.precision(),
        "BLOCK_D": max(16, triton.next_power_of_2(held.shape[1])),
        "num_warps": cut.warps,
        "num_stages": cut.stages,
    }


def swapped_prediction(
    z: Tensor,
    prototypes: Tensor,
    assignment: Tensor,
    temperature: float,
    *,
    cut: Tiles | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `models.ops.reference.swapped_prediction.swapped_prediction`, in three launches."""
    z, prototypes, assignment = (x.contiguous() for x in (z, prototypes, assignment))
    rows, count = assignment.shape
    cut = cut or forward_tiles(z, prototypes, processors=launch.processors(z.device))
    of_parts = torch.empty(4, cut.parts, rows, dtype=torch.float32, device=z.device).unbind()
    _predict_kernel[(triton.cdiv(rows, cut.queries), cut.parts)](
        z,
        prototypes,
        assignment,
        *of_parts,
        rows,
        count,
        cut.part_keys,
        math.log2(math.e) / temperature,
        BLOCK_N=cut.queries,
        BLOCK_P=cut.keys,
        **_options(z, prototypes, cut),
    )
    loss, peak, share = (torch.empty(rows, dtype=torch.float32, device=z.device) for _ in range(3))
    _join_predictions_kernel[(triton.cdiv(rows, 128),)](
        *of_parts, loss, peak, share, rows, cut.parts, BLOCK_N=128
    )
    return loss.sum(), peak, share


def gradient(
    of_loss: Tensor,
    z: Tensor,
    prototypes: Tensor,
    assignment: Tensor,
    peak: Tensor,
    share: Tensor,
    temperature: float,
    *,
    by_z: bool,
    cut: Tiles | None = None,
) -> Tensor:
    """As `models.ops.reference.swapped_prediction.gradient`, in one launch and a sum of parts."""
    z, prototypes, assignment = (x.contiguous() for x in (z, prototypes, assignment))
    mine, others = (z, prototypes) if by_z else (prototypes, z)
    strides = assignment.stride() if by_z else assignment.stride()[::-1]
    cut = cut or backward_tiles(mine, others, processors=launch.processors(z.device))
    parts = torch.empty(cut.parts, *mine.shape, dtype=torch.float32, device=z.device)
    _pull_kernel[(triton.cdiv(len(mine), cut.queries), cut.parts)](
        of_loss,
        mine,
        others,
        assignment,
        peak,
        share,
        parts,
        len(mine),
        len(others),
        cut.part_keys,
        *strides,
        math.log2(math.e) / temperature,
        1 / (temperature * len(z)),
        BY_Z=by_z,
        BLOCK_X=cut.queries,
        BLOCK_Y=cut.keys,
        **_options(mine, others, cut),
    )
    return (parts.sum(dim=0) if cut.parts > 1 else parts[0]).to(mine.dtype)
