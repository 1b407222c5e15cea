"""Which video comes when: a bijection of [0, n) that needs no list of n entries.

Every epoch visits every video exactly once, in an order keyed by (seed, epoch). Position p maps to
its video by a small Feistel network over the next even power of two, walked in cycles until the
value falls below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). So 10^9
clips start as fast as 10^3, and resuming is knowing p.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np

ROUNDS = 6
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 2**64 - 1
# Arrays of uint64 and Python's own whole numbers take the same steps. A sample asks for one
# position: as an array of one that takes 20 times as long.
Words = TypeVar("Words", np.ndarray, int)


def _mix(x: Words) -> Words:
    """Finaliser of splitmix64: every output bit depends on every input bit. 64 bits -> 64 bits."""
    x = (x ^ (x >> 30)) * _MIX_1 & _WORD
    x = (x ^ (x >> 27)) * _MIX_2 & _WORD
    return x ^ (x >> 31)


@lru_cache(maxsize=16)
def _round_keys(seed: int, epoch: int) -> list[int]:
    return np.random.Philox(key=[seed, epoch]).random_raw(ROUNDS).tolist()


def _feistel(x: Words, half_bits: int, keys: list[int]) -> Words:
    mask = (1 << half_bits) - 1
    left, right = x >> half_bits, x & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key & _WORD) & mask)
    return (left << half_bits) | right


def order(positions: np.ndarray, n: int, *, seed: int, epoch: int) -> np.ndarray:
    """Videos that stand at `positions` of an epoch.

    positions: integers in [0, n), any shape. Returns int64 of the same shape; over all positions
    each value of [0, n) occurs once. Raises ValueError for positions outside [0, n).
    """
    positions = np.asarray(positions, dtype=np.int64)
    if not positions.ndim:
        return np.array(_video_at(int(positions), n, seed, epoch))
    if positions.size and (positions.min() < 0 or positions.max() >= n):
        raise ValueError(f"positions must lie in [0, {n}), got up to {positions.max()}")
    half_bits, keys = _half_bits(n), _round_keys(seed, epoch)
    values = _feistel(positions.reshape(-1).astype(np.uint64), half_bits, keys)
    # The domain has fewer than 4n values, so a walk takes fewer than four steps on average.
    while (outside := values >= n).any():
        values[outside] = _feistel(values[outside], half_bits, keys)
    return values.astype(np.int64).reshape(positions.shape)


def _video_at(position: int, n: int, seed: int, epoch: int) -> int:
    """`order` of one position."""
    if not 0 <= position < n:
        raise ValueError(f"positions must lie in [0, {n}), got up to {position}")
    value = _feistel(position, _half_bits(n), _round_keys(seed, epoch))
    while value >= n:
        value = _feistel(value, _half_bits(n), _round_keys(seed, epoch))
    return value


def _half_bits(n: int) -> int:
    return max(1, ((n - 1).bit_length() + 1) // 2)


def draws(seed: int, epoch: int, position: int, *, stream: int, attempt: int = 0):
    """The random generator of one decision about one sample: a pure function of its arguments.

    `stream` separates decisions (0: clip, 1: replacement video, 2 + v: augmentation of view v).
    Philox counts up in its first counter word; the other three hold the sample's coordinates.
    """
    counter = [0, position, (epoch << 16) | attempt, stream]
    return np.random.Generator(np.random.Philox(_key(seed), counter=counter))


class _Key(np.random.bit_generator.ISeedSequence):
    """The key of a Philox as its seed. Given as `key`, the system would be asked for a seed, too,
    which takes as long as all the rest."""

    def __init__(self, seed: int):
        self.words = np.array([seed, 0x4B696E656D61], dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: type = np.uint32) -> np.ndarray:
        return self.words


_key = lru_cache(maxsize=16)(_Key)
