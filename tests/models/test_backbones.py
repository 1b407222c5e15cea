from math import prod
from pathlib import Path

import pytest
import torch

from models import build_backbone
from models.backbones import BACKBONES

FIXTURES = Path(__file__).parents[1] / "fixtures"

# torchvision's counts with its classifier of 400 classes: tensors, parameters
PUBLISHED = {
    "r3d_18": (122, 33_371_472),
    "mc3_18": (122, 11_695_440),
    "r2plus1d_18": (224, 31_505_325),
}


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Lines `name 64x3x3x7x7` of torchvision's state dict."""
    rows = (line.split() for line in (FIXTURES / f"{name}.txt").read_text().splitlines())
    return {
        key: () if shape == "scalar" else tuple(int(side) for side in shape.split("x"))
        for key, shape in rows
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dict_is_torchvisions_without_classifier(name):
    expected = published_shapes(name)
    tensors, parameters = PUBLISHED[name]
    learnt = {k: s for k, s in expected.items() if not k.endswith(("_mean", "_var", "_tracked"))}
    assert (len(expected), sum(map(prod, learnt.values()))) == (tensors, parameters)
    classifier = {"fc.weight": (400, 512), "fc.bias": (400,)}
    state = {k: tuple(t.shape) for k, t in build_backbone(name).state_dict().items()}
    assert state | classifier == expected
    assert list(state) == [k for k in expected if k not in classifier]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("width", [4, 12])
def test_feature_shape_and_gradient(name, width):
    backbone = build_backbone(name, width=width)
    feature = backbone(torch.randn(2, 3, 4, 16, 16))
    assert feature.shape == (2, backbone.feature_dim) == (2, 8 * width)
    feature.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


# table 1 of the paper, a clip of 8 x 32 x 32: stem, then stages 1 to 4
HALVING = [(8, 16, 16), (8, 16, 16), (4, 8, 8), (2, 4, 4), (1, 2, 2)]
SPACE_ONLY = [(8, 16, 16), (8, 16, 16), (8, 8, 8), (8, 4, 4), (8, 2, 2)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_stage_shapes(name):
    stages = build_backbone(name, width=4).stages(torch.randn(1, 3, 8, 32, 32))
    sizes = SPACE_ONLY if name == "mc3_18" else HALVING
    assert [tuple(m.shape[2:]) for m in stages] == sizes
    assert [m.shape[1] for m in stages] == [4, 4, 8, 16, 32]


def test_feature_is_the_mean_of_the_last_stage():
    backbone = build_backbone("r2plus1d_18", width=4).eval()
    clip = torch.randn(2, 3, 4, 16, 16)
    expected = backbone.stages(clip)[-1].mean(dim=(2, 3, 4))
    torch.testing.assert_close(backbone(clip), expected)


def test_initialisation_is_kaiming_fan_out():
    backbone = build_backbone("r3d_18", width=16)
    weight = backbone.layer3[0].conv1[0].weight  # 64 out x 32 in x 27
    assert weight.std().item() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.02)
    assert abs(weight.mean().item()) < 1e-3
    norm = backbone.layer3[0].conv1[1]
    assert norm.weight.eq(1).all() and norm.bias.eq(0).all()


def test_memory_format_changes_no_value():
    backbone = build_backbone("r2plus1d_18", width=4).eval()
    clip = torch.randn(2, 3, 4, 16, 16)
    expected = backbone(clip)
    backbone = backbone.to(memory_format=torch.channels_last_3d)
    actual = backbone(clip.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(ValueError) as error:
        build_backbone("r3d18")
    assert str(error.value) == (
        "unknown backbone 'r3d18'; did you mean 'r3d_18'? known: mc3_18, r2plus1d_18, r3d_18"
    )


def test_too_narrow_is_refused():
    with pytest.raises(ValueError, match="backbone width: 1 base channels are too few; take 2 or"):
        build_backbone("r2plus1d_18", width=1)
