"""Flow as the input of a network: as it is, or as the picture that others store it as."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.augment import Draw

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


def official_image(flow: Tensor, draws: Sequence[Draw]) -> Tensor:
    """`image_of` as the code of ViCC (arXiv 2106.10137) meets it: a picture like another.

    flow: [B, 2, T, H, W] of clips whose draws these are -> [B, 3, T, H, W] uint8. It reads
    OpenCV's files as RGB, so the channels are 128, v, u. It mirrors the picture of a clip that is
    flipped, which leaves u with the sense it had before. And it gives the picture the clip's
    colours: the affine map of the draw, grey included. Blur and solarise are left out.
    """
    flipped = torch.tensor([draw.flip for draw in draws])
    back = torch.ones(len(draws), 2)
    back[flipped, 0] = -1
    image = image_of(flow * _on(flow.device, back)[:, :, None, None, None]).flip(1)
    return colored(image, draws)


def colored(image: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The colour map of each clip's draw, as the graph applies it to pictures.

    image: [B, 3, T, H, W] uint8, and so is the result.
    """
    stacks = (np.stack([d.color for d in draws]), np.stack([d.mean_matrix for d in draws]))
    color, mean_matrix = (_on(image.device, torch.from_numpy(s).float()) for s in stacks)
    levels = image.flatten(2).float()  # [B, 3, T H W]
    mean = levels.mean(2)[:, None]
    moved = color[:, :, 3:] + (mean_matrix * mean).sum(2, keepdim=True)
    # Not by matmul, which may be of fewer bits: bytes have to come out as they are.
    for channel in range(3):
        moved = torch.addcmul(moved, color[:, :, channel, None], levels[:, channel, None])
    return moved.round().clamp(0, 255).to(torch.uint8).view_as(image)


def normalised(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[B, 3, T, H, W] uint8 -> float32, of each channel (v / 255 - mean) / std."""
    mean, std = (_on(image.device, 255 * torch.tensor(s)) for s in (mean, std))
    shape = (3, 1, 1, 1)
    return image.float().sub_(mean.view(shape)).div_(std.view(shape))


def _on(device: torch.device, numbers: Tensor) -> Tensor:
    """The numbers on a device, sent there without waiting."""
    if device.type == "cpu":
        return numbers
    return numbers.pin_memory().to(device, non_blocking=True)
