import pytest
import torch

from models import build_backbone
from training.errors import ConfigError
from training.protocols import layer

# Modules whose output is the feature map of a stage, where they have other names than the stages.
S3D = {"stem": "features.0", "layer1": "features.3", "layer2": "features.6",
       "layer3": "features.12", "layer4": "features.15"}  # fmt: skip
NETWORKS = ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "slow_r50", "resnet18", "resnet50"]


def maps_of(encoder: torch.nn.Module, clip: torch.Tensor, names: dict[str, str]) -> dict:
    """What the named modules give while the clip goes through."""
    found = {}
    for stage, module in names.items():
        encoder.get_submodule(module).register_forward_hook(
            lambda module, given, out, stage=stage: found.update({stage: out.clone()})
        )
    found["end"] = encoder(clip)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_a_stage_are_the_mean_of_its_feature_map(name):
    torch.manual_seed(0)
    encoder = build_backbone(name, width=4).eval()
    clip = torch.randn(2, 3, 8, 32, 32)
    has_stem = hasattr(encoder, "stem")  # elsewhere a stage is no module of its own
    names = S3D if name == "s3d" else {s: s for s in layer.STAGES[0 if has_stem else 1 :]}
    with torch.no_grad():
        expected = maps_of(encoder, clip, names)
        for stage in names:
            own = expected[stage]
            frames = own.unflatten(0, (2, -1)).transpose(1, 2) if own.ndim == 4 else own
            at = layer.at_stage(encoder, stage)
            torch.testing.assert_close(at(clip), frames.mean((2, 3, 4)))
            assert at.feature_dim == frames.shape[1]
        torch.testing.assert_close(layer.at_stage(encoder, "layer4")(clip), expected["end"])
    assert layer.at_stage(encoder, "") is encoder


def test_a_stage_that_is_none():
    with pytest.raises(ConfigError) as refused:
        layer.check("layer5")
    assert str(refused.value) == (
        "error: eval.layer: no stage 'layer5' · expected one of stem, layer1, layer2, layer3, "
        "layer4, or nothing for the feature that the network ends with"
    )
