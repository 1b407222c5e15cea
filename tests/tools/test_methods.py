import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.demo import ROOT, StepFailed
from tools.methods import __main__ as command
from tools.methods import run, table
from tools.methods.trials import CLAIMS, VARIANTS, Claim, Variant
from training import config
from training.errors import ConfigError

A = Variant("m", "a", "a.yaml", is_default=True)
B = Variant("m", "b", "a.yaml", ("optim.lr=1",))
# R@1 in per cent by seed
SHARES = {"random": (10, 12), "a": (30, 40), "b": (20, 25)}


def finished(folder: Path, shares=SHARES) -> list[run.Trial]:
    """Two variants under two seeds with results as evaluate.py leaves them."""
    done = run.trials(folder, [A, B], [0, 1], clips=2)
    for trial in done:
        trial.result.parent.mkdir(parents=True)
        share = shares["random" if trial.random else trial.variant.name][trial.seed] / 100
        trial.result.write_text(json.dumps({"result": {"R@1": share}}))
    return done


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.folder)
def test_variants_are_recipes(variant):
    assert config.load(ROOT / variant.recipe, list(variant.overrides)).method.name == variant.method


def test_claims_are_about_variants_and_names_are_unique():
    names = [(variant.method, variant.name) for variant in VARIANTS]
    assert len(set(names)) == len(names)
    defaults = [variant.method for variant in VARIANTS if variant.is_default]
    assert sorted(defaults) == sorted({variant.method for variant in VARIANTS})
    for claim in CLAIMS:
        assert {(claim.method, claim.better), (claim.method, claim.worse)} <= set(names)


def test_trials_have_one_untrained_network_for_each_method_and_seed(tmp_path):
    done = run.trials(tmp_path, [A, B], [0, 1], clips=2)
    assert sum(trial.random for trial in done) == 2 and len(done) == 6
    assert len({trial.folder for trial in done}) == 6


def test_commands(tmp_path):
    untrained, trial = run.trials(tmp_path, [B], [3], clips=2)
    assert untrained.evaluation().command[2:7] == [
        "--checkpoint", "random", "--recipe", "a.yaml", "run.seed=3"
    ]  # fmt: skip
    assert trial.training().command[:2] == ["train.py", "a.yaml"]
    assert trial.training().command[-2:] == ["run.seed=3", "optim.lr=1"]
    (trial.folder / "run" / "checkpoints").mkdir(parents=True)
    for step in (1, 2):
        (trial.folder / "run" / "checkpoints" / f"step_{step:08d}.pt").touch()
    checkpoint = trial.evaluation().command[3]
    assert checkpoint.endswith("step_00000002.pt")


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    called = []
    done = finished(tmp_path)
    done[-1].result.unlink()

    def call(step, log):
        called.append(step.command[0])
        if step.command[0] == "train.py":
            (done[-1].folder / "run" / "checkpoints").mkdir(parents=True)
            (done[-1].folder / "run" / "checkpoints" / "step_00000001.pt").touch()
        else:
            done[-1].result.write_text(json.dumps({"result": {"R@1": 0.5}}))

    monkeypatch.setattr(run, "_call", call)
    run.run_all(done, jobs=2)
    assert called == ["train.py", "evaluate.py"]


def test_a_result_of_other_settings_is_refused(tmp_path, monkeypatch):
    trial = run.trials(tmp_path, [A], [0], clips=2)[1]
    monkeypatch.setattr(run, "_call", lambda step, log: None)
    monkeypatch.setattr(run.Trial, "_checkpoint", lambda _: Path("x.pt"))
    monkeypatch.setattr(run.Trial, "share", lambda _: 0.5)
    run.run_all([trial], jobs=1)
    longer = Variant("m", "a", "a.yaml", ("run.steps=9",), is_default=True)
    with pytest.raises(ConfigError, match="a trial with other settings"):
        run.run_all(run.trials(tmp_path, [longer], [0], clips=2), jobs=1)


