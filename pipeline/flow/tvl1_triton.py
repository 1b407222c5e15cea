"""TV-L1 on the GPU: all pairs in every launch, several iterations in one, nothing but registers.

A program of the iteration is one warp. It walks down a strip of one pair, 64 pixels wide, and does
an iteration one row behind the one before it:

    row y      of iteration 0 comes from memory
    row y - 1  of iteration 1 has its dual, which needs row y of the primal
    row y - k  of iteration k goes to memory

So of each iteration one row is kept, neighbours above are last turn's numbers, and neighbours
beside come from other lanes: no shared memory, no barrier. Each iteration looks one pixel to every
side, so of a strip of 64 that has neighbours, k pixels at either end are theirs to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.flow.config import Tvl1Config
from pipeline.flow.tvl1 import SMALLEST_GRADIENT, enlarged, gradients

# B clips of T frames, P = B (T - 1) pairs, h x w pixels at one scale
# state [P, 6, h, w]: u, v, dual of u by x and by y, dual of v by x and by y
# terms [P, 3, h, w]: gradient of the warped frame by x and by y, constant part of the residual

# Of one launch. One row of six numbers for each: more would not fit the registers of a lane.
ITERATIONS = 5
WARP_PIXELS = 256
# Warps that keep one multiprocessor busy. A strip that is cut to get them repeats 2 k rows.
STRIPS_AT_ONCE = 8
LEAST_ROWS = 32


@triton.jit
def _taps(place, size):
    """The four pixels around each place, the border's for those outside, and their weights."""
    # Farther out every pixel is the border's, and the number would not fit an integer for long.
    place = tl.minimum(tl.maximum(place, -2.0), size + 1.0)
    behind = tl.floor(place)
    t = place - behind
    first = behind.to(tl.int32)
    taps = (
        tl.minimum(tl.maximum(first - 1, 0), size - 1),
        tl.minimum(tl.maximum(first, 0), size - 1),
        tl.minimum(tl.maximum(first + 1, 0), size - 1),
        tl.minimum(tl.maximum(first + 2, 0), size - 1),
    )
    weights = (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    return taps, weights


@triton.jit
def _cubic(picture, rows, down, columns, across, w, mask):
    """The picture [h, w] between its pixels."""
    value = tl.zeros(mask.shape, tl.float32)
    for j in tl.static_range(4):
        line = tl.zeros(mask.shape, tl.float32)
        for i in tl.static_range(4):
            pixel = tl.load(picture + rows[j] * w + columns[i], mask=mask, other=0.0)
            line += across[i] * pixel
        value += down[j] * line
    return value


@triton.jit
def _warp_kernel(
    frames,  # [B, T, h, w]
    by_x,  # [B, T, h, w]
    by_y,  # [B, T, h, w]
    state,  # [P, 6, h, w]
    terms,  # [P, 3, h, w]
    T,
    h,
    w,
    BLOCK: tl.constexpr,
):
    size = h * w
    blocks = tl.cdiv(size, BLOCK)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    still = (pair // (T - 1) * T + pair % (T - 1)) * size
    moved = still + size
    u = tl.load(state + pair * 6 * size + at, mask=inside, other=0.0)
    v = tl.load(state + pair * 6 * size + size + at, mask=inside, other=0.0)
    columns, across = _taps((at % w).to(tl.float32) + u, w)
    rows, down = _taps((at // w).to(tl.float32) + v, h)
    grey = _cubic(frames + moved, rows, down, columns, across, w, inside)
    gx = _cubic(by_x + moved, rows, down, columns, across, w, inside)
    gy = _cubic(by_y + moved, rows, down, columns, across, w, inside)
    before = tl.load(frames + still + at, mask=inside, other=0.0)
    terms += pair * 3 * size + at
    tl.store(terms, gx, mask=inside)
    tl.store(terms + size, gy, mask=inside)
    tl.store(terms + 2 * size, grey - before - (gx * u + gy * v), mask=inside)


@triton.jit
def _dual(dual_x, dual_y, dx, dy, step):
    scale = 1.0 / (1.0 + step * tl.sqrt(dx * dx + dy * dy))
    return (dual_x + step * dx) * scale, (dual_y + step * dy) * scale


@triton.jit
def _iteration(
    row,  # (u, v, ux, uy, vx, vy) of row y before it
    above,  # of row y - 1: u and v after it, their duals before it
    terms,  # (gx, gy, constant) of row y
    y,
    h,
    lanes,  # (number of the one to the left, of the one to the right)
    ends,  # (whether it is the first of a row of the picture, the last)
    numbers,  # lambda theta, theta, tau / theta
    SMALLEST: tl.constexpr,
):
    """Row y - 1 after one iteration, and what the next row needs of this one."""
    u, v, ux, uy, vx, vy = row
    above_u, above_v, above_ux, above_uy, above_vx, above_vy = above
    gx, gy, constant = terms
    left, right = lanes
    first, last = ends
    threshold, theta, step = numbers
    data = -(constant + gx * u + gy * v) / tl.maximum(gx * gx + gy * gy, SMALLEST)
    data = tl.minimum(tl.maximum(data, -threshold), threshold)
    beside_u = tl.where(first, 0.0, tl.gather(ux, left, 0))
    beside_v = tl.where(first, 0.0, tl.gather(vx, left, 0))
    u += data * gx + theta * (ux - beside_u + uy - tl.where(y > 0, above_uy, 0.0))
    v += data * gy + theta * (vx - beside_v + vy - tl.where(y > 0, above_vy, 0.0))
    dx = tl.where(last, 0.0, tl.gather(above_u, right, 0) - above_u)
    dy = tl.where(y < h, u - above_u, 0.0)
    above_ux, above_uy = _dual(above_ux, above_uy, dx, dy, step)
    dx = tl.where(last, 0.0, tl.gather(above_v, right, 0) - above_v)
    dy = tl.where(y < h, v - above_v, 0.0)
    above_vx, above_vy = _dual(above_vx, above_vy, dx, dy, step)
    done = (above_u, above_v, above_ux, above_uy, above_vx, above_vy)
    return done, (u, v, ux, uy, vx, vy)


@triton.jit
def _iterate_kernel(
    state,  # [P, 6, h, w]
    terms,  # [P, 3, h, w]
    result,  # [P, 6, h, w]
    h,
    w,
    columns,  # strips beside each other in a picture
    parts,  # of a strip
    part_rows,
    threshold,
    theta,
    step,
    SMALLEST: tl.constexpr,
    ITERATIONS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    column = tl.program_id(0) % columns
    part = tl.program_id(0) // columns % parts
    pair = (tl.program_id(0) // columns // parts).to(tl.int64)
    size = h * w
    lane = tl.arange(0, BLOCK)
    x = column * (BLOCK - 2 * ITERATIONS) + lane
    state += pair * 6 * size + x
    terms += pair * 3 * size + x
    result += pair * 6 * size + x
    lanes = (tl.maximum(lane - 1, 0), tl.minimum(lane + 1, BLOCK - 1))
    ends = (x == 0, x == w - 1)
    numbers = (threshold, theta, step)
    known = ((lane >= ITERATIONS) | (column == 0)) & (x < w)
    known &= (lane < BLOCK - ITERATIONS) | (column == columns - 1)
    first_row = part * part_rows
    end_row = tl.minimum(first_row + part_rows, h)
    zero = tl.zeros([BLOCK], tl.float32)
    above = ((zero, zero, zero, zero, zero, zero),) * ITERATIONS
    # Of rows before `first_row` as many as there are iterations, so that it comes out right.
    for newest in range(tl.maximum(first_row - ITERATIONS, 0), end_row + ITERATIONS):
        inside = (x < w) & (newest < h)
        row = ()
        for field in tl.static_range(6):
            row += (tl.load(state + field * size + newest * w, mask=inside, other=0.0),)
        kept = ()
        for done in tl.static_range(ITERATIONS):
            y = newest - done
            inside = (x < w) & (y >= 0) & (y < h)
            gx = tl.load(terms + y * w, mask=inside, other=0.0)
            gy = tl.load(terms + size + y * w, mask=inside, other=0.0)
            constant = tl.load(terms + 2 * size + y * w, mask=inside, other=0.0)
            row, keep = _iteration(
                row, above[done], (gx, gy, constant), y, h, lanes, ends, numbers, SMALLEST
            )
            kept += (keep,)
        above = kept
        y = newest - ITERATIONS
        for field in tl.static_range(6):
            at = result + field * size + y * w
            tl.store(at, row[field], mask=known & (y >= first_row))


@dataclass(frozen=True)
class Cut:
    """How one launch of iterations cuts a picture: strips beside each other, and their parts."""

    width: int
    columns: int
    parts: int
    part_rows: int


def cut_for(pairs: int, h: int, w: int, *, iterations: int, processors: int) -> Cut:
    """Strips as wide as the picture allows, cut where there are too few for the GPU."""
    width = 32 if w <= 32 else 64
    columns = max(1, triton.cdiv(w - 2 * iterations, width - 2 * iterations))
    wanted = triton.cdiv(STRIPS_AT_ONCE * processors, pairs * columns)
    part_rows = triton.cdiv(h, max(1, min(wanted, h // LEAST_ROWS)))
    return Cut(width, columns, triton.cdiv(h, part_rows), part_rows)


def flow_of_pairs(scales: list[Tensor], config: Tvl1Config) -> Tensor:
    """Flow [P, 2, H, W] of every frame of a pyramid, `pipeline.flow.tvl1.pyramid`, to the next."""
    flow = None
    for frames in reversed(scales):
        b, t, h, w = frames.shape
        state = frames.new_zeros(b * (t - 1), 6, h, w)
        if flow is not None:
            state[:, :2] = enlarged(flow, h, w)
        flow = _flow_at_scale(frames.contiguous(), state, config)[:, :2]
    return flow


def _flow_at_scale(frames: Tensor, state: Tensor, config: Tvl1Config) -> Tensor:
    """The state after all warps of one scale."""
    by_x, by_y = gradients(frames)
    other = torch.empty_like(state)
    full, rest = divmod(config.iterations, ITERATIONS)
    for _ in range(config.warps):
        terms = linearised(frames, by_x, by_y, state)
        for iterations in [ITERATIONS] * full + [rest] * (rest > 0):
            iterate(state, terms, other, iterations, config)
            state, other = other, state
    return state


def linearised(frames: Tensor, by_x: Tensor, by_y: Tensor, state: Tensor) -> Tensor:
    """The terms of frames [B, T, h, w] and their gradients where the flow of the state leads."""
    pairs, _, h, w = state.shape
    terms = state.new_empty(pairs, 3, h, w)
    grid = (pairs * triton.cdiv(h * w, WARP_PIXELS),)
    _warp_kernel[grid](frames, by_x, by_y, state, terms, frames.shape[1], h, w, BLOCK=WARP_PIXELS)
    return terms


def iterate(
    state: Tensor,
    terms: Tensor,
    result: Tensor,
    iterations: int,
    config: Tvl1Config,
    cut: Cut | None = None,
) -> None:
    """One launch: `result` becomes the state after at most ITERATIONS more."""
    pairs, _, h, w = state.shape
    processors = _processors(state.device)
    cut = cut or cut_for(pairs, h, w, iterations=iterations, processors=processors)
    _iterate_kernel[(pairs * cut.columns * cut.parts,)](
        state,
        terms,
        result,
        h,
        w,
        cut.columns,
        cut.parts,
        cut.part_rows,
        config.attachment * config.tightness,
        config.tightness,
        config.time_step / config.tightness,
        SMALLEST=SMALLEST_GRADIENT,
        ITERATIONS=iterations,
        BLOCK=cut.width,
        num_warps=1,
    )


@cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; of Triton's interpreter 1."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
