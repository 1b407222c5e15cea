"""NT-Xent in two kernels forward and two backward; each pair walks over parts of the candidates and
then joins the parts. Logits and masses are logarithms to base 2.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops import launch_triton as launch
from models.ops.launch_triton import LOG2_E, Tiles, log_one_plus

# R = 2 N rows, one view of N videos and then the other; K candidates, D dimensions, S parts


@triton.jit
def _mass_kernel(
    rows,  # [R, D]
    candidates,  # [K, D]
    log_mass,  # [S, R], out: log2 sum_j exp2(logit_ij) over the part's negatives
    R,
    K,
    first_row,  # rows are candidates[first_row:]
    part_keys,  # a multiple of BLOCK_K
    scale,  # log2(e) / temperature
    D: tl.constexpr,
    SHIFT: tl.constexpr,
    PRODUCT: tl.constexpr,  # dtype that products take
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    part = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    dims = tl.arange(0, BLOCK_D)
    first = part * part_keys
    last = tl.minimum(first + part_keys, K)
    at = row.to(tl.int64)[:, None] * D + dims[None, :]
    z = tl.load(rows + at, mask=(row < R)[:, None] & (dims < D)[None, :], other=0.0).to(PRODUCT)
    own = first_row + row
    positive = first_row + _other_view(row, R)
    peak = tl.full([BLOCK_R], -float("inf") if SHIFT else 0.0, tl.float32)
    mass = tl.zeros([BLOCK_R], tl.float32)
    # Pointers move on instead of offsets, which K * D may take past 32 bits.
    candidates += first.to(tl.int64) * D
    block = tl.arange(0, BLOCK_K)[:, None] * D + dims[None, :]
    for start in range(first, last, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        here = (column < last)[:, None] & (dims < D)[None, :]
        keys = tl.load(candidates + block, mask=here, other=0.0).to(PRODUCT)
        logit = tl.dot(z, tl.trans(keys), input_precision=PRECISION) * scale
        negative = _negatives(column, own, positive, last)
        logit = tl.where(negative, logit, -float("inf"))
        if SHIFT:
            largest = tl.maximum(peak, tl.max(logit, 1))
            # A row without negatives keeps -inf, and -inf - -inf is no number.
            base = tl.where(largest == -float("inf"), 0.0, largest)
            mass *= tl.exp2(peak - base)
            logit -= base[:, None]
            peak = largest
        mass += tl.sum(tl.exp2(logit), 1)
        candidates += BLOCK_K * D
    tl.store(log_mass + part.to(tl.int64) * R + row, peak + tl.log2(mass), mask=row < R)


@triton.jit
def _loss_kernel(
    rows,  # [R, D]
    parts,  # [S, R], log2 masses
    loss,  # [R], out: the row's share of the mean
    log_mass,  # [R], out
    share,  # [R], out: of the negatives in the row's softmax
    R,
    S,
    temperature,
    D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0)
    dims = tl.arange(0, BLOCK_D)
    peak = -float("inf")
    mass = 0.0
    for start in range(0, S, BLOCK_S):
        part = start + tl.arange(0, BLOCK_S)
        at = part.to(tl.int64) * R + row
        logs = tl.load(parts + at, mask=part < S, other=-float("inf"))
        largest = tl.maximum(peak, tl.max(logs, 0))
        base = tl.where(largest == -float("inf"), 0.0, largest)
        mass = mass * tl.exp2(peak - base) + tl.sum(tl.exp2(logs - base), 0)
        peak = largest
    negatives = peak + tl.log2(mass)

    z = tl.load(rows + row.to(tl.int64) * D + dims, mask=dims < D, other=0.0).to(tl.float32)
    other = _other_view(row, R).to(tl.int64)
    positive = tl.load(rows + other * D + dims, mask=dims < D, other=0.0).to(tl.float32)
    lead = negatives / LOG2_E - tl.sum(z * positive, 0) / temperature
    small = tl.exp2(-tl.abs(lead) * LOG2_E)
    tl.store(loss + row, (tl.maximum(lead, 0.0) + log_one_plus(small)) / R)
    tl.store(share + row, tl.where(lead > 0, 1.0, small) / (1.0 + small))
    tl.store(log_mass + row, negatives)


@triton.jit
def _attract_kernel(
    rows,  # [R, D]
    candidates,  # [K, D]
    log_mass,  # [K]
    pull,  # [K]
    by_rows,  # [S, R, D], out: sum_j (pull_i e_ij + pull_j e_ji) z_j over the part's negatives
    R,
    K,
    first_row,
    part_keys,
    scale,
    D: tl.constexpr,
    SHIFT: tl.constexpr,  # without it one exponential is enough: see the reference
    PRODUCT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    part = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    dims = tl.arange(0, BLOCK_D)
    first = part * part_keys
    last = tl.minimum(first + part_keys, K)
    at = row.to(tl.int64)[:, None] * D + dims[None, :]
    inside = (row < R)[:, None] & (dims < D)[None, :]
    z = tl.load(rows + at, mask=inside, other=0.0).to(PRODUCT)
    own = first_row + row
    positive = first_row + _other_view(row, R)
    own_mass = tl.load(log_mass + own, mask=row < R, other=0.0)
    own_pull = tl.load(pull + own, mask=row < R, other=0.0)
    if not SHIFT:
        own_pull *= tl.exp2(-own_mass)
    total = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    candidates += first.to(tl.int64) * D
    block = tl.arange(0, BLOCK_K)[:, None] * D + dims[None, :]
    for start in range(first, last, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        known = column < last
        here = known[:, None] & (dims < D)[None, :]
        keys = tl.load(candidates + block, mask=here, other=0.0).to(PRODUCT)
        mass = tl.load(log_mass + column, mask=known, other=0.0)
        strength = tl.load(pull + column, mask=known, other=0.0)
        logit = tl.dot(z, tl.trans(keys), input_precision=PRECISION) * scale
        if SHIFT:
            e = own_pull[:, None] * tl.exp2(logit - own_mass[:, None])
            e += strength[None, :] * tl.exp2(logit - mass[None, :])
        else:
            strength *= tl.exp2(-mass)
            e = tl.exp2(logit) * (own_pull[:, None] + strength[None, :])
        # A logit that is in no mass may be far above it: infinite, or infinity times 0.
        e = tl.where(_negatives(column, own, positive, last), e, 0.0)
        total = tl.dot(e.to(PRODUCT), keys, acc=total, input_precision=PRECISION)
        candidates += BLOCK_K * D
    tl.store(by_rows + part.to(tl.int64) * R * D + at, total, mask=inside)


@triton.jit
def _join_gradient_kernel(
    rows,  # [R, D]
    pull,  # [K]
    parts,  # [S, R, D]
    by_rows,  # [R, D], out
    R,
    S,
    first_row,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0)
    dims = tl.arange(0, BLOCK_D)
    other = _other_view(row, R)
    both = tl.load(pull + first_row + row) + tl.load(pull + first_row + other)
    positive = tl.load(rows + other.to(tl.int64) * D + dims, mask=dims < D, other=0.0)
    total = -both * positive.to(tl.float32)
    at = row.to(tl.int64) * D + dims
    for part in range(0, S):
        total += tl.load(parts + part * R.to(tl.int64) * D + at, mask=dims < D, other=0.0)
    tl.store(by_rows + at, total, mask=dims < D)


@triton.jit
def _other_view(row, R):
    return tl.where(row < R // 2, row + R // 2, row - R // 2)


@triton.jit
def _negatives(column, own, positive, end):
    """Which columns [BLOCK_K] before `end` are negatives of rows, [BLOCK_R, BLOCK_K]."""
    at = column[None, :]
    return (at < end) & (at != own[:, None]) & (at != positive[:, None])


# Of the forward pass, then of the backward pass, which holds sums [rows, D] as well.
FORWARD_CUTS = {
    (2, 128): ((64, 64, 4, 3), (32, 64, 4, 3)),
    (2, 256): ((64, 64, 4, 2), (32, 64, 4, 2)),
    (4, 64): ((32, 32, 4, 2), (16, 32, 4, 2)),
    (4, 128): ((32, 64, 8, 2), (16, 64, 4, 2)),
}
BACKWARD_CUTS = {
    (2, 64): ((64, 64, 4, 3), (32, 64, 4, 3)),
    (2, 128): ((64, 64, 4, 3), (32, 32, 4, 3)),
    (2, 256): ((64, 32, 8, 2), (32, 32, 4, 2)),
    (4, 64): ((32, 32, 8, 2), (16, 32, 4, 2)),
    (4, 128): ((32, 32, 8, 2), (16, 32, 4, 2)),
}


def fits(rows: Tensor) -> bool:
    """Whether there is a tile for vectors this long."""
    of_rows = rows.shape[1], rows.element_size()
    return all(launch.cut_for(cuts, *of_rows) for cuts in (FORWARD_CUTS, BACKWARD_CUTS))


def forward_tiles(rows: int, candidates: int, dim: int, *, itemsize: int, processors: int) -> Tiles:
    """Cuts for a GPU of `processors` multiprocessors; a part takes one number a row."""
    cut = launch.cut_for(FORWARD_CUTS, dim, itemsize)
    return launch.tiles(cut, rows, candidates, most_parts=candidates, processors=processors)


def backward_tiles(
    rows: int, candidates: int, dim: int, *, itemsize: int, processors: int
) -> Tiles:
    """As `forward_tiles`; a part takes D numbers a row, in float32.

    The eager form keeps about five arrays of R K float32 alive; a tenth of that allows K / (2 D)
    parts. (A hundredth, as info_nce has, would be one part: a batch is no queue.)
    """
    cut = launch.cut_for(BACKWARD_CUTS, dim, itemsize)
    most_parts = max(1, candidates // (2 * dim))
    return launch.tiles(cut, rows, candidates, most_parts=most_parts, processors=processors)


def nt_xent(
    rows: Tensor,
    candidates: Tensor,
    first_row: int,
    temperature: float,
    shift: bool,
    *,
    cut: Tiles | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `models.ops.reference.nt_xent.nt_xent`, in three launches."""
    rows, candidates = rows.contiguous(), candidates.contiguous()
    (count, dim), slots = rows.shape, len(candidates)
    cut = cut or forward_tiles(
        *(count, slots, dim),
        itemsize=rows.element_size(),
        processors=launch.processors(rows.device),
    )
    block_dim = launch.block_dim(dim)
    parts = torch.empty(cut.parts, count, dtype=torch.float32, device=rows.device)
    _mass_kernel[(triton.cdiv(count, cut.queries), cut.parts)](
        rows,
        candidates,
        parts,
        count,
        slots,
        first_row,
        cut.part_keys,
        math.log2(math.e) / temperature,
        D=dim,
        SHIFT=shift,
        PRODUCT=launch.product_dtype(rows),
        PRECISION=launch.precision(),
        BLOCK_R=cut.queries,
        BLOCK_K=cut.keys,
        BLOCK_D=block_dim,
        num_warps=cut.warps,
        num_stages=cut.stages,
    )
    loss, log_mass, share = (
        torch.empty(count, dtype=torch.float32, device=rows.device) for _ in range(3)
    )
    _loss_kernel[(count,)](
        rows,
        parts,
        loss,
        log_mass,
        share,
        count,
        cut.parts,
        temperature,
        D=dim,
        BLOCK_S=triton.next_power_of_2(min(cut.parts, 128)),
        BLOCK_D=block_dim,
    )
    return loss.sum(), log_mass, share


