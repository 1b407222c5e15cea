"""Weights find their places whoever saved them, and say so; what does not fit is refused."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import build_backbone, build_method
from models.backbones import BACKBONES
from models.heads import projection_head
from models.layouts import from_mmaction2, to_mmaction2
from models.weights import head_state, load_backbone
from tests import state_dicts
from tests.state_dicts import State, drawn, under


def backbone_and_state(name: str, *, width: int = 2, **options) -> tuple[nn.Module, State]:
    """A backbone, and the state dict of another of its kind."""
    backbone = build_backbone(name, width=width, **options)
    return backbone, drawn(backbone.state_dict(), seed=7)


def assert_has(backbone: nn.Module, state: State) -> None:
    own = backbone.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())


def refused(backbone: nn.Module, content: dict) -> str:
    """The reason, after nothing was loaded."""
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_backbone(backbone, content)
    assert_has(backbone, before)
    return str(error.value)


# Whoever saved them


@pytest.mark.parametrize("name", BACKBONES)
def test_a_plain_state_dict(name):
    backbone, state = backbone_and_state(name)
    loaded = load_backbone(backbone, state)
    assert_has(backbone, state)
    assert str(loaded) == f"{len(state)} of {len(state)} tensors (torchvision's names)"


PREFIXES = ("module.", "_orig_mod.", "encoder_q.", "backbone.")


@pytest.mark.parametrize("prefixes", list(permutations(PREFIXES, 3)), ids="".join)
def test_prefixes_in_any_order(prefixes):
    backbone, state = backbone_and_state("resnet18")
    load_backbone(backbone, under("".join(prefixes), state))
    assert_has(backbone, state)


def test_the_state_dict_of_wrapped_modules():
    """As they come from torch.compile and from a wrapper, inside and outside of each other."""
    backbone, state = backbone_and_state("r3d_18")
    trained = build_backbone("r3d_18", width=2)
    trained.load_state_dict(state)
    trained.layer2 = torch.compile(trained.layer2, backend="eager")
    holder = nn.ModuleDict({"module": torch.compile(trained, backend="eager")})
    assert "module._orig_mod.layer2._orig_mod.0.conv1.0.weight" in holder.state_dict()
    load_backbone(backbone, holder.state_dict())
    assert_has(backbone, state)


@pytest.mark.parametrize("name", ["r3d_18", "s3d", "resnet50"])
def test_torchvisions_file_with_its_classifier(name):
    """Names and shapes of the published file, at its size."""
    backbone = build_backbone(name)
    state = {
        key: torch.zeros(shape) if shape else torch.tensor(5)
        for key, shape in state_dicts.shapes(name).items()
    }
    loaded = load_backbone(backbone, state)
    assert len(loaded.loaded) == len(backbone.state_dict()) and not loaded.missing
    classifier = "classifier.1" if name == "s3d" else "fc"
    assert loaded.unexpected == (f"{classifier}.bias", f"{classifier}.weight")
    assert not any(tensor.any() for tensor in backbone.parameters())


def test_moco_v2():
    backbone, state = backbone_and_state("resnet50")
    content = state_dicts.moco_v2(state, dim=64)
    loaded = load_backbone(backbone, content)
    assert_has(backbone, state)
    assert str(loaded) == (
        "318 of 318 tensors from 'encoder_q.' (torchvision's names); "
        "left out: 4: fc.0.bias, fc.0.weight, fc.2.bias, fc.2.weight"
    )


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18"])
def test_videomoco(name):
    backbone, state = backbone_and_state(name)
    loaded = load_backbone(backbone, state_dicts.videomoco(state, dim=16))
    assert_has(backbone, state)
    assert loaded.unexpected == ("fc.bias", "fc.weight")


def test_vclr():
    backbone, state = backbone_and_state("resnet50")
    loaded = load_backbone(backbone, state_dicts.vclr(state, dim=64))
    assert_has(backbone, state)
    assert len(loaded.unexpected) == 4 * 4 + 2


def test_a_run_of_this_program():
    backbone, state = backbone_and_state("r3d_18")
    trained = build_backbone("r3d_18", width=2)
    trained.load_state_dict(state)
    method = build_method("videomoco", trained, frames=4, size=16, queue_size=16, dim=8)
    for parameter in method.key.parameters():
        parameter.zero_()
    loaded = load_backbone(backbone, {"step": 3, "method": method.state_dict(), "config": {}})
    assert_has(backbone, state)
    assert loaded.prefix == "query.backbone."


def coclr_s3d(state: State, clip: Tensor, *, training: bool = False) -> Tensor:
    """The network of backbone/s3dg.py by the names that its file has, layer by layer.

    training: puts the clips' statistics into the state.
    """

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, gamma, beta = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, gamma, beta, training, 1.0, 1e-5).relu()

    def plain(x: Tensor, name: str) -> Tensor:
        return norm(F.conv3d(x, state[f"{name}.conv.weight"]), f"{name}.bn")

    def spacetime(x: Tensor, name: str, stride: int = 1) -> Tensor:
        space, time = state[f"{name}.conv1.weight"], state[f"{name}.conv2.weight"]
        pad = space.shape[-1] // 2
        x = F.conv3d(x, space, stride=(1, stride, stride), padding=(0, pad, pad))
        x = F.conv3d(norm(x, f"{name}.bn1"), time, stride=(stride, 1, 1), padding=(pad, 0, 0))
        return norm(x, f"{name}.bn2")

    def inception(x: Tensor, name: str) -> Tensor:
        def separable(branch: str) -> Tensor:
            return spacetime(plain(x, f"{name}.{branch}.0"), f"{name}.{branch}.1")

        pooled = plain(F.max_pool3d(x, 3, 1, 1), f"{name}.branch3.1")
        first = plain(x, f"{name}.branch0.0")
        return torch.cat([first, separable("branch1"), separable("branch2"), pooled], dim=1)

    x = F.max_pool3d(spacetime(clip, "Conv_1a", 2), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    x = spacetime(plain(x, "Conv_2b"), "Conv_2c")
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    x = inception(inception(x, "Mixed_3b"), "Mixed_3c")
    x = F.max_pool3d(x, 3, 2, 1)
    for block in "bcdef":
        x = inception(x, f"Mixed_4{block}")
    x = F.max_pool3d(x, 2, 2)
    return inception(inception(x, "Mixed_5b"), "Mixed_5c").mean(dim=(2, 3, 4))


def coclr_state() -> State:
    """All names of its S3D, those that it has twice with the same tensor."""
    state: State = {}
    twice = {"block1.0": "Conv_1a", "block2.1": "Conv_2b", "block2.2": "Conv_2c",
             "block3.1": "Mixed_3b", "block3.2": "Mixed_3c", "block4.1": "Mixed_4b",
             "block4.2": "Mixed_4c", "block4.3": "Mixed_4d", "block4.4": "Mixed_4e",
             "block4.5": "Mixed_4f", "block5.1": "Mixed_5b", "block5.2": "Mixed_5c"}  # fmt: skip
    for name, shape in state_dicts.shapes("coclr_s3d").items():
        block = ".".join(name.split(".")[:2])
        if block in twice:
            state[name] = state[name.replace(block, twice[block])]
        elif name.endswith("tracked"):
            state[name] = torch.tensor(3)
        elif len(shape) == 5:
            # As ViCC draws its convolutions, which leaves its variances near the eps.
            state[name] = 0.01 * torch.randn(shape)
        else:
            state[name] = torch.rand(shape) + 0.5
    coclr_s3d(state, torch.randn(4, 3, 9, 33, 33), training=True)
    return state


@pytest.mark.parametrize("cross", [False, True])
def test_vicc_gives_the_features_of_its_own_code(cross):
    backbone = build_backbone("s3d", norm_eps=1e-5).eval()
    state = coclr_state()
    loaded = load_backbone(backbone, state_dicts.vicc(state, dim=1024, cross=cross))
    assert str(loaded) == "462 of 462 tensors from 'encoder_q.0.' (CoCLR's names)"
    clip = torch.randn(1, 3, 9, 33, 33)
    expected = coclr_s3d(state, clip)
    torch.testing.assert_close(backbone(clip), expected, rtol=1e-4, atol=1e-5)
    load_backbone(backbone, {**state, "Mixed_5c.branch2.1.bn2.bias": torch.zeros(128)})
    assert not torch.allclose(backbone(clip), expected, rtol=1e-2)


def test_vicc_into_a_network_of_another_eps_is_refused():
    """The features would differ, and nothing would say so."""
    backbone = build_backbone("s3d")
    assert refused(backbone, coclr_state()) == (
        "its batch norms were trained with eps 1e-05 and the backbone's have 0.001, which gives "
        "other features; set backbone.norm_eps=1e-05"
    )


ANOTHER_EPS = (
    "its batch norms were trained with eps {} and the backbone's have {}, which gives other "
    "features; set backbone.norm_eps={}"
)


def test_a_checkpoint_of_another_eps_is_refused():
    """The eps of a run is in its checkpoint, 0 for the network's own, as it is in its recipe."""
    own, other = build_backbone("s3d", width=2), build_backbone("s3d", width=2, norm_eps=1e-5)
    state = drawn(own.state_dict(), seed=7)
    for eps, fits, refuses in ((1e-5, other, own), (0.0, own, other)):
        content = {"method": under("query.backbone.", state),
                   "config": {"backbone": {"name": "s3d", "norm_eps": eps}}}  # fmt: skip
        load_backbone(fits, content)
        assert_has(fits, state)
        line = refused(refuses, content)
        said = (("1e-05", "0.001"), ("0.001", "1e-05"))[eps == 0]
        assert line == ANOTHER_EPS.format(*said, said[0])


