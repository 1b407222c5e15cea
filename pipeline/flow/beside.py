"""Flow one batch ahead: it is computed while the training is at the batch before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.flow.views import FlowViews, Luma

T = TypeVar("T")
Flow = tuple[Tensor, ...]


def with_flow(
    items: Iterator[T], lumas_of: Callable[[T], Sequence[Luma]], make: FlowViews | None, device: str
) -> Iterator[tuple[T, Flow | None]]:
    """Every item and its flow; without `make`, and None.

    While the caller is at an item the next one's flow is made. What the operator raises comes out
    here. The caller may stop anywhere: no thread is left behind.
    """
    if make is None:
        for item in items:
            yield item, None
        return
    with closing(_Thread() if device == "cpu" else _SideStream(device)) as worker:
        before: tuple[T, Callable[[], Flow]] | None = None
        for item in items:
            under_way = item, worker.start(make, lumas_of(item))
            if before:
                yield before[0], before[1]()
            before = under_way
        if before:
            yield before[0], before[1]()


class _Thread:
    """One thread beside the caller's."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flow")

    def start(self, make: FlowViews, lumas: Sequence[Luma]) -> Callable[[], Flow]:
        """Starts on the flow of a batch; the result waits for it."""
        return self._pool.submit(make, lumas).result

    def close(self) -> None:
        """Returns when what is under way has ended."""
        self._pool.shutdown(cancel_futures=True)


class _SideStream:
    """One stream beside the caller's; the host launches, and waits for nothing."""

    def __init__(self, device: str):
        self._device, self._side = device, torch.cuda.Stream(device)

    def start(self, make: FlowViews, lumas: Sequence[Luma]) -> Callable[[], Flow]:
        """Launches the flow of a batch; the result makes the stream that is current by then wait.

        Memory belongs to the stream it came from: the allocator is told of the other one's use.
        """
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            flow = make(lumas)
            made = self._side.record_event()
        for luma in lumas:
            luma.frames.record_stream(self._side)

        def ready() -> Flow:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(made)
            for view in flow:
                view.record_stream(current)
            return flow

        return ready

    def close(self) -> None:
        """Nothing waits: whoever uses the memory next is ordered after this stream."""
