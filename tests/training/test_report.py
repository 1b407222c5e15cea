import io
import json
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

from pipeline.manifest import Manifest, write_manifest
from tests.conftest import make_data_set
from training import config, features, report
from training.features import Features
from training.gallery import spread
from training.loss_chart import Curve, description, loss_chart, smoothed, thinned, ticks
from training.results import Measured, gain, measures, read_measured

SMOKE = Path(report.__file__).parents[1] / "configs" / "smoke.yaml"
EVIL = "<script>alert('x')</script> & \"y\""
VOID = {"meta", "source", "img", "link", "br"}


class Page(HTMLParser):
    """Tags in order, text, and a check that every element is closed by its own tag."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def write_evaluation(folder: Path, manifest: Manifest, *, r1: float, feature: torch.Tensor) -> None:
    """What evaluate.py leaves, with the given figures and features."""
    folder.mkdir(parents=True)
    rows = torch.arange(len(manifest))
    part = Features(F.normalize(feature, dim=1), torch.from_numpy(manifest.labels), rows, failed=[])
    for name in ("train", "test"):
        features.cached(folder / f"features_{name}.npz", {}, lambda: part)
    counts = {"evaluated": len(manifest), "of": len(manifest)}
    shared = {"classes": manifest.classes, "train": counts, "test": counts}
    for protocol, result, chance in (
        ("retrieval", {"R@1": r1, "R@5": 0.9, "R@10": 1.0}, {"R@1": 0.5, "R@5": 0.8, "R@10": 1.0}),
        ("linear", {"top-1": 0.7, "weight_decay": 0.1}, {"top-1": 0.5}),
    ):
        content = {**shared, "result": result, "chance": chance}
        (folder / f"{protocol}.json").write_text(json.dumps(content))


def write_run(folder: Path) -> None:
    folder.mkdir()
    recipe = config.load(SMOKE, ["data.train=x.parquet"])
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe.plain()))
    env = {"torch": "2.0", "device": "cpu", "git": "abc", "command": "train.py <x>"}
    (folder / "env.json").write_text(json.dumps(env))
    stage = ["moco"] * 6 + ["adversarial"] * 6
    lines = [{"step": n + 1, "stage": stage[n], "loss": 3.0 - n / 10} for n in range(12)]
    lines[11]["loss_generator"] = -1.5
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A report of ten videos in two classes with odd names, one of them unreadable by now."""
    folder = tmp_path_factory.mktemp("report")
    tiny = Manifest.read(make_data_set(folder))
    path = folder / "odd.parquet"
    manifest = write_manifest(path, list(tiny), classes=[EVIL, "été"], options={})
    label = torch.from_numpy(manifest.labels)
    own_class = F.one_hot(label, 2) + 0.01 * torch.rand(10, 2, generator=torch.manual_seed(0))
    write_evaluation(folder / "eval" / "random", manifest, r1=0.3, feature=torch.eye(10) + 0.1)
    write_evaluation(folder / "eval" / "trained", manifest, r1=0.8, feature=own_class)
    write_run(folder / "run")
    (folder / "v9.mp4").write_bytes(b"broken since")
    return report.write_report(
        folder / "report.html",
        run=folder / "run",
        pretrained=read_measured("pretrained", folder / "eval" / "trained"),
        baselines=[read_measured("<b>random", folder / "eval" / "random")],
        train=path,
        test=path,
        seconds={"index": 3.25, "pretraining": 200.0},
    )


@pytest.fixture(scope="module")
def page(made) -> Page:
    return Page(made)


# The page


def test_it_is_one_file_that_asks_for_nothing(made, page):
    assert "http" not in made.read_text().lower()
    assert made.stat().st_size < 5_000_000
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    addresses = [image["src"] for image in page.all("img")]
    addresses += [source["srcset"] for source in page.all("source")]
    assert addresses and all(one.startswith("data:image/webp;base64,") for one in addresses)
    assert not [path for path in made.parent.iterdir() if "partial" in path.name]


def test_names_are_text(made, page):
    assert EVIL in page.words() and "<b>random" in page.words() and "train.py <x>" in page.words()
    assert "<script" not in made.read_text()
    assert any(EVIL in image["alt"] for image in page.all("img"))


def test_the_figures_and_their_denominators(page):
    words = page.words()
    assert "For 80.0 % of the test videos" in words
    assert "<b>random , reaches 30.0 %: +50.0 points ." in words.replace("random,", "random ,")
    assert "80.0 % 8 / 10" in words and "30.0 % 3 / 10" in words
    assert "chance 50.0 %" in words
    assert "2 classes, 10 test videos." in words
    # sqrt(0.8 x 0.2 / 10) = 0.126
    assert "the standard error of the pretrained R@1 is 12.6 points" in words


