"""The loaders that are compared do the same work: no worker process is started here."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import AugmentConfig, ClipConfig, DataConfig, build_loader
from pipeline.augment import WHOLE, Draw, of_views, training_draw
from pipeline.host import HostLane, HostViews
from pipeline.manifest import Manifest
from pipeline.render import AS_IT_IS, Picture
from pipeline.track import Track
from tools.benchmark import loader, sweeps
from tools.benchmark.pictures import opencv_view
from tools.benchmark.rivals import pyav_clip

FRAMES, SIDE = 3, 24
PLAIN = AugmentConfig(
    size=SIDE, scale=[1.0, 1.0], ratio=[1.0, 1.0], flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0,
    blur_sigma=[1.0, 1.0],
)  # fmt: skip
GREY = np.hstack([np.tile([0.299, 0.587, 0.114], (3, 1)), np.zeros((3, 1))])


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """[3, 36, 36, 3] uint8: coloured waves, which every way to scale makes alike."""
    y, x = np.indices((36, 36)) / 36
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in ((1, 0.5), (-0.5, 1), (1, 1))]
    still = 127.5 + 100 * np.stack(waves, axis=-1)
    return np.stack([np.roll(still, 3 * t, axis=1) for t in range(FRAMES)]).astype(np.uint8)


def ours(clip: np.ndarray, draw: Draw) -> Tensor:
    """The view as the host makes it of decoded frames."""
    pictures = [Picture((frame,), AS_IT_IS) for frame in clip]
    rows, host = np.arange(len(clip), dtype=np.int32)[None], HostViews(SIDE, whole=True)
    lane = HostLane(host, mean=PLAIN.mean, std=PLAIN.std)
    lane.submit([host(Track(pictures, rows[0], rows, (draw,), 0))])
    return lane.collect()[0][0][0]


def levels_apart(view: Tensor, other: Tensor) -> Tensor:
    """Of 255."""
    assert view.shape == other.shape == (3, FRAMES, SIDE, SIDE)
    return (255 * (view - other).abs() * torch.tensor(PLAIN.std).view(3, 1, 1, 1)).flatten()


@pytest.mark.parametrize(
    ("change", "draw"),
    [
        ({}, Draw(WHOLE)),
        ({"flip": 1.0}, Draw(WHOLE, flip=True)),
        ({"grayscale": 1.0}, Draw(WHOLE, color=GREY)),
        ({"blur": 1.0}, Draw(WHOLE, blur_sigma=1.0)),
    ],
    ids=["plain", "flip", "grayscale", "blur"],
)
def test_three_ways_to_make_a_view_agree(change, draw, clip):
    """kornia scales corner on corner, so at the border a quarter of a pixel beside the others."""
    pytest.importorskip("kornia")
    config = replace(PLAIN, **change)
    expected = ours(clip, draw)
    by_kornia = loader.kornia_views([clip], (config,))[0]
    for view in (by_kornia, opencv_view(clip, draw, config)):
        apart = levels_apart(view, expected)
        assert apart.mean() < 2.5 and apart.max() < 16
    assert levels_apart(ours(clip, Draw(WHOLE)), ours(clip[:, ::-1], Draw(WHOLE))).mean() > 25


def test_kornia_solarises_the_same_half(clip):
    pytest.importorskip("kornia")
    view = loader.kornia_views([clip], (replace(PLAIN, solarize=1.0),))[0]
    apart = levels_apart(view, ours(clip, Draw(WHOLE, solarize_from=128)))
    assert apart.median() < 1.5  # pixels about the threshold fall on either side


@pytest.mark.parametrize("seed", range(6))
def test_opencv_follows_our_draws(seed, clip):
    """Of all that CVRL's views have: crop, colour, blur, solarisation, mirror."""
    config = replace(of_views(loader.AUGMENT, 2)[seed % 2], size=SIDE, blur_sigma=[0.1, 1.0])
    draw = training_draw(36, 36, config, np.random.default_rng(seed))
    apart = levels_apart(opencv_view(clip, draw, config), ours(clip, draw))
    assert apart.mean() < 1


