from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.batchnorm import exchange_partners, split_batch_norm

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
