"""From a shot to pixels: texture and sprites composed in linear light, with antialiased edges.

T frames, S side in pixels, P side of a sprite's window in pixels. Frames are kept as colour planes
[T, 3, S, S]: with the colours innermost NumPy's loops would be three steps long, 15 times slower.
"""

from __future__ import annotations

import math

import numpy as np

from tools.synth.options import Options, Purpose, stream
from tools.synth.shot import Backdrop, Camera, Shot, Sprite, draw_shot

# Half side of the painted world. A camera sees no further than pan + shake + zoom * (cos + sin) of
# its roll: 0.3 + 0.02 + 1.2 * (cos 0.15 + sin 0.15) = 1.69.
WORLD = 1.7
# Width of a sprite's rim, in radii.
RIM = 0.14


def render_video(class_index: int, number: int, options: Options) -> np.ndarray:
    """Frames [T, S, S, 3], uint8 RGB, of one video: a pure function of its arguments."""
    shot = draw_shot(class_index, number, options)
    texture_rng = stream(options, class_index, number, purpose=Purpose.TEXTURE)
    frames = _paint_backdrop(texture_rng, shot.backdrop, shot.camera, options.size)
    for sprite in shot.sprites:
        for copy in range(len(sprite.tracks.x)):
            _paint_sprite(frames, sprite, copy, shot.camera)
    noise_rng = stream(options, class_index, number, purpose=Purpose.NOISE)
    return _develop(frames, shot, noise_rng)


def _paint_backdrop(
    rng: np.random.Generator, backdrop: Backdrop, camera: Camera, size: int
) -> np.ndarray:
    """The texture through the camera: linear RGB [T, 3, S, S]."""
    field = _paint_field(rng, backdrop, size)
    pixels = _centres(np.arange(size), size)
    x, y = _to_world(pixels[None, None, :], pixels[None, :, None], camera)
    field = _sample(field, x, y)[:, None]
    first, second = backdrop.colours[:, :, None, None]
    return first + field * (second - first)


def _paint_field(rng: np.random.Generator, backdrop: Backdrop, size: int) -> np.ndarray:
    """The scene's field over the world, two samples per pixel along each axis averaged into one."""
    half = math.ceil(WORLD * size / 2)
    points = (np.arange(4 * half, dtype=np.float32) + 0.5) / (2 * half) - 1
    x, y = WORLD * points[None, :], WORLD * points[:, None]
    x, y = _turn(x, y, np.float32(backdrop.tilt))
    shift_x, shift_y = backdrop.offset
    fine = backdrop.scene(rng, x + shift_x, y + shift_y, backdrop.period)
    return fine.reshape(2 * half, 2, 2 * half, 2).mean((1, 3), dtype=np.float32)


