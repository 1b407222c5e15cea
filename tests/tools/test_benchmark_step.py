"""The rival computes what ours does, and what a step makes its host do is counted right."""

from __future__ import annotations

import json
import pickle
import threading
import warnings
from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.momentum import momentum_twin
from models.ops import ema_, info_nce
from tools.benchmark import step
from tools.benchmark.__main__ import main
from tools.benchmark.dispatches import count_dispatches, count_launches, count_syncs
from tools.benchmark.measure import Comparison
from tools.benchmark.moco_style import Queue, momentum_loop
from tools.benchmark.proof import ROOT, NotProved
from training import config, stages
from training.distributed import Process

SMALL = ["method.queue_size=32", "backbone.width=2"]
CPU = Process(0, 1, torch.device("cpu"))


@pytest.fixture
def both_stages() -> list[stages.Stage]:
    given = [*step.SAME_WORK, *SMALL]
    return stages.plan(config.load(ROOT / "configs" / "smoke.yaml", given), step.VIDEOS)


class TestRival:
    # At a high rate the weights and their average count, and rounding grows to chaos after some
    # steps; at a low one the queue wraps: 10 steps of 4, 32 slots.
    @pytest.mark.parametrize("lr, steps", [(1e-2, 4), (1e-4, 10)])
    @pytest.mark.parametrize("number", [0, 1], ids=["moco", "adversarial"])
    def test_has_our_losses(self, both_stages, monkeypatch, number, lr, steps):
        monkeypatch.setattr(step, "LR", lr)
        stage = both_stages[number]
        batches = step._batches(stage, CPU)
        ours = step.our_loop(stage, CPU, batches, [])
        theirs = step.their_loop(stage, CPU, batches)
        for _ in range(steps):
            assert float(ours.step()) == pytest.approx(theirs.step(), rel=1e-3)

    def test_that_does_other_work_is_refused(self, both_stages, monkeypatch):
        stage = both_stages[0]
        right = step.MocoStyle
        monkeypatch.setattr(
            step, "MocoStyle", lambda *a, **k: right(*a, **{**k, "temperature": 0.19})
        )
        with pytest.raises(NotProved) as error:
            step.check(stage, CPU, step._batches(stage, CPU))
        assert str(error.value).startswith(
            "error: no figure is printed, for the loops do different work · moco, step 1: our "
        )

    def test_is_in_plain_memory_format(self, both_stages):
        batches = step._batches(both_stages[0], CPU)
        theirs = step.their_loop(both_stages[0], CPU, batches)
        for parameter in theirs.networks[0].parameters():
            assert parameter.is_contiguous()

    def test_has_cudnn_choose_by_trial_and_ours_as_it_was(self, both_stages, monkeypatch):
        seen = []
        monkeypatch.setattr(
            step.MocoStyle, "step", lambda *_: seen.append(torch.backends.cudnn.benchmark)
        )
        before = torch.backends.cudnn.benchmark
        step.their_loop(both_stages[0], CPU, step._batches(both_stages[0], CPU)).step()
        assert seen == [True] and torch.backends.cudnn.benchmark == before

    def test_its_queue_counts_ages_in_steps(self):
        queue = Queue(torch.zeros(4, 2), torch.full((4,), -1))
        for number in range(3):
            queue.enqueue(torch.full((2, 2), float(number)), torch.tensor([number, number]))
        assert queue.ids.tolist() == [2, 2, 1, 1] and queue.ages.tolist() == [1, 1, 2, 2]
        assert queue.keys[:, 0].tolist() == [2.0, 2.0, 1.0, 1.0]

    def test_its_queue_takes_whole_batches_only(self):
        with pytest.raises(AssertionError, match="4 slots, batches of 3"):
            Queue(torch.zeros(4, 2), torch.full((4,), -1)).enqueue(
                torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
            )

    def test_its_twin_is_ours(self):
        source = nn.Linear(3, 4)
        twins = [momentum_twin(nn.Linear(3, 4)) for _ in range(2)]
        twins[1].load_state_dict(twins[0].state_dict())
        ema_(list(twins[0].parameters()), list(source.parameters()), 0.9)
        momentum_loop(list(twins[1].parameters()), list(source.parameters()), 0.9)
        torch.testing.assert_close(twins[1].weight, twins[0].weight)


