"""The ring's write in one launch: the program that finishes last moves the position on."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# B new keys, K slots, D dimensions


@triton.jit
def _enqueue_kernel(
    new_keys,  # [B, D], rows new_stride apart
    new_ids,  # [B] int64
    keys,  # [K, D]
    ids,  # [K] int64
    birth_key,  # [K] int64
    birth_step,  # [K] int64
    keys_written,  # [] int64
    steps,  # [] int64
    ticket,  # [] int32, 0 before and after
    B,
    K,
    skipped,  # of B > K keys the first, which this call itself would overwrite
    new_stride,
    D: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = skipped + tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    dims = tl.arange(0, BLOCK_D)
    written = tl.load(keys_written)
    step = tl.load(steps)
    number = written + row
    slot = number % K
    inside = (row < B)[:, None] & (dims < D)[None, :]
    at = row.to(tl.int64)[:, None] * new_stride + dims[None, :]
    rows = tl.load(new_keys + at, mask=inside, other=0.0)
    tl.store(keys + slot[:, None] * D + dims[None, :], rows.to(keys.dtype.element_ty), mask=inside)
    tl.store(ids + slot, tl.load(new_ids + row, mask=row < B, other=-1), mask=row < B)
    tl.store(birth_key + slot, number, mask=row < B)
    tl.store(birth_step + slot, tl.zeros_like(number) + step, mask=row < B)
    # All warps of this program have read the position before it draws its ticket.
    tl.debug_barrier()
    if tl.atomic_add(ticket, 1) == tl.num_programs(0) - 1:
        tl.store(keys_written, written + B)
        tl.store(steps, step + 1)
        tl.store(ticket, 0)


def enqueue(
    new_keys: Tensor,
    new_ids: Tensor,
    keys: Tensor,
    ids: Tensor,
    birth_key: Tensor,
    birth_step: Tensor,
    keys_written: Tensor,
    steps: Tensor,
    ticket: Tensor,
) -> None:
    """See `models.ops.enqueue`."""
    size, dim = keys.shape
    batch = len(new_keys)
    skipped = max(0, batch - size)
    block_dim = triton.next_power_of_2(dim)
    block_batch = max(1, 2048 // block_dim)  # 16 numbers for each of 128 threads
    programs = max(1, triton.cdiv(batch - skipped, block_batch))  # of no key too: steps counts
    new_keys = new_keys if new_keys.stride(1) == 1 else new_keys.contiguous()
    _enqueue_kernel[(programs,)](
        new_keys,
        new_ids.contiguous(),
        keys,
        ids,
        birth_key,
        birth_step,
        keys_written,
        steps,
        ticket,
        batch,
        size,
        skipped,
        new_keys.stride(0),
        D=dim,
        BLOCK_B=block_batch,
        BLOCK_D=block_dim,
    )
