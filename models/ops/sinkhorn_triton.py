"""Sinkhorn-Knopp in one sweep over the scores an iteration, and a small sum over its parts.

A program holds whole rows, all prototypes of them, and walks over one part of the rows; what its
prototypes get is in registers until the part ends. Parts are added in order: no atomics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops import launch_triton as launch
from models.ops.launch_triton import LOG2_E

# N rows of scores, P prototypes, S parts of the rows


@triton.jit
def _logits(scores, rows, last, columns, scale, P):
    """A tile of scores times `scale`, -inf beyond the prototypes, 0 beyond the rows."""
    inside = (rows < last)[:, None] & (columns < P)[None, :]
    at = rows.to(tl.int64)[:, None] * P + columns[None, :]
    logit = tl.load(scores + at, mask=inside, other=0.0).to(tl.float32) * scale
    return tl.where((columns < P)[None, :], logit, -float("inf"))


@triton.jit
def _shares(logit):
    """Softmax of each row; logits to base 2."""
    p = tl.exp2(logit - tl.max(logit, 1)[:, None])
    return p / tl.sum(p, 1)[:, None]


@triton.jit
def _log_mass(level, mass, columns, P):
    """log2 of exp(level) mass, of every prototype."""
    known = columns < P
    high = tl.load(level + columns, mask=known, other=0.0) * LOG2_E
    return high + tl.log2(tl.load(mass + columns, mask=known, other=1.0))


@triton.jit
def _masses_kernel(
    scores,  # [N, P]
    level,  # [S, P], out: the part's largest s / epsilon, natural
    mass,  # [S, P], out: sum_i exp(s_ip / epsilon - level) over the part
    N,
    P,
    part_rows,  # a multiple of BLOCK_N
    scale,  # log2(e) / epsilon
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    part = tl.program_id(0)
    columns = tl.arange(0, BLOCK_P)
    first = part * part_rows
    last = tl.minimum(first + part_rows, N)
    peak = tl.full([BLOCK_P], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_P], tl.float32)
    for start in range(first, last, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        logit = _logits(scores, rows, last, columns, scale, P)
        logit = tl.where((rows < last)[:, None], logit, -float("inf"))
        largest = tl.maximum(peak, tl.max(logit, 0))
        # Beyond the prototypes all is -inf, and -inf - -inf is no number.
        base = tl.where(columns < P, largest, 0.0)
        total = total * tl.exp2(peak - base) + tl.sum(tl.exp2(logit - base[None, :]), 0)
        peak = largest
    at = part.to(tl.int64) * P + columns
    tl.store(level + at, peak / LOG2_E, mask=columns < P)
    tl.store(mass + at, total, mask=columns < P)


@triton.jit
def _rebalance_kernel(
    scores,  # [N, P]
    level,  # [P]
    mass,  # [P]
    shares,  # [S, P], out: what each prototype gets of the part's rows
    N,
    P,
    part_rows,  # a multiple of BLOCK_N
    scale,  # log2(e) / epsilon
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    part = tl.program_id(0)
    columns = tl.arange(0, BLOCK_P)
    first = part * part_rows
    last = tl.minimum(first + part_rows, N)
    log_mass = _log_mass(level, mass, columns, P)
    total = tl.zeros([BLOCK_P], tl.float32)
    for start in range(first, last, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        logit = _logits(scores, rows, last, columns, scale, P)
        p = _shares(logit - log_mass[None, :])
        total += tl.sum(tl.where((rows < last)[:, None], p, 0.0), 0)
    tl.store(shares + part.to(tl.int64) * P + columns, total, mask=columns < P)


@triton.jit
def _assign_kernel(
    scores,  # [N, P]
    level,  # [P]
    mass,  # [P]
    assignment,  # [N, P], out
    N,
    P,
    scale,  # log2(e) / epsilon
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_P)
    logit = _logits(scores, rows, N, columns, scale, P)
    p = _shares(logit - _log_mass(level, mass, columns, P)[None, :])
    inside = (rows < N)[:, None] & (columns < P)[None, :]
    tl.store(assignment + rows.to(tl.int64)[:, None] * P + columns[None, :], p, mask=inside)


@triton.jit
def _join_masses_kernel(
    levels,  # [S, P]
    masses,  # [S, P]
    level,  # [P], out: the parts' highest
    mass,  # [P], out: the parts' sum, relative to it
    P,
    S,
    BLOCK_S: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    columns = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    known = columns < P
    peak = tl.full([BLOCK_P], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_P], tl.float32)
    for start in range(0, S, BLOCK_S):
        parts = start + tl.arange(0, BLOCK_S)
        inside = (parts < S)[:, None] & known[None, :]
        at = parts.to(tl.int64)[:, None] * P + columns[None, :]
        high = tl.load(levels + at, mask=inside, other=-float("inf"))
        largest = tl.maximum(peak, tl.max(high, 0))
        base = tl.where(known, largest, 0.0)
        share = tl.exp2((high - base[None, :]) * LOG2_E)
        share *= tl.load(masses + at, mask=inside, other=0.0)
        total = total * tl.exp2((peak - base) * LOG2_E) + tl.sum(share, 0)
        peak = largest
    tl.store(level + columns, peak, mask=known)
    tl.store(mass + columns, total, mask=known)


@triton.jit
def _join_shares_kernel(
    shares,  # [S, P]
    level,  # [P]
    mass,  # [P]
    new_level,  # [P], out: level + log mass
    new_mass,  # [P], out: the parts' sum
    P,
    S,
    BLOCK_S: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    columns = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    known = columns < P
    total = tl.zeros([BLOCK_P], tl.float32)
    for start in range(0, S, BLOCK_S):
        parts = start + tl.arange(0, BLOCK_S)
        inside = (parts < S)[:, None] & known[None, :]
        at = parts.to(tl.int64)[:, None] * P + columns[None, :]
        total += tl.sum(tl.load(shares + at, mask=inside, other=0.0), 0)
    tl.store(new_level + columns, _log_mass(level, mass, columns, P) / LOG2_E, mask=known)
    tl.store(new_mass + columns, total, mask=known)


@dataclass(frozen=True)
class Tiles:
    """How a sweep cuts its work."""

    rows: int  # that a program holds at once
    parts: int
    part_rows: int
    block: int  # prototypes, padded
    warps: int


# Prototypes up to: numbers in the largest tile, and its warps. Without a spilled register for
# sm_80, sm_90 and sm_100.
CUTS = {2048: (4096, 4), 4096: (8192, 8), 8192: (8192, 16)}


def fits(scores: Tensor) -> bool:
    """Whether a program can hold a row."""
    return scores.shape[1] <= max(CUTS)


def tiles(rows: int, prototypes: int, *, processors: int) -> Tiles:
    """Cuts for a GPU of `processors` multiprocessors, each with one part at most."""
    block = max(16, triton.next_power_of_2(prototypes))
    numbers, warps = next(cut for most, cut in CUTS.items() if prototypes <= most)
    each = max(1, triton.cdiv(rows, processors))
    held = min(numbers // block, triton.next_power_of_2(each))
    part_rows = triton.cdiv(each, held) * held
    return Tiles(
        rows=held, parts=triton.cdiv(rows, part_rows), part_rows=part_rows, block=block, warps=warps
    )


def masses(scores: Tensor, epsilon: float, *, cut: Tiles | None = None) -> tuple[Tensor, Tensor]:
    """As `models.ops.reference.sinkhorn.masses`, in two launches."""
    rows, prototypes = scores.shape
    cut = cut or tiles(rows, prototypes, processors=launch.processors(scores.device))
    levels, shares = _numbers(scores, 2, cut.parts)
    level, mass = _numbers(scores, 2)
    _masses_kernel[(cut.parts,)](
        scores,
        levels,
        shares,
        rows,
        prototypes,
        cut.part_rows,
        math.log2(math.e) / epsilon,
        BLOCK_N=cut.rows,
        BLOCK_P=cut.block,
        num_warps=cut.warps,
    )
    _join_masses_kernel[_join_grid(prototypes)](
        levels, shares, level, mass, prototypes, cut.parts, **JOIN
    )
    return level, mass


def rebalance(
    scores: Tensor, level: Tensor, mass: Tensor, epsilon: float, *, cut: Tiles | None = None
) -> tuple[Tensor, Tensor]:
    """As `models.ops.reference.sinkhorn.rebalance`, in two launches."""
    rows, prototypes = scores.shape
    cut = cut or tiles(rows, prototypes, processors=launch.processors(scores.device))
    (shares,) = _numbers(scores, 1, cut.parts)
    new_level, new_mass = _numbers(scores, 2)
    _rebalance_kernel[(cut.parts,)](
        scores,
        level,
        mass,
        shares,
        rows,
        prototypes,
        cut.part_rows,
        math.log2(math.e) / epsilon,
        BLOCK_N=cut.rows,
        BLOCK_P=cut.block,
        num_warps=cut.warps,
    )
    _join_shares_kernel[_join_grid(prototypes)](
        shares, level, mass, new_level, new_mass, prototypes, cut.parts, **JOIN
    )
    return new_level, new_mass


def assign(scores: Tensor, level: Tensor, mass: Tensor, epsilon: float) -> Tensor:
    """As `models.ops.reference.sinkhorn.assign`, in one launch."""
    rows, prototypes = scores.shape
    cut = tiles(rows, prototypes, processors=launch.processors(scores.device))
    assignment = torch.empty(rows, prototypes, dtype=torch.float32, device=scores.device)
    _assign_kernel[(triton.cdiv(rows, cut.rows),)](
        scores,
        level,
        mass,
        assignment,
        rows,
        prototypes,
        math.log2(math.e) / epsilon,
        BLOCK_N=cut.rows,
        BLOCK_P=cut.block,
        num_warps=cut.warps,
    )
    return assignment


# 64 parts x 32 prototypes: 16 numbers for each of 128 threads.
JOIN = {"BLOCK_S": 64, "BLOCK_P": 32}


def _join_grid(prototypes: int) -> tuple[int]:
    return (triton.cdiv(prototypes, JOIN["BLOCK_P"]),)


def _numbers(scores: Tensor, count: int, *parts: int) -> tuple[Tensor, ...]:
    """`count` arrays of a number a prototype, or of that for each part."""
    shape = (count, *parts, scores.shape[1])
    return torch.empty(shape, dtype=torch.float32, device=scores.device).unbind()
