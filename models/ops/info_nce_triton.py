"""InfoNCE in two kernels: attention to the queue with the keys as values, then the positives.

The first holds a tile of queries and walks over one part of the queue, as flash-decoding does, so
that a small batch still fills the GPU; the second joins the parts. Logarithms are to base 2.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.ops import launch_triton as launch
from models.ops.launch_triton import LOG2_E, Tiles, log_one_plus

# B queries, P positives of each, K queued keys, D dimensions, S parts of the queue


@triton.jit
def _attend_kernel(
    query,  # [B, D]
    queue,  # [K, D]
    weight,  # [K], or age: [K] int64, or neither
    query_id,  # [B] int64
    queue_id,  # [K] int64
    mean,  # [S, B, D], out: sum_j softmax(l_i)_j w_j Q_j over the part
    log_mass,  # [S, B], out: log2 sum_j exp l_ij over the part
    B,
    K,
    part_keys,  # a multiple of BLOCK_K
    scale,  # log2(e) / temperature
    log2_decay,
    D: tl.constexpr,
    WEIGHT: tl.constexpr,  # "none", "weight" or "age"
    IDS: tl.constexpr,
    SHIFT: tl.constexpr,
    WHOLE_BLOCKS: tl.constexpr,  # K is a multiple of BLOCK_K
    PRODUCT: tl.constexpr,  # dtype that products take
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    part = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    dims = tl.arange(0, BLOCK_D)
    first = part * part_keys
    count = tl.minimum(part_keys, K - first)
    # Pointers move on instead of offsets, which K * D may take past 32 bits.
    queue += first.to(tl.int64) * D
    inside = (rows < B)[:, None] & (dims < D)[None, :]
    at = rows.to(tl.int64)[:, None] * D + dims[None, :]
    q = tl.load(query + at, mask=inside, other=0.0).to(queue.dtype.element_ty).to(PRODUCT)
    if IDS:
        video = tl.load(query_id + rows, mask=rows < B, other=-1)
        video = tl.where(video < 0, -2, video)  # -1 is "none" on both sides, and no match
    peak = tl.full([BLOCK_B], -float("inf") if SHIFT else 0.0, tl.float32)
    mass = tl.zeros([BLOCK_B], tl.float32)
    total = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    block = tl.arange(0, BLOCK_K)[:, None] * D + dims[None, :]
    for start in range(0, count, BLOCK_K):
        slots = start + tl.arange(0, BLOCK_K)
        known = (slots < count) | WHOLE_BLOCKS
        here = known[:, None] & (dims < D)[None, :]
        keys = tl.load(queue + block, mask=here, other=0.0).to(PRODUCT)
        logit = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale
        if WEIGHT == "weight":
            w = tl.load(weight + first + slots, mask=known, other=0.0).to(tl.float32)
        if WEIGHT == "age":
            age = tl.load(weight + first + slots, mask=known, other=0)
            w = tl.exp2(age.to(tl.float32) * log2_decay)
        if WEIGHT != "none":
            logit *= w[None, :]
        if not WHOLE_BLOCKS:
            logit = tl.where(known[None, :], logit, -float("inf"))
        if IDS:
            key_video = tl.load(queue_id + first + slots, mask=known, other=-1)
            logit = tl.where(video[:, None] == key_video[None, :], -float("inf"), logit)
        if SHIFT:
            largest = tl.maximum(peak, tl.max(logit, 1))
            # A row whose keys are all left out keeps -inf, and -inf - -inf is no number.
            base = tl.where(largest == -float("inf"), 0.0, largest)
            rescale = tl.exp2(peak - base)
            logit -= base[:, None]
            mass *= rescale
            total *= rescale[:, None]
            peak = largest
        p = tl.exp2(logit)
        mass += tl.sum(p, 1)
        if WEIGHT != "none":
            p *= w[None, :]
        total = tl.dot(p.to(PRODUCT), keys, acc=total, input_precision=PRECISION)
        queue += BLOCK_K * D
    total /= tl.where(mass > 0, mass, 1.0)[:, None]
    out = part.to(tl.int64) * B
    tl.store(mean + out * D + at, total.to(mean.dtype.element_ty), mask=inside)
    tl.store(log_mass + out + rows, peak + tl.log2(mass), mask=rows < B)


@triton.jit
def _join_kernel(
    query,  # [B, D]
    key,  # [B, P, D]
    mean,  # [S, B, D]
    log_mass,  # [S, B]
    loss,  # [B], out: the query's share of the mean
    gradient,  # [B, D], out
    pull,  # [B, P], out
    B,
    P,
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
    total = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, S, BLOCK_S):
        parts = start + tl.arange(0, BLOCK_S)
        at = parts.to(tl.int64) * B + row
        logs = tl.load(log_mass + at, mask=parts < S, other=-float("inf"))
        inside = (parts < S)[:, None] & (dims < D)[None, :]
        means = tl.load(mean + at[:, None] * D + dims[None, :], mask=inside, other=0.0)
        largest = tl.maximum(peak, tl.max(logs, 0))
        base = tl.where(largest == -float("inf"), 0.0, largest)
        share = tl.exp2(logs - base)
        rescale = tl.exp2(peak - base)
        mass = mass * rescale + tl.sum(share, 0)
        total = total * rescale + tl.sum(share[:, None] * means.to(tl.float32), 0)
        peak = largest
    total /= tl.where(mass > 0, mass, 1.0)
    negatives = (peak + tl.log2(mass)) / LOG2_E

    at = row.to(tl.int64) * D + dims
    q = tl.load(query + at, mask=dims < D, other=0.0).to(tl.float32)
    result = tl.zeros([BLOCK_D], tl.float32)
    share_of_loss = 0.0
    for positive in range(0, P):
        number = row.to(tl.int64) * P + positive
        k = tl.load(key + number * D + dims, mask=dims < D, other=0.0).to(tl.float32)
        lead = negatives - tl.sum(q * k, 0) / temperature  # of the negatives over the positive
        small = tl.exp2(-tl.abs(lead) * LOG2_E)
        share_of_loss += tl.maximum(lead, 0.0) + log_one_plus(small)
        r = tl.where(lead > 0, 1.0, small) / (1.0 + small) / (temperature * B * P)
        tl.store(pull + number, r)
        result += r * (total - k)
    tl.store(gradient + at, result, mask=dims < D)
    tl.store(loss + row, share_of_loss / (B * P))


CUTS = {
    (2, 64): ((64, 64, 4, 3), (32, 64, 4, 3)),
    (2, 128): ((128, 32, 8, 3), (64, 64, 4, 3)),
    (2, 256): ((64, 32, 8, 2), (32, 32, 4, 2)),
    (2, 512): ((32, 32, 8, 2), (16, 32, 4, 2)),
    (4, 64): ((32, 32, 8, 2), (16, 32, 4, 2)),
    (4, 128): ((32, 32, 8, 2), (16, 32, 4, 2)),
}


def fits(query: Tensor, queue: Tensor) -> bool:
    """Whether there is a tile for vectors this long."""
    return launch.cut_for(CUTS, query.shape[1], queue.element_size()) is not None


def tiles(batch: int, slots: int, dim: int, *, itemsize: int, processors: int) -> Tiles:
    """Cuts for a GPU of `processors` multiprocessors and keys of `itemsize` bytes a number.

    The parts' means take parts * B * D numbers. The eager form keeps about five arrays of B * K
    float32 alive; one per cent of that allows K / (20 D) parts in float32, twice that in bfloat16.
    """
    return launch.tiles(
        launch.cut_for(CUTS, dim, itemsize),
        batch,
        slots,
        most_parts=max(1, slots * 4 // (20 * dim * itemsize)),
        processors=processors,
    )


def info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float,
    weight: Tensor | None,
    query_id: Tensor | None,
    queue_id: Tensor | None,
    age: Tensor | None,
    decay: float,
    shift: bool,
    *,
    cut: Tiles | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `models.ops.reference.info_nce`, in three launches."""
    query, key, queue = query.contiguous(), key.contiguous(), queue.contiguous()
    (batch, dim), slots = query.shape, len(queue)
    cut = cut or tiles(
        batch, slots, dim, itemsize=queue.element_size(), processors=launch.processors(query.device)
    )
    # The parts' means are rounded as the keys are that they are means of.
    mean = torch.empty(cut.parts, batch, dim, dtype=queue.dtype, device=query.device)
    log_mass = torch.empty(cut.parts, batch, dtype=torch.float32, device=query.device)
    weighing = "weight" if weight is not None else "age" if age is not None else "none"
    _attend_kernel[(triton.cdiv(batch, cut.queries), cut.parts)](
        query,
        queue,
        _or(weight if age is None else age, query),
        _or(query_id, query),
        _or(queue_id, query),
        mean,
        log_mass,
        batch,
        slots,
        cut.part_keys,
        math.log2(math.e) / temperature,
        math.log2(decay),
        D=dim,
        WEIGHT=weighing,
        IDS=query_id is not None,
        SHIFT=shift,
        WHOLE_BLOCKS=slots % cut.keys == 0,
        PRODUCT=launch.product_dtype(queue),
        PRECISION=launch.precision(),
        BLOCK_B=cut.queries,
        BLOCK_K=cut.keys,
        BLOCK_D=launch.block_dim(dim),
        num_warps=cut.warps,
        num_stages=cut.stages,
    )
    return _join(query, key, mean, log_mass, temperature)


def _join(
    query: Tensor, key: Tensor, mean: Tensor, log_mass: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient and pull from what each part of the queue gave: mean [S, B, D], log2 mass."""
    (parts, batch, dim), positives = mean.shape, key.shape[1]
    block_dim = launch.block_dim(dim)
    loss = torch.empty(batch, dtype=torch.float32, device=query.device)
    gradient = torch.empty(batch, dim, dtype=torch.float32, device=query.device)
    pull = torch.empty(batch, positives, dtype=torch.float32, device=query.device)
    _join_kernel[(batch,)](
        query,
        key,
        mean,
        log_mass,
        loss,
        gradient,
        pull,
        batch,
        positives,
        parts,
        temperature,
        D=dim,
        BLOCK_S=max(1, min(triton.next_power_of_2(parts), 8192 // block_dim)),
        BLOCK_D=block_dim,
    )
    return loss.sum(), gradient, pull


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """An argument that the kernel does not read has to be some tensor all the same."""
    return other if tensor is None else tensor.contiguous()
