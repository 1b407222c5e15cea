"""The augmentation of a view as data: a few numbers drawn per clip, executed by host or graph.

One draw serves all frames of a clip, so a clip is consistent over time by construction. With
`consistent: false` (an ablation) every frame is drawn for itself.

Colour is one affine map of RGB in [0, 255]: brightness, contrast, saturation, hue and greyscale
are each linear, are composed in float64 in the order drawn, and are clamped once, at the end.
CVRL's code clamps after each: with its strengths the levels differ by 1.7 of 255 on average, by
less than 0.1 in half of the draws (400 draws, ten videos of tools.synth).

Contrast about the clip's own mean m keeps the map affine: let A be the linear part of all
operations and G that of all but contrast, which does not move a mean. Then a pixel's distance
from the mean goes through A and the mean itself through G: y = A (x - m) + G m = A x + (G - A) m.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# Rows: Y, I, Q. Hue turns the (I, Q) plane, saturation scales it, both leave Y alone.
RGB_TO_YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)
# [4, 4] terms of the colour maps: each colour as it is, each as luma, and what is left of eye(4).
COLORS, LAST = np.diag([1.0, 1.0, 1.0, 0.0]), np.diag([0.0, 0.0, 0.0, 1.0])
LUMAS = np.zeros((4, 4))
LUMAS[:3, :3] = LUMA
MID_GREY = 127.5
# As torchvision; CVRL's code has 100. With its areas and aspects 44 % of the tries do not fit into
# a picture of 4:3 and 57 % into one of 16:9, so that ten fail in 0.03 % and 0.4 % of the clips.
CROP_ATTEMPTS = 10
WHOLE = (0.0, 0.0, 1.0, 1.0)  # a region: (top, left, bottom, right) in [0, 1]
MAX_BLUR_WINDOW = 23  # pixels; three sigma of the strongest blur of any recipe need no more
EVAL_CROPS = (1, 3, 5, 10)
STRENGTHS = ("brightness", "contrast", "saturation", "hue")
# What all views have in common: the form of a batch, what a network expects, and evaluation.
COMMON = ("size", "mean", "std", "consistent", "views", "eval_scale", "eval_crops")


@dataclass
class AugmentConfig:
    size: int = 112  # side of a view, pixels
    scale: list[float] = field(default_factory=lambda: [0.2, 1.0])  # crop area / picture area
    ratio: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])  # crop width / height
    flip: float = 0.5  # probability, as all single numbers below that are not strengths
    jitter: float = 0.8  # of brightness, contrast, saturation and hue together, in random order
    brightness: float = 0.4  # strength s: factor uniform in [1 - s, 1 + s]
    contrast: float = 0.4
    # grey: contrast about mid grey; clip: about the clip's mean colour after the crop (CVRL)
    contrast_about: Literal["grey", "clip"] = "grey"
    saturation: float = 0.4
    hue: float = 0.1  # strength s: turn uniform in [-s, s], in full circles
    grayscale: float = 0.2
    blur: float = 0.5
    blur_sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])  # pixels of the view
    solarize: float = 0.0
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])  # ImageNet, in [0, 1]
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    consistent: bool = True  # one draw for all frames of a clip; false: one for each frame
    # by number of the view, what is different in it, as {1: {blur: 0.1, solarize: 0.2}}
    views: dict[int, Any] = field(default_factory=dict)
    eval_scale: float = 1.0  # evaluation: side of the square / short side of the picture
    # 1: the central square; 3: one at each end of the long side, too; 5: one in each corner, too;
    # 10: those five and their mirror images
    eval_crops: int = 1


@dataclass(frozen=True)
class Draw:
    """What happens to one clip. roi: (top, left, bottom, right) in [0, 1] of the picture.

    color: [3, 4] affine map of RGB in [0, 255] (matrix | offset). blur_sigma 0 and
    solarize_from 256 mean untouched; solarise maps values v >= solarize_from to 255 - v.
    mean_matrix: [3, 3]; what it makes of the clip's mean colour is added by the colour map.
    """

    roi: tuple[float, float, float, float]
    flip: bool = False
    color: np.ndarray = field(default_factory=lambda: np.eye(3, 4))
    blur_sigma: float = 0.0
    solarize_from: int = 256
    mean_matrix: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))


def brightness(factor: float) -> np.ndarray:
    """v -> factor v, as [4, 4]."""
    return factor * COLORS + LAST


def contrast(factor: float) -> np.ndarray:
    """v -> factor (v - mid grey) + mid grey, as [4, 4]: a map that needs no look at the pixels."""
    matrix = brightness(factor)
    matrix[:3, 3] = (1 - factor) * MID_GREY
    return matrix


def saturation(factor: float) -> np.ndarray:
    """v -> luma + factor (v - luma), as [4, 4]; factor 0 is greyscale."""
    return factor * COLORS + (1 - factor) * LUMAS + LAST


GREY = saturation(0.0)


def hue(turn: float) -> np.ndarray:
    """Turns the chroma plane of YIQ by `turn` full circles, as [4, 4]."""
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    turned = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix = np.eye(4)
    matrix[:3, :3] = YIQ_TO_RGB @ turned @ RGB_TO_YIQ
    return matrix


def _color(config: AugmentConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw.color and Draw.mean_matrix."""
    of_pixel, of_mean = np.eye(4), np.eye(4)
    about_clip = config.contrast_about == "clip"
    if rng.random() < config.jitter:
        strengths = (config.brightness, config.contrast, config.saturation)
        factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths]
        turn = rng.uniform(-config.hue, config.hue)
        contrasted = (brightness if about_clip else contrast)(factors[1])
        maps = [brightness(factors[0]), contrasted, saturation(factors[2]), hue(turn)]
        for which in rng.permutation(4).tolist():
            of_pixel = maps[which] @ of_pixel
            if about_clip and which != 1:  # of no effect on a mean
                of_mean = maps[which] @ of_mean
    if rng.random() < config.grayscale:
        of_pixel, of_mean = GREY @ of_pixel, GREY @ of_mean
    if not about_clip:
        return of_pixel[:3], np.zeros((3, 3))
    return of_pixel[:3], (of_mean - of_pixel)[:3, :3]


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
    color, mean_matrix = _color(config, rng)
    blurred, sigma = rng.random() < config.blur, rng.uniform(*config.blur_sigma)
    solarized = rng.random() < config.solarize
    sigma, threshold = sigma if blurred else 0.0, 128 if solarized else 256
    return Draw(roi, flip, color, sigma, threshold, mean_matrix)


