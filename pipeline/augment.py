"""The augmentation of a view as data: a few numbers drawn per clip, executed by the graph.

One draw serves all frames of a clip, so a clip is consistent over time by construction. With
`consistent: false` (an ablation) every frame is drawn for itself.

Colour is one affine map of RGB in [0, 255]: brightness, contrast, saturation, hue and greyscale
are each linear, are composed in float64 in the order drawn, and are clamped once, at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# Rows: Y, I, Q. Hue turns the (I, Q) plane, saturation scales it, both leave Y alone.
RGB_TO_YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)
MID_GREY = 127.5
CROP_ATTEMPTS = 10


@dataclass
class AugmentConfig:
    size: int = 112  # side of a view, pixels
    scale: list[float] = field(default_factory=lambda: [0.2, 1.0])  # crop area / picture area
    ratio: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])  # crop width / height
    flip: float = 0.5  # probability, as all single numbers below that are not strengths
    jitter: float = 0.8  # of brightness, contrast, saturation and hue together, in random order
    brightness: float = 0.4  # strength s: factor uniform in [1 - s, 1 + s]
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # strength s: turn uniform in [-s, s], in full circles
    grayscale: float = 0.2
    blur: float = 0.5
    blur_sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])  # pixels of the view
    solarize: float = 0.0
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])  # ImageNet, in [0, 1]
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    consistent: bool = True  # one draw for all frames of a clip; false: one for each frame
    eval_scale: float = 1.0  # evaluation: side of the central square / short side of the picture


@dataclass(frozen=True)
class Draw:
    """What happens to one clip. roi: (top, left, bottom, right) in [0, 1] of the picture.

    color: [3, 4] affine map of RGB in [0, 255] (matrix | offset). blur_sigma 0 and
    solarize_from 256 mean untouched; solarise maps values v >= solarize_from to 255 - v.
    """

    roi: tuple[float, float, float, float]
    flip: bool = False
    color: np.ndarray = field(default_factory=lambda: np.eye(3, 4))
    blur_sigma: float = 0.0
    solarize_from: int = 256


def brightness(factor: float) -> np.ndarray:
    """v -> factor v, as [4, 4]."""
    return np.diag([factor, factor, factor, 1.0])


def contrast(factor: float) -> np.ndarray:
    """v -> factor (v - mid grey) + mid grey, as [4, 4].

    The centre is a constant, not the picture's mean: the map then needs no look at the pixels.
    """
    matrix = brightness(factor)
    matrix[:3, 3] = (1 - factor) * MID_GREY
    return matrix


def saturation(factor: float) -> np.ndarray:
    """v -> luma + factor (v - luma), as [4, 4]; factor 0 is greyscale."""
    matrix = np.eye(4)
    matrix[:3, :3] = factor * np.eye(3) + (1 - factor) * np.ones((3, 1)) * LUMA
    return matrix


def hue(turn: float) -> np.ndarray:
    """Turns the chroma plane of YIQ by `turn` full circles, as [4, 4]."""
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    turned = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix = np.eye(4)
    matrix[:3, :3] = YIQ_TO_RGB @ turned @ RGB_TO_YIQ
    return matrix


def _color(config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    total = np.eye(4)
    if rng.random() < config.jitter:
        strengths = (config.brightness, config.contrast, config.saturation)
        factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths]
        turn = rng.uniform(-config.hue, config.hue)
        maps = [brightness(factors[0]), contrast(factors[1]), saturation(factors[2]), hue(turn)]
        for which in rng.permutation(4):
            total = maps[which] @ total
    if rng.random() < config.grayscale:
        total = saturation(0.0) @ total
    return total[:3]


def random_crop(
    width: int, height: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Region of random area and aspect (Inception crop), as (top, left, bottom, right) in [0, 1].

    Falls back to the largest central region of an allowed aspect when ten tries do not fit.
    """
    low, high = np.log(config.ratio)
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*config.scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = math.sqrt(area * aspect) / width, math.sqrt(area / aspect) / height
        if w <= 1 and h <= 1:
            top, left = rng.uniform(0, 1 - h), rng.uniform(0, 1 - w)
            return top, left, top + h, left + w
    aspect = min(max(width / height, config.ratio[0]), config.ratio[1])
    return central(min(1.0, height * aspect / width), min(1.0, width / aspect / height))


def central(w: float, h: float) -> tuple[float, float, float, float]:
    """Central region of relative width w and height h, as (top, left, bottom, right)."""
    return (1 - h) / 2, (1 - w) / 2, (1 + h) / 2, (1 + w) / 2


def training_draw(width: int, height: int, config: AugmentConfig, rng: np.random.Generator) -> Draw:
    """A random draw for a clip whose pictures are `width` x `height` pixels."""
    roi = random_crop(width, height, config, rng)
    flip = rng.random() < config.flip
    color = _color(config, rng)
    blurred, sigma = rng.random() < config.blur, rng.uniform(*config.blur_sigma)
    solarized = rng.random() < config.solarize
    return Draw(roi, flip, color, sigma if blurred else 0.0, 128 if solarized else 256)


def evaluation_draw(width: int, height: int, config: AugmentConfig) -> Draw:
    """The central square of side `eval_scale` x short side, nothing else."""
    side = config.eval_scale * min(width, height)
    return Draw(central(side / width, side / height))


def check(config: AugmentConfig) -> None:
    """Raise ValueError naming the field when a value is out of its range."""
    for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"augment.{name}: expected a probability, got {getattr(config, name)}")
    for name in ("scale", "ratio", "blur_sigma"):
        pair = getattr(config, name)
        if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
            raise ValueError(
                f"augment.{name}: expected [low, high] with 0 < low <= high, got {pair}"
            )
    if config.scale[1] > 1 or not 0 < config.eval_scale <= 1:
        raise ValueError("augment.scale and augment.eval_scale: at most 1, the whole picture")
    if config.size < 1:
        raise ValueError(f"augment.size: expected at least 1 pixel, got {config.size}")
