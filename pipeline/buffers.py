"""Memory of batches on the host, used again as soon as nobody looks into it."""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """Gives out float32 tensors whose memory comes back when the last tensor on it is gone, for
    tensors of the same size; another size begins anew.

    Fresh memory costs a page fault every 4 KiB: a batch of 32 samples, two views of 16 frames of
    112 x 112, is 154 MB and 37,632 of them; to fill 32 views takes 66 ms, on used memory 21. On a
    GPU torch's own allocator keeps what it frees.
    """

    def __init__(self) -> None:
        self._count, self._free = 0, []  # values in each of the free pieces: all are of one size

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor of this shape, with whatever values."""
        if (count := math.prod(shape)) != self._count:
            self._count, self._free = count, []
        memory = self._free.pop() if self._free else np.empty(count, np.float32)
        lent = memory[:]  # torch holds this very object for as long as a tensor or a view lives
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent).view(shape)
