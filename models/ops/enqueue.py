"""Keys of a batch into a ring of the newest, at a position that lives on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops import checks, choice
from models.ops.reference import enqueue as reference

# B new keys, K slots, D dimensions


def enqueue(
    new_keys: Tensor,
    new_ids: Tensor,
    *,
    keys: Tensor,
    ids: Tensor,
    birth_key: Tensor,
    birth_step: Tensor,
    keys_written: Tensor,
    steps: Tensor,
    ticket: Tensor,
) -> None:
    """Writes new_keys [B, D] of videos new_ids [B] over the oldest of a ring, in place.

        slot(n)  = (keys_written + n) mod K       of B > K keys the last K remain
        keys[slot(n)], ids[slot(n)], birth_key[slot(n)], birth_step[slot(n)]
                 = new_keys[n], new_ids[n], keys_written + n, steps
        keys_written, steps  += B, 1

    The ring: keys [K, D], float32, bfloat16 or float64, to which the new keys are rounded; ids,
    birth_key, birth_step [K] int64; keys_written, steps [] int64; ticket [] int32, 0 before and
    after, by which the programs of one launch know the last of them. Nothing waits for the device.

    Raises ValueError where shapes, dtypes or devices do not fit, or the ring has no slot.

    Source: He et al., CVPR 2020 (arXiv 1911.05722), section 3.2.
    """
    _check(new_keys, new_ids, keys)
    _enqueue(new_keys, new_ids, keys, ids, birth_key, birth_step, keys_written, steps, ticket)


RING = ("keys", "ids", "birth_key", "birth_step", "keys_written", "steps", "ticket")


@torch.library.custom_op("kinema::enqueue", mutates_args=RING)
def _enqueue(
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
    ring = keys, ids, birth_key, birth_step, keys_written, steps
    if choice.implementation("enqueue", new_keys, keys) == "triton":
        with torch.cuda.device_of(keys):  # Triton launches on the current device
            choice.kernels("enqueue").enqueue(new_keys, new_ids, *ring, ticket)
    else:
        reference.enqueue(new_keys, new_ids, *ring)


@_enqueue.register_fake
def _(*_) -> None:
    """Only writes in place."""


def _check(new_keys: Tensor, new_ids: Tensor, keys: Tensor) -> None:
    if keys.ndim != 2 or keys.numel() == 0:
        raise ValueError(
            f"enqueue: keys {list(keys.shape)} is no ring; expected [K, D], one slot or more"
        )
    if new_keys.ndim != 2 or new_keys.shape[1] != keys.shape[1] or not new_keys.is_floating_point():
        raise ValueError(
            f"enqueue: new_keys {list(new_keys.shape)} is {new_keys.dtype}; "
            f"expected [B, {keys.shape[1]}] and a floating dtype"
        )
    if new_ids.shape != new_keys.shape[:1] or new_ids.dtype != torch.int64:
        raise ValueError(
            f"enqueue: new_ids {list(new_ids.shape)} is {new_ids.dtype}; "
            f"expected {list(new_keys.shape[:1])} and int64"
        )
    for name, tensor in (("new_keys", new_keys), ("new_ids", new_ids)):
        checks.require_device("enqueue", name, tensor, beside=("keys", keys))
