"""Trainings that are killed, stopped, starved and misled: what they lose, and what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import train
from tests import faults, runs
from tests.conftest import TINY_VIDEOS, damage, make_data_set
from training import config

STEPS, BATCH = 12, 4


# What an undisturbed run leaves


def test_an_epoch_has_every_video_once(whole):
    seen = runs.samples(whole / "samples")
    assert list(seen) == list(range(1, STEPS + 1))
    in_order = [video for step in seen for video in seen[step]]
    epochs = [in_order[e * TINY_VIDEOS : (e + 1) * TINY_VIDEOS] for e in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(TINY_VIDEOS))
    assert Counter(in_order[: 4 * TINY_VIDEOS]) == dict.fromkeys(range(TINY_VIDEOS), 4)
    assert len({tuple(epoch) for epoch in epochs}) == 4, "every epoch has an order of its own"


def test_metrics_have_each_step_once_in_full_precision(whole):
    entries = runs.metrics(whole)
    assert [entry["step"] for entry in entries] == list(range(1, STEPS + 1))
    assert [entry["stage"] for entry in entries] == ["moco"] * 6 + ["adversarial"] * 6
    assert all("loss_generator" in entry for entry in entries[6:])
    for entry in entries:
        # A float32 printed with fewer digits would not come back as the same float32.
        assert float(torch.tensor(entry["loss"], dtype=torch.float32)) == entry["loss"]


def test_checkpoint_has_all_that_changes_the_next_step(whole):
    path = max((whole / "checkpoints").glob("*.pt"))
    fields = torch.load(path, weights_only=True)
    names = set(fields["method"])
    queue = {"keys", "ids", "birth_key", "birth_step", "keys_written", "steps"}
    assert {f"queue.{name}" for name in queue} <= names
    query = {name.removeprefix("query.") for name in names if name.startswith("query.")}
    twin = {name.removeprefix("key.") for name in names if name.startswith("key.")}
    assert query == twin and query
    assert any(name.startswith("generator.") for name in names)
    assert any(not torch.equal(fields["method"][f"query.{n}"], fields["method"][f"key.{n}"])
               for n in query if n.endswith("weight"))  # fmt: skip
    assert fields["method"]["queue.keys_written"] == STEPS * BATCH
    assert fields["optimizer"]["state"][0]["exp_avg"].abs().sum() > 0
    assert (fields["step"], fields["stage"], fields["world"]) == (STEPS, "adversarial", 1)
    assert fields["config"]["optim"]["name"] == "adamw"
    assert fields["classes"] == ["even", "odd"]
    assert fields["versions"]["torch"] == torch.__version__
    leaves = runs.flat(fields).values()
    plain = (torch.Tensor, str, int, float, bool, type(None), dict, list, tuple)
    assert {type(leaf) for leaf in leaves} <= set(plain)


def test_a_run_that_is_done_is_left_as_it_is(whole, tiny_data, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "checkpoints").iterdir()}
    done = runs.finished(*runs.smoke(tiny_data, folder))
    assert "done at step 12" in done.output
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "checkpoints").iterdir()} == before
    runs.assert_same_run(folder, whole)


# kill -9


def disturbed(whole: Path, data: Path, folder: Path, *ends: faults.Fault) -> None:
    """Start the run once for every fault, each of which ends it; then once more, undisturbed."""
    record = faults.Record(folder / "samples")
    folder.mkdir(parents=True)
    for fault in ends:
        died = runs.run(*runs.smoke(data, folder), faults=[record, fault])
        assert died.code == -9, died.output
    runs.finished(*runs.smoke(data, folder), faults=[record])
    runs.assert_same_run(folder, whole)
    leftovers = [p for p in folder.rglob("*") if ".partial" in p.name]
    assert not leftovers


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_after_a_step(whole, tiny_data, tmp_path, step):
    disturbed(whole, tiny_data, tmp_path / "run", faults.KillAfter(step))


@pytest.mark.parametrize("steps", [(3, 4), (5, 6, 7)], ids=str)
def test_killed_again_in_the_same_epoch(whole, tiny_data, tmp_path, steps):
    disturbed(whole, tiny_data, tmp_path / "run", *map(faults.KillAfter, steps))


@pytest.mark.parametrize("fault", [faults.KillBeforeFile, faults.KillInFile])
@pytest.mark.parametrize("step", [2, 6])
def test_killed_while_saving(whole, tiny_data, tmp_path, fault, step):
    disturbed(whole, tiny_data, tmp_path / "run", fault(step))


def test_killed_where_the_method_draws(tiny_data, tmp_path):
    """torch's generator is set anew for every step, so a method may draw without saving it."""
    draws = "run.stages.moco.method.generator=random"
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    runs.finished(*runs.smoke(tiny_data, straight, draws))
    died = runs.run(*runs.smoke(tiny_data, killed, draws), faults=[faults.KillAfter(5)])
    assert died.code == -9
    runs.finished(*runs.smoke(tiny_data, killed, draws))
    runs.assert_same_run(killed, straight)


