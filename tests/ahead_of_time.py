"""What the GPU compiler makes of every kernel launch, on a machine without a GPU.

    python -m tests.ahead_of_time

prints registers, spills and shared memory of every kernel at the sizes that `jobs` names.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from models.ops import (
    enqueue_triton,
    info_nce_triton,
    nt_xent_triton,
    sinkhorn_triton,
    swapped_prediction_triton,
)
from pipeline.flow import tvl1_triton
from pipeline.flow.config import Tvl1Config
from pipeline.flow.tvl1 import pyramid

CAPABILITIES = (80, 90, 100)  # A100, H100 and H200, B200
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}


@dataclass(frozen=True)
class Launch:
    """One call of a kernel with the arguments and options that it got."""

    kernel: JITFunction
    arguments: dict
    options: dict


@dataclass(frozen=True)
class Usage:
    """Of one kernel on one GPU: per thread, per thread, and per program."""

    kernel: str
    capability: int
    warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.kernel:<18} sm_{self.capability:<4} {self.warps} warps  "
            f"{self.registers:>3} registers  {self.spilled_bytes:>4} B spilled  "
            f"{self.shared_bytes / 1024:>6.1f} KiB shared"
        )


def launches(function: Callable, *args, **kwargs) -> list[Launch]:
    """Every launch that `function` makes; none of them runs, so what it returns is not known."""
    found: list[Launch] = []

    def run(kernel, *args, grid, warmup, **kwargs):
        names = kernel.arg_names
        arguments = dict(zip(names, args, strict=False))
        arguments |= {name: kwargs.pop(name) for name in list(kwargs) if name in names}
        found.append(Launch(kernel, arguments, kwargs))

    with _replaced(JITFunction, "run", run):
        function(*args, **kwargs)
    return found


@contextmanager
def _replaced(owner, name: str, value) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def compiled(launch: Launch, capability: int) -> Usage:
    """Compiles a launch as Triton would at its first call on such a GPU."""
    constant = {parameter.name for parameter in launch.kernel.params if parameter.is_constexpr}
    signature, constexprs, attributes = {}, {}, {}
    for position, (name, value) in enumerate(launch.arguments.items()):
        signature[name], divisible = _type_of(value)
        if name in constant or (isinstance(value, int) and value == 1):
            signature[name] = "constexpr"
            constexprs[name] = value
        elif divisible:
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constexprs, attributes)
    target = GPUTarget("cuda", capability, 32)
    result = triton.compile(source, target=target, options=launch.options)
    registers, spilled = _assembled(result.asm["ptx"], capability)
    return Usage(
        launch.kernel.__name__,
        capability,
        result.metadata.num_warps,
        registers,
        spilled,
        result.metadata.shared,
    )


def _type_of(value) -> tuple[str, bool]:
    """Triton's name of an argument's type, and whether it may count on a multiple of 16."""
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype], True
    if isinstance(value, int) and not isinstance(value, bool):
        return "i32", value % 16 == 0
    return "fp32", False


def _assembled(ptx: str, capability: int) -> tuple[int, int]:
    """Registers and spilled bytes that NVIDIA's assembler reports."""
    knobs = triton.knobs.nvidia
    assembler = (knobs.ptxas_blackwell if capability >= 100 else knobs.ptxas).path
    architecture = re.search(r"\.target (\w+)", ptx).group(1)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [assembler, "-v", f"--gpu-name={architecture}", "-o", f"{source}.cubin", source]
        log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log).groups()
    return int(re.search(r"Used (\d+) registers", log).group(1)), int(stores) + int(loads)


def _info_nce(
    batch: int,
    *,
    queue: torch.dtype,
    slots: int = 65_536,
    dim: int = 128,
) -> list[Launch]:
    """With ages, ids and a shift, which take the most registers."""
    query = torch.empty(batch, dim)
    ids = torch.zeros(max(batch, slots), dtype=torch.int64)
    keys = torch.empty(slots, dim, dtype=queue)
    cut = info_nce_triton.tiles(batch, slots, dim, itemsize=queue.itemsize, processors=132)
    return launches(
        info_nce_triton.info_nce,
        *(query, query[:, None], keys, 0.07, None),
        *(ids[:batch], ids[:slots], ids[:slots], 0.99, True),
        cut=cut,
    )


def _enqueue(batch: int, *, queue: torch.dtype) -> list[Launch]:
    numbers = torch.zeros(65_536, dtype=torch.int64)
    ring = (
        torch.empty(65_536, 128, dtype=queue),
        numbers,
        numbers,
        numbers,
        numbers[0],
        numbers[0],
    )
    ticket = torch.zeros((), dtype=torch.int32)
    return launches(enqueue_triton.enqueue, torch.empty(batch, 128), numbers[:batch], *ring, ticket)


