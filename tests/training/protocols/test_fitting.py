import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import build_backbone
from pipeline import Batch
from tests.training.protocols.feature_sets import clustered
from training import config
from training.distributed import Process
from training.errors import ConfigError, NumericError
from training.optim import OptimConfig
from training.protocols import finetune, fitting
from training.protocols.fitting import Fitted, Frozen, classifier

ALONE = Process(0, 1, torch.device("cpu"))
VIDEOS, CLASSES, DIM = 12, 3, 4


@pytest.fixture
def batches(monkeypatch):
    """Features as clips, [B, 3, 1, 1, D] of three equal channels, four of twelve in each step."""
    own = clustered(0, VIDEOS, CLASSES, dim=DIM)

    class Loader:
        def batches(self, first, last):
            for step in range(first, last):
                rows = torch.arange(4 * step, 4 * step + 4) % VIDEOS
                clip = own.raw[rows][:, None, None, None].expand(4, 3, 1, 1, DIM)
                yield Batch(views=(clip.contiguous(),), label=own.label[rows], index=rows)

    monkeypatch.setattr(fitting, "training_loader", lambda *_: Loader())
    return own


class FirstChannel(nn.Module):
    """The features that the clips above are made of."""

    def forward(self, clip):
        return clip[:, 0, 0, 0]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "x.yaml"
    path.write_text("run: {precision: fp32}\nbackbone: {name: r3d_18, width: 4}\n")
    return config.load(path, [])


def by_loop(own, head, options: Fitted, factor: float):
    """SGD with momentum on cross entropy in float64, gradients by hand: weight and bias."""
    weight, bias = (p.detach().double() for p in (head.weight, head.bias))
    optim = options.optim
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    steps = round(options.epochs * VIDEOS / 4)
    for step in range(steps):
        rows = torch.arange(4 * step, 4 * step + 4) % VIDEOS
        x, label = own.raw[rows].double(), own.label[rows]
        if options.l2:
            x = x / x.norm(dim=1, keepdim=True)
        shares = torch.softmax(x @ weight.T + bias, dim=1)
        error = (shares - F.one_hot(label, CLASSES)) / 4
        gradients = [error.T @ x + optim.weight_decay * weight, error.sum(0)]
        gradients[1] += optim.weight_decay * bias
        lr = factor * optim.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        speed = [optim.momentum * v + g for v, g in zip(speed, gradients, strict=True)]
        weight, bias = weight - lr * speed[0], bias - lr * speed[1]
    return weight, bias


@pytest.mark.parametrize("l2", [False, True])
def test_a_linear_layer_is_trained_as_the_equations_say(batches, recipe, l2):
    options = Fitted(l2=l2, epochs=5, batch_size=4)
    options.optim = OptimConfig(lr=0.3, weight_decay=0.01, schedule="cosine")
    head = classifier(DIM, CLASSES, options, seed=2)
    expected = by_loop(batches, head[-1], options, factor=0.5)
    model = nn.Sequential(Frozen(FirstChannel()), head)
    manifest = range(VIDEOS)  # only its length is asked for
    fitting.fit(model, [(head, 0.5)], manifest, recipe, options, ALONE)
    torch.testing.assert_close(head[-1].weight.double(), expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head[-1].bias.double(), expected[1], atol=1e-5, rtol=1e-4)


def test_a_classifier_has_its_layers_in_order():
    options = Fitted(l2=True, batch_norm=True, dropout=0.5)
    kinds = [type(layer).__name__ for layer in classifier(8, 3, options, seed=0)]
    assert kinds == ["UnitLength", "BatchNorm1d", "WholeBatchDropout", "Linear"]
    assert [type(layer) for layer in classifier(8, 3, Fitted(), seed=0)] == [nn.Linear]


