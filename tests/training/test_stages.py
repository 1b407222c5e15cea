"""Stages: which steps are whose, and what a stage takes over from the one before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import DataConfig, Manifest
from tests.runs import SMOKE
from training import config, stages
from training.checkpoint import Checkpoint
from training.config import RunConfig
from training.distributed import Process
from training.errors import CheckpointError, ConfigError

ONE_STAGE = config.load(SMOKE, [])
ALONE = Process(0, 1, torch.device("cpu"))


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
