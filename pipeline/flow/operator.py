"""The choice among the flow operators, and what all of them refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pipeline.flow import dis, nvof, tvl1
from pipeline.flow.config import FlowConfig

# B clips of T frames, H x W pixels

Operator = Callable[[Tensor], Tensor]


def choose_operator(asked: str, device: str) -> tuple[str, str]:
    """Name of the operator for clips on a device, and the reason in words.

    Raises ValueError for one that cannot work here.
    """
    on_gpu = torch.device(device).type == "cuda"
    if asked == "auto":
        name, why = _automatic(on_gpu)
    else:
        _require(asked, device)
        name, why = asked, "asked for"
    if name == "tvl1" and on_gpu and not tvl1.has_kernels():
        why += "; slowly, in plain torch, as Triton is not installed"
    return name, why


def _automatic(on_gpu: bool) -> tuple[str, str]:
    if on_gpu:
        return "tvl1", "the clips are on a GPU; its flow engine, nvof, is used only when asked for"
    return "dis", "no GPU here, and TV-L1 would take a CPU hundreds of times longer"


def _require(name: str, device: str) -> None:
    if name not in ("nvof", "tvl1", "dis"):
        raise ValueError(f"flow.operator: expected auto, nvof, tvl1 or dis, got {name!r}")
    if name == "nvof" and (lacking := nvof.lacking(device)):
        raise ValueError(f"flow.operator: nvof needs {lacking}; use tvl1 or auto")
    if name == "dis" and torch.device(device).type == "cuda":
        raise ValueError(
            f"flow.operator: dis computes on the CPU and clips are on {device}; "
            "use tvl1, nvof or auto"
        )


def build_operator(name: str, config: FlowConfig, *, device: str, threads: int = 1) -> Operator:
    """The operator of a name from `choose_operator`: a clip [B, T, H, W] uint8 on the device to
    its flow [B, 2, T-1, H, W] float32 in pixels, right and down.

    threads: for dis. The operator raises ValueError for a clip of another type, of fewer than two
    frames or without pixels, and for one that is too small for it.
    """
    if name == "tvl1":
        compute = partial(tvl1.tvl1, config=config.tvl1)
    elif name == "nvof":
        compute = nvof.Nvof(config.nvof, device)
    else:
        compute = dis.Dis(config.dis, threads=threads)

    def flow(clip: Tensor) -> Tensor:
        check_clip(clip)
        if not len(clip):
            _, t, h, w = clip.shape
            return torch.empty(0, 2, t - 1, h, w, device=clip.device)
        return compute(clip)

    return flow


def check_clip(clip: Tensor) -> None:
    """Raise ValueError unless this is luma that has a flow."""
    if clip.ndim != 4 or clip.dtype != torch.uint8:
        form = f"{list(clip.shape)} {str(clip.dtype).removeprefix('torch.')}"
        raise ValueError(f"flow: expected luma [B, T, H, W] uint8, got {form}")
    if clip.shape[1] < 2:
        raise ValueError(
            f"flow: clip {list(clip.shape)} has fewer than two frames, so no flow; "
            "clip.frames must be 2 or more"
        )
    if not clip.shape[2] * clip.shape[3]:
        raise ValueError(f"flow: clip {list(clip.shape)} has no pixels")
