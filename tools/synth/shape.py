"""Kinds of object: outlines as signed distances, negative inside, in units of the radius.

Close to exact near the outline, which is all that antialiasing needs. Every shape lies within the
unit circle, which is all that the renderer's window shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(x, y) in the object's own axes, y down -> signed distance, same shape."""


def disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.9


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.7) - 0.24


def crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 0.95, 0.75 - np.hypot(x - 0.5, y))


def capsule(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _segment(x, y, (0.0, -0.62), (0.0, 0.62)) - 0.34


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _points(x, y, count=3, inner=0.5)


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.7


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _points(x, y, count=5, inner=0.42)


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - 0.28, np.maximum(x, y) - 0.92)


def arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points up: a triangular head on a shaft."""
    x = np.abs(x)
    head = np.maximum(0.76 * x - 0.65 * (y + 0.97), y + 0.05)
    shaft = np.maximum(x - 0.26, np.abs(y - 0.42) - 0.5)
    return np.minimum(head, shaft)


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square on its corner with a half disc on each of its upper sides."""
    x = np.abs(x)
    diamond = (x + np.abs(y - 0.15)) * math.sqrt(0.5) - 0.5
    return np.minimum(diamond, np.hypot(x - 0.354, y + 0.204) - 0.5)


def gear(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Seven teeth and a hole."""
    radius = np.hypot(x, y)
    teeth = np.clip(3 * np.cos(7 * np.arctan2(y, x)), -1, 1)
    return np.maximum(radius - 0.78 - 0.18 * teeth, 0.22 - radius)


def figure(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A person: head, trunk, two arms and two legs."""
    x = np.abs(x)
    head = np.hypot(x, y + 0.68) - 0.26
    trunk = _segment(x, y, (0.0, -0.3), (0.0, 0.2)) - 0.2
    arm = _segment(x, y, (0.0, -0.25), (0.62, 0.05)) - 0.13
    leg = _segment(x, y, (0.06, 0.2), (0.34, 0.77)) - 0.15
    return np.minimum(np.minimum(head, trunk), np.minimum(arm, leg))


def _segment(
    x: np.ndarray, y: np.ndarray, start: tuple[float, float], end: tuple[float, float]
) -> np.ndarray:
    """Distance to a line segment."""
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    x, y = x - start[0], y - start[1]
    t = np.clip((x * along_x + y * along_y) / (along_x**2 + along_y**2), 0, 1)
    return np.hypot(x - t * along_x, y - t * along_y)


def _points(x: np.ndarray, y: np.ndarray, *, count: int, inner: float) -> np.ndarray:
    """Star of `count` points, the first up: outer corners at radius 1, inner ones at `inner`.

    One half of one point is a straight edge; the angle is folded onto it.
    """
    sector = math.pi / count
    angle = np.arctan2(x, -y)
    folded = np.abs(angle - 2 * sector * np.round(angle / (2 * sector)))
    radius = np.hypot(x, y)
    across, up = radius * np.sin(folded), radius * np.cos(folded)
    edge_across, edge_up = inner * math.sin(sector), inner * math.cos(sector) - 1
    length = math.hypot(edge_across, edge_up)
    return ((up - 1) * edge_across - across * edge_up) / length
