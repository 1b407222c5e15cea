"""Triton kernels where there is no GPU: interpreted, compiled ahead of time, and left out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from models.ops import implementation, info_nce_triton, nt_xent_triton
from tests import ahead_of_time

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests").rglob("kernels/test_*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_interpreted(path):
    """Runs the file's tests with Triton as an interpreter, which it decides at its import."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "interpreted"]
    done = subprocess.run(
        [*command, path],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def usages() -> list[ahead_of_time.Usage]:
    return list(ahead_of_time.usages())


def test_no_kernel_spills_a_register(usages):
    assert not [str(usage) for usage in usages if usage.spilled_bytes]


def test_kernels_fit_into_shared_memory(usages):
    # What one program may have: 163 KiB on an A100, 227 KiB on an H100 and a B200.
    most = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
    assert not [str(usage) for usage in usages if usage.shared_bytes > most[usage.capability]]


def test_every_kernel_is_compiled_for_every_gpu(usages):
    kernels = {
        line.removeprefix("def ").split("(")[0]
        for package in ("models", "pipeline")
        for path in (ROOT / package).rglob("*_triton.py")
        for line in path.read_text().splitlines()
        if line.startswith("def ") and "_kernel(" in line
    }
    assert {(usage.kernel, usage.capability) for usage in usages} == {
        (kernel, capability) for kernel in kernels for capability in ahead_of_time.CAPABILITIES
    }


@settings(max_examples=300, deadline=None)
@given(
    batch=st.integers(1, 5000),
    slots=st.integers(1, 2**21),
    dim=st.integers(1, 128),
    itemsize=st.sampled_from([2, 4]),
    processors=st.integers(1, 200),
)
def test_cuts_cover_the_queue_within_one_per_cent_of_eager(batch, slots, dim, itemsize, processors):
    cut = info_nce_triton.tiles(batch, slots, dim, itemsize=itemsize, processors=processors)
    assert (cut.parts - 1) * cut.part_keys < slots <= cut.parts * cut.part_keys  # none is empty
    assert cut.part_keys % cut.keys == 0
    assert 16 <= cut.queries <= 128
    eager = 5 * batch * slots * 4
    assert cut.parts == 1 or cut.parts * batch * dim * itemsize <= eager / 100
    assert cut.parts == 1 or cut.parts * -(-batch // cut.queries) <= processors


def test_cuts_fill_an_h100_at_moco_s_size():
    cut = info_nce_triton.tiles(256, 65_536, 128, itemsize=2, processors=132)
    assert 0.9 <= cut.parts * 256 / cut.queries / 132 <= 1


@pytest.mark.parametrize("tiles", [nt_xent_triton.forward_tiles, nt_xent_triton.backward_tiles])
@settings(max_examples=100, deadline=None)
@given(
    videos=st.integers(1, 5000),
    world=st.integers(1, 64),
    dim=st.integers(1, 128),
    itemsize=st.sampled_from([2, 4]),
    processors=st.integers(1, 200),
)
def test_cuts_cover_the_candidates(tiles, videos, world, dim, itemsize, processors):
    rows, candidates = 2 * videos, 2 * videos * world
    cut = tiles(rows, candidates, dim, itemsize=itemsize, processors=processors)
    assert (cut.parts - 1) * cut.part_keys < candidates <= cut.parts * cut.part_keys
    assert cut.part_keys % cut.keys == 0
    numbers = dim if tiles is nt_xent_triton.backward_tiles else 1
    assert cut.parts == 1 or cut.parts * rows * numbers <= 5 * rows * candidates / 10
    assert cut.parts == 1 or cut.parts * -(-rows // cut.queries) <= processors


def test_choice_of_implementation():
    with FakeTensorMode():
        for dtype, choice in (
            (torch.float32, "triton"),
            (torch.bfloat16, "triton"),
            (torch.float64, "reference"),
        ):
            tensor = torch.empty(2, 3, device="cuda", dtype=dtype)
            assert implementation("info_nce", tensor) == choice
            assert implementation("nt_xent", tensor) == choice
            assert implementation("enqueue", tensor, tensor) == choice
            assert implementation("info_nce", tensor, torch.empty(2, 3)) == "reference"


def test_long_vectors_are_left_to_plain_torch():
    def fits(dim: int, dtype: torch.dtype) -> bool:
        return info_nce_triton.fits(torch.empty(1, dim), torch.empty(1, dim, dtype=dtype))

    assert fits(128, torch.float32) and not fits(129, torch.float32)
    assert fits(512, torch.bfloat16) and not fits(513, torch.bfloat16)
    assert nt_xent_triton.fits(torch.empty(2, 128))
    assert not nt_xent_triton.fits(torch.empty(2, 129))
    assert nt_xent_triton.fits(torch.empty(2, 256, dtype=torch.bfloat16))
    assert not nt_xent_triton.fits(torch.empty(2, 257, dtype=torch.bfloat16))


WITHOUT_KERNELS = """
import sys
sys.modules["triton"] = None  # an import of it raises

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
import models
from models.ops import implementation

with FakeTensorMode():
    print(implementation("info_nce", torch.empty(2, device="cuda")))
backbone = models.build_backbone("r3d_18", width=2)
method = models.build_method("videomoco", backbone, frames=4, size=16, dim=8, queue_size=20,
                             split_groups=2)
views = tuple(torch.randn(4, 3, 4, 16, 16) for _ in range(2))
objectives, _ = method(views, None, torch.arange(4))
objectives[-1].loss.backward(inputs=objectives[-1].moves)
method.after_step()
print(method.queue.keys_written.item())
"""


def test_the_program_works_without_kernels_and_triton(tmp_path):
    shutil.copytree(
        ROOT / "models",
        tmp_path / "models",
        ignore=shutil.ignore_patterns("*_triton.py", "__pycache__"),
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERNELS], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == ["reference", "4"], done.stderr