class TestDispatches:
    def test_of_a_known_function(self):
        x = torch.ones(2, 4)
        found = count_dispatches(lambda: (x * 2 + 1).sum())
        names = {"aten::mul.Tensor": 1, "aten::add.Tensor": 1, "aten::sum": 1}
        assert found.outside == Counter(names) and not found.inside

    def test_of_a_network_and_its_backward_pass_apart(self):
        network, x = nn.Linear(4, 4, bias=False), torch.ones(2, 4, requires_grad=True)

        def work() -> None:
            (network(x * 2) * 3).sum().backward()

        # x W^T forward, and by x and by W backward; the products with 2 and 3 are nobody's.
        found = count_dispatches(work, [network])
        assert found.inside["aten::mm"] == 3 and "aten::mm" not in found.outside
        assert found.outside["aten::mul.Tensor"] == 4 and "aten::mul.Tensor" not in found.inside
        alone = count_dispatches(work)
        assert alone.outside.total() >= found.inside.total() + found.outside.total()
        assert not alone.inside

    def test_of_a_network_behind_another_are_its_own(self):
        first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        x = torch.ones(2, 4)
        only_second = count_dispatches(lambda: second(first(x)).sum().backward(), [second])
        assert only_second.inside["aten::mm"] == 3  # forward, by its input, by its weight
        assert only_second.outside["aten::mm"] == 2  # the first's: forward, by its weight

    def test_a_group_of_tensors_is_one(self):
        tensors = [torch.ones(3) for _ in range(5)]
        found = count_dispatches(lambda: torch._foreach_mul_(tensors, 2.0))
        assert found.outside == Counter({"aten::_foreach_mul_.Scalar": 1})

    def test_our_ops_are_looked_into(self):
        query = F.normalize(torch.randn(8, 16), dim=1)
        queue = F.normalize(torch.randn(40, 16), dim=1)
        found = count_dispatches(lambda: info_nce(query, query, queue, 0.1, unit=True)).outside
        assert found["kinema::info_nce"] == 1 and found["aten::mm.out"] == 1
        twin = [torch.ones(3)]
        found = count_dispatches(lambda: ema_(twin, [torch.zeros(3)], 0.9)).outside
        assert found["kinema::ema_"] == 1 and found["aten::_foreach_lerp_.Scalar"] == 1

    def test_nothing_changes_while_it_counts(self):
        query = F.normalize(torch.randn(8, 16), dim=1)
        loss = partial(info_nce, query, query, query, 0.1)
        seen = []
        count_dispatches(lambda: seen.append(loss()))
        assert torch.equal(seen[0], loss())

    def test_waits_of_other_threads_are_theirs(self, monkeypatch):
        """torch's mode is for the whole process, and its warnings come in the thread that waits."""
        modes = []
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

        def wait() -> None:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

        def work() -> None:
            for _ in range(2):
                wait()
            beside = threading.Thread(target=wait)
            beside.start()
            beside.join()

        shown = warnings.showwarning
        assert count_syncs(work) == 2 and modes == ["warn", 0] and warnings.showwarning is shown

    @pytest.mark.needs_cuda
    def test_waits_and_launches_of_a_gpu(self):
        x = torch.ones(4, device="cuda")
        assert count_syncs(lambda: x + 1) == 0 and count_syncs(lambda: (x + 1).sum().item()) == 1
        assert count_launches(lambda: x + 1) == 1 and count_launches(lambda: x + 1 + x) == 2


def peaks(works) -> dict[str, int]:
    """2.5 MB for each, after it has run here. They are built in a process of their own, and what
    goes there has to be sent.
    """
    sent = pickle.loads(pickle.dumps(works))
    return {name: work() is not None and 2_500_000 for name, work in sent().items()}


class TestCommand:
    def test_compares_both_stages(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(step, "require_tests", lambda files, device: None)
        monkeypatch.setattr(step, "extra_bytes_in_fresh_process", peaks)
        for steps in ("WARM_UP_STEPS", "CHECKED_STEPS"):
            monkeypatch.setattr(step, steps, 1)
        given = ["--recipe", str(ROOT / "configs" / "smoke.yaml"), *SMALL, "--parts", "loops"]
        turns = ["--rounds", "1", "--seconds", "0.01", "-o", str(tmp_path)]
        assert main(["step", "--device", "cpu", *given, *turns]) == 0
        content = json.loads((tmp_path / "step.json").read_text())
        assert [one["title"] for one in content["comparisons"]] == [
            f"A step of VideoMoCo, generator {generator}: r3d_18, width 2, 4 x 4 x 16 pixels, "
            "K = 32, fp32"
            for generator in ("none", "adversarial")
        ]
        for one in content["comparisons"]:
            assert one["ours"] == step.OURS and one["sides"][step.RIVAL]["goal"] == 1.0
            facts = [one["sides"][name]["facts"] for name in (step.OURS, step.RIVAL)]
            outside = [each["dispatches outside"] for each in facts]
            assert one["limits"][0]["value"] == pytest.approx(outside[0] / outside[1])
            for name, fact in zip((step.OURS, step.RIVAL), facts, strict=True):
                steps = one["sides"][name]["rate"]["p50"]
                assert fact["clips/s"] == pytest.approx(steps * 2 * 4) and fact["peak MB"] == 2.5
            shares = [fact["model FLOP use %"] / fact["clips/s"] for fact in facts]
            assert shares[0] == pytest.approx(shares[1])
        assert "operations outside the networks over the rival's" in capsys.readouterr().out

    def test_tests_that_fail_stop_it(self, tmp_path, monkeypatch, capsys):
        def refuse(files, device):
            raise NotProved("error: not today")

        monkeypatch.setattr(step, "require_tests", refuse)
        assert main(["step", "--device", "cpu", "-o", str(tmp_path)]) == 1
        assert capsys.readouterr().err == "error: not today\n" and not list(tmp_path.iterdir())

    def test_without_time_it_says_what_it_leaves(self, tmp_path, monkeypatch):
        monkeypatch.setattr(step, "require_tests", lambda files, device: None)
        given = ["--recipe", str(ROOT / "configs" / "smoke.yaml"), "--budget", "1e-9"]
        given += ["--parts", "loops"]
        assert main(["step", "--device", "cpu", "-o", str(tmp_path), *given]) == 0
        content = json.loads((tmp_path / "step.json").read_text())
        assert len(content["not_measured"]) == 2 and not content["comparisons"]

    def test_its_proofs_are_there(self):
        assert all((ROOT / path).exists() for path in step.PROOFS)


def test_options_are_in_the_title(both_stages):
    title = step._title(both_stages[0], [[], ["compile"], ["compile", "cuda_graph"]])
    assert title.endswith("fp32, run.compile, run.compile + cuda_graph")


def test_the_fastest_of_ours_is_compared():
    rates = {"Kinema": [1.0], "Kinema + compile": [3.0], step.RIVAL: [9.0]}
    comparison = Comparison("t", "steps", rates=rates)
    step._fastest_first(comparison)
    assert list(comparison.rates) == ["Kinema + compile", "Kinema", step.RIVAL]
    assert comparison.ratio("Kinema").p50 == 3.0
