"""Kinds of motion: how one or several copies of an object move through the world.

World units are half frame sides: x to the right and y down, both in [-1, 1] over the frame of a
camera at rest. A motion is centred about the origin; the caller mirrors it left and right at random
and puts it elsewhere. Gravity points down in every video. K copies, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TURN = 2 * math.pi


@dataclass(frozen=True, slots=True)
class Tracks:
    """Where the copies are in each frame: arrays [K, T].

    `angle` in radians, clockwise on the screen; `stretch_x` and `stretch_y` multiply the object's
    radius along its own axes; `scale` does so for all copies and frames.
    """

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    stretch_x: np.ndarray
    stretch_y: np.ndarray
    scale: float = 1.0


Motion = Callable[[np.random.Generator, np.ndarray], Tracks]
"""(generator, seconds [T]) -> Tracks."""


def tracks(x, y, *, angle=0.0, stretch_x=1.0, stretch_y=1.0, scale: float = 1.0) -> Tracks:
    """Tracks from anything that broadcasts to [K, T] (one copy: [T])."""
    arrays = np.broadcast_arrays(*np.atleast_2d(x, y, angle, stretch_x, stretch_y))
    return Tracks(*(np.asarray(array, np.float32) for array in arrays), scale=scale)


def bounce(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Bounces on a floor under gravity, flattened at every touch, drifting sideways."""
    phase = (seconds / rng.uniform(0.45, 0.8) + rng.uniform()) % 1
    height = 4 * phase * (1 - phase)
    apex = rng.uniform(0.7, 1.2)
    squash = 0.35 * np.exp(-height / 0.12)
    drift = _there_and_back(rng.uniform(0.1, 0.35) * seconds + rng.uniform())
    y = apex * (0.5 - height)
    return tracks(0.5 * drift, y, stretch_x=1 + squash, stretch_y=1 - squash)


def swing(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Hangs from a pivot above and swings as a pendulum, its axis along the rod."""
    amplitude, length = rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.2)
    lean = amplitude * np.sin(TURN * (seconds / rng.uniform(0.9, 1.5) + rng.uniform()))
    return tracks(length * np.sin(lean), length * (np.cos(lean) - 0.8), angle=-lean)


def orbit(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Goes round an ellipse at a steady rate and faces where it goes."""
    way = TURN * (seconds / rng.uniform(0.9, 1.6) + rng.uniform())
    x, y = rng.uniform(0.4, 0.65) * np.cos(way), rng.uniform(0.4, 0.65) * np.sin(way)
    return tracks(x, y, angle=way, scale=0.85)


def zigzag(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Runs across the frame in straight legs with sharp turns up and down, again and again."""
    across = (seconds / rng.uniform(1.2, 2.0) + rng.uniform()) % 1
    leg = _there_and_back(seconds / rng.uniform(0.3, 0.5) + rng.uniform())
    return tracks(2.4 * across - 1.2, rng.uniform(0.3, 0.5) * leg, angle=0.15 * leg)


def spin(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Turns fast about its own middle and hardly moves."""
    turns = seconds / rng.uniform(0.6, 1.2) + rng.uniform()
    sway = 0.06 * np.sin(TURN * (0.5 * seconds + rng.uniform()))
    return tracks(sway, 0.0, angle=TURN * turns, scale=1.1)


def pulse(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Grows and shrinks in place, as a heart or a lung."""
    beat = np.sin(TURN * (seconds / rng.uniform(0.5, 1.0) + rng.uniform()))
    stretch = 0.95 + rng.uniform(0.35, 0.5) * beat
    return tracks(0.0, 0.0, angle=rng.uniform(-0.4, 0.4), stretch_x=stretch, stretch_y=stretch)


def collide(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Two copies run at each other along a line, hit, and fly back."""
    phase = seconds / rng.uniform(0.8, 1.4) + rng.uniform()
    gap = 0.3 + rng.uniform(0.45, 0.7) * np.abs(2 * (phase % 1) - 1)
    side = np.array([[-1.0], [1.0]])
    axis = rng.uniform(-0.8, 0.8)
    return tracks(side * gap * math.cos(axis), side * gap * math.sin(axis), scale=0.75)


def undulate(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """A chain of five along a line, a wave running through it, as a snake or a swimmer."""
    link = np.arange(5)[:, None] - 2
    wave = rng.uniform(0.22, 0.35) * np.sin(
        TURN * (seconds / rng.uniform(0.5, 0.9) - link / rng.uniform(3.5, 5.5) + rng.uniform())
    )
    along = rng.uniform(0.3, 0.38) * link + 0.15 * np.sin(TURN * (0.3 * seconds + rng.uniform()))
    axis = rng.uniform(-0.6, 0.6)
    x = along * math.cos(axis) - wave * math.sin(axis)
    y = along * math.sin(axis) + wave * math.cos(axis)
    return tracks(x, y, angle=axis, scale=0.65)


def hop(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Rests, leaps within a few frames to another place far away, and rests again."""
    beat = seconds / rng.uniform(0.25, 0.45) + rng.uniform()
    number = np.floor(beat).astype(int)
    # each hop turns by a quarter to a half circle around the middle: never back to the same place
    bearing = TURN * np.cumsum(rng.uniform(0.25, 0.5, size=number[-1] + 2))
    places = 0.5 * np.stack([np.cos(bearing), np.sin(bearing)])
    leap = np.clip((beat - number) * 4 - 3, 0, 1)
    x, y = places[:, number] * (1 - leap) + places[:, number + 1] * leap
    return tracks(x, y - 0.25 * np.sin(math.pi * leap))


def throw(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Flies along one long parabola from side to side, tumbling; then the next throw."""
    phase = (seconds / rng.uniform(0.8, 1.3) + rng.uniform()) % 1
    y = rng.uniform(1.0, 1.5) * (0.6 - 4 * phase * (1 - phase))
    return tracks(2.4 * phase - 1.2, y, angle=TURN * rng.uniform(0.8, 1.6) * phase)


def roll(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Rolls along the ground to and fro, the turn coupled to the way."""
    way = 0.75 * _there_and_back(seconds / rng.uniform(0.9, 1.5) + rng.uniform())
    slope = rng.uniform(-0.4, 0.4)
    # 2.6 rad per unit: a wheel of radius 1 / 2.6 = 0.38, which is a middling one, does not slip
    return tracks(way, slope * way, angle=2.6 * way)


def juggle(rng: np.random.Generator, seconds: np.ndarray) -> Tracks:
    """Three copies in a cascade: each flies from hand to hand and is carried back below."""
    ball = np.arange(3)[:, None] / 3
    phase = (seconds / rng.uniform(1.0, 1.6) + ball + rng.uniform()) % 1
    flight, carry = np.clip(phase / 0.75, 0, 1), np.clip((phase - 0.75) / 0.25, 0, 1)
    reach = rng.uniform(0.4, 0.6)
    x = reach * np.where(phase < 0.75, 2 * flight - 1, np.cos(math.pi * carry))
    rise = 4 * rng.uniform(0.8, 1.2) * flight * (1 - flight)
    y = 0.4 - rise + 0.2 * np.sin(math.pi * carry)
    return tracks(x, y, angle=TURN * phase, scale=0.7)


def _there_and_back(phase: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1 in [-1, 1]."""
    return 4 * np.abs(phase % 1 - 0.5) - 1
