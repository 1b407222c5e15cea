import pytest
import torch
from torch import nn

from models import build_backbone, gather
from models.batchnorm import SplitBatchNorm, split_batch_norm
from training.protocols import whole_batch
from training.protocols.whole_batch import WholeBatchDropout, WholeBatchNorm, over_whole_batches

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2, 2)])
def test_a_rank_normalises_by_the_batch_of_all(shape, monkeypatch):
    """Of two ranks with the same samples every sum is twice that of one; the whole batch has each
    sample twice.
    """
    monkeypatch.setattr(whole_batch, "world_size", lambda: 2)
    monkeypatch.setattr(whole_batch._SumOverRanks, "apply", lambda x: 2 * x)
    torch.manual_seed(0)
    plain = {2: nn.BatchNorm1d, 5: nn.BatchNorm3d}[len(shape)](3, eps=1e-2, momentum=0.3)
    plain.weight.data.normal_()
    own = WholeBatchNorm(type(plain)(3, eps=1e-2, momentum=0.3))
    own.load_state_dict(plain.state_dict())
    x, wanted = 5 + 2 * torch.randn(shape), torch.randn(shape)
    mine, both = x.clone().requires_grad_(), torch.cat([x, x]).requires_grad_()
    expected = plain(both)
    torch.testing.assert_close(own(mine), expected[:4])
    (own(mine) * wanted).sum().backward()
    (expected * torch.cat([wanted, wanted])).sum().backward()
    torch.testing.assert_close(mine.grad, both.grad[:4], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(2 * own.weight.grad, plain.weight.grad, atol=1e-5, rtol=1e-4)
    plain(both)  # the other one has seen the batch twice
    torch.testing.assert_close(own.state_dict(), plain.state_dict())


def test_every_batch_norm_becomes_one_of_the_whole_batch():
    """VCLR's encoder has statistics of blocks, which are none of a classifier's."""
    encoder = split_batch_norm(build_backbone("r3d_18", width=4), 2)
    state, parameters = encoder.state_dict(), list(encoder.parameters())
    kinds = {type(layer) for layer in over_whole_batches(encoder, CPU).modules()}
    assert WholeBatchNorm in kinds and SplitBatchNorm not in kinds
    assert encoder.state_dict().keys() == state.keys()
    assert all(a is b for a, b in zip(encoder.parameters(), parameters, strict=True))
    x = torch.randn(3, 3, 4, 16, 16)  # which two blocks do not share
    plain = build_backbone("r3d_18", width=4)
    plain.load_state_dict(state)
    torch.testing.assert_close(encoder.train()(x), plain.train()(x))
    torch.testing.assert_close(encoder.eval()(x), plain.eval()(x))


def test_ranks_drop_what_one_process_drops(monkeypatch):
    layer, x = WholeBatchDropout(0.3), torch.randn(6, 500)
    torch.manual_seed(7)
    whole = layer(x)
    kept = whole != 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.03)
    torch.testing.assert_close(whole, kept * x / 0.7)
    assert torch.equal(layer.eval()(x), x)
    for module in (whole_batch, gather):
        monkeypatch.setattr(module, "world_size", lambda: 2)
    layer.train()
    for rank in range(2):
        monkeypatch.setattr(gather, "rank", lambda rank=rank: rank)
        torch.manual_seed(7)
        assert torch.equal(layer(x[3 * rank : 3 * rank + 3]), whole[3 * rank : 3 * rank + 3])
