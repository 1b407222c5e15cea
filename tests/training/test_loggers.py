"""Loggers of others: what they are told, and that none of their failures reaches the run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import ModuleType

import pytest
import torch

from tests.training.test_stages import ONE_STAGE, schedule
from training import loggers as loggers_module
from training.config import RunConfig
from training.loggers import Loggers
from training.runlog import Journal, RunFolder

STAGE = schedule()[0]


def recipe(**run):
    return replace(ONE_STAGE, run=replace(ONE_STAGE.run, log_every_steps=2, **run))


class Program(ModuleType):
    """Stands for wandb, mlflow and TensorBoard: notes every call, and fails or hangs where told to.

    released: set, it hangs no more.
    """

    def __init__(self, fails_at: str = "", hangs_at: str = ""):
        super().__init__("program")
        self.fails_at, self.hangs_at, self.calls = fails_at, hangs_at, []
        self.released = Event()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **options):
            self.calls.append((name, args, options))
            if name == self.fails_at:
                raise ConnectionError("no route\nto host")
            if name == self.hangs_at:
                self.released.wait()
            return self

        return call

    def named(self, name: str) -> list[tuple[tuple, dict]]:
        return [(args, options) for called, args, options in self.calls if called == name]


MODULES = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "torch.utils.tensorboard"}
SET = {"wandb": "a project", "mlflow": "an experiment", "tensorboard": True}
LOG = {"wandb": "log", "mlflow": "log_metrics", "tensorboard": "add_scalar"}


@pytest.fixture
def program(monkeypatch):
    """Puts a program in the place of the module of a logger."""

    made = []

    def placed(name: str, fails_at: str = "", hangs_at: str = "") -> Program:
        made.append(Program(fails_at, hangs_at))
        monkeypatch.setitem(sys.modules, MODULES[name], made[-1])
        return made[-1]

    yield placed
    for one in made:
        one.released.set()


def train(folder: Path, own, *, first: int = 0, writer: bool = True) -> RunFolder:
    """Eight steps; at the fifth retrieval is measured."""
    run = RunFolder(folder, writer=writer)
    with Journal(run, own, world=1, first=first, last=8) as journal:
        for step in range(first + 1, 9):
            scalars = {"loss": torch.tensor(step / 4)}
            if step == 5:
                scalars["knn_R@1"] = torch.tensor(0.5)
            journal.add(step, STAGE, scalars)
        journal.flush()
    return run


def test_weights_and_biases_gets_steps_in_order_with_rate_and_times(program, tmp_path):
    wandb = program("wandb")
    train(tmp_path / "my run", recipe(wandb="a project"))
    ((_, options),) = wandb.named("init")
    assert (options["project"], options["name"], options["resume"]) == (
        "a project", "my run", "allow"
    )  # fmt: skip
    assert options["config"]["optim"]["lr"] == ONE_STAGE.optim.lr
    logged = wandb.named("log")
    assert [options["step"] for _, options in logged] == [2, 4, 5, 6, 8]
    for (values,), options in logged:
        step = options["step"]
        assert (values["loss"], values["lr"]) == (step / 4, STAGE.lr(step - 1))
        assert values["seconds"] > 0 and "data_wait_seconds" in values
    assert logged[2][0][0]["knn_R@1"] == 0.5
    assert wandb.calls[-1][0] == "finish"
    train(tmp_path / "my run", recipe(wandb="a project"), first=4)
    train(tmp_path / "other", recipe(wandb="a project"))
    first, resumed, other = (options["id"] for _, options in wandb.named("init"))
    assert first == resumed != other


def test_mlflow_gets_names_that_it_allows(program, tmp_path):
    mlflow = program("mlflow")
    train(tmp_path, recipe(mlflow="an experiment"))
    assert mlflow.named("set_experiment") == [(("an experiment",), {})]
    measured = [values for (values,), options in mlflow.named("log_metrics") if
                options["step"] == 5]  # fmt: skip
    assert measured[0]["knn_R_at_1"] == 0.5
    assert mlflow.calls[-1][0] == "end_run"


def test_tensorboard_has_its_folder_and_hides_steps_that_are_made_again(program, tmp_path):
    board = program("tensorboard")
    train(tmp_path, recipe(tensorboard=True), first=4)
    assert board.named("SummaryWriter") == [((str(tmp_path / "tb"),), {"purge_step": 5})]
    losses = [args[1:] for args, _ in board.named("add_scalar") if args[0] == "loss"]
    assert losses == [(1.25, 5), (1.5, 6), (2.0, 8)]


@pytest.mark.parametrize("name", MODULES)
def test_one_that_is_not_installed_costs_one_line(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, MODULES[name], None)
    train(tmp_path, recipe(**{name: SET[name]}))
    told = [line for line in capsys.readouterr().out.splitlines() if f"run.{name}" in line]
    (line,) = told
    assert MODULES[name] in line and line.endswith(" · the run goes on without it")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize("name", MODULES)
def test_one_that_fails_is_silent_after_one_line(name, program, tmp_path, capsys):
    own = program(name, fails_at=LOG[name])
    train(tmp_path, recipe(**{name: SET[name]}))
    assert len(own.named(LOG[name])) == 1
    shown = capsys.readouterr().out
    assert shown.count("run.") == 1
    assert f"run.{name}: no route to host · the run goes on without it\n" in shown


@pytest.mark.parametrize("text", ["raise SystemExit(3)", "raise RuntimeError('broken')", "1 +"])
def test_one_that_breaks_while_it_is_imported(text, monkeypatch, tmp_path, capsys):
    (tmp_path / "wandb.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    train(tmp_path / "run", recipe(wandb="x"))
    shown = capsys.readouterr().out
    assert shown.count("run.wandb: ") == shown.count(" · the run goes on without it") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize("hangs_at", ["init", "log", "finish"])
def test_one_that_hangs_holds_no_step_and_not_the_end(
    hangs_at, program, monkeypatch, tmp_path, capsys
):
    """Were a step or the end to wait for it, this test would not end."""
    monkeypatch.setattr(loggers_module, "CLOSE_SECONDS", 0.1)
    program("wandb", hangs_at=hangs_at)
    mlflow = program("mlflow")
    train(tmp_path, recipe(wandb="x", mlflow="y"))
    assert len(mlflow.named("log_metrics")) == 5 and mlflow.named("end_run")
    shown = capsys.readouterr().out
    assert shown.count("run.") == 1
    assert "run.wandb: not closed after 0.1 s · the run goes on without it\n" in shown


def test_one_that_hangs_is_given_up_when_too_much_waits(program, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loggers_module, "WAITING_STEPS", 2)
    program("wandb", hangs_at="init")
    train(tmp_path, recipe(wandb="x"))
    shown = capsys.readouterr().out
    assert "run.wandb: does not answer, 2 steps wait · the run goes on without it\n" in shown
    assert shown.count("run.") == 1


def test_one_that_fails_takes_no_other_with_it(program, tmp_path, capsys):
    program("wandb", fails_at="init")
    mlflow = program("mlflow", fails_at="end_run")
    train(tmp_path, recipe(wandb="x", mlflow="y"))
    assert len(mlflow.named("log_metrics")) == 5
    shown = capsys.readouterr().out
    assert shown.count("run.wandb:") == shown.count("run.mlflow:") == 1


def test_other_ranks_and_runs_without_loggers_log_nothing(program, tmp_path):
    own = [program(name) for name in MODULES]
    train(tmp_path / "a", recipe(**SET), writer=False)
    train(tmp_path / "b", recipe())
    assert not any(one.calls for one in own)
    assert (RunConfig().tensorboard, RunConfig().wandb, RunConfig().mlflow) == (False, "", "")


def test_what_waits_for_its_scalars_does_not_pile_up(program, tmp_path):
    program("wandb")
    loggers = Loggers(recipe(wandb="x"), tmp_path, first=0, say=print, on=True)
    for step in range(100):
        loggers.note(step, {"lr": 1.0})
        loggers.add(step, {"loss": 1.0})
    assert not loggers._noted


def test_a_real_tensorboard_can_read_it(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, recipe(tensorboard=True))
    found = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [
        (2, 0.5), (4, 1.0), (5, 1.25), (6, 1.5), (8, 2.0)
    ]  # fmt: skip
