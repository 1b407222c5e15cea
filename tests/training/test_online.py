"""Retrieval while training: when, of what, and that the run does not notice."""

from __future__ import annotations

import pytest
import torch

from models import build_backbone
from pipeline import DataError
from tests import runs
from tests.conftest import make_data_set
from tests.training.test_stages import ALONE, schedule
from training.config import load
from training.errors import ConfigError
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
    assert "knn" not in (tmp_path / "plain" / "metrics.jsonl").read_text()


def test_a_run_continues_with_other_measurements(tiny_data, tmp_path):
    runs.finished(*runs.smoke(tiny_data, tmp_path))
    runs.finished(*runs.smoke(tiny_data, tmp_path, f"online.manifest={tiny_data}"))


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
    ],
)
def test_bad_values(override, message):
    with pytest.raises(ConfigError, match=message):
        load(runs.SMOKE, [override])
