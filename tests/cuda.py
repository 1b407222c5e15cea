"""What tests of work on a GPU need, and what stands for it where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")


@contextmanager
def never_waiting() -> Iterator[None]:
    """An operation inside that makes the host wait for the GPU is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def eager_and_replayed(function: Callable[[], T]) -> tuple[T, T]:
    """What `function` gives as it is, never waiting, and replayed from a CUDA graph."""
    function()  # compiles the kernels, which waits
    with never_waiting():
        eager = function()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = function()
    graph.replay()
    torch.cuda.synchronize()
    return eager, replayed


class NoHostRead(TorchDispatchMode):
    """Raises at operations that make a GPU wait: their result, or its size, goes to the host."""

    FORBIDDEN = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.is_nonzero.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.equal.default,
        torch.ops.aten.unique_consecutive.default,
        torch.ops.aten._unique2.default,
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in self.FORBIDDEN:
            raise AssertionError(f"{function} reads the device")
        if function is torch.ops.aten.index.Tensor:
            masks = [i for i in args[1] if i is not None and i.dtype == torch.bool]
            assert not masks, "a boolean index has to be counted on the host"
        return function(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    """Counts the operations that Python hands to torch: what a step costs the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))
