"""A part that fails is recorded and the others go on; one JSON and one Markdown come of it."""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from tools.benchmark import cpu, gpu
from tools.benchmark.__main__ import _parser, main
from tools.benchmark.conditions import file_stem, processor
from tools.benchmark.measure import Comparison
from tools.benchmark.parts import BUDGET, ROOT, Part, run_part
from tools.benchmark.record import Record
from tools.benchmark.workings import Figure, Workings


def python(code: str) -> list[str]:
    return ["-c", code]


def is_running(pid: int) -> bool:
    """Of a process whose parent may be slow to take note of its end."""
    path = Path(f"/proc/{pid}/stat")
    try:
        return path.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


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
        child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
        done = outcome(Part("p", [python(code)], 1.4), tmp_path)
        assert done.failure.startswith("not done after 1 s: python -c")
        assert 1 < done.seconds < 3
        until = time.monotonic() + 10
        while is_running(int(done.tail[-1])) and time.monotonic() < until:
            time.sleep(0.01)
        assert not is_running(int(done.tail[-1]))

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


def benchmark(path: Path, rate: float = 2.0) -> Part:
    """One that measures something with threads of its own, writes it to `path`, and then fails."""
    rates, goals = {"Kinema": [rate], "eager": [1.0]}, {"eager": 3.0}
    record = Record(path.parents[2] / f"made-{path.stem}.json", Console(quiet=True))
    record.add(Comparison(f"loss of {path.stem}", "calls", rates=rates, goals=goals))
    record.comparisons[0].conditions |= {"threads": 77, "command": f"measured {path.stem}"}
    record.not_measured.append("loss 4 x 5")
    record.explain(Workings("bytes", [Figure("sent", 8.0, "MB", "2 x 4 MB")], ["one link"]))
    made, target = str(record.path), str(path)
    folder = f"import pathlib, shutil; pathlib.Path({target!r}).parent.mkdir(); "
    code = python(f"{folder}shutil.copy({made!r}, {target!r}); raise SystemExit(1)")
    return Part(path.parent.name, [code], 60, benchmark=path.stem)


def test_what_was_measured_is_kept_where_a_part_fails(tmp_path, scratch, monkeypatch, capsys):
    parts = [
        Part("doctor", [python("print('fine')")], 60),
        Part("tests", [python("print('== 7 passed in 2 s ==')")], 60),
        benchmark(scratch / "ops" / "ops.json"),
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
    assert "### loss of ops" in text and "| sent | 8 MB | 2 x 4 MB |" in text
    assert "- loss of ops: 2 times as fast as eager (goal: 3 or more) MISSED" in text
    assert "- torch: " in text and "- ops: loss 4 x 5" in text and "- cores: " in text
    assert "torch threads 77" in text and ": measured ops\n" in text and "- threads:" not in text
    assert content["comparisons"][0]["conditions"]["part"] == "ops"


def test_what_other_parts_left_stays_with_its_conditions(tmp_path, scratch, monkeypatch):
    """A record grows part by part: a quiet quarter of an hour need not come in one piece."""
    folder = tmp_path / "results"
    runs = [("memory", 2.0), ("scale", 3.0)], [("memory", 5.0)]
    for run in runs:
        parts = [benchmark(scratch / name / f"{name}.json", rate) for name, rate in run]
        monkeypatch.setattr(cpu, "SCRATCH", scratch)
        monkeypatch.setattr(cpu, "parts_of", lambda arguments, parts=parts: parts)
        assert main(["cpu", "--parts", "memory", "scale", "-o", str(folder)]) == 1
    (path,) = folder.glob("*.json")
    content = json.loads(path.read_text())
    assert path.stem == file_stem(processor())
    found = {one["title"]: one for one in content["comparisons"]}
    assert list(found) == ["loss of scale", "loss of memory"]
    assert [one["sides"]["Kinema"]["rates"] for one in found.values()] == [[3.0], [5.0]]
    assert [one["conditions"]["command"] for one in found.values()] == [
        "measured scale",
        "measured memory",
    ]
    assert [part["name"] for part in content["parts"]] == ["scale", "memory"]
    assert content["not_measured"] == ["scale: loss 4 x 5", "memory: loss 4 x 5"]
    assert len(content["workings"]) == 1
    text = path.with_suffix(".md").read_text()
    assert text.count("### loss of ") == 2 and "| scale | exit code 1" in text


def test_all_is_well_where_no_part_fails(tmp_path, scratch, monkeypatch):
    monkeypatch.setattr(gpu, "parts_of", lambda arguments: [Part("doctor", [python("")], 60)])
    assert main(["gpu", "--device", "cpu", "-o", str(tmp_path)]) == 0


def parts_of(command, *given: str) -> dict[str, Part]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return {part.name: part for part in command.parts_of(parser.parse_args(given))}


@pytest.mark.parametrize("quick", [[], ["--quick"]], ids=["whole", "quick"])
@pytest.mark.parametrize("command", [cpu, gpu])
def test_every_part_is_a_command_that_exists(command, quick):
    """Told where to write and, if it takes long, when to begin nothing more."""
    parts = parts_of(command, *quick)
    assert tuple(parts) == command.PARTS
    for name, part in parts.items():
        if not part.benchmark:
            continue
        (words,) = part.commands
        assert words[:3] == ["-m", "tools.benchmark", part.benchmark]
        assert words[words.index("-o") + 1] == f"{command.SCRATCH}/{name}"
        assert (BUDGET in words) == (part.benchmark not in ("memory", "scale"))
        _parser().parse_args([word.replace(BUDGET, "5") for word in words[2:]])


def test_the_goals_of_a_cpu_are_in_its_record():
    words = parts_of(cpu)["data"].commands[0]
    assert {"loaders", "originals", "damaged", "clips"} <= set(words)
    assert {"memory", "starvation", "scale"} < set(cpu.DEFAULT) < set(cpu.PARTS)


class TestParts:
    @pytest.fixture
    def of(self):
        return partial(parts_of, gpu)

    def test_no_test_may_be_skipped_on_a_gpu(self, of):
        assert of()["tests"].environment == {"REQUIRE_CUDA": "1"}
        assert of()["tests"].commands == [["-m", "pytest", "-q", "-m", "needs_cuda"]]
        assert not of("--device", "cpu")["tests"].environment

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
