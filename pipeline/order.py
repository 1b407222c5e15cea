"""Which video comes when: a bijection of [0, n) that needs no list of n entries.

Every epoch visits every video exactly once, in an order keyed by (seed, epoch). Position p maps to
its video by a small Feistel network over the next even power of two, walked in cycles until the
value falls below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). So 10^9
clips start as fast as 10^3, and resuming is knowing p.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64: every output bit depends on every input bit. uint64 -> uint64."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    words = np.random.Philox(key=[seed, epoch]).random_raw(ROUNDS)
    return np.asarray(words, dtype=np.uint64)


def _feistel(x: np.ndarray, half_bits: int, keys: np.ndarray) -> np.ndarray:
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    left, right = x >> shift, x & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << shift) | right


def order(positions: np.ndarray, n: int, *, seed: int, epoch: int) -> np.ndarray:
    """Videos that stand at `positions` of an epoch.

    positions: integers in [0, n), any shape. Returns int64 of the same shape; over all positions
    each value of [0, n) occurs once. Raises ValueError for positions outside [0, n).
    """
    positions = np.asarray(positions, dtype=np.int64)
    if positions.size and (positions.min() < 0 or positions.max() >= n):
        raise ValueError(f"positions must lie in [0, {n}), got up to {positions.max()}")
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, epoch)
    values = _feistel(positions.reshape(-1).astype(np.uint64), half_bits, keys)
    # The domain has fewer than 4n values, so a walk takes fewer than four steps on average.
    while (outside := values >= n).any():
        values[outside] = _feistel(values[outside], half_bits, keys)
    return values.astype(np.int64).reshape(positions.shape)


def draws(seed: int, epoch: int, position: int, *, stream: int, attempt: int = 0):
    """The random generator of one decision about one sample: a pure function of its arguments.

    `stream` separates decisions (0: clip, 1: replacement video, 2 + v: augmentation of view v).
    Philox counts up in its first counter word; the other three hold the sample's coordinates.
    """
    counter = [0, position, (epoch << 16) | attempt, stream]
    return np.random.Generator(np.random.Philox(key=[seed, 0x4B696E656D61], counter=counter))
