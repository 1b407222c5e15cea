"""Files of weights are read safely or refused in one line; a training may start from one."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models import build_backbone
from tests import state_dicts
from tests.runs import SMOKE
from training import config, stages, weights
from training.distributed import Process
from training.errors import CheckpointError, ConfigError

ALONE = Process(0, 1, torch.device("cpu"))


def state_of(name: str, *, seed: int = 7) -> state_dicts.State:
    return state_dicts.drawn(build_backbone(name, width=2).state_dict(), seed)


def assert_loads(path: Path, name: str, state: state_dicts.State) -> None:
    backbone = build_backbone(name, width=2)
    weights.load(path, backbone)
    own = backbone.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in state.items())


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        weights.load(path, build_backbone("resnet18", width=2))
    assert "\n" not in str(error.value)
    return str(error.value)


# Reading


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.pth.tar"])
def test_both_kinds_of_files(name, tmp_path):
    state = state_of("resnet18")
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    assert_loads(path, "resnet18", state)


def test_a_file_of_an_old_torch(tmp_path):
    """MoCo's and VideoMoCo's are from before the zip format."""
    state = state_of("r3d_18")
    path = tmp_path / "old.pth.tar"
    content = state_dicts.videomoco(state, dim=16)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert_loads(path, "r3d_18", state)


def test_vclrs_file_with_its_command_line(tmp_path):
    state = state_of("resnet50")
    torch.save(state_dicts.vclr(state, dim=64), tmp_path / "current.pth")
    assert_loads(tmp_path / "current.pth", "resnet50", state)


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_a_best_accuracy_of_numpy(module, tmp_path):
    """As in CoCLR's files, by the name that numpy 2 has for it and by numpy 1's."""
    state = state_of("resnet18")
    path = tmp_path / "best.pth.tar"
    best = {"best_acc": np.float64(0.5), "mean": np.average(np.float32([1, 2]))}
    torch.save({"state_dict": state, **best}, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    assert written.count(b"numpy._core.multiarray") == 1
    path.write_bytes(written.replace(b"numpy._core.multiarray", module))
    assert_loads(path, "resnet18", state)


class Command:
    """What a hostile pickle is made of."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused(zipped, tmp_path):
    path, trace = tmp_path / "hostile.pth", tmp_path / "trace"
    content = {"state_dict": state_of("resnet18"), "extra": Command(f"touch {trace}")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    name = f"{os.system.__module__}.system"
    assert refused(path) == (
        f"error: refused: besides tensors the file holds {name}, and loading that could run code "
        f"· {path} · ask for the state dict alone"
    )
    assert not trace.exists()


def test_a_whole_network_is_refused(tmp_path):
    path = tmp_path / "network.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    assert "the file holds torch.nn.modules.linear.Linear, and" in refused(path)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.pth", b"", "error: not a file of torch.save, or a damaged one · {}"),
        ("a.pth", b"<html>" * 99, "error: not a file of torch.save, or a damaged one · {}"),
        ("a.pth", pickle.dumps({"a": 1}), "error: not a file of torch.save, or a damaged one · {}"),
        ("a.safetensors", b"<html>", "error: not a file of safetensors, or a damaged one · {}"),
        ("a.pth", None, "error: no such file of weights · {}"),
    ],
)
def test_what_is_no_file_of_weights(name, content, line, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert refused(path) == line.format(path)


@pytest.mark.parametrize("name", ["any.safetensors", "torchvision.pth"])
def test_exported_weights_of_another_eps_are_refused(name, tmp_path):
    state = state_of("s3d")
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    beside = path.with_name("config.json")
    beside.write_text(json.dumps({"backbone": {"name": "s3d", "norm_eps": 1e-5}}))
    with pytest.raises(CheckpointError, match=r"trained with eps 1e-05 and the backbone's have 0"):
        weights.load(path, build_backbone("s3d", width=2))
    weights.load(path, build_backbone("s3d", width=2, norm_eps=1e-5))
    beside.write_text(json.dumps({"backbone": {"name": "s3d", "norm_eps": 0.0}}))
    weights.load(path, build_backbone("s3d", width=2))


@pytest.mark.parametrize(("name", "content"), [
    ("a.safetensors", '{"architectures": ["S3D"]}'), ("a.safetensors", "no JSON"),
    ("another.pth", '{"backbone": {"norm_eps": 1e-5}}'),
])  # fmt: skip
def test_a_config_of_something_else_says_nothing(name, content, tmp_path):
    """Beside a file that tools.export did not write, or of a program that is not it."""
    state = state_of("s3d")
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    path.with_name("config.json").write_text(content)
    assert_loads(path, "s3d", state)


def test_a_cut_file(tmp_path):
    for name, save in (("a.safetensors", save_file), ("a.pth", torch.save)):
        path = tmp_path / name
        save(state_of("resnet18"), path)
        path.write_bytes(path.read_bytes()[:-100])
        assert f"or a damaged one · {path}" in refused(path)


def test_a_folder_and_a_list(tmp_path):
    assert refused(tmp_path) == f"error: a folder, expected a file of weights · {tmp_path}"
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(2)], path)
    assert refused(path) == (
        f"error: a list, expected a state dict · {path} · save the network's state_dict()"
    )


