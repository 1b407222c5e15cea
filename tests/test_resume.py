"""Going on from what a run has left: damaged checkpoints, other recipes, folders in use."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

import train
from models import names
from tests import faults, runs
from tests.conftest import make_data_set

# Every method


@pytest.mark.parametrize("method", names())
def test_killed_and_resumed_is_the_run_that_was_not(tiny_data, tmp_path, method):
    """All that changes a method's next step is in the checkpoint."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"

    def arguments(folder: Path) -> list[str]:
        return [str(runs.tiny_recipe(method)), f"data.train={tiny_data}", f"run.dir={folder}"]

    runs.finished(*arguments(straight))
    died = runs.run(*arguments(killed), faults=[faults.KillAfter(3)])
    assert died.code == -9, died.output
    done = runs.finished(*arguments(killed))
    assert "resuming at step 2" in done.output
    runs.assert_same_run(killed, straight)


# Checkpoints that do not load


@pytest.fixture
def stopped(whole, tmp_path) -> Path:
    """A copy of the finished run folder, to be damaged."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    return folder


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one bit": lambda path: flip_bit(path, path.stat().st_size // 2),
    "empty": lambda path: path.write_bytes(b""),
    "no hash": lambda path: path.with_name(path.name + ".sha256").unlink(),
    "empty hash": lambda path: path.with_name(path.name + ".sha256").write_text(""),
}


def flip_bit(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_last_checkpoint_falls_back(whole, tiny_data, stopped, damage):
    DAMAGES[damage](stopped / "checkpoints" / "step_00000012.pt")
    done = runs.finished(*runs.smoke(tiny_data, stopped))
    assert re.search(r"passed over: .*step_00000012\.pt", done.output)
    assert "resuming at step 10, stage 'adversarial'" in done.output
    runs.assert_same_run(stopped, whole)


def test_no_whole_checkpoint_is_an_error_and_nothing_is_overwritten(tiny_data, stopped, capsys):
    for path in (stopped / "checkpoints").glob("*.pt"):
        os.truncate(path, 1000)
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file() and p.suffix != ".txt"}
    assert train.main(runs.smoke(tiny_data, stopped)) == 4
    assert "error: none of 2 checkpoints is whole" in capsys.readouterr().err
    before.pop(stopped / "lock")
    assert {p: p.read_bytes() for p in before} == before


def test_resume_from_a_path_that_is_missing(tiny_data, tmp_path, capsys):
    missing = tmp_path / "missing.pt"
    assert train.main([*runs.smoke(tiny_data, tmp_path / "run"), "--resume", str(missing)]) == 4
    assert f"error: no such checkpoint · {missing}" in capsys.readouterr().err


def test_resume_never_in_a_used_folder(tiny_data, stopped, capsys):
    assert train.main([*runs.smoke(tiny_data, stopped), "--resume", "never"]) == 2
    assert f"error: the run folder is not empty · {stopped}" in capsys.readouterr().err


def test_resume_from_a_path_into_a_new_folder(whole, tiny_data, tmp_path):
    folder = tmp_path / "run"
    path = whole / "checkpoints" / "step_00000010.pt"
    runs.finished(*runs.smoke(tiny_data, folder), "--resume", path)
    runs.assert_same_state(runs.newest(folder), runs.newest(whole))
    assert [entry["step"] for entry in runs.metrics(folder)] == [11, 12]


def test_resume_from_a_path_does_not_delete_later_checkpoints(tiny_data, stopped, capsys):
    path = stopped / "checkpoints" / "step_00000010.pt"
    before = (stopped / "metrics.jsonl").read_text()
    assert train.main([*runs.smoke(tiny_data, stopped), "--resume", str(path)]) == 2
    line = capsys.readouterr().err
    assert "error: the run folder has checkpoints after step 10: step_00000012.pt" in line
    assert (stopped / "metrics.jsonl").read_text() == before


def test_resume_under_another_recipe(tiny_data, stopped, capsys):
    assert train.main(runs.smoke(tiny_data, stopped, "optim.lr=0.5", "clip.frames=3")) == 4
    line = capsys.readouterr().err
    assert "error: the checkpoint is of another recipe: clip.frames 4 -> 3, " in line
    assert "optim.lr 0.001 -> 0.5 · take the old values" in line


def test_resume_with_other_data(tmp_path, stopped, capsys):
    other = tmp_path / "other"
    other.mkdir()
    assert train.main(runs.smoke(make_data_set(other, videos=9), stopped)) == 4
    assert "error: the checkpoint was made with another data set · " in capsys.readouterr().err


def test_resume_after_the_data_has_moved(whole, tmp_path, stopped, tiny_data):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_data.parent, moved)
    (stopped / "checkpoints" / "step_00000012.pt").unlink()
    runs.finished(*runs.smoke(moved / tiny_data.name, stopped, "run.save_every_steps=5"))
    runs.assert_same_run(stopped, whole)


# The run folder


def test_a_folder_in_use(tiny_data, tmp_path, capsys):
    folder = tmp_path / "run"
    holder = runs.Run(*runs.smoke(tiny_data, folder), faults=[faults.SleepAfter(1)]).wait_for(
        "1 process"
    )
    assert train.main(runs.smoke(tiny_data, folder)) == 2
    line = capsys.readouterr().err
    assert f"error: the run folder is in use by process {holder.pid} on " in line
    assert str(folder) in line
    holder.send(signal.SIGKILL).wait()
    runs.finished(*runs.smoke(tiny_data, folder))  # the dead process holds nothing


def test_a_folder_that_cannot_be(tiny_data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train.main(runs.smoke(tiny_data, tmp_path / "file" / "run")) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: cannot write the run folder · ") and line.count("\n") == 1
    assert "Not a directory · choose another with run.dir=" in line


def test_a_folder_that_is_read_only(tiny_data, capsys):
    assert train.main(runs.smoke(tiny_data, Path("/proc/kinema"))) == 2
    assert "error: cannot write the run folder · /proc/kinema" in capsys.readouterr().err
