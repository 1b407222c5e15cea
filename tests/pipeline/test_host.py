"""What the host makes and what a graph makes of the same frames and draws are the same views."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from pipeline.augment import AugmentConfig, training_draw
from pipeline.clip import ClipPlan
from pipeline.decode import decode_pictures
from pipeline.graph import GraphSpec, Lane
from pipeline.host import HostLane, HostViews
from pipeline.manifest import Video
from pipeline.probe import probe
from pipeline.sample import Reader
from tests.videos import write_video

SIZE, FRAMES = 24, 4
AUGMENT = AugmentConfig(size=SIZE, blur=0.5, solarize=0.5, contrast_about="clip")
PLAN = ClipPlan.of([np.arange(2, 2 + FRAMES), np.arange(5, 5 + FRAMES)])


def drifting(n: int) -> np.ndarray:
    """[64, 96, 3] uint8, soft waves that move: of colours well inside of what video can hold."""
    y, x = np.mgrid[:64, :96]
    waves = [np.sin((x + 2 * n) / 9 + c) + np.cos((y - n) / 7 - c) for c in range(3)]
    return np.round(128 + 30 * np.stack(waves, axis=2)).astype(np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Video:
    # VP9 is what the decoder in DALI's CPU build knows.
    path = tmp_path_factory.mktemp("host") / "drifting.mp4"
    write_video(path, frames=12, size=(96, 64), codec="libvpx-vp9", pixels=drifting)
    return Video.of(probe(path), key="drifting", path=path)


def tracks(video: Video, views: HostViews | None, *, per_clip: int = 1, seed: int = 0) -> list:
    """As a worker makes them; without `views` those of a graph that decodes."""
    rng = np.random.default_rng(seed)
    draws = [[training_draw(96, 64, AUGMENT, rng) for _ in range(per_clip)] for _ in range(2)]
    kind = "ffmpeg" if views else "nvdec"
    return Reader(30.0, views).tracks(video, PLAN, list(PLAN.views), draws, kind)


def on_host(clips: list, views: HostViews) -> tuple[list, list]:
    lane = HostLane(views, mean=AUGMENT.mean, std=AUGMENT.std)
    lane.submit(clips)
    return lane.collect()


def by_graph(clips: list, kind: str, **options) -> tuple[list, list]:
    lane = Lane(
        GraphSpec(kind, "cpu", (AUGMENT,) * 2, True, False, len(clips), 1, 1, **options)
    )  # fmt: skip
    lane.submit(clips)
    return lane.collect()


def levels(views: list[torch.Tensor]) -> torch.Tensor:
    std = 255 * torch.tensor(AUGMENT.std).view(3, 1, 1, 1)
    return torch.stack(views) * std


@pytest.mark.parametrize("per_clip", [1, FRAMES])
@pytest.mark.parametrize("seed", range(4))
def test_whole_views_are_those_of_a_graph_that_finishes_them(video, seed, per_clip):
    """The same crops: what is left is rounding, and blur by weights of 8 bits."""
    options = {"per_clip": per_clip, "seed": seed}
    whole, crops = HostViews(SIZE, whole=True), HostViews(SIZE, whole=False)
    ours, _ = on_host(tracks(video, whole, **options), whole)
    theirs, _ = by_graph(tracks(video, crops, **options), "ffmpeg")
    assert [view.shape for view in ours] == [view.shape for view in theirs]
    assert all(view.dtype == torch.float32 for view in ours)
    difference = (levels(ours) - levels(theirs)).abs()
    assert difference.mean() < 0.7
    assert difference.quantile(0.99) <= 4


@pytest.mark.parametrize("seed", range(4))
def test_a_graph_that_decodes_shows_the_same(video, seed):
    """Other ways to scale, to place chroma and to convert: three levels on soft pictures."""
    whole = HostViews(SIZE, whole=True)
    ours, _ = on_host(tracks(video, whole, seed=seed), whole)
    theirs, _ = by_graph(tracks(video, None, seed=seed), "nvdec")
    solarized = [track.draws[v].solarize_from < 256 for track in tracks(video, None, seed=seed)
                 for v in range(2)]  # fmt: skip
    # Where a level is turned over at 128, one level of difference is up to 255.
    difference = (levels(ours) - levels(theirs)).abs().flatten(1)
    for view, turned in zip(difference, solarized, strict=True):
        assert view.median() <= 3 if turned else view.mean() <= 3


@pytest.mark.parametrize("lumas", [(0,), (1,), (0, 1)])
def test_lumas_have_one_frame_more_and_no_colours(video, lumas):
    options = {"next_frame": True, "lumas": lumas}
    whole, crops = (HostViews(SIZE, whole=w, **options) for w in (True, False))
    views, ours = on_host(tracks(video, whole), whole)
    others, theirs = by_graph(tracks(video, crops), "ffmpeg", **options)
    assert [view.shape[2] for view in views] == [view.shape[2] for view in others] == [3, 3]
    assert (levels(views) - levels(others)).abs().mean() < 0.7
    assert len(ours) == len(theirs) == len(lumas)
    for luma, other in zip(ours, theirs, strict=True):
        assert luma.shape == (1, FRAMES, SIZE, SIZE) and luma.dtype == torch.uint8
        assert (luma.int() - other.int()).abs().max() <= 1


def test_only_what_a_view_shows_leaves_the_worker(video):
    decoded = decode_pictures(video, PLAN.frames, timeout_seconds=30)
    of_video = sum(plane.nbytes for picture in decoded for plane in picture.planes)
    (track,) = tracks(video, HostViews(SIZE, whole=True))
    assert track.pictures.shape == (2 * FRAMES, SIZE, SIZE, 3)
    assert track.pictures.nbytes < of_video


def test_a_graph_gets_crops_and_the_rest_of_the_draw(video):
    (track,) = tracks(video, HostViews(SIZE, whole=False))
    (plain,) = tracks(video, None)
    assert track.rows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for ours, theirs in zip(track.draws, plain.draws, strict=True):
        assert ours.roi == (0.0, 0.0, 1.0, 1.0) != theirs.roi
        assert (ours.flip, ours.blur_sigma) == (theirs.flip, theirs.blur_sigma)


def test_runs_come_out_in_the_order_they_went_in(video):
    whole = HostViews(SIZE, whole=True)
    lane = HostLane(whole, mean=AUGMENT.mean, std=AUGMENT.std)
    clips = [tracks(video, whole, seed=seed) for seed in range(3)]
    for clip in clips:
        lane.submit(clip)
    for clip in clips:
        views, _ = lane.collect()
        assert torch.equal(torch.stack(views), torch.stack(on_host(clip, whole)[0]))


def test_a_worker_can_be_given_it():
    views = HostViews(SIZE, whole=True, lumas=(1,))
    assert pickle.loads(pickle.dumps(views)) == views
