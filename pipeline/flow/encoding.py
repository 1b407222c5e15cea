"""Flow as the input of a network: as it is, or as the picture that others store it as."""

from __future__ import annotations

import torch
from torch import Tensor

BOUND_PIXELS = 20.0  # I3D's, and of all that followed: longer motion is cut
MIDDLE = 128  # what no motion becomes


def image_of(flow: Tensor, *, bound_pixels: float = BOUND_PIXELS) -> Tensor:
    """[B, 2, T, H, W] in pixels -> [B, 3, T, H, W] uint8 as it comes out of a stored JPEG.

        u, v -> round(255 (clip(., -bound, bound) + bound) / (2 bound))       third channel: 128

    Halves round to even, as in OpenCV, so no motion is 128, too. The channels are u, v, 128; a
    file that OpenCV wrote (B, G, R) and others read (R, G, B) has them in reverse: `flip(1)`.

    Source: Carreira and Zisserman, CVPR 2017 (arXiv 1705.07750), section 3, for the bound.
    """
    scaled = (flow.clamp(-bound_pixels, bound_pixels) + bound_pixels) * (255 / (2 * bound_pixels))
    image = torch.full_like(scaled[:, :1].expand(-1, 3, *scaled.shape[2:]), MIDDLE)
    image[:, :2] = scaled.round()
    return image.to(torch.uint8)


def flow_of_image(image: Tensor, *, bound_pixels: float = BOUND_PIXELS) -> Tensor:
    """The inverse of `image_of` for motion within the bound, to half a step: 0.04 pixels of 20.

    [B, 3, T, H, W] -> [B, 2, T, H, W] float32. Bytes have no exact middle: 128 is 0.08 pixels.
    """
    return image[:, :2].float() * (2 * bound_pixels / 255) - bound_pixels
