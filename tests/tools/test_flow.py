"""Stored flow is the operator's, and whatever kills the program, the same command continues."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.decode import decode_frames
from pipeline.errors import BadVideo, DataError
from pipeline.flow.config import FlowConfig, Tvl1Config
from pipeline.flow.operator import build_operator
from pipeline.manifest import Manifest
from tests.conftest import damage, make_moving_data
from tests.shard_runs import contents
from tools.flow import compute
from tools.flow.__main__ import main
from tools.flow.compute import Maker, Settings
from tools.flow.index import Index
from tools.flow.run import make

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 100.0
MOTION = 1.5, -0.75


@pytest.fixture(autouse=True, scope="module")
def quick_workers():
    """Worker processes would each import the main module, which here is pytest."""
    with patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
        yield


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("moving")
    return Manifest.read(make_moving_data(folder, [MOTION], size=(96, 72), frames=9))


@pytest.fixture
def flow(capsys):
    """The program within this process: (stdout, stderr)."""

    def run(*arguments, code=0):
        capsys.readouterr()
        returned = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert returned == code, printed.out + printed.err
        return printed.out, printed.err

    return run


def settings(**more) -> Settings:
    given = {"operator": "dis", "encoding": "raw", "size": 64, "stride": 1} | more
    config = FlowConfig(encoding=given.pop("encoding"), tvl1=Tvl1Config(iterations=2))
    return Settings(config=config, **given)


def made(video, folder: Path, **more) -> Path:
    row = Maker(settings(**more), folder, "cpu")(video)
    assert isinstance(row, dict), row
    return folder / row["path"]


def expected(video, numbers, *, size: int = 64) -> np.ndarray:
    """[pairs, 2, h, w] of these frames."""
    pictures = decode_frames(video, np.array(numbers), timeout_seconds=30)
    clip = torch.from_numpy(np.stack([compute.luma(picture, size) for picture in pictures]))
    found = build_operator("dis", FlowConfig(), device="cpu")(clip[None])
    return found[0].transpose(0, 1).numpy()


# What a file holds


def test_raw_flow_is_the_operator_s(moving, tmp_path):
    found = np.load(made(moving[0], tmp_path), mmap_mode="r")
    assert found.shape == (8, 2, 64, 85) and found.dtype == np.float16
    assert np.array_equal(found, expected(moving[0], range(9)).astype(np.float16))
    scale = 64 / 72
    u, v = found[:, :, 16:48, 16:64].astype(float).mean(axis=(0, 2, 3))
    assert (u, v) == pytest.approx((scale * MOTION[0], scale * MOTION[1]), abs=0.1)


def test_pictures_are_those_that_others_read(moving, tmp_path):
    with zipfile.ZipFile(made(moving[0], tmp_path, encoding="image")) as archive:
        assert archive.namelist() == [f"flow_{n:05d}.jpg" for n in range(1, 9)]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        pictures = [np.asarray(Image.open(archive.open(name))) for name in archive.namelist()]
    found = np.stack(pictures).astype(float)  # [8, h, w, 3], as RGB
    levels = (expected(moving[0], range(9)).clip(-20, 20) + 20) * 255 / 40
    assert abs(found[..., 0] - 128).max() <= 2
    assert (
        abs(found[..., 1] - levels[:, 1]).max() < 4 and abs(found[..., 2] - levels[:, 0]).max() < 4
    )
    assert abs(found[..., 2] - levels[:, 0]).mean() < 0.9


def test_stride_takes_fewer_frames(moving, tmp_path):
    found = np.load(made(moving[0], tmp_path, stride=3))
    assert np.array_equal(found, expected(moving[0], [0, 3, 6]).astype(np.float16))


@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_windows_do_not_show(moving, tmp_path, monkeypatch, encoding):
    whole = made(moving[0], tmp_path / "whole", encoding=encoding)
    for pairs in (1, 3, 8):
        monkeypatch.setattr(compute, "PAIRS_AT_ONCE", pairs)
        assert made(moving[0], tmp_path / "cut", encoding=encoding).read_bytes() == (
            whole.read_bytes()
        )


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(40, 60, (20, 30)), (31, 10, (31, 10)), (20, 20, (20, 20))]
)
def test_luma_is_never_enlarged(height, width, shape):
    grey = compute.luma(np.full((height, width, 3), (10, 200, 90), np.uint8), 20)
    assert grey.shape == shape and grey.dtype == np.uint8
    assert (grey == 131).all()  # 0.299 x 10 + 0.587 x 200 + 0.114 x 90 = 130.65


@pytest.mark.parametrize(
    ("change", "more", "code", "what"),
    [
        ({}, {"stride": 9}, "E-SHORT", "9 frames with stride 9 leave 1, and flow needs two"),
        ({}, {"size": 20}, "E-TINY", "flow.operator: dis needs pictures of 32×32 pixels"),
        ({"key": "../up"}, {}, "E-FORMAT", "key '../up' leads out of the folder"),
        ({"frames": 12}, {}, "E-TRUNCATED", "frame 9 of 12 does not decode"),
    ],
)
def test_videos_without_flow(moving, tmp_path, change, more, code, what):
    error = Maker(settings(**more), tmp_path / "out", "cpu")(replace(moving[0], **change))
    assert isinstance(error, BadVideo) and error.code == code and error.what.startswith(what)
    assert not contents(tmp_path / "out") if (tmp_path / "out").exists() else True


# The command


TVL1 = "--operator", "tvl1", "tvl1.iterations=10", "--size", "32", "--jobs", "1"


def test_killed_it_continues(tiny_data, tmp_path, flow):
    out, _ = flow(tiny_data, "-o", tmp_path / "whole", *TVL1)
    assert "  videos     10, 10 of them in this run, " in out
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tools.flow", str(tiny_data), "-o", str(folder), *TVL1]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    index, end = folder / "index.jsonl", time.monotonic() + LIMIT_SECONDS
    while not (index.exists() and index.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with index.open("ab") as file:
        file.write(b'{"key": "v9.m')  # as if it was killed while it wrote a line
    assert index.read_bytes().count(b"\n") < 10
    out, _ = flow(tiny_data, "-o", folder, *TVL1)
    assert "  videos     10, 10 of them" not in out and "  videos     10, " in out
    assert contents(folder) == contents(tmp_path / "whole")
    out, _ = flow(tiny_data, "-o", folder, *TVL1)
    assert "  videos     10, 0 of them in this run\n" in out


def test_bad_videos_are_listed_and_can_be_mended(own_data, tmp_path, flow):
    whole = (own_data.parent / "v2.mp4").read_bytes()
    damage(own_data, 2)
    folder = tmp_path / "out"
    command = own_data, "-o", folder, "--size", "32", "--jobs", "1"
    _, err = flow(*command, code=3)
    assert err.startswith(
        "error: 1 of 10 videos have no flow, more than --max-bad-fraction=0.01 (E-"
    )
    assert err.splitlines()[0].endswith("index again; what is computed is kept")
    out, _ = flow(*command, "--max-bad-fraction", "0.1")
    assert "  videos     9, 0 of them in this run\n" in out and "see quarantine.jsonl" in out
    (entry,) = map(json.loads, (folder / "quarantine.jsonl").read_text().splitlines())
    assert entry["key"] == "v2" and entry["path"].endswith("v2.mp4")
    (own_data.parent / "v2.mp4").write_bytes(whole)
    out, _ = flow(*command)
    assert "  videos     10, 1 of them in this run, " in out
    assert not (folder / "quarantine.jsonl").exists()


def test_the_index_says_how_and_of_what(moving, tmp_path, flow):
    folder = tmp_path / "out"
    out, _ = flow(moving.path, "-o", folder, "--size", "64", "dis.preset=ultrafast", "--jobs", "1")
    assert out.startswith("flow by dis on cpu: ")
    assert json.loads((folder / "flow.json").read_text()) == {
        "operator": "dis", "dis": {"preset": "ultrafast"}, "encoding": "image",
        "bound_pixels": 20.0, "channels": "128, v, u", "size": 64, "stride": 1,
    }  # fmt: skip
    (row,) = map(json.loads, (folder / "index.jsonl").read_text().splitlines())
    assert (row["key"], row["path"], row["label"], row["fps"]) == ("m0", "m0.zip", 0, "25")
    assert (row["pairs"], row["height"], row["width"]) == (8, 64, 85)
    assert row["bytes"] == (folder / "m0.zip").stat().st_size
    hour = row["bytes"] / (9 / 25) * 3600 / 1e6
    assert f"  disk       {row['bytes'] / 1e6:.3g} MB, {hour:.3g} MB for an hour of video" in out


class TestIndex:
    def test_a_changed_video_is_not_there(self, moving, tmp_path):
        video = moving[0]
        with Index(tmp_path, settings()) as index:
            assert not index.has(video)
            index.add(Maker(settings(), tmp_path, "cpu")(video))
            assert index.has(video) and not index.has(replace(video, crc32=1))
        with Index(tmp_path, settings()) as index:
            assert index.has(video)
            os.truncate(tmp_path / "m0.npy", 100)
            assert not index.has(video)
            (tmp_path / "m0.npy").unlink()
            assert not index.has(video)

    def test_one_process_at_a_time(self, moving, tmp_path, flow):
        with Index(tmp_path, settings()):
            _, err = flow(moving.path, "-o", tmp_path, "--encoding", "raw", "--size", 64, code=3)
        assert err == (
            f"error: another tools.flow writes the same folder · {tmp_path} · wait for it, or stop "
            "it\n"
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--operator", "nvof", "--device", "cpu"],
            "error: flow.operator: nvof needs a GPU, none is here; use tvl1 or auto · ",
        ),
        (
            ["tvl1.iterations=0"],
            "error: flow.tvl1.iterations: expected at least 1, got 0 · ",
        ),
        (["dis.speed=1"], "error: dis.speed=1: Key 'speed' not in 'DisConfig'"),
    ],
)
def test_settings_that_cannot_be(moving, tmp_path, flow, arguments, message):
    _, err = flow(moving.path, "-o", tmp_path / "out", *arguments, code=2)
    assert err.startswith(message) and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_settings_is_left_alone(moving, tmp_path, flow):
    with Index(tmp_path, settings()):
        pass
    before = contents(tmp_path)
    _, err = flow(moving.path, "-o", tmp_path, "--encoding", "raw", "--stride", 2, code=2)
    assert err == (
        "error: the folder has flow of other settings (size 64 -> 128, stride 1 -> 2) · "
        f"{tmp_path} · give those, or choose a new folder\n"
    )
    assert contents(tmp_path) == before


def test_a_folder_of_something_else_is_left_alone(moving, tmp_path, flow):
    (tmp_path / "thesis.tex").touch()
    _, err = flow(moving.path, "-o", tmp_path, code=2)
    assert err == (
        f"error: the folder is not empty, and not of an earlier run · {tmp_path} · choose a new "
        "folder\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def listed(folder: Path, *videos) -> list[str]:
    """Keys that the folder has after these videos were asked for."""
    with Index(folder, settings()) as index:
        make(list(videos), index, Maker(settings(), folder, "cpu"), jobs=1, timeout_seconds=60)
    return [json.loads(line)["key"] for line in (folder / "index.jsonl").open()]


def test_a_video_that_is_bad_by_now_is_not_listed_with_its_old_flow(moving, tmp_path):
    folder, video = tmp_path / "flow", moving[0]
    assert listed(folder, video) == [video.key]
    other = replace(video, key="other")
    changed = replace(video, crc32=video.crc32 + 1, frames=1)
    assert listed(folder, changed, other) == ["other"]


def test_keys_that_another_data_set_has_too(moving, tmp_path):
    folder, video = tmp_path / "flow", moving[0]
    assert listed(folder, video) == [video.key]
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(video.path.read_bytes())
    assert listed(folder, replace(video, path=copy)) == [video.key]  # moved: the same video
    namesake = replace(video, path=copy, crc32=video.crc32 + 1)
    with pytest.raises(DataError) as refused:
        listed(folder, namesake)
    assert str(refused.value) == (
        f"error: the folder has flow of 1 other videos with the same keys (as {video.key}, of "
        f"{video.path}) · {folder} · choose a new folder for {copy}"
    )
