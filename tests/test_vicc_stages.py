"""ViCC's whole schedule as one recipe: who learns in which stage, from what; killed anywhere."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

import train
from tests import faults, runs
from training.checkpoint import Checkpoint, load

STAGES = ["rgb", "flow", "cycle1_rgb", "cycle1_flow", "cycle2_rgb", "cycle2_flow"]
STEPS = 3  # of a stage: prototypes rest in the first, the queue takes part in the last
EPOCHS_A_STEP = 0.4  # 4 of 10 videos


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    smoke = yaml.safe_load(runs.SMOKE.read_text())
    stages = {
        name: {"method": {"stream": name.split("_")[-1], "cross": "cycle" in name}}
        for name in STAGES
    }
    smoke["run"] |= {"stages": stages, "steps": STEPS, "save_every_steps": 1}
    smoke |= {
        "clip": {"frames": 4, "stride": 2, "sampling": "random"},
        "augment": {"size": 32, "blur_sigma": [0.1, 1.0]},
        "flow": {"operator": "dis"},
        "method": {
            "name": "vicc",
            "dim": 8,
            "prototypes": [6],
            "queue_size": 8,
            "freeze_epochs": EPOCHS_A_STEP,
            "queue_epoch": 2 * EPOCHS_A_STEP,
        },
        "optim": {"name": "larc", "lr": 0.6, "schedule": "cosine", "schedule_epochs": 5},
    }
    path = tmp_path_factory.mktemp("recipe") / "vicc.yaml"
    path.write_text(yaml.safe_dump(smoke, sort_keys=False))  # stages are in their order
    return path


def arguments(recipe: Path, data: Path, folder: Path) -> list[str]:
    keep = f"run.keep_checkpoints={len(STAGES) * STEPS}"
    return [str(recipe), f"data.train={data}", f"run.dir={folder}", keep]


@pytest.fixture(scope="module")
def whole(recipe, tiny_data, tmp_path_factory) -> Path:
    """The run folder of the schedule, which nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    runs.finished(*arguments(recipe, tiny_data, folder))
    return folder


def test_stages_train_one_after_the_other(whole):
    entries = runs.metrics(whole)
    assert [entry["stage"] for entry in entries] == [name for name in STAGES for _ in range(STEPS)]
    assert all(entry["loss"] > 0 and entry["grad_norm"] > 0 for entry in entries)


def end_of(whole: Path, stage: str) -> Checkpoint:
    number = (STAGES.index(stage) + 1) * STEPS
    return load(whole / "checkpoints" / f"step_{number:08d}.pt")


def stream(state: Checkpoint, name: str) -> dict[str, torch.Tensor]:
    prefix = f"streams.{name}."
    return {n: tensor for n, tensor in state.method.items() if n.startswith(prefix)}


@pytest.mark.parametrize("before, stage", list(pairwise(STAGES)))
def test_a_stage_trains_one_stream_and_takes_the_other_as_it_was_left(whole, before, stage):
    learns, rests = ("rgb", "flow") if stage.endswith("rgb") else ("flow", "rgb")
    first, last = end_of(whole, before), end_of(whole, stage)
    for name, tensor in stream(first, rests).items():
        assert torch.equal(tensor, last.method[name]), name
    own = stream(first, learns)
    steps = f"streams.{learns}.steps"
    assert last.method[steps] == own.pop(steps) + STEPS
    assert not [name for name, tensor in own.items() if torch.equal(tensor, last.method[name])]


def test_prototypes_rest_in_the_first_step_of_a_stage_alone(whole):
    first, second, third = (load(whole / "checkpoints" / f"step_{n:08d}.pt") for n in (3, 4, 5))
    name = "streams.flow.prototypes.0"
    assert torch.equal(first.method[name], second.method[name])
    assert not torch.equal(second.method[name], third.method[name])
    lengths = third.method[name].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize(
    "kills",
    [(1, 2, 3), (7, 8, 9), (5, 11, 14, 17)],
    ids=["phases", "phases of a cross stage", "the others"],
)
def test_killed_in_any_stage_and_phase(recipe, whole, tiny_data, tmp_path, kills):
    """Each kill comes before its step is saved, so that the step is taken again."""
    given = arguments(recipe, tiny_data, tmp_path)
    for step in kills:
        died = runs.run(*given, faults=[faults.KillAfter(step)])
        assert died.code == -9, died.output
    runs.finished(*given)
    runs.assert_same_run(tmp_path, whole)


def test_two_ranks_killed_in_a_cross_stage(recipe, tiny_data, tmp_path):
    """Whose wrapper is made anew where prototypes begin to move: in the step taken again."""

    def given(folder: str) -> list[str]:
        more = ["method.batch_norm=plain", "run.steps=2"]
        return [*arguments(recipe, tiny_data, tmp_path / folder), *more]

    straight = runs.run_ranks(*given("straight"))
    assert [rank.code for rank in straight] == [0, 0], straight[0].output + straight[1].output
    died = runs.run_ranks(*given("killed"), faults=[faults.KillAfter(6)])
    assert [rank.code for rank in died] == [-9, -9]
    done = runs.run_ranks(*given("killed"))
    assert [rank.code for rank in done] == [0, 0], done[0].output + done[1].output
    runs.assert_same_run(tmp_path / "killed", tmp_path / "straight")


def test_a_cross_stage_needs_the_other_stream(recipe, tiny_data, tmp_path, capsys):
    given = arguments(recipe, tiny_data, tmp_path / "run")
    code = train.main([*given, "run.stages.rgb.method.cross=true"])
    line = capsys.readouterr().err
    assert code == 2 and line.count("\n") == 1
    assert line.startswith("error: vicc: cross: true learns from the flow stream, which no stage")
