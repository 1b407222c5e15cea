"""Writing into the ring of keys, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def enqueue(
    new_keys: Tensor,
    new_ids: Tensor,
    keys: Tensor,
    ids: Tensor,
    birth_key: Tensor,
    birth_step: Tensor,
    keys_written: Tensor,
    steps: Tensor,
) -> None:
    """See `models.ops.enqueue`."""
    size, written = len(keys), len(new_keys)
    skipped = max(0, written - size)  # they would be overwritten within this call
    number = keys_written + torch.arange(skipped, written, device=keys.device)
    slot = number % size
    keys.index_copy_(0, slot, new_keys[skipped:].to(keys.dtype))
    ids.index_copy_(0, slot, new_ids[skipped:])
    birth_key.index_copy_(0, slot, number)
    birth_step.index_copy_(0, slot, steps.expand(written - skipped))
    keys_written += written
    steps += 1
