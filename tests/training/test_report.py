"""The page of a real run and its evaluations, with odd names and broken videos."""

from __future__ import annotations

import io
import json
import shutil
from base64 import b64decode
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.reports import EVIL, Page, finished, page_of_all
from training import features
from training.errors import ConfigError
from training.report import duration, read_evaluation, write_report
from training.report.run import read_run


@pytest.fixture(scope="module")
def work() -> Path:
    return finished()


@pytest.fixture(scope="module")
def made() -> Path:
    return page_of_all()


@pytest.fixture(scope="module")
def page(made) -> Page:
    return Page(made)


def result(work: Path, name: str, protocol: str) -> dict:
    return json.loads((work / "eval" / name / f"{protocol}.json").read_text())


def test_it_is_one_file_that_asks_for_nothing(made, page):
    assert "http" not in made.read_text().lower()
    assert made.stat().st_size < 5_000_000
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    addresses = [image["src"] for image in page.all("img")]
    assert addresses and all(one.startswith("data:image/webp;base64,") for one in addresses)
    assert made.read_text().count("url(") == made.read_text().count("url(data:image/webp;base64,")
    assert not [path for path in made.parent.iterdir() if "partial" in path.name]


def test_names_are_text(made, page):
    assert EVIL in page.words() and "<b>trained" in page.words()
    assert "<script" not in made.read_text() and "<b>trained" not in made.read_text()
    assert any(EVIL in image["alt"] for image in page.all("img"))
    assert any(EVIL in dot["data-name"] for dot in page.all("label", "dot"))


def test_the_figures_their_intervals_and_denominators(work, page):
    words = page.words()
    for protocol, measure in (("retrieval", "R@1"), ("linear", "top-1")):
        content = result(work, "<b>trained", protocol)
        low, high = content["intervals_95"][measure]
        share = content["result"][measure]
        assert f"{100 * share:.1f} % {100 * low:.1f} – {100 * high:.1f}" in words
    assert "2 classes, 9 of 10 test videos, 9 training videos." in words
    trained, random = (
        100 * result(work, name, "retrieval")["result"]["R@1"] for name in ("<b>trained", "random")
    )
    difference = f"{trained - random:+.1f}".replace("-", "−")
    assert words.count(f"For {trained:.1f} % of the test videos") == 1
    assert f"The baseline, random, reaches {random:.1f} %: {difference} points" in words
    assert "step_00000012.pt" in words


def test_what_was_trained_and_what_it_took(page):
    words = page.words()
    for fact in (
        "r3d_18, width 4",
        "4 frames, stride 2, 16 × 16 pixels",
        "18 keys",
        "6 steps (2.4 epochs), adamw, effective lr 0.001, cosine",
        # Both stages have two views of four videos in each of six steps.
        "12 steps, 48 videos in 96 clips, 384 frames",
        "index 3.2 s",
        "pretraining 3 min 20 s",
        "in all 3 min 23 s",
        "VideoMoCo, pretrained on 10 videos For ",
        "r3d_18, width 4 · 2 stages · 12 steps, 48 videos in 96 clips, 384 frames · ",
    ):
        assert fact in words


def test_curves_of_loss_retrieval_and_pace(page):
    labels = [drawing["aria-label"] for drawing in page.all("svg")]
    names = [label.split(" over the steps")[0] for label in labels]
    first = [
        "loss", "loss", "loss generator", "R@1 while training, %", "R@5 while training, %",
        "clips a second", "data wait, % of a step",
    ]  # fmt: skip
    assert names[: len(first)] == first
    more = names[len(first) :]
    assert "grad norm" in more and more == sorted(more) and not {*more} & {*first}
    shown = labels[: len(first)]
    assert all("stage moco, steps" in label for label in shown if "generator" not in label)
    assert all("stage adversarial, steps" in label for label in shown)
    assert "start of a stage: 1 moco, 2 adversarial." in page.words()
    (first,) = [label for label in labels if label.startswith("R@1")]
    assert first.endswith("; by chance 44.4.")  # four of nine others


def test_chance_while_training_is_that_of_all_orders_of_the_others(work):
    """Counted over every set of k that could be the nearest."""
    label = np.array([0, 0, 1, 2, 1, 1, -1])
    run = replace(read_run(work / "run"), online=SimpleNamespace(labels=label))
    labelled = label[label >= 0].tolist()
    for k in range(1, 6):
        found = [
            own in nearest
            for n, own in enumerate(labelled)
            for nearest in combinations(labelled[:n] + labelled[n + 1 :], k)
        ]
        assert run.online_chance(k) == pytest.approx(np.mean(found))
    assert run.online_chance(6) is None and replace(run, online=None).online_chance(1) is None