@pytest.fixture
def small(monkeypatch):
    """The comparison's settings at a size of small videos."""
    clip = ClipConfig(frames=4, stride=2, sampling="interval")
    monkeypatch.setattr(loader, "CLIP", clip)
    monkeypatch.setattr(loader, "AUGMENT", replace(loader.AUGMENT, size=16))
    monkeypatch.setattr(loader, "BATCH_VIDEOS", 3)


@pytest.mark.parametrize("augment", [loader._by_opencv, loader._by_kornia])
def test_rivals_give_batches_of_our_form(augment, small, tiny_data):
    if augment is loader._by_kornia:
        pytest.importorskip("kornia")
    manifest = Manifest.read(tiny_data)
    data = DataConfig(batch_size=loader.BATCH_VIDEOS, workers=0)
    own = build_loader(manifest, clip=loader.CLIP, augment=loader.AUGMENT, data=data, seed=0)
    (expected,) = [batch.views for batch in own.batches(0, 1)]
    clips = loader._Clips(manifest, pyav_clip, augment)
    batch = torch.utils.data.default_collate([clips[n] for n in range(loader.BATCH_VIDEOS)])
    assert [(v.shape, v.dtype) for v in batch] == [(v.shape, v.dtype) for v in expected]
    for view, other in zip(batch, expected, strict=True):
        assert view.isfinite().all() and abs(view.mean() - other.mean()) < 1


def test_nothing_of_a_loader_runs_in_the_turn_of_another():
    """Workers that are left running would fill their queues while somebody else is timed."""
    running, events = set(), []

    def start(name):
        running.add(name)
        try:
            while True:
                events.append(set(running))
                yield [torch.zeros(5, 1)] * 2
        finally:
            running.remove(name)

    streams = {name: partial(start, name) for name in ("a", "b")}
    means = loader.Means(workers=2)
    found = loader.side_by_side("x", streams, means, batches=4, rounds=2)
    assert all(len(now) == 1 for now in events) and not running
    assert len(events) == 4 * (4 + (2 + 1) * loader.AHEAD_BATCHES)
    assert found.rate("a").p50 > 0 and loader.Endless(lambda: iter(()), 4, 6)() == 0
    assert found.facts["a"].keys() >= {"CPU ms/sample", "kB/sample"}


def test_a_slow_loader_has_shorter_turns(monkeypatch):
    """A batch of 720p originals takes seconds; a turn of it is two of each worker, after one."""
    taken = {}

    def stream(name, *_):
        for number in count(1):
            taken[name] = number
            yield [torch.zeros(5, 1)] * 2

    monkeypatch.setattr(loader, "our_views", partial(stream, "ours"))
    monkeypatch.setattr(loader, "_rival", partial(stream, "theirs"))
    means = loader.Means(workers=3)
    found = loader.originals_beside_shards("a", "b", means, batches=10, rounds=2)
    assert taken == {"ours": (3 + 1) * loader.AHEAD_BATCHES + 10, "theirs": 3 + 2 * 3}
    assert found.goals == {"decord2, kornia, 720p originals": 20.0}


@pytest.mark.parametrize("sweep", ["lanes", "workers", "preset"])
def test_a_sweep_is_of_our_loader_with_one_thing_changed(sweep, monkeypatch):
    seen = []

    def views(shards, means):
        seen.append((shards, means))
        while True:
            yield [torch.zeros(6, 1)] * 2

    monkeypatch.setattr(sweeps, "our_views", views)
    means, turns = loader.Means(), {"batches": 1, "rounds": 1}
    by = {
        "lanes": lambda: sweeps.by_lanes("s", means, **turns),
        "workers": lambda: sweeps.by_workers("s", means, **turns),
        "preset": lambda: sweeps.by_preset({"fast": "a", "small": "b"}, means, **turns),
    }
    found = by[sweep]()
    expected = {
        "lanes": ("s", means, replace(means, lanes=2), replace(means, lanes=4)),
        "workers": ("s", *(replace(means, workers=n) for n in (1, 2, 4))),
    }
    if sweep == "preset":
        assert seen == [("a", means), ("b", means)] and list(found.rates) == ["fast", "small"]
    else:
        shards, *ways = expected[sweep]
        assert seen == [(shards, way) for way in ways]
        assert list(found.rates)[:2] == [f"1 {sweep[:-1]}", f"2 {sweep}"]
    assert found.apart and not found.goals
