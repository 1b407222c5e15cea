"""Only right results are timed, all sides do the same work, and nothing is left out unsaid."""

from __future__ import annotations

import argparse
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from models.ops.reference.info_nce import eager
from tools.benchmark import floor
from tools.benchmark.__main__ import main
from tools.benchmark.clocks import GpuRate, captured
from tools.benchmark.measure import Comparison, NotInstalled
from tools.benchmark.ops import in_batch, info_nce, run
from tools.benchmark.ops.problem import COMPILED, EAGER, OURS, Problem, check
from tools.benchmark.proof import ROOT, NotProved, require_tests

needs_cuda = pytest.mark.needs_cuda
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No tests within tests, and neither a compiler nor another process."""
    monkeypatch.setattr(run, "require_tests", lambda files, device: None)
    for module in (info_nce, in_batch):
        monkeypatch.setattr(module, "compiled", lambda function: function)
    extra = {OURS: 8_000_000, EAGER: 80_000_000}
    monkeypatch.setattr(run.memory, "extra_bytes_in_fresh_process", lambda works: extra)


def options(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return parser.parse_args(given)


class TestProof:
    def test_passing_tests_are_run_and_let_pass(self, tmp_path):
        path = tmp_path / "test_right.py"
        path.write_text("def test_it():\n    open(__file__ + '.ran', 'x').close()\n")
        require_tests([str(path)], device="cpu")
        assert (tmp_path / "test_right.py.ran").exists()

    def test_a_failing_test_is_named(self, tmp_path):
        path = tmp_path / "test_wrong.py"
        path.write_text("def test_it():\n    assert 1 == 2\n")
        with pytest.raises(NotProved) as error:
            require_tests([str(path)], device="cpu")
        start, failed, command = str(error.value).split(" · ")
        assert start == "error: no figure is printed, for the tests do not pass"
        assert "test_wrong.py::test_it" in failed and "\n" not in str(error.value)
        assert command == f"python -m pytest -q -x --no-header {path}"

    def test_a_missing_test_is_no_proof(self, tmp_path):
        with pytest.raises(NotProved, match=r"file or directory not found: .*/test_no\.py"):
            require_tests([str(tmp_path / "test_no.py")], device="cpu")

    def test_on_a_gpu_a_skipped_test_is_no_proof(self, monkeypatch):
        seen = {}
        done = SimpleNamespace(returncode=0)
        monkeypatch.setattr(
            "tools.benchmark.proof.subprocess.run",
            lambda command, **more: seen.update(more, command=command) or done,
        )
        require_tests(["tests/models/test_x.py"], device="cuda")
        assert seen["env"]["REQUIRE_CUDA"] == "1" and seen["command"][-2:] == ["-m", "needs_cuda"]

    def test_without_it_the_command_prints_and_writes_nothing(self, tmp_path, monkeypatch, capsys):
        def refuse(files, device):
            raise NotProved(f"error: {files} on {device}")

        monkeypatch.setattr(run, "require_tests", refuse)
        assert main(["ops", "--quick", "--ops", "info_nce", "-o", str(tmp_path)]) == 1
        said = capsys.readouterr()
        assert said.err == "error: ['tests/models/test_info_nce.py'] on cpu\n"
        assert "ms" not in said.out and not list(tmp_path.iterdir())

    def test_a_wrong_op_is_refused_by_the_tensors_to_be_timed(self, tmp_path, monkeypatch, capsys):
        right = info_nce.info_nce
        monkeypatch.setattr(info_nce, "info_nce", lambda *a, **k: 1.001 * right(*a, **k))
        assert main(["ops", "--quick", "--ops", "info_nce", "-o", str(tmp_path)]) == 1
        said = capsys.readouterr()
        assert said.err.startswith(
            "error: no figure is printed, for info_nce is wrong · "
            "info_nce, N = 8, K = 256, D = 128, float32 · its result is off by 1.0e-03, allowed is "
        )
        assert "ms" not in said.out and not list(tmp_path.iterdir())

    def test_every_op_has_its_tests(self):
        for name, *_ in run.OPS.values():
            assert (ROOT / "tests" / "models" / f"test_{name}.py").exists()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "op, dtype", [*((op, "float32") for op in run.OPS), *((op, "bfloat16") for op in run.HALF)]
)
def test_all_sides_do_the_same_work(op, dtype, device):
    given = options("--quick", "--ops", op, "--dtypes", dtype)
    for task in run.tasks(given, device):
        problem = task.build()
        sides = set(problem.works)
        errors = check(problem, task.dtype)
        assert sides - set(errors) == set(problem.left_out) <= {info_nce.CUT}
        assert list(errors)[:2] == [OURS, EAGER]
        assert all(error <= (1e-5 if dtype == "float32" else 0.05) for error in errors.values())


class TestInfoNce:
    def test_cut_cross_entropy_needs_a_gpu(self):
        problem = info_nce.problem(4, 32, device="cpu", dtype=torch.float32)
        check(problem, torch.float32)
        assert problem.left_out == {info_nce.CUT: "its kernels need a GPU"}

    def test_cut_cross_entropy_missing_on_a_gpu_is_told(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cut_cross_entropy", None)
        with pytest.raises(NotInstalled, match="not installed: pip install cut-cross-entropy=="):
            info_nce._cut_cross_entropy(SimpleNamespace(is_cuda=True), None, None)

    def test_a_label_among_the_keys_gives_the_loss_of_none(self):
        def linear_cross_entropy(e, c, targets, reduction):
            return F.cross_entropy(e @ c.T, targets, reduction=reduction)

        query, key, queue = (F.normalize(torch.randn(n, 16), dim=1) for n in (5, 5, 33))
        loss = info_nce._cut(linear_cross_entropy, query, key, queue)
        torch.testing.assert_close(loss, eager(query, key, queue, info_nce.TEMPERATURE))

    def test_truth_is_the_same_in_parts(self, monkeypatch):
        vectors = [F.normalize(torch.randn(n, 16), dim=1) for n in (7, 7, 33)]
        whole = info_nce._exact(*vectors)
        monkeypatch.setattr(info_nce, "EXACT_LOGITS", 3 * 33)
        for part, expected in zip(info_nce._exact(*vectors), whole, strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-12, atol=0)

    def test_what_does_not_fit_is_left_out_and_ours_is_not(self, monkeypatch):
        monkeypatch.setattr(info_nce, "free_bytes", lambda device: 3e9)
        problem = info_nce.problem(1024, 256 * 1024, device="cpu", dtype=torch.float32)
        assert problem.left_out == {  # 1,024 x 262,144 x 4 bytes = 1.07 GB
            EAGER: "needs about 3 GB, 3 GB are free",
        }
        assert next(iter(problem.works)) == OURS and COMPILED in problem.works


def doubling(**works) -> Problem:
    x = torch.ones(3)
    return Problem("double", "3 numbers", {OURS: lambda: (2 * x,), **works}, lambda: (2 * x,))


class TestCheck:
    def test_a_rival_that_does_other_work_is_left_out(self):
        problem = doubling(eager=lambda: (torch.full((3,), 2.01),), short=lambda: (torch.ones(2),))
        assert check(problem, torch.float32) == {OURS: 0}
        assert problem.left_out == {
            "eager": "its result is off by 5.0e-03: it does another work",
            "short": "its result is off by inf: it does another work",
        }
        assert list(problem.works) == [OURS]

    def test_a_rival_that_fails_is_left_out(self):
        def fail():
            raise RuntimeError("out of\nmemory")

        problem = doubling(eager=fail)
        check(problem, torch.float32)
        assert problem.left_out == {"eager": "it fails: RuntimeError: out of memory"}

    def test_no_number_is_no_result(self):
        problem = doubling(eager=lambda: (torch.full((3,), torch.nan),))
        check(problem, torch.float32)
        assert "eager" in problem.left_out

    def test_ours_may_err_as_the_eager_form_does(self):
        def off(by: float) -> Problem:
            problem = doubling(eager=lambda: (torch.full((3,), 2 + 2e-4),))
            problem.works[OURS] = lambda: (torch.full((3,), 2 + by),)
            return problem

        check(off(3.9e-4), torch.float32)
        with pytest.raises(NotProved, match=r"off by 2\.1e-04, allowed is 2\.0e-04"):
            check(off(4.2e-4), torch.float32)


class TestTasks:
    def test_the_size_of_the_goals_comes_first_and_the_largest_last(self):
        found = [str(task) for task in run.tasks(options(), "cpu")]
        assert found[0] == "info_nce 256 x 65536 float32"
        assert found[1].startswith("nt_xent") and found[-1] == "info_nce 1024 x 65536 float32"
        assert sum(name.startswith("info_nce") for name in found) == 6

    def test_a_gpu_has_all_sizes_in_both_precisions(self):
        found = [str(task) for task in run.tasks(options("--ops", "info_nce"), "cuda")]
        assert len(found) == 2 * 16 and "bfloat16" in found[0] and "float32" in found[1]
        assert "info_nce 4096 x 1048576 bfloat16" in found

    def test_all_and_some_sizes(self):
        assert len(run.tasks(options("--ops", "info_nce", "--all"), "cpu")) == 16
        (task,) = run.tasks(options("--ops", "info_nce", "--sizes", "3x40"), "cpu")
        assert task.size == (3, 40)

    @pytest.mark.parametrize("size", ["3", "3x", "3x0", "axb"])
    def test_a_size_that_is_none_is_told(self, size, capsys):
        with pytest.raises(SystemExit):
            options("--sizes", size)
        said = capsys.readouterr().err
        assert f"expected queries x keys as 256x65536, got '{size}'" in said


class TestCommand:
    def test_writes_every_figure(self, tmp_path, capsys):
        tiny = ["--sizes", "4x64", "4x128", "--ops", "info_nce", "--rounds", "2"]
        assert main(["ops", *tiny, "-o", str(tmp_path)]) == 0
        content = json.loads((tmp_path / "ops.json").read_text())
        assert [one["title"] for one in content["comparisons"]] == [
            "info_nce, N = 4, K = 64, D = 128, float32",
            "info_nce, N = 4, K = 128, D = 128, float32",
        ]
        sides = content["comparisons"][0]["sides"]
        assert set(sides) == {OURS, EAGER, COMPILED, info_nce.ATTENTION}
        assert sides[OURS]["facts"]["extra MB"] == 8 and sides[OURS]["milliseconds"]["p50"] > 0
        assert content["comparisons"][0]["left_out"] == {info_nce.CUT: "its kernels need a GPU"}
        said = capsys.readouterr().out
        assert "left out: cut-cross-entropy: its kernels need a GPU" in said
        assert "OMP_NUM_THREADS" in said

    def test_without_time_it_says_what_it_leaves(self, tmp_path, capsys):
        tiny = ["--sizes", "4x64", "--ops", "info_nce", "--budget", "1e-9"]
        assert main(["ops", *tiny, "-o", str(tmp_path)]) == 0
        left = ["info_nce 4 x 64 float32"]
        assert json.loads((tmp_path / "ops.json").read_text())["not_measured"] == left
        assert "no time is left for info_nce 4 x 64 float32" in capsys.readouterr().out

    def test_a_gpu_that_is_not_there_is_an_error(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert main(["ops", "--device", "cuda", "-o", str(tmp_path)]) == 2
        assert "torch finds no GPU" in capsys.readouterr().err


class TestFlatness:
    def test_compares_the_most_keys_with_the_fewest(self):
        def measured(queries: int, keys: int, megabytes: float) -> tuple[run.Task, Comparison]:
            facts = {OURS: {"extra MB": megabytes}}
            task = run.Task("info_nce", (queries, keys), torch.float32, build=None)
            return task, Comparison("t", "calls", rates={OURS: [1.0]}, facts=facts)

        done = [
            measured(256, 65_536, 9.0),
            measured(64, 65_536, 8.0),
            measured(64, 16_384, 2.0),
            measured(256, 16_384, 8.0),
            measured(256, 1_024, 0.1),  # less than a tile
        ]
        limits = run.judge_flatness(done)
        assert [str(limit) for limit in limits] == [
            "extra memory at N = 256, 65,536 keys over 16,384: 1.12 (goal: 1.25 or less) reached",
            "extra memory at N = 64, 65,536 keys over 16,384: 4 (goal: 1.25 or less) MISSED",
        ]
        assert done[0][1].limits == [limits[0]] and not done[3][1].limits


def test_floor_is_the_largest_of_three_times():
    h100 = floor.DEVICES["NVIDIA H100 80GB HBM3"]

    def microseconds(queries: int, keys: int) -> float:
        return 1e6 * floor.info_nce_seconds(h100, queries=queries, keys=keys, dim=128)

    # 4 x 256 x 65,536 x 128 / 989e12 = 8.7 us, over 4.5 us of exponentials and 5.0 us of memory.
    assert microseconds(256, 65_536) == pytest.approx(10 + 8.7, abs=0.05)
    # Few queries: 2 x 65,536 x 128 bytes / 3.35e12 = 5.0 us.
    assert microseconds(64, 65_536) == pytest.approx(10 + 5.0, abs=0.05)


@needs_cuda
class TestOnGpu:
    def test_a_graph_does_what_it_recorded(self):
        x = torch.ones(3, device="cuda")
        replay = captured(lambda: x.add_(1))
        before = x.clone()
        replay()
        assert torch.equal(x, before + 1)

    def test_its_clock_sees_the_work(self):
        rate = GpuRate()
        small, large = (torch.empty(n, device="cuda") for n in (2**24, 2**28))
        ratio = rate(lambda: small.zero_() is not None) / rate(lambda: large.zero_() is not None)
        assert 4 < ratio < 64
