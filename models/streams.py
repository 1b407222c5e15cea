"""Flow as the input of a network that takes pictures."""

from __future__ import annotations

import torch
from torch import Tensor


def three_channels(clip: Tensor) -> Tensor:
    """Flow [B, 2, T, H, W] with a channel of zeros behind it; a clip of 3 channels as it is.

    So every backbone takes flow as it is, the third slice of its first filters alone learns
    nothing. Raises ValueError for any other number of channels.
    """
    channels = clip.shape[1]
    if channels == 3:
        return clip
    if channels != 2:
        raise ValueError(
            f"a network takes pictures of 3 channels or flow of 2, got {channels}: "
            f"{list(clip.shape)}"
        )
    return torch.cat([clip, torch.zeros_like(clip[:, :1])], dim=1)
