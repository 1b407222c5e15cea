"""Every way computes the flow of known scenes, and what is wrong or not here is said."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
import torch

from pipeline.flow.config import DisConfig, FlowConfig, Tvl1Config
from pipeline.flow.tvl1 import plain_tvl1
from tests import flow_oracles as oracles
from tools.benchmark.__main__ import main
from tools.benchmark.flow import beside, rivals, run
from tools.benchmark.flow.scenes import MARGIN, endpoint_error, scenes
from tools.benchmark.measure import Comparison
from tools.benchmark.proof import NotProved
from training.distributed import Process

SMALL = Tvl1Config(scales=2, warps=2, iterations=3)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No tests within tests, and no compiler."""
    monkeypatch.setattr(run, "require_tests", lambda files, device: None)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)


class TestScenes:
    def test_pixels_go_where_their_flow_says(self):
        clips, flows = scenes(2, frames=3, size=40)
        inner = slice(MARGIN, -MARGIN)
        rows, columns = np.indices((40, 40))
        for clip, flow in zip(clips.numpy().astype(float), flows.numpy(), strict=True):
            for t in range(2):
                u, v = flow[:, t]
                ahead = oracles.cubic(clip[t + 1], columns + u, rows + v)
                assert abs(ahead - clip[t])[inner, inner].max() < 4  # levels, each frame rounded
            assert abs(clip[1] - clip[0]).mean() > 4 * abs(ahead - clip[1])[inner, inner].mean()

    def test_a_longer_scene_ends_as_a_shorter_one(self):
        (short, flow), (long, same) = (scenes(2, frames=n, size=24) for n in (3, 7))
        assert torch.equal(long[:, -3:], short) and torch.equal(same[:, :, :2], flow)

    def test_error_is_a_mean_distance_without_the_margin(self):
        flow = torch.zeros(1, 2, 1, 20, 20)
        other = flow.clone()
        other[:, 0], other[:, 1] = 3, 4
        other[..., :MARGIN, :] = 1e6
        assert endpoint_error(flow, other) == pytest.approx(5)


class TestRivals:
    def test_do_the_same_work(self):
        clips, _ = scenes(2, frames=3, size=33)
        expected = plain_tvl1(clips, SMALL)
        compiled = rivals.Compiled(SMALL, device="cpu")
        assert (rivals.pair_by_pair(clips, SMALL) - expected).abs().max() < 1e-4
        assert (compiled(clips) - expected).abs().max() < 1e-4
        assert endpoint_error(rivals.opencv_tvl1(clips, SMALL, threads=1), expected) < 0.1

    def test_opencv_gets_our_settings(self, monkeypatch):
        made, create = [], cv2.optflow.DualTVL1OpticalFlow_create
        monkeypatch.setattr(
            cv2.optflow, "DualTVL1OpticalFlow_create", lambda: made.append(create()) or made[0]
        )
        clips, _ = scenes(1, frames=2, size=24)
        settings = Tvl1Config(2, 0.7, 3, 4, attachment=0.03, tightness=0.6, time_step=0.1)
        rivals.opencv_tvl1(clips, settings, threads=1)
        (finder,) = made
        scales = finder.getScalesNumber(), finder.getScaleStep(), finder.getWarpingsNumber()
        assert scales == (2, 0.7, 3)
        weights = finder.getLambda(), finder.getTheta(), finder.getTau(), finder.getEpsilon()
        assert weights == (0.03, 0.6, 0.1, 0)
        assert (finder.getOuterIterations(), finder.getInnerIterations()) == (4, 1)
        assert finder.getMedianFiltering() == 1

    def test_opencv_keeps_its_threads(self):
        clips, _ = scenes(1, frames=2, size=40)
        before = cv2.getNumThreads()
        rivals.opencv_dis(clips, DisConfig(), threads=before + 1)
        assert cv2.getNumThreads() == before


def quick_run(folder, *more: str) -> tuple[int, dict]:
    options = ["--quick", "--device", "cpu", "--rounds", "1", "--seconds", "0.001"]
    code = main(["flow", *options, *more, "-o", str(folder)])
    return code, json.loads((folder / "flow.json").read_text())


