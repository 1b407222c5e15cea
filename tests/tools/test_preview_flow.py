"""Flow on the preview: the colours that the field reads, of the flow that training gets."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline import AugmentConfig, FlowConfig
from pipeline.flow.encoding import image_of, normalised
from pipeline.flow.views import FlowViews
from tests.conftest import make_moving_data
from tests.previews import PLAIN, SMOKE, data_set, planned, shown
from tests.videos import read_number
from tools.preview.__main__ import main
from tools.preview.samples import in_pixels
from tools.preview.wheel import LEGEND, colored, wheel
from training import stages
from training.distributed import Process

CPU = Process(0, 1, torch.device("cpu"))
STRIPS = ["source", "view 0", "flow of view 0", "view 1", "flow of view 1"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """ViCC on flow, its pictures large enough for DIS."""
    smoke = yaml.safe_load(SMOKE.read_text())
    smoke["clip"]["sampling"] = "random"
    smoke["augment"]["size"] = 64
    smoke["method"] = {"name": "vicc", "dim": 8, "prototypes": [6], "queue_size": 8}
    smoke["run"]["stages"] = {
        stream: {"method": {"stream": stream}, "run": {"steps": 2}} for stream in ("flow", "rgb")
    }
    path = tmp_path_factory.mktemp("recipe") / "vicc.yaml"
    path.write_text(yaml.safe_dump(smoke, sort_keys=False))  # stages are in their order
    return path


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> Path:
    """Videos that move to the right, two pixels a frame."""
    folder = tmp_path_factory.mktemp("moving")
    return make_moving_data(folder, [(2, 0)] * 4, size=(64, 64), frames=16)


# The wheel


@pytest.mark.parametrize(
    ("u", "v", "color"),
    [
        (0, 0, (255, 255, 255)),
        (1, 0, (255, 0, 0)),  # right
        (0, 1, (255, 234, 0)),  # down: 13.75 of the 15 steps from red to yellow
        (-1, 0, (0, 197, 255)),  # left: 2.5 of the 11 from cyan to blue
        (0, -1, (103, 0, 255)),  # up: 5.25 of the 13 from blue to magenta
        (0.5, 0, (255, 128, 128)),
        (9, 0, (255, 0, 0)),
    ],
)
def test_known_motions_have_known_colours(u, v, color):
    assert colored(np.array([u, v], float), longest=1).tolist() == list(color)


def published_color(u: float, v: float) -> list[float]:
    """Of motion within the unit circle: 55 colours and what is linear between two of them."""
    table = []
    for count, fixed, changing, rises in [
        (15, 0, 1, True), (6, 1, 0, False), (4, 1, 2, True),
        (11, 2, 1, False), (13, 2, 0, True), (6, 0, 2, False),
    ]:  # fmt: skip
        for i in range(count):
            color = [0.0, 0.0, 0.0]
            color[fixed], color[changing] = 1.0, i / count if rises else 1 - i / count
            table.append(color)
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(table) - 1)
    lower = int(place)
    share = place - lower
    mixed = [
        (1 - share) * a + share * b
        for a, b in zip(table[lower], table[(lower + 1) % len(table)], strict=True)
    ]
    return [255 * (1 - np.hypot(u, v) * (1 - part)) for part in mixed]


def test_is_the_published_circle():
    # Which has 54 steps and so a gap at the right; ours is closed with 55.
    for degrees in range(0, 345, 5):
        u, v = 0.8 * np.cos(np.radians(degrees)), 0.8 * np.sin(np.radians(degrees))
        found = colored(np.array([u, v]), longest=1)
        assert abs(found - published_color(u, v)).max() < 56, degrees
        assert abs(found - published_color(u, v)).mean() < 19, degrees


def test_the_legend_is_a_disc_of_its_own_colours():
    disc = np.asarray(wheel(65)).astype(int)
    assert disc.shape == (65, 65, 4)
    assert disc[32, 32].tolist()[3] == 255 and disc[32, 32, :3].min() > 245
    assert not disc[[0, 0, -1, -1], [0, -1, 0, -1], 3].any()
    for row, column in [(32, 60), (60, 32), (32, 4), (4, 32), (50, 20)]:
        motion = np.array([column - 32, row - 32]) / 32.5
        assert abs(disc[row, column, :3] - colored(motion, longest=1)).max() < 8


# What is shown is what is trained on


@pytest.mark.parametrize("more", [(), ("flow.encoding=image",)])
def test_strips_are_the_flow_of_the_training_batches(recipe, moving, more):
    schedule, manifest = planned(moving, *more, path=recipe)
    samples = shown(moving, *more, path=recipe)
    method, _ = stages.build(schedule[0], CPU)
    loader = stages.training_loader(schedule[0], manifest, method, CPU)
    (batch,) = loader.batches(0, 1)
    for place, sample in enumerate(samples):
        assert [strip.name for strip in sample.strips] == STRIPS
        flows = [strip for strip in sample.strips if strip.in_wheel_colors]
        for strip, flow in zip(flows, batch.flow, strict=True):
            motion = in_pixels(flow[place : place + 1], loader.flow)[0].numpy()
            length = np.hypot(*motion)
            assert np.array_equal(strip.frames, colored(motion, longest=length.max()))
            assert strip.facts["rim"] == f"{length.max():.2f} px"
            assert strip.facts["motion"] == f"{length.mean():.2f} px in the mean"


@pytest.mark.parametrize(("flip", "channel"), [(0, 0), (1, 2)])
def test_what_moves_right_is_red_and_mirrored_blue(recipe, moving, flip, channel):
    plain = [o.replace("flip=0", f"flip={flip}") for o in PLAIN]
    for sample in shown(moving, *plain, path=recipe, count=2):
        strip = sample.strips[2]
        assert (strip.frames[:, 16:48, 16:48].mean(axis=(0, 1, 2)).argmax()) == channel
        mean = float(strip.facts["motion"].split()[0])
        assert mean == pytest.approx(4, abs=0.6)  # stride 2


def test_numbers_are_those_of_the_frames_in_it(recipe, tmp_path):
    data = data_set(tmp_path, videos=4)
    for sample in shown(data, *PLAIN, path=recipe, count=3):
        source, view, flow, *_ = sample.strips
        assert [read_number(frame) for frame in view.frames] == view.numbers == flow.numbers
        # One more frame of each view is decoded, two ahead, for the motion of its last.
        assert {view.numbers[-1] + 2} <= set(source.numbers)


def test_bytes_are_read_back():
    config = FlowConfig(operator="tvl1", encoding="image")
    maker = FlowViews(config, AugmentConfig(), device="cpu", threads=1)
    flow = torch.randn(1, 2, 2, 3, 3) * 5
    image = normalised(image_of(flow), maker.augment.mean, maker.augment.std)
    assert (in_pixels(image, maker) - flow).abs().max() < 0.08


def test_still_videos_are_white(recipe, tmp_path):
    data = data_set(tmp_path, videos=4, pixels=lambda n: np.full((64, 64, 3), 90, np.uint8))
    (sample,) = shown(data, path=recipe, count=1)
    assert (sample.strips[2].frames == 255).all()
    assert sample.strips[2].facts["rim"] == "1.00 px"


def test_official_flow_is_a_picture(recipe, moving):
    more = "flow.encoding=image", "flow.official=true"
    (sample,) = shown(moving, *more, path=recipe, count=1)
    assert [strip.name for strip in sample.strips] == STRIPS
    assert not any(strip.in_wheel_colors for strip in sample.strips)
    assert sample.strips[2].facts["official"] == "a picture, as the network gets it"


def made(recipe: Path, data: Path, folder: Path, stage: str) -> tuple[bytes, str]:
    arguments = [str(recipe), f"data.train={data}", "--stage", stage, "--samples", "1"]
    arguments += ["-o", str(folder / "s.png"), "--html", str(folder / "p.html")]
    assert main(arguments) == 0
    return (folder / "s.png").read_bytes(), (folder / "p.html").read_text()


def test_the_wheel_is_there_where_flow_is(recipe, moving, tmp_path):
    _, html = made(recipe, moving, tmp_path, "flow")
    assert LEGEND.replace("'", "&#x27;") in html and html.count('class="note wheel"') == 1
    assert not re.search(r"<script|\bsrc=|\bhref=|https?:", html)
    assert set(re.findall(r"url\((.{5})", html)) == {"data:"}
    _, html = made(recipe, moving, tmp_path, "rgb")
    assert "Flow shows" not in html and 'class="note wheel"' not in html


def test_same_bytes_each_time(recipe, moving, tmp_path):
    (tmp_path / "b").mkdir()
    assert made(recipe, moving, tmp_path, "flow") == made(recipe, moving, tmp_path / "b", "flow")
