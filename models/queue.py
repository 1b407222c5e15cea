"""The dictionary of MoCo: a ring of the newest keys and what is known of each.

Source: He et al., "Momentum Contrast", CVPR 2020 (arXiv 1911.05722), section 3.2; ages after
VideoMoCo, CVPR 2021 (arXiv 2103.05905), section 3.3.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ops import enqueue

# K slots, D dimensions, B keys written together
NO_VIDEO = -1  # id of the random keys that fill the queue at first


class FeatureQueue(nn.Module):
    """The last K keys, oldest overwritten first; all state is in saved buffers on the device.

    The K random unit keys at first come from `seed` alone, so that every rank starts with the
    same queue and torch's generator is left as it was.
    """

    def __init__(self, size: int, dim: int, *, seed: int = 0, dtype: torch.dtype = torch.float32):
        super().__init__()
        if size < 1:
            raise ValueError(f"queue_size: {size} holds no key; take 1 or more")
        generator = torch.Generator().manual_seed(seed)
        keys = F.normalize(torch.randn(size, dim, generator=generator), dim=1)
        self.register_buffer("keys", keys.to(dtype))  # [K, D]
        self.register_buffer("ids", torch.full((size,), NO_VIDEO))  # [K] video of each key
        # The random keys count as written before key 0, in slot order: slot K-1 is the newest.
        self.register_buffer("birth_key", torch.arange(-size, 0))  # [K] keys written before it
        self.register_buffer("birth_step", torch.zeros(size, dtype=torch.int64))  # [K]
        self.register_buffer("keys_written", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # calls of enqueue
        # Scratch of the op, 0 between its calls: no state, so not saved.
        ticket = torch.zeros((), dtype=torch.int32)
        self.register_buffer("ticket", ticket, persistent=False)

    def __len__(self) -> int:
        return self.keys.shape[0]

    def enqueue(self, keys: Tensor, ids: Tensor) -> None:
        """Writes keys [B, D] of videos ids [B] over the oldest; of B > K keys the last K remain.

        The write position lives on the device: nothing here waits for it.
        """
        enqueue(keys.detach(), ids, **dict(self.named_buffers(recurse=False)))

    def check_holds(self, count: int) -> None:
        """Raises ValueError where `count` keys, those of one step, are more than the slots."""
        if count > len(self):
            raise ValueError(
                f"queue_size: {len(self)} slots do not hold the {count} keys of one step; "
                f"take method.queue_size {count} or more, or a smaller batch"
            )

    def ages(self, *, unit: Literal["key", "step"] = "key") -> Tensor:
        """Age of every slot, [K] int64.

        key: keys written after it (newest 0, oldest K - 1). step: calls of `enqueue` since,
        counting its own, so a batch just written has age 1 and the random keys start at 0; this
        is the count of the released VideoMoCo code.
        """
        if unit == "key":
            return self.keys_written - 1 - self.birth_key
        return self.steps - self.birth_step

    def age_figures(self) -> dict[str, Tensor]:
        """queue_age_steps: the mean age of the slots, a scalar on the device."""
        return {"queue_age_steps": self.ages(unit="step").double().mean().float()}
