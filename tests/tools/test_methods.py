"""The check of methods: what it runs, what it refuses, what it says of the results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import Manifest
from tests import oracles, runs
from tools.demo import ROOT, StepFailed
from tools.methods import __main__ as command
from tools.methods import branch, data, held_out, run, table
from tools.methods.trials import PLAN, Claim, Plan, Task, Training, Variant
from training import checkpoint, config, stages
from training.distributed import Process
from training.errors import ConfigError

NETWORK = ("backbone.width=4",)
A = Variant("m", "a", Training("m/a", "a.yaml", NETWORK), is_default=True)
B = Variant("m", "b", Training("m/b", "a.yaml", (*NETWORK, "optim.lr=1")))
TASK = Task("m", "a", "right", "it is right", least=0.5, clear=0.05, source="nowhere")
SMALL = Plan((A, B), (Claim("m", "a", "b", "nowhere"),), (TASK,), PLAN.data)
# R@1 in per cent by seed, and that of a's own task
SHARES = {"untrained": (10, 12), "a": (30, 40), "b": (20, 25), "task": (70, 80)}


def finished(folder: Path, shares=SHARES, *, plan: Plan = SMALL) -> list[run.Trial]:
    """All trials of two seeds, with results as evaluate.py leaves them."""
    done = run.trials(folder, plan, [0, 1])
    for trial in done:
        name = "untrained" if trial.untrained else trial.variant.name
        leave(trial, shares[name][trial.seed] / 100, shares["task"][trial.seed] / 100)
    return done


def leave(trial: run.Trial, share: float, task: float = 0.0) -> None:
    trial.folder.mkdir(parents=True, exist_ok=True)
    trial.result.write_text(json.dumps({"result": {"R@1": share}}))
    if trial.task:
        (trial.folder / run.TASK).write_text(json.dumps({trial.task.scalar: task}))


# The plan


@pytest.mark.parametrize("variant", PLAN.variants, ids=lambda variant: variant.folder)
def test_variants_are_recipes(variant):
    recipe = config.load(ROOT / variant.training.recipe, list(variant.training.overrides))
    assert recipe.method.name == variant.method
    stages = set(recipe.run.stages)
    assert {variant.stage, variant.training.shared} - {""} <= stages
    assert variant.training.data in PLAN.data


def test_every_method_has_one_default_and_claims_are_about_variants():
    names = [(variant.method, variant.name) for variant in PLAN.variants]
    assert len(set(names)) == len(names)
    defaults = [variant.method for variant in PLAN.variants if variant.is_default]
    assert sorted(defaults) == PLAN.methods
    for claim in PLAN.claims:
        assert {(claim.method, claim.better), (claim.method, claim.worse)} <= set(names)
    for task in PLAN.tasks:
        assert (task.method, task.variant) in names


def test_networks_of_one_untrained_one_are_alike():
    trials = run.trials(Path("x"), PLAN, [0])
    starts = {}
    for trial in trials:
        network = run.network_of(trial.run.training)
        assert starts.setdefault(trial.start, network) == network
        assert {text.split("=")[0] for text in network} == {
            "backbone.name", "backbone.width", "clip.frames", "clip.stride", "augment.size",
            "augment.eval_scale",
        }  # fmt: skip


@pytest.mark.parametrize("variant", [v for v in PLAN.variants if v.training.trunk])
def test_a_branch_differs_after_the_shared_stage_only(variant):
    training = variant.training
    own, trunk = (
        config.load(ROOT / one.recipe, list(one.overrides)).plain()
        for one in (training, training.trunk)
    )
    stages = list(own["run"]["stages"])
    later = stages[stages.index(training.shared) + 1 :]
    for key in config.differences(own, trunk):
        assert key.split(".")[:2] == ["run", "stages"] and key.split(".")[2] in later


def test_some_methods_need_their_data_only():
    motion = replace(A, training=replace(A.training, data="motion"))
    plan = replace(SMALL, variants=(motion,), data={"motion": None, "scenes": None})
    assert list(plan.of(["m"]).data) == ["motion"]
    assert plan.of(["n"]) == Plan(())


# What is run


def test_every_seed_has_its_untrained_network_once(tmp_path):
    todo = run.trials(tmp_path, SMALL, [0, 1])
    assert [trial.untrained for trial in todo] == 2 * [True, False, False]
    assert len({trial.folder for trial in todo}) == 6


def test_commands(tmp_path):
    untrained, *_, trial = run.trials(tmp_path, SMALL, [3])
    (evaluation,) = untrained.steps()
    assert evaluation.command[:8] == [
        "evaluate.py", "retrieval", "--checkpoint", "random", "--recipe", "a.yaml", "run.seed=3",
        "backbone.width=4",
    ]  # fmt: skip
    (training,) = trial.run.steps()
    assert training.command[:2] == ["train.py", "a.yaml"]
    assert training.command[-4:] == [
        "run.seed=3", "data.workers=0", "backbone.width=4", "optim.lr=1",
    ]  # fmt: skip
    saved(trial.run, {1: "first", 2: "first", 3: "last"})
    assert trial.steps()[0].command[3].endswith("step_00000003.pt")


def saved(work: run.Run, stages: dict[int, str]) -> None:
    """A run folder with a checkpoint after each step; stages: step -> stage."""
    (work.folder / "checkpoints").mkdir(parents=True)
    lines = [json.dumps({"step": step, "stage": stage}) for step, stage in stages.items()]
    (work.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for step in stages:
        (work.folder / "checkpoints" / f"step_{step:08d}.pt").touch()


def test_a_stage_is_measured_at_its_end(tmp_path):
    first = replace(A, stage="first")
    *_, trial = run.trials(tmp_path, replace(SMALL, variants=(first,)), [0])
    saved(trial.run, {1: "first", 2: "first", 3: "last"})
    evaluation, own_task = trial.steps()
    assert evaluation.command[3].endswith("step_00000002.pt")
    assert own_task.command[2].endswith("step_00000002.pt")


def test_joined_variants_sum_what_two_others_found(tmp_path):
    flow = replace(B, options=("method.stream=flow",))
    both = Variant("m", "both", A.training, joins=("a", "b"))
    todo = run.trials(tmp_path, replace(SMALL, variants=(A, flow, both)), [0])
    assert [trial.folder.relative_to(tmp_path).as_posix() for trial in todo] == [
        "seed0/untrained/scenes", "seed0/untrained/scenes-method.stream=flow",
        "seed0/untrained/scenes-joined", "seed0/m/a", "seed0/m/b", "seed0/m/both",
    ]  # fmt: skip
    for joined, parts in ((todo[2], todo[:2]), (todo[5], todo[3:5])):
        (step,) = joined.steps()
        assert step.command[:3] == ["evaluate.py", "fuse", "--results"]
        assert step.command[3:5] == [str(part.folder) for part in parts]


def test_a_branch_continues_the_stage_that_it_shares(tmp_path):
    own = Training("m/own", "a.yaml", trunk=A.training, shared="first")
    work = run.Run(own, 0, tmp_path)
    saved(work.trunk, {1: "first", 2: "last"})
    first, second = work.steps()
    assert first.command[:4] == [
        "-m", "tools.methods.branch", str(tmp_path / "runs/m/a/checkpoints/step_00000001.pt"),
        "a.yaml",
    ]  # fmt: skip
    assert second.command[0] == "train.py" and second.command[2:] == first.command[4:]
    saved(work, {1: "first"})
    assert work.steps() == [second]  # it has begun


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    called = []
    done = finished(tmp_path)
    done[-1].result.unlink()
    monkeypatch.setattr(run, "call", lambda step, folder: called.append(step.command[0]))
    monkeypatch.setattr(run.Run, "checkpoint", lambda *_: Path("x.pt"))
    monkeypatch.setattr(run.Trial, "share", lambda _: 0.5)
    run.run_all(done, jobs=2)
    assert called == ["train.py", "evaluate.py"]


def test_a_trunk_is_trained_once_and_before_its_branches(tmp_path, monkeypatch):
    called = []
    branches = tuple(
        Variant("m", name, Training(f"m/{name}", "a.yaml", trunk=A.training, shared="first"))
        for name in ("c", "d")
    )
    monkeypatch.setattr(run, "_train", lambda own, trunk: called.append((own, trunk)))
    monkeypatch.setattr(run, "_measure", lambda trial: None)
    run.run_all(run.trials(tmp_path, replace(SMALL, variants=(*branches, A)), [0]), jobs=1)
    assert [own.training.name for own, _ in called] == ["m/a", "m/c", "m/d"]
    assert [trunk is None for _, trunk in called] == [True, False, False]


def test_a_result_of_other_settings_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "call", lambda step, folder: None)
    monkeypatch.setattr(run.Run, "checkpoint", lambda *_: Path("x.pt"))
    monkeypatch.setattr(run.Trial, "share", lambda _: 0.5)
    run.run_all(run.trials(tmp_path, SMALL, [0]), jobs=1)
    longer = replace(A, training=replace(A.training, overrides=(*NETWORK, "run.steps=9")))
    with pytest.raises(ConfigError, match="a trial with other settings"):
        run.run_all(run.trials(tmp_path, replace(SMALL, variants=(longer,)), [0]), jobs=1)


def test_data_of_another_scale_are_refused(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(data, "call", lambda step, folder: called.append(step.name))
    data.make(tmp_path, PLAN, [0])
    data.make(tmp_path, PLAN, [0])
    assert len(called) == 6 * len(PLAN.data)
    other = {name: replace(scale, train_videos=2) for name, scale in PLAN.data.items()}
    with pytest.raises(ConfigError, match="the folder has the demo of"):
        data.make(tmp_path, replace(PLAN, data=other), [0])


def test_a_failed_command_ends_the_check_with_its_output(tmp_path, capfd):
    missing = Variant("m", "a", Training("m/a", "none.yaml"))
    *_, trial = run.trials(tmp_path, replace(SMALL, variants=(missing,)), [0])
    with pytest.raises(StepFailed) as failed:
        run.run_all([trial], jobs=1)
    assert failed.value.exit_code == 2
    assert "error: cannot read the recipe · none.yaml" in capfd.readouterr().err


# Stages that are shared, and a method's own task


@pytest.fixture(scope="module")
def first_half(tiny_data, tmp_path_factory) -> Path:
    """The run folder of configs/smoke.yaml with a checkpoint at the end of each stage."""
    folder = tmp_path_factory.mktemp("half")
    runs.finished(*runs.smoke(tiny_data, folder, "run.save_every_steps=100"))
    return folder


OTHER = "run.stages.adversarial.method.decay=0.5"


def test_a_branch_is_bit_identical_to_a_run_of_its_own(first_half, tiny_data, tmp_path):
    settings = runs.smoke(tiny_data, tmp_path / "branch", "run.save_every_steps=100", OTHER)
    end = first_half / "checkpoints" / "step_00000006.pt"
    assert branch.main([str(end), *settings]) == 0
    runs.finished(*settings)
    alone = runs.smoke(tiny_data, tmp_path / "alone", "run.save_every_steps=100", OTHER)
    runs.finished(*alone)
    runs.assert_same_state(runs.newest(tmp_path / "branch"), runs.newest(tmp_path / "alone"))


@pytest.mark.parametrize(
    ("step", "change", "stage"),
    [(6, "run.stages.moco.run.steps=7", "moco"), (12, OTHER, "adversarial"),
     (6, "method.momentum=0.5", "moco")],
)  # fmt: skip
def test_a_branch_cannot_change_the_past(
    first_half, tiny_data, tmp_path, capsys, step, change, stage
):
    source = first_half / "checkpoints" / f"step_{step:08d}.pt"
    assert branch.main([str(source), *runs.smoke(tiny_data, tmp_path / "run", change)]) == 2
    key = change.split("=")[0]
    assert capsys.readouterr().err == (
        f"error: the recipes differ before the end of stage '{stage}': {key} · {source} · change "
        "later stages only\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_scalar_on_other_videos_changes_nothing(first_half, tiny_data, tmp_path, capsys):
    end = first_half / "checkpoints" / "step_00000012.pt"
    asked = [str(end), "--data", str(tiny_data), "-o", str(tmp_path / "task.json"), "--scalar"]
    assert held_out.main([*asked, "loss"]) == 0
    value = json.loads((tmp_path / "task.json").read_text())["loss"]
    assert capsys.readouterr().out.startswith(f"loss {value:.3f} on ")
    # At the weights of step 12 throughout: another 5 steps have the same mean again.
    assert held_out.main([*asked, "loss"]) == 0
    assert json.loads((tmp_path / "task.json").read_text())["loss"] == value
    assert held_out.main([*asked, "none"]) == 2
    assert "error: --scalar none: the method has loss, " in capsys.readouterr().err


@pytest.mark.parametrize("collapsed", [False, True])
def test_the_use_of_prototypes_is_seen_on_other_videos(collapsed, tiny_data):
    """A network whose embedding is one point uses one prototype of each set, 5 and 7 here."""
    recipe = config.load(runs.tiny_recipe("vicc"), [])
    (stage,) = stages.plan(recipe, 10)
    method, optimizer = stages.build(stage, Process(0, 1, torch.device("cpu")))
    if collapsed:
        torch.nn.init.zeros_(method.trained.head[-1].weight)
        torch.nn.init.ones_(method.trained.head[-1].bias)
    state = checkpoint.Checkpoint(
        step=4, stage=stage.name, method=method.state_dict(), optimizer=optimizer.state_dict(),
        config=recipe.plain(), classes=[], data_fingerprint="", versions={},
    )  # fmt: skip
    use = held_out.held_out(state, Manifest.read(tiny_data), "prototype_use")
    picks = np.zeros(held_out.EPOCHS * 10, dtype=int)
    one = np.mean([oracles.prototype_use(picks, among) for among in (5, 7)])
    assert use == pytest.approx(one, rel=1e-5) if collapsed else use > 1.5 * one


def test_the_use_of_prototypes_is_of_all_batches_together():
    """Every batch has one prototype of the first set, and each another; of the second one alone."""
    method = SimpleNamespace(
        trained=SimpleNamespace(prototypes=[torch.empty(6, 2), torch.empty(2, 2)]),
        nearest_prototypes=lambda views, flow: [views[0], torch.zeros_like(views[0])],
    )
    batches = [SimpleNamespace(views=(torch.full((3,), n),), flow=None) for n in range(6)]
    even = oracles.prototype_use(np.arange(18) % 6, 6)
    one = oracles.prototype_use(np.zeros(18, dtype=int), 2)
    use = held_out.use_of_prototypes(method, batches)
    assert use == pytest.approx((even + one) / 2, rel=1e-5)


# What is said


def test_rows_have_gains_over_the_untrained_network_of_the_same_seed(tmp_path):
    a, b = table.rows(finished(tmp_path))
    assert (a["variant"], b["variant"]) == ("a", "b")
    assert table.gains(a) == pytest.approx([20, 28])
    assert table.gains(b) == pytest.approx([10, 13])
    assert (a["task"], b["task"]) == ({0: 70, 1: 80}, {})


@pytest.mark.parametrize(
    ("better", "word"),
    [((30, 40), "holds"), ((21, 24), "not decided"), ((10, 14), "does not hold")],
)
def test_verdicts_go_by_the_standard_error_of_the_differences(tmp_path, better, word):
    found = table.rows(finished(tmp_path, SHARES | {"a": better}))
    (said,) = table.verdicts(found, SMALL.claims, ())
    assert said["claim"] == "m: a > b"
    assert said["verdict"] == word
    assert said["differences"] == pytest.approx([better[0] - 20, better[1] - 25])


@pytest.mark.parametrize(
    ("shares", "word"),
    [((58, 60), "holds"), ((52, 53), "does not hold"), ((49, 64), "not decided")],
)
def test_a_task_holds_where_it_is_clearly_above_chance(tmp_path, shares, word):
    found = table.rows(finished(tmp_path, SHARES | {"task": shares}))
    (said,) = table.verdicts(found, (), SMALL.tasks)
    assert said["claim"] == "m: it is right > 50 %, on test videos"
    assert said["verdict"] == word
    assert said["differences"] == pytest.approx([shares[0] - 50, shares[1] - 50])


def test_one_seed_decides_nothing(tmp_path):
    found = table.rows([trial for trial in finished(tmp_path) if trial.seed == 0])
    (said,) = table.verdicts(found, SMALL.claims, ())
    assert said["verdict"] == "not decided"


def test_a_method_that_learns_nothing_is_named(tmp_path):
    # Its ablation learns, which does not count.
    poor = SHARES | {"untrained": (10, 12), "a": (12, 13), "b": (40, 40)}
    assert table.failures(table.rows(finished(tmp_path, poor))) == [
        "error: m: R@1 is +1.5 points over the untrained network, expected +5.0 or more · look at "
        "its metrics.jsonl"
    ]
    assert not table.failures(table.rows(finished(tmp_path / "good")))


def test_the_whole_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "PLAN", SMALL)
    monkeypatch.setattr(data, "make", lambda *_: None)
    finished(tmp_path)
    assert command.main([str(tmp_path), "--seeds", "0", "1"]) == 0
    said = [
        "holds: m: a > b, by +12.5 points (+10.0, +15.0)",
        "holds: m: it is right > 50 %, on test videos, by +25.0 points (+20.0, +30.0)",
    ]
    out, text = capsys.readouterr().out, (tmp_path / "methods.md").read_text()
    for line in said:
        assert line in out and f"- {line} (nowhere)" in text
    assert "| m | a | 11.0 (10.0 to 12.0) | 35.0 (30.0 to 40.0) | 24.0 (20.0 to 28.0) |" in text
    content = json.loads((tmp_path / "methods.json").read_text())
    assert [claim["verdict"] for claim in content["claims"]] == ["holds", "holds"]