def gradient(
    rows: Tensor,
    candidates: Tensor,
    log_mass: Tensor,
    pull: Tensor,
    first_row: int,
    temperature: float,
    shift: bool,
    *,
    cut: Tiles | None = None,
) -> Tensor:
    """As `models.ops.reference.nt_xent.gradient`, in two launches."""
    rows, candidates = rows.contiguous(), candidates.contiguous()
    log_mass, pull = log_mass.contiguous(), pull.contiguous()
    (count, dim), slots = rows.shape, len(candidates)
    cut = cut or backward_tiles(
        *(count, slots, dim),
        itemsize=rows.element_size(),
        processors=launch.processors(rows.device),
    )
    block_dim = launch.block_dim(dim)
    parts = torch.empty(cut.parts, count, dim, dtype=torch.float32, device=rows.device)
    _attract_kernel[(triton.cdiv(count, cut.queries), cut.parts)](
        rows,
        candidates,
        log_mass,
        pull,
        parts,
        count,
        slots,
        first_row,
        cut.part_keys,
        math.log2(math.e) / temperature,
        D=dim,
        SHIFT=shift,
        PRODUCT=launch.product_dtype(rows),
        PRECISION=launch.precision(),
        BLOCK_R=cut.queries,
        BLOCK_K=cut.keys,
        BLOCK_D=block_dim,
        num_warps=cut.warps,
        num_stages=cut.stages,
    )
    by_rows = torch.empty(count, dim, dtype=torch.float32, device=rows.device)
    _join_gradient_kernel[(count,)](
        *(rows, pull, parts, by_rows, count, cut.parts, first_row), D=dim, BLOCK_D=block_dim
    )
    return by_rows
