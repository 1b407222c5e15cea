"""Python's garbage collector, kept out of the steps.

A collection stops a step for as long as it takes to look at every object of the program, and on
several GPUs each process would stop the others at another moment. So there is none while a step
runs, and all processes collect after the same ones.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# 100 steps of configs/smoke.yaml leave 450 small objects in cycles, and no tensor among them.
SWEEP_STEPS = 1000


@contextmanager
def held_back() -> Iterator[None]:
    """No collection but by `sweep`. What is there already is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def sweep(step: int) -> None:
    """Collect, if it is the turn of the step."""
    if step % SWEEP_STEPS == 0:
        gc.collect()