def test_pictures_move_and_can_stand_still(page):
    moving, still = page.all("img", "moving"), page.all("img", "still")
    for image, source in zip(moving, still, strict=True):
        assert image["alt"] == source["alt"]
        with Image.open(io.BytesIO(b64decode(image["src"].split(",")[1]))) as shown:
            assert (shown.format, shown.size, shown.n_frames) == ("WEBP", (64, 64), 8)
            assert shown.info["loop"] == 0
        with Image.open(io.BytesIO(b64decode(source["src"].split(",")[1]))) as shown:
            assert getattr(shown, "n_frames", 1) == 1
    assert page.all("input")[-1] == {"type": "checkbox", "id": "still"}


def test_right_and_wrong_differ_in_sign_and_words(page):
    """The test videos are the training videos: each finds itself first."""
    # Small charts, a map, queries: one of ten does not decode. Nine are too few for t-SNE.
    others = sum(one["class"] == "small" for one in page.all("svg"))
    assert len(page.all("figure")) == others + 1 + 9
    kinds = [item["class"] for item in page.all("li") if item.get("class") in ("right", "wrong")]
    assert len(kinds) == 9 * 2 * 5 and kinds[::5] == ["right"] * 18 and "wrong" in kinds
    words = page.words()
    assert words.count("✓") - 1 == kinds.count("right")  # one more in the explanation
    assert words.count("✗") - 1 == kinds.count("wrong")
    kind = ""
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


def test_every_test_video_is_a_dot_with_its_picture(made, page):
    dots = page.all("label", "dot")
    maps = page.all("div", "map")
    # One button is reached by the tabulator key, the others of its map by the arrows.
    buttons = [one for one in page.all("input") if one["type"] == "radio"]
    assert len(buttons) == len(dots) and len({one["name"] for one in buttons}) == len(maps)
    assert all("v" in one["aria-label"] for one in buttons)
    assert len(dots) == 9 * len(maps) and maps[0]["aria-label"].startswith("PCA")
    assert made.read_text().count("--picture:url(") == 8  # one does not decode now


def test_videos_that_did_not_decode_are_listed_with_who_found_them(page):
    words = page.words()
    assert words.count("v3.mp4") == 1 and "training, random, <b>trained" in words
    assert "v9.mp4" not in words  # it was well when it was measured; its picture is missing
    assert page.all("span", "missing")


# What is not there


def test_a_run_that_was_not_evaluated(work, tmp_path):
    page = Page(write_report(tmp_path / "r.html", run=work / "run"))
    words = page.words()
    assert "Step 12 of 12, in stage adversarial," in words
    assert "Results" not in words and "Nearest videos" not in words and "Training" in words


def test_a_run_that_has_just_begun_and_one_whose_data_are_gone(work, tmp_path):
    shutil.copytree(work / "run", tmp_path / "run")
    for name in ("metrics.jsonl", "timing.jsonl", "env.json", "quarantine.jsonl"):
        (tmp_path / "run" / name).unlink()
    recipe = tmp_path / "run" / "config.yaml"
    recipe.write_text(recipe.read_text().replace("odd.parquet", "gone.parquet"))
    words = Page(write_report(tmp_path / "r.html", run=tmp_path / "run")).words()
    assert "VideoMoCo No step is done yet." in words and "pretrain" not in words
    assert "gone.parquet, which is not here now" in words