def test_killed_with_worker_processes(whole, tiny_data, tmp_path):
    """The command as users type it; reading ahead in other processes changes nothing."""
    folder = tmp_path / "run"
    command = [sys.executable, "train.py", *runs.smoke(tiny_data, folder, "data.workers=1")]
    with subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE, text=True) as process:
        while not process.stdout.readline().startswith("step 4/12"):
            assert process.poll() is None
        process.kill()
    runs.finished(*runs.smoke(tiny_data, folder, "data.workers=2", "data.prefetch_batches=2"))
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    runs.assert_same_state(runs.newest(folder), runs.newest(whole))


# Signals


@pytest.mark.parametrize(
    "number, code, step",
    [(signal.SIGTERM, 75, 3), (signal.SIGTERM, 75, 6), (signal.SIGINT, 130, 7)],
)
def test_stopped_by_a_signal(whole, tiny_data, tmp_path, number, code, step):
    folder = tmp_path / "run"
    stopped = runs.run(*runs.smoke(tiny_data, folder), faults=[faults.SignalAfter(step, (number,))])
    assert stopped.code == code, stopped.output
    assert f"stopped by a signal, saved at step {step}: run the same command again" in (
        stopped.output
    )
    assert runs.newest(folder).step == step
    runs.finished(*runs.smoke(tiny_data, folder))
    runs.assert_same_run(folder, whole)


def test_a_second_signal_ends_at_once(whole, tiny_data, tmp_path):
    folder = tmp_path / "run"
    fault = faults.SignalAfter(3, (signal.SIGTERM, signal.SIGTERM))
    stopped = runs.run(*runs.smoke(tiny_data, folder), faults=[fault])
    assert stopped.code == 128 + signal.SIGTERM
    assert runs.newest(folder).step == 2
    runs.finished(*runs.smoke(tiny_data, folder))
    runs.assert_same_run(folder, whole)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_group_stops_workers_last(tiny_data, tmp_path, number, code):
    """A terminal's Ctrl-C, or a batch system, reaches the data workers as well."""
    folder = tmp_path / "run"
    arguments = runs.smoke(tiny_data, folder, "data.workers=1", "run.stages.moco.run.steps=100000")
    stopped = runs.Run(*arguments, faults=[os.setpgrp]).wait_for("step 2/").send_group(number)
    assert stopped.wait().code == code, stopped.output
    assert "Traceback" not in stopped.output
    assert runs.newest(folder).step > 0


# A full disk


