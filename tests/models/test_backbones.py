"""Every backbone: names, sizes and stages of the papers, and what all of them promise."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import nn

from models import build_backbone
from models.backbones import BACKBONES
from models.batchnorm import split_batch_norm
from tests import state_dicts

# torchvision's networks, whose names and shapes are in tests/fixtures. The fixtures are checked by
# torchvision's published counts, of tensors and parameters with the classifier, which comes last.
LINEAR_400 = {"fc.weight": (400, 512), "fc.bias": (400,)}
PUBLISHED = {
    "r3d_18": (122, 33_371_472, LINEAR_400),
    "mc3_18": (122, 11_695_440, LINEAR_400),
    "r2plus1d_18": (224, 31_505_325, LINEAR_400),
    "s3d": (
        464,
        8_320_048,
        {"classifier.1.weight": (400, 1024, 1, 1, 1), "classifier.1.bias": (400,)},
    ),
    "resnet18": (122, 11_689_512, {"fc.weight": (1000, 512), "fc.bias": (1000,)}),
    "resnet50": (320, 25_557_032, {"fc.weight": (1000, 2048), "fc.bias": (1000,)}),
}
# feature_dim / width
FEATURES = {
    "r3d_18": 8, "mc3_18": 8, "r2plus1d_18": 8, "s3d": 16, "resnet18": 8, "resnet50": 32,
    "slow_r50": 32, "slow_r101": 32, "slow_r152": 32,
}  # fmt: skip


def without_data(name: str, **options) -> nn.Module:
    """The backbone at full size, at no cost."""
    with torch.device("meta"):
        return build_backbone(name, **options)


def small_clip(name: str) -> torch.Tensor:
    """The smallest of even sides that leaves every stage something to see."""
    return torch.randn(2, 3, 8, 32, 32) if name == "s3d" else torch.randn(2, 3, 4, 16, 16)


# Names and sizes


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dict_is_torchvisions_without_classifier(name):
    expected = state_dicts.shapes(name)
    tensors, parameters, classifier = PUBLISHED[name]
    learnt = {k: s for k, s in expected.items() if not k.endswith(("_mean", "_var", "_tracked"))}
    assert (len(expected), sum(map(prod, learnt.values()))) == (tensors, parameters)
    state = {k: tuple(t.shape) for k, t in without_data(name).state_dict().items()}
    assert state | classifier == expected
    assert list(state) == [k for k in expected if k not in classifier]


# million parameters; CVRL's README for R3D-50. The others follow from the same table 1.
@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [("slow_r50", 64, 31.7), ("slow_r101", 64, 59.6), ("slow_r152", 64, 82.0),
     ("slow_r50", 128, 126.5), ("slow_r152", 128, 327.7), ("slow_r50", 256, 505.6)],
)  # fmt: skip
def test_parameters_of_the_slow_networks(name, width, millions):
    parameters = sum(p.numel() for p in without_data(name, width=width).parameters())
    assert round(parameters / 1e6, 1) == millions


def test_slow_r50_kernels_and_strides():
    """Table 1 of CVRL, column "network architecture"."""
    backbone = without_data("slow_r50")
    assert (backbone.conv1.kernel_size, backbone.conv1.stride) == ((5, 7, 7), (2, 2, 2))
    assert (backbone.maxpool.kernel_size, backbone.maxpool.stride) == ((1, 3, 3), (1, 2, 2))
    for number, (blocks, time) in enumerate([(3, 1), (4, 1), (6, 3), (3, 3)], start=1):
        stage = backbone.get_submodule(f"layer{number}")
        assert len(stage) == blocks
        for block in stage:
            kernels = [conv.kernel_size for conv in (block.conv1, block.conv2, block.conv3)]
            assert kernels == [(time, 1, 1), (1, 3, 3), (1, 1, 1)]
    strided = [
        (name, conv.stride)
        for name, conv in backbone.named_modules()
        if isinstance(conv, nn.Conv3d) and conv.stride != (1, 1, 1)
    ]
    inside = [f"layer{n}.0.{conv}" for n in (2, 3, 4) for conv in ("conv2", "downsample.0")]
    assert strided == [("conv1", (2, 2, 2)), *[(name, (1, 2, 2)) for name in inside]]


# Stages


# Input, then frames and side after the stem and after each of four stages: table 1 of Tran et al.,
# table 1 of CVRL, figure 5 of Xie et al. (layers up to 1a, 2c, 3c, 4f, 5c), table 1 of He et al.
TRAN = ((16, 112), [(16, 56), (16, 56), (8, 28), (4, 14), (2, 7)])
MIXED = ((16, 112), [(16, 56), (16, 56), (16, 28), (16, 14), (16, 7)])
CVRL = ((16, 224), [(8, 112), (8, 56), (8, 28), (8, 14), (8, 7)])
XIE = ((64, 224), [(32, 112), (32, 56), (32, 28), (16, 14), (8, 7)])
HE = ((3, 224), [(3, 112), (3, 56), (3, 28), (3, 14), (3, 7)])
EIGHTEEN, FIFTY = [64, 64, 128, 256, 512], [64, 256, 512, 1024, 2048]
STAGES = {
    "r3d_18": (*TRAN, EIGHTEEN), "r2plus1d_18": (*TRAN, EIGHTEEN), "mc3_18": (*MIXED, EIGHTEEN),
    "slow_r50": (*CVRL, FIFTY), "slow_r101": (*CVRL, FIFTY), "slow_r152": (*CVRL, FIFTY),
    "s3d": (*XIE, [64, 192, 480, 832, 1024]),
    "resnet18": (*HE, EIGHTEEN), "resnet50": (*HE, FIFTY),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_of_the_papers_tables(name):
    (frames, side), sizes, channels = STAGES[name]
    clip = torch.empty(2, 3, frames, side, side, device="meta")
    maps = without_data(name).stages(clip)
    expected = [(2, c, t, s, s) for c, (t, s) in zip(channels, sizes, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_feature_is_the_mean_of_the_last_stage(name):
    backbone = build_backbone(name, width=4).eval()
    clip = small_clip(name)
    expected = backbone.stages(clip)[-1].mean(dim=(2, 3, 4))
    torch.testing.assert_close(backbone(clip), expected)


# What all of them promise


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("width", [2, 12])
def test_feature_shape_and_gradient(name, width):
    backbone = build_backbone(name, width=width)
    feature = backbone(small_clip(name))
    assert feature.shape == (2, backbone.feature_dim) == (2, FEATURES[name] * width)
    feature.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("name", BACKBONES)
def test_memory_format_changes_no_value(name):
    backbone = build_backbone(name, width=4).eval()
    clip = small_clip(name)
    expected = backbone(clip)
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv3d):
            layer.to(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
    actual = backbone(clip.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_s3d_compiles_whole():
    """It alone looks at the clip's size on the way."""
    backbone = build_backbone("s3d", width=2).eval()
    clip = small_clip("s3d")
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(clip), backbone(clip))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_split_batch_norm_fits(name):
    """Blocks of the batch are whole clips, also where frames go through one by one."""
    backbone = build_backbone(name, width=2).double()
    clip = torch.cat([small_clip(name), 3 * small_clip(name)]).double()
    halves = torch.cat([backbone(half) for half in clip.chunk(2)])
    torch.testing.assert_close(split_batch_norm(backbone, 2)(clip), halves)