class TestCommand:
    def test_shows_every_way_with_its_error(self, tmp_path, capsys):
        code, content = quick_run(tmp_path)
        (comparison,) = content["comparisons"]
        assert code == 0 and comparison["ours"] == run.OURS
        assert comparison["title"].startswith(
            "Flow of 40 x 40 pixels, 8 pairs at once: 5 scales by 0.8, 5 warps of 30 iterations, "
        )
        sides = comparison["sides"]
        ways = {run.BY_PAIR, run.COMPILED, run.OPENCV, run.DIS, run.PLAIN_DIS}
        assert sides.keys() == {run.OURS} | ways
        assert all(side["facts"]["error px"] < 0.3 for side in sides.values())
        assert sides[run.OPENCV]["goal"] == 1
        assert [limit["reached"] for limit in comparison["limits"]] == [True, True]
        if not torch.cuda.is_available():
            why = "left out: Kinema, NVOF: not here, it needs a GPU, none is here"
            assert why in capsys.readouterr().out

    def test_dis_is_judged_at_its_size(self):
        flows = {run.OURS: torch.zeros(1, 2, 1, 20, 20), run.DIS: torch.ones(1, 2, 1, 20, 20)}
        rates = {run.OURS: [1.0], run.DIS: [250.0]}
        comparison = Comparison("", "pairs", rates=rates)
        comparison.facts = {run.OURS: {"off reference px": 0.1}}
        run._judge(comparison, flows, run.DIS_SIDE)
        off, dis = comparison.limits
        assert dis.value == 4 * torch.get_num_threads()
        assert not off.reached and not dis.reached

    def test_all_sides_have_the_threads_asked_for(self, tmp_path, monkeypatch):
        before, seen = torch.get_num_threads(), []
        monkeypatch.setattr(
            run, "measure", lambda *_, **__: seen.append(run.ways(40, FlowConfig(), "cpu")) or []
        )
        try:
            assert quick_run(tmp_path, "--threads", "2")[0] == 0
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        ((found, _),) = seen
        assert found[run.OPENCV].flow.keywords["threads"] == 2
        assert found[run.PLAIN_DIS].flow.keywords["threads"] == 2

    def test_after_its_budget_it_begins_nothing(self, tmp_path):
        code, content = quick_run(tmp_path, "--budget", "1e-9")
        assert code == 0 and not content["comparisons"]
        assert content["not_measured"] == ["flow of 40 x 40 pixels"]

    def test_a_wrong_flow_has_no_figure(self, tmp_path, monkeypatch, capsys):
        def wrong(name, config, **options):
            return lambda clip: torch.zeros(2, 2, 4, 40, 40)

        monkeypatch.setattr(run, "build_operator", wrong)
        assert main(["flow", "--quick", "--device", "cpu", "-o", str(tmp_path)]) == 1
        said = capsys.readouterr()
        assert said.err.startswith(
            "error: no figure is printed, for TV-L1 is wrong · 40 x 40 pixels · it is off by 1."
        )
        assert "pairs/s" not in said.out

    def test_no_wrong_flow_is_right(self):
        config = FlowConfig(tvl1=SMALL)
        with pytest.raises(NotProved, match="off by nan pixels"):
            run.errors({run.OURS: torch.full((2, 2, 4, 24, 24), torch.nan)}, 24, config)

    def test_without_opencv_the_rest_is_compared(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cv2", None)
        found, left_out = run.ways(40, FlowConfig(), "cpu")
        assert list(found) == [run.OURS, run.BY_PAIR, run.COMPILED]
        assert left_out[run.OPENCV] == left_out[run.DIS] == "not here, OpenCV is not installed"

    def test_a_rival_that_fails_is_left_out(self):
        clips, _ = scenes(2, frames=5, size=24)
        found = {run.OURS: run.Way(lambda clip: torch.zeros(2, 2, 4, 24, 24), clips)}
        found[run.DIS] = run.ways(24, FlowConfig(), "cpu")[0][run.DIS]
        left_out = {}
        assert list(run._flows(found, left_out)) == [run.OURS]
        assert left_out[run.DIS].startswith("it fails: flow.operator: dis needs pictures of 32×32")


@pytest.mark.needs_cuda
class TestOnGpu:
    def test_all_ways_and_both_forms(self):
        launched, graphs = run.measure(40, "cuda", rounds=1, seconds=0.01)
        assert {run.OURS, run.BY_PAIR, run.COMPILED} <= launched.rates.keys()
        assert list(graphs.rates) == [run.OURS, run.COMPILED]

    def test_beside_a_training(self):
        process = Process(0, 1, torch.device("cuda", 0))
        (comparison,) = beside.measure(process, side=40, rounds=1, seconds=0.1)
        assert comparison.ours == beside.BESIDE_TVL1 and beside.ALONE in comparison.rates
