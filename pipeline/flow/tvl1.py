"""TV-L1 optical flow of all pairs of a batch at once, with a fixed number of iterations.

    E(u) = sum |grad u| + |grad v| + lambda |I1(x + u) - I0(x)|

is minimised from coarse to fine. At each scale I1 is warped several times by the flow so far, and
its difference to I0 made linear there; then a primal and a dual step take turns. No step asks
whether it has converged, so nothing waits for the device and a CUDA graph can hold all of it.

This file is the equations in plain torch, which run on any device, and what the kernels of
`tvl1_triton` share with them: on a GPU those take over the warps and the iterations.

Source: Zach, Pock, Bischof, DAGM 2007; Sanchez, Meinhardt-Llopis, Facciolo, IPOL 2013 (3), for the
discretisation; parameters as in OpenCV's implementation, which most published flow was made by.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.flow.config import Tvl1Config

# B clips of T frames, P = B (T - 1) pairs, h x w pixels at one scale

SMALLEST_SIDE = 16  # of a scale, pixels; the picture itself may be smaller
SMALLEST_GRADIENT = 1.19e-7  # squared; where it is less, the picture says nothing of the flow
# On a CPU: 8 pairs of 128 x 128 at once; fewer cost more for every step, more leave its caches.
CPU_PIXELS = 8 * 128 * 128


def tvl1(clip: Tensor, config: Tvl1Config) -> Tensor:
    """Flow [B, 2, T-1, H, W] float32 from every frame to the next, in pixels: right, down.

    clip: [B, T, H, W] luma in [0, 255], T at least 2. Runs on its device without waiting for it;
    on a GPU it takes 60 bytes for each pixel of each pair meanwhile.
    """
    b, t, h, w = clip.shape
    if implementation(clip) == "triton":
        kernels = import_module("pipeline.flow.tvl1_triton")
        with torch.cuda.device_of(clip):  # Triton launches on the current device
            flow = kernels.flow_of_pairs(pyramid(clip, config), config)
        return flow.view(b, t - 1, 2, h, w).transpose(1, 2).contiguous()
    return plain_tvl1(clip, config, threads=torch.get_num_threads())


def implementation(clip: Tensor) -> Literal["triton", "torch"]:
    """What `tvl1` runs for such a clip."""
    return "triton" if clip.is_cuda and has_kernels() else "torch"


@cache
def has_kernels() -> bool:
    """Whether a GPU would be used well. A CUDA build of torch brings Triton along."""
    return bool(find_spec("triton") and find_spec("pipeline.flow.tvl1_triton"))


def plain_tvl1(clip: Tensor, config: Tvl1Config, *, threads: int = 1) -> Tensor:
    """`tvl1` in plain torch, on any device; on a CPU by several threads."""
    b, t, h, w = clip.shape
    scales = pyramid(clip, config)
    pairs = b * (t - 1)
    first = torch.arange(b * t, device=clip.device).view(b, t)[:, :-1].flatten()
    flow = scales[0].new_empty(pairs, 2, h, w)

    def compute(part: slice) -> None:
        flow[part] = _flow_of_pairs(scales, first[part], config).permute(3, 0, 1, 2)

    at_once = pairs if clip.is_cuda else max(1, min(CPU_PIXELS // (h * w), -(-pairs // threads)))
    parts = [slice(start, min(start + at_once, pairs)) for start in range(0, pairs, at_once)]
    _each(compute, parts, threads=min(threads, len(parts)))
    return flow.view(b, t - 1, 2, h, w).transpose(1, 2).contiguous()


def _each(compute: Callable[[slice], None], parts: list[slice], *, threads: int) -> None:
    """Computes every part, by threads of which each does all the work of a part by itself.

    Torch's own threads meet after every one of ten thousand operations. Where other processes use
    the cores, too, that was ten times slower than one thread.
    """
    if threads == 1:
        for part in parts:
            compute(part)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(compute, parts))
    finally:
        torch.set_num_threads(before)  # the others have set it for threads yet to start


def pyramid(clip: Tensor, config: Tvl1Config) -> list[Tensor]:
    """The clip at every scale, finest first, each [B, T, h, w] float32."""
    scales = [clip.float()]
    for h, w in sizes(*clip.shape[-2:], config)[1:]:
        scales.append(F.interpolate(scales[-1], size=(h, w), mode="bilinear"))
    return scales


def sizes(height: int, width: int, config: Tvl1Config) -> list[tuple[int, int]]:
    """Height and width of every scale, finest first."""
    found = [(height, width)]
    while len(found) < config.scales:
        h, w = (round(side * config.scale_step) for side in found[-1])
        if min(h, w) < SMALLEST_SIDE:
            break
        found.append((h, w))
    return found


def gradients(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of both neighbours in x and in y, halved; at the border of one and the pixel."""
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    by_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    by_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return by_x, by_y


