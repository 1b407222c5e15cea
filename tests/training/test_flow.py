"""Optical flow in a run: who is given it, what a checkpoint says of it, what an encoder takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import train
from models import Objective, ViewNeeds
from pipeline import DataError, FlowConfig, Manifest, Place
from tests import runs
from tests.conftest import make_moving_data
from tests.training.test_stages import ALONE, schedule, state_of
from training import checkpoint, dry_run, features, stages
from training.config import Recipe
from training.distributed import Process
from training.errors import CheckpointError
from training.resume import StageState, flow_of_run
from training.runlog import RunFolder

SMALL = ("augment.size=32", "data.batch_size=2")


@dataclass
class Options:
    name: str = "flowing"
    stream: str = "flow"


class Flowing(nn.Module):
    """A method that takes the flow of one of its two views."""

    def __init__(self, flow: tuple[int, ...] = (1,)):
        super().__init__()
        self.views, self.scale = ViewNeeds(2, flow=flow), nn.Parameter(torch.ones(()))

    def forward(self, views, flow, index, start_frames):
        loss = sum((self.scale * clip).square().mean() for clip in flow)
        return [Objective(loss, [self.scale])], {"loss": loss.detach()}


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("moving")
    return make_moving_data(folder, [(2, 0), (-2, 1), (0, 2)], size=(64, 64))


def first_stage(*overrides: str) -> stages.Stage:
    return schedule(*SMALL, *overrides)[0]


def loader_of(moving: Path, method: Flowing, *overrides: str, say=lambda line: None):
    manifest = Manifest.read(moving)
    return stages.training_loader(first_stage(*overrides), manifest, method, ALONE, say=say)


# What a method is given


def test_a_method_is_given_the_flow_it_asks_for(moving):
    said: list[str] = []
    batch = next(loader_of(moving, Flowing((1, 0)), say=said.append).batches(0, 1))
    assert [flow.shape for flow in batch.flow] == [(2, 2, 4, 32, 32)] * 2
    why = "no GPU here, and TV-L1 would take a CPU hundreds of times longer"
    assert said == [f"flow: dis ({why}), encoding raw"]


def test_a_method_that_asks_for_none_is_given_none(moving):
    said: list[str] = []
    loader = loader_of(moving, Flowing(()), "flow.operator=nvof", say=said.append)
    assert next(loader.batches(0, 1)).flow is None and loader.flow is None and not said


def test_the_recipe_says_how(moving):
    overrides = "flow.operator=tvl1", "flow.encoding=image", "flow.tvl1.iterations=2"
    batch = next(loader_of(moving, Flowing(), *overrides).batches(0, 1))
    assert [flow.shape for flow in batch.flow] == [(2, 3, 4, 32, 32)]


def test_segments_need_room_for_one_frame_more(moving):
    segments = "clip.sampling=segments", "clip.segments=2", "clip.frames=3", "clip.stride=2"
    method = Flowing()
    method.views = replace(method.views, number=5)
    said: list[str] = []
    with pytest.raises(DataError, match="shorter than the 16 frames that 2 segments for clips of"):
        loader_of(moving, method, *segments)  # 2 x (7 + 1) of 12
    method.views = replace(method.views, flow=())
    loader_of(moving, method, *segments, say=said.append)  # 2 x (5 + 1)
    assert not said


def test_clips_need_room_for_one_frame_more(moving):
    """All three videos have 12 frames, the clip 5 x 2 + 1 = 11."""
    said: list[str] = []
    loader_of(moving, Flowing(()), "clip.frames=6", say=said.append)
    assert not said
    loader_of(moving, Flowing(), "clip.frames=6", say=said.append)
    assert said[0] == (
        "3 of 3 videos are shorter than the 13 frames of a clip and loop (clip.frames, clip.stride)"
    )


def test_a_dry_run_reads_the_flow(moving, monkeypatch):
    stage = first_stage()
    monkeypatch.setattr(dry_run, "first_method", lambda *_, **__: Flowing())
    batch = next(loader_of(moving, Flowing()).batches(0, 1))
    lines = dry_run.describe(stage, Flowing(), batch, Process(0, 1, torch.device("cpu")))
    assert "flow of view 1: [2, 2, 4, 32, 32]" in lines
    assert lines[-1].startswith("memory about ")


# What a checkpoint says of it


def made_by(operator: str, encoding: str = "raw") -> SimpleNamespace:
    return SimpleNamespace(
        flow=SimpleNamespace(made_with={"operator": operator, "encoding": encoding})
    )


WITHOUT = SimpleNamespace(flow=None)


def state_with(**flow: str) -> SimpleNamespace:
    return SimpleNamespace(flow=flow)


def test_the_flow_of_a_run_is_that_of_all_its_stages():
    tvl1 = {"operator": "tvl1", "encoding": "raw"}
    assert flow_of_run(None, WITHOUT) == {}
    assert flow_of_run(None, made_by("tvl1")) == tvl1
    assert flow_of_run(state_with(), made_by("tvl1")) == tvl1
    assert flow_of_run(state_with(**tvl1), WITHOUT) == tvl1
    assert flow_of_run(state_with(**tvl1), made_by("tvl1")) == tvl1


@pytest.mark.parametrize(
    "now, message",
    [
        (
            made_by("dis"),
            "error: the run's flow is of flow.operator tvl1, here it would be of dis · set "
            "flow.operator=tvl1, or start anew with another run.dir",
        ),
        (
            made_by("tvl1", "image"),
            "error: the run's flow is of flow.encoding raw, here it would be of image · set "
            "flow.encoding=raw, or start anew with another run.dir",
        ),
    ],
)
def test_a_run_does_not_go_on_with_other_flow(now, message):
    with pytest.raises(CheckpointError) as refused:
        flow_of_run(state_with(operator="tvl1", encoding="raw"), now)
    assert str(refused.value) == message


def test_a_checkpoint_keeps_it(moving, tmp_path):
    stage, manifest = first_stage(), Manifest.read(moving)
    method, optimizer = stages.build(stage, ALONE)
    flow = flow_of_run(None, loader_of(moving, Flowing()))
    under_way = StageState(
        stage, method, optimizer, ALONE, RunFolder(tmp_path), stage.recipe.plain(), manifest,
        run_ends=6, flow=flow,
    )  # fmt: skip
    under_way.save(2, stopping=False)
    assert runs.newest(tmp_path).flow == {"operator": "dis", "encoding": "raw"}


def test_a_checkpoint_from_before_flow_loads(tmp_path):
    stage = first_stage()
    state = state_of(stage, *stages.build(stage, ALONE), step=2)
    path = checkpoint.save(tmp_path, state, keep=2)
    content = torch.load(path, weights_only=True)
    del content["flow"]
    torch.save(content, tmp_path / "old.pt")
    assert checkpoint.load(tmp_path / "old.pt").flow == {}


def test_a_run_of_pictures_goes_on_wherever_it_likes(tiny_data, whole, tmp_path, capsys):
    state = runs.newest(whole)
    assert state.flow == {}
    path = checkpoint.save(tmp_path / "from", state, keep=2)
    resumed = ("--resume", str(path))
    folder = tmp_path / "run"
    arguments = runs.smoke(tiny_data, folder, "flow.operator=nvof", *resumed)
    assert train.main(arguments) == 0
    assert train.main(runs.smoke(tiny_data, folder, "flow.encoding=image", *resumed)) == 4
    line = capsys.readouterr().err
    assert "error: the checkpoint is of another recipe: flow.encoding raw -> image · take" in line


# What an encoder takes


class Mean(nn.Module):
    """The mean of each channel, and a one: features have a length."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, clip: Tensor) -> Tensor:
        self.seen.append(clip)
        return torch.cat([clip.mean((2, 3, 4)), torch.ones(len(clip), 1)], dim=1)


