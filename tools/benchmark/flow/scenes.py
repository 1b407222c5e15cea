"""Textured clips whose flow is known exactly, as a smooth motion of the plane made them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

WAVES, SHORTEST, LONGEST = 60, 6.0, 48.0  # of the texture; pixels
CONTRAST = 45.0  # standard deviation of its grey levels
SHIFT, SHEAR, SWELL = 2.5, 0.015, 0.5  # at most: pixels, pixels a pixel, pixels
SWELL_LENGTH = 64.0  # pixels
MARGIN = 8  # pixels at every border, from where things leave the picture

Array = np.ndarray
Motion = Callable[[Array], Array]


def scenes(number: int, *, frames: int, size: int) -> tuple[Tensor, Tensor]:
    """Clips [number, frames, size, size] uint8 and their flow [number, 2, frames - 1, size, size].

    Frame t is g(f^(T-1-t)) for a texture g and a motion f of the plane: as its pixel at x is seen
    at f(x) one frame later, f(x) - x is the flow of every pair, without an error.
    """
    made = [_scene(seed, frames, size) for seed in range(number)]
    clips, flows = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
    return clips, flows.float()[:, :, None].expand(-1, -1, frames - 1, -1, -1)


def endpoint_error(flow: Tensor, other: Tensor) -> float:
    """Mean distance of the vectors of two flows [B, 2, T, H, W], in pixels, without the margin."""
    inner = slice(MARGIN, -MARGIN)
    return (flow - other).norm(dim=1)[..., inner, inner].mean().item()


def _scene(seed: int, frames: int, size: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    grey, moved = _texture(rng), _motion(rng, size)
    here = np.indices((size, size), dtype=float)[::-1]  # x and y of every pixel
    clip, places = [], here
    for _ in range(frames):
        clip.append(np.rint(grey(places)).astype(np.uint8))
        places = moved(places)
    return np.stack(clip[::-1]), moved(here) - here


def _texture(rng: np.random.Generator) -> Callable[[Array], Array]:
    """Grey levels at places [2, ...]: waves of all directions, the longer the stronger."""
    length = np.geomspace(SHORTEST, LONGEST, WAVES)
    turn, phase = rng.uniform(0, 2 * np.pi, (2, WAVES))
    along = np.stack([np.cos(turn), np.sin(turn)]) / length  # [2, WAVES]
    # The variance of a sine is a half.
    share = np.sqrt(length) * CONTRAST / np.sqrt(length.sum() / 2)

    def grey(places: Array) -> Array:
        waves = np.sin(2 * np.pi * np.tensordot(places, along, (0, 0)) + phase)
        return np.clip(127.5 + waves @ share, 0, 255)

    return grey


def _motion(rng: np.random.Generator, size: int) -> Motion:
    """Shift, turn, growth and shear about the middle, and a swell that no matrix makes."""
    shift, swell = rng.uniform(-SHIFT, SHIFT, 2), rng.uniform(-SWELL, SWELL, 2)
    matrix, phase = rng.uniform(-SHEAR, SHEAR, (2, 2)), rng.uniform(0, 2 * np.pi, 2)

    def moved(places: Array) -> Array:
        plain = np.tensordot(matrix, places - (size - 1) / 2, 1)
        waves = np.sin(2 * np.pi * places[::-1] / SWELL_LENGTH + phase[:, None, None])
        return places + plain + shift[:, None, None] + swell[:, None, None] * waves

    return moved
