"""Schedules against numbers worked out by hand, LARS against a loop of the published algorithm."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests import oracles
from training.distributed import seed_step
from training.optim import (
    LARC,
    LARS,
    OptimConfig,
    build_optimizer,
    check,
    gradient_norm,
    load_state,
    lr_at,
    make_capturable,
    peak_lr,
    set_lr,
)

STEP = OptimConfig(lr=0.5, schedule="step", milestones=[2.0, 3.0], gamma=0.1)
COSINE = OptimConfig(lr=2.0, schedule="cosine", warmup_epochs=2, warmup_from=0.25, final=0.5)


@pytest.mark.parametrize(
    "epoch, expected", [(0, 0.5), (1.999, 0.5), (2, 0.05), (2.999, 0.05), (3, 0.005), (9, 0.005)]
)
def test_step_schedule(epoch, expected):
    assert lr_at(epoch, STEP, epochs=4, global_batch=32) == pytest.approx(expected)


@pytest.mark.parametrize(
    "epoch, expected",
    [
        (0, 0.5),  # 2 x 0.25
        (1, 1.25),  # half way from 0.5 to 2
        (2, 2.0),
        (4, 1.5),  # half of the cosine: between 2 and 2 x 0.5
        (3, 1 + 0.5 * (1 + math.sqrt(0.5))),  # a quarter: cos 45 degrees
        (6, 1.0),
        (7, 1.0),  # beyond the end it stays
    ],
)
def test_warm_up_and_cosine(epoch, expected):
    assert lr_at(epoch, COSINE, epochs=6, global_batch=32) == pytest.approx(expected)


def test_constant_schedule_and_linear_scaling():
    config = OptimConfig(lr=0.3, scale_lr=True, schedule="constant")
    assert peak_lr(config, 1024) == pytest.approx(1.2)
    assert lr_at(5, config, epochs=10, global_batch=64) == pytest.approx(0.075)
    assert lr_at(5, replace(config, scale_lr=False), epochs=10, global_batch=64) == 0.3


recipes = st.builds(
    OptimConfig,
    lr=st.floats(1e-4, 10),
    schedule=st.sampled_from(["step", "cosine", "constant"]),
    milestones=st.lists(st.floats(0, 50), max_size=4).map(sorted),
    gamma=st.floats(0.01, 1),
    warmup_epochs=st.floats(0.1, 20),
    warmup_from=st.floats(0, 1),
    final=st.floats(0, 1),
)
OPTIMISERS = ["sgd", "adamw", "lars", "larc"]


@given(recipes, st.floats(25, 100))
def test_warm_up_rises_and_joins_without_a_jump(config, epochs):
    config = replace(config, milestones=[m + config.warmup_epochs + 1 for m in config.milestones])
    rates = [
        lr_at(config.warmup_epochs * n / 10, config, epochs=epochs, global_batch=256)
        for n in range(10)
    ]
    assert rates[0] == pytest.approx(config.lr * config.warmup_from)
    assert rates == sorted(rates)
    before, after = (
        lr_at(config.warmup_epochs + d, config, epochs=epochs, global_batch=256)
        for d in (-1e-9, 1e-9)
    )
    assert before == pytest.approx(after, rel=1e-6) == pytest.approx(config.lr, rel=1e-6)


@given(recipes, st.floats(25, 100), st.lists(st.floats(0, 1), min_size=2, max_size=20).map(sorted))
def test_after_warm_up_the_rate_only_falls(config, epochs, parts):
    """For every schedule, and never below where it ends."""
    at = [config.warmup_epochs + part * (epochs - config.warmup_epochs) for part in parts]
    rates = [lr_at(epoch, config, epochs=epochs, global_batch=256) for epoch in at]
    assert all(a >= b - 1e-12 * config.lr for a, b in pairwise(rates))
    if config.schedule == "cosine":
        assert min(rates) >= config.lr * config.final * (1 - 1e-9)


@given(recipes, st.integers(1, 4096))
def test_scaling_is_by_the_global_batch(config, batch):
    scaled = replace(config, scale_lr=True)
    plain = lr_at(3.0, config, epochs=30, global_batch=batch)
    assert lr_at(3.0, scaled, epochs=30, global_batch=batch) == pytest.approx(plain * batch / 256)


def test_a_cosine_may_be_longer_than_its_stage():
    """ViCC's single streams: a cosine of 500 epochs, of which 300 are trained."""
    config = OptimConfig(lr=0.6, schedule="cosine", final=0.001, schedule_epochs=500)
    rates = {e: lr_at(e, config, epochs=300, global_batch=192) for e in (0, 250, 300, 500)}
    at_300 = 0.0006 + (0.6 - 0.0006) * 0.5 * (1 + math.cos(math.pi * 0.6))
    expected = {0: 0.6, 250: 0.3003, 300: at_300, 500: 0.0006}
    assert rates == pytest.approx(expected)
    assert lr_at(300, replace(config, schedule_epochs=0), epochs=300, global_batch=192) == (
        pytest.approx(0.0006)
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -1}, "optim.lr: expected above 0, got -1"),
        ({"schedule_epochs": -1.0}, "optim.schedule_epochs: expected 0 or more, got -1.0"),
        ({"schedule_epochs": math.nan}, "optim.schedule_epochs: expected 0 or more, got nan"),
        (
            {"schedule": "step", "schedule_epochs": 9.0},
            "optim.schedule_epochs: a schedule of step has no length; take cosine or leave it 0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError) as error:
        check(OptimConfig(**options))
    assert str(error.value) == message


# LARS and LARC


def test_larc_is_apex_s_and_scales_every_tensor():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3)).double()
    config = OptimConfig(name="larc", lr=0.6, weight_decay=0.1, lars_trust=0.02)
    optimizer = build_optimizer(module, config)
    parameters = list(module.parameters())  # the norm's bias is zero at first
    weights = [p.detach().numpy().copy() for p in parameters]
    velocities = [np.zeros(w.shape) for w in weights]
    for step in range(4):
        lr = 0.6 / (1 + step)
        for p in parameters:
            p.grad = torch.randn_like(p)
        parameters[2].grad *= step != 1  # a gradient of zero once
        set_lr(optimizer, lr)
        optimizer.step()
        options = {"momentum": 0.9, "weight_decay": 0.1, "trust": 0.02}
        for i, (w, p) in enumerate(zip(weights, parameters, strict=True)):
            velocities[i] = oracles.larc_velocity(velocities[i], w, p.grad.numpy(), **options)
            w -= lr * velocities[i]
    for p, expected in zip(parameters, weights, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_parameter_may_rest_at_first(name):
    """Without gradient it keeps every bit, decay or not; then it learns as if it began there."""

    def module() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    def trained(late: nn.Module, optimizer, steps: range) -> None:
        for step in steps:
            for n, p in enumerate(late.parameters()):
                generator = torch.Generator().manual_seed(10 * step + n)
                resting = n > 1 and step < 2
                p.grad = None if resting else torch.randn(p.shape, generator=generator)
            optimizer.step()

    config = OptimConfig(name=name, lr=0.1, weight_decay=0.1)
    late, alone = module(), module()
    optimizer = build_optimizer(late, config)
    trained(late, optimizer, range(2))
    assert all(map(torch.equal, late[1].parameters(), alone[1].parameters()))
    resumed = build_optimizer(late, config)
    load_state(resumed, copy.deepcopy(optimizer.state_dict()))
    trained(late, resumed, range(2, 5))
    trained(alone, build_optimizer(alone[1], config), range(2, 5))
    for ours, expected in zip(late[1].parameters(), alone[1].parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)


def test_lars_is_the_published_algorithm():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    zero = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    bias, scale = (nn.Parameter(torch.randn(4, dtype=torch.float64)) for _ in range(2))
    decays = [0.1, 0.1, 0.7, 0.0]
    optimizer = LARS(
        [
            {"params": [kernel, zero], "weight_decay": 0.1},
            {"params": [bias], "weight_decay": 0.7},  # one dimension: decayed, never scaled
            {"params": [scale], "weight_decay": 0.0},
        ],
        lr=0.3,
        momentum=0.9,
        trust=0.02,
    )
    parameters = [kernel, zero, bias, scale]
    weights = [p.detach().numpy().copy() for p in parameters]
    velocities = [np.zeros(w.shape) for w in weights]
    for step in range(5):
        gradients = [torch.randn_like(p) for p in parameters]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        lr = 0.3 / (1 + step)
        set_lr(optimizer, lr)
        optimizer.step()
        for i, (w, v, g) in enumerate(zip(weights, velocities, gradients, strict=True)):
            options = {"momentum": 0.9, "weight_decay": decays[i], "trust": 0.02}
            scaled = oracles.lars_velocity(v, w, g.numpy(), **options)
            velocities[i] = scaled if w.ndim > 1 else 0.9 * v + g.numpy() + decays[i] * w
            w -= lr * velocities[i]
    for p, expected in zip(parameters, weights, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12)


def test_lars_state_survives_a_checkpoint():
    def trained(steps: int, resumed_at: int | None) -> torch.Tensor:
        torch.manual_seed(1)
        weight = nn.Parameter(torch.randn(3, 4))
        optimizer = LARS([weight], lr=0.1, momentum=0.9, trust=0.02)
        for step in range(steps):
            if step == resumed_at:
                state = optimizer.state_dict()
                optimizer = LARS([weight], lr=0.1, momentum=0.9, trust=0.02)
                optimizer.load_state_dict(state)
            weight.grad = torch.full_like(weight, step + 1.0)
            optimizer.step()
        return weight.detach()

    assert torch.equal(trained(4, resumed_at=2), trained(4, resumed_at=None))


# Building


@pytest.mark.parametrize(
    "name, kind",
    [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("lars", LARS), ("larc", LARC)],
)
@pytest.mark.parametrize("decay_all", [True, False])
def test_every_trainable_parameter_is_in_one_group(name, kind, decay_all):
    module = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Linear(4, 2))
    frozen = module[2].requires_grad_(False)
    config = OptimConfig(name=name, weight_decay=0.3, decay_norm_and_bias=decay_all)
    optimizer = build_optimizer(module, config)
    assert type(optimizer) is kind
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    expected = [p for p in module.parameters() if p.requires_grad]
    assert {id(p) for p in grouped} == {id(p) for p in expected}
    assert len(grouped) == len(expected) and frozen.weight not in set(grouped)
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert group["weight_decay"] == (0.3 if p.ndim > 1 or decay_all else 0.0)


