"""What no kernel can beat: arithmetic, exponentials and memory at the rates of a data sheet."""

from __future__ import annotations

from dataclasses import dataclass

LAUNCH_SECONDS = 10e-6  # two dependent launches


@dataclass(frozen=True)
class Device:
    """Most a second: bfloat16 operations without sparsity, exponentials, and bytes of memory."""

    flops: float
    exponentials: float
    bytes: float


# An SM takes 16 exponentials a clock: 132 x 16 x 1.755 GHz for Hopper, 108 x 16 x 1.41 GHz for the
# A100, 148 x 16 x 1.85 GHz for the B200. The rest is NVIDIA's data sheets. Names are torch's.
DEVICES = {
    "NVIDIA H100 80GB HBM3": Device(flops=989e12, exponentials=3.71e12, bytes=3.35e12),
    "NVIDIA H200": Device(flops=989e12, exponentials=3.71e12, bytes=4.8e12),
    "NVIDIA A100-SXM4-80GB": Device(flops=312e12, exponentials=2.44e12, bytes=2.04e12),
    "NVIDIA B200": Device(flops=2250e12, exponentials=4.38e12, bytes=8.0e12),
}


def info_nce_seconds(on: Device, *, queries: int, keys: int, dim: int) -> float:
    """Loss and gradient by the query, of bfloat16 vectors: one pass over the queue.

    4 N K D operations for logits and mean, N K exponentials, and the queue read once, 2 K D bytes.
    """
    work = max(
        4 * queries * keys * dim / on.flops,
        queries * keys / on.exponentials,
        2 * keys * dim / on.bytes,
    )
    return work + LAUNCH_SECONDS
