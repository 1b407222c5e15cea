import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tools import demo
from tools.demo import FULL, QUICK, Record, Step, StepFailed
from training.errors import ConfigError

STEP = Step("index train", ["-c", "pass"], once=True)


def run_demo(*arguments, code=0):
    command = [sys.executable, "-m", "tools.demo", *map(str, arguments)]
    done = subprocess.run(command, cwd=demo.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_quick_demo_end_to_end(tmp_path):
    folder = tmp_path / "my demo"
    done = run_demo(folder, "--quick")
    commands = [line for line in done.stdout.splitlines() if line.startswith("$ python ")]
    assert len(commands) == 4 + 1 + 6
    assert commands[0].startswith(f"$ python -m tools.synth '{folder}/videos/train'")
    for text in ("random network", "pretrained", "raw pixels", "R@10", "linear top-1"):
        assert text in done.stdout
    assert "4 classes, chance 25.0 %" in done.stdout
    assert "12 test videos, 24 training videos" in done.stdout
    assert "R@1: pretrained " in done.stdout and " points over the ra" in done.stdout
    assert f"report: {folder / 'report.html'}" in done.stdout
    page = (folder / "report.html").read_text()
    assert "http" not in page
    HTMLParser().feed(page)
    assert page.count("<figure>") == 12
    record = json.loads((folder / "demo.json").read_text())
    assert (record["seed"], record["quick"]) == (0, True)
    assert len(record["steps"]) == 11 and all(step["done"] for step in record["steps"].values())

    refused = run_demo(folder, "--quick", "--seed", 1, code=2)
    assert refused.stderr == (
        "error: the folder has the demo of seed 0, quick True, asked is seed 1, quick True · "
        f"{folder} · choose another folder\n"
    )


def test_steps_are_commands_of_this_repository():
    steps = demo.data_steps(Path("demo"), FULL, seed=3)
    steps += [demo.training_step(Path("demo"), FULL, seed=3)]
    steps += demo.evaluation_steps(Path("demo"), FULL, seed=3, checkpoint="x.pt")
    lines = [demo.shown(step.command) for step in steps]
    assert lines[0] == (
        "python -m tools.synth demo/videos/train --split train --classes 12 --videos-per-class 80 "
        "--seed 3"
    )
    assert "--seed 1003" in lines[2]
    assert lines[3].endswith("-o demo/test.parquet --classes-from demo/train.parquet")
    assert lines[4] == (
        "python train.py configs/demo.yaml data.train=demo/train.parquet run.dir=demo/run "
        "run.seed=3"
    )
    assert lines[5] == (
        "python evaluate.py retrieval --checkpoint random --recipe configs/demo.yaml run.seed=3 "
        "--clips 2 --train demo/train.parquet --test demo/test.parquet -o demo/eval/random"
    )
    assert len({step.name for step in steps}) == 11


@pytest.mark.parametrize("scale", [FULL, QUICK])
def test_recipes_are_there(scale):
    assert (demo.ROOT / scale.recipe).is_file()


@pytest.fixture
def record(tmp_path) -> Record:
    return Record(tmp_path / "demo.json", {"seed": 0, "quick": True})


def test_a_failing_step_ends_the_demo_with_its_code(record):
    step = Step("pretraining", ["-c", "import sys; sys.exit(4)"])
    with pytest.raises(StepFailed) as failed:
        demo.run_step(step, record)
    assert failed.value.exit_code == 4
    assert str(failed.value) == (
        "error: step 'pretraining' ended with exit code 4 · its message is above · run it by hand: "
        "python -c 'import sys; sys.exit(4)'"
    )
    assert not record.is_done(step)


def test_the_command_line_ends_with_that_code(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(demo, "data_steps", lambda *_: [Step("videos", ["-c", "exit(3)"])])
    assert demo.main([str(tmp_path), "--quick"]) == 3
    assert "error: step 'videos' ended with exit code 3" in capfd.readouterr().err


@pytest.mark.parametrize(("code", "ended"), [("exit(75)", 75), ("exit(130)", 130)])
def test_a_stopped_step_says_how_to_go_on(record, code, ended):
    with pytest.raises(StepFailed) as stopped:
        demo.run_step(Step("pretraining", ["-c", code]), record)
    assert stopped.value.exit_code == ended
    assert str(stopped.value) == "stopped: run the same demo again to continue"


def test_a_killed_step_has_the_code_of_a_shell(record):
    with pytest.raises(StepFailed) as killed:
        demo.run_step(Step("x", ["-c", "import os; os.kill(os.getpid(), 9)"]), record)
    assert killed.value.exit_code == 137


def test_a_finished_step_is_left_alone(record, tmp_path, capfd):
    line = f"open({str(tmp_path / 'log')!r}, 'a').write('x')"
    step, changed = Step("videos train", ["-c", line], once=True), ["-c", line + ";1"]
    for _ in range(2):
        demo.run_step(step, Record(record.path, record.settings))
    assert (tmp_path / "log").read_text() == "x"
    assert "done before" in capfd.readouterr().out
    demo.run_step(Step("videos train", changed, once=True), Record(record.path, record.settings))
    demo.run_step(Step("pretraining", step.command), record)
    demo.run_step(Step("pretraining", step.command), record)
    assert (tmp_path / "log").read_text() == "xxxx"


def test_times_add_up_over_attempts_and_parts(record):
    record.note(STEP, 2.0, done=False)
    record.note(STEP, 3.0, done=True)
    record.note(STEP, 50.0, done=True)  # a finished step run again keeps its time
    record.note(Step("index test", ["x"]), 1.5, done=True)
    assert Record(record.path, record.settings).seconds() == {"index": 6.5}


def test_another_demo_in_the_folder(record):
    record.note(STEP, 1.0, done=True)
    with pytest.raises(ConfigError, match="seed 0, quick True, asked is seed 0, quick False"):
        Record(record.path, {"seed": 0, "quick": False})