def of_stream(stream: str, *overrides: str) -> Recipe:
    return replace(first_stage(*overrides).recipe, method=Options(stream=stream))


def extracted(moving: Path, recipe: Recipe, **named) -> tuple[Mean, features.Features]:
    encoder = Mean()
    manifest = Manifest.read(moving)
    return encoder, features.extract_share(
        encoder, manifest, recipe, clips=2, place=Place(), **named
    )


def test_methods_take_pictures_unless_they_say_flow():
    assert features.stream_of(first_stage().recipe) == "rgb"
    assert features.flow_of(first_stage().recipe) is None
    assert features.stream_of(of_stream("flow")) == "flow"
    assert features.flow_of(of_stream("flow")) == FlowConfig()
    assert features.flow_of(of_stream("rgb")) is None


def test_a_flow_encoder_is_measured_on_flow(moving):
    said: list[str] = []
    encoder, found = extracted(moving, of_stream("flow"), say=said.append)
    assert [clip.shape for clip in encoder.seen] == [(2, 3, 4, 32, 32)] * 2 + [
        (1, 3, 4, 32, 32)
    ] * 2
    assert not any(clip[:, 2].any() for clip in encoder.seen)
    # 64 pixels become 32, and a clip's frames are 2 apart.
    motion = found.feature[:, :2] / found.feature[:, 3:]
    assert torch.allclose(motion, torch.tensor([[2.0, 0], [-2, 1], [0, 2]]), atol=0.4)
    assert len(said) == 1 and said[0].startswith("flow: dis (")


def test_flow_as_an_image_has_its_three_channels(moving):
    encoder, _ = extracted(moving, of_stream("flow", "flow.encoding=image"))
    # 128 of 255, less ImageNet's mean of blue, over its deviation
    assert torch.allclose(encoder.seen[0][:, 2], torch.tensor((128 / 255 - 0.406) / 0.225))


def test_an_encoder_of_pictures_is_measured_on_pictures(moving):
    said: list[str] = []
    encoder, _ = extracted(moving, of_stream("rgb", "flow.operator=nvof"), say=said.append)
    assert encoder.seen[0][:, 2].any() and not said


def test_flow_is_computed_by_what_is_here(moving):
    with pytest.raises(ValueError) as refused:
        extracted(moving, of_stream("flow", "flow.operator=nvof"))
    assert str(refused.value) == "flow.operator: nvof needs a GPU, none is here; use tvl1 or auto"