def _sample(field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The field at world points, bilinear."""
    side = len(field)
    scale = side / (2 * WORLD)
    u = np.clip((x + WORLD) * scale - 0.5, 0, side - 1.001)
    v = np.clip((y + WORLD) * scale - 0.5, 0, side - 1.001)
    column, row = u.astype(np.int32), v.astype(np.int32)
    u -= column
    v -= row
    corner = row * side + column
    flat = field.ravel()
    upper = flat.take(corner) * (1 - u) + flat.take(corner + 1) * u
    lower = flat.take(corner + side) * (1 - u) + flat.take(corner + side + 1) * u
    return upper * (1 - v) + lower * v


def _paint_sprite(frames: np.ndarray, sprite: Sprite, copy: int, camera: Camera) -> None:
    """Lays one copy over the frames, in a square window that follows it."""
    route, size = sprite.tracks, frames.shape[-1]
    x, y = route.x[copy], route.y[copy]
    radius_x = sprite.radius * route.scale * route.stretch_x[copy]
    radius_y = sprite.radius * route.scale * route.stretch_y[copy]
    reach = max(radius_x.max(), radius_y.max()) / camera.zoom.min()
    side = min(size, math.ceil(reach * size) + 3)
    left, top = _window(x, y, camera, size=size, side=side)

    pixels = np.arange(side)
    world_x, world_y = _to_world(
        _centres(left[:, None, None] + pixels[None, None, :], size),
        _centres(top[:, None, None] + pixels[None, :, None], size),
        camera,
    )
    along, down = _turn(world_x - _each(x), world_y - _each(y), -_each(route.angle[copy]))
    # the shorter radius of a stretched object decides how soft its edges are on all sides
    radius_pixels = np.minimum(radius_x, radius_y) * size / (2 * camera.zoom)
    colour, cover = _look(
        sprite, along / _each(radius_x), down / _each(radius_y), _each(radius_pixels)
    )
    windows = np.lib.stride_tricks.sliding_window_view(
        frames, (side, side), axis=(2, 3), writeable=True
    )
    at = (np.arange(len(x)), slice(None), top, left)
    windows[at] += cover * (colour - windows[at])


def _window(
    x: np.ndarray, y: np.ndarray, camera: Camera, *, size: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """First column and row [T] of windows around world points, kept within the frame."""
    centres = _turn((x - camera.x) / camera.zoom, (y - camera.y) / camera.zoom, -camera.roll)
    left, top = (
        np.clip(np.rint((centre + 1) * size / 2 - side / 2), 0, size - side).astype(np.int32)
        for centre in centres
    )
    return left, top


def _look(
    sprite: Sprite, x: np.ndarray, y: np.ndarray, radius_pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colour [T, 3, P, P] and coverage [T, 1, P, P] at points [T, P, P] in the sprite's axes."""
    distance = sprite.shape(x, y)
    cover = np.clip(0.5 - distance * radius_pixels, 0, 1)
    rim = np.clip(0.5 + (distance + RIM) * radius_pixels, 0, 1)[:, None]
    across = math.cos(sprite.tilt) * x + math.sin(sprite.tilt) * y
    stripe = np.clip(0.5 + 2 * np.sin(math.pi * sprite.stripes * across), 0, 1)[:, None]
    body, pattern, edge = sprite.paint[:, :, None, None]
    colour = body + stripe * (pattern - body)
    return colour + rim * (edge - colour), cover[:, None]


def _to_world(
    frame_x: np.ndarray, frame_y: np.ndarray, camera: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """World coordinates of frame points in [-1, 1]; [T, 1, P] and [T, P, 1] give [T, P, P]."""
    x, y = _turn(frame_x, frame_y, _each(camera.roll))
    zoom = _each(camera.zoom)
    return _each(camera.x) + zoom * x, _each(camera.y) + zoom * y


def _turn(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotates by an angle, clockwise on the screen."""
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def _each(per_frame: np.ndarray) -> np.ndarray:
    """[T] -> [T, 1, 1]."""
    return per_frame[:, None, None]


def _centres(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pixel numbers as coordinates in [-1, 1]."""
    return ((2 * pixels + 1) / size - 1).astype(np.float32)


def _develop(frames: np.ndarray, shot: Shot, rng: np.random.Generator) -> np.ndarray:
    """Light, lens blur, transfer curve and sensor noise; then bytes [T, S, S, 3]."""
    size = frames.shape[-1]
    pixels = _centres(np.arange(size), size)
    brightness, slope_x, slope_y = shot.light.T[:, :, None, None]
    light = brightness + slope_x * pixels[None, :] + slope_y * pixels[:, None]
    frames *= light[:, None]
    _blur(frames, shot.blur)
    _blur(frames.swapaxes(2, 3), shot.blur)
    np.sqrt(frames, out=frames)
    frames += _noise(rng, shot.noise, len(frames), size)[:, None]
    frames *= 255
    levels = np.clip(np.rint(frames, out=frames), 0, 255, out=frames).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, 1, -1))


def _blur(frames: np.ndarray, strength: float) -> None:
    """Along rows, in place: mixes every pixel with its neighbours' mean; the outermost stay."""
    middle = frames[..., 1:-1]
    middle += strength * ((frames[..., :-2] + frames[..., 2:]) / 2 - middle)


def _noise(rng: np.random.Generator, strength: float, frames: int, size: int) -> np.ndarray:
    """Grey noise [T, S, S]: every frame cuts another piece out of one strip of it."""
    area = size * size
    strip = strength * rng.standard_normal(2 * area, dtype=np.float32)
    starts = rng.integers(area, size=frames)
    return np.stack([strip[start : start + area] for start in starts]).reshape(-1, size, size)
