"""What a trained classifier depends on, and what it does not."""

from pathlib import Path

import pytest
import torch

from pipeline.manifest import Manifest
from pipeline.windows import Rows
from tests.test_evaluate import SMALL
from training import config
from training.distributed import Process
from training.protocols import MEASURES, inputs
from training.protocols.job import Job


def job_of(data: Path, protocol: str, *changes: str, world: int = 1) -> Job:
    """A job as evaluate.py makes it of `key=value`."""
    own = [text for text in changes if text.startswith("eval.")]
    options = config.group(
        "eval", MEASURES[protocol].Options, (config.read_overrides(own).get("eval", {}), "the test")
    )
    others = [text for text in changes if text not in own]
    source = inputs.load_source("random", SMALL, others)
    manifest, process = Manifest.read(data), Process(0, world, torch.device("cpu"))
    return Job(protocol, source, options, {"train": manifest, "test": manifest}, Path(), process)


def key_of(data: Path, *changes: str, protocol: str = "finetune", rows=None, **named) -> dict:
    job = job_of(data, protocol, *changes, **named)
    train = job.sets["train"]
    return job.key_of_training(train if rows is None else Rows(train, torch.tensor(rows).numpy()))


VIEWS = ["eval.clips=3", "eval.test=windows", "eval.window_step=2", "eval.size=24",
         "eval.mean_of=logits", "augment.eval_scale=0.5", "augment.eval_crops=10"]  # fmt: skip


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_other_test_views_are_of_the_same_training(protocol, tiny_data):
    more = ["eval.solver=sgd"] if protocol == "linear" else []
    changed = key_of(tiny_data, *VIEWS, *more, protocol=protocol)
    assert changed == key_of(tiny_data, *more, protocol=protocol)


def test_the_size_of_training_clips_is_what_it_comes_to(tiny_data):
    assert key_of(tiny_data, "eval.train_size=16") == key_of(tiny_data)  # augment.size is 16
    given = [key_of(tiny_data, "eval.train_size=12", f"augment.size={n}") for n in (16, 20)]
    assert given[0] == given[1] != key_of(tiny_data)


def test_a_part_of_the_labels_is_its_videos(tiny_data):
    """However many other parts there are beside it, and by which seed they were drawn."""
    named = {"protocol": "semi", "rows": [1, 4]}
    alone = key_of(tiny_data, "eval.solver=sgd", "eval.per_cent=[10]", "eval.list_seed=3", **named)
    assert alone == key_of(tiny_data, "eval.solver=sgd", **named)
    assert alone != key_of(tiny_data, "eval.solver=sgd", protocol="semi", rows=[1, 5])


def test_processes_are_no_part_of_a_training(tiny_data):
    assert key_of(tiny_data, world=2) == key_of(tiny_data)


@pytest.mark.parametrize(
    "change",
    ["augment.size=20", "augment.jitter=0", "augment.scale=[0.5,1]", "eval.train_size=12",
     "eval.epochs=3", "eval.dropout=0.5", "eval.optim.lr=1", "eval.freeze_norm=true",
     "clip.stride=1", "run.seed=1", "run.precision=bf16"],
)  # fmt: skip
def test_what_changes_a_training(change, tiny_data):
    assert key_of(tiny_data, change) != key_of(tiny_data)
