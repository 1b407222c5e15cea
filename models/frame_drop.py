"""Frames replaced by a constant, with a gradient for the scores that chose them.

Source: VideoMoCo (arXiv 2103.05905), section 3.2; the released code for the `official` rule.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# B clips, C channels, T frames, H height, W width

Content = Literal["mean", "zero", "noise"]
Estimator = Literal["ste", "official"]


def frames_to_drop(frames: int, fraction: float) -> int:
    """round(fraction * frames), at least 1; 8 of 32 at 0.25."""
    return max(1, round(fraction * frames))


def lowest(scores: Tensor, count: int) -> Tensor:
    """True at the `count` smallest of each row of scores [B, T]."""
    chosen = scores.topk(count, dim=1, largest=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)


def relaxed_lowest(scores: Tensor, count: int) -> Tensor:
    """How much each frame belongs to the `count` smallest, [B, T] in (0, 1).

        sigmoid(theta - log s_t)

    with theta midway between the count-th and the next smallest log s, taken as a constant. On
    the logarithm, because scores are a softmax of about 1/T each: differences of s itself vanish
    with T. A common factor of a clip's scores moves nothing, as in the hard choice. Needs
    count < T.
    """
    log_scores = scores.log()
    boundary = log_scores.detach().topk(count + 1, dim=1, largest=False, sorted=True).values
    theta = boundary[:, count - 1 :].mean(dim=1, keepdim=True)
    return torch.sigmoid(theta - log_scores)


class _Replace(torch.autograd.Function):
    """clip where not dropped, content where dropped; a gradient for `carrier` [B, T] only.

    With `towards_content` it is <g_t, content_t - clip_t>, the derivative of
    clip + m (content - clip) by m; without, sum(g_t), that of clip + m.
    """

    @staticmethod
    def forward(ctx, clip, content, dropped, carrier, towards_content):
        if towards_content:
            ctx.save_for_backward(clip, content)
        return torch.where(dropped[:, None, :, None, None], content, clip)

    @staticmethod
    def backward(ctx, gradient):
        if ctx.saved_tensors:
            clip, content = ctx.saved_tensors
            gradient = gradient * (content - clip)
        return None, None, None, gradient.sum(dim=(1, 3, 4)), None


def _content(clip: Tensor, content: Content) -> Tensor:
    if content == "noise":  # clips are normalised, so this has the pixels' mean and spread
        return torch.randn_like(clip)
    if content == "zero":
        return clip.new_zeros((clip.shape[0], 1, clip.shape[2], 1, 1))
    return clip.mean(dim=(1, 3, 4), keepdim=True)


def drop_frames(
    clip: Tensor,
    scores: Tensor,
    count: int,
    *,
    content: Content = "mean",
    estimator: Estimator = "ste",
) -> Tensor:
    """Replaces the `count` frames of smallest score in each clip; [B, C, T, H, W] in and out.

    content: the frame's mean over (C, H, W), zeros, or standard normal noise.
    No gradient goes to the clip. With g_t the gradient that arrives at frame t, scores get

        ste       <g_t, content_t - clip_t> d relaxed_lowest_t / d s_t     straight-through: the
                  choice is hard, its derivative that of `relaxed_lowest`
        official  sum(g_t), for dropped and kept frames alike, as if clip + s were the output

    The sign of a score has no meaning under `official`; it is there to reproduce published runs.
    """
    clip = clip.detach()
    dropped = lowest(scores.detach(), count)
    towards_content = estimator == "ste"
    carrier = relaxed_lowest(scores, count) if towards_content else scores
    return _Replace.apply(clip, _content(clip, content), dropped, carrier, towards_content)
