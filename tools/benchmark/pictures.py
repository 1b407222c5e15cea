"""The augmentation of a clip as users write it: by kornia, and by hand with OpenCV."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.augment import AugmentConfig, Draw

# T frames, H x W pixels


def kornia_views(clips: list[np.ndarray], augments: tuple[AugmentConfig, ...]) -> list[Tensor]:
    """Clips [T, H, W, 3] uint8 -> views [3, T, size, size], by VideoSequential on floats."""
    views = []
    for number, clip in enumerate(clips):
        pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 255
        with torch.inference_mode():
            views.append(_sequential(_key(augments[number]))(pixels)[0])
    return views


def _key(config: AugmentConfig) -> tuple:
    """What `_sequential` is made of: hashable, as a dataclass with lists is not."""
    return (
        config.size, tuple(config.scale), tuple(config.ratio), config.flip, config.jitter,
        (config.brightness, config.contrast, config.saturation, config.hue), config.grayscale,
        config.blur, tuple(config.blur_sigma), config.solarize, tuple(config.mean),
        tuple(config.std),
    )  # fmt: skip


@cache
def _sequential(key: tuple) -> nn.Module:
    from kornia import augmentation as K

    (size, scale, ratio, flip, jitter, strengths, grey, blur, sigma, solarize, mean, std) = key
    window = 2 * math.ceil(3 * sigma[1]) - 1  # kornia has one for all strengths
    steps = [
        K.RandomResizedCrop((size, size), scale=scale, ratio=ratio),
        K.RandomHorizontalFlip(p=flip),
        K.ColorJitter(*strengths, p=jitter),
        K.RandomGrayscale(p=grey),
        K.RandomGaussianBlur((window, window), sigma, p=blur),
        K.Normalize(torch.tensor(mean), torch.tensor(std)),
    ]
    if solarize:
        steps.insert(-1, K.RandomSolarize(0.0, 0.0, p=solarize))
    return K.VideoSequential(*steps, data_format="BCTHW", same_on_frame=True)


def opencv_view(clip: np.ndarray, draw: Draw, config: AugmentConfig) -> Tensor:
    """A clip [T, H, W, 3] uint8 -> its view [3, T, size, size], on bytes until the last step."""
    import cv2

    cv2.setNumThreads(1)  # each worker is one
    height, width = clip.shape[1:3]
    scale = np.array([height, width, height, width])
    top, left, bottom, right = np.rint(np.array(draw.roi) * scale).astype(int)
    region = clip[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    how = cv2.INTER_AREA if min(region.shape[1:3]) > config.size else cv2.INTER_LINEAR
    side = (config.size, config.size)
    small = np.stack([cv2.resize(frame, side, interpolation=how) for frame in region])
    colored = cv2.transform(small.reshape(-1, config.size, 3), draw.color).reshape(small.shape)
    if draw.blur_sigma > 0:
        window = (2 * math.ceil(3 * draw.blur_sigma) + 1,) * 2
        colored = np.stack([cv2.GaussianBlur(f, window, draw.blur_sigma) for f in colored])
    if draw.solarize_from < 256:
        colored = np.where(colored >= draw.solarize_from, 255 - colored, colored)
    if draw.flip:
        colored = colored[:, :, ::-1]
    mean, std = (255 * np.array(v, np.float32) for v in (config.mean, config.std))
    return torch.from_numpy(np.ascontiguousarray(((colored - mean) / std).transpose(3, 0, 1, 2)))