# First weights


def test_initialisation_is_kaiming_fan_out():
    backbone = build_backbone("r3d_18", width=16)
    weight = backbone.layer3[0].conv1[0].weight  # 64 out x 32 in x 27
    assert weight.std().item() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.02)
    assert abs(weight.mean().item()) < 1e-3
    picture = build_backbone("resnet18", width=16).layer4[0].conv2.weight  # 128 out x 128 in x 9
    assert picture.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


def test_initialisation_of_slow_has_variance_one_over_fan_in():
    weight = build_backbone("slow_r50", width=16).layer4[0].conv2.weight  # 128 out x 128 in x 9
    deviation = (1 / (128 * 9)) ** 0.5
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert weight.abs().max().item() <= 2 * deviation / 0.8796


@pytest.mark.parametrize("width", [64, 16])
def test_initialisation_of_s3d_has_one_deviation(width):
    backbone = build_backbone("s3d", width=width)
    for conv in (backbone.features[3][0][0], backbone.features[15].branch1[1][1][0]):
        assert conv.weight.std().item() == pytest.approx(0.01 * (64 / width) ** 0.5, rel=0.03)


@pytest.mark.parametrize("name", BACKBONES)
def test_no_signal_dies_on_the_way(name):
    """Untrained, two clips still differ at the end, also in a narrow network."""
    first, second = build_backbone(name, width=4)(small_clip(name))
    assert (first - second).abs().mean() > 0.1 * first.abs().mean() > 0