def _nt_xent(batch: int, *, dtype: torch.dtype, world: int = 8, dim: int = 128) -> list[Launch]:
    """With a shift; the last of `world` ranks with `batch` videos each."""
    rows = torch.empty(2 * batch, dim, dtype=dtype)
    candidates = torch.empty(2 * batch * world, dim, dtype=dtype)
    numbers = torch.empty(len(candidates))
    first_row = len(candidates) - len(rows)
    size = {"itemsize": dtype.itemsize, "processors": 132}
    counts = len(rows), len(candidates), dim
    return [
        *launches(
            nt_xent_triton.nt_xent,
            *(rows, candidates, first_row, 0.1, True),
            cut=nt_xent_triton.forward_tiles(*counts, **size),
        ),
        *launches(
            nt_xent_triton.gradient,
            *(rows, candidates, numbers, numbers, first_row, 0.1, True),
            cut=nt_xent_triton.backward_tiles(*counts, **size),
        ),
    ]


def _sinkhorn(rows: int, prototypes: int) -> list[Launch]:
    scores, of_prototypes = torch.empty(rows, prototypes), torch.empty(prototypes)
    state = of_prototypes, of_prototypes, 0.05
    cut = {"cut": sinkhorn_triton.tiles(rows, prototypes, processors=132)}
    return [
        *launches(sinkhorn_triton.masses, scores, 0.05, **cut),
        *launches(sinkhorn_triton.rebalance, scores, *state, **cut),
        *launches(sinkhorn_triton.assign, scores, *state),
    ]


def _swapped_prediction(
    rows: int, prototypes: int, *, dtype: torch.dtype, dim: int = 128
) -> list[Launch]:
    z, c = torch.empty(rows, dim, dtype=dtype), torch.empty(prototypes, dim, dtype=dtype)
    assignment, of_rows = torch.empty(rows, prototypes), torch.empty(rows)
    found = launches(
        swapped_prediction_triton.swapped_prediction,
        *(z, c, assignment, 0.1),
        cut=swapped_prediction_triton.forward_tiles(z, c, processors=132),
    )
    for held, passing, by_z in ((z, c, True), (c, z, False)):
        found += launches(
            swapped_prediction_triton.gradient,
            *(of_rows.sum(), z, c, assignment, of_rows, of_rows, 0.1),
            by_z=by_z,
            cut=swapped_prediction_triton.backward_tiles(held, passing, processors=132),
        )
    return found


def _tvl1(height: int, width: int, *, clips: int = 32, frames: int = 16) -> list[Launch]:
    """One warp of one scale, and as many iterations as one launch does; of one pixel, one."""
    iterations = tvl1_triton.ITERATIONS if height > 1 else 1
    config = Tvl1Config(scales=1, warps=1, iterations=iterations)
    clip = torch.empty(clips, frames, height, width, dtype=torch.uint8)
    return launches(tvl1_triton.flow_of_pairs, pyramid(clip, config), config)


def jobs() -> list[tuple[Launch, int]]:
    """Every launch to compile, with the capability of the GPU it is for."""
    half, single = torch.bfloat16, torch.float32
    found = [
        *_info_nce(1, slots=1, dim=16, queue=half),  # Triton makes a 1 a constant
        *_info_nce(256, queue=half),
        *_info_nce(1024, queue=half),
        *_info_nce(1024, queue=half, dim=512),
        *_info_nce(256, queue=single),
        *_info_nce(256, queue=single, dim=48),  # masks take registers
        *_enqueue(256, queue=half),
        *_nt_xent(1, world=1, dtype=single),
        *_nt_xent(128, dtype=half),
        *_nt_xent(4096, dtype=half),
        *_nt_xent(4096, dtype=single),
        *_sinkhorn(1, 1),
        *_sinkhorn(2112, 300),
        *_sinkhorn(256, 8192),
        *_swapped_prediction(1, 1, dim=16, dtype=single),
        *_swapped_prediction(192, 300, dtype=half),
        *_swapped_prediction(192, 300, dtype=single),
        *_swapped_prediction(4001, 3001, dim=100, dtype=single),
        *_tvl1(1, 1, clips=1, frames=2),
        *_tvl1(112, 112),
        *_tvl1(112, 30),
    ]
    return [(launch, capability) for launch in found for capability in CAPABILITIES]


def _one_at_a_time(function: Callable) -> Callable:
    """The same for several threads: Python 3.11 counts the depth of all that parse in one place."""
    lock = Lock()

    def locked(*args):
        with lock:
            return function(*args)

    return locked


def usages() -> Iterator[Usage]:
    """Of all `jobs`, two compiled at a time, past Triton's cache."""
    with (
        tempfile.TemporaryDirectory() as cache,
        _replaced(triton.knobs.cache, "dir", cache),
        _replaced(JITFunction, "parse", _one_at_a_time(JITFunction.parse)),
        ThreadPoolExecutor(2) as pool,
    ):
        yield from pool.map(lambda job: compiled(*job), jobs())


if __name__ == "__main__":
    for usage in usages():
        print(usage, flush=True)
