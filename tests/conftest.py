"""What all tests share: few threads, CUDA tests that cannot be skipped unnoticed, small data."""

from __future__ import annotations

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)

TINY_VIDEOS = 10


def pytest_configure(config):
    # A shell's background jobs ignore Ctrl-C, and what they start would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "needs_cuda: runs on a GPU; REQUIRE_CUDA=1 forbids skipping")
    config.addinivalue_line(
        "markers", "interpreted: a kernel on the CPU; tests/models/test_kernels.py starts these"
    )


def pytest_collection_modifyitems(config, items):
    # Triton decides at its import whether it interprets, so these have a process of their own.
    if os.environ.get("TRITON_INTERPRET") != "1":
        interpreted = [item for item in items if item.get_closest_marker("interpreted")]
        config.hook.pytest_deselected(items=interpreted)
        items[:] = [item for item in items if item not in interpreted]
    if torch.cuda.is_available() or os.environ.get("REQUIRE_CUDA") == "1":
        return
    for item in items:
        if item.get_closest_marker("needs_cuda"):
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


def make_data_set(folder: Path, *, videos: int = TINY_VIDEOS, labels: bool = True) -> Path:
    """A manifest of small real videos with numbered frames, no two of one length."""
    # Imported here: most tests need neither PyAV nor pyarrow.
    from pipeline.manifest import Video, write_manifest
    from pipeline.probe import probe
    from tests.videos import write_video

    rows = []
    for number in range(videos):
        path = write_video(folder / f"v{number}.mp4", frames=12 + number, size=(40, 32), gop=8)
        label = number % 2 if labels else -1
        rows.append(Video.of(probe(path), key=path.stem, path=path, label=label))
    path = folder / "tiny.parquet"
    write_manifest(path, rows, classes=["even", "odd"] if labels else [], options={})
    return path


def make_moving_data(
    folder: Path, motions: list[tuple[float, float]], *, size: tuple[int, int], frames: int = 12
) -> Path:
    """A manifest of textured videos, each with the given constant motion in pixels a frame: right,
    down. size: (width, height).
    """
    from pipeline.manifest import Video, write_manifest
    from pipeline.probe import probe
    from tests.flow_oracles import moving, shift
    from tests.videos import write_video

    rows = []
    for number, motion in enumerate(motions):
        clip, _ = moving(number, size[1], size[0], shift(*motion), frames=frames)
        path = write_video(
            folder / f"m{number}.mp4", frames=frames, size=size,
            pixels=lambda n, clip=clip: clip[n][..., None].repeat(3, axis=2),
        )  # fmt: skip
        rows.append(Video.of(probe(path), key=path.stem, path=path, label=number % 2))
    path = folder / "moving.parquet"
    write_manifest(path, rows, classes=["even", "odd"], options={})
    return path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A manifest of ten small videos, for tests that leave it as it is."""
    return make_data_set(tmp_path_factory.mktemp("tiny"))


def damage(manifest: Path, *numbers: int) -> list[Path]:
    """Overwrite videos of a tiny data set with garbage, as a failing disk would."""
    paths = [manifest.parent / f"v{number}.mp4" for number in numbers]
    for path in paths:
        path.write_bytes(b"x" * path.stat().st_size)
    return paths


@pytest.fixture
def own_data(tmp_path) -> Path:
    """The same, for one test that damages it."""
    folder = tmp_path / "data"
    folder.mkdir()
    return make_data_set(folder)


@pytest.fixture(scope="session")
def whole(tiny_data, tmp_path_factory) -> Path:
    """The run folder of configs/smoke.yaml over the tiny data, which nothing disturbed."""
    from tests import faults, runs

    folder = tmp_path_factory.mktemp("whole")
    record = faults.Record(folder / "samples")
    runs.finished(*runs.smoke(tiny_data, folder), faults=[record])
    return folder


@pytest.fixture
def measured(tiny_data, tmp_path):
    """Runs a protocol on the tiny videos; returns its folder."""
    # Imported here: most tests evaluate nothing.
    import evaluate
    from tests.test_evaluate import arguments

    def measure(protocol: str, *more: str, folder: str = "out", **named) -> Path:
        output = tmp_path / folder
        args = arguments(tiny_data, tiny_data, output, *more, protocol=protocol, **named)
        assert evaluate.main(args) == 0
        return output

    return measure