def evaluation_draws(width: int, height: int, config: AugmentConfig) -> list[Draw]:
    """Squares of side `eval_scale` x short side, nothing else: `eval_crops` of them.

    One is the central one. Three stand along the long side (of a square picture: its width) at
    the left or upper end, in the middle and at the other end. Five are the corners and the centre,
    ten these and then their mirror images.
    """
    side = config.eval_scale * min(width, height)
    w, h = side / width, side / height
    top, left, bottom, right = middle = central(w, h)
    if config.eval_crops == 1:
        return [Draw(middle)]
    if config.eval_crops in (5, 10):
        corners = [(y, x, y + h, x + w) for y in (0.0, 1 - h) for x in (0.0, 1 - w)]
        mirrors = (False, True) if config.eval_crops == 10 else (False,)
        return [Draw(roi, flip) for flip in mirrors for roi in (*corners, middle)]
    if width >= height:
        ends = (top, 0.0, bottom, w), (top, 1 - w, bottom, 1.0)
    else:
        ends = (0.0, left, h, right), (1 - h, left, 1.0, right)
    return [Draw(ends[0]), Draw(middle), Draw(ends[1])]


def blur_window(sigma: float) -> int:
    """Side of the blur's window in pixels: three sigma each way, as far as MAX_BLUR_WINDOW."""
    return 2 * min(math.ceil(3 * sigma), MAX_BLUR_WINDOW // 2) + 1


def of_view(config: AugmentConfig, view: int) -> AugmentConfig:
    """The augmentation of one view: what is said of it in `views`, and the rest."""
    return replace(config, **config.views.get(view, {}), views={})


def of_views(config: AugmentConfig, number: int) -> tuple[AugmentConfig, ...]:
    """The augmentation of each of `number` views. Raises ValueError for one that is not there."""
    for view in config.views:
        if view >= number:
            raise ValueError(
                f"augment.views.{view}: the method takes {number} views, numbered from 0"
            )
    return tuple(of_view(config, view) for view in range(number))


def check(config: AugmentConfig, *, where: str = "augment") -> None:
    """Raise ValueError naming the field when a value is out of its range."""
    for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{where}.{name}: expected a probability, got {getattr(config, name)}")
    for name in STRENGTHS:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{where}.{name}: expected at least 0, got {getattr(config, name)}")
    for name in ("scale", "ratio", "blur_sigma"):
        pair = getattr(config, name)
        if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
            raise ValueError(
                f"{where}.{name}: expected [low, high] with 0 < low <= high, got {pair}"
            )
    for name in ("mean", "std"):
        if len(values := getattr(config, name)) != 3:
            raise ValueError(f"{where}.{name}: expected one each of red, green, blue, got {values}")
    if not min(config.std) > 0:
        raise ValueError(f"{where}.std: expected numbers above 0, got {config.std}")
    if config.scale[1] > 1 or not 0 < config.eval_scale <= 1:
        raise ValueError(f"{where}.scale and {where}.eval_scale: at most 1, the whole picture")
    if config.size < 1:
        raise ValueError(f"{where}.size: expected at least 1 pixel, got {config.size}")
    if config.contrast_about not in ("grey", "clip"):
        raise ValueError(
            f"{where}.contrast_about: expected grey or clip, got {config.contrast_about!r}"
        )
    if config.eval_crops not in EVAL_CROPS:
        *others, last = EVAL_CROPS
        raise ValueError(
            f"{where}.eval_crops: expected {', '.join(map(str, others))} or {last}, got "
            f"{config.eval_crops}"
        )
    for view, changes in config.views.items():
        _check_changes(f"{where}.views.{view}", view, changes)
        check(of_view(config, view), where=f"{where}.views.{view}")


def _check_changes(where: str, view: int, changes: Any) -> None:
    """Raise ValueError unless `changes` sets fields that a view may have, to their types."""
    if view < 0:
        raise ValueError(f"{where}: views are numbered from 0")
    if not isinstance(changes, dict):
        raise ValueError(f"{where}: expected a group of keys, got {changes!r}")
    defaults = {f.name: getattr(AugmentConfig(), f.name) for f in fields(AugmentConfig)}
    for name, value in changes.items():
        if name in COMMON:
            raise ValueError(f"{where}.{name}: is the same in all views · set augment.{name}")
        if name not in defaults:
            own = [known for known in defaults if known not in COMMON]
            near = difflib.get_close_matches(str(name), own, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(own)}"
            raise ValueError(f"{where}.{name}: unknown key · {hint}")
        if not _is_like(value, defaults[name]):
            kind = {float: "a number", list: "a list of numbers", str: "a word"}
            raise ValueError(
                f"{where}.{name}: expected {kind[type(defaults[name])]}, got {value!r}"
            )


def _is_like(value: Any, default: float | list[float] | str) -> bool:
    if isinstance(default, list):
        return isinstance(value, list) and all(_is_like(v, default[0]) for v in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)