def test_a_new_classifier_follows_from_its_seed():
    one, same, other = (classifier(50, 20, Fitted(), seed=seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.std().item() == pytest.approx(0.01, rel=0.1)


def test_a_frozen_encoder_never_trains():
    frozen = Frozen(nn.BatchNorm1d(3)).train()
    before = frozen.encoder.running_mean.clone()
    assert not frozen(torch.randn(8, 3)).requires_grad
    assert torch.equal(frozen.encoder.running_mean, before)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_fixed_statistics_train_all_but_the_statistics():
    encoder = build_backbone("r3d_18", width=4)
    body = finetune.FixedStatistics(encoder).train()
    statistics = {n: b.clone() for n, b in encoder.named_buffers()}
    body(torch.randn(2, 3, 4, 16, 16)).sum().backward()
    assert all(torch.equal(b, statistics[n]) for n, b in encoder.named_buffers())
    assert all(p.grad is not None for p in encoder.parameters())


def test_rates_fall_from_the_last_stage_to_the_first():
    encoder = build_backbone("r3d_18", width=4)
    parts = finetune.stages(encoder, 0.5, 0.1)
    assert [part for part, _ in parts] == list(encoder.children())[::-1]
    assert [factor for _, factor in parts] == pytest.approx([0.5, 0.05, 5e-3, 5e-4, 5e-5])
    covered = {p for part, _ in parts for p in part.parameters()}
    assert covered == set(encoder.parameters())


def test_s3d_has_its_stages_in_one_list():
    encoder = build_backbone("s3d", width=4)
    parts = finetune.stages(encoder, 1.0, 0.9)
    assert len(parts) > 10
    assert {p for part, _ in parts for p in part.parameters()} == set(encoder.parameters())


def test_a_training_that_diverges_ends(batches, recipe):
    batches.feature[0] = math.nan
    head = classifier(DIM, CLASSES, Fitted(), seed=0)
    with pytest.raises(NumericError) as refused:
        model, options = nn.Sequential(FirstChannel(), head), Fitted(epochs=5, batch_size=4)
        fitting.fit(model, [(head, 1.0)], range(VIDEOS), recipe, options, ALONE)
    assert str(refused.value) == "error: the loss is nan at step 1/15 · lower eval.optim.lr, 0.1"


def test_clips_of_a_training_set_are_always_random():
    with pytest.raises(ConfigError) as refused:
        fitting.check(Fitted(train="windows"), range(VIDEOS))
    assert str(refused.value) == (
        "error: eval.train=windows has no effect where a classifier is trained: it sees one random "
        "clip of every training video in each epoch"
    )


def entry(key: str) -> dict:
    return {"path": f"{key}.mp4", "key": key, "code": "E-TEST", "detail": "gone"}


def test_a_damaged_video_counts_once_whichever_process_meets_it(batches, recipe, monkeypatch):
    by_rank = [entry("b"), entry("c")], [entry("a"), entry("b")]
    monkeypatch.setattr(fitting.distributed, "of_all_ranks", lambda own, _: list(by_rank))
    head = classifier(DIM, CLASSES, Fitted(), seed=0)
    model, options = nn.Sequential(FirstChannel(), head), Fitted(epochs=1, batch_size=4)
    found = fitting.fit(model, [(head, 1.0)], range(VIDEOS), recipe, options, ALONE)
    assert found == [entry(key) for key in "abc"]


def test_training_clips_are_augmented_as_asked_for_and_not_as_a_view(recipe, monkeypatch):
    asked = {}
    monkeypatch.setattr(fitting, "build_loader", lambda _, **named: asked.update(named))
    own = replace(recipe.augment, blur=0.0, size=20, views={0: {"blur": 1.0}})
    damaged: dict[str, dict] = {}
    for options in (Fitted(train_size=12), Fitted()):
        fitting.training_loader(None, replace(recipe, augment=own), options, ALONE, damaged)
        assert asked["augment"] == replace(own, views={}, size=options.train_size or 20)
    # The epoch in which it was met is another one in another process.
    asked["noted"]([{**entry("a"), "epoch": 3, "position": 1, "attempt": 0}])
    assert damaged == {"a": entry("a")}
