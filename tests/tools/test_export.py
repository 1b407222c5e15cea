"""Exported weights are the checkpoint's, bit for bit, in every format; the card tells no lies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import evaluate
from models import build_backbone
from models.backbones import BACKBONES
from models.weights import load_backbone
from pipeline.checksum import sha256
from tests import runs, state_dicts
from tests.runs import SMOKE
from tools.export.__main__ import formats_of, main
from training import checkpoint, config, features, stages, weights
from training.distributed import Process
from training.protocols.inputs import load_source

ALONE = Process(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[..., Path]:
    """Makes the checkpoint of a run of the smoke recipe, or another, with weights and statistics of
    its own; the same one for the same arguments. flow: the operator that it was trained on.
    untrained: a stream that no step has trained.
    """

    @cache
    def make(
        *overrides: str, number: int = 0, recipe: Path = SMOKE, flow: str = "", untrained: str = ""
    ) -> Path:
        given = [
            "backbone.width=2",
            "data.train=/private/of/ucf.parquet",
            "online.manifest=/private/of/val.parquet",
            "run.dir=/private/of/run",
        ]
        recipe = config.load(recipe, [*given, *overrides])
        stage = stages.plan(recipe, videos=10)[number]
        method, optimizer = stages.build(stage, ALONE)
        method.load_state_dict(state_dicts.drawn(method.state_dict(), seed=5))
        if untrained:
            method.streams[untrained].steps.zero_()
        state = checkpoint.Checkpoint(
            step=6,
            stage=stage.name,
            method=method.state_dict(),
            optimizer=optimizer.state_dict(),
            config=recipe.plain(),
            classes=["a", "b"],
            data_fingerprint="f" * 64,
            versions={"git": "abc123", "torch": "2.13.0", "command": "train.py /private/of/x.yaml"},
            flow={"operator": flow, "encoding": recipe.flow.encoding} if flow else {},
        )
        return checkpoint.save(tmp_path_factory.mktemp("checkpoints"), state, keep=2)

    return make


def trained_backbone(path: Path, *, prefix: str = "query.backbone.", **options) -> torch.nn.Module:
    """What the checkpoint at `path` has for an encoder, by its names alone."""
    backbone = build_backbone(width=2, **options)
    states = torch.load(path, weights_only=True)["method"]
    own = {k.removeprefix(prefix): t for k, t in states.items() if k.startswith(prefix)}
    backbone.load_state_dict(own)
    return backbone.eval()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


ALL = {"README.md", "config.json", "model.safetensors"}
NETWORKS = {
    "r3d_18": {"torchvision.pth"}, "s3d": {"torchvision.pth"}, "slow_r50": {"mmaction2.pth"},
    "resnet18": {"torchvision.pth", "mmaction2.pth"},
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_round_trip_keeps_every_bit(name, tmp_path, capsys, saved):
    path = saved(f"backbone.name={name}")
    out = tmp_path / "out"
    assert main([str(path), "-o", str(out)]) == 0
    assert files(out) == ALL | NETWORKS[name]
    trained = trained_backbone(path, name=name)
    clip = torch.randn(2, 3, 8, 32, 32)
    for file in sorted({"model.safetensors", *NETWORKS[name]}):
        backbone = build_backbone(name, width=2).eval()
        loaded = weights.load(out / file, backbone)
        assert not loaded.missing and not loaded.unexpected
        own = backbone.state_dict()
        for key, tensor in trained.state_dict().items():
            other = own[key]
            assert tensor.dtype == other.dtype and torch.equal(tensor, other), key
        assert torch.equal(backbone(clip), trained(clip))
    assert capsys.readouterr().out.startswith(f"{len(trained.state_dict())} tensors of {name} ")


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_its_formats(name):
    """Whose tensors have names in torchvision, and whose in mmaction2."""
    expected = ["kinema"]
    expected += [] if name.startswith("slow") else ["torchvision"]
    expected += ["mmaction2"] if name.startswith(("slow", "resnet")) else []
    assert formats_of(name, None) == expected


def test_names_are_those_that_the_readers_look_for(tmp_path, saved):
    path = saved("backbone.name=resnet18")
    assert main([str(path), "-o", str(tmp_path / "out")]) == 0
    ours = list(build_backbone("resnet18", width=2).state_dict())
    assert sorted(load_file(tmp_path / "out" / "model.safetensors")) == sorted(ours)
    assert list(torch.load(tmp_path / "out" / "torchvision.pth", weights_only=True)) == ours
    theirs = torch.load(tmp_path / "out" / "mmaction2.pth", weights_only=True)["state_dict"]
    assert list(theirs) == list(state_dicts.shapes("mmaction2_resnet18"))


@pytest.mark.parametrize("form", ["kinema", "torchvision", "mmaction2"])
def test_one_format_alone(form, tmp_path, saved):
    path = saved("backbone.name=resnet18")
    assert main([str(path), "-o", str(tmp_path / "out"), "--format", form]) == 0
    one = {"kinema": "model.safetensors"}.get(form, f"{form}.pth")
    assert files(tmp_path / "out") == {"README.md", "config.json", one}
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.findall(r"^## (\S+)$", card, re.MULTILINE) == [one]


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path, saved):
    path = saved("backbone.name=resnet18")
    for out in ("a", "b"):
        assert main([str(path), "-o", str(tmp_path / out)]) == 0
    assert len(files(tmp_path / "a")) == 5
    for name in files(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# What goes with the weights


def test_config_and_card(tmp_path, saved):
    """Of the stage that was trained last, and nothing of the machine that trained it."""
    path = saved("optim.lr=0.25", "optim.scale_lr=true", number=1)
    out = tmp_path / "out"
    assert main([str(path), "-o", str(out)]) == 0
    facts = json.loads((out / "config.json").read_text())
    assert facts["backbone"] == {"name": "r3d_18", "width": 2, "norm_eps": 0.0}
    assert (facts["stage"], facts["steps"], facts["method"]) == ("adversarial", 6, "videomoco")
    assert facts["peak_lr"] == 0.25 * facts["recipe"]["data"]["batch_size"] / 256
    assert facts["checkpoint_sha256"] == sha256(path)
    assert facts["recipe"]["method"]["generator"] == "adversarial"
    assert (facts["stream"], facts["flow"]) == ("rgb", {})
    card = (out / "README.md").read_text()
    for fact in ("f" * 64, facts["checkpoint_sha256"], "videomoco, stage 'adversarial'",
                 f"learning rate {facts['peak_lr']:g}", "Kinema abc123, torch 2.13.0",
                 "ucf.parquet", "`[B, 16]`"):  # fmt: skip
        assert fact in card
    for text in (card, (out / "config.json").read_text()):
        assert "/private/" not in text


def test_the_cards_code_runs(tmp_path, monkeypatch, capsys, saved):
    path = saved("backbone.name=s3d", "backbone.norm_eps=1e-4")
    assert main([str(path), "-o", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    code = re.search(r"## model.safetensors\n\n```python\n(.*?)```", card, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path / "out")
    scope: dict = {}
    exec(code, scope)
    assert "462 of 462 tensors (torchvision's names)" in capsys.readouterr().out
    trained = trained_backbone(path, name="s3d", norm_eps=1e-4)
    clip = torch.randn(2, 3, 8, 32, 32)
    assert torch.equal(scope["backbone"].eval()(clip), trained(clip))


@pytest.mark.parametrize("name", ["r3d_18", "resnet18", "s3d"])
def test_the_cards_code_for_torchvision_runs(name, tmp_path, monkeypatch, saved):
    """With a torchvision whose networks take no arguments: those of video have none for the eps."""
    path = saved(f"backbone.name={name}", "backbone.norm_eps=1e-4")
    assert main([str(path), "-o", str(tmp_path / "out"), "--format", "torchvision"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    code = re.search(r"## torchvision.pth\n\n```python\n(.*?)```", card, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path / "out")
    networks = SimpleNamespace(**{name: lambda: build_backbone(name, width=2)})
    theirs = networks if name == "resnet18" else SimpleNamespace(video=networks)
    scope = {"torch": torch, "torchvision": SimpleNamespace(models=theirs)}
    exec(code, scope)
    clip = torch.randn(2, 3, 8, 32, 32)
    trained = trained_backbone(path, name=name, norm_eps=1e-4)
    assert torch.equal(scope["network"].eval()(clip), trained(clip))


@pytest.mark.parametrize(("name", "norm"), [("slow_r50", "BN3d"), ("resnet18", "BN2d")])
def test_the_card_tells_mmaction2_of_another_eps(name, norm, tmp_path, saved):
    path = saved(f"backbone.name={name}", "backbone.norm_eps=1e-4")
    assert main([str(path), "-o", str(tmp_path / "out"), "--format", "mmaction2"]) == 0
    expected = f"pretrained=None, norm_cfg=dict(type='{norm}', requires_grad=True, eps=0.0001))"
    assert expected in (tmp_path / "out" / "README.md").read_text()


# Of two streams

U_V = "u (to the right) and v (down)"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], f"`[B, 3, T, H, W]` of optical flow by tvl1 from each of T + 1 frames to the next: "
             f"{U_V} in pixels, and zeros"),
        (["flow.encoding=image"], "to the next as a picture: channels u, v, 128, where -20 to 20 "
         f"pixels of {U_V} are 0 to 255; over 255, less [0.485, 0.456, 0.406], over [0.229, "),
        (["flow.encoding=image", "flow.official=true"], "as a picture: channels 128, v, u, where"),
    ],
)  # fmt: skip
def test_an_encoder_of_flow_says_so(options, says, tmp_path, saved):
    path = saved("method.stream=flow", *options, recipe=runs.tiny_recipe("vicc"), flow="tvl1")
    out = tmp_path / "out"
    assert main([str(path), "-o", str(out)]) == 0
    facts = json.loads((out / "config.json").read_text())
    encoding = "image" if options else "raw"
    assert facts["stream"] == "flow"
    assert facts["flow"] == {"operator": "tvl1", "encoding": encoding}
    card = (out / "README.md").read_text()
    assert says in card and "An encoder of optical flow pretrained" in card and "RGB" not in card
    # Where it is measured, `auto` may come to another operator: the trained one is asked for.
    source = load_source(str(out / "model.safetensors"), None, [])
    assert features.flow_of(source.recipe).operator == "tvl1"
    backbone = build_backbone("r3d_18", width=2)
    weights.load(out / "model.safetensors", backbone)
    trained = trained_backbone(path, prefix="streams.flow.backbone.", name="r3d_18").state_dict()
    assert all(torch.equal(trained[name], t) for name, t in backbone.state_dict().items())


def test_the_other_stream_on_request(tmp_path, saved):
    path = saved("method.stream=flow", recipe=runs.tiny_recipe("vicc"), flow="tvl1")
    out = tmp_path / "out"
    assert main([str(path), "-o", str(out), "--stream", "rgb"]) == 0
    facts = json.loads((out / "config.json").read_text())
    assert (facts["stream"], facts["flow"]) == ("rgb", {})
    assert facts["recipe"]["flow"]["operator"] == "tvl1"  # to go on by
    card = (out / "README.md").read_text()
    assert "of RGB in [0, 1]" in card and "An encoder of pictures pretrained" in card
    state = load_file(out / "model.safetensors")
    trained = trained_backbone(path, prefix="streams.rgb.backbone.", name="r3d_18").state_dict()
    assert all(torch.equal(trained[name], tensor) for name, tensor in state.items())


def test_a_stream_that_nothing_has_trained(tmp_path, capsys, saved):
    path = saved(recipe=runs.tiny_recipe("vicc"), untrained="flow")
    line = refused(capsys, path, "-o", tmp_path / "out", "--stream", "flow", code=2)
    assert line == (
        "error: --stream flow: no stage has trained it up to step 6 · take the other one, or a "
        "later checkpoint"
    )
    line = refused(capsys, saved(), "-o", tmp_path / "out", "--stream", "flow", code=2)
    assert line.startswith(
        "error: --stream chooses one of ViCC's two, this is a checkpoint of videomoco"
    )


def test_the_card_says_where_a_narrow_network_does_not_fit(tmp_path, saved):
    path = saved("backbone.name=resnet18")
    assert main([str(path), "-o", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "its own resnet18 has width 64 and not 2" in card
    assert "mmaction2's ResNet has width 64, these weights 2" in card
    assert "dict(type='ResNet', depth=18, pretrained=None)" in card


def test_the_card_of_slow_builds_mmaction2s_network(tmp_path, saved):
    path = saved("backbone.name=slow_r50")
    assert main([str(path), "-o", str(tmp_path / "out")]) == 0
    assert (
        "type='ResNet3dSlowOnly', depth=50, base_channels=2, conv1_kernel=(5, 7, 7), "
        "conv1_stride_t=2, pool1_stride_t=1, inflate=(0, 0, 1, 1), pretrained=None"
    ) in (tmp_path / "out" / "README.md").read_text()


# Evaluation takes them


def features_of(source: Path, data: Path, folder: Path, *more: str) -> np.ndarray:
    command = ["retrieval", "--checkpoint", source, "--train", data, "--test", data]
    command += ["--allow-overlap"]
    assert evaluate.main([str(arg) for arg in [*command, "-o", folder, "--clips", 1, *more]]) == 0
    with np.load(folder / "features_test.npz") as stored:
        found = stored["feature"]
    assert np.ptp(found, axis=0).max() > 1e-4  # else any weights would give the same
    return found


def test_evaluation_of_weights_whose_views_differ(tiny_data, tmp_path, saved):
    """The numbers of views are keys, which JSON makes text."""
    path = saved("augment.views.1.blur=0.1")
    out = tmp_path / "out"
    assert main([str(path), "-o", str(out)]) == 0
    plain = weights.recipe_beside(out / "model.safetensors")
    assert config.of_checkpoint(plain, "", []).augment.views == {1: {"blur": 0.1}}
    features_of(out / "model.safetensors", tiny_data, tmp_path / "a")


def test_evaluation_of_exported_and_published_weights(tiny_data, tmp_path, capsys, saved):
    """All files of one network give the features of its checkpoint."""
    path = saved()
    out = tmp_path / "out"
    assert main([str(path), "-o", str(out)]) == 0
    expected = features_of(path, tiny_data, tmp_path / "a")
    assert np.array_equal(
        features_of(out / "model.safetensors", tiny_data, tmp_path / "b"), expected
    )
    published = tmp_path / "videomoco.pth.tar"
    state = load_file(out / "model.safetensors")
    torch.save(state_dicts.videomoco(state, dim=16), published)
    for number, file in enumerate((published, out / "torchvision.pth", path)):
        capsys.readouterr()
        actual = features_of(
            file, tiny_data, tmp_path / str(number), "--recipe", str(SMOKE), "backbone.width=2"
        )
        assert np.array_equal(actual, expected)
        assert f"{file}: 120 of 120 tensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "recipe", "line"),
    [
        ("a.safetensors", False,
         "error: no config.json of tools.export beside the weights · {} · name their network and "
         "clip with --recipe"),
        ("a.safetensors", True, "error: no such file of weights · {}"),
        ("a.pth", False, "error: no such checkpoint · {} · No such file or directory"),
    ],
)  # fmt: skip
def test_evaluation_refuses(name, recipe, line, tiny_data, tmp_path, capsys):
    command = ["retrieval", "--checkpoint", tmp_path / name, "--train", tiny_data]
    command += ["--test", tiny_data, "-o", tmp_path / "out"]
    command += ["--recipe", SMOKE] if recipe else []
    assert evaluate.main([str(arg) for arg in command]) == 4
    assert capsys.readouterr().err == line.format(tmp_path / name) + "\n"


def test_evaluation_says_how_weights_of_others_are_read(tiny_data, tmp_path, capsys):
    path = tmp_path / "moco.pth"
    torch.save(build_backbone("resnet18", width=2).state_dict(), path)
    command = ["retrieval", "--checkpoint", path, "--train", tiny_data, "--test", tiny_data]
    assert evaluate.main([str(arg) for arg in [*command, "-o", tmp_path / "out"]]) == 4
    assert capsys.readouterr().err == (
        f"error: not a checkpoint of this program's format 2 · {path} · weights of others go into "
        "a training by backbone.weights, into evaluate.py with --recipe\n"
    )


# Errors


def refused(capsys, *args: object, code: int) -> str:
    assert main([str(arg) for arg in args]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("backbone", "form", "others"),
    [("slow_r50", "torchvision", "kinema or mmaction2"),
     ("r3d_18", "mmaction2", "kinema or torchvision")],
)  # fmt: skip
def test_a_format_that_does_not_exist(backbone, form, others, tmp_path, capsys, saved):
    path = saved(f"backbone.name={backbone}")
    line = refused(capsys, path, "-o", tmp_path / "out", "--format", form, code=2)
    assert line == f"error: --format {form}: {form} has no {backbone} · take {others}"
    assert not (tmp_path / "out").exists()


def test_no_checkpoint(tmp_path, capsys):
    path = tmp_path / "a.pt"
    line = refused(capsys, path, "-o", tmp_path / "out", code=4)
    assert line == f"error: no such checkpoint · {path} · No such file or directory"
    torch.save({"weight": torch.zeros(1)}, path)
    line = refused(capsys, path, "-o", tmp_path / "out", code=4)
    assert line.startswith(f"error: not a checkpoint of this program's format 2 · {path} · ")


def test_a_folder_that_cannot_be_made(tmp_path, capsys, saved):
    path = saved()
    (tmp_path / "file").touch()
    line = refused(capsys, path, "-o", tmp_path / "file" / "out", code=2)
    assert line == (
        f"error: cannot write the weights · {tmp_path / 'file' / 'out'} · Not a directory · choose "
        "another folder with -o"
    )


def test_a_failed_export_leaves_no_half_file(tmp_path, capsys, monkeypatch, saved):
    def full(content, file) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    path = saved()
    monkeypatch.setattr(torch, "save", full)
    line = refused(capsys, path, "-o", tmp_path / "out", code=2)
    assert "No space left on device" in line
    assert files(tmp_path / "out") == {"model.safetensors"}
    assert load_backbone(
        build_backbone("r3d_18", width=2), load_file(tmp_path / "out" / "model.safetensors")
    ).loaded
