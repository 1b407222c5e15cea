from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.queue import NO_VIDEO, FeatureQueue

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]


def batches_of(sizes: list[int], dim: int = 3):
    """Numbered keys: key n of the run is [n, n, n] and belongs to video 7n."""
    first = 0
    for size in sizes:
        number = torch.arange(first, first + size)
        yield number[:, None].expand(size, dim).float(), 7 * number
        first += size


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=80, deadline=None)
@given(size=st.integers(1, 12), sizes=st.lists(st.integers(0, 30), max_size=8))
def test_equals_a_deque(device, size, sizes):
    queue = FeatureQueue(size, 3, seed=1).to(device)
    # (key, video, born in step), oldest first
    truth = deque(((row, NO_VIDEO, 0) for row in queue.keys.clone()), maxlen=size)
    for step, (keys, ids) in enumerate(batches_of(sizes)):
        queue.enqueue(keys.to(device), ids.to(device))
        truth.extend((key, int(video), step) for key, video in zip(keys, ids, strict=True))
    oldest_first = queue.ages(unit="key").argsort(descending=True)
    assert queue.ages(unit="key").sort().values.tolist() == list(range(size))
    assert torch.equal(
        queue.keys[oldest_first].cpu(), torch.stack([row.cpu() for row, _, _ in truth])
    )
    assert queue.ids[oldest_first].tolist() == [video for _, video, _ in truth]
    ages = [len(sizes) - step for _, _, step in truth]
    assert queue.ages(unit="step")[oldest_first].tolist() == ages


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=4), st.lists(st.integers(1, 9), max_size=4))
def test_state_dict_continues_the_run(before, after):
    whole, restored = FeatureQueue(7, 3, seed=1), FeatureQueue(7, 3, seed=2)
    batches = list(batches_of(before + after))
    for batch in batches[: len(before)]:
        whole.enqueue(*batch)
    restored.load_state_dict(whole.state_dict())
    for batch in batches[len(before) :]:
        whole.enqueue(*batch)
        restored.enqueue(*batch)
    for name, buffer in whole.state_dict().items():
        assert torch.equal(buffer, restored.state_dict()[name]), name


def test_first_keys_are_unit_vectors_of_the_seed_alone():
    before = torch.random.get_rng_state()
    queue = FeatureQueue(50, 8, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(9)
    assert torch.equal(FeatureQueue(50, 8, seed=3).keys, queue.keys)
    assert not torch.equal(FeatureQueue(50, 8, seed=4).keys, queue.keys)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(50))
    assert queue.ids.eq(NO_VIDEO).all()


def test_step_age_is_the_count_of_the_released_code():
    # There: count starts 0, count += 1 for all, then count = 1 for the batch just written.
    queue, count, position = FeatureQueue(6, 3), torch.zeros(6, dtype=torch.int64), 0
    for keys, ids in batches_of([2] * 5):
        queue.enqueue(keys, ids)
        count += 1
        count[position : position + 2] = 1
        position = (position + 2) % 6
        assert torch.equal(queue.ages(unit="step"), count)


def test_empty_queue_is_refused():
    with pytest.raises(ValueError, match="queue_size: 0 holds no key; take 1 or more"):
        FeatureQueue(0, 3)


def test_keys_are_stored_as_asked():
    queue = FeatureQueue(6, 4, dtype=torch.bfloat16)
    assert queue.keys.dtype == torch.bfloat16
    keys = F.normalize(torch.randn(2, 4), dim=1)
    queue.enqueue(keys, torch.arange(2))
    assert torch.equal(queue.keys[:2], keys.bfloat16())
    assert queue.state_dict()["keys"].dtype == torch.bfloat16


def test_scratch_is_not_saved():
    queue = FeatureQueue(6, 4)
    assert sorted(queue.state_dict()) == [
        "birth_key",
        "birth_step",
        "ids",
        "keys",
        "keys_written",
        "steps",
    ]
