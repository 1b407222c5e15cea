"""Retrieval while training: when, of what, and that the run does not notice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn

from models import build_backbone
from models.batchnorm import running_statistics
from pipeline import DataError
from tests import runs
from tests.conftest import damage, make_data_set
from tests.training.test_stages import ALONE, schedule
from training.config import load
from training.distributed import Process
from training.errors import ConfigError
from training.features import Features
from training.online import OnlineRetrieval


@pytest.mark.parametrize(("epochs", "videos"), [(0.01, 9), (0.5, 5), (1, 3), (2.4, 2), (10, 30)])
def test_due_at_intervals_and_at_the_end_of_a_stage(epochs, videos):
    first, second = schedule("data.batch_size=1", videos=videos)
    for stage in (first, second):
        online = OnlineRetrieval(stage, ALONE)
        assert not any(online.is_due(n) for n in range(stage.first_step + 1, stage.last_step + 1))
        online.manifest, online.every_steps = object(), max(1, round(epochs * videos))
        due = [n for n in range(stage.first_step + 1, stage.last_step + 1) if online.is_due(n)]
        assert due[-1] == stage.last_step
        inner = [n - stage.first_step for n in due[:-1]]
        assert inner == [
            n for n in range(1, stage.last_step - stage.first_step) if n % online.every_steps == 0
        ]


def test_a_run_that_is_measured_has_the_same_weights(tiny_data, tmp_path):
    measured = ("online.every_epochs=1", f"online.manifest={tiny_data}", "online.clips=2")
    runs.finished(*runs.smoke(tiny_data, tmp_path / "plain"))
    runs.finished(*runs.smoke(tiny_data, tmp_path / "measured", *measured))
    plain, own = (runs.newest(tmp_path / name) for name in ("plain", "measured"))
    runs.assert_same_state(plain, own)
    entries = runs.metrics(tmp_path / "measured")
    # An epoch of 10 videos in batches of 4 is 2.5 steps, rounded to 2; stages end at 6 and 12.
    assert [entry["step"] for entry in entries if "knn_R@1" in entry] == [2, 4, 6, 8, 10, 12]
    assert all(0 <= entry["knn_R@1"] <= entry["knn_R@5"] <= 1 for entry in entries[1::2])
    assert all(entry["knn_failed"] == 0 for entry in entries[1::2])
    assert "knn" not in (tmp_path / "plain" / "metrics.jsonl").read_text()


@pytest.mark.needs_cuda
@pytest.mark.parametrize("captured", [False, True])
def test_a_run_on_a_gpu_is_measured(tiny_data, tmp_path, captured):
    arguments = runs.smoke(
        tiny_data, tmp_path / "run", "run.device=cuda", f"run.cuda_graph={captured}",
        f"online.manifest={tiny_data}", "online.every_epochs=1",
    )  # fmt: skip
    runs.finished(*arguments)
    measured = [entry for entry in runs.metrics(tmp_path / "run") if "knn_R@1" in entry]
    assert [entry["step"] for entry in measured] == [2, 4, 6, 8, 10, 12]


def test_figures_are_on_the_device_of_the_step(tiny_data, monkeypatch):
    """The meta device stands for a GPU: what is put there is on it."""
    (stage, _) = schedule(f"online.manifest={tiny_data}")
    online = OnlineRetrieval(stage, Process(0, 1, torch.device("meta")))
    label = torch.zeros(3, dtype=torch.int64)
    found = Features(torch.eye(3), label, torch.arange(3), failed=[])
    monkeypatch.setattr(online, "extract", lambda encoder: found)
    figures = online.measure(nn.Identity())
    assert list(figures) == ["knn_failed", "knn_R@1"]
    assert {figure.device.type for figure in figures.values()} == {"meta"}


def test_as_many_videos_at_once_as_asked(tiny_data):
    """Of online.batch_size: a training's batch is that of all processes together."""
    seen = []
    backbone = build_backbone("r3d_18", width=2)
    backbone.register_forward_hook(lambda _, clips, __: seen.append(len(clips[0])))
    for size, batches in ((3, [3, 3, 3, 1]), (8, [8, 2])):
        (stage, _) = schedule(f"online.manifest={tiny_data}", f"online.batch_size={size}")
        OnlineRetrieval(stage, ALONE).measure(backbone)
        assert seen == batches
        seen.clear()


# In several processes


MEASURED = ("backbone.width=2", "online.batch_size=3")


def of_statistics(mean: float) -> nn.Module:
    """The same network for every rank, but for its running means."""
    torch.manual_seed(0)
    backbone = build_backbone("r3d_18", width=2)
    for name, tensor in running_statistics(backbone).items():
        if name.endswith("running_mean"):
            tensor.fill_(mean)
    return backbone


