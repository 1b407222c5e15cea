"""What is still a usable video: sizes and counts beyond which a file is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BadVideo

MEGAPIXEL = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Pixels are width times height of one frame.

    accept_truncated: a file that ends early is usable up to its first damaged frame.
    """

    min_frames: int = 2
    max_frames: int = 1_000_000
    min_side_pixels: int = 16
    max_pixels: int = 40 * MEGAPIXEL
    max_damaged_fraction: float = 0.05
    accept_truncated: bool = False

    def check_size(self, width: int, height: int, path: str | Path) -> None:
        """Raises BadVideo for frames that are too large to decode or too small to use."""
        if width * height > self.max_pixels:
            budget = f"max_pixels {self.max_pixels / MEGAPIXEL:g} Mpx"
            what = f"{width * height / MEGAPIXEL:.3g} Mpx ({width}x{height}) > {budget}"
            raise BadVideo("E-TOOBIG", what, path, "scale it down")
        if 0 < min(width, height) < self.min_side_pixels:
            what = f"{width}x{height}: the short side is under {self.min_side_pixels} pixels"
            raise BadVideo("E-TINY", what, path, "leave it out")

    def check_count(self, frames: int, path: str | Path) -> None:
        """Raises BadVideo for more frames than are worth going through."""
        if frames > self.max_frames:
            what = f"more than max_frames {self.max_frames} frames"
            raise BadVideo("E-TOOBIG", what, path, "cut it into shorter videos")


DEFAULT_LIMITS = Limits()
