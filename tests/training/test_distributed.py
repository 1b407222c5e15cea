"""Two processes over gloo, and one that does what both do."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from models.methods._method import ViewNeeds
from pipeline import Manifest
from tests import faults, runs
from tests.conftest import damage
from training import config, distributed, stages
from training.distributed import Process, StopSignal
from training.errors import ConfigError
from training.resume import resume
from training.runlog import RunFolder

STEPS, BATCH = 12, 4
CPU = torch.device("cpu")


class Method:
    """All that the loader asks of a method."""

    def __init__(self, exchanged: tuple[int, ...]):
        self.views = ViewNeeds(2, exchanged=exchanged)


def batches(data: Path, process: Process, exchanged: tuple[int, ...], *overrides: str) -> list:
    recipe = config.load(runs.SMOKE, [f"data.train={data}", *overrides])
    stage = stages.plan(recipe, 10)[0]
    manifest = Manifest.read(data)
    return list(stages.training_loader(stage, manifest, Method(exchanged), process).batches(0, 6))


@pytest.fixture(scope="module")
def one_process(tiny_data) -> list:
    return batches(tiny_data, Process(0, 1, CPU), ())


@pytest.mark.parametrize("exchanged", [(), (1,)], ids=["own keys", "exchanged keys"])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_see_the_batches_of_one_process(tiny_data, one_process, exchanged, world):
    ranks = [batches(tiny_data, Process(r, world, CPU), exchanged) for r in range(world)]
    for step, whole in enumerate(one_process):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([part.index for part in parts]), whole.index)
        assert torch.equal(torch.cat([part.label for part in parts]), whole.label)
        for view in range(2):
            pixels = torch.cat([part.views[view] for part in parts])
            if view in exchanged:
                # Rank r holds this view of the samples of rank r + 1.
                pixels = pixels.roll(BATCH // world, dims=0)
            assert torch.equal(pixels, whole.views[view])
    first = one_process[0].views
    assert not torch.equal(first[0], first[1]), "the two views differ, so a mix-up would show"


def test_a_damaged_video_is_replaced_alike_on_every_rank(own_data):
    """With exchanged views two ranks read each video: both must take the same one instead."""
    damage(own_data, 3)
    whole = batches(own_data, Process(0, 1, CPU), ())
    ranks = [batches(own_data, Process(r, 2, CPU), (1,)) for r in range(2)]
    for step, batch in enumerate(whole):
        assert 3 not in batch.index
        key_views = torch.cat([rank[step].views[1] for rank in ranks]).roll(BATCH // 2, dims=0)
        assert torch.equal(key_views, batch.views[1])


# Whole runs


EXCHANGE = "method.key_batch_norm=exchange"


@pytest.fixture(scope="module")
def both(tiny_data, tmp_path_factory) -> Path:
    """The run folder of an undisturbed training by two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    keep = [faults.Record(folder / "samples"), faults.KeepStates(folder)]
    ranks = runs.run_ranks(*runs.smoke(tiny_data, folder, EXCHANGE), faults=keep)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
    assert "2 process(es)" in ranks[0].output
    assert ranks[1].output == "", "only the main process speaks"
    return folder


def test_two_ranks_train_each_sample_once(both, tiny_data):
    halves = [runs.samples(both / "samples", rank=rank) for rank in range(2)]
    assert list(halves[0]) == list(range(1, STEPS + 1))
    seen = [video for step in halves[0] for half in halves for video in half[step]]
    assert len(seen) == STEPS * BATCH
    assert [sorted(seen[e : e + 10]) for e in range(0, 40, 10)] == [list(range(10))] * 4
    state = runs.newest(both)
    assert state.world == 2 and state.step == STEPS
    assert state.method["queue.keys_written"] == STEPS * BATCH