def test_options_reach_the_optimiser():
    module = nn.Linear(2, 2)
    adamw = build_optimizer(module, OptimConfig(name="adamw", lr=0.2, betas=[0.5, 0.6]))
    assert adamw.param_groups[0]["betas"] == (0.5, 0.6) and adamw.param_groups[0]["lr"] == 0.2
    lars = build_optimizer(module, OptimConfig(name="lars", momentum=0.7, lars_trust=0.3))
    assert lars.param_groups[0]["trust"] == 0.3 and lars.param_groups[0]["momentum"] == 0.7
    assert build_optimizer(module, OptimConfig(momentum=0.7)).param_groups[0]["momentum"] == 0.7


def test_gradient_norm_is_over_all_parameters():
    module = nn.Linear(2, 1)
    optimizer = build_optimizer(module, OptimConfig())
    module.weight.grad, module.bias.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([12.0])
    assert gradient_norm(optimizer).item() == pytest.approx(13)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_rate_on_the_device_changes_nothing_else(name):
    """What a captured step has: every bit is that of a rate in Python."""

    def trained(steps: int, *, on_device: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        optimizer = build_optimizer(module, OptimConfig(name=name, lr=0.3))
        for step in range(steps):
            if on_device and step == 2:
                make_capturable(optimizer, torch.device("cpu"))
            set_lr(optimizer, float(np.float32(0.3 / (step + 1))))  # exact on the device as well
            for p in module.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
        return [p.detach() for p in module.parameters()]

    in_python, on_device = (trained(5, on_device=where) for where in (False, True))
    assert all(map(torch.equal, in_python, on_device))


def test_a_rate_on_the_device_is_the_one_there_was():
    optimizer = build_optimizer(nn.Linear(2, 2), OptimConfig(name="adamw", lr=0.25))
    make_capturable(optimizer, torch.device("cpu"))
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert first is second and first.item() == 0.25
    assert all(group["capturable"] for group in optimizer.param_groups)
    set_lr(optimizer, 0.5)
    assert first is optimizer.param_groups[1]["lr"] and first.item() == 0.5


def test_options_are_the_recipes_not_the_checkpoints():
    """A state saved under run.cuda_graph, or by another kind of optimiser, fits the plain one."""
    module = nn.Linear(2, 2)
    plain = build_optimizer(module, OptimConfig(name="adamw", lr=0.25))
    saved = torch.optim.AdamW(module.parameters(), foreach=True, betas=(0.1, 0.2))
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    saved.step()
    state = saved.state_dict()
    state["param_groups"] = [  # weight and bias in groups of their own, as ours
        {**state["param_groups"][0], "params": [n], "lr": torch.tensor(9.0)} for n in range(2)
    ]
    before = copy.deepcopy(plain.param_groups)
    load_state(plain, state)
    for ours, was in zip(plain.param_groups, before, strict=True):
        assert {k: v for k, v in ours.items() if k != "params"} == {
            k: v for k, v in was.items() if k != "params"
        }
    moments = [plain.state[p] for p in (module.weight, module.bias)]
    assert all(moment["step"].item() == 1 and moment["exp_avg"].any() for moment in moments)


def test_a_state_of_other_groups_is_refused():
    optimizer = build_optimizer(nn.Linear(2, 2), OptimConfig())
    with pytest.raises(ValueError):
        load_state(optimizer, torch.optim.SGD(nn.Linear(2, 2).parameters()).state_dict())


# The generator of a step


def test_seed_of_a_step_is_pure_and_its_own():
    def drawn(*key: int) -> float:
        seed_step(*key)
        return torch.rand(()).item()

    first = drawn(7, 100, 1)
    torch.rand(1000)
    assert drawn(7, 100, 1) == first
    keys = [(seed, step, rank) for seed in range(4) for step in range(50) for rank in range(4)]
    assert len({drawn(*key) for key in keys}) == len(keys)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**16))
def test_any_seed_and_step_can_be_seeded(seed, step, rank):
    seed_step(seed, step, rank)
