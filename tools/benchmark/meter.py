"""Rates together with what they cost: processor time, bytes read, use of the video decoders."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np

from tools.benchmark.measure import Side
from tools.benchmark.processes import usage

NVIDIA_SMI = "nvidia-smi"
LOOK_MILLISECONDS = 100  # between two looks at the decoders, which average over a sixth of a second


class DecoderUse:
    """Percent of the time that NVDEC was busy inside the `with`, as nvidia-smi saw it.

    percent: None where there is no nvidia-smi, no GPU, or not time enough for a look.
    """

    def __init__(self) -> None:
        self.percent: float | None = None
        self._program = shutil.which(NVIDIA_SMI)
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> DecoderUse:
        if self._program:
            query = ["--query-gpu=utilization.decoder", "--format=csv,noheader,nounits", "-i", "0"]
            self._process = subprocess.Popen(
                [self._program, *query, "-lms", str(LOOK_MILLISECONDS)],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType
    ) -> None:
        if self._process:
            self._process.terminate()
            said, _ = self._process.communicate()
            looks = [float(word) for word in said.split() if word.isdecimal()]
            self.percent = float(np.mean(looks)) if looks else None


class Meter:
    """Takes the rate of one turn, for `compare`, and keeps what its processes used.

    unit: what a run counts, such as "clip". finish: waits for what a run has left to a GPU.
    """

    def __init__(
        self,
        unit: str,
        *,
        least_seconds: float = 0.0,
        finish: Callable[[], None] | None = None,
    ):
        self.unit, self.least_seconds, self.finish = unit, least_seconds, finish
        self._found: dict[Callable, list[dict[str, float]]] = defaultdict(list)

    def __call__(self, run: Callable[[], float]) -> float:
        with DecoderUse() as decoders:
            before, start, units = usage(), time.perf_counter(), 0.0
            while not units or time.perf_counter() - start < self.least_seconds:
                units += run()
            if self.finish:
                self.finish()
            seconds, after = time.perf_counter() - start, usage()
        found = {
            f"CPU ms/{self.unit}": 1e3 * (after.cpu_seconds - before.cpu_seconds) / units,
            f"kB/{self.unit}": (after.read_bytes - before.read_bytes) / units / 1e3,
        }
        if decoders.percent is not None:
            found["NVDEC %"] = decoders.percent
        self._found[run].append(found)
        return units / seconds

    def facts(self, sides: Sequence[Side]) -> dict[str, dict[str, float]]:
        """Medians over the turns of each side."""
        return {
            side.name: {name: float(np.median([turn[name] for turn in turns])) for name in turns[0]}
            for side in sides
            if (turns := self._found.get(side.run))
        }
