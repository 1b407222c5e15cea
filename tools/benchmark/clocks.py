"""Time on a GPU, as its own events tell it, and work recorded as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

FLUSH_BYTES = 256 * 2**20  # more than any last cache
MOST_RUNS = 16  # between two looks at the clock


class GpuRate:
    """Units a second by events around every run, of as many runs as take `least_seconds`.

    Before each run the GPU overwrites its last cache: in a training the network's activations do.
    The host runs ahead meanwhile, so of the cost of launching what counts is what a run has more
    than that.
    """

    def __init__(self, *, least_seconds: float = 0.02):
        self.least_seconds = least_seconds
        self.cache = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def __call__(self, run: Callable[[], float]) -> float:
        units, seconds, runs = 0.0, 0.0, 1
        while seconds < self.least_seconds:
            for count, elapsed in self._timed(run, runs):
                units += count
                seconds += elapsed
            runs = min(2 * runs, MOST_RUNS)
        return units / seconds

    def _timed(self, run: Callable[[], float], runs: int) -> list[tuple[float, float]]:
        turns = []
        for _ in range(runs):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.cache.zero_()
            start.record()
            units = run()
            end.record()
            turns.append((units, start, end))
        torch.cuda.synchronize()
        return [(units, start.elapsed_time(end) / 1e3) for units, start, end in turns]


def captured(work: Callable[[], object]) -> Callable[[], None]:
    """The work as one CUDA graph: what it costs when the host launches all of it at once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels and take their memory
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = work()

    def replay() -> None:
        graph.replay()
        _ = kept  # its memory is the graph's

    return replay