def test_full_disk_costs_a_checkpoint_not_the_run(whole, tiny_data, tmp_path):
    folder = tmp_path / "run"
    done = runs.finished(*runs.smoke(tiny_data, folder), faults=[faults.FileLimitAt(4, 1_000_000)])
    lines = [line for line in done.output.splitlines() if "not written" in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: checkpoint of step 4 not written: File too large · ")
    assert "free some space; the last good checkpoint is kept" in lines[0]
    assert lines[0] in (folder / "log.txt").read_text()
    runs.assert_same_run(folder, whole)


def test_full_disk_leaves_the_last_good_checkpoint(tiny_data, tmp_path):
    folder = tmp_path / "run"
    full = [faults.DiskFullAt(4, 6, 8), faults.KillAfter(9)]
    died = runs.run(*runs.smoke(tiny_data, folder), faults=full)
    assert died.code == -9
    assert died.output.count("not written: the disk is full") == 3
    assert runs.newest(folder).step == 2
    assert not [p for p in folder.rglob("*") if p.name.endswith(".partial")]


def test_full_disk_at_the_end_is_an_error(tiny_data, tmp_path):
    folder = tmp_path / "run"
    done = runs.run(*runs.smoke(tiny_data, folder), faults=[faults.DiskFullAt(12)])
    assert done.code == 4
    last = done.output.splitlines()[-1]
    assert last.startswith("error: checkpoint of step 12 not written: the disk is full")
    assert runs.newest(folder).step == 10


def test_full_disk_before_the_first_step(whole, tiny_data, tmp_path):
    """What the folder has stays, and the cause is one line."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = (folder / "config.yaml").read_text()
    started = runs.run(*runs.smoke(tiny_data, folder), faults=[faults.FileLimit(1200)])
    assert started.code == 2, started.output
    assert f"error: cannot write config.yaml · {folder} · File too large" in started.output
    assert "Traceback" not in started.output
    assert (folder / "config.yaml").read_text() == before


# Damaged videos


def test_a_video_that_breaks_is_replaced_alike_after_a_kill(own_data, tmp_path):
    (broken,) = damage(own_data, 3)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    allow = "data.max_bad_fraction=0.2"
    for folder, steps in ((straight, ()), (killed, (3, 9))):
        folder.mkdir()
        record = faults.Record(folder / "samples")
        for step in steps:
            died = runs.run(
                *runs.smoke(own_data, folder, allow), faults=[record, faults.KillAfter(step)]
            )
            assert died.code == -9, died.output
        done = runs.finished(*runs.smoke(own_data, folder, allow), faults=[record])
        (entry,) = map(json.loads, (folder / "quarantine.jsonl").read_text().splitlines())
        assert entry["path"] == str(broken) and entry["code"].startswith("E-")
        assert {"epoch", "position", "attempt", "detail"} <= entry.keys()
        assert done.output.count("quarantined") == (0 if steps else 1)
    runs.assert_same_run(killed, straight)
    seen = runs.samples(straight / "samples")
    assert not any(3 in videos for videos in seen.values())
    assert sorted(map(len, seen.values())) == [BATCH] * STEPS


def test_too_many_damaged_videos(own_data, tmp_path):
    damage(own_data, 1, 2, 3)
    stopped = runs.run(*runs.smoke(own_data, tmp_path / "run", "data.max_bad_fraction=0.2"))
    assert stopped.code == 3
    last = stopped.output.splitlines()[-1]
    assert last.startswith("error: 3 of 10 videos are damaged (E-CORRUPT 3), more than ")
    assert "data.max_bad_fraction=0.2" in last


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_of_damaged_videos(own_data, tmp_path, workers):
    damage(own_data, *range(10))
    arguments = runs.smoke(own_data, tmp_path / "run", f"data.workers={workers}")
    stopped = runs.run(*arguments, "data.max_bad_fraction=1")
    assert stopped.code == 3
    lines = [line for line in stopped.output.splitlines() if not line.startswith("quarantined")]
    assert len(lines) == 2, stopped.output
    assert re.match(r"error: sample \d of epoch 0: 8 videos in a row cannot be decoded", lines[1])


# Numbers


def test_a_loss_that_is_not_finite(tiny_data, tmp_path):
    folder = tmp_path / "run"
    stopped = runs.run(*runs.smoke(tiny_data, folder), faults=[faults.NanLoss(5)])
    assert stopped.code == 5
    last = stopped.output.splitlines()[-1]
    assert last.startswith("error: loss is not finite at step 5 of stage 'moco' · last good ")
    assert str(folder / "checkpoints" / "step_00000004.pt") in last
    assert "lower optim.lr" in last
    assert runs.newest(folder).step == 4


# The data set and the batch


def test_a_data_set_smaller_than_a_batch(tiny_data, tmp_path, capsys):
    assert train.main(runs.smoke(tiny_data, tmp_path / "run", "data.batch_size=16")) == 3
    line = capsys.readouterr().err
    assert line.startswith("error: a batch needs 16 videos, the data set has 10 · ")
    assert line.count("\n") == 1


def test_no_manifest(tmp_path, capsys):
    missing = tmp_path / "none.parquet"
    assert train.main(runs.smoke(missing, tmp_path / "run")) == 3
    assert f"error: no such manifest · {missing} · make one with" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_training_needs_no_labels(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    runs.finished(*runs.smoke(make_data_set(data, labels=False), tmp_path / "run"))


@pytest.mark.parametrize(
    "override, says",
    [
        ("method.key_batch_norm=exchange", "key_batch_norm: exchange gives keys to another rank"),
        ("method.split_groups=3", "a batch of 4 clips per process does not split into 3 groups"),
        ("method.drop_fraction=2", "error: method.drop_fraction: 2.0 is outside (0, 1]"),
        ("data.decoder=nvdec", "data.decoder: nvdec needs a GPU, none is here"),
        ("data.lanes=0", "data.lanes: expected at least 1, got 0"),
        ("data.batch_size=0", "data.batch_size: expected at least 1, got 0"),
        ("data.workers=-1", "data.workers: expected at least 0, got -1"),
        ("run.device=cuda", "run.device=cuda, but torch finds no GPU"),
    ],
)
def test_values_that_cannot_work_are_one_line(tiny_data, tmp_path, override, says):
    if override == "run.device=cuda" and torch.cuda.is_available():
        pytest.skip("this machine has what the test says is missing")
    ended = runs.run(*runs.smoke(tiny_data, tmp_path / "run", override))
    assert ended.code == 2, ended.output
    last = ended.output.splitlines()[-1]
    assert last.startswith("error: ") and says in last
    assert "Traceback" not in ended.output


def test_debug_shows_where(tiny_data, tmp_path):
    with pytest.raises(ValueError, match="does not split into 3 groups"):
        train.main(runs.smoke(tiny_data, tmp_path / "run", "method.split_groups=3", "--debug"))


# Looking before leaping


def test_dry_run_says_what_would_happen(tiny_data, tmp_path, capsys):
    folder = tmp_path / "run"
    overrides = ["optim.scale_lr=true", "optim.lr=0.64", "run.compile=true"]
    assert train.main([*runs.smoke(tiny_data, folder, *overrides), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    # 0.64 for 256 clips is 0.64 x 4 / 256 for four; 10 videos in batches of 4 are 2.5 steps.
    for text in (
        "data: 10 videos, 2 classes, ffmpeg decoder",
        "moco: effective lr 0.01 (adamw, cosine; 0.64 per 256)",
        "moco: global batch 4 = 1 process(es) x 4",
        "moco: 6 steps, 2.5 an epoch",
        "moco: precision fp32, channels last, compiled\n",
        "adversarial: 6 steps, 2.5 an epoch",
        "adversarial: view 1: [4, 3, 4, 16, 16]",
    ):
        assert text in shown, shown
    memory = re.search(r"adversarial: memory about ([\d.]+) MiB a process in fp32", shown)
    assert memory and float(memory[1]) > 1
    assert not folder.exists()


def test_print_config_is_a_recipe(tiny_data, tmp_path, capsys):
    overrides = ["optim.lr=1e-3", "run.stages.moco.run.steps=7"]
    arguments = runs.smoke(tiny_data, tmp_path / "run", *overrides)
    assert train.main([*arguments, "--print-config"]) == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert config.load(path, []).plain() == config.load(arguments[0], arguments[1:]).plain()
    assert not (tmp_path / "run").exists()


def test_the_saved_config_repeats_the_run(whole, tmp_path):
    folder = tmp_path / "run"
    runs.finished(whole / "config.yaml", f"run.dir={folder}")
    runs.assert_same_run(folder, whole)
