"""What one clip needs to become views, on its way from a worker to a lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.augment import Draw
from pipeline.render import Picture

NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Track:
    """What a lane renders as one item: pictures, and for every view its rows and its draw.

    pictures: as decoded, or [n, H, W, 3] uint8 as the host has rendered them, or [n] uint8 the
    encoded file. frames: [U] the numbers of the decoded ones in the file. rows: [views, T]. A clip
    is one track; without consistency over time every frame is a track of its own. lumas:
    [n, T + 1, H, W] uint8 of the views that the host made whole and whose flow is wanted.
    """

    pictures: np.ndarray | Sequence[Picture]
    frames: np.ndarray
    rows: np.ndarray
    draws: tuple[Draw, ...]
    rotation: int
    lumas: np.ndarray = field(default_factory=lambda: NOTHING)
