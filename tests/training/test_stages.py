"""Stages: which steps are whose, and what a stage takes over from the one before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import gather, keys
from models.methods import cvrl, vclr
from pipeline import Batch, DataConfig, DataError, Manifest
from tests import runs
from tests.runs import SMOKE
from training import config, stages
from training.checkpoint import Checkpoint
from training.config import RunConfig
from training.distributed import Process
from training.dry_run import dry_run, saved_bytes
from training.errors import CheckpointError, ConfigError

ONE_STAGE = config.load(SMOKE, [])
CPU = torch.device("cpu")
ALONE = Process(0, 1, CPU)


def schedule(*overrides: str, videos: int = 10) -> list[stages.Stage]:
    return stages.plan(config.load(SMOKE, list(overrides)), videos)


def state_of(stage: stages.Stage, method, optimizer, *, step: int) -> Checkpoint:
    return Checkpoint(
        step=step, stage=stage.name, method=method.state_dict(), optimizer=optimizer.state_dict(),
        config={}, classes=[], data_fingerprint="", versions={},
    )  # fmt: skip


def test_stages_follow_each_other():
    moco, adversarial = schedule("run.stages.adversarial.run.steps=9", "data.batch_size=5")
    assert (moco.first_step, moco.last_step, moco.first_sample) == (0, 6, 0)
    assert (adversarial.first_step, adversarial.last_step) == (6, 15)
    assert adversarial.first_sample == 30  # 6 batches of 5
    assert (moco.number, adversarial.number) == (0, 1)


def test_a_recipe_without_stages_is_one(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text("data: {batch_size: 4}\nrun: {epochs: 3}\n")
    (stage,) = stages.plan(config.load(path, []), 10)
    assert (stage.name, stage.first_step, stage.last_step) == ("pretrain", 0, 7)  # 30 // 4


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 20))
def test_epochs_use_all_videos_but_for_less_than_a_batch(videos, batch, epochs):
    data, run = DataConfig(batch_size=batch), RunConfig(epochs=epochs)
    recipe = replace(ONE_STAGE, data=data, run=run)
    if epochs * videos < batch:
        with pytest.raises(ConfigError, match="has no step"):
            stages.plan(recipe, videos)
        return
    (stage,) = stages.plan(recipe, videos)
    assert 0 <= epochs * videos - stage.last_step * batch < batch


def test_a_stage_without_a_step_is_an_error():
    with pytest.raises(ConfigError) as error:
        schedule("run.stages.moco.run={epochs: 0.3, steps: 0}")
    assert str(error.value) == (
        "error: stage 'moco' has no step: 0.3 epochs of 10 videos in batches of 4 · raise "
        "run.epochs or lower data.batch_size"
    )


def test_every_stage_has_its_own_schedule():
    moco, adversarial = schedule("optim.final=0.1")
    assert moco.lr(0) == adversarial.lr(6) == 1e-3
    # 6 steps of 4 are 2.4 epochs of 10; the cosine spans them: half of it after 3 steps.
    assert moco.lr(3) == adversarial.lr(9) == pytest.approx(1e-3 * 0.55)
    assert moco.lr(6) == pytest.approx(1e-4)


def test_first_weights_depend_on_seed_and_stage_alone():
    moco, adversarial = schedule()
    first, _ = stages.build(moco, ALONE)
    torch.rand(100)
    again, _ = stages.build(moco, ALONE)
    other, _ = stages.build(adversarial, ALONE)
    name = "query.backbone.layer1.0.conv1.0.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_a_stage_starts_with_the_weights_of_the_last():
    moco, adversarial = schedule()
    old, optimizer = stages.build(moco, ALONE)
    old.queue.keys_written += 24
    state = state_of(moco, old, optimizer, step=6)
    new, fresh = stages.build(adversarial, ALONE)
    said = stages.restore(adversarial, new, fresh, state)
    for name, tensor in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], tensor), name
    generator = [name for name in new.state_dict() if name.startswith("generator.")]
    assert said == (
        f"stage 'adversarial': {len(old.state_dict())} tensors from 'moco', {len(generator)} new"
    )
    assert not fresh.state, "the optimiser of a stage is its own"


def test_inside_a_stage_all_is_restored():
    moco, _ = schedule()
    old, optimizer = stages.build(moco, ALONE)
    for parameter in old.query.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    new, fresh = stages.build(moco, ALONE)
    said = stages.restore(moco, new, fresh, state_of(moco, old, optimizer, step=3))
    assert said == f"stage 'moco': all {len(old.state_dict())} tensors, from step 3"
    assert len(fresh.state) == len(list(old.query.parameters()))


def test_weights_that_do_not_fit_are_one_line():
    moco, adversarial = schedule()
    state = state_of(moco, *stages.build(moco, ALONE), step=6)
    (wider, _), narrow = schedule("backbone.width=8"), state
    with pytest.raises(CheckpointError) as error:
        stages.restore(wider, *stages.build(wider, ALONE), narrow)
    line = str(error.value)
    assert line.startswith("error: the checkpoint does not fit stage 'moco' · ")
    assert "size mismatch" in line and "\n" not in line
    wider_second = schedule("backbone.width=8")[1]
    with pytest.raises(CheckpointError, match=r"does not fit stage 'adversarial' · .* has shape"):
        stages.restore(wider_second, *stages.build(wider_second, ALONE), state)
    assert adversarial.name == wider_second.name


def test_weights_are_in_the_memory_format_asked_for():
    for asked in (True, False):
        (stage, _) = schedule(f"run.channels_last={asked}")
        method, _ = stages.build(stage, ALONE)
        kernel = method.query.backbone.layer1[0].conv1[0].weight
        assert kernel.is_contiguous(memory_format=torch.channels_last_3d) == asked


def test_batches_go_on_where_the_last_stage_stopped(tiny_data):
    """The second stage begins in the middle of an epoch: no video is skipped or seen again."""
    manifest = Manifest.read(tiny_data)
    seen = []
    for stage in schedule():
        method, _ = stages.build(stage, ALONE)
        loader = stages.training_loader(stage, manifest, method, ALONE)
        for batch in loader.batches(0, stage.last_step - stage.first_step):
            seen += batch.index.tolist()
    epochs = [sorted(seen[start : start + 10]) for start in range(0, 40, 10)]
    assert epochs == [list(range(10))] * 4


# Where a method can train

EXCHANGE = "method.key_batch_norm=exchange"
ALONE_AND_EXCHANGE = (
    "method.key_batch_norm: exchange gives keys to another rank, and there is one process; start "
    "several, or set method.key_batch_norm=split"
)


@pytest.mark.parametrize("recipe", ["videomoco", "vclr"])
def test_keys_that_no_other_rank_computes_are_refused_where_the_stage_is_built(recipe):
    stage, *_ = stages.plan(config.load(runs.tiny_recipe(recipe), [EXCHANGE]), 10)
    with pytest.raises(ValueError) as error:
        stages.build(stage, ALONE)
    assert str(error.value) == ALONE_AND_EXCHANGE
    assert stages.first_method(stage).views.exchanged  # one may look at it all the same
    stages.build(stage, Process(0, 2, CPU))


@pytest.mark.parametrize("recipe, key, instead", [
    ("videomoco", "key_batch_norm", "exchange or split"), ("cvrl", "batch_norm", "plain"),
    ("vclr", "key_batch_norm", "exchange or split"), ("vicc", "batch_norm", "plain"),
])  # fmt: skip
def test_sync_batch_norm_is_refused_where_the_stage_is_built(recipe, key, instead):
    stage, *_ = stages.plan(config.load(runs.tiny_recipe(recipe), [f"method.{key}=sync"]), 10)
    with pytest.raises(ValueError) as error:
        stages.build(stage, Process(0, 2, CPU))
    assert str(error.value) == (
        f"method.{key}: torch has no SyncBatchNorm on a CPU; take {instead}"
    )


def test_a_dry_run_tells_rate_and_steps_of_what_it_cannot_build(tiny_data, capsys):
    with pytest.raises(ValueError, match=r"^method\.key_batch_norm: exchange "):
        dry_run(schedule(EXCHANGE), Manifest.read(tiny_data), ALONE)
    said = capsys.readouterr().out
    assert "moco: effective lr 0.001 " in said and "adversarial: 6 steps, 2.5 an epoch" in said
    assert "view 0" not in said


# Clips that the method can use


def loader_of(data: Path, *overrides: str, recipe: str = "vclr") -> list[str]:
    """What is said where the loader of a method's first stage is built."""
    said: list[str] = []
    first, *_ = stages.plan(config.load(runs.tiny_recipe(recipe), list(overrides)), 10)
    method, _ = stages.build(first, ALONE)
    stages.training_loader(first, Manifest.read(data), method, ALONE, say=said.append)
    return said


