"""Ranks train what one process trains, waiting shows, and a recipe's numbers are its own."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from pipeline.manifest import Manifest
from tests import runs
from tools.benchmark import cost, ranks, scale, starvation
from tools.benchmark.measure import Comparison
from tools.benchmark.ranks import Job, Trained
from training import config, stages
from training.distributed import Process

CPU = Process(0, 1, torch.device("cpu"))


class TestScale:
    def test_two_ranks_agree_with_one_process(self, tiny_data, tmp_path):
        recipe, overrides = scale.RECIPES["cpu"]
        job = Job(str(runs.ROOT / recipe), overrides, tiny_data, "cpu", 3, tmp_path)
        two = ranks.trained_by(2, job)
        one = Trained(1.0, ranks._train(job, CPU)[1], torch.load(tmp_path / ranks.WEIGHTS))
        assert len(two.losses) == ranks.WARM_UP_STEPS + 3 and two.steps_a_second > 0
        limits = scale.disagreement(one, two, "2 ranks")
        assert all(limit.reached for limit in limits), list(map(str, limits))
        assert 0 < one.losses[-1] != one.losses[0]

    def test_a_difference_is_told(self):
        one = Trained(1.0, [2.0, 4.0], {"w": torch.tensor([1.0, -4.0]), "n": torch.tensor(3)})
        other = Trained(1.0, [2.0, 4.1], {"w": torch.tensor([1.2, -4.0]), "n": torch.tensor(4)})
        losses, weights = scale.disagreement(one, other, "2 ranks")
        assert losses.value == pytest.approx(0.025) and weights.value == pytest.approx(0.05)
        assert not losses.reached and not weights.reached
        assert str(losses).startswith("2 ranks: losses off one process, relatively: 0.025 (goal")

    def test_a_cpu_has_two_ranks_at_least(self, monkeypatch):
        monkeypatch.setattr(scale.os, "sched_getaffinity", lambda _: {0})
        assert scale.fitting("cpu") == [1, 2]
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
        assert scale.fitting("cuda") == [1, 2, 4]

    def test_every_number_of_ranks_takes_turns(self, tmp_path, monkeypatch):
        trained = Trained(2.0, [1.0], {"w": torch.ones(1)})
        asked = []
        monkeypatch.setattr(scale, "trained_by", lambda world, job: asked.append(world) or trained)
        job = Job("configs/smoke.yaml", [], tmp_path, "cpu", 1, tmp_path)
        found = scale.measure(job, [1, 2], 8, rounds=2)
        assert asked == [1, 2, 2, 1] and found.apart and all(one.reached for one in found.limits)
        assert found.facts["2 ranks"] == {"ms/step": 500.0, "times 1 process": 1.0}

    def test_a_recipe_in_numbers(self):
        recipe = config.load(str(runs.SMOKE), [])
        load = scale.load_of("smoke", recipe, video_bytes=1e6, passes=4, vectors=1, extra_bytes=8)
        # The same network without a stand-in for its arithmetic.
        method, _ = stages.build(stages.plan(recipe, 100)[0], CPU)
        trained = sum(p.numel() for p in method.query.parameters())
        assert load.parameters == trained and load.dim == 8
        encoder, clip = method.encoder().eval(), torch.zeros(1, 3, 4, 16, 16)
        assert load.forward_flops == cost.flops_of(lambda: encoder(clip)) > 1e5


def test_operations_are_counted_in_both_directions():
    layer, x = torch.nn.Linear(4, 5, bias=False), torch.ones(3, 4, requires_grad=True)
    assert cost.flops_of(lambda: layer(x)) == 2 * 3 * 4 * 5
    assert cost.flops_of(lambda: layer(x).sum().backward()) == 3 * (2 * 3 * 4 * 5)


def test_a_processor_can_do_something(monkeypatch):
    monkeypatch.setattr(cost, "PRODUCT_SIDE", 64)
    assert 1e6 < cost.most_flops("cpu") < 1e15


class TestStarvation:
    @pytest.fixture
    def stage(self):
        return stages.plan(config.load(str(runs.SMOKE), []), 10)[0]

    def test_a_slow_loader_shows(self, stage, tiny_data, monkeypatch):
        batches = starvation.Fed.coming

        def slow(self):
            for batch in batches(self):
                time.sleep(0.02)
                yield batch

        # A step that takes next to nothing, on however busy a machine.
        monkeypatch.setattr(starvation, "build_step", lambda *_: lambda batch, **own: None)
        monkeypatch.setattr(starvation.Fed, "coming", slow)
        monkeypatch.setattr(starvation, "STEPS", 50)
        monkeypatch.setattr(cost, "PRODUCT_SIDE", 64)
        turns = {"name": "smoke", "rounds": 1, "seconds": 0.05}
        found = starvation.measure(stage, Manifest.read(tiny_data), CPU, **turns)
        (limit,) = found.limits
        assert limit.value > 2 and limit.most == 1.15 and not limit.reached
        real, cached = (found.rate(name).p50 for name in (starvation.LOADED, starvation.CACHED))
        assert limit.value == pytest.approx(cached / real)
        facts = found.facts[starvation.LOADED]
        assert facts["clips/s"] == pytest.approx(real * 2 * 4) and facts["data wait, ms/step"] > 0
        assert limit.what.startswith("starvation ratio (20 % to 80 % of the rounds ")

    def test_use_and_waits_are_goals_on_a_gpu(self):
        comparison = Comparison("t", "steps", facts={starvation.LOADED: {starvation.USE: 31.0}})

        def goals(name="r3d_18", frames=16, size=112, batch=32) -> list[str]:
            recipe = SimpleNamespace(
                backbone=SimpleNamespace(name=name),
                clip=SimpleNamespace(frames=frames),
                augment=SimpleNamespace(size=size),
                data=SimpleNamespace(batch_size=batch),
            )
            return list(map(str, starvation._on_gpu(comparison, recipe, 2)))

        waits = (
            "waits of the host for the GPU in 10 steps, loader included, that torch sees: 2 "
            "(goal: 0 or less)"
        )
        use = "use of the arithmetic on real data, %: 31 (goal: 30 or more) reached"
        assert goals() == goals(batch=64) == [f"{waits} MISSED", use]
        for other in ({"batch": 16}, {"name": "r2plus1d_18"}, {"frames": 32}, {"size": 224}):
            assert goals(**other) == [f"{waits} MISSED"]

    def test_waits_are_counted_with_the_loader(self, stage, tiny_data, monkeypatch):
        fed, seen = starvation.Fed(stage, Manifest.read(tiny_data), CPU), []
        take = fed.take

        def step(batch, **own):
            seen.append(batch is fed.cached)
            return take(batch, **own)

        def counted(work) -> int:
            before = len(seen)
            work()
            return len(seen) - before

        monkeypatch.setattr(fed, "take", step)
        monkeypatch.setattr(starvation, "COUNTED_STEPS", 3)
        monkeypatch.setattr(starvation, "STEPS", 50)
        monkeypatch.setattr(starvation, "count_syncs", counted)
        assert starvation._Turns(fed, 0.01).waits() == starvation.COUNTED_STEPS
        assert len(seen) > starvation.COUNTED_STEPS and not any(seen)

    def test_recipes_of_the_goals_load(self):
        found = starvation.cases("cuda", None, [])
        assert [recipe.backbone.name for recipe in found.values()] == [
            "r2plus1d_18",
            "r3d_18",
            "slow_r50",
        ]
        assert {recipe.clip.frames for recipe in found.values()} == {16}
        sizes = [recipe.augment.size for recipe in found.values()]
        assert found["R3D-18, 16x112"].backbone.name == starvation.USED["name"]
        assert sizes == [112, 112, 224] and {r.data.batch_size for r in found.values()} == {32}
        (smoke,) = starvation.cases("cpu", None, []).values()
        assert (smoke.data.workers, smoke.data.prefetch_batches) == (1, 2)
        (own,) = starvation.cases("cpu", "configs/demo.yaml", ["data.workers=2"]).items()
        assert own[0] == "demo" and own[1].data.workers == 2