def test_data_of_another_scale_are_refused(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(run, "_call", lambda step, log: called.append(step.name))
    run.make_data(tmp_path, command.SCALE, [0])
    run.make_data(tmp_path, command.SCALE, [0])
    assert len(called) == 4
    with pytest.raises(ConfigError, match="the folder has the demo of"):
        run.make_data(tmp_path, replace(command.SCALE, train_videos=2), [0])


def test_a_failed_command_ends_the_check_with_its_output(tmp_path, capfd):
    trial = run.trials(tmp_path, [Variant("m", "a", "none.yaml")], [0], clips=2)[1]
    with pytest.raises(StepFailed) as failed:
        run.run_all([trial], jobs=1)
    assert failed.value.exit_code == 2
    assert "error: cannot read the recipe · none.yaml" in capfd.readouterr().err


def test_rows_have_gains_over_the_untrained_network_of_the_same_seed(tmp_path):
    a, b = table.rows(finished(tmp_path))
    assert (a["variant"], b["variant"]) == ("a", "b")
    assert table.gains(a) == pytest.approx([20, 28])
    assert table.gains(b) == pytest.approx([10, 13])


@pytest.mark.parametrize(
    ("better", "verdict"),
    [((30, 40), "holds"), ((21, 24), "not decided"), ((10, 14), "does not hold")],
)
def test_verdicts_go_by_the_standard_error_of_the_differences(tmp_path, better, verdict):
    found = table.rows(finished(tmp_path, SHARES | {"a": better}))
    (said,) = table.verdicts(found, [Claim("m", "a", "b", "nowhere")])
    assert said["verdict"] == verdict
    assert said["differences"] == pytest.approx([better[0] - 20, better[1] - 25])


def test_one_seed_decides_nothing(tmp_path):
    found = table.rows([trial for trial in finished(tmp_path) if trial.seed == 0])
    (said,) = table.verdicts(found, [Claim("m", "a", "b", "nowhere")])
    assert said["verdict"] == "not decided"


def test_a_method_that_learns_nothing_is_named(tmp_path):
    # Its ablation learns, which does not count.
    found = table.rows(finished(tmp_path, {"random": (10, 12), "a": (12, 13), "b": (40, 40)}))
    assert table.failures(found) == [
        "error: m: R@1 is +1.5 points over the untrained network, expected +5.0 or more · look at "
        "its metrics.jsonl"
    ]
    assert not table.failures(table.rows(finished(tmp_path / "good")))


def test_a_methods_own_task_is_the_mean_of_its_last_steps(tmp_path):
    trial = run.trials(tmp_path, [A], [0], clips=2)[1]
    (trial.folder / "run").mkdir(parents=True)
    lines = [json.dumps({"step": n, "order_accuracy": n / 10}) for n in range(10)]
    (trial.folder / "run" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert trial.last_mean("order_accuracy", steps=2) == pytest.approx(0.85)


def test_the_whole_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "VARIANTS", (A, B))
    monkeypatch.setattr(command, "CLAIMS", (Claim("m", "a", "b", "nowhere"),))
    monkeypatch.setattr(command, "make_data", lambda *_: None)
    finished(tmp_path)
    assert command.main([str(tmp_path), "--seeds", "0", "1"]) == 0
    assert "holds: m: a > b, +12.5 points (+10.0, +15.0)" in capsys.readouterr().out
    text = (tmp_path / "methods.md").read_text()
    assert "| m | a | 11.0 (10.0 to 12.0) | 35.0 (30.0 to 40.0) | 24.0 (20.0 to 28.0) |  |" in text
    assert "- holds: m: a > b, +12.5 points (+10.0, +15.0) (nowhere)" in text
    content = json.loads((tmp_path / "methods.json").read_text())
    assert content["claims"][0]["verdict"] == "holds"
