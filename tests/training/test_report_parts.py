"""Charts, tables, confusions and maps of a report, on figures with known answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.reports import Page
from training.features import Features
from training.protocols import MEASURES
from training.report import Evaluation, classes, published, scatter, tables
from training.report.chart import (
    Curve,
    chart,
    curves,
    description,
    small_chart,
    smoothed,
    thinned,
    ticks,
)
from training.report.evaluation import Answers, best
from training.report.page import lead
from training.report.pictures import spread

CLASSES = Path(__file__).parents[1] / "fixtures"


def named(name: str) -> list[str]:
    return (CLASSES / f"{name}_classes.txt").read_text().split()


def measured(
    name: str, r1: float, *, checkpoint: str = "x.pt", names=("a", "b"), **more
) -> Evaluation:
    """A retrieval of 300 test videos with nothing beside it."""
    counts = {"evaluated": 300, "of": 300, "failed": [], "fingerprint": "f", "split": ""}
    content = {
        "protocol": "retrieval", "options": {}, "checkpoint": checkpoint, "classes": list(names),
        "result": {"R@1": r1, "R@5": 0.9}, "chance": {"R@1": 0.01, "R@5": 0.05},
        "intervals_95": {"R@1": [r1 - 0.05, r1 + 0.05], "R@5": [0.85, 0.95]},
        "views": {"frames": 32}, "train": counts, "test": counts, **more,
    }  # fmt: skip
    return Evaluation(name, Path(name), {"retrieval": content})


# The chart


def test_ticks_are_round_numbers_within_the_range():
    assert ticks(0.97, 3.1, 5) == [1, 1.5, 2, 2.5, 3]
    assert ticks(1, 900, 8) == [200, 400, 600, 800]
    assert ticks(-19.3, -11.5, 5) == [-18, -16, -14, -12]


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


def test_the_gain_is_over_the_better_baseline():
    baselines = [
        measured("random", 0.10, checkpoint="random"),
        measured("raw <pixels>", 0.125, checkpoint="pixels"),
    ]
    text = lead(None, [baselines[0], measured("pretrained", 0.305), baselines[1]])
    assert "<strong>30.5 %</strong> of the test videos" in text
    assert "The better baseline, raw &lt;pixels&gt;, reaches 12.5 %: <strong>+18.0 points" in text
    assert "<strong>−2.5 points" in lead(None, [measured("p", 0.1), *baselines])
    assert "by chance it would be 1.0 %." in lead(None, [measured("p", 0.1)])


def test_published_numbers_stand_beside_those_of_the_same_data_and_protocol(tmp_path):
    row = measured("mine", 0.6, names=named("ucf101"))
    path = tmp_path / "table.html"
    path.write_text(tables.tables([row]))
    page = Page(path)
    assert len(page.all("tr", "published")) == 7
    words = page.words()
    assert "VCLR ResNet-50, pretrained on Kinetics-400 70.6 % Source: README of the authors' code" \
        in words  # fmt: skip
    assert "55.0 – 65.0" in words and "101 classes, 300 of 300 test videos" in words
    assert "In italics: published for UCF101 under this protocol." in words
    assert "published" not in tables.tables([measured("mine", 0.6)])


def test_rows_that_were_not_measured_alike_say_so():
    other = measured("b", 0.4, options={"center": True}, views={"frames": 16})
    assert "The rows were not measured alike: they differ in options.center, views." in (
        tables.note("retrieval", [measured("a", 0.3), other])
    )
    assert "alike" not in tables.note("retrieval", [measured("a", 0.3), measured("b", 0.4)])


def test_the_mean_of_splits_has_no_interval():
    shared = {"of": 10, "failed": [], "fingerprint": "f", "split": ""}
    counts = [{"evaluated": videos, **shared} for videos in (9, 10)]
    row = measured("a", 0.3, train=counts, test=counts)
    del row.results["retrieval"]["intervals_95"]
    text = tables.tables([row])
    assert "9 of 10 + 10 of 10 test videos, 9 + 10 training videos, mean of 2 splits." in text
    assert "interval" not in text and "–" not in text


def test_every_published_number_has_a_source_a_protocol_and_a_set():
    content = yaml.safe_load(published.FILE.read_text())
    seen = set()
    for row in content["results"]:
        assert set(row) == {"protocol", "data", "method", "what", "values", "source"}
        assert row["protocol"] in MEASURES and row["data"] in content["data_sets"]
        assert row["source"] in content["sources"]
        assert all(0 < value < 100 for value in row["values"].values())
        key = tuple(row[name] for name in ("protocol", "data", "method", "what", "source"))
        assert key not in seen
        seen.add(key)
    assert {row["source"] for row in content["results"]} == set(content["sources"])


def test_a_data_set_is_known_by_its_classes():
    assert published.data_set(named("ucf101")) == "ucf101"
    assert published.data_set([name.replace("_", " ") for name in named("hmdb51")]) == "hmdb51"
    assert published.data_set([*named("ucf101")[1:], "x"]) == ""  # without ApplyEyeMakeup
    assert published.data_set(named("ucf101")[:50] + named("ucf101")[51:]) == ""
    assert published.data_set([f"class {n}" for n in range(101)]) == ""


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
