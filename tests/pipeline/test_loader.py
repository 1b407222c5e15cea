"""Batches are a pure function of the step: no worker, lane, rank or restart changes a pixel."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.augment import AugmentConfig
from pipeline.clip import ClipConfig
from pipeline.errors import DataError
from pipeline.loader import (
    DataConfig,
    Place,
    build_evaluation_loader,
    build_loader,
    choose_decoder,
)
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.probe import probe
from pipeline.sample import HostBatch, TrainingStage
from tests.videos import read_number, write_video

VIDEOS = 7
FRAMES = [4, 9, 12, 20, 25, 30, 31]
SAMPLES = 12  # an epoch of 7 ends inside
CLIP = ClipConfig(frames=4, stride=2)
HOPPER = (9, 0)  # compute capability of H100 and H200
AUGMENT = AugmentConfig(size=16, blur_sigma=[0.1, 1.0], solarize=0.3)
# Whole picture, unchanged: numbers drawn in the pixels survive.
PLAIN = AugmentConfig(
    size=48, scale=[1.0, 1.0], ratio=[0.01, 100.0], flip=0, jitter=0, grayscale=0, blur=0,
    mean=[0.0] * 3, std=[1 / 255] * 3,
)  # fmt: skip


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Video]:
    """Seven numbered videos of 4 to 31 frames, of two sizes."""
    folder = tmp_path_factory.mktemp("videos")
    found = []
    for i, frames in enumerate(FRAMES):
        size = (64, 48) if i % 2 else (48, 64)
        path = write_video(folder / f"v{i}.mp4", frames=frames, size=size, gop=10)
        found.append(replace(described(path), label=i % 2))
    return found


def described(path: Path) -> Video:
    return Video.of(probe(path), key=path.stem, path=path)


def listed(path: Path, videos: list[Video]) -> Manifest:
    return write_manifest(path, videos, classes=["a", "b"], options={})


@pytest.fixture(scope="module")
def manifest(videos, tmp_path_factory) -> Manifest:
    return listed(tmp_path_factory.mktemp("manifest") / "m.parquet", videos)


@pytest.fixture
def damaged(videos, tmp_path):
    """Makes a manifest some of whose files are text by now."""

    def without(*which: int) -> Manifest:
        path = tmp_path / "broken.mp4"
        path.write_text("no video at all\n" * 20)
        rows = [replace(v, path=path) if i in which else v for i, v in enumerate(videos)]
        return listed(tmp_path / "damaged.parquet", rows)

    return without


def data_config(**changed) -> DataConfig:
    return DataConfig(**({"batch_size": 2, "workers": 0, "prefetch_batches": 1} | changed))


def training(manifest, *, clip=CLIP, augment=AUGMENT, seed=3, data=None, **options):
    data = data or data_config()
    return build_loader(manifest, clip=clip, augment=augment, data=data, seed=seed, **options)


def evaluation(manifest, *, augment=AUGMENT, clips=2, **data):
    data = data_config(**({"batch_size": 3} | data))
    return build_evaluation_loader(manifest, clip=CLIP, augment=augment, data=data, clips=clips)


def joined(batches) -> tuple[list[torch.Tensor], list[int], list[int]]:
    """All views, labels and indices of some batches in a row."""
    batches = list(batches)
    views = [torch.cat(view) for view in zip(*(b.views for b in batches), strict=True)]
    label, index = (torch.cat([getattr(b, name) for b in batches]) for name in ("label", "index"))
    return views, label.tolist(), index.tolist()


def starts(batches) -> list[list[int]]:
    """Starts of all views of some batches in a row."""
    return torch.cat([batch.start_frames for batch in batches]).tolist()


def samples(manifest, *, count: int = SAMPLES, **options):
    """The first `count` samples of a run, whatever its batches."""
    size = options.get("data", data_config()).batch_size
    return joined(training(manifest, **options).batches(0, count // size))


def assert_same(ours, theirs) -> None:
    assert ours[1:] == theirs[1:]
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert torch.equal(a, b)


@pytest.fixture(scope="module")
def reference(manifest):
    return samples(manifest)


@pytest.fixture(scope="module")
def frame_by_frame(manifest):
    return samples(manifest, augment=replace(AUGMENT, consistent=False))


# Nothing but the sample's number counts


def test_a_batch_holds_views_labels_and_rows(reference):
    views, label, index = reference
    assert [view.shape for view in views] == [(SAMPLES, 3, 4, 16, 16)] * 2
    assert all(view.dtype == torch.float32 and view.is_contiguous() for view in views)
    assert label == [i % 2 for i in index]
    assert not torch.equal(*views)


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_size": 6},
        {"lanes": 2},
        {"batch_size": 6, "lanes": 3, "prefetch_batches": 2},
        {"batch_size": 4, "lanes": 3, "threads": 2},
        {"lanes": 3, "prefetch_batches": 4},  # more lanes than samples
        {"workers": 1, "prefetch_batches": 2},
        {"workers": 4, "batch_size": 3, "lanes": 2},
    ],
    ids=lambda changed: " ".join(f"{k}={v}" for k, v in changed.items()),
)
def test_no_pixel_depends_on_how_the_work_is_shared(manifest, reference, changed):
    assert_same(samples(manifest, data=data_config(**changed)), reference)


@pytest.mark.parametrize(
    "changed",
    [{"batch_size": 3, "lanes": 2}, {"batch_size": 6, "prefetch_batches": 2, "threads": 2}],
    ids=str,
)
def test_nor_where_every_frame_is_drawn_for_itself(manifest, frame_by_frame, changed):
    augment = replace(AUGMENT, consistent=False)
    assert_same(samples(manifest, augment=augment, data=data_config(**changed)), frame_by_frame)


def test_a_run_may_start_at_any_step(manifest):
    loader = training(manifest)
    whole = list(loader.batches(0, 6))
    for first in (1, 3, 4, 6):
        rest = list(training(manifest).batches(first, 6))
        assert len(rest) == 6 - first
        if rest:
            assert_same(joined(rest), joined(whole[first:]))
    assert_same(joined(loader.batches(2, 5)), joined(whole[2:5]))


@pytest.mark.parametrize("prefetch_batches", [1, 3])
def test_a_run_left_half_way_leaves_nothing_behind(manifest, reference, prefetch_batches):
    """Batches under way when a caller stops must not come out of the next run."""
    loader = training(manifest, data=data_config(prefetch_batches=prefetch_batches))
    for _ in loader.batches(3, 6):
        break
    assert_same(joined(loader.batches(0, SAMPLES // 2)), reference)


def test_a_run_that_fails_leaves_nothing_behind(manifest, monkeypatch):
    """Nor must those that were under way when a later one failed."""

    def fails(self, step: int) -> HostBatch:
        if step == 5:
            raise DataError("error: no such video")
        return read(self, step)

    read = TrainingStage.__getitem__
    loader = training(manifest, data=data_config(prefetch_batches=3))
    monkeypatch.setattr(TrainingStage, "__getitem__", fails)
    with pytest.raises(DataError, match=r"^error: no such video$"):
        list(loader.batches(3, 6))
    assert_same(joined(loader.batches(0, 5)), samples(manifest, count=10))


def test_a_later_stage_numbers_its_samples_on(manifest, reference):
    later = joined(training(manifest, first_sample=5).batches(0, 3))
    assert_same(later, ([v[5:11] for v in reference[0]], reference[1][5:11], reference[2][5:11]))


def test_every_epoch_shows_every_video_once_cropped_anew(manifest):
    """Three epochs of 7 in batches of 3: batches run on across the ends of epochs."""
    data = data_config(batch_size=3)
    views, _, index = samples(manifest, count=3 * VIDEOS, data=data)
    epochs = np.array(index).reshape(3, VIDEOS)
    assert (np.sort(epochs, axis=1) == np.arange(VIDEOS)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1
    still = replace(PLAIN, size=16)  # the same without crop: only frames can differ
    for video in range(VIDEOS):
        first, second, third = views[0][torch.tensor(index) == video]
        assert not torch.equal(first, second) and not torch.equal(second, third)
    uncropped, _, _ = samples(manifest, count=2 * VIDEOS, augment=still, data=data_config())
    same = [uncropped[0][i] for i, video in enumerate(index[: 2 * VIDEOS]) if video == 0]
    assert torch.equal(same[0], same[1])  # four frames, one clip: the crop is what differs above


def test_seeds_differ(manifest, reference):
    other = samples(manifest, seed=4)
    assert other[2] != reference[2]


# What is in the pixels


def read_clip(view: torch.Tensor) -> list[int]:
    """Numbers drawn into the frames of [C, T, H, W] made with PLAIN."""
    return [read_number(frame.permute(1, 2, 0).numpy()) for frame in view.unbind(1)]


@pytest.mark.parametrize("consistent", [True, False])
def test_frames_come_in_order_and_short_videos_loop(manifest, consistent):
    augment = replace(PLAIN, consistent=consistent)
    data = data_config(batch_size=7, lanes=2)
    (view, other), _, index = samples(manifest, count=7, augment=augment, data=data)
    assert view.shape == (7, 3, 4, 48, 48)
    for clip, again, video in zip(view, other, index, strict=True):
        numbers = read_clip(clip)
        assert numbers == [(numbers[0] + 2 * t) % FRAMES[video] for t in range(4)]
        assert read_clip(again) == numbers
    assert read_clip(view[index.index(0)]) == [0, 2, 0, 2]


def test_frames_are_treated_alike_unless_consistency_is_off(tmp_path):
    still = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = write_video(
        tmp_path / "still.mp4", frames=8, size=(64, 48), gop=1, pixels=lambda n: still
    )
    manifest = listed(tmp_path / "m.parquet", [described(path)])
    data = data_config(batch_size=1)
    alike, _, _ = samples(manifest, count=3, data=data)
    own, _, _ = samples(manifest, count=3, data=data, augment=replace(AUGMENT, consistent=False))
    for same, other in zip(alike, own, strict=True):
        assert (same - same[:, :, :1]).abs().mean() < 0.1  # only the codec's traces
        assert (other[:, :, 1:] - other[:, :, :-1]).abs().mean() > 0.3


def test_segments_give_seven_views_in_the_order_of_the_video(manifest):
    """Real frames: queries, keys, and one of the outer queries again; four frames are enough."""
    clip = ClipConfig(frames=1, sampling="segments")
    loader = training(manifest, clip=clip, augment=PLAIN, data=data_config(batch_size=7), views=7)
    (batch,) = loader.batches(0, 1)
    shown = [[read_clip(frame)[0] for frame in view] for view in batch.views]
    assert np.array(shown).T.tolist() == batch.start_frames.tolist()
    for row, video in zip(batch.start_frames.tolist(), batch.index.tolist(), strict=True):
        length = FRAMES[video] // 3
        for query, key in zip(row[:3], row[3:6], strict=True):
            assert min(query // length, 2) == min(key // length, 2)
        assert [min(n // length, 2) for n in row[:3]] == [0, 1, 2] and row[6] in (row[0], row[2])


# Ranks


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_the_batch_of_one_process(manifest, world):
    data = data_config(batch_size=4)
    whole = joined(training(manifest, data=data).batches(0, 3))
    ranks = [
        list(training(manifest, data=data, place=Place(rank, world)).batches(0, 3))
        for rank in range(world)
    ]
    in_order = [batches[step] for step in range(3) for batches in ranks]
    assert_same(joined(in_order), whole)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_exchanged_views_are_of_the_next_ranks_samples(manifest, world):
    data = data_config(batch_size=4)
    views, label, index = joined(training(manifest, data=data).batches(1, 2))
    local = 4 // world
    for rank in range(world):
        place = Place(rank, world)
        loader = training(manifest, data=data, place=place, exchanged=(1,))
        (batch,) = loader.batches(1, 2)
        own = slice(rank * local, (rank + 1) * local)
        following = (rank + 1) % world
        next_one = slice(following * local, (following + 1) * local)
        assert torch.equal(batch.views[0], views[0][own])
        assert torch.equal(batch.views[1], views[1][next_one])
        assert batch.index.tolist() == index[own] and batch.label.tolist() == label[own]


def test_starts_are_those_of_a_processs_own_samples_exchanged_or_not(manifest):
    """What a view shows is told where it is rendered or not: rank 1 has the pixels of view 1."""
    data, clip = data_config(batch_size=4), replace(CLIP, sampling="interval")
    options = {"clip": clip, "data": data, "augment": PLAIN}
    whole = list(training(manifest, **options).batches(0, 2))
    assert all(batch.start_frames.dtype == torch.int64 for batch in whole)
    for batch in whole:
        for view, pixels in enumerate(batch.views):
            shown = [read_clip(clip)[0] for clip in pixels]
            assert shown == batch.start_frames[:, view].tolist()
    ranks = [
        list(training(manifest, place=Place(r, 2), exchanged=(1,), **options).batches(0, 2))
        for r in range(2)
    ]
    assert starts(ranks[r][step] for step in range(2) for r in range(2)) == starts(whole)


def test_views_have_their_own_augmentation_wherever_they_are_rendered(manifest):
    """In the exchange view 1 is the only one of its stream, and keeps its own values."""
    augment = replace(PLAIN, views={1: {"jitter": 1.0, "solarize": 1.0}})
    data = data_config(batch_size=4)
    views, _, index = samples(manifest, count=4, augment=augment, data=data)
    plain, _, _ = samples(manifest, count=4, augment=PLAIN, data=data)
    assert torch.equal(views[0], plain[0]) and not torch.equal(views[1], plain[1])
    for rank in range(2):
        loader = training(
            manifest, augment=augment, data=data, place=Place(rank, 2), exchanged=(1,)
        )
        (batch,) = loader.batches(0, 1)
        assert batch.index.tolist() == index[2 * rank : 2 * rank + 2]
        assert torch.equal(batch.views[0], views[0][2 * rank : 2 * rank + 2])
        other = 2 - 2 * rank
        assert torch.equal(batch.views[1], views[1][other : other + 2])


def test_all_ranks_replace_a_damaged_video_alike(damaged):
    manifest, data = damaged(1, 2, 5), data_config(batch_size=4)
    noted: list[dict] = []
    whole = joined(training(manifest, data=data, noted=noted.extend).batches(0, 4))
    assert not set(whole[2]) & {1, 2, 5}
    assert {entry["code"] for entry in noted} == {"E-CORRUPT"}
    seen: list[dict] = []
    place, local = [Place(rank, 2) for rank in range(2)], 2
    ranks = [
        list(
            training(manifest, data=data, place=p, exchanged=(1,), noted=seen.extend).batches(0, 4)
        )
        for p in place
    ]
    for step in range(4):
        for rank in range(2):
            batch, other = ranks[rank][step], 1 - rank
            start, across = step * 4 + rank * local, step * 4 + other * local
            assert batch.index.tolist() == whole[2][start : start + local]
            assert torch.equal(batch.views[0], whole[0][0][start : start + local])
            assert torch.equal(batch.views[1], whole[0][1][across : across + local])

    def places(entries):
        return {(e["epoch"], e["position"], e["attempt"]) for e in entries}

    assert places(seen) == places(noted)


# Evaluation


@pytest.mark.parametrize("changed", [{}, {"lanes": 2, "prefetch_batches": 2}], ids=str)
def test_evaluation_shows_all_videos_once_in_order(manifest, changed):
    loader = evaluation(manifest, augment=replace(PLAIN, eval_scale=1.0), **changed)
    batches = list(loader)
    assert len(loader) == 3
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch.label.tolist() for batch in batches] == [[0, 1, 0], [1, 0, 1], [0]]
    assert all(len(batch.views) == 2 for batch in batches) and loader.failed == []
    again = list(loader)
    assert_same(joined(batches), joined(again))
    assert_same(joined(batches), joined(evaluation(manifest, augment=PLAIN, batch_size=2)))


def test_evaluation_spreads_its_clips_evenly(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames=31, size=(64, 64), gop=10)
    manifest = listed(tmp_path / "m.parquet", [described(path)])
    (batch,) = evaluation(manifest, augment=PLAIN, clips=3)
    assert [read_clip(view[0])[0] for view in batch.views] == [0, 12, 24]
    assert read_clip(batch.views[2][0]) == [24, 26, 28, 30]
    (central,) = evaluation(manifest, augment=PLAIN, clips=1)
    assert read_clip(central.views[0][0])[0] == 12


def test_evaluation_tells_where_its_clips_start(manifest):
    batches = list(evaluation(manifest, augment=replace(PLAIN, eval_crops=3), clips=2))
    for batch in batches:
        assert len(batch.views) == 6
        assert batch.start_frames[:, :3].eq(batch.start_frames[:, :1]).all()
    last = [max(0, frames - 7) for frames in FRAMES]
    assert [row[0] for row in starts(batches)] == [0] * VIDEOS
    assert [row[3] for row in starts(batches)] == last


@pytest.mark.parametrize(("size", "axis"), [((96, 48), 1), ((48, 96), 0)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_three_crops_show_both_ends_and_the_middle(tmp_path, size, axis, scale):
    """Levels that rise along the long side tell where each crop begins and ends."""
    ramp = np.moveaxis(np.broadcast_to(np.arange(96) * 2 + 20, (48, 96)), axis, 1)
    picture = np.repeat(ramp[:, :, None], 3, axis=2).astype(np.uint8)
    path = write_video(
        tmp_path / "v.mp4", frames=7, size=size, options={"crf": "1"}, pixels=lambda n: picture
    )
    manifest = listed(tmp_path / "m.parquet", [described(path)])
    augment = replace(PLAIN, eval_scale=scale, eval_crops=3)
    (batch,) = evaluation(manifest, augment=augment, clips=2)
    side = 48 * scale
    for view, first in enumerate([0, 48 - side / 2, 96 - side] * 2):
        levels = batch.views[view][0, 0, 0].mean(dim=1 - axis)
        # The centres of the first and last of 48 pixels of the view lie side / 96 inside.
        ends = np.array([first + side / 96, first + side - side / 96]) - 0.5
        assert np.allclose(levels[[0, -1]], 2 * ends + 20, atol=3)


@pytest.mark.parametrize("size", [(96, 48), (48, 96)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_evaluation_crops_the_central_square(tmp_path, size, scale):
    """The white square that fills just the crop, on black: the view is white to its borders."""
    width, height = size
    side = int(min(size) * scale)
    picture = np.zeros((height, width, 3), np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    picture[top : top + side, left : left + side] = 255
    picture[top : top + side // 2, left : left + side // 2, 1:] = 0  # its first quarter is red
    options = {"crf": "1"}
    path = write_video(
        tmp_path / "v.mp4", frames=7, size=size, options=options, pixels=lambda n: picture
    )
    manifest = listed(tmp_path / "m.parquet", [described(path)])
    (batch,) = evaluation(manifest, augment=replace(PLAIN, eval_scale=scale), clips=1)
    red, green = batch.views[0][0, 0, 0], batch.views[0][0, 1, 0]
    # Chroma has half the resolution, so red and white are mixed where they meet.
    assert red[2:-2, 2:-2].min() > 150
    half = len(green) // 2
    assert green[2 : half - 4, 2 : half - 4].max() < 80
    assert green[2:-2, half + 4 : -2].min() > 200 and green[half + 4 : -2, 2:-2].min() > 200
    (wider,) = evaluation(manifest, augment=replace(PLAIN, eval_scale=min(1, scale * 1.5)), clips=1)
    assert scale == 1 or wider.views[0][0, 0, 0, 0].max() < 80


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_lists_what_failed_and_goes_on(damaged, reference, workers):
    """A whole group (3, 4, 5) and one of another."""
    loader = evaluation(damaged(1, 3, 4, 5), workers=workers)
    for _ in range(2 - workers):  # listed once, not once a run
        batches = list(loader)
        assert [batch.index.tolist() for batch in batches] == [[0, 2], [6]]
        assert [entry["index"] for entry in loader.failed] == [1, 3, 4, 5]
    assert {entry["code"] for entry in loader.failed} == {"E-CORRUPT"}


# What goes wrong


def test_damage_everywhere_ends_the_run(damaged):
    loader = training(damaged(*range(VIDEOS)))
    with pytest.raises(DataError, match="error: sample 0 of epoch 0: 8 videos in a row") as caught:
        next(loader.batches(0, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lanes": 0}, "data.lanes: expected at least 1, got 0"),
        ({"threads": 0}, "data.threads: expected at least 1, got 0"),
        ({"prefetch_batches": 0}, "data.prefetch_batches: expected at least 1, got 0"),
        ({"batch_size": 0}, "data.batch_size: expected at least 1, got 0"),
        ({"workers": -1}, "data.workers: expected at least 0, got -1"),
        (
            {"decode_timeout_seconds": 0.0},
            "data.decode_timeout_seconds: expected more than 0, got 0.0",
        ),
    ],
)
def test_sizes_that_make_no_loader_are_refused(manifest, changed, message):
    for build in (
        lambda: training(manifest, data=data_config(**changed)),
        lambda: evaluation(manifest, **changed),
    ):
        with pytest.raises(ValueError) as caught:
            build()
        assert str(caught.value) == message


def test_a_batch_must_divide_and_not_exceed_the_data_set(manifest):
    with pytest.raises(ValueError) as caught:
        training(manifest, data=data_config(batch_size=5), place=Place(0, 2))
    assert str(caught.value) == (
        "data.batch_size: 5 is the batch over all processes and must be a multiple of their "
        "number, 2"
    )
    with pytest.raises(DataError) as caught:
        training(manifest, data=data_config(batch_size=8))
    assert str(caught.value) == (
        f"error: a batch needs 8 videos, the data set has 7 · {manifest.path} · lower "
        "data.batch_size or add videos"
    )
    assert len(list(evaluation(manifest, batch_size=8))) == 1


def test_a_recipe_of_another_number_of_views_is_refused(manifest):
    segments = replace(CLIP, sampling="segments")
    for options, message in (
        ({"clip": segments, "views": 2}, "clip.segments: 3 make 7 views, 2 S + 1, the method"),
        ({"augment": replace(AUGMENT, views={2: {}})}, "augment.views.2: the method takes 2"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            training(manifest, **options)


def test_an_exchanged_view_has_its_part_of_the_workers_and_lanes(manifest):
    """Not as many again: the machine has no more cores and no more decoders."""
    loader = training(
        manifest, data=data_config(workers=5, lanes=4), place=Place(0, 2), exchanged=(1,)
    )
    assert [stream.data.workers for stream in loader.streams] == [2, 2]
    assert [len(stream.lanes) for stream in loader.streams] == [2, 2]
    assert loader.data.lanes == 4


@pytest.mark.parametrize(
    ("asked", "gpu", "codecs", "chosen"),
    [
        ("auto", None, {"h264"}, ("ffmpeg", "no GPU here")),
        ("auto", HOPPER, {"h264", "vp9"},
         ("nvdec", "the GPU decodes every codec of this data set")),
        ("auto", HOPPER, {"h264", "theora", "prores"},
         ("ffmpeg", "the NVDEC of this GPU does not decode prores, theora")),
        ("ffmpeg", HOPPER, {"h264"}, ("ffmpeg", "asked for")),
        ("ffmpeg", None, {"h264"}, ("ffmpeg", "asked for")),
        ("nvdec", HOPPER, {"prores"}, ("nvdec", "asked for")),
    ],
)  # fmt: skip
def test_the_decoder_is_chosen_with_a_reason(asked, gpu, codecs, chosen):
    assert choose_decoder(asked, "cuda:0" if gpu else "cpu", codecs, gpu) == chosen


# Turing, A100, A10, L4, H100, B200
@pytest.mark.parametrize(
    ("gpu", "decodes"),
    [((7, 5), False), ((8, 0), False), ((8, 6), True), ((8, 9), True), (HOPPER, False),
     ((10, 0), True)],
)  # fmt: skip
def test_av1_is_for_gpus_that_decode_it(gpu, decodes):
    kind, why = choose_decoder("auto", "cuda:0", {"h264", "av1"}, gpu)
    assert kind == ("nvdec" if decodes else "ffmpeg")
    assert decodes or why == "the NVDEC of this GPU does not decode av1"


def test_nvdec_without_a_gpu_is_refused(manifest):
    message = "data.decoder: nvdec needs a GPU, none is here; use auto or ffmpeg"
    with pytest.raises(ValueError) as caught:
        choose_decoder("nvdec", "cpu", {"h264"}, None)
    assert str(caught.value) == message
    with pytest.raises(ValueError, match=message):
        training(manifest, data=data_config(decoder="nvdec"))


# On a GPU


@pytest.mark.needs_cuda
@pytest.mark.parametrize("decoder", ["ffmpeg", "nvdec"])
@pytest.mark.parametrize("consistent", [True, False])
def test_a_gpu_shows_the_same_frames(manifest, decoder, consistent):
    augment = replace(PLAIN, consistent=consistent)
    data = data_config(batch_size=7, lanes=2, decoder=decoder)
    place = Place(device="cuda:0")
    (batch,) = training(manifest, augment=augment, data=data, place=place).batches(0, 1)
    host, _, index = samples(manifest, count=7, augment=augment, data=data_config(batch_size=7))
    assert batch.views[0].device.type == "cuda" and batch.index.tolist() == index
    for ours, theirs in zip(batch.views[0].cpu(), host[0], strict=True):
        assert read_clip(ours) == read_clip(theirs)
