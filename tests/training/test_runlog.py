"""The run folder: one owner, one line a step, and no secrets."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import socket
from types import SimpleNamespace

import pytest
import torch

from tests.training.test_stages import ONE_STAGE, schedule
from training import runlog, step_lines
from training.errors import ConfigError, NumericError
from training.runlog import Journal, Metrics, ProgressLine, RunFolder
from training.timing import TIMING, Stopwatch

STAGE = schedule()[0]
TIMES = {"seconds": 0.5, "data_wait_seconds": 0.1, "clips_per_second": 16.0}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "a b")


def steps(folder: RunFolder) -> list[int]:
    return [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]


def fill(folder: RunFolder, first: int, last: int) -> None:
    metrics = Metrics(folder, step=first)
    for step in range(first + 1, last + 1):
        metrics.add(step, "s", {"loss": torch.tensor(float(step))})
    metrics.flush()


# Metrics


def test_scalars_come_back_exactly(folder):
    values = {"a": torch.tensor(1 / 3), "b": torch.tensor(1 / 3, dtype=torch.float64),
              "c": torch.tensor(7), "d": torch.tensor(1e-30)}  # fmt: skip
    metrics = Metrics(folder, step=0)
    metrics.add(1, "warm", values)
    metrics.flush()
    (entry,) = map(json.loads, folder.metrics.read_text().splitlines())
    assert (entry.pop("step"), entry.pop("stage")) == (1, "warm")
    assert entry == {name: value.item() for name, value in values.items()}
    assert metrics.last == entry


def test_scalars_are_read_some_steps_late_and_before_a_checkpoint(folder):
    metrics = Metrics(folder, step=0)
    for step in range(1, 8):
        metrics.add(step, "s", {"loss": torch.tensor(float(step))})
        assert steps(folder) == list(range(1, step - runlog.READ_AFTER_STEPS + 1))
    metrics.flush()
    assert steps(folder) == list(range(1, 8))


@pytest.mark.parametrize("resumed_at", range(8))
def test_no_step_twice_after_a_resume(folder, resumed_at):
    fill(folder, 0, 7)
    fill(folder, resumed_at, 9)
    assert steps(folder) == list(range(1, 10))


@pytest.mark.parametrize("cut", [1, 5, 20, -1])
def test_a_half_written_last_line_is_dropped(folder, cut):
    fill(folder, 0, 4)
    lines = folder.metrics.read_text().splitlines(keepends=True)
    folder.metrics.write_text("".join(lines[:3]) + lines[3][:-1][:cut])
    fill(folder, 3, 5)
    assert steps(folder) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_named(folder, value):
    (folder.checkpoints).mkdir()
    for step in (2, 10):
        (folder.checkpoints / f"step_{step:08d}.pt").write_bytes(b"")
    metrics = Metrics(folder, step=10)
    metrics.add(11, "warm", {"loss": torch.tensor(1.0), "grad_norm": torch.tensor(value)})
    with pytest.raises(NumericError) as error:
        metrics.flush()
    assert str(error.value) == (
        "error: grad_norm is not finite at step 11 of stage 'warm' · last good checkpoint: "
        f"{folder.checkpoints / 'step_00000010.pt'} · lower optim.lr"
    )


def test_before_the_first_checkpoint_there_is_none_to_name(folder):
    metrics = Metrics(folder, step=0)
    metrics.add(1, "s", {"loss": torch.tensor(float("nan"))})
    with pytest.raises(NumericError, match="last good checkpoint: none yet"):
        metrics.flush()


# Times


def test_the_stopwatch_splits_a_step_into_waiting_and_work(monkeypatch):
    """Two batches of three videos and two views, in each of four processes, in one lap."""
    now = [50.0]
    monkeypatch.setattr("training.timing.time.perf_counter", lambda: now[0])

    def batches():
        for waited in (0.5, 1.5):
            now[0] += waited
            yield SimpleNamespace(index=range(3), views=(None, None))

    watch = Stopwatch(world=4)
    for _ in watch.watched(batches()):
        now[0] += 3
    assert watch.lap() == {
        "seconds": 8.0, "data_wait_seconds": 2.0, "clips_per_second": 2 * 3 * 2 * 4 / 8
    }  # fmt: skip
    now[0] += 1
    assert watch.lap() == {"seconds": 1.0, "data_wait_seconds": 0.0, "clips_per_second": 0.0}


def test_times_have_a_file_of_their_own_that_a_resume_continues(folder):
    """metrics.jsonl is the same in every run of one seed, which no time is."""
    for first, last in ((0, 7), (4, 9)):
        with Journal(folder, ONE_STAGE, world=1, first=first, last=9) as journal:
            for step in range(first + 1, last + 1):
                journal.add(step, STAGE, {"loss": torch.tensor(1.0)})
            journal.flush()
    entries = step_lines.read(folder.path / TIMING)
    assert [entry["step"] for entry in entries] == list(range(1, 10)) == steps(folder)
    assert all(set(entry) == {"step", *TIMES} for entry in entries)
    assert set(step_lines.read(folder.metrics)[-1]) == {"step", "stage", "loss"}


def test_a_full_disk_costs_a_line_of_times_and_not_the_run(folder, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with Journal(folder, ONE_STAGE, world=1, first=0, last=9) as journal:
        journal._times._file = Full()
        journal.add(1, STAGE, {"loss": torch.tensor(1.0)})
    assert "timing.jsonl: No space left on device, step 1 is not written" in capsys.readouterr().out


# The log and the environment


def test_log_has_what_was_said(folder, capsys):
    folder.say("first [bold]line[/bold]")
    folder.say("second")
    assert capsys.readouterr().out == "first [bold]line[/bold]\nsecond\n"
    lines = (folder.path / "log.txt").read_text().splitlines()
    assert [line[20:] for line in lines] == ["first [bold]line[/bold]", "second"]
    assert lines[0][4] == lines[0][7] == "-" and lines[0][13] == ":"


def test_a_log_that_cannot_be_written_costs_only_the_line(folder, capsys):
    (folder.path / "log.txt").mkdir()
    folder.say("still shown")
    assert "still shown\nlog.txt: Is a directory\n" in capsys.readouterr().out


def test_progress_is_plain_lines_where_there_is_no_terminal(folder, capsys):
    with ProgressLine(folder, first=0, total=5, every=2) as line:
        for step in range(1, 6):
            line.step(step, STAGE, {"loss": 0.5 * step}, TIMES)
    shown = capsys.readouterr().out.splitlines()
    assert [text.split("  ")[:3] for text in shown] == [
        ["step 2/5", "moco", "loss 1"],
        ["step 4/5", "moco", "loss 2"],
        ["step 5/5", "moco", "loss 2.5"],
    ]
    assert all("  lr " in text and "  data wait " in text for text in shown)
    assert all(re.search(r"  0\.500 s/step  0:00:0\d left$", text) for text in shown)


def test_a_retrieval_is_a_line_of_its_own_step(folder, capsys):
    with Journal(folder, ONE_STAGE, world=1, first=0, last=9) as journal:
        for step in range(1, 4):
            found = {"knn_R@1": torch.tensor(0.25), "knn_R@5": torch.tensor(0.5)}
            journal.add(step, STAGE, {"loss": torch.tensor(1.0)} | (found if step == 2 else {}))
        journal.flush()
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "R@1" in one]
    assert line == "retrieval at step 2: R@1 25.0 %  R@5 50.0 %"
    assert (folder.path / "log.txt").read_text().endswith(f"{line}\n")


def test_environment_has_no_variables(folder, monkeypatch):
    monkeypatch.setenv("KINEMA_TEST_TOKEN", "s3cr3t-value")
    monkeypatch.setattr("sys.argv", ["/some/where/train.py", "a.yaml", "optim.lr=3"])
    folder.write_json("env.json", runlog.environment())
    text = (folder.path / "env.json").read_text()
    content = json.loads(text)
    assert content["torch"] == torch.__version__
    assert content["command"] == "train.py a.yaml optim.lr=3"
    assert set(content) == {"python", "torch", "cuda", "device", "threads", "git", "command"}
    assert "s3cr3t-value" not in text and "KINEMA_TEST_TOKEN" not in text
    for name in ("HOME", "PATH"):
        assert os.environ[name] not in text
    assert socket.gethostname() not in text


def test_a_file_is_replaced_or_left_as_it_is(folder, monkeypatch):
    folder.write_text("config.yaml", "old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(ConfigError, match=r"error: cannot write config.yaml · .* · No space left"):
        folder.write_text("config.yaml", "new")
    assert (folder.path / "config.yaml").read_text() == "old"
    assert sorted(p.name for p in folder.path.iterdir()) == ["config.yaml", "lock"]


# One owner


def hold(path, ready, done) -> None:
    folder = RunFolder(path)
    ready.set()
    done.wait(60)
    folder.say("done")


def test_a_folder_belongs_to_one_process(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(60)
    with pytest.raises(ConfigError) as error:
        RunFolder(tmp_path)
    assert str(error.value) == (
        f"error: the run folder is in use by process {process.pid} on {socket.gethostname()} · "
        f"{tmp_path} · wait for that run, or choose another with run.dir=..."
    )
    RunFolder(tmp_path, writer=False)  # the other ranks of a run do not write
    done.set()
    process.join()
    assert process.exitcode == 0
    RunFolder(tmp_path)


def test_other_ranks_write_nothing(tmp_path, capsys):
    folder = RunFolder(tmp_path / "none", writer=False)
    folder.say("unheard")
    folder.write_json("env.json", {})
    folder.write_text("config.yaml", "")
    metrics = Metrics(folder, step=0)
    metrics.add(1, "s", {"loss": torch.tensor(1.0)})
    metrics.flush()
    assert metrics.last == {"loss": 1.0}
    with Journal(folder, ONE_STAGE, world=2, first=0, last=1) as journal:
        journal.add(1, STAGE, {"loss": torch.tensor(1.0)})
    with ProgressLine(folder, first=0, total=1, every=1) as line:
        line.step(1, STAGE, metrics.last, TIMES)
    assert not (tmp_path / "none").exists() and capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as error:
        RunFolder(tmp_path / "file" / "run")
    assert str(error.value) == (
        f"error: cannot write the run folder · {tmp_path / 'file' / 'run'} · Not a directory · "
        "choose another with run.dir=..."
    )


@pytest.mark.parametrize("name, used", [("metrics.jsonl", True), ("log.txt", False)])
def test_a_used_folder_is_known(folder, name, used):
    assert not folder.has_run()
    (folder.path / name).write_text("")
    assert folder.has_run() == used


def test_a_resume_rewrites_a_file_of_lines_only_to_drop_some(tmp_path):
    path = tmp_path / "lines.jsonl"
    step_lines.StepLines(path, step=0, say=print).write(1, {"a": 1})
    inode = path.stat().st_ino
    step_lines.StepLines(path, step=1, say=print).write(2, {"a": 2})
    assert path.stat().st_ino == inode
    with path.open("a") as file:
        file.write('{"step": 3, "a"')  # a killed process
    step_lines.StepLines(path, step=2, say=print).write(3, {"a": 3})
    assert [entry["a"] for entry in step_lines.read(path)] == [1, 2, 3]
    step_lines.StepLines(path, step=1, say=print)
    assert [entry["a"] for entry in step_lines.read(path)] == [1]


def test_a_resume_without_room_keeps_the_lines_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "lines.jsonl"
    step_lines.StepLines(path, step=0, say=print).write(1, {})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step_lines, "whole_file", full)
    with pytest.raises(ConfigError) as refused:
        step_lines.StepLines(path, step=0, say=print)
    assert str(refused.value) == (
        f"error: cannot drop the lines after step 0 · {path} · No space left on device · free "
        "some space, or make the folder writable"
    )
    assert len(step_lines.read(path)) == 1