@pytest.mark.parametrize(("name", "eps"), [("s3d", 1e-3), ("r3d_18", 1e-5), ("resnet18", 1e-5)])
def test_weights_that_do_not_say_their_eps_leave_a_doubt(name, eps):
    """A published file, or one's own of an S3D with torch's eps: nobody can tell."""
    backbone, state = backbone_and_state(name, norm_eps=1e-4)
    loaded = load_backbone(backbone, state)
    assert_has(backbone, state)
    doubt = (
        "it does not say with what eps its batch norms were trained: the backbone's have 0.0001, "
        f"those of published ones {eps:g}, and another gives other features"
    )
    assert loaded.doubt == doubt and str(loaded).endswith(f"; {doubt}")
    assert not load_backbone(backbone, state, norm_eps=1e-4).doubt
    assert not load_backbone(*backbone_and_state(name)).doubt
    with pytest.raises(ValueError, match="were trained with eps"):
        load_backbone(backbone, state, norm_eps=0.0)  # the network's own, as its file says


@pytest.mark.parametrize("name", ["resnet18", "slow_r50"])
def test_mmaction2(name):
    with torch.device("meta"):
        state = build_backbone(name).state_dict()
    renamed = {to_mmaction2(key): tuple(tensor.shape) for key, tensor in state.items()}
    theirs = state_dicts.shapes(f"mmaction2_{name}")
    assert list(renamed.items()) == list(theirs.items())
    assert [from_mmaction2(key) for key in theirs] == [f"backbone.{key}" for key in state]
    backbone, values = backbone_and_state(name)
    content = {"meta": {}, "state_dict": {to_mmaction2(key): t for key, t in values.items()}}
    content["state_dict"]["cls_head.fc_cls.weight"] = torch.zeros(400, 64)
    loaded = load_backbone(backbone, content)
    assert_has(backbone, values)
    assert (loaded.layout, loaded.prefix, loaded.unexpected) == ("mmaction2", "backbone.", ())


