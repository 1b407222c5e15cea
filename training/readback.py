"""Tensors on their way to the host, which nobody waits for until they are read."""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """A copy of a tensor for the host: under way at once, and there when it is read some steps on.

    On a GPU it goes to pinned memory in the order of the stream, so the tensor may be overwritten
    right after.
    """

    def __init__(self, tensor: Tensor):
        self._values, self._arrived = tensor, None
        if tensor.is_cuda:
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values = pinned.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def tolist(self) -> list:
        """The values. Waits where the copy has not arrived yet."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()
