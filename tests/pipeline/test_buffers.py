"""Memory comes back when the last tensor on it is gone, and never before."""

from __future__ import annotations

import gc

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.buffers import Buffers


def test_memory_is_used_again():
    buffers = Buffers()
    first = buffers.take((2, 3))
    place = first.data_ptr()
    del first
    again = buffers.take((3, 2))  # of another shape, too
    assert again.data_ptr() == place and again.shape == (3, 2) and again.dtype == torch.float32


def test_only_memory_of_the_last_size_is_kept():
    buffers = Buffers()
    first = buffers.take((4,))
    second = buffers.take((2,))
    place = second.data_ptr()
    del first, second
    assert len(buffers._free) == 1 and buffers.take((2,)).data_ptr() == place


def test_a_view_keeps_its_memory():
    buffers = Buffers()
    whole = buffers.take((4, 5))
    kept = whole.fill_(7.0)[1:, ::2].transpose(0, 1)
    del whole
    gc.collect()
    buffers.take((4, 5)).fill_(9.0)
    assert (kept == 7.0).all()


# True: take a tensor; a number: drop one of those that are held.
@given(st.lists(st.one_of(st.just(True), st.integers(0, 7)), max_size=40))
def test_no_two_tensors_that_are_held_share_memory(events):
    buffers, held, most = Buffers(), [], 0
    for number, event in enumerate(events):
        if event is True:
            held.append((buffers.take((3,)).fill_(number)[1:], number))
            most = max(most, len(held))
        elif held:
            held.pop(event % len(held))
    assert all((view == number).all() for view, number in held)
    del held
    gc.collect()
    assert len(buffers._free) == most
