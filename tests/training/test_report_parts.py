"""Charts, tables, confusions and maps of a report, on figures with known answers."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tests.reports import Page, measured
from training.features import Features
from training.report import classes, scatter, tables
from training.report.axes import labels, ticks
from training.report.chart import (
    Curve,
    chart,
    curves,
    description,
    small_chart,
    smoothed,
    steps_of,
    thinned,
)
from training.report.evaluation import Answers, best
from training.report.headline import lead, method_name
from training.report.names import breakable
from training.report.pictures import spread
from training.report.setting import Setting

# The chart


def test_ticks_are_round_numbers_within_the_range():
    assert ticks(0.97, 3.1, 5) == [1, 1.5, 2, 2.5, 3]
    assert ticks(1, 900, 8) == [200, 400, 600, 800]
    assert ticks(-19.3, -11.5, 5) == [-18, -16, -14, -12]


def test_ticks_are_told_from_each_other():
    assert labels([0.9995, 1.0, 1.0005]) == ["0.9995", "1.0000", "1.0005"]
    assert labels([0, 2000, 4000]) == ["0", "2,000", "4,000"]
    assert labels([0, 5e-8, 1e-7]) == ["0", "5e-08", "1e-07"]
    assert labels([3.0]) == ["3"] and labels([0.0]) == ["0"] and labels([]) == []
    for low, high in ((0, 1e-9), (1000, 1000.002), (-3, 2e6)):
        told = labels(ticks(low, high, 5))
        assert len(set(told)) == len(told) >= 3


def test_smoothing_is_a_centred_mean_that_keeps_a_straight_line():
    line = np.arange(100.0)
    assert smoothed(line) == pytest.approx(line)
    rng = np.random.default_rng(0)
    noisy = rng.standard_normal(101)
    # a twentieth of 101 points: 2.5 on either side, rounded to 3
    expected = [
        noisy[max(0, n - r) : n + r + 1].mean() for n in range(101) for r in [min(3, n, 100 - n)]
    ]
    assert smoothed(noisy) == pytest.approx(expected)


def test_a_long_curve_is_thinned_without_losing_its_mean():
    value = np.random.default_rng(0).standard_normal(6000)
    thin = thinned(Curve("a", np.arange(1, 6001), value))
    assert len(thin.step) == len(thin.value) == 600
    assert thin.value[0] == pytest.approx(value[:10].mean())
    assert thin.value.mean() == pytest.approx(value.mean())


def test_the_chart_marks_stages_and_describes_itself():
    first = [("mo<co", n, 4 - 2 * (n - 1) / 39) for n in range(1, 41)]
    both = curves([*first, *(("adversarial", n, 2 - (n - 41) / 19) for n in range(41, 61))])
    svg = chart(both, name="loss")
    assert "mo&lt;co" in svg and "mo<co" not in svg
    assert svg.count('class="boundary"') == 2  # the start of the second, wide and narrow
    assert description(both, "loss") == (
        "loss over the steps. stage mo<co, steps 1 to 40: from 3.97 to 2.03; stage adversarial, "
        "steps 41 to 60: from 2 to 1."
    )


def test_a_constant_and_a_single_step_are_drawn():
    for steps in (1, 5, 50):
        svg = chart([Curve("a", np.arange(1, steps + 1), np.full(steps, 2.0))], name="loss")
        assert "nan" not in svg and "inf" not in svg


def test_what_is_not_finite_is_marked_and_nothing_else_is_lost():
    value = [3.0, 2.0, float("nan"), 1.0, float("inf")]
    svg = small_chart([Curve("a", np.arange(1, 6), np.array(value))], name="loss")
    assert svg.count("<circle") == 3 and ">not finite at step 3<" in svg
    assert "from 3 to 1, not finite at 2 of them." in svg
    none = small_chart([Curve("a", np.arange(1, 6), np.full(5, np.nan))], name="loss")
    assert "<circle" not in none and "polyline" not in none and "nan" not in none
    assert ">not finite at step 1<" in none


def test_stages_without_room_for_their_names_have_their_numbers():
    names = ["first", "a name that is far too long for its stage", "third"]
    both = [
        Curve(name, np.arange(n * 50, n * 50 + 50), np.ones(50)) for n, name in enumerate(names)
    ]
    svg = small_chart(both, name="x")
    assert (
        ">first<" in svg and ">2<" in svg and ">third<" in svg and names[1] + "</text>" not in svg
    )
    # The axis is that of the run, though retrieval is measured in a part of it alone.
    one = small_chart([Curve("third", np.array([149]), np.ones(1))], name="x", steps=steps_of(both))
    assert one.count('class="boundary"') == 2 and 'cx="452.0"' in one  # 480 less the margin


def test_a_spike_does_not_flatten_the_rest():
    value = np.concatenate([[8000.0, 4000.0], np.linspace(5, 2, 98)])
    svg = chart([Curve("a", np.arange(100), value)], name="loss")
    points = svg.split('class="smooth" points="')[1].split('"')[0]
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert max(heights[10:]) - min(heights[10:]) > 150  # of 240 pixels


def test_a_page_does_not_grow_with_the_steps_and_the_stages():
    draw = np.random.default_rng(0)
    shown = []
    for n in (1000, 5000):
        own = [Curve(str(s), np.arange(n) + n * s, draw.random(n)) for s in range(9)]
        shown.append(chart(own, name="x"))
    assert len(shown[1]) < 1.1 * len(shown[0]) < 80_000


def test_points_of_several_stages_stay_in_the_picture():
    """Together they are many, so the scale leaves the highest out; it lies on the edge."""
    both = [
        Curve(str(n), np.arange(12) + 12 * n, 30 + np.arange(12) % 3 + 30.0 * (n == 3))
        for n in range(4)
    ]
    both[3].value[1:] = 31.0
    svg = small_chart(both, name="x")
    heights = [float(part.split('"')[0]) for part in svg.split('cy="')[1:]]
    assert len(heights) == 48 and all(34 <= height <= 220 - 46 for height in heights)


def test_a_line_is_what_chance_would_reach():
    low = small_chart(curves([("a", n, 80.0 + n) for n in range(5)]), name="x", chance=8.25)
    (line,) = [part for part in low.split("<path ") if part.startswith('class="by-chance"')]
    height = float(line.split("M68 ")[1].split("H")[0])
    heights = [float(part.split('"')[0]) for part in low.split('cy="')[1:]]
    assert max(heights) < height <= 220 - 46 and ">chance<" in low
    assert "stage a, steps 0 to 4: from 80 to 84; by chance 8.25." in low
    none = small_chart([Curve("a", np.arange(3), np.full(3, np.nan))], name="x", chance=8.25)
    assert ">chance<" not in none


def test_few_measurements_are_points_that_are_all_inside():
    few = small_chart(curves([("a", n, 100.0 * (n == 3)) for n in range(39)]), name="R@1 <")
    assert few.count("<circle") == 39 and "<figcaption>R@1 &lt;</figcaption>" in few
    heights = [float(part.split('"')[0]) for part in few.split('cy="')[1:]]
    assert all(34 <= height <= 220 - 46 for height in heights)
    assert "<circle" not in small_chart(curves([("a", n, 1.0) for n in range(50)]), name="x")


# The tables


def test_the_page_is_about_the_first_that_is_no_baseline():
    rows = [measured("r", 0.1, checkpoint="random"), measured("a", 0.3), measured("b", 0.4)]
    assert best(rows).name == "a"
    assert best(rows[:1]).name == "r"


def test_two_untrained_streams_together_are_a_baseline():
    both = measured("random", 0.1, checkpoint="random + random")
    one = measured("half", 0.3, checkpoint="x.pt + random")
    assert best([both, one]).name == "half"
    text = lead(None, [both, one])
    assert "The baseline, random, reaches 10.0 %: <strong>+20.0 points" in text


def test_the_gain_is_over_the_better_baseline():
    baselines = [
        measured("random", 0.10, checkpoint="random"),
        measured("raw <pixels>", 0.125, checkpoint="pixels"),
    ]
    text = lead(None, [baselines[0], measured("pretrained", 0.305), baselines[1]])
    assert "<strong>30.5 %</strong> of the test videos" in text
    assert "The better baseline, raw &lt;pixels&gt;, reaches 12.5 %: <strong>+18.0 points" in text
    assert "<strong>−2.5 points" in lead(None, [measured("p", 0.1), *baselines])
    assert "By chance it would be 1.0 %." in lead(None, [measured("p", 0.1)])
    # 10 to 20 % of 300 videos: a baseline at 12.5 % may as well be as good.
    assert "within the interval" in lead(None, [measured("p", 0.15), *baselines])
    assert "within" not in lead(None, [measured("p", 0.305), *baselines])


def test_a_baseline_without_the_measure_is_no_rival():
    without = measured("pixels", 0.0, checkpoint="pixels", result={"R@5": 0.9})
    rival = measured("random", 0.1, checkpoint="random")
    text = lead(None, [measured("p", 0.3), without])
    assert "By chance it would be 1.0 %." in text and "pixels" not in text
    assert "The baseline, random, reaches" in lead(None, [measured("p", 0.3), without, rival])


def test_the_lead_of_a_run_without_retrieval():
    row = measured("p", 0.3)
    content = row.results.pop("retrieval")
    content["chance"], content["result"] = {"top-1": 0.5}, {"top-1": 0.7, "weight_decay": 1.0}
    row.results["linear"] = content
    text = lead(None, [row])
    assert "<strong>70.0 %</strong> of the test videos, a linear classifier on the frozen" in text


@pytest.mark.parametrize("name", ["ViCC", "VideoMoCo", "CVRL", "VCLR"])
def test_a_method_is_called_as_its_authors_do(name):
    assert method_name(name.lower()) == name


def test_a_name_can_be_broken_between_its_words():
    assert breakable("ApplyEyeMakeup") == "Apply<wbr>Eye<wbr>Makeup"
    assert breakable("brush_<b>") == "brush_<wbr>&lt;b&gt;"


def test_rows_that_were_not_measured_alike_say_so():
    other = measured("b", 0.4, options={"center": True}, views={"frames": 16})
    assert "The rows were not measured alike: they differ in options.center, views." in (
        tables.note("retrieval", [measured("a", 0.3), other], Setting())
    )
    assert "alike" not in tables.note(
        "retrieval", [measured("a", 0.3), measured("b", 0.4)], Setting()
    )


def test_the_mean_of_splits_has_the_counts_of_each_and_one_interval():
    shared = {"of": 10, "failed": [], "fingerprint": "f", "split": ""}
    counts = [{"evaluated": videos, **shared} for videos in (9, 10)]
    row = measured("a", 0.3, train=counts, test=counts)
    text = tables.tables([row])
    assert "9 of 10 + 10 of 10 test videos, 9 + 10 training videos, mean of 2 splits." in text
    assert "30.0 %&ensp;<small>25.0 – 35.0</small>" in text


def test_a_table_of_few_labels_says_how_many():
    row = measured("a", 0.3)
    row.results["retrieval"]["train"] |= {"labelled": {"1 %": 101, "10 %": 954}}
    told = tables.note("retrieval", [row], Setting())
    assert "300 training videos, labels of 101 (1 %), 954 (10 %)." in told


# The classes


def test_confusions_are_counted_and_the_worst_come_first():
    label = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    given = np.array([0, 1, 1, 2, 1, 1, 1, 1, 2])
    matrix = classes.confusion(Answers(label, given, ["a", "b", "c"], "x"))
    assert matrix.tolist() == [[1, 2, 1], [0, 2, 0], [0, 2, 1]]
    found = [(p.true, p.given, p.videos, p.of) for p in classes.worst_pairs(matrix)]
    assert found == [(2, 1, 2, 3), (0, 1, 2, 4), (0, 2, 1, 4)]  # of equal counts the larger share
    bars = classes.bars(matrix, ["a", "b", "c"])
    assert bars.index(">b<") < bars.index(">c<") < bars.index(">a<")
    assert "100 % of 2" in bars and "33 % of 3" in bars and "25 % of 4" in bars


def test_a_class_without_test_videos_and_no_confusion_at_all():
    answers = Answers(np.array([0, 2]), np.array([0, 2]), ["a", "b", "c"], "x")
    text = classes.section(answers)
    assert "No test video is taken for another class." in text
    assert "nan" not in text and "% of 0" not in text


def test_many_classes_are_a_picture_and_the_ends_of_the_bars(tmp_path):
    label = np.arange(30).repeat(2)
    given = np.where(np.arange(60) % 2, label, 0)
    text = classes.section(Answers(label, given, [f"<{n}>" for n in range(30)], "x"))
    path = tmp_path / "x.html"
    path.write_text(text)
    page = Page(path)
    assert page.all("img", "matrix") and not page.all("table")
    assert len(page.all("ul", "bars")) == 1 and "6 classes between" in page.words()
    assert "&lt;3&gt;" in text and "<3>" not in text


# The maps


def test_pca_finds_the_plane_and_its_share():
    """Points of a plane, turned into five dimensions: their distances come back."""
    draw = torch.Generator().manual_seed(0)
    plane = torch.randn(40, 2, generator=draw, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=draw, dtype=torch.float64))
    position, share = scatter.pca(plane @ turn[:2] + 7)
    assert share == pytest.approx(1)
    torch.testing.assert_close(torch.cdist(position, position), torch.cdist(plane, plane))
    assert position.std(0)[0] > position.std(0)[1]
    assert (position.gather(0, position.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("points", [1, 2, 3])
def test_pca_of_next_to_nothing(points):
    position, share = scatter.pca(torch.ones(points, 4))
    assert position.shape == (points, 2) and position.isfinite().all() and share == share


def test_without_scikit_learn_there_is_no_tsne(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    assert scatter.tsne(torch.randn(20, 4)) is None


def test_queries_are_spread_over_the_classes():
    label = torch.arange(12).repeat(25)
    some = Features(torch.zeros(300, 1), label, torch.arange(300) + 7, failed=[])
    rows = spread(some, set(range(400)), 12)
    assert [int(label[row - 7]) for row in rows] == list(range(12))
    assert len(spread(some, {9, 300}, 12)) == 2
    assert sorted(spread(some, set(range(400)), 999)) == list(range(7, 307))
