"""The model of many nodes, beside numbers worked out by hand."""

from __future__ import annotations

import pytest

from tools.benchmark import nodes
from tools.benchmark.nodes import Load, Machine

# A round machine and a round load: 4 GPUs that do 100 GFLOP/s, and 2 GFLOP a sample.
MACHINE = Machine(gpus_per_node=4, flops=200e9, use=0.5, inside=1e9, between=1e8)
LOAD = Load(
    "round", parameters=1_000_000, forward_flops=0.5e9, passes=4, dim=100, vectors=2,
    extra_bytes=8, batch=10, video_bytes=1e6,
)  # fmt: skip


def test_a_ring_sends_nearly_twice_what_it_adds_up():
    assert nodes.all_reduce_bytes(800, 1) == 0
    assert nodes.all_reduce_bytes(800, 2) == 800  # half to add up, half to hand on
    assert nodes.all_reduce_bytes(800, 8) == 1400  # 2 x 7 parts of 100


def test_a_gather_brings_what_the_others_have():
    assert nodes.all_gather_bytes(100, 1) == 0 and nodes.all_gather_bytes(100, 8) == 700
    # 10 samples x (2 vectors x 100 x 4 bytes + 8)
    assert nodes.gathered_bytes(LOAD) == 8080


def test_gradients_are_float32():
    assert nodes.gradient_bytes(1_000_000) == 4_000_000


def test_a_step_takes_its_arithmetic():
    # 10 samples x 4 x 0.5 GFLOP / 100 GFLOP/s
    assert nodes.step_seconds(LOAD, MACHINE) == pytest.approx(0.2)


def test_storage_gives_every_sample_its_video():
    # 10 x 4 samples of 1 MB in 0.2 s; twice that for two nodes
    assert nodes.storage_bytes(LOAD, MACHINE, 1) == pytest.approx(200e6)
    assert nodes.storage_bytes(LOAD, MACHINE, 2) == pytest.approx(400e6)


def test_the_slowest_link_counts():
    # 1.5 x 4 MB and 3 x 8,080 bytes at 1 GB/s; 1.75 x 4 MB and 7 x 8,080 bytes at 100 MB/s
    assert nodes.exchange_seconds(LOAD, MACHINE, 1) == pytest.approx(6.02424e-3)
    assert nodes.exchange_seconds(LOAD, MACHINE, 2) == pytest.approx(70.5656e-3)


def test_figures_show_their_arithmetic():
    workings = nodes.model(LOAD, MACHINE, nodes=(1, 2))
    found = {figure.what: figure for figure in workings.figures}
    reduced = found["2 nodes: all-reduce of a rank"]
    assert reduced.value == pytest.approx(7.0) and reduced.how == "2 x (8 - 1) / 8 x 4 MB"
    assert found["samples of a GPU"].value == pytest.approx(50)
    assert found["given to the other ranks"].how == "10 x (2 x 100 x 4 + 8 bytes)"
    # 70.5656 ms of exchange beside 200 ms of arithmetic
    assert found["2 nodes: exchange, worst share"].value == pytest.approx(26.08, abs=0.01)
    assert found["1 node: storage"].how == "10 x 4 samples x 1 MB / 200 ms"
    assert "4 GPUs a node" in workings.notes[0] and "| 200 ms |" in workings.markdown()
