"""The package's own names: there when asked for, and not imported before."""

import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.manifest import Manifest

ROOT = Path(__file__).parents[2]


def test_start_without_torch():
    program = "import sys, tools.index; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    program = (
        "import pipeline, sys; assert 'torch' not in sys.modules; pipeline.Batch; "
        "from pipeline import build_loader, DataError; assert set(pipeline.__all__) <= "
        "set(dir(pipeline)); import pipeline.errors; assert DataError is pipeline.errors.DataError"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_unknown_names_of_the_package():
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'Btach'"):
        _ = pipeline.Btach
    assert Manifest is pipeline.Manifest
