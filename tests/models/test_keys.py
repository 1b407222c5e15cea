import pytest
import torch
from torch import nn

from models import keys
from models.batchnorm import SplitBatchNorm
from models.keys import KeySide, check_groups

BATCH = 8


@pytest.mark.parametrize("protection", ["split", "plain", "sync"])
@pytest.mark.parametrize("shape", [(3,), (5, 3)])
def test_keys_stand_where_their_clips_did(protection, shape):
    clips = torch.randn(BATCH, *shape)
    own, of_all = KeySide(protection, 4).keys(lambda clips: 2 * clips, clips)
    assert torch.equal(own, 2 * clips) and torch.equal(of_all, own)


def test_split_gives_every_clip_other_partners():
    """Two clips of a block of queries are in different blocks of keys."""
    side = KeySide("split", 4)
    blocks = torch.arange(BATCH) // 2
    met, _ = side.keys(
        lambda clips: torch.stack([clips, clips.view(4, 2).flip(1).flatten()], 1), blocks
    )
    assert torch.equal(met[:, 0], blocks)
    assert (met[:, 1] != blocks).all()


@pytest.mark.parametrize(
    "protection, kind",
    [
        ("split", SplitBatchNorm),
        ("sync", nn.SyncBatchNorm),
        ("plain", nn.BatchNorm1d),
        ("exchange", nn.BatchNorm1d),
    ],
)
def test_batch_norms_are_what_the_protection_asks(protection, kind):
    encoder = KeySide(protection, 2).convert(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    assert type(encoder[1]) is kind


def test_keys_have_no_gradient():
    weight = torch.randn(3, 3, requires_grad=True)
    own, of_all = KeySide("plain", 1).keys(lambda clips: clips @ weight, torch.randn(BATCH, 3))
    assert not own.requires_grad and not of_all.requires_grad


def test_batch_that_does_not_split_is_refused():
    with pytest.raises(ValueError, match="8 clips per process does not split into 3 groups; make"):
        KeySide("split", 3).keys(lambda clips: clips, torch.randn(BATCH, 3))


@pytest.mark.parametrize("own", range(3))
def test_exchanged_keys_return_among_three_ranks(own, monkeypatch):
    """Rank r encodes the clips of rank r + 1; with two ranks forth and back would be the same."""
    clips = torch.arange(12.0).view(3, 4, 1)
    monkeypatch.setattr(keys, "world_size", lambda: 3)
    monkeypatch.setattr(keys, "rank", lambda: own)
    monkeypatch.setattr(keys, "gather", lambda _: clips.roll(-1, dims=0).flatten(0, 1))
    key, of_all = KeySide("exchange", 1).keys(lambda clips: clips, clips[(own + 1) % 3])
    assert torch.equal(key, clips[own])
    assert torch.equal(of_all, clips.flatten(0, 1))


def test_exchange_with_oneself_is_refused():
    with pytest.raises(ValueError) as error:
        KeySide("exchange", 1).check(1, "cpu")
    assert str(error.value) == (
        "method.key_batch_norm: exchange gives keys to another rank, and there is one process; "
        "start several, or set method.key_batch_norm=split"
    )


def test_no_groups_are_refused():
    with pytest.raises(ValueError) as error:
        check_groups(0)
    assert str(error.value) == "split_groups: 0 must be 1 or more"
