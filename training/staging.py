"""Batches at fixed addresses, filled while the step before is still computing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import cycle

import torch
from torch import Tensor

from pipeline import Batch


class StaticBatch:
    """Buffers that batches of one form are copied into in turn; `batch` is the last."""

    def __init__(self, like: Batch):
        self.batch = _changed(like, torch.empty_like)

    def fill(self, batch: Batch) -> Batch:
        """Copies on the current stream and waits for nothing. Returns the batch of the buffers.

        Raises ValueError where a tensor has another form than that of the first batch.
        """
        ours, theirs = _tensors(self.batch), _tensors(batch)
        for number, (buffer, tensor) in enumerate(zip(ours, theirs, strict=True)):
            if buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                raise ValueError(
                    f"batch: tensor {number} is {list(tensor.shape)} {tensor.dtype}, that of the "
                    f"first batch {list(buffer.shape)} {buffer.dtype}; all batches need one form"
                )
        torch._foreach_copy_(ours, theirs, non_blocking=True)
        return self.batch


class _Slot:
    """Buffers, and the event after which the step that reads them is done with them."""

    def __init__(self) -> None:
        self.buffers: StaticBatch | None = None
        self.free = torch.cuda.Event()

    def fill(self, batch: Batch) -> Batch:
        if self.buffers is None:
            self.buffers = StaticBatch(batch)
        torch.cuda.current_stream().wait_event(self.free)  # at first nothing was recorded
        return self.buffers.fill(batch)


def staged(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches; on a GPU, copied into one of two sets of buffers beside the step under way.

    The loader's own work on the device, taking pictures over from its graphs and sending indices,
    runs on the side stream as well: step n computes while batch n + 1 arrives, and the host waits
    for neither. A batch is good until the next but one is asked for. On a CPU, the batches as they
    are.
    """
    if device.type != "cuda":
        yield from batches
        return
    compute, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(compute)  # memory of an earlier stage's buffers may still be read
    for slot in cycle((_Slot(), _Slot())):
        with torch.cuda.stream(side):
            batch = next(batches, None)
            if batch is None:
                return
            ready = slot.fill(batch)
        compute.wait_stream(side)
        yield ready
        slot.free.record(compute)  # the step has been launched when the next batch is asked for


def _tensors(batch: Batch) -> list[Tensor]:
    """All tensors of a batch, in the order of its fields."""
    values = [getattr(batch, field.name) for field in fields(batch)]
    groups = [value if isinstance(value, tuple) else (value,) for value in values]
    return [tensor for group in groups for tensor in group if tensor is not None]


def _changed(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with `change` applied to each of its tensors."""

    def of(value: Tensor | tuple[Tensor, ...] | None) -> Tensor | tuple[Tensor, ...] | None:
        if value is None:
            return None
        return tuple(map(change, value)) if isinstance(value, tuple) else change(value)

    return Batch(**{field.name: of(getattr(batch, field.name)) for field in fields(batch)})
