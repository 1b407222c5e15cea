"""What flows from the pipeline to the models."""

# B clips, C channels, T frames, H height, W width

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """views: each [B, C, T, H, W] float; flow: likewise or None; label, index: [B] int64.

    flow is of the views that the loader was asked the flow of, in that order: of every frame to the
    next one in the video, [B, 2, T, H, W] pixels right and down, or [B, 3, T, H, W] as an image.
    `index` is the video's row in the manifest, `label` its class or -1. start_frames: [B, V] int64,
    the number in its video of the first frame of each of the V views of a sample, in order; also
    of those that this process leaves to another. Raises ValueError naming the field that has
    another shape or type.
    """

    views: tuple[Tensor, ...]
    label: Tensor
    index: Tensor
    flow: tuple[Tensor, ...] | None = None
    start_frames: Tensor | None = None

    def __post_init__(self) -> None:
        size = len(self.index)
        for name in ("label", "index"):
            field = getattr(self, name)
            if field.shape != (size,) or field.dtype != torch.int64:
                raise ValueError(f"batch.{name}: expected [{size}] int64, got {_form(field)}")
        for name in ("views", "flow"):
            for number, view in enumerate(getattr(self, name) or ()):
                if view.ndim != 5 or view.shape[0] != size or not view.is_floating_point():
                    raise ValueError(
                        f"batch.{name}[{number}]: expected [{size}, C, T, H, W] float, "
                        f"got {_form(view)}"
                    )
        if (starts := self.start_frames) is not None:
            form = (size, len(self.views))
            if starts.shape != form or starts.dtype != torch.int64:
                raise ValueError(
                    f"batch.start_frames: expected {list(form)} int64, got {_form(starts)}"
                )

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        views = ", ".join(_form(view) for view in self.views)
        return f"Batch(views=({views}), flow={self.flow and len(self.flow)}, size={len(self)})"


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