def test_what_was_trained(page):
    words = page.words()
    for fact in (
        "r3d_18, width 4",
        "4 frames, stride 2, 16 × 16 pixels",
        "18 keys",
        "6 steps (2.4 epochs), adamw, effective lr 0.001",
        "index 3.2 s",
        "pretraining 3 min 20 s",
        "in all 3 min 23 s",
    ):
        assert fact in words


def test_pictures_move_and_can_stand_still(page):
    """Ten queries and their neighbours, as eight frames each; still for those who ask so."""
    for image, source in zip(page.all("img"), page.all("source"), strict=True):
        with Image.open(io.BytesIO(b64decode(image["src"].split(",")[1]))) as moving:
            assert (moving.format, moving.size, moving.n_frames) == ("WEBP", (64, 64), 8)
            assert moving.info["loop"] == 0
        with Image.open(io.BytesIO(b64decode(source["srcset"].split(",")[1]))) as still:
            assert getattr(still, "n_frames", 1) == 1
        assert source["media"] == "(prefers-reduced-motion: reduce)"


def test_right_and_wrong_differ_in_sign_and_words(page):
    """The trained features are the class: five of five right for each of the ten queries."""
    kinds = [item["class"] for item in page.all("li")]
    assert len(kinds) == 10 * 2 * 5 and kinds.count("right") > 50 and "wrong" in kinds
    words = page.words()
    assert words.count("5 of 5 right") >= 10
    assert words.count("✓") - 1 == kinds.count("right")  # one more in the explanation
    assert words.count("✗") - 1 == kinds.count("wrong")
    kind = "query"
    for tag, attributes in page.tags:
        if tag in ("figure", "li"):
            kind = attributes.get("class", "query")
        elif tag == "img":
            expected = {
                "query": "query: ",
                "right": ", the query's class",
                "wrong": ", another class",
            }
            assert expected[kind] in attributes["alt"]


def test_a_video_that_broke_since_is_named_in_its_place(page):
    assert "E-NOTVIDEO" in page.words() or "E-CORRUPT" in page.words()


def test_queries_are_spread_over_the_classes():
    label = torch.arange(12).repeat(25)
    some = Features(torch.zeros(300, 1), label, torch.arange(300) + 7, failed=[])
    rows = spread(some, set(range(400)))
    assert [int(label[row - 7]) for row in rows] == list(range(12))
    assert len(spread(some, {9, 300})) == 2


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
    loss = np.random.default_rng(0).standard_normal(6000)
    thin = thinned(Curve("a", np.arange(1, 6001), loss))
    assert len(thin.step) == len(thin.loss) == 600
    assert thin.loss[0] == pytest.approx(loss[:10].mean())
    assert thin.loss.mean() == pytest.approx(loss.mean())


def test_the_chart_marks_stages_and_describes_itself():
    first = Curve("mo<co", np.arange(1, 41), np.linspace(4, 2, 40))
    second = Curve("adversarial", np.arange(41, 61), np.linspace(2, 1, 20))
    svg = loss_chart([first, second], name="loss")
    assert "mo&lt;co" in svg and "mo<co" not in svg
    assert svg.count('class="boundary"') == 2  # the start of the second, wide and narrow
    assert description([first, second], "loss") == (
        "loss over the steps. stage mo<co, steps 1 to 40: from 3.97 to 2.03; stage adversarial, "
        "steps 41 to 60: from 2 to 1."
    )


def test_a_constant_loss_and_a_single_step_are_drawn():
    for steps in (1, 5):
        svg = loss_chart([Curve("a", np.arange(1, steps + 1), np.full(steps, 2.0))], name="loss")
        assert "nan" not in svg and "inf" not in svg


# Results


def row(name: str, r1: float, **more: float) -> Measured:
    share = {"R@1": r1, **more}
    return Measured(name, Path(), share, {}, evaluated=300, of=300, gallery=960, classes=["a"])


def test_the_gain_is_over_the_better_baseline():
    baselines = [row("random", 0.10), row("pixels", 0.125)]
    points, best = gain(row("pretrained", 0.305), baselines, "R@1")
    assert points == pytest.approx(18.0) and best.name == "pixels"
    points, _ = gain(row("pretrained", 0.1), baselines, "R@1")
    assert points == pytest.approx(-2.5)
    assert "−2.5 points" in report.lead(row("pretrained", 0.1), baselines)


def test_measures_that_a_row_lacks_are_left_out():
    rows = [row("a", 0.1, **{"R@10": 0.5, "top-1": 0.2}), row("b", 0.1, **{"top-1": 0.2})]
    assert measures(rows) == ["R@1", "top-1"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (60, "1 min 0 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text
