"""What the backbones compute, against the layers of their papers applied one by one in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import build_backbone

State = dict[str, Tensor]


def trained(name: str, clips: Tensor) -> torch.nn.Module:
    """A backbone in float64 and eval mode with the statistics of `clips`, no batch norm of which is
    the identity.
    """
    backbone = build_backbone(name, width=4).double()
    for layer in backbone.modules():
        if hasattr(layer, "running_var"):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias)
            layer.momentum = 1.0
    backbone(clips)
    return backbone.eval()


def norm(state: State, name: str, x: Tensor, *, eps: float = 1e-5) -> Tensor:
    """gamma (x - mean) / sqrt(var + eps) + beta, by channel."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    gamma, beta, mean, var = (
        state[f"{name}.{part}"].view(shape)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return gamma * (x - mean) / torch.sqrt(var + eps) + beta


# CVRL, table 1


def slow_bottleneck(state: State, name: str, x: Tensor, *, stride: int, time: int) -> Tensor:
    y = F.conv3d(x, state[f"{name}.conv1.weight"], padding=(time // 2, 0, 0))
    y = norm(state, f"{name}.bn1", y).clamp(min=0)
    y = F.conv3d(y, state[f"{name}.conv2.weight"], stride=(1, stride, stride), padding=(0, 1, 1))
    y = norm(state, f"{name}.bn2", y).clamp(min=0)
    y = norm(state, f"{name}.bn3", F.conv3d(y, state[f"{name}.conv3.weight"]))
    if f"{name}.downsample.0.weight" in state:
        x = F.conv3d(x, state[f"{name}.downsample.0.weight"], stride=(1, stride, stride))
        x = norm(state, f"{name}.downsample.1", x)
    return (x + y).clamp(min=0)


def slow(state: State, clip: Tensor) -> Tensor:
    x = F.conv3d(clip, state["conv1.weight"], stride=2, padding=(2, 3, 3))
    x = norm(state, "bn1", x).clamp(min=0)
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage, (blocks, time) in enumerate([(3, 1), (4, 1), (6, 3), (3, 3)], start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            x = slow_bottleneck(state, f"layer{stage}.{block}", x, stride=stride, time=time)
    return x.mean(dim=(2, 3, 4))


# He et al., tables 1, on one picture


def picture_block(state: State, name: str, x: Tensor, *, stride: int) -> Tensor:
    deep = f"{name}.conv3.weight" in state
    strides = (1, stride, 1) if deep else (stride, 1)
    y = x
    for number, s in enumerate(strides, start=1):
        weight = state[f"{name}.conv{number}.weight"]
        y = F.conv2d(y, weight, stride=s, padding=weight.shape[-1] // 2)
        y = norm(state, f"{name}.bn{number}", y)
        if number < len(strides):
            y = y.clamp(min=0)
    if f"{name}.downsample.0.weight" in state:
        x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = norm(state, f"{name}.downsample.1", x)
    return (x + y).clamp(min=0)


def resnet(state: State, picture: Tensor, blocks: tuple[int, ...]) -> Tensor:
    x = F.conv2d(picture, state["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(norm(state, "bn1", x).clamp(min=0), 3, 2, 1)
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            x = picture_block(state, f"layer{stage}.{block}", x, stride=stride)
    return x.mean(dim=(2, 3))


# Xie et al., figures 4 and 5


def unit(state: State, name: str, x: Tensor, **options) -> Tensor:
    x = F.conv3d(x, state[f"{name}.0.weight"], **options)
    return norm(state, f"{name}.1", x, eps=1e-3).clamp(min=0)


def separable(state: State, name: str, x: Tensor, *, side: int, stride: int = 1) -> Tensor:
    pad = side // 2
    x = unit(state, f"{name}.0", x, stride=(1, stride, stride), padding=(0, pad, pad))
    return unit(state, f"{name}.1", x, stride=(stride, 1, 1), padding=(pad, 0, 0))


def mixed(state: State, name: str, x: Tensor) -> Tensor:
    branches = [unit(state, f"{name}.branch0", x)]
    for branch in (f"{name}.branch1", f"{name}.branch2"):
        squeezed = unit(state, f"{branch}.0", x)
        branches.append(separable(state, f"{branch}.1", squeezed, side=3))
    branches.append(unit(state, f"{name}.branch3.1", F.max_pool3d(x, 3, 1, 1)))
    return torch.cat(branches, dim=1)


def s3d(state: State, clip: Tensor) -> Tensor:
    x = separable(state, "features.0", clip, side=7, stride=2)
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    x = separable(state, "features.3", unit(state, "features.2", x), side=3)
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for number in (5, 6):
        x = mixed(state, f"features.{number}", x)
    x = F.max_pool3d(x, 3, 2, 1)
    for number in (8, 9, 10, 11, 12):
        x = mixed(state, f"features.{number}", x)
    x = F.max_pool3d(x, 2, 2)
    for number in (14, 15):
        x = mixed(state, f"features.{number}", x)
    return x.mean(dim=(2, 3, 4))


def clips(frames: int) -> Tensor:
    return torch.randn(2, 3, frames, 37, 45, dtype=torch.float64)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """To float64's precision, and of features that tell the two clips apart."""
    torch.testing.assert_close(actual, expected)
    first, second = expected
    assert (first - second).abs().mean() > 0.01 * first.abs().mean()


def test_slow_is_its_table():
    backbone = trained("slow_r50", clips(5))
    clip = clips(5)
    assert_same(backbone(clip), slow(backbone.state_dict(), clip))


def test_s3d_is_its_figure():
    backbone = trained("s3d", clips(9))
    clip = clips(9)
    assert_same(backbone(clip), s3d(backbone.state_dict(), clip))


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet18", (2, 2, 2, 2)), ("resnet50", (3, 4, 6, 3))]
)
def test_a_picture_network_sees_frame_by_frame(name, blocks):
    backbone = trained(name, clips(3))
    clip = clips(3)
    state = backbone.state_dict()
    frames = torch.stack([resnet(state, clip[:, :, t], blocks) for t in range(3)], dim=1)
    assert_same(backbone.frame_features(clip), frames)
    assert_same(backbone(clip), frames.mean(dim=1))