def test_a_run_that_ended_with_numbers_that_are_none(work, tmp_path):
    shutil.copytree(work / "run", tmp_path / "run")
    for name in ("metrics", "timing"):
        path = tmp_path / "run" / f"{name}.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(lines[:9]) + "\n")
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().split("\n")
               if line]  # fmt: skip
    metrics[-1]["loss"] = float("nan")
    (tmp_path / "run/metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)) + "\n")
    path = write_report(tmp_path / "r.html", run=tmp_path / "run")
    page = Page(path)
    words = page.words()
    assert "VideoMoCo, in pretraining on 10 videos Step 9 of 12, in stage adversarial," in words
    assert "not finite from step 9 on" in words and "not finite at step 9" in words
    assert "R@1" in words.split("Training")[0]  # the newest retrieval, without an evaluation
    drawn = [one["points"] for one in page.all("polyline")]
    assert drawn and not any("nan" in points or "inf" in points for points in drawn)


def test_a_line_that_is_being_written_is_left_for_the_next_time(work, tmp_path):
    shutil.copytree(work / "run", tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    assert read_run(tmp_path / "run").step == 12


def test_evaluations_whose_videos_are_elsewhere(work, tmp_path):
    shutil.copytree(work / "run", tmp_path / "a" / "b" / "c" / "run")
    shutil.copytree(work / "eval" / "random", tmp_path / "a" / "b" / "c" / "random")
    run = tmp_path / "a" / "b" / "c" / "run"
    recipe = run / "config.yaml"
    recipe.write_text(recipe.read_text().replace(str(work), str(tmp_path / "other")))
    own = [read_evaluation(tmp_path / "a" / "b" / "c" / "random")]
    words = Page(write_report(tmp_path / "r.html", run=run, evaluations=own)).words()
    assert "Most confused" in words and "Nearest videos" not in words
    assert (
        "Not shown: features, nearest videos, since the manifest of the test videos was not found."
        in words
    )


def test_neighbours_are_those_of_the_centred_features_that_were_measured(work, tmp_path):
    """The baseline beside them has lost its features, which a line says."""
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        shutil.copytree(work / "eval" / "random", folder)
    (other / "features_test.npz").unlink()
    text = (own / "retrieval.json").read_text()
    (own / "retrieval.json").write_text(text.replace('"center": false', '"center": true'))
    both = [read_evaluation(folder) for folder in (own, other)]
    page = Page(
        write_report(tmp_path / "r.html", run=work / "run", evaluations=both, manifests=[work])
    )
    (why,) = [part for part in page.text if part.startswith("Not shown")]
    assert why == (
        "Not shown: other, since features_test.npz of other is not beside its retrieval.json."
    )
    kinds = [item["class"] for item in page.all("li") if item.get("class") in ("right", "wrong")]
    stored = {part: features.read(own / f"features_{part}.npz")[1] for part in ("test", "train")}
    expected = {}
    for center in (False, True):
        test, train = (scaled(one.raw.double().numpy(), center=center) for one in stored.values())
        nearest = stored["train"].label.numpy()[(-test @ train.T).argsort(axis=1)[:, :5]]
        label = stored["test"].label.numpy()
        by_class = np.argsort(label, kind="stable")
        found = (nearest == label[:, None])[by_class].reshape(-1)
        expected[center] = ["right" if one else "wrong" for one in found]
    assert kinds == expected[True] != expected[False]


def scaled(vector: np.ndarray, *, center: bool) -> np.ndarray:
    """[n, D] to unit length, less their mean before."""
    vector = vector - vector.mean(0) * center
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def test_features_of_a_later_result_are_not_shown_under_an_earlier_one(work, tmp_path):
    """As `linear` with another eval.layer leaves them."""
    key, own = {"layer": "layer2"}, tmp_path / "own"
    shutil.copytree(work / "eval" / "<b>trained", own)
    linear = (own / "linear.json").read_text()
    for part in ("train", "test"):
        path = own / f"features_{part}.npz"
        digest, kept = features.read(path)
        features.keep(path, key, kept)
        linear = linear.replace(digest, features.digest_of(key))
    (own / "linear.json").write_text(linear)
    row = read_evaluation(own)
    page = Page(write_report(tmp_path / "r.html", run=work / "run", evaluations=[row],
                             manifests=[work]))  # fmt: skip
    words = page.words()
    assert (
        "Not shown: features, nearest videos, since features_test.npz of own is of its linear and "
        "not of its retrieval: run evaluate.py retrieval again." in words
    )
    assert "Retrieval encoder R@1 R@5" in words and "Most confused" in words
    assert "Answers of own, by the linear probe." in words
    assert not page.all("div", "map") and not page.all("ul", "found")
    (own / "linear.json").unlink()  # as `features` leaves none, or one that is still under way
    assert read_evaluation(own).kept("test").why == (
        "features_test.npz of own is of no result here and not of its retrieval: run evaluate.py "
        "retrieval again"
    )


def test_a_folder_without_a_run_or_a_result(tmp_path):
    with pytest.raises(ConfigError) as error:
        write_report(tmp_path / "r.html", run=tmp_path)
    assert str(error.value) == (
        f"error: no run folder: config.yaml is missing · {tmp_path} · name the run.dir of a "
        "training that has begun"
    )
    with pytest.raises(ConfigError) as error:
        read_evaluation(tmp_path)
    assert str(error.value) == (
        f"error: no result of evaluate.py · {tmp_path} · name a folder that it wrote with -o"
    )
    assert not list(tmp_path.iterdir())


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
    assert duration(seconds) == text