@pytest.mark.parametrize("sampling", ["same", "random", "interval"])
def test_a_method_of_segments_refuses_other_clips(tiny_data, sampling):
    with pytest.raises(ConfigError) as error:
        loader_of(tiny_data, f"clip.sampling={sampling}")
    assert str(error.value) == (
        f"error: clip.sampling: {sampling} does not give the views of vclr · set "
        "clip.sampling=segments"
    )


def test_segments_are_of_one_number(tiny_data):
    with pytest.raises(ValueError, match=r"clip\.segments: 2 make 5 .* of method\.segments"):
        loader_of(tiny_data, "clip.segments=2")


def test_other_methods_take_any_clips(tiny_data):
    for sampling in ("same", "random", "interval"):
        assert loader_of(tiny_data, f"clip.sampling={sampling}", recipe="videomoco") == []


@pytest.mark.parametrize("sampling", ["same", "random", "interval"])
def test_videos_too_short_for_their_clips(tiny_data, sampling):
    """The ten videos have 12 to 21 frames."""
    clip = f"clip.sampling={sampling}", "clip.frames=8"  # 7 x 2 + 1 = 15
    assert loader_of(tiny_data, *clip, recipe="videomoco") == [
        "3 of 10 videos are shorter than the 15 frames of a clip and loop (clip.frames, "
        "clip.stride)"
    ]