def of_rank(rank: int, rendezvous: Path, data: Path, out: Path) -> None:
    """One of two processes measures, with running statistics of its own, and keeps what it has."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2)
    (stage, _) = schedule(f"online.manifest={data}", *MEASURED)
    online = OnlineRetrieval(stage, Process(rank, 2, torch.device("cpu")))
    backbone, videos = of_statistics(float(rank)), []
    backbone.register_forward_hook(lambda _, clips, __: videos.append(len(clips[0])))
    found = online.extract(backbone)
    kept = {
        "batches": list(videos),
        "feature": found.feature, "label": found.label, "index": found.index,
        "failed": [entry["index"] for entry in found.failed],
        "scalars": {name: figure.item() for name, figure in online.measure(backbone).items()},
        "mean": backbone.layer1[0].conv1[1].running_mean, "due": online.is_due(stage.last_step),
    }  # fmt: skip
    torch.save(kept, out / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("broken", [(), (3, 4, 5, 9)], ids=["all", "one share"])
def test_ranks_share_the_videos_and_find_what_one_finds(own_data, tmp_path, broken):
    damage(own_data, *broken)
    multiprocessing.spawn(of_rank, (tmp_path / "rendezvous", own_data, tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    (stage, _) = schedule(f"online.manifest={own_data}", *MEASURED)
    one = OnlineRetrieval(stage, ALONE)
    whole, scalars = one.extract(of_statistics(0.5)), one.measure(of_statistics(0.5))
    assert whole.index.tolist() == [n for n in range(10) if n not in broken]
    assert ranks[0]["batches"] == [3, 3]  # videos 0 to 2 and 6 to 8
    assert ranks[1]["batches"] == ([] if broken else [3, 1])
    for rank, kept in enumerate(ranks):
        assert kept["due"]
        assert torch.equal(kept["index"], whole.index) and torch.equal(kept["label"], whole.label)
        torch.testing.assert_close(kept["feature"], whole.feature)
        assert kept["failed"] == list(broken) and kept["scalars"]["knn_failed"] == len(broken)
        assert kept["scalars"] == {name: figure.item() for name, figure in scalars.items()}
        assert kept["mean"].eq(rank).all(), "each rank has its own statistics again"


def test_two_ranks_measure_while_they_train(tiny_data, tmp_path):
    arguments = runs.smoke(tiny_data, tmp_path / "run", "method.key_batch_norm=exchange")
    ended = runs.run_ranks(*arguments, f"online.manifest={tiny_data}", "online.every_epochs=1")
    assert [rank.code for rank in ended] == [0, 0], ended[0].output + ended[1].output
    measured = [entry["step"] for entry in runs.metrics(tmp_path / "run") if "knn_R@1" in entry]
    assert measured == [2, 4, 6, 8, 10, 12]


# Videos that do not decode


@pytest.mark.parametrize(("broken", "left"), [((1, 2), True), (range(2, 10), False),
                                              (range(10), False)])  # fmt: skip
def test_damaged_videos_are_counted_and_left_out(own_data, broken, left):
    """Eight of ten leave one even and one odd video, which cannot find each other."""
    said = []
    damage(own_data, *broken)
    (stage, _) = schedule(f"online.manifest={own_data}", "backbone.width=2")
    online = OnlineRetrieval(stage, ALONE, said.append)
    figures = online.measure(build_backbone("r3d_18", width=2))
    assert figures["knn_failed"] == len(broken)
    assert ("knn_R@1" in figures) == left
    line = (
        f"no retrieval: {len(broken)} of 10 videos do not decode, and no two of a class are left "
        f"· {own_data} · mend or replace its videos"
    )
    assert said == ([] if left else [line])


def test_a_run_goes_on_without_a_video_to_measure(tiny_data, own_data, tmp_path):
    damage(own_data, *range(10))
    arguments = runs.smoke(tiny_data, tmp_path / "run", f"online.manifest={own_data}")
    said = runs.finished(*arguments).output
    assert said.count("no retrieval: 10 of 10 videos do not decode") == 2  # a stage's end each
    last = runs.metrics(tmp_path / "run")[-1]
    assert last["knn_failed"] == 10 and "knn_R@1" not in last


def test_a_run_continues_with_other_measurements(tiny_data, tmp_path):
    runs.finished(*runs.smoke(tiny_data, tmp_path))
    other = (f"online.manifest={tiny_data}", "online.batch_size=3")
    runs.finished(*runs.smoke(tiny_data, tmp_path, *other))


def test_in_words(tiny_data):
    (stage, _) = schedule(f"online.manifest={tiny_data}", "online.every_epochs=2")
    assert OnlineRetrieval(stage, ALONE).describe() == "retrieval among 10 videos every 5 steps"
    (stage, _) = schedule()
    assert "online.manifest is not set" in OnlineRetrieval(stage, ALONE).describe()


def test_encoder_is_as_it_was(tiny_data):
    (stage, _) = schedule(f"online.manifest={tiny_data}", "backbone.width=2")
    encoder = build_backbone("r3d_18", width=2).train()
    encoder.layer1.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    OnlineRetrieval(stage, ALONE).measure(encoder)
    assert encoder.training and not encoder.layer1.training and encoder.layer2.training
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_videos_without_a_class_in_common_are_refused(tmp_path):
    manifest = make_data_set(tmp_path, videos=2)
    (stage, _) = schedule(f"online.manifest={manifest}")
    with pytest.raises(DataError) as refused:
        OnlineRetrieval(stage, ALONE)
    assert str(refused.value) == (
        f"error: online retrieval needs two videos of a class, {manifest} has none · "
        "index labelled videos and name them in online.manifest"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("online.every_epochs=0", "online.every_epochs: expected more than 0, got 0.0"),
        ("online.clips=0", "online.clips: expected at least 1, got 0"),
        ("online.batch_size=0", "online.batch_size: expected at least 1, got 0"),
    ],
)
def test_bad_values(override, message):
    with pytest.raises(ConfigError, match=message):
        load(runs.SMOKE, [override])
