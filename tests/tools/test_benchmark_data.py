"""What a loader takes of the machine is counted right, and every part of `data` runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import ClipConfig
from pipeline.decode import decode_frames, decode_pictures, read_bytes
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.probe import probe
from tests import videos
from tools.benchmark import chain, clips, data, growth, loader, nvdec, pipelines, readers
from tools.benchmark.counting import counted, decoding
from tools.benchmark.measure import Side, compare
from tools.benchmark.meter import DecoderUse, Meter
from tools.benchmark.processes import family, usage
from tools.benchmark.sources import files_of, repeated


class TestUsage:
    def test_of_children_and_their_children(self):
        hold = "import subprocess, sys; files = [open('/dev/null') for _ in range(25)]; "
        hold += "subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
        before = usage()
        child = subprocess.Popen(
            [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout.readline() == b"1\n"
        during = usage()
        assert len(family(child.pid)) == 2 and set(family(child.pid)) <= set(family(os.getpid()))
        assert during.processes == before.processes + 2
        assert during.open_files >= before.open_files + 25
        assert during.resident_bytes > before.resident_bytes + 5e6
        child.communicate(b"\n")
        assert usage().processes == before.processes

    def test_of_processor_time_and_reading(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"x" * 3_000_000)
        before, start = usage(), time.process_time()
        while time.process_time() - start < 0.1:
            pass
        path.read_bytes()
        after = usage()
        assert 0.08 <= after.cpu_seconds - before.cpu_seconds < 0.5
        assert 3_000_000 <= after.read_bytes - before.read_bytes < 4_500_000

    def test_a_process_that_is_gone_is_nothing(self):
        done = subprocess.Popen(["true"])
        done.wait()
        assert family(done.pid) == [done.pid]


class TestMeter:
    def test_costs_are_of_a_unit(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"x" * 4_000_000)
        side = Side("read", lambda: bool(path.read_bytes()) * 4)
        meter = Meter("clip")
        comparison = compare("t", [side], unit="clips", rounds=2, rate=meter)
        facts = meter.facts([side])["read"]
        assert facts["kB/clip"] == pytest.approx(1000, rel=0.2) and facts["CPU ms/clip"] >= 0
        assert comparison.rate("read").p50 > 0 and meter.facts([Side("other", print)]) == {}

    def test_decoders_are_looked_at_where_there_are_any(self, tmp_path, monkeypatch):
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\necho 10\necho 30\necho '[N/A]'\nexec sleep 9\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with DecoderUse() as found:
            time.sleep(0.3)
        assert found.percent == 20
        monkeypatch.setenv("PATH", "/nowhere")
        with DecoderUse() as found:
            pass
        assert found.percent is None


@pytest.fixture(scope="module")
def row(tmp_path_factory) -> Video:
    path = videos.write_video(tmp_path_factory.mktemp("count") / "v.mp4", frames=60, gop=12)
    return Video.of(probe(path), key="v", path=path)


class TestCounting:
    def test_from_the_key_frame_to_the_last_one(self, row):
        frames = np.array([17, 19, 21])
        with counted() as found:
            decode_pictures(row, frames, timeout_seconds=10)
        assert (found.delivered, found.decoded) == (3, 21 - 12 + 1)
        assert found.efficiency == pytest.approx(0.3)
        with counted() as other:
            decode_frames(row, np.array([2]), timeout_seconds=10)
        assert (other.delivered, other.decoded) == (1, 3) and found.delivered == 3

    def test_is_over_with_its_block(self, row):
        with counted() as found:
            pass
        decode_pictures(row, np.array([0]), timeout_seconds=10)
        assert found.decoded == found.efficiency == 0

    def test_figures_are_of_a_unit(self, row):
        def run() -> int:
            decode_pictures(row, np.array([17, 19, 21]), timeout_seconds=10)
            return 2

        assert decoding(run, 6.0) == {
            "frames decoded": 5.0,
            "decoded frames/s": 30.0,
            "efficiency %": pytest.approx(30.0),
        }


@pytest.fixture
def small(monkeypatch):
    clip = ClipConfig(frames=4, stride=2, sampling="interval")
    for module in (loader, chain):
        monkeypatch.setattr(module, "CLIP", clip)
        monkeypatch.setattr(module, "AUGMENT", replace(loader.AUGMENT, size=32))
        monkeypatch.setattr(module, "BATCH_VIDEOS", 3)
    monkeypatch.setattr(chain, "LEAST_SECONDS", 0.0)


def test_every_stage_has_its_time(small, tiny_data):
    threads = torch.get_num_threads()
    found = chain.every_stage(Manifest.read(tiny_data), batches=1, rounds=1)
    torch.set_num_threads(threads)
    assert found.timed and found.apart
    assert list(found.rates)[1:] == ["read", "decode", "views", "join", "flow of both views, DIS"]
    whole = found.facts[chain.WHOLE]
    assert whole["frames decoded"] >= 4 and 0 < whole["efficiency %"] <= 100
    assert all({"CPU ms/sample", "kB/sample"} <= facts.keys() for facts in found.facts.values())


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory) -> Manifest:
    """Two MJPEG videos, which DALI decodes on a CPU."""
    folder, rows = tmp_path_factory.mktemp("jpegs"), []
    for n in range(2):
        path = videos.write_video(
            folder / f"v{n}.mp4", frames=40 + n, codec="mjpeg", pixel_format="yuvj420p"
        )
        rows.append(Video.of(probe(path), key=f"v{n}", path=path))
    write_manifest(folder / "jpegs.parquet", rows, classes=[], options={})
    return Manifest.read(folder / "jpegs.parquet")


class TestPipelines:
    def test_both_give_the_same_views(self, jpegs, tmp_path):
        from pipeline.graph import GraphSpec, Lane

        files, clips = (
            files_of(jpegs, tmp_path),
            [(1, np.arange(3, 35, 2)), (0, np.arange(0, 32, 2))],
        )
        source = pipelines.Source(list(jpegs), files, clips, "cpu")
        spec = GraphSpec(
            kind="nvdec", device="cpu", augments=(pipelines.AUGMENT,), training=False,
            rotated=False, batch=2, threads=1, depth=2,
        )  # fmt: skip
        lane = Lane(spec)
        lane.submit([pipelines._track(source, clip) for clip in clips])
        (ours,), _ = lane.collect()
        reader = readers.ReaderPipeline(
            [(files[n], int(frames[0])) for n, frames in clips], tmp_path / "list",
            pipelines.AUGMENT, frames=16, stride=2, batch=2, device="cpu",
        )  # fmt: skip
        assert reader.views().shape == ours.shape == (2, 3, 16, 112, 112)
        assert (reader.views() - ours).abs().max() < 0.05

    def test_what_is_missing_is_named(self, jpegs, tmp_path, monkeypatch):
        monkeypatch.setattr(pipelines, "LEAST_SECONDS", 0.0)
        found = pipelines.lanes_beside_readers(jpegs, tmp_path, device="cpu", rounds=1)
        assert list(found.rates) == [
            "Kinema, lanes: 2",
            "Kinema, lanes: 1",
            "DALI's reader, pipelines: 1",
            "DALI's reader, pipelines: 2",
        ]
        why = "not here: ModuleNotFoundError: No module named"
        names = (readers.PYNV, readers.TORCHCODEC)
        assert found.left_out == {name: f"{why} '{name}'" for name in names} and not found.goals

    def test_every_rival_has_a_goal_on_a_gpu(self, tmp_path):
        source = pipelines.Source([], [], [], "cuda")
        assert set(pipelines.GOALS) == set(pipelines._rivals(source, tmp_path))
        assert pipelines.GOALS[readers.PYNV] == pipelines.GOALS[readers.TORCHCODEC] == 1.0

    def test_reading_is_a_part_of_a_run(self, jpegs, monkeypatch):
        reads = []

        def read(video):
            reads.append(video.key)
            return read_bytes(video)

        monkeypatch.setattr(pipelines, "read_bytes", read)
        clips = [(1, np.arange(3, 35, 2)), (0, np.arange(0, 32, 2))]
        run = pipelines.our_lanes(pipelines.Source(list(jpegs), [], clips, "cpu"), 1)
        reads.clear()
        assert run() == 2 and reads == ["v1", "v0"] and run() == 2 and len(reads) == 4

    def test_torchcodec_gives_our_view(self, jpegs, tmp_path, monkeypatch):
        """Its decoder is played by PyAV; what is made of its pictures is the same."""

        class VideoDecoder:
            def __init__(self, path, *, device, seek_mode):
                self.video = next(video for video in jpegs if str(video.path) == path)

            def get_frames_at(self, frames):
                pictures = decode_frames(self.video, np.array(frames), timeout_seconds=10)
                return SimpleNamespace(data=torch.from_numpy(pictures).permute(0, 3, 1, 2))

        module = SimpleNamespace(VideoDecoder=VideoDecoder)
        monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(decoders=module))
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
        files, frames = [video.path for video in jpegs], np.arange(0, 32, 2)
        source = pipelines.Source(list(jpegs), files, [(0, frames)], "cpu")
        rivals = pipelines._rivals(source, tmp_path)
        assert rivals[readers.TORCHCODEC]()() == 1
        view = readers.torchcodec_view(files[0], frames, pipelines.AUGMENT, device="cpu")
        reader = readers.ReaderPipeline(
            [(files[0], 0)], tmp_path / "list", pipelines.AUGMENT,
            frames=16, stride=2, batch=1, device="cpu",
        )  # fmt: skip
        assert view.shape == (3, 16, 112, 112) and (view - reader.views()[0]).abs().max() < 0.1

    def test_a_rival_that_fails_is_left_out(self):
        def fail():
            raise RuntimeError("no\ndecoder")

        assert pipelines._tried(fail) == (None, "it fails: no decoder")

    def test_every_lane_has_as_many_clips(self):
        source = pipelines.Source([], [], [(n, np.arange(2)) for n in range(3)], "cpu")
        assert [[n for n, _ in share] for share in source.shares(2)] == [[0, 1], [2, 0]]


def test_rows_are_repeated_under_other_names(tiny_data, tmp_path):
    manifest = Manifest.read(tiny_data)
    more = repeated(manifest, tmp_path / "more.parquet", videos=23)
    assert len(more) == 23 and len({video.key for video in more}) == 23
    assert more[12].path == manifest[2].path and more[12].frames == manifest[2].frames


def test_torchcodec_is_a_rival_with_a_goal_where_it_is(tiny_data, monkeypatch):
    monkeypatch.setattr(clips, "CLIP_FRAMES", 4)
    monkeypatch.setattr(clips, "lacking", lambda name: "" if name == readers.TORCHCODEC else "no")
    monkeypatch.setattr(clips, "torchcodec_clip", clips.pyav_clip)
    manifest = Manifest.read(tiny_data)
    found = clips.random_clips(manifest, manifest, clips=1, rounds=1)
    assert found.goals["torchcodec, fast shards"] == 1.0
    assert found.goals.keys() == found.rates.keys() - {clips.OURS}
    assert found.left_out == {readers.PYNV: "no"}


def test_the_default_parts_are_parts():
    assert set(data.DEFAULT) < set(data.PARTS)


class TestGrowth:
    def test_is_between_the_ends_and_not_by_chance(self):
        assert growth.growth([5, 9, 6, 5, 8, 9, 7, 9]) == 0  # as many come and go
        assert growth.growth([1, 2, 3, 4, 5, 6, 7, 8]) == 6
        assert growth.growth([3]) == 0

    @pytest.mark.parametrize("leaks", [False, True])
    def test_what_is_kept_shows(self, leaks, tiny_data, monkeypatch):
        kept, take = [], growth._take

        def taken(batches, count):
            if leaks:
                kept.extend([os.open("/dev/null", 0), b"x" * 32_000_000])
            return take(batches, count)

        monkeypatch.setattr(growth, "_take", taken)
        monkeypatch.setattr(growth, "WINDOWS", 8)
        monkeypatch.setattr(growth, "BATCH_VIDEOS", 2)
        found = growth.measure(Manifest.read(tiny_data), clips=32, workers=0)
        memory, files = found.limits
        # Eight windows of 32 MB and a file each; of files the first quarter against the last.
        assert (files.value, files.reached) == ((6, False) if leaks else (0, True))
        assert memory.most == 50 and memory.reached == (not leaks)
        assert found.title == "32 clips through the loader, 0 workers"
        assert found.facts["Kinema"]["open files at last"] == usage().open_files or leaks
        for one in kept[::2]:
            os.close(one)


class TestSessions:
    def test_every_codec_and_size_is_made(self, tmp_path):
        plan = nvdec.Plan({"H.264": "libx264", "HEVC": "libx265"}, (1,), (64,), 1.2)
        made = nvdec.footage(tmp_path, plan)
        assert {key: video.codec for key, video in made.items()} == {
            ("H.264", 64): "h264",
            ("HEVC", 64): "hevc",
        }
        for video in made.values():
            assert (video.width, video.height, video.frames) == (114, 64, 36)
            assert video.keyframe_distance_frames <= nvdec.GOP_FRAMES

    def test_on_a_gpu_all_that_is_asked_for_comes_first_of_all(self):
        plan = nvdec.PLANS["cuda"]
        assert plan.sessions == (1, 7, 14) and plan.short_sides == (128, 256, 480, 1080)
        assert set(plan.codecs) == {"H.264", "HEVC"}

    def test_sessions_decode_every_frame(self, tmp_path, monkeypatch):
        monkeypatch.setattr(nvdec, "LEAST_SECONDS", 0.0)
        plan = nvdec.Plan({"MJPEG": "mjpeg"}, (1, 2), (64,), 0.6)
        (video,) = nvdec.footage(tmp_path, plan).values()
        found = nvdec.measure("MJPEG", video, plan.sessions, "cpu", rounds=1)
        assert list(found.rates) == ["1 session", "2 sessions"] and found.apart
        assert nvdec._turn(nvdec._lanes(video, (1, 2), "cpu")[2], video.frames) == 2 * 2 * 18

    def test_without_time_it_says_what_it_leaves(self, tmp_path, monkeypatch, capsys):
        from tools.benchmark.__main__ import main

        small = nvdec.Plan({"MJPEG": "mjpeg"}, (1,), (64,), 0.2)
        monkeypatch.setitem(nvdec.PLANS, "cpu", small)
        given = ["--device", "cpu", "--budget", "1e-9", "-o", str(tmp_path)]
        assert main(["nvdec", *given]) == 0
        assert "no time is left for nvdec MJPEG, 114×64" in capsys.readouterr().out