@pytest.mark.parametrize("stage, stream", [("first", "flow"), ("second", "rgb"), ("", "rgb")])
def test_of_two_streams_the_one_that_the_stage_trained(stage, stream):
    backbone = build_backbone("r3d_18", width=2)
    method = build_method("vicc", build_backbone("r3d_18", width=2), frames=4, size=16, dim=8)
    method.load_state_dict(drawn(method.state_dict(), seed=7))
    content = {
        "method": method.state_dict(),
        "stage": stage,
        "config": {
            "method": {"stream": "rgb"},
            "run": {"stages": {"first": {"method": {"stream": "flow"}}, "second": None}},
        },
    }
    loaded = load_backbone(backbone, content)
    prefix = f"streams.{stream}."
    assert loaded.prefix == f"{prefix}backbone."
    trained = method.streams[stream]
    assert_has(backbone, trained.backbone.state_dict())
    head = projection_head(16, 8, mlp=True)
    head.load_state_dict(head_state(content))
    assert_has(head, trained.head.state_dict())


# Heads


def test_heads_fit_the_ones_here():
    _, state = backbone_and_state("resnet18")
    head = projection_head(16, 8, mlp=True)
    for content, seed in (
        (state_dicts.moco_v2(state, dim=16), 1),
        (state_dicts.vclr(state, dim=16), 10),
    ):
        head.load_state_dict(head_state(content))
        assert_has(head, state_dicts.mlp(16, seed))
    linear = projection_head(16, 8)
    linear.load_state_dict(head_state(state_dicts.videomoco(state, dim=16)))
    assert linear.weight.eq(0.25).all()


def test_the_head_of_a_run_of_this_program():
    trained = build_backbone("r3d_18", width=2)
    method = build_method("videomoco", trained, frames=4, size=16, queue_size=16, dim=8, mlp=True)
    for parameter in method.key.parameters():
        parameter.zero_()
    head = projection_head(16, 8, mlp=True)
    head.load_state_dict(head_state({"method": method.state_dict()}))
    assert_has(head, method.query.head.state_dict())


def test_vicc_s_head_of_convolutions_is_a_linear_one():
    state = {"Conv_1a.conv1.weight": torch.zeros(1)}  # its other tensors do not matter here
    head = projection_head(16, 8, mlp=True)
    head.load_state_dict(head_state(state_dicts.vicc(state, dim=16, cross=True)))
    expected = state_dicts.vicc_head("encoder_q", 16, 1)
    feature = torch.randn(3, 16)
    hidden = F.conv3d(feature[:, :, None, None, None], expected["encoder_q.2.weight"])
    hidden = (hidden + expected["encoder_q.2.bias"].view(-1, 1, 1, 1)).relu()
    output = F.conv3d(hidden, expected["encoder_q.4.weight"]).flatten(1)
    torch.testing.assert_close(head(feature), output + expected["encoder_q.4.bias"])