@pytest.mark.parametrize("step", [3, 7])
def test_two_ranks_killed_and_resumed(both, tiny_data, tmp_path, step):
    folder = tmp_path / "run"
    arguments = runs.smoke(tiny_data, folder, EXCHANGE)
    died = runs.run_ranks(*arguments, faults=[faults.KillAfter(step)])
    assert [rank.code for rank in died] == [-9, -9]
    ranks = runs.run_ranks(*arguments, faults=[faults.KeepStates(folder)])
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
    assert (folder / "metrics.jsonl").read_text() == (both / "metrics.jsonl").read_text()
    runs.assert_same_state(runs.newest(folder), runs.newest(both))
    for rank in range(2):
        found, expected = (kept(run, rank, STEPS) for run in (folder, both))
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), f"rank {rank}: {name}"


def kept(folder: Path, rank: int, step: int) -> dict[str, torch.Tensor]:
    """The method's state in one process."""
    return torch.load(folder / f"{rank}_{step}.pt", weights_only=True)


def test_a_checkpoint_has_the_mean_of_the_ranks_running_statistics(both):
    """Each rank has its own; everything else is the same in both."""
    first, second = (kept(both, rank, STEPS) for rank in range(2))
    saved = runs.newest(both).method
    own = {name for name in saved if not torch.equal(first[name], second[name])}
    assert own and all(name.endswith((".running_mean", ".running_var")) for name in own)
    assert own == {name for name in saved if name.endswith((".running_mean", ".running_var"))}
    for name, tensor in saved.items():
        mean = (first[name].double() + second[name].double()) / 2
        close = torch.allclose(tensor.double(), mean, rtol=1e-6, atol=1e-9)
        assert close if name in own else torch.equal(tensor, first[name]), name


def test_a_checkpoint_of_two_ranks_goes_on_in_one_with_the_mean(tiny_data, tmp_path):
    """There is no other rank to exchange keys with, so they are plain."""
    arguments = runs.smoke(tiny_data, tmp_path, "method.key_batch_norm=plain")
    runs.run_ranks(*arguments, faults=[faults.KillAfter(5)])
    saved = runs.newest(tmp_path)
    assert saved.step == 4
    alone = resume("auto", RunFolder(tmp_path), *recipe_and_data(arguments), Process(0, 1, CPU))
    assert alone.method.keys() == saved.method.keys()
    assert all(torch.equal(alone.method[name], tensor) for name, tensor in saved.method.items())
    runs.finished(*arguments)


def recipe_and_data(arguments: list[str]) -> tuple[config.Recipe, Manifest]:
    recipe = config.load(arguments[0], arguments[1:])
    return recipe, Manifest.read(recipe.data.train)


def test_a_signal_to_one_rank_stops_both_at_the_same_step(both, tiny_data, tmp_path):
    folder = tmp_path / "run"
    arguments = runs.smoke(tiny_data, folder, EXCHANGE)
    stopped = runs.run_ranks(
        *arguments, faults=[faults.OnRank(1, faults.SignalAfter(2, (signal.SIGINT,)))]
    )
    assert [rank.code for rank in stopped] == [130, 130], stopped[0].output
    # The flag raised after step 2 is read four steps later, at the end of the first stage.
    assert "stopped by a signal, saved at step 6" in stopped[0].output
    ranks = runs.run_ranks(*arguments)
    assert [rank.code for rank in ranks] == [0, 0]
    assert (folder / "metrics.jsonl").read_text() == (both / "metrics.jsonl").read_text()


