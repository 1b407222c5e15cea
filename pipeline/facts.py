"""What is known of an encoded video: the same columns from the prober to the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts of one video of `size` bytes.

    frames: really decodable. width, height: as displayed, except that pixels that are not square
    stay so. rotation: degrees clockwise that turn the stored picture upright.
    keyframe_distance_frames: most frames from one key frame to the next (or the end).
    vfr: False when round((pts - start_pts) * time_base * fps) is the frame's number for all frames.
    start_pts: time of frame 0 in units of time_base seconds.
    """

    size: int
    crc32: int
    frames: int
    fps: Fraction
    width: int
    height: int
    rotation: int
    codec: str
    keyframe_distance_frames: int
    vfr: bool
    start_pts: int
    time_base: Fraction

    def columns(self) -> dict:
        """These facts alone, by name, whatever a subclass adds."""
        return {name: getattr(self, name) for name in Facts.__dataclass_fields__}
