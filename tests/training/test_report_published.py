"""Published numbers beside a result: which are near, and what is another setting."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from tests.reports import Page, measured
from training import config
from training.protocols import MEASURES
from training.protocols.inputs import read_preset
from training.report import known, tables
from training.report.published import by_nearness, described, published
from training.report.setting import Setting, setting_of

CLASSES = Path(__file__).parents[1] / "fixtures"
PRESETS = Path(__file__).parents[2] / "configs" / "eval"


def named(name: str) -> list[str]:
    return (CLASSES / f"{name}_classes.txt").read_text().split()


def test_published_numbers_stand_beside_those_of_the_same_data_and_protocol(tmp_path):
    row = measured("mine", 0.6, names=named("ucf101"))
    path = tmp_path / "table.html"
    path.write_text(tables.tables([row]))
    page = Page(path)
    assert len(page.all("tr", "published")) == len(page.all("tr", "said")) == 7
    words = page.words()
    assert "70.6 % – ResNet-50, RGB, pretrained on Kinetics-400, 1 frame at 224 pixels" in words
    assert "Source: README of the authors' code." in words
    assert "55.0 – 65.0" in words and "101 classes, 300 of 300 test videos" in words
    assert "In italics: published for UCF101 under this protocol, those first" in words
    assert "published" not in tables.tables([measured("mine", 0.6)])


VICC = Setting("s3d", 64, "rgb", "UCF101", 1, {"frames": 32, "stride": 1, "size": 128,
               "train": "random", "test": "windows", "step": 15, "crops": 1, "eval_scale": 0.933},
               {"center": True, "layer": "", "clips": 10})  # fmt: skip


def test_the_nearest_published_setting_comes_first_and_each_difference_is_said():
    first, *_, last = by_nearness(published("retrieval", "ucf101"), VICC)
    assert (first.values["R@1"], first.beside(VICC)) == (62.1, "As here.")
    assert described(first.setting) == (
        "S3D, RGB, pretrained on UCF101, 32 frames at 128 pixels, windows"
    )
    assert (last.values["R@1"], last.beside(VICC)) == (
        70.6,
        "Other than here: network, pretraining data, frames, size, clips of training videos, clips "
        "of test videos, options (center).",
    )
    third = [row for row in published("retrieval", "ucf101") if row.values["R@1"] == 58.6]
    assert third[0].beside(VICC) == (
        "Other than here: network. Not known: frames, size, clips of test videos, options."
    )
    wide = published("linear", "k600")[1].setting
    assert described(wide) == "R3D-50 (4x), RGB, pretrained on Kinetics-600"


def test_what_is_not_known_here_is_never_called_alike():
    row = published("retrieval", "ucf101")[0]
    assert not row.is_alike(Setting()) and row.is_alike(VICC)
    assert "pretraining data" in row.beside(Setting()).split("Not known: ")[1]
    assert row.beside(replace(VICC, options={"center": True})) == "Not known: options."
    assert row.beside(replace(VICC, views={**VICC.views, "eval_scale": 1.0})) == (
        "Other than here: part of a frame."
    )


def test_other_options_are_another_setting():
    own = replace(VICC, options={"center": False, "layer": "layer2"})
    row = published("retrieval", "ucf101")[0]
    assert row.beside(own) == "Other than here: options (center, layer)."
    views = {**VICC.views, "stream": "rgb"}
    sets = {part: {"sampling": VICC.views[part]} for part in ("train", "test")}
    sets["test"]["step"] = VICC.views["step"]
    content = {"views": views, "recipe": {"backbone": {"name": "s3d"}}, **sets}
    for options in (VICC.options, own.options):
        one = measured("a", 0.6, names=named("ucf101"), options=options, **content)
        setting = replace(setting_of(one, "retrieval", None), trained_on="UCF101")
        assert row.is_alike(setting) == (options is VICC.options)


@pytest.mark.parametrize("name", yaml.safe_load(known.FILE.read_text())["options"])
def test_published_options_and_views_are_those_of_the_preset(name):
    of_set = {"clips", "train", "test", "window_step", "size"}  # compared with a row's views
    content, protocol = known.content_of_file(), name.split("_")[1]
    options = content["options"][name]
    given, overrides = read_preset(str(PRESETS / f"{name}.yaml"), protocol)
    assert given.keys() - of_set <= options.keys() and not of_set & options.keys()
    assert given.get("optim", {}).keys() <= options.get("optim", {}).keys()
    typed = asdict(config.group("eval", MEASURES[protocol].Options, (given, name)))
    found = config.differences(options, typed)
    assert not {key: pair for key, pair in found.items() if pair[0] is not None}
    recipe = config.load(str(CLASSES / "small.yaml"), [*overrides])
    clip, augment = recipe.clip, recipe.augment
    now = {"frames": clip.frames, "stride": clip.stride, "size": typed["size"] or augment.size,
           "crops": augment.eval_crops, "eval_scale": augment.eval_scale, "test": typed["test"],
           "train": typed["train"], "step": typed["window_step"],
           "clips": typed["clips"]}  # fmt: skip
    rows = [row for row in content["results"] if row.get("options") == name]
    assert rows and all(row["protocol"] == protocol for row in rows)
    for view in {row["views"] for row in rows}:
        stated = content["views"][view]
        assert {key: now[key] for key in stated} == stated


def test_the_setting_of_a_result_and_of_two_that_were_joined():
    counts = {"evaluated": 1, "of": 1, "failed": [], "fingerprint": "f", "split": ""}
    recipe = {"backbone": {"name": "s3d", "width": 32}}
    views = {"frames": 32, "stride": 1, "size": 128, "crops": 1, "stream": "rgb"}
    one = measured("a", 0.3, recipe=recipe, views=views,
                   test={**counts, "sampling": "uniform", "clips": 10})  # fmt: skip
    assert described(setting_of(one, "retrieval", None)) == (
        "S3D (0.5x), RGB, 32 frames at 128 pixels, 10 uniform clips"
    )
    both = measured("a", 0.3, views=[views, {**views, "stream": "flow"}], test=[counts] * 3)
    setting = setting_of(both, "retrieval", None)
    assert (setting.stream, setting.splits, setting.network) == ("rgb + flow", 3, "")


def test_every_published_number_has_a_source_a_protocol_and_a_set():
    content = yaml.safe_load(known.FILE.read_text())
    seen = set()
    for row in content["results"]:
        needed = {"protocol", "data", "method", "network", "values", "source"}
        more = {"stream", "width", "trained_on", "splits", "views", "options", "more"}
        assert needed <= set(row) <= needed | more
        assert row["protocol"] in MEASURES and row["data"] in content["data_sets"]
        assert row["source"] in content["sources"] and row["network"] in content["networks"]
        assert row.get("views", "vclr") in content["views"]
        assert row.get("options", "vclr_svm") in content["options"]
        assert all(0 < value < 100 for value in row["values"].values())
        key = tuple(str(row.get(name)) for name in sorted(needed | more))
        assert key not in seen
        seen.add(key)
    assert {row["source"] for row in content["results"]} == set(content["sources"])


def test_a_data_set_is_known_by_its_classes():
    assert known.data_set(named("ucf101")) == "ucf101"
    assert known.data_set([name.replace("_", " ") for name in named("hmdb51")]) == "hmdb51"
    assert known.data_set([*named("ucf101")[1:], "x"]) == ""  # without ApplyEyeMakeup
    assert known.data_set(named("ucf101")[:50] + named("ucf101")[51:]) == ""
    assert known.data_set([f"class {n}" for n in range(101)]) == ""
