"""One video before it is drawn: every number that the renderer needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tools.synth.classes import CLASSES
from tools.synth.motion import Tracks, tracks
from tools.synth.options import Options, Purpose, stream
from tools.synth.scene import Scene
from tools.synth.shape import Shape

# Luma of ITU-R BT.601, which small videos use.
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True, eq=False)
class Sprite:
    """A moving object. `paint` [3, 3]: linear RGB of its body, of its pattern and of its rim.

    The pattern is stripes across the object, `stripes` half periods per radius, at `tilt` radians.
    """

    shape: Shape
    radius: float
    paint: np.ndarray
    stripes: float
    tilt: float
    tracks: Tracks


@dataclass(frozen=True, slots=True, eq=False)
class Backdrop:
    """The texture; `colours` [2, 3] in linear RGB, for the field's 0 and 1.

    `tilt` in radians, `offset` in world units.
    """

    scene: Scene
    colours: np.ndarray
    period: float
    tilt: float
    offset: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """Arrays [T]: the world point in the middle, half of the visible side, roll in radians."""

    x: np.ndarray
    y: np.ndarray
    zoom: np.ndarray
    roll: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A video's parameters. `light` [T, 3]: brightness, its slopes to the right and downwards.

    `blur` is the share of a pixel's neighbours in it, `noise` a standard deviation, white being 1.
    """

    backdrop: Backdrop
    sprites: tuple[Sprite, ...]
    camera: Camera
    light: np.ndarray
    blur: float
    noise: float


def draw_shot(class_index: int, number: int, options: Options) -> Shot:
    """All parameters of one video, a pure function of its arguments.

    With `options.motion_only` scene and shape are drawn from all kinds; the motion stays the same.
    """
    rng = stream(options, class_index, number, purpose=Purpose.SHOT)
    dress = CLASSES[class_index]
    scene_index, shape_index = rng.integers(len(CLASSES), size=2)
    scene = CLASSES[scene_index].scene if options.motion_only else dress.scene
    shape = CLASSES[shape_index].shape if options.motion_only else dress.shape
    ground_luma = rng.uniform(0.25, 0.75)
    actor = _draw_sprite(
        rng,
        shape,
        radius=rng.uniform(0.28, 0.48),
        ground_luma=ground_luma,
        route=_actor_tracks(rng, class_index, number, options),
    )
    seconds = _seconds(options)
    shot = Shot(
        backdrop=_draw_backdrop(rng, scene, luma=ground_luma),
        sprites=(*_draw_distractors(rng, seconds, ground_luma), actor),
        camera=_draw_camera(rng, seconds),
        light=_draw_light(rng, seconds),
        blur=rng.uniform(0, 0.5),
        noise=rng.uniform(0, 0.04),
    )
    shot = _calmed(shot) if options.calm else shot
    return _progressing(shot, class_index, number, options) if options.progress else shot


def _calmed(shot: Shot) -> Shot:
    """The same shot without distractors, by a camera that stays as it is in the first frame."""
    camera = shot.camera
    first = [np.full_like(a, a[0]) for a in (camera.x, camera.y, camera.zoom, camera.roll)]
    return replace(shot, sprites=shot.sprites[-1:], camera=Camera(*first))


def _progressing(shot: Shot, class_index: int, number: int, options: Options) -> Shot:
    """The same shot while night falls and the object comes nearer, alike in all classes.

    A motion repeats itself: without this, nothing tells the parts of a video in time.
    """
    rng = stream(options, class_index, number, purpose=Purpose.PROGRESS)
    way = np.linspace(0, 1, options.frames, dtype=np.float32)
    *distractors, actor = shot.sprites
    growth = 0.55 + way * rng.uniform(0.8, 1.1)  # the last frame's object is 2.5 to 3 as large
    dusk = 1.1 - way * rng.uniform(0.45, 0.6)
    route = replace(
        actor.tracks,
        stretch_x=actor.tracks.stretch_x * growth,
        stretch_y=actor.tracks.stretch_y * growth,
    )
    return replace(
        shot,
        sprites=(*distractors, replace(actor, tracks=route)),
        light=(shot.light * dusk[:, None]).astype(np.float32),
    )


def _seconds(options: Options) -> np.ndarray:
    return np.arange(options.frames) / options.fps


