"""The step: what it computes, what it costs the host, and how it may be compiled and captured."""

from __future__ import annotations

import copy
import shutil
import weakref

import pytest
import torch
from torch import nn

import train
from models import Method, Objective, build_backbone, names
from pipeline import Batch
from tests import faults, runs
from tests.cuda import Dispatches, NoHostRead, never_waiting
from tests.models.small_encoder import FrameMeans
from tests.models.steps import BATCH, backward, batch_of, place, small_method
from training.config import RunConfig
from training.distributed import Process, seed_step
from training.errors import ConfigError
from training.optim import OptimConfig, build_optimizer
from training.runlog import Metrics, RunFolder
from training.step import WARM_UP_STEPS, Step, build_step, check, networks

needs_cuda = pytest.mark.needs_cuda
ALONE = Process(0, 1, torch.device("cpu"))
GPU = Process(0, 1, torch.device("cuda", 0))


def step_of(method: Method, optim: OptimConfig, *, process: Process = ALONE, **run) -> Step:
    run = RunConfig(precision="fp32", **run)
    return build_step(method, build_optimizer(method, optim), process, run)


def rate(number: int) -> float:
    """Learning rate of a step, one that a float32 holds."""
    return 2.0 ** -(4 + number)


def take(step: Step, number: int) -> dict[str, torch.Tensor]:
    """Step `number` on a batch and with a rate of its own."""
    batch = batch_of(step.method, number)
    return step(batch, number=number, lr=rate(number), seed=7, **place(number))


# What it computes

# Options by which what a method does changes within five steps.
WITH_PHASES = {"vicc": {"freeze_epochs": 1.0, "queue_epoch": 1.5, "queue_size": 2 * BATCH}}