def test_videos_too_short_for_their_segments(tiny_data):
    """The ten videos have 12 to 21 frames."""
    assert loader_of(tiny_data, "clip.frames=2") == []  # 3 x (3 + 1) = 12
    (line,) = loader_of(tiny_data, "clip.frames=3")  # 3 x (5 + 1) = 18
    assert line == (
        "6 of 10 videos are shorter than the 18 frames that 3 segments for clips of 3 frames "
        "need: their segments overlap (clip.segments, clip.frames, clip.stride)"
    )
    with pytest.raises(DataError) as error:
        loader_of(tiny_data, "clip.frames=4")  # 3 x (7 + 1) = 24
    assert str(error.value) == (
        "error: all 10 videos are shorter than the 24 frames that 3 segments for clips of 4 "
        f"frames need · {tiny_data} · lower clip.segments, clip.frames or clip.stride"
    )


# What a dry run computes without data


def kept(batch: Batch, device: torch.device, *overrides: str, recipe: str = "vclr") -> int:
    stage, *_ = stages.plan(config.load(runs.tiny_recipe(recipe), list(overrides)), 10)
    return saved_bytes(stage, batch, device)


def some_batch(views: int, frames: int = 1) -> Batch:
    clips = tuple(torch.zeros(4, 3, frames, 16, 16) for _ in range(views))
    starts = torch.zeros(4, views, dtype=torch.int64)
    return Batch(views=clips, label=torch.arange(4), index=torch.arange(4), start_frames=starts)


def test_memory_of_one_rank_of_several_is_found_without_the_others(monkeypatch):
    """No other rank is there to answer: a collective would fail."""
    alone = kept(some_batch(7), CPU, "method.key_batch_norm=plain")
    for module in (gather, keys, vclr):
        monkeypatch.setattr(module, "world_size", lambda: 2)
    monkeypatch.setattr(keys, "rank", lambda: 0)
    assert kept(some_batch(7), CPU, "method.key_batch_norm=exchange") == pytest.approx(alone, 0.01)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("batch_norm", ["plain", "sync"])
def test_memory_of_a_rank_with_a_gpu(monkeypatch, batch_norm):
    cpu = kept(some_batch(2, 4), CPU, "method.batch_norm=plain", recipe="cvrl")
    monkeypatch.setattr(cvrl, "world_size", lambda: 2)
    option = f"method.batch_norm={batch_norm}"
    on_gpu = kept(some_batch(2, 4), torch.device("cuda"), option, recipe="cvrl")
    assert on_gpu == pytest.approx(cpu, rel=0.2)