@pytest.mark.parametrize("name", BACKBONES)
def test_batch_norms_start_as_the_identity(name):
    norms = [m for m in build_backbone(name, width=2).modules() if hasattr(m, "running_var")]
    assert norms
    assert all(norm.weight.eq(1).all() and norm.bias.eq(0).all() for norm in norms)
    assert {norm.momentum for norm in norms} == {0.1}
    assert {norm.eps for norm in norms} == {1e-3 if name == "s3d" else 1e-5}


# Options and errors


def test_width_of_s3d_rounds_to_the_nearest():
    """96 x 12 / 64 = 18; 16 x 12 / 64 = 3; 144 x 12 / 64 = 27; 16 x 2 / 64 = 0.5 -> 1."""
    narrow = build_backbone("s3d", width=12)
    assert narrow.features[5].branch1[0][0].out_channels == 18
    assert narrow.features[5].branch2[0][0].out_channels == 3
    assert narrow.features[11].branch1[0][0].out_channels == 27
    assert build_backbone("s3d", width=2).features[5].branch2[0][0].out_channels == 1


def test_eps_of_the_batch_norms_can_be_set():
    norms = [
        m for m in build_backbone("s3d", width=2, norm_eps=1e-5).modules() if hasattr(m, "eps")
    ]
    assert len(norms) == 77 and {norm.eps for norm in norms} == {1e-5}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"width": 1},
            "backbone.width: 1 base channels are too few; take 2 or more",
        ),
        (
            {"norm_eps": -1e-5},
            "backbone.norm_eps: -1e-05 must be above 0, or 0 for the network's own",
        ),
        (
            {"norm_eps": float("nan")},
            "backbone.norm_eps: nan must be above 0, or 0 for the network's own",
        ),
    ],
)
def test_values_that_make_no_sense(options, line):
    with pytest.raises(ValueError) as error:
        build_backbone("r2plus1d_18", **options)
    assert str(error.value) == line


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(ValueError) as error:
        build_backbone("r3d18")
    assert str(error.value) == (
        "unknown backbone 'r3d18'; did you mean 'r3d_18'? known: mc3_18, r2plus1d_18, r3d_18, "
        "resnet18, resnet50, s3d, slow_r101, slow_r152, slow_r50"
    )


@pytest.mark.parametrize("shape", [(4, 17, 17), (5, 16, 17), (5, 17, 16)])
def test_s3d_refuses_clips_of_which_nothing_would_be_left(shape):
    backbone = build_backbone("s3d", width=2).eval()
    frames, height, width = shape
    for call in (backbone, backbone.stages):
        with pytest.raises(ValueError) as error:
            call(torch.zeros(1, 3, *shape))
        assert str(error.value) == (
            f"s3d: a clip of {frames} frames of {height} x {width} pixels is too small; take at "
            "least 5 frames (clip.frames) of 17 pixels (augment.size)"
        )
    assert backbone(torch.zeros(1, 3, 5, 17, 17)).shape == (1, 32)
