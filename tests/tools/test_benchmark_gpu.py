"""A part that fails is recorded and the others go on; one JSON and one Markdown come of it."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from tools.benchmark import gpu
from tools.benchmark.__main__ import _parser, main
from tools.benchmark.conditions import file_stem, processor
from tools.benchmark.measure import Comparison
from tools.benchmark.parts import BUDGET, ROOT, Part, run_part
from tools.benchmark.record import Record
from tools.benchmark.workings import Figure, Workings


def python(code: str) -> list[str]:
    return ["-c", code]


def outcome(part: Part, tmp_path: Path, *, seconds: float = 60.0):
    return run_part(part, log=tmp_path / "log", deadline=time.monotonic() + seconds)


class TestPart:
    def test_runs_its_commands_in_order(self, tmp_path):
        part = Part("p", [python("print(1)"), python("print(2)")], 60)
        done = outcome(part, tmp_path)
        assert not done.failure and done.seconds > 0
        assert done.tail == ["$ python -c 'print(1)'", "1", "$ python -c 'print(2)'", "2"]

    def test_ends_with_the_first_that_fails(self, tmp_path):
        part = Part("p", [python("raise SystemExit(3)"), python("print('two')")], 60)
        done = outcome(part, tmp_path)
        assert done.failure == "exit code 3: python -c 'raise SystemExit(3)'"
        assert "two" not in done.tail

    def test_its_settings_are_its_own(self, tmp_path):
        show = python("import os; print(os.environ['REQUIRE_CUDA'])")
        assert (
            outcome(Part("p", [show], 60, environment={"REQUIRE_CUDA": "1"}), tmp_path).tail[-1]
            == "1"
        )
        assert "REQUIRE_CUDA" not in os.environ

    def test_ends_in_time_with_all_that_it_started(self, tmp_path):
        child = f"import time; open({str(tmp_path / 'begun')!r}, 'w'); time.sleep(3); "
        child += f"open({str(tmp_path / 'late')!r}, 'w')"
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
        done = outcome(Part("p", [python(code)], 1.5), tmp_path)
        assert done.failure.startswith("not done after 1 s: python -c")
        assert 1 < done.seconds < 3
        time.sleep(2.5)
        assert not (tmp_path / "late").exists()

    def test_has_its_share_of_the_time_and_is_told(self, tmp_path):
        part = Part("p", [python(f"print({BUDGET!r})")], 60, share=0.5)
        assert outcome(part, tmp_path, seconds=40).tail[-1] == "15"  # 0.75 x 0.5 x 40
        assert outcome(part, tmp_path, seconds=4000).tail[-1] == "45"

    def test_after_the_deadline_nothing_runs(self, tmp_path):
        done = outcome(Part("p", [python("print(1)")], 60), tmp_path, seconds=-1)
        assert done.failure == "no time was left for it"

    def test_its_output_knows_no_machine(self, tmp_path):
        code = python("import os, pathlib; print(os.getcwd() + '/x', pathlib.Path.home())")
        assert outcome(Part("p", [code], 60), tmp_path).tail[-1] == "x ~"


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(gpu, "SCRATCH", tmp_path / "scratch")
    return tmp_path / "scratch"


def benchmark(path: Path) -> list[str]:
    """A command that measures something, writes it to `path`, and then fails."""
    rates, goals = {"Kinema": [2.0], "eager": [1.0]}, {"eager": 3.0}
    record = Record(path.parents[2] / "made.json", Console(quiet=True))
    record.comparisons.append(Comparison("loss, 1 x 2", "calls", rates=rates, goals=goals))
    record.not_measured.append("loss 4 x 5")
    record.explain(Workings("bytes", [Figure("sent", 8.0, "MB", "2 x 4 MB")], ["one link"]))
    made, path = str(record.path), str(path)
    folder = f"import pathlib, shutil; pathlib.Path({path!r}).parent.mkdir(); "
    return python(f"{folder}shutil.copy({made!r}, {path!r}); raise SystemExit(1)")


def test_what_was_measured_is_kept_where_a_part_fails(tmp_path, scratch, monkeypatch, capsys):
    parts = [
        Part("doctor", [python("print('fine')")], 60),
        Part("tests", [python("print('== 7 passed in 2 s ==')")], 60),
        Part("ops", [benchmark(scratch / "ops" / "ops.json")], 60),
        Part("step", [python("raise SystemExit('error: [no] step')")], 60),
    ]
    monkeypatch.setattr(gpu, "parts_of", lambda arguments: parts)
    folder = tmp_path / "results"
    assert main(["gpu", "--device", "cpu", "-o", str(folder)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: 2 of 4 parts failed: ops, step · ")
    assert "doctor: ok" in said.out and "error: [no] step" in said.out

    stem = file_stem(processor())
    assert {path.name for path in folder.iterdir()} == {
        f"{stem}{s}" for s in (".json", ".md", ".html")
    }
    assert "<td>2 (2, 2)</td>" in (folder / f"{stem}.html").read_text()
    content = json.loads((folder / f"{stem}.json").read_text())
    assert [part["name"] for part in content["parts"]] == ["doctor", "tests", "ops", "step"]
    assert [bool(part["failure"]) for part in content["parts"]] == [False, False, True, True]
    assert content["parts"][3]["tail"][-1] == "error: [no] step"
    assert content["comparisons"][0]["sides"]["Kinema"]["rates"] == [2.0]

    text = (folder / f"{stem}.md").read_text()
    assert text.startswith(f"# {processor()}\n")
    assert "| doctor | ok | " in text and "| tests | ok, 7 passed in 2 s | " in text
    assert "### loss, 1 x 2" in text and "| sent | 8 MB | 2 x 4 MB |" in text
    assert "- loss, 1 x 2: 2 times as fast as eager (goal: 3 or more) MISSED" in text
    assert "- torch: " in text and "- loss 4 x 5" in text and "- cores: " in text


def test_all_is_well_where_no_part_fails(tmp_path, scratch, monkeypatch):
    monkeypatch.setattr(gpu, "parts_of", lambda arguments: [Part("doctor", [python("")], 60)])
    assert main(["gpu", "--device", "cpu", "-o", str(tmp_path)]) == 0


class TestParts:
    @pytest.fixture
    def of(self, scratch):
        def parts(*given: str) -> dict[str, Part]:
            parser = argparse.ArgumentParser()
            gpu.add_arguments(parser)
            return {part.name: part for part in gpu.parts_of(parser.parse_args(given))}

        return parts

    def test_no_test_may_be_skipped_on_a_gpu(self, of):
        assert of()["tests"].environment == {"REQUIRE_CUDA": "1"}
        assert of()["tests"].commands == [["-m", "pytest", "-q", "-m", "needs_cuda"]]
        assert not of("--device", "cpu")["tests"].environment

    def test_all_of_them_are_known(self, of):
        assert tuple(of()) == gpu.PARTS

    def test_benchmarks_are_told_to_stop_before_they_are_ended(self, of):
        for name, what in gpu.BENCHMARKS.items():
            (command,) = of()[name].commands
            assert command[:3] == ["-m", "tools.benchmark", what]
            assert command[command.index("--budget") + 1] == BUDGET
            assert command[command.index("-o") + 1].endswith(f"/{name}")
            _parser().parse_args([word.replace(BUDGET, "5") for word in command[2:]])

    def test_decoders_come_before_all_that_is_compared(self, of):
        assert list(of()).index("nvdec") == 1

    def test_trains_on_the_device(self, of):
        *_, plain, graph = of()["training"].commands
        assert plain[:2] == graph[:2] == ["train.py", "configs/smoke.yaml"]
        assert {"run.device=cuda", "run.precision=bf16"} <= set(plain)
        assert "run.cuda_graph=true" in graph
        assert "run.device=cpu" in of("--device", "cpu")["training"].commands[-1]

    def test_make_calls_it(self):
        assert "\t$(PYTHON_RUN) -m tools.benchmark gpu\n" in (ROOT / "Makefile").read_text()
