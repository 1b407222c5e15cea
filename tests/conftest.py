"""What all tests share: few threads, and CUDA tests that cannot be skipped unnoticed."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "needs_cuda: runs on a GPU; REQUIRE_CUDA=1 forbids skipping")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available() or os.environ.get("REQUIRE_CUDA") == "1":
        return
    for item in items:
        if item.get_closest_marker("needs_cuda"):
            item.add_marker(pytest.mark.skip(reason="no GPU here"))
