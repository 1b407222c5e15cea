"""Kinds of scene: textures that differ in spatial frequency, orientation and structure.

A scene is a field over the world, 0 for the one colour of the backdrop and 1 for the other. x and y
are world coordinates in half frame sides, already shifted and tilted at random by the caller;
`period` is a factor around 1 on the texture's natural scale. Two scenes of one kind share their
structure and little else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

TURN = 2 * math.pi

Scene = Callable[[np.random.Generator, np.ndarray, np.ndarray, float], np.ndarray]
"""(generator, x [N, N], y [N, N], period) -> field [N, N] in [0, 1], float32."""


def lanes(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Wide soft horizontal stripes that waver, as water in a pool."""
    bend = rng.uniform(0.05, 0.1) * np.sin(TURN * rng.uniform(0.5, 0.9) * x)
    return _wave((y + bend) / (0.5 * period))


def grass(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Fine upright blades: noise that is seven times as dense across as along."""
    blades = _noise(rng, x, y, cell_x=0.06 * period, cell_y=0.42 * period)
    return _stretch_contrast(blades, 1.8)


def checker(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """A floor of squares in two colours."""
    side = 0.4 * period
    return ((np.floor(x / side) + np.floor(y / side)) % 2).astype(np.float32)


def rays(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Sun rays out of one point."""
    return _edge(np.sin(round(11 / period) * np.arctan2(y, x)), 0.25)


def bricks(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """A wall in running bond: thin mortar, each brick of its own shade."""
    height, length = 0.26 * period, 0.57 * period
    row = np.floor(y / height)
    column = x / length + 0.5 * (row % 2)
    to_joint = np.minimum(_to_integer(column) * length, _to_integer(y / height) * height)
    shade = 0.55 + 0.45 * _per_cell(rng, np.floor(column), row)
    return shade * _edge(to_joint - 0.1 * height, 0.01)


def dots(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Round spots on a staggered lattice, as a crowd seen from afar."""
    pitch = 0.3 * period
    row = np.round(y / pitch)
    distance = np.hypot(_to_integer(x / pitch + 0.5 * (row % 2)), y / pitch - row)
    return _edge(rng.uniform(0.28, 0.36) - distance, 0.06)


def rings(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Concentric circles, as on a pond or a target."""
    return _wave(np.hypot(x, y) / (0.3 * period))


def clouds(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Soft large blotches: two octaves of noise."""
    large = _noise(rng, x, y, cell_x=0.7 * period, cell_y=0.55 * period)
    small = _noise(rng, x, y, cell_x=0.3 * period, cell_y=0.25 * period)
    return _stretch_contrast(0.75 * large + 0.25 * small, 1.8)


def chevrons(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Zigzag bands with sharp corners."""
    width, height = 0.6 * period, 0.26 * period
    return _edge(np.sin(TURN * (y + width * _to_integer(x / width)) / height), 0.3)


def net(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Thin crossing diagonal cords with wide meshes."""
    pitch = 0.34 * period
    to_cord = np.minimum(_to_integer((x + y) / pitch), _to_integer((x - y) / pitch))
    return _edge(rng.uniform(0.1, 0.15) - to_cord, 0.04)


def pebbles(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Cobbles: irregular cells, bright in the middle, dark in the joints."""
    pitch = 0.3 * period
    u, v = x / pitch, y / pitch
    column, row = np.floor(u), np.floor(v)
    nearest = np.full(u.shape, 9, np.float32)
    second = nearest.copy()
    offsets = rng.uniform(0.1, 0.9, size=(2, 64, 64)).astype(np.float32)
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            i, j = column + step_x, row + step_y
            at = (j.astype(np.int32) % 64, i.astype(np.int32) % 64)
            distance = np.hypot(u - i - offsets[0][at], v - j - offsets[1][at])
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    return np.clip((second - nearest) * 2.2, 0, 1)


def planks(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Upright boards of random widths, each of its own shade, as a fence or a skyline."""
    joints = np.cumsum(rng.uniform(0.08, 0.34, size=64) * period) - 3
    shades = rng.permutation(np.linspace(0, 1, 65, dtype=np.float32))
    return shades[np.searchsorted(joints, x)]


def _wave(phase: np.ndarray) -> np.ndarray:
    """Sine of period 1 in [0, 1]."""
    return 0.5 + 0.5 * np.sin(TURN * phase)


def _edge(inside: np.ndarray, width: float) -> np.ndarray:
    """Soft step: 0 below -width, 1 above width."""
    return np.clip(0.5 + inside / (2 * width), 0, 1)


def _to_integer(phase: np.ndarray) -> np.ndarray:
    """Distance to the nearest integer, in [0, 0.5]."""
    return np.abs(phase - np.round(phase))


def _stretch_contrast(field: np.ndarray, gain: float) -> np.ndarray:
    return np.clip(0.5 + gain * (field - 0.5), 0, 1)


def _per_cell(rng: np.random.Generator, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """One uniform number per cell of a lattice, repeated after 64 cells."""
    table = rng.uniform(size=(64, 64)).astype(np.float32)
    return table[row.astype(np.int32) % 64, column.astype(np.int32) % 64]


def _noise(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, *, cell_x: float, cell_y: float
) -> np.ndarray:
    """Value noise: uniform numbers on a lattice of the given cell, smoothly interpolated."""
    table = rng.uniform(size=(128, 128)).astype(np.float32)
    u, v = x / cell_x, y / cell_y
    column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    u, v = _smooth(u - column), _smooth(v - row)
    left, right = column % 128, (column + 1) % 128
    top, bottom = row % 128, (row + 1) % 128
    upper = table[top, left] * (1 - u) + table[top, right] * u
    lower = table[bottom, left] * (1 - u) + table[bottom, right] * u
    return (upper * (1 - v) + lower * v).astype(np.float32)


def _smooth(t: np.ndarray) -> np.ndarray:
    return (t * t * (3 - 2 * t)).astype(np.float32)