@pytest.mark.parametrize("name", names())
def test_a_step_is_both_passes_the_optimiser_and_what_comes_after(name):
    """Written out with an optimiser of torch that works tensor by tensor."""
    method = small_method(
        name, **WITH_PHASES.get(name, {})
    ).double()  # small batch norms multiply the roundings of float32
    plain = copy.deepcopy(method)
    step = step_of(method, OptimConfig(momentum=0.9, weight_decay=0.01))
    trained = [p for p in plain.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained, lr=1.0, momentum=0.9, weight_decay=0.01, foreach=False)
    for number in range(5):
        scalars = take(step, number)
        seed_step(7, number, 0)
        batch = batch_of(plain, number)
        plain.begin_step(**place(number))
        objectives, expected = plain(batch.views, batch.flow, batch.index, batch.start_frames)
        backward(objectives)
        gradients = [p.grad.flatten() for p in trained if p.grad is not None]
        expected["grad_norm"] = torch.cat(gradients).norm()
        sgd.param_groups[0]["lr"] = rate(number)
        sgd.step()
        sgd.zero_grad()
        plain.after_step()
        assert scalars.keys() == expected.keys()
        torch.testing.assert_close(scalars, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(method.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-6)


def test_draws_are_of_the_step():
    method = small_method("videomoco", FrameMeans(), generator="random", drop_content="noise")
    step, again = (step_of(copy.deepcopy(method), OptimConfig()) for _ in range(2))
    losses = [take(step, number)["loss"].item() for number in (0, 1)]
    torch.rand(100)
    assert [take(again, number)["loss"].item() for number in (0, 1)] == losses


def test_a_phase_has_a_wrapper_of_its_own(monkeypatch):
    """In which parameters that rest are none."""
    wrapped = []

    def wrap(method, process):
        wrapped.append(sum(p.requires_grad for p in method.parameters()))
        return method

    monkeypatch.setattr("training.distributed.wrap", wrap)
    step = step_of(small_method("vicc", FrameMeans(), **WITH_PHASES["vicc"]), OptimConfig())
    for number in range(5):  # frozen prototypes until 2, a queue from 3
        take(step, number)
    assert wrapped == [5, 6, 6]
    plain = step_of(small_method("videomoco", FrameMeans(), split_groups=1), OptimConfig())
    for number in range(3):
        take(plain, number)
    assert len(wrapped) == 4


def test_the_wrapper_of_the_last_phase_is_gone_before_the_next(monkeypatch):
    """DistributedDataParallel is in cycles, and holds as much memory as the gradients."""
    made: list[weakref.ref] = []

    class Wrapper(nn.Module):
        def __init__(self, method: Method, process: Process):
            assert not any(wrapper() for wrapper in made)
            super().__init__()
            self.method, self.cycle = method, [self]
            made.append(weakref.ref(self))

        def forward(self, *batch):
            return self.method(*batch)

    monkeypatch.setattr("training.distributed.wrap", Wrapper)
    step = step_of(small_method("vicc", FrameMeans(), **WITH_PHASES["vicc"]), OptimConfig())
    for number in range(4):
        take(step, number)
    assert len(made) == 3


# What it costs the host


@pytest.mark.parametrize(
    "name, optim",
    [*((name, "sgd") for name in names()), ("videomoco", "adamw"), ("videomoco", "lars")],
)
def test_nothing_waits_for_the_device(tmp_path, name, optim):
    step = step_of(small_method(name), OptimConfig(name=optim))
    metrics = Metrics(RunFolder(tmp_path, writer=False), step=0)
    take(step, 0)
    with NoHostRead():
        for number in range(1, 7):  # until the journal reads what it was given four steps before
            metrics.add(number, "stage", take(step, number))


def outside(backbone: str, optim: str) -> tuple[int, int]:
    """Operations of a step that are not the networks' own, and the number of its parameters."""
    method = small_method("videomoco", build_backbone(backbone, width=2), generator="none")
    step = step_of(method, OptimConfig(name=optim))
    take(step, 0)
    batch = batch_of(method)
    with Dispatches() as whole:
        step(batch, number=1, lr=0.1, seed=0, **place(1))
    with Dispatches() as own:
        method.query(batch.views[0]).sum().backward()
        with torch.no_grad():
            method.key(batch.views[1])
    return whole.count - own.count, len(list(method.query.parameters()))


@pytest.mark.parametrize("optim", ["sgd", "adamw"])
def test_operations_do_not_grow_with_the_network(optim):
    count, parameters = outside("r3d_18", optim)
    more, more_parameters = outside("r2plus1d_18", optim)
    # A loop that averages 113 parameters one by one has three operations for each.
    assert (parameters, more_parameters) == (62, 113)
    assert count == more < 100


def test_scalars_cost_two_operations_together(tmp_path):
    metrics = Metrics(RunFolder(tmp_path, writer=False), step=0)
    with Dispatches() as dispatches:
        metrics.add(1, "stage", {name: torch.ones(()) for name in "abcdef"})
    assert dispatches.count - len("abcdef") == 2  # beside the making of the six


# What cannot be


def test_a_captured_step_needs_a_gpu():
    with pytest.raises(ConfigError) as error:
        step_of(small_method("videomoco"), OptimConfig(), cuda_graph=True)
    assert str(error.value) == (
        "error: run.cuda_graph needs a GPU, this run is on cpu · leave it out, or train where "
        "torch finds a GPU"
    )


def test_a_captured_step_is_for_one_process():
    with pytest.raises(ConfigError) as error:
        check(RunConfig(cuda_graph=True), Process(0, 2, torch.device("cuda", 0)))
    assert str(error.value) == (
        "error: run.cuda_graph is for one process, this run has 2 · leave it out"
    )


def test_the_program_says_so_before_it_makes_a_folder(tiny_data, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train.main(runs.smoke(tiny_data, folder, "run.cuda_graph=true")) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: run.cuda_graph needs a GPU") and shown.count("\n") == 1
    assert not folder.exists()


# Compiled


class Listed(nn.Module):
    """Networks behind containers, and a module that computes nothing itself."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ReLU()})
        self.body = nn.Sequential(nn.Linear(2, 2))
        self.empty = nn.Module()


def test_networks_are_the_outermost_modules_that_compute():
    listed = Listed()
    assert list(networks(listed)) == [listed.heads["a"], listed.heads["b"], listed.body]
    method = small_method("videomoco")
    assert list(networks(method)) == [method.query, method.key, method.generator]


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")
def test_compiled_networks_compute_the_same():
    method = small_method("videomoco", FrameMeans(), generator="none", split_groups=1)
    plain, compiled = method, copy.deepcopy(method)
    expected = take(step_of(plain, OptimConfig()), 0)
    scalars = take(step_of(compiled, OptimConfig(), compile=True), 0)
    torch.testing.assert_close(scalars, expected, rtol=1e-4, atol=1e-5)
    assert compiled.query._compiled_call_impl is not None
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-4)


# On a GPU


class Drawing(Method):
    """A weight pulled about by random numbers: every draw and every rate shows in it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, views, flow, index, start_frames=None):
        drawn = torch.rand(3, device=self.weight.device)
        loss = ((drawn + views[0].mean() - self.weight) ** 2).sum()
        return [Objective(loss, [self.weight])], {"drawn": drawn.sum(), "loss": loss.detach()}

    def after_step(self) -> None:
        self.steps += 1


@needs_cuda
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_replay_draws_and_learns_as_an_eager_step(name):
    """Bit by bit: the same numbers drawn, the same learning rate, one step for each batch."""
    seen = []
    for captured in (False, True):
        method = Drawing().to("cuda")
        step = step_of(method, OptimConfig(name=name), process=GPU, cuda_graph=captured)
        scalars = []
        for number in range(WARM_UP_STEPS + 5):
            clip = torch.full((2, 3, 1, 1, 1), float(number), device="cuda")
            index = torch.zeros(2, dtype=torch.int64, device="cuda")
            batch = Batch((clip,), index, index)
            now = step(batch, number=number, lr=rate(number), seed=3, **place(number))
            scalars.append({key: value.item() for key, value in now.items()})
        assert method.steps.item() == WARM_UP_STEPS + 5
        seen.append((scalars, method.weight.tolist()))
    assert seen[0] == seen[1]


@needs_cuda
@pytest.mark.parametrize("optim", ["sgd", "adamw", "lars"])
@pytest.mark.parametrize("name", names())
def test_a_captured_step_of_every_method(name, optim):
    method = small_method(name).to("cuda")
    plain, captured = copy.deepcopy(method), method
    steps = [
        step_of(m, OptimConfig(name=optim), process=GPU, cuda_graph=m is captured)
        for m in (plain, captured)
    ]
    with torch.backends.cudnn.flags(deterministic=True):
        for number in range(WARM_UP_STEPS + 3):
            expected, scalars = (take(step, number) for step in steps)
            torch.testing.assert_close(scalars, expected, rtol=1e-2, atol=1e-2)
        batch = batch_of(method)
        with never_waiting():
            for step in steps:
                step(batch, number=9, lr=rate(9), seed=7, **place(9))
    states = captured.state_dict(), plain.state_dict()
    torch.testing.assert_close(*states, rtol=1e-2, atol=1e-2)


@needs_cuda
def test_every_phase_is_captured_anew():
    each = WARM_UP_STEPS + 2  # steps of a phase
    options = {"freeze_epochs": place(each)["epoch"], "queue_epoch": place(2 * each)["epoch"]}
    method = small_method("vicc", queue_size=2 * BATCH, **options).to("cuda")
    plain, captured = copy.deepcopy(method), method
    steps = [
        step_of(m, OptimConfig(name="larc"), process=GPU, cuda_graph=m is captured)
        for m in (plain, captured)
    ]
    graphs = set()
    with torch.backends.cudnn.flags(deterministic=True):
        for number in range(3 * each):
            expected, scalars = (take(step, number) for step in steps)
            torch.testing.assert_close(scalars, expected, rtol=1e-2, atol=1e-2)
            graphs.add(steps[1]._graph)
    assert len(graphs - {None}) == 3


@needs_cuda
@pytest.mark.parametrize("captured", [False, True])
def test_a_training_never_waits(tiny_data, tmp_path, captured):
    """The program itself, from the loader to the journal, over steps in which it saves nothing."""
    arguments = runs.smoke(
        tiny_data, tmp_path / "run", "run.device=cuda", f"run.cuda_graph={captured}",
        "run.save_every_steps=100", "run.stages.moco.run.steps=30",
    )  # fmt: skip
    runs.finished(*arguments, faults=[faults.NeverWaiting(10, 25)])