def _actor_tracks(
    rng: np.random.Generator, class_index: int, number: int, options: Options
) -> Tracks:
    """The class's motion, mirrored or not, somewhere in the frame."""
    motion_rng = stream(options, class_index, number, purpose=Purpose.MOTION)
    route = CLASSES[class_index].motion(motion_rng, _seconds(options))
    side = rng.choice([-1, 1])
    x, y = rng.uniform(-0.3, 0.3, size=2).tolist()
    return replace(route, x=x + side * route.x, y=y + route.y, angle=side * route.angle)


def _draw_sprite(
    rng: np.random.Generator, shape: Shape, *, radius: float, ground_luma: float, route: Tracks
) -> Sprite:
    """An object that stands out from its ground by luma; its hues are free."""
    away = -1 if ground_luma > 0.5 else 1
    luma = ground_luma + away * rng.uniform(0.28, 0.42)
    paint = [
        _draw_colour(rng, luma),
        _draw_colour(rng, luma - away * rng.uniform(0.0, 0.15)),
        _draw_colour(rng, luma + away * rng.uniform(-0.1, 0.2)),
    ]
    return Sprite(
        shape=shape,
        radius=radius,
        paint=np.stack(paint),
        stripes=rng.uniform(0.8, 4.0),
        tilt=rng.uniform(0, math.pi),
        tracks=route,
    )


def _draw_distractors(
    rng: np.random.Generator, seconds: np.ndarray, ground_luma: float
) -> list[Sprite]:
    """Up to four smaller objects of any kind that drift."""
    distractors = []
    for _ in range(rng.integers(5)):
        (x, y), (speed_x, speed_y) = rng.uniform(-0.9, 0.9, size=2), rng.uniform(-0.4, 0.4, size=2)
        distractors.append(
            _draw_sprite(
                rng,
                CLASSES[rng.integers(len(CLASSES))].shape,
                radius=rng.uniform(0.08, 0.2),
                ground_luma=ground_luma,
                route=tracks(
                    x + speed_x * seconds, y + speed_y * seconds, angle=rng.uniform(-0.5, 0.5)
                ),
            )
        )
    return distractors


def _draw_backdrop(rng: np.random.Generator, scene: Scene, *, luma: float) -> Backdrop:
    contrast = rng.choice([-1, 1]) * rng.uniform(0.2, 0.45)
    colours = [_draw_colour(rng, luma + sign * contrast / 2) for sign in (-1, 1)]
    return Backdrop(
        scene=scene,
        colours=np.stack(colours),
        # within a class the scale varies by a factor of 1.8
        period=math.exp(rng.uniform(-0.3, 0.3)),
        tilt=rng.uniform(-0.3, 0.3),
        offset=tuple(rng.uniform(-0.5, 0.5, size=2).tolist()),
    )


def _draw_camera(rng: np.random.Generator, seconds: np.ndarray) -> Camera:
    """A pan and a zoom from one end of the video to the other, and a hand that shakes a little."""
    way = np.linspace(0, 1, len(seconds))
    pan = rng.uniform(-0.3, 0.3, size=(2, 2))
    shake = rng.uniform(0, 0.02) * np.sin(
        2 * math.pi * (rng.uniform(2, 6, size=(2, 1)) * seconds + rng.uniform(size=(2, 1)))
    )
    x, y = pan[:, :1] * (1 - way) + pan[:, 1:] * way + shake
    first, last = rng.uniform(0.8, 1.2, size=2)
    zoom, roll = first * (1 - way) + last * way, np.full(len(seconds), rng.uniform(-0.15, 0.15))
    return Camera(*(array.astype(np.float32) for array in (x, y, zoom, roll)))


def _draw_light(rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """A lamp beyond the frame's edge that wanders around it: [T, 3], see Shot."""
    slope = rng.uniform(0, 0.45)
    bearing = rng.uniform(0, 2 * math.pi) + rng.uniform(-1.5, 1.5) * seconds
    brightness = np.full(len(seconds), rng.uniform(0.75, 1.15))
    light = [brightness, slope * np.cos(bearing), slope * np.sin(bearing)]
    return np.stack(light, axis=1).astype(np.float32)


def _draw_colour(rng: np.random.Generator, luma: float) -> np.ndarray:
    """Linear RGB [3] of a given luma (of the encoded colour), any hue, any saturation."""
    hue, saturation = rng.uniform(0, 2 * math.pi), 0.4 * math.sqrt(rng.uniform(0.02, 1))
    chroma = np.cos(hue + np.array([0, 2, 4]) * math.pi / 3)
    colour = np.clip(luma + saturation * (chroma - chroma @ LUMA), 0.02, 0.98)
    return (colour**2).astype(np.float32)  # the renderer's transfer curve is a square root
