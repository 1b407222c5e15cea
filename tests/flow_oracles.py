"""TV-L1 flow in float64 from the published scheme, and pictures whose flow is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def tvl1(
    first: Array,
    second: Array,
    *,
    scales: int = 5,
    scale_step: float = 0.8,
    warps: int = 5,
    iterations: int = 30,
    attachment: float = 0.15,
    tightness: float = 0.3,
    time_step: float = 0.25,
) -> Array:
    """Flow [2, H, W] (u, v) from one grey picture [H, W] to the next.

    Zach, Pock, Bischof (DAGM 2007), equations 8 to 12, on the grid of IPOL 2013 (3), section 3.
    """
    pyramid = [(np.asarray(first, np.float64), np.asarray(second, np.float64))]
    for _ in range(scales - 1):
        shape = [int(np.rint(side * scale_step)) for side in pyramid[-1][0].shape]
        if min(shape) < 16:
            break
        pyramid.append(tuple(resized(picture, *shape) for picture in pyramid[-1]))
    u = v = np.zeros(pyramid[-1][0].shape)
    for i0, i1 in reversed(pyramid):
        (h, w), (old_h, old_w) = i0.shape, u.shape
        u, v = resized(u, h, w) * (w / old_w), resized(v, h, w) * (h / old_h)
        p11, p12, p21, p22 = np.zeros((4, h, w))
        for _ in range(warps):
            rho_c, gx, gy = linearised(i0, i1, u, v)
            for _ in range(iterations):
                rho = rho_c + gx * u + gy * v
                lt, grad = attachment * tightness, gx**2 + gy**2
                low, high, middle = rho < -lt * grad, rho > lt * grad, grad > 1.19e-7
                ratio = -rho / np.where(middle, grad, 1)
                d = np.select([low, high, middle], [lt, -lt, ratio], 0.0)
                u = u + d * gx + tightness * divergence(p11, p12)
                v = v + d * gy + tightness * divergence(p21, p22)
                p11, p12 = dual_step(p11, p12, u, time_step / tightness)
                p21, p22 = dual_step(p21, p22, v, time_step / tightness)
    return np.stack([u, v])


def resized(picture: Array, height: int, width: int) -> Array:
    """Linear between the centres of pixels, constant outside of them."""

    def matrix(old: int, new: int) -> Array:
        places = (np.arange(new) + 0.5) * old / new - 0.5
        return np.array([np.interp(places, np.arange(old), unit) for unit in np.eye(old)]).T

    return matrix(picture.shape[0], height) @ picture @ matrix(picture.shape[1], width).T


def linearised(i0: Array, i1: Array, u: Array, v: Array) -> tuple[Array, Array, Array]:
    """rho - gradient . (u, v) and the gradient of I1, both at the pixels' places plus (u, v)."""
    wide = np.pad(i1, 1, mode="edge")
    by_x, by_y = (wide[1:-1, 2:] - wide[1:-1, :-2]) / 2, (wide[2:, 1:-1] - wide[:-2, 1:-1]) / 2
    rows, columns = np.indices(i0.shape)
    i1w, gx, gy = (cubic(picture, columns + u, rows + v) for picture in (i1, by_x, by_y))
    return i1w - gx * u - gy * v - i0, gx, gy


def cubic(picture: Array, x: Array, y: Array) -> Array:
    """Keys' cubic convolution with a = -1/2 over 4 x 4 pixels, the border repeated outside."""

    def kernel(t: Array) -> Array:
        t = abs(t)
        near = 1.5 * t**3 - 2.5 * t**2 + 1
        return np.where(t <= 1, near, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2)

    height, width = picture.shape
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    total, mass = np.zeros(x.shape), np.zeros(x.shape)
    for row in range(-1, 3):
        for column in range(-1, 3):
            weight = kernel(x - left - column) * kernel(y - top - row)
            at = np.clip(top + row, 0, height - 1), np.clip(left + column, 0, width - 1)
            total, mass = total + weight * picture[at], mass + weight
    return total / mass


def divergence(px: Array, py: Array) -> Array:
    return np.diff(px, axis=1, prepend=0) + np.diff(py, axis=0, prepend=0)


def dual_step(px: Array, py: Array, u: Array, step: float) -> tuple[Array, Array]:
    gx = np.diff(u, axis=1, append=u[:, -1:])
    gy = np.diff(u, axis=0, append=u[-1:])
    length = 1 + step * np.hypot(gx, gy)
    return (px + step * gx) / length, (py + step * gy) / length


# Pictures


def texture(seed: int, *, waves: int = 60) -> Callable[[Array, Array], Array]:
    """A smooth random picture of the whole plane: grey in [0, 255] at x, y (any shape)."""
    rng = np.random.default_rng(seed)
    length = np.exp(rng.uniform(np.log(6), np.log(48), waves))  # pixels
    turn, phase = rng.uniform(0, 2 * np.pi, (2, waves))
    share = np.sqrt(length) / np.sqrt(length).sum()

    def grey(x: Array, y: Array) -> Array:
        along = np.multiply.outer(x, np.cos(turn)) + np.multiply.outer(y, np.sin(turn))
        wave = np.sin(2 * np.pi * along / length + phase)
        return np.clip(127.5 + 600 * (wave @ share), 0, 255)

    return grey


def moving(
    seed: int, height: int, width: int, motion: Array, *, frames: int = 2
) -> tuple[Array, Array]:
    """A textured clip [T, H, W] uint8 and its exact flow [2, T-1, H, W].

    motion: [2, 3], which takes (x, y, 1), from the middle of the picture, to the place one frame
    later, less (x, y): constant motion, turning, growing.
    """
    grey = texture(seed)
    step = np.vstack([np.eye(2, 3) + motion, [0, 0, 1]])
    y, x = np.indices((height, width))
    here = np.stack([x - (width - 1) / 2, y - (height - 1) / 2, np.ones(x.shape)])
    back = [np.linalg.matrix_power(np.linalg.inv(step), t) for t in range(frames)]
    places = [np.tensordot(matrix, here, 1) for matrix in back]
    clip = np.stack([np.rint(grey(place[0], place[1])) for place in places]).astype(np.uint8)
    flow = np.tensordot(np.asarray(motion, float), here, 1)
    return clip, np.repeat(flow[:, None], frames - 1, axis=1)


def shift(x: float, y: float) -> Array:
    return np.array([[0.0, 0.0, x], [0.0, 0.0, y]])


def endpoint_error(flow: Array, truth: Array, *, margin: int) -> float:
    """Mean distance of the vectors, pixels, without a margin; [..., 2, T, H, W]."""
    inner = slice(margin, -margin) if margin else slice(None)
    apart = np.asarray(flow, float) - np.asarray(truth, float)
    return float(np.hypot(apart[..., 0, :, :, :], apart[..., 1, :, :, :])[..., inner, inner].mean())
