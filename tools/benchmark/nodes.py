"""A model of training on one node and on many: what has to move in a step, and how long that takes.

Weak scaling: every GPU keeps its batch. Nothing here is measured; the formulas take numbers and
give numbers, and every figure is shown with its arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tools.benchmark.workings import Figure, Workings

# P parameters that train, n ranks, B samples of a rank, D dimensions of an embedding

FLOAT_BYTES, INDEX_BYTES = 4, 8


@dataclass(frozen=True)
class Machine:
    """Bytes a second of one GPU in one direction: inside its node, and to others. use: share of
    `flops` that a step reaches. Defaults: an H100's data sheet, one 400 Gb/s port for each GPU, and
    the goal for R3D-18.
    """

    gpus_per_node: int = 8
    flops: float = 989e12
    use: float = 0.30
    inside: float = 450e9
    between: float = 50e9


@dataclass(frozen=True)
class Load:
    """A recipe in numbers. forward_flops: of one clip through the backbone. passes: that a sample's
    step costs, a backward pass being two forward ones. vectors: embeddings that ranks exchange for
    a sample; extra_bytes: beside them, such as its index. video_bytes: read for a sample.
    """

    name: str
    parameters: int
    forward_flops: float
    passes: int
    dim: int
    vectors: int
    extra_bytes: int
    batch: int
    video_bytes: float


def gradient_bytes(parameters: int) -> int:
    """Gradients are float32 in every precision: autocast leaves the weights so."""
    return parameters * FLOAT_BYTES


def all_reduce_bytes(size: int, ranks: int) -> float:
    """That each rank sends, and receives, to have the sum of `size` bytes of each: around a ring,
    once to add up the n parts and once to hand them on.
    """
    return 2 * (ranks - 1) / ranks * size


def all_gather_bytes(own: int, ranks: int) -> int:
    """That each rank receives to have `own` bytes of every rank."""
    return (ranks - 1) * own


def gathered_bytes(load: Load) -> int:
    """That a rank gives to the others in a step."""
    return load.batch * (load.vectors * load.dim * FLOAT_BYTES + load.extra_bytes)


def step_seconds(load: Load, machine: Machine) -> float:
    """Of the arithmetic alone."""
    flops = load.forward_flops * load.passes * load.batch
    return flops / (machine.use * machine.flops)


def storage_bytes(load: Load, machine: Machine, nodes: int) -> float:
    """A second, that all nodes read while no step waits."""
    samples = load.batch * machine.gpus_per_node * nodes
    return samples * load.video_bytes / step_seconds(load, machine)


def exchange_seconds(load: Load, machine: Machine, nodes: int) -> float:
    """Of all-reduce and all-gather, by the slowest link that they cross."""
    ranks = nodes * machine.gpus_per_node
    moved = all_reduce_bytes(gradient_bytes(load.parameters), ranks)
    moved += all_gather_bytes(gathered_bytes(load), ranks)
    return moved / (machine.inside if nodes == 1 else machine.between)


def model(load: Load, machine: Machine, nodes: Sequence[int] = (1, 2, 4, 8)) -> Workings:
    """The figures of one node and of more."""
    notes = [
        f"taken for granted: {machine.gpus_per_node} GPUs a node, {machine.flops / 1e12:g} TFLOP/s "
        f"of which a step reaches {100 * machine.use:g} %, {machine.inside / 1e9:g} GB/s for each "
        f"GPU inside a node and {machine.between / 1e9:g} GB/s between nodes, and "
        f"{load.video_bytes / 1e6:g} MB read for a sample",
        "the exchange beside the backward pass costs no time as long as it is the shorter; the "
        "share printed is the worst case, with nothing beside it",
        "latency is left out: a ring's grows with its ranks",
    ]
    figures = [*_of_a_gpu(load, machine)]
    for number in nodes:
        figures += _of_nodes(load, machine, number)
    return Workings(f"One node to many: {load.name}, {load.batch} samples a GPU", figures, notes)


def _of_a_gpu(load: Load, machine: Machine) -> Iterator[Figure]:
    flops, seconds = load.forward_flops * load.passes, step_seconds(load, machine)
    yield Figure(
        "arithmetic of a sample", flops / 1e9, "GFLOP",
        f"{load.passes} passes x {load.forward_flops / 1e9:.4g} GFLOP forward",
    )  # fmt: skip
    yield Figure(
        "a step's arithmetic", 1e3 * seconds, "ms",
        f"{load.batch} x {flops / 1e9:.4g} GFLOP / ({machine.use:g} x "
        f"{machine.flops / 1e12:g} TFLOP/s)",
    )  # fmt: skip
    yield Figure(
        "samples of a GPU", load.batch / seconds, "a second",
        f"{load.batch} / {1e3 * seconds:.4g} ms",
    )  # fmt: skip
    yield Figure(
        "gradients", gradient_bytes(load.parameters) / 1e6, "MB",
        f"{load.parameters:,} parameters x {FLOAT_BYTES} bytes, float32 in every precision",
    )  # fmt: skip
    yield Figure(
        "given to the other ranks", gathered_bytes(load) / 1e3, "kB",
        f"{load.batch} x ({load.vectors} x {load.dim} x {FLOAT_BYTES} + {load.extra_bytes} bytes)",
    )  # fmt: skip


def _of_nodes(load: Load, machine: Machine, nodes: int) -> Iterator[Figure]:
    ranks = nodes * machine.gpus_per_node
    size, own = gradient_bytes(load.parameters), gathered_bytes(load)
    exchange, compute = exchange_seconds(load, machine, nodes), step_seconds(load, machine)
    link = machine.inside if nodes == 1 else machine.between
    where = f"{nodes} node" + ("s" if nodes > 1 else "")
    reduced, got = all_reduce_bytes(size, ranks), all_gather_bytes(own, ranks)
    yield Figure(
        f"{where}: all-reduce of a rank", reduced / 1e6, "MB a step",
        f"2 x ({ranks} - 1) / {ranks} x {size / 1e6:.4g} MB",
    )  # fmt: skip
    yield Figure(
        f"{where}: all-gather of a rank", got / 1e6, "MB a step",
        f"({ranks} - 1) x {own / 1e3:.4g} kB",
    )  # fmt: skip
    yield Figure(
        f"{where}: exchange", 1e3 * exchange, "ms a step",
        f"{(reduced + got) / 1e6:.4g} MB / {link / 1e9:g} GB/s",
    )  # fmt: skip
    yield Figure(
        f"{where}: exchange, worst share", 100 * exchange / (compute + exchange), "% of a step",
        f"{1e3 * exchange:.3g} / ({1e3 * compute:.4g} + {1e3 * exchange:.3g}) ms",
    )  # fmt: skip
    yield Figure(
        f"{where}: storage", storage_bytes(load, machine, nodes) / 1e6, "MB/s",
        f"{load.batch} x {ranks} samples x {load.video_bytes / 1e6:g} MB / {1e3 * compute:.4g} ms",
    )  # fmt: skip
