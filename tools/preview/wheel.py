"""Flow as colours: the hue tells where a pixel goes, the strength how far, and white is rest.

Source: the colour circle of Baker et al., "A Database and Evaluation Methodology for Optical Flow",
IJCV 2011, in which hues that eyes tell apart well have more of the circle. Right is red, down
yellow, left a light blue, up violet.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

# Red, yellow, green, cyan, blue, magenta, red; counted from the right, clockwise as one sees it.
COLORS = 255 * np.array(
    [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)], dtype=float
)
STEPS = 15, 6, 4, 11, 13, 6  # of the circle, from each to the next
TURNS = np.cumsum((0, *STEPS)) / sum(STEPS)
LEGEND = (
    "Flow shows how each pixel of a view moves until the view's next frame: the hue is where it "
    "goes, seen from the middle of the wheel, the strength is how far. White rests; the full "
    "colour of the rim is the longest motion of its clip, told beside it, or one pixel where all "
    "is slower."
)
LEAST_RIM_PIXELS = 1.0  # less is the operators' noise, and half a step of a stored image
FINER = 4  # the legend is drawn that much larger, and made smaller for a smooth rim


def colored(flow: np.ndarray, *, longest: float) -> np.ndarray:
    """[2, ...] (right, down) -> [..., 3] uint8. longest: what has the full colour, as has more."""
    u, v = np.asarray(flow, dtype=float)
    turn = np.arctan2(v, u) / (2 * np.pi) % 1
    hue = np.stack([np.interp(turn, TURNS, channel) for channel in COLORS.T], axis=-1)
    share = np.minimum(np.hypot(u, v) / longest, 1)
    return np.rint(255 - share[..., None] * (255 - hue)).astype(np.uint8)


def wheel(size: int) -> Image.Image:
    """The legend, RGBA: a disc whose every point has the colour of the motion from its middle."""
    middle = (FINER * size - 1) / 2
    y, x = np.indices((FINER * size,) * 2) - middle
    disc = np.hypot(x, y) <= middle
    pixels = np.dstack([colored((x, y), longest=middle), 255 * disc.astype(np.uint8)])
    return Image.fromarray(pixels, "RGBA").resize((size, size), Image.Resampling.LANCZOS)