def test_ranks_with_other_recipes_are_named(tiny_data, tmp_path):
    arguments = runs.smoke(tiny_data, tmp_path / "run", EXCHANGE)
    ranks = runs.run_ranks(*arguments, own=[[], ["optim.lr=0.5"]])
    assert [rank.code for rank in ranks] == [6, 6]
    for rank in ranks:
        assert rank.output.startswith("error: ranks [1] started with another recipe, data set or ")
        assert rank.output.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_the_main_process_finds_ends_all(tiny_data, tmp_path):
    """A folder in use is seen by one rank only; the others must not wait for it for ever."""
    folder = tmp_path / "run"
    holder = runs.Run(*runs.smoke(tiny_data, folder), faults=[faults.SleepAfter(1)]).wait_for(
        "1 process"
    )
    ranks = runs.run_ranks(*runs.smoke(tiny_data, folder, EXCHANGE))
    holder.send(signal.SIGKILL).wait()
    assert ranks[0].code == 2 and "the run folder is in use by process" in ranks[0].output
    assert ranks[1].code == 6, ranks[1].output
    assert "Traceback" not in ranks[1].output


def test_a_rank_that_dies_ends_the_others(tiny_data, tmp_path):
    ranks = runs.run_ranks(
        *runs.smoke(tiny_data, tmp_path / "run", EXCHANGE),
        faults=[faults.OnRank(1, faults.KillAfter(3))],
    )
    assert ranks[1].code == -9
    assert ranks[0].code == 6, ranks[0].output
    last = ranks[0].output.splitlines()[-1]
    assert last.startswith("error: another process of the run is gone · ")
    assert "Traceback" not in ranks[0].output


def test_a_damaged_video_is_logged_once_by_two_ranks(own_data, tmp_path):
    (broken,) = damage(own_data, 3)
    folder = tmp_path / "run"
    arguments = runs.smoke(own_data, folder, EXCHANGE, "data.max_bad_fraction=0.1")
    ranks = runs.run_ranks(*arguments)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
    (entry,) = map(json.loads, (folder / "quarantine.jsonl").read_text().splitlines())
    assert entry["path"] == str(broken)


def test_a_batch_that_the_ranks_cannot_share(tiny_data, tmp_path):
    ranks = runs.run_ranks(*runs.smoke(tiny_data, tmp_path / "run", EXCHANGE, "data.batch_size=5"))
    assert [rank.code for rank in ranks] == [2, 2], ranks[0].output
    assert (
        "error: data.batch_size: 5 is the batch over all processes and must be a multiple of "
        "their number, 2"
    ) in ranks[0].output


def test_dry_run_with_two_ranks(tiny_data, tmp_path):
    arguments = [*runs.smoke(tiny_data, tmp_path / "run", EXCHANGE), "--dry-run"]
    ranks = runs.run_ranks(*arguments)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].output
    assert "moco: global batch 4 = 2 process(es) x 2" in ranks[0].output
    assert ranks[1].output == ""


# One process


def test_a_single_process_is_the_main_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    process = distributed.start("cpu")
    assert process == Process(0, 1, CPU) and process.is_main
    distributed.check_same("anything", process)
    module = torch.nn.Linear(1, 1)
    assert distributed.wrap(module, process) is module


def test_what_the_main_process_has_is_sent_and_not_gathered(monkeypatch):
    """Kept features may be gigabytes: nobody else's are asked for."""
    sent: list[tuple] = []

    def broadcast(objects: list, src: int) -> None:
        sent.append((objects[0], src))
        objects[0] = "kept"

    monkeypatch.setattr(distributed.dist, "broadcast_object_list", broadcast)
    assert distributed.of_main(None, Process(1, 2, CPU)) == "kept"
    assert distributed.of_main("own", Process(0, 1, CPU)) == "own"
    assert sent == [(None, 0)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ConfigError, match=r"error: run\.device=cuda, but torch finds no GPU"):
        distributed.start("cuda")


@pytest.mark.parametrize("asked, dtype", [("fp32", None), ("auto", None), ("bf16", "bfloat16")])
def test_precision_on_a_cpu(asked, dtype):
    with distributed.precision(asked, Process(0, 1, CPU)):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, dtype or "float32")


def test_a_signal_is_only_a_flag():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        stop = StopSignal(Process(0, 1, CPU))
        assert stop.agreed() == 0
        signal.raise_signal(signal.SIGUSR1)
        assert stop.agreed() == stop.seen == signal.SIGUSR1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
