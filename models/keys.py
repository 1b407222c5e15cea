"""Keys of momentum contrast, computed so that batch statistics do not give one away.

Why and how: models/batchnorm.py. Source: He et al., "Momentum Contrast", CVPR 2020 (arXiv
1911.05722), section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.batchnorm import (
    check_divides,
    check_sync,
    exchange_partners,
    split_batch_norm,
    sync_batch_norm,
)
from models.gather import from_next_rank, gather, rank, world_size

# B samples of a rank

Protection = Literal["split", "exchange", "sync", "plain"]


def check_groups(groups: int) -> None:
    """Raises ValueError where a batch has no sets of statistics."""
    if groups < 1:
        raise ValueError(f"split_groups: {groups} must be 1 or more")


@dataclass(frozen=True)
class KeySide:
    """How a query's batch statistics are kept from its key's.

    split: `groups` sets of statistics a batch, with other partners for the key. exchange: rank r
    computes the keys of rank (r + 1) % world. sync: statistics of all ranks. plain: no protection.
    """

    protection: Protection
    groups: int

    @property
    def exchanges(self) -> bool:
        return self.protection == "exchange"

    def convert(self, encoder: nn.Module) -> nn.Module:
        """The encoder with the batch norms that the protection asks for."""
        if self.protection == "split":
            return split_batch_norm(encoder, self.groups)
        return sync_batch_norm(encoder) if self.protection == "sync" else encoder

    def check(self, world: int, device: str) -> None:
        """Raises ValueError where the protection would be none on `world` ranks of a device."""
        if self.exchanges and world == 1:
            raise ValueError(
                "method.key_batch_norm: exchange gives keys to another rank, and there is one "
                "process; start several, or set method.key_batch_norm=split"
            )
        if self.protection == "sync":
            check_sync("method.key_batch_norm", world, device, instead="exchange or split")

    def brought(self, clip: Tensor) -> Tensor:
        """What this rank's query encoder sees as well as a key encoder: from the rank that shows it
        to the rank that computes its keys. The loader brings what only key encoders see.
        """
        return from_next_rank(clip) if self.exchanges else clip

    @torch.no_grad()
    def keys(self, encode: Callable[[Tensor], Tensor], clip: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [B, ...] of this rank's queries, and of all ranks [world * B, ...] in their order.

        clip: [B, ...], of the next rank's samples under `exchange`. encode: the key encoder, whose
        batch norms see the samples in the order of its argument.
        """
        key = self._split_keys(encode, clip) if self.protection == "split" else encode(clip)
        keys = gather(key)
        if self.exchanges:
            # Rank r holds the keys of slice r + 1, so slice s stands one block too early.
            keys = keys.roll(len(clip), dims=0)
            key = keys.unflatten(0, (world_size(), -1))[rank()]
        return key, keys

    def _split_keys(self, encode: Callable[[Tensor], Tensor], clip: Tensor) -> Tensor:
        check_divides(self.groups, batch=len(clip))
        order, inverse = exchange_partners(len(clip), self.groups, device=clip.device)
        return encode(clip[order])[inverse]