def enlarged(flow: Tensor, height: int, width: int) -> Tensor:
    """Flow [., 2, h, w] at another size, in pixels of that size."""
    h, w = flow.shape[-2:]
    larger = F.interpolate(flow, size=(height, width), mode="bilinear")
    larger[:, 0] *= width / w
    larger[:, 1] *= height / h
    return larger


# The pairs are the last dimension of everything below: a neighbour in x or y is then a slice
# without gaps between long rows, which is what a CPU reads fastest.


def _flow_of_pairs(scales: list[Tensor], first: Tensor, config: Tvl1Config) -> Tensor:
    """Flow [2, H, W, P] from each of the frames numbered `first`, [P], to the one behind it."""
    flow = None
    for frames in scales[::-1]:
        h, w = frames.shape[-2:]
        frames = frames.flatten(0, 1)
        still, moved = frames[first].permute(1, 2, 0).contiguous(), frames[first + 1]
        moved = torch.stack([moved, *gradients(moved)]).permute(0, 2, 3, 1).contiguous()
        if flow is None:
            flow = torch.zeros_like(moved[:2])
        else:
            flow = enlarged(flow.permute(3, 0, 1, 2), h, w).permute(1, 2, 3, 0).contiguous()
        dual_x, dual_y = torch.zeros_like(flow), torch.zeros_like(flow)
        for _ in range(config.warps):
            _iterate(flow, dual_x, dual_y, warped(moved, flow), still, config)
    return flow


def warped(pictures: Tensor, flow: Tensor) -> Tensor:
    """Pictures [C, h, w, P] at every pixel's place plus its flow [2, h, w, P], by cubic splines."""
    channels, h, w, pairs = pictures.shape
    device = pictures.device
    x = flow[0] + torch.arange(w, device=device)[:, None]
    y = flow[1] + torch.arange(h, device=device)[:, None, None]
    columns, across = _taps(x, w)
    rows, down = _taps(y, h)
    pair = torch.arange(pairs, device=device)
    flat = pictures.view(channels, -1)
    total = torch.zeros_like(pictures)
    for row, weight in zip(rows, down, strict=True):
        line = torch.zeros_like(pictures)
        for column, share in zip(columns, across, strict=True):
            at = ((row * w + column) * pairs + pair).flatten()
            line.addcmul_(flat.index_select(1, at).view_as(line), share)
        total.addcmul_(line, weight)
    return total


def _taps(place: Tensor, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Numbers of the four pixels around each place, the border's for those outside, and weights.

    Catmull-Rom's: the cubic convolution with a = -0.5.
    """
    # Farther out every pixel is the border's, and the number would not fit an integer for long.
    place = place.clamp(-2, size + 1)
    behind = place.floor()
    t = place - behind
    weights = [
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]
    first = behind.int() - 1
    return [(first + k).clamp(0, size - 1) for k in range(4)], weights


def _iterate(
    flow: Tensor, dual_x: Tensor, dual_y: Tensor, warped: Tensor, still: Tensor, config: Tvl1Config
) -> None:
    """Primal and dual steps in turn, in place.

    flow, dual_x, dual_y: [2, h, w, P]; the dual of u is (dual_x[0], dual_y[0]), of v the other.
    warped: [3, h, w, P] the second picture and its gradient; still: [h, w, P] the first.
    """
    threshold, theta = config.attachment * config.tightness, config.tightness
    step = config.time_step / config.tightness
    gradient = warped[1:]
    constant = warped[0] - still - (gradient * flow).sum(dim=0)
    # The published case distinction is a clamp of -rho / |grad|^2, for |grad|^2 > 0.
    inverse = gradient.square().sum(dim=0).clamp_(min=SMALLEST_GRADIENT).reciprocal_().neg_()
    data, one = torch.empty_like(constant), constant.new_ones(())
    by_x, by_y, length = torch.zeros_like(flow), torch.zeros_like(flow), torch.empty_like(flow)
    for _ in range(config.iterations):
        torch.addcmul(constant, gradient[0], flow[0], out=data).addcmul_(gradient[1], flow[1])
        data.mul_(inverse).clamp_(-threshold, threshold)
        flow.addcmul_(data, gradient)
        # theta div p, by backward differences; there is no dual before the first pixel
        flow.add_(dual_x, alpha=theta)[:, :, 1:].sub_(dual_x[:, :, :-1], alpha=theta)
        flow.add_(dual_y, alpha=theta)[:, 1:].sub_(dual_y[:, :-1], alpha=theta)
        # Forward differences, 0 at the last pixel.
        by_x[:, :, :-1].copy_(flow[:, :, 1:]).sub_(flow[:, :, :-1])
        by_y[:, :-1].copy_(flow[:, 1:]).sub_(flow[:, :-1])
        torch.mul(by_x, by_x, out=length).addcmul_(by_y, by_y).sqrt_()
        torch.add(one, length, alpha=step, out=length)
        dual_x.add_(by_x, alpha=step).div_(length)
        dual_y.add_(by_y, alpha=step).div_(length)
