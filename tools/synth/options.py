"""What a data set is made with, and the random streams that follow from it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments that decide the content of every video; `size` is the side in pixels, even."""

    split: str = "train"
    seed: int = 0
    size: int = 64
    frames: int = 40
    fps: int = 24
    motion_only: bool = False
    progress: bool = False
    calm: bool = False


class Purpose(IntEnum):
    """What a random stream is for. One stream each: a new draw here leaves the others unchanged."""

    SHOT = 0
    MOTION = 1
    TEXTURE = 2
    NOISE = 3
    ENCODER = 4
    PROGRESS = 5


def stream(
    options: Options, class_index: int, number: int, *, purpose: Purpose
) -> np.random.Generator:
    """The generator of one purpose of one video: Philox keyed by seed and split.

    Class, number and purpose are the counter's upper words; a stream advances only the lowest.
    """
    key = np.array([options.seed, zlib.crc32(options.split.encode())], np.uint64)
    counter = np.array([0, purpose, number, class_index], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))
