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

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from models.ops import enqueue_triton, info_nce_triton

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


def jobs() -> list[tuple[Launch, int]]:
    """Every launch to compile, with the capability of the GPU it is for."""
    half, single = torch.bfloat16, torch.float32
    found = [
        *_info_nce(1, slots=1, dim=16, queue=half),  # Triton makes a 1 a constant
        *_info_nce(256, queue=half),
        *_info_nce(1024, queue=half),
        *_info_nce(1024, queue=half, dim=512),
        *_info_nce(256, queue=single),
        *_enqueue(256, queue=half),
    ]
    return [(launch, capability) for launch in found for capability in CAPABILITIES]


def usages() -> Iterator[Usage]:
    """Of all `jobs`, two compiled at a time, past Triton's cache."""
    with (
        tempfile.TemporaryDirectory() as cache,
        _replaced(triton.knobs.cache, "dir", cache),
        ThreadPoolExecutor(2) as pool,
    ):
        yield from pool.map(lambda job: compiled(*job), jobs())


if __name__ == "__main__":
    for usage in usages():
        print(usage, flush=True)
