"""What a step makes its host do: operations dispatched, kernels launched, waits for the GPU."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

KERNELS = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
LAUNCHES = (*KERNELS, "cudaMemcpyAsync", "cudaMemsetAsync", "cudaGraphLaunch")
SYNC_WARNING = "called a synchronizing CUDA operation"


@dataclass
class Dispatched:
    """Operations of a piece of work by name: those of its networks, and all others."""

    inside: Counter = field(default_factory=Counter)
    outside: Counter = field(default_factory=Counter)


def count_dispatches(work: Callable[[], object], networks: Iterable[nn.Module] = ()) -> Dispatched:
    """Operations that reach torch's dispatcher from Python or from autograd.

    Ours are looked into: an op of Kinema counts, and everything that it calls. What torch's own
    operators do in C++ is theirs. An operation belongs to a network if it runs in its forward
    pass, or in a node of autograd's graph that the forward pass made.
    """
    networks = list(networks)
    counter = _Counter()
    with counter, _marked(networks, counter):
        work()
    return counter.found


def count_syncs(work: Callable[[], object]) -> int:
    """How often this thread waits for the GPU, as far as torch sees; a loader's threads may."""
    ours, waits = threading.get_ident(), []

    def caught(message, *_, **__) -> None:
        if SYNC_WARNING in str(message) and threading.get_ident() == ours:
            waits.append(message)

    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = caught  # which leaving the block undoes
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return len(waits)


def count_launches(work: Callable[[], object]) -> int:
    """Kernels, copies, fills and graphs that the host hands to the GPU."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        work()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if event.key in LAUNCHES)


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = Dispatched()
        self.depth = 0  # networks that are running

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # Inside our ops composites arrive whole, elsewhere autograd has taken them apart before.
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        names = self.found.inside if self.depth else self.found.outside
        names[func.name()] += 1
        if func.namespace != "kinema":
            return func(*args, **kwargs)
        with self:
            return func.redispatch(_backend(args), *args, **kwargs)


def _backend(arguments: Iterable) -> torch._C.DispatchKeySet:
    """Where an op's own code for tensors like these is registered."""
    flat = (x for a in arguments for x in (a if isinstance(a, (list, tuple)) else [a]))
    on_gpu = any(isinstance(x, Tensor) and x.is_cuda for x in flat)
    key = torch._C.DispatchKey
    return torch._C.DispatchKeySet(key.CUDA if on_gpu else key.CPU)


@contextmanager
def _marked(networks: list[nn.Module], counter: _Counter) -> Iterator[None]:
    """Counts the networks' passes apart, in both directions."""

    def enter(*_) -> None:
        counter.depth += 1

    def leave(*_) -> None:
        counter.depth -= 1

    def mark_backward(_, inputs, output) -> None:
        leave()
        for node in _nodes(output) - _nodes(inputs):
            node.register_prehook(enter)
            node.register_hook(leave)

    handles = [network.register_forward_pre_hook(enter) for network in networks]
    handles += [network.register_forward_hook(mark_backward) for network in networks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nodes(tensors: Tensor | Iterable) -> set:
    """All nodes of autograd's graph behind the tensors."""
    tensors = [tensors] if isinstance(tensors, Tensor) else tensors
    ahead = [x.grad_fn for x in tensors if isinstance(x, Tensor) and x.grad_fn is not None]
    seen = set()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [following for following, _ in node.next_functions]
    return seen