def test_no_head():
    _, state = backbone_and_state("resnet18")
    with pytest.raises(ValueError) as error:
        head_state(state)
    assert str(error.value) == (
        "no projection head in the file; looked for head, inter, fc, fc_inter"
    )


# What does not fit


def test_missing_buffers_keep_their_values_and_are_named():
    """Torch before 0.4.1 did not count the batches of a batch norm."""
    backbone, state = backbone_and_state("resnet18")
    part = {name: tensor for name, tensor in state.items() if not name.endswith("tracked")}
    loaded = load_backbone(backbone, part)
    assert str(loaded) == (
        "100 of 120 tensors (torchvision's names); missing, as they were before: 20: "
        "bn1.num_batches_tracked, layer1.0.bn1.num_batches_tracked, "
        "layer1.0.bn2.num_batches_tracked, layer1.1.bn1.num_batches_tracked ..."
    )
    own = backbone.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in part.items())
    assert own["bn1.num_batches_tracked"] == 0


def test_a_missing_weight():
    backbone, state = backbone_and_state("resnet18")
    del state["layer4.1.conv2.weight"]
    assert refused(backbone, state) == (
        "of the backbone's 60 weights the file lacks layer4.1.conv2.weight: another network "
        "(backbone.name)"
    )


def test_nothing_fits():
    state = under("visual.", build_backbone("resnet18", width=2).state_dict())
    assert refused(build_backbone("s3d", width=2), state) == (
        "none of the backbone's 462 tensors is in the file: its first is 'features.0.0.0.weight', "
        "the nearest there 'visual.bn1.weight'; another network (backbone.name)?"
    )


@pytest.mark.parametrize(
    ("backbone", "file"),
    [("r3d_18", "r2plus1d_18"), ("mc3_18", "r3d_18"), ("resnet50", "resnet18"),
     ("slow_r50", "resnet50"), ("s3d", "slow_r50"), ("slow_r50", "slow_r101"),
     ("r3d_18", "resnet18"), ("slow_r101", "slow_r50")],
)  # fmt: skip
def test_another_backbones_weights_are_refused(backbone, file):
    _, state = backbone_and_state(file)
    assert "another network (backbone.name)" in refused(build_backbone(backbone, width=2), state)


def test_another_width():
    _, state = backbone_and_state("resnet18", width=4)
    assert refused(build_backbone("resnet18", width=2), state) == (
        "conv1.weight is 4 x 3 x 7 x 7 in the file and 2 x 3 x 7 x 7 in the backbone: another "
        "network (backbone.name) or width (backbone.width)"
    )


def test_a_deeper_network():
    """All that the shallow one has would fit."""
    _, state = backbone_and_state("slow_r101")
    assert refused(build_backbone("slow_r50", width=2), state) == (
        "the backbone has no place for 306: layer3.10.bn1.bias, layer3.10.bn1.num_batches_tracked, "
        "layer3.10.bn1.running_mean, layer3.10.bn1.running_var ...: another network (backbone.name)"
    )


def test_a_shallower_network():
    """All that it has would fit, and the rest would stay random."""
    _, state = backbone_and_state("slow_r50")
    assert refused(build_backbone("slow_r101", width=2), state) == (
        "of the backbone's 312 weights the file lacks 153: layer3.6.conv1.weight, "
        "layer3.6.bn1.weight, layer3.6.bn1.bias, layer3.6.conv2.weight ...: another network "
        "(backbone.name)"
    )


def test_two_backbones_in_one_file():
    backbone, state = backbone_and_state("resnet18")
    both = under("rgb.", state) | under("flow.", state)
    assert refused(backbone, both) == (
        "the backbone stands in several places of the file: 2: 'rgb', 'flow'; keep one of them"
    )


def test_a_slow_twin_alone_is_taken():
    backbone, state = backbone_and_state("resnet18")
    assert load_backbone(backbone, under("encoder_k.", state)).prefix == "encoder_k."
    assert_has(backbone, state)


@pytest.mark.parametrize("content", [{}, {"epoch": 3, "args": "x"}, {"state_dict": {"epoch": 3}}])
def test_no_tensors(content):
    names = {"epoch, args": "2: args, epoch", "state_dict": "epoch", "": "nothing"}
    assert refused(build_backbone("resnet18", width=2), content) == (
        "no tensors in it, neither at the top nor under state_dict, model, method; found "
        + names[", ".join(content)]
    )
