from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.batchnorm import (
    exchange_partners,
    mean_statistics,
    running_statistics,
    split_batch_norm,
    sync_batch_norm,
)

SHAPES = {nn.BatchNorm1d: (12, 5), nn.BatchNorm3d: (12, 5, 2, 3, 4)}


def trained(kind: type[nn.Module]) -> nn.Module:
    norm = kind(5)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm


def twin_of(norm: nn.Module) -> nn.Module:
    twin = type(norm)(5)
    twin.load_state_dict(norm.state_dict())
    return twin


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("groups", [2, 3, 6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_equals_one_batch_norm_per_block(kind, groups, layout):
    plain = trained(kind)
    split = split_batch_norm(twin_of(plain), groups)
    clip = torch.randn(SHAPES[kind]) * 3 + 1
    if clip.ndim == 5:
        clip = clip.contiguous(memory_format=layout)
    parts = [twin_of(plain) for _ in range(groups)]
    blocks = clip.clone().requires_grad_(), clip.clone().requires_grad_()
    chunks = zip(parts, blocks[0].chunk(groups), strict=True)
    expected = torch.cat([part(chunk) for part, chunk in chunks])
    actual = split(blocks[1])
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(clip)
    expected.backward(upstream)
    actual.backward(upstream)
    torch.testing.assert_close(blocks[1].grad, blocks[0].grad)
    for name in ("weight", "bias"):
        gradient = sum(getattr(part, name).grad for part in parts)
        torch.testing.assert_close(getattr(split, name).grad, gradient)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(part, name) for part in parts]).mean(0)
        torch.testing.assert_close(getattr(split, name), mean)
    assert split.num_batches_tracked == 1


def test_one_group_is_the_module_itself():
    norm = trained(nn.BatchNorm3d)
    assert split_batch_norm(norm, 1) is norm


def test_eval_equals_plain():
    plain = trained(nn.BatchNorm3d).eval()
    split = split_batch_norm(twin_of(plain).eval(), 4)
    clip = torch.randn(7, 5, 2, 3, 4)  # 7 is no multiple of 4: eval does not split
    assert torch.equal(split(clip), plain(clip))


def test_conversion_keeps_names_and_tensors():
    module = nn.Sequential(nn.Conv3d(3, 5, 1), nn.Sequential(nn.BatchNorm3d(5), nn.ReLU()))
    before = module.state_dict()
    split_batch_norm(module, 2)
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == before[name].data_ptr() for name in before)
    assert "groups=2" in repr(module[1][0])


def test_layout_is_kept():
    split = split_batch_norm(nn.BatchNorm3d(5), 2)
    clip = torch.randn(4, 5, 2, 3, 4).contiguous(memory_format=torch.channels_last_3d)
    assert split(clip).is_contiguous(memory_format=torch.channels_last_3d)


def test_indivisible_batch_names_the_cure():
    split = split_batch_norm(nn.BatchNorm3d(5), 4)
    with pytest.raises(ValueError) as error:
        split(torch.randn(6, 5, 1, 2, 2))
    assert str(error.value) == (
        "split batch norm: a batch of 6 clips per process does not split into 4 groups; "
        "make the batch a multiple of 4 or lower method.split_groups"
    )


def test_statistics_of_a_rank_are_those_that_no_other_has():
    norms = [nn.BatchNorm3d(5), split_batch_norm(nn.BatchNorm1d(5), 2), nn.BatchNorm1d(5)]
    norms[2] = sync_batch_norm(norms[2])
    module = nn.Sequential(nn.Linear(5, 5), nn.Sequential(norms[0]), *norms[1:])
    module.register_buffer("queue", torch.zeros(3))
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    found = running_statistics(module)
    assert list(found) == [f"{name}.{buffer}" for name in ("1.0", "2") for buffer in buffers]
    assert all(tensor is module.get_buffer(name) for name, tensor in found.items())


def test_the_mean_over_ranks_is_the_moving_average_over_all_samples():
    """Three ranks, twenty steps, against one norm that averages the ranks in every step."""
    ranks = [nn.BatchNorm1d(5) for _ in range(3)]
    together = nn.BatchNorm1d(5).double()
    for _ in range(20):
        batches = [torch.randn(4, 5) * 3 + 1 for _ in ranks]
        for norm, batch in zip(ranks, batches, strict=True):
            norm(batch)
        stacked = torch.stack(batches).double()
        for running, new in (
            (together.running_mean, stacked.mean(1).mean(0)),
            (together.running_var, stacked.var(1).mean(0)),
        ):
            running.mul_(0.9).add_(0.1 * new)
    mean = mean_statistics([running_statistics(norm) for norm in ranks])
    assert torch.allclose(mean["running_mean"].double(), together.running_mean, atol=1e-6)
    assert torch.allclose(mean["running_var"].double(), together.running_var, rtol=1e-5)
    assert mean["num_batches_tracked"] == 20
    assert mean["num_batches_tracked"].dtype == torch.int64


@given(st.integers(1, 9), st.integers(1, 9))
def test_partners_never_meet_again(groups, per_block):
    batch = groups * per_block
    order, inverse = exchange_partners(batch, groups, device=torch.device("cpu"))
    assert order.sort().values.tolist() == list(range(batch))
    assert order[inverse].tolist() == list(range(batch))
    if per_block > groups:
        return
    block_after = (inverse // per_block).tolist()
    for block in range(groups):
        mates = range(block * per_block, (block + 1) * per_block)
        assert all(block_after[a] != block_after[b] for a, b in combinations(mates, 2))