def test_what_does_not_fit_names_the_file(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"epoch": 3}, path)
    assert refused(path).startswith(f"error: the weights do not fit · {path} · no tensors in it, ")


# Starting a training from one


def first_stage(*overrides: str) -> list[stages.Stage]:
    recipe = config.load(SMOKE, ["backbone.width=2", *overrides])
    return stages.plan(recipe, videos=10)


def vclr_stage(*overrides: str) -> stages.Stage:
    """VCLR's recipe for tests on the network of the smoke recipe."""
    given = ["backbone.name=r3d_18", "backbone.width=2", "method.dim=8", "method.mlp=true"]
    recipe = config.load(SMOKE.with_name("vclr_small.yaml"), [*given, *overrides])
    return stages.plan(recipe, videos=100)[0]


def test_a_training_starts_from_the_file(tmp_path):
    path = tmp_path / "a.pth"
    state = state_of("r3d_18")
    torch.save(state_dicts.videomoco(state, dim=16), path)
    said: list[str] = []
    moco, adversarial = first_stage(f"backbone.weights={path}")
    method, _ = stages.build(moco, ALONE, say=said.append)
    for encoder in (method.query.backbone, method.key.backbone):
        own = encoder.state_dict()
        assert all(torch.equal(own[key], tensor) for key, tensor in state.items())
    assert said == [
        "backbone: 120 of 120 tensors from 'encoder_q.' (torchvision's names); left out: 2: "
        "fc.bias, fc.weight"
    ]
    path.unlink()
    # Of the second stage, and of a first one that goes on, a checkpoint has the weights.
    for stage, fresh in ((adversarial, True), (moco, False)):
        later, _ = stages.build(stage, ALONE, fresh=fresh, say=said.append)
        assert not torch.equal(later.query.backbone.stem[0].weight, state["stem.0.weight"])
    assert len(said) == 1


def test_all_other_first_weights_stay(tmp_path):
    """The head and the queue are drawn as without the file."""
    path = tmp_path / "a.pth"
    torch.save(state_of("r3d_18"), path)
    with_file, _ = stages.build(first_stage(f"backbone.weights={path}")[0], ALONE)
    without, _ = stages.build(first_stage()[0], ALONE)
    own = with_file.state_dict()
    for name, tensor in without.state_dict().items():
        same = torch.equal(tensor, own[name])
        assert same != (".backbone." in name), name


def test_heads_start_from_the_file_when_asked(tmp_path):
    path = tmp_path / "moco.pth"
    torch.save(state_dicts.moco_v2(state_of("r3d_18"), dim=16), path)
    given = [f"backbone.weights={path}", "backbone.head_weights=true"]
    said: list[str] = []
    method, _ = stages.build(vclr_stage(*given), ALONE, say=said.append)
    head = state_dicts.mlp(16, 1)
    for encoder in (method.query, method.key):
        assert len(encoder.heads) == 4
        for own in encoder.heads.values():
            assert all(torch.equal(own.state_dict()[key], tensor) for key, tensor in head.items())
    assert said[-1] == "heads: all start from the file's"


def test_heads_that_do_not_fit_name_the_key(tmp_path):
    path = tmp_path / "plain.pth"
    torch.save(state_of("r3d_18"), path)
    given = [f"backbone.weights={path}", "backbone.head_weights=true"]
    with pytest.raises(CheckpointError) as error:
        stages.build(vclr_stage(*given), ALONE)
    assert str(error.value) == (
        f"error: the heads cannot start from this file (backbone.head_weights) · {path} · no "
        "projection head in the file; looked for head, inter, fc, fc_inter"
    )
    with pytest.raises(ConfigError, match=r"backbone\.head_weights: from which file"):
        vclr_stage("backbone.head_weights=true")


@pytest.mark.parametrize("stored", ["r2plus1d_18", None])
def test_a_training_refuses_a_file_that_does_not_fit(stored, tmp_path):
    path = tmp_path / "a.pth"
    if stored:
        torch.save(state_of(stored), path)
    with pytest.raises(CheckpointError, match=f"^error: .* · {path}"):
        stages.build(first_stage(f"backbone.weights={path}")[0], ALONE)
