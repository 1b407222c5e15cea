"""Fair turns, right ratios, and rivals that read the same frames as we do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest

from pipeline.decode import decode_frames
from pipeline.manifest import Video
from pipeline.probe import probe
from tests import videos
from tools.benchmark.__main__ import main
from tools.benchmark.measure import Comparison, Side, Spread, compare, one_core
from tools.benchmark.rivals import decord_clip, ffmpeg_and_tar, pyav_clip


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A video with its frame numbers drawn in, as a manifest's row."""
    folder = tmp_path_factory.mktemp("benchmark")
    path = videos.write_video(folder / "numbered.mp4", frames=60, gop=12)
    return Video.of(probe(path), key="numbered", path=path)


@pytest.mark.parametrize("read", [decord_clip, pyav_clip])
def test_rivals_read_the_frames_that_were_asked_for(numbered, read):
    frames = np.array([17, 19, 21, 23])
    assert [videos.read_number(picture) for picture in read(numbered, frames)] == frames.tolist()
    ours = decode_frames(numbered, frames, timeout_seconds=10)
    assert np.abs(read(numbered, frames).astype(int) - ours).mean() < 2


def test_ffmpeg_and_tar_pack_what_they_encoded(numbered, tmp_path):
    done = ffmpeg_and_tar([numbered.path], tmp_path / "out", arguments=["-c:v", "libx264"])
    assert done == 1
    with tarfile.open(tmp_path / "out" / "shard.tar") as tar:
        assert tar.getnames() == ["numbered.mp4"]


def test_all_sides_take_turns_and_each_is_first_once():
    calls = []
    sides = [Side(name, lambda name=name: calls.append(name) or 1) for name in "abc"]
    comparison = compare("turns", sides, unit="calls", rounds=3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(rates) for name, rates in comparison.rates.items()} == {
        "a": 3,
        "b": 3,
        "c": 3,
    }


def test_ratio_is_taken_round_by_round():
    # The machine is ten times slower in the second round; ours is twice as fast in every one.
    comparison = Comparison("t", "clips", rates={"ours": [200.0, 20.0], "rival": [100.0, 10.0]})
    assert comparison.ratio("rival") == Spread(2.0, 2.0, 2.0)
    assert comparison.ours == "ours"


def test_one_core_is_for_a_while_and_for_children():
    before = os.sched_getaffinity(0)
    with one_core():
        command = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
        assert len(os.sched_getaffinity(0)) == 1 and child.stdout == "1\n"
    assert os.sched_getaffinity(0) == before


def test_rate_counts_units_a_second():
    def slow() -> int:
        time.sleep(0.05)
        return 10

    rate = compare("rate", [Side("slow", slow)], unit="units", rounds=1).rate("slow")
    assert rate.p50 == pytest.approx(10 / 0.05, rel=0.5) and rate.p50 < 10 / 0.05


def test_command_writes_every_figure_with_its_conditions(tmp_path, capsys):
    sizes = ["--videos", "1", "--seconds", "1.2", "--clips", "1", "--rounds", "1"]
    assert main(["data", "-o", str(tmp_path), "--parts", "clips", *sizes]) == 0
    content = json.loads((tmp_path / "data.json").read_text())
    assert content["command"] and content["versions"]["av"] and content["cores"]
    (clips,) = content["comparisons"]
    assert clips["ours"] == "Kinema, fast shards" and len(clips["sides"]) == 4
    assert all(side["rate"]["p50"] > 0 for side in clips["sides"].values())
    assert "Random clips" in capsys.readouterr().out
