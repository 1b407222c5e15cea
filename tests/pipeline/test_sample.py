"""The host stage: samples are pure functions of their number, damage is replaced, buffers pack."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.augment import AugmentConfig, Draw, of_views
from pipeline.clip import ClipConfig, ClipPlan
from pipeline.errors import BadVideo, DataError
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.order import order
from pipeline.probe import probe
from pipeline.render import Picture
from pipeline.sample import (
    ATTEMPTS,
    EvaluationStage,
    Reader,
    Sample,
    TrainingStage,
    clip_tracks,
    pack,
)
from pipeline.track import Track
from tests.videos import read_number, write_video

VIDEOS = 7
FRAMES = [4, 9, 12, 20, 25, 30, 31]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Video]:
    """Seven numbered videos of 4 to 31 frames, of two sizes."""
    folder = tmp_path_factory.mktemp("videos")
    found = []
    for i, frames in enumerate(FRAMES):
        size = (64, 48) if i % 2 else (48, 64)
        path = write_video(folder / f"v{i}.mp4", frames=frames, size=size, gop=10)
        found.append(Video.of(probe(path), key=path.stem, path=path, label=i % 2))
    return found


def listed(path: Path, videos: list[Video]) -> Manifest:
    return write_manifest(path, videos, classes=["a", "b"], options={})


@pytest.fixture(scope="module")
def manifest(videos, tmp_path_factory) -> Manifest:
    return listed(tmp_path_factory.mktemp("manifest") / "m.parquet", videos)


def damaged(videos: list[Video], folder: Path, which: set[int]) -> Manifest:
    """A manifest some of whose files are text by now."""
    path = folder / "broken.mp4"
    path.write_text("no video at all\n" * 20)
    rows = [replace(v, path=path) if i in which else v for i, v in enumerate(videos)]
    return listed(folder / "damaged.parquet", rows)


@dataclass(frozen=True)
class AsDecoded:
    """In the place of HostViews: pictures [U, H, W, 3] as they are in the video, to be read."""

    def __call__(self, track: Track) -> Track:
        return replace(track, pictures=np.stack([as_rgb(one) for one in track.pictures]))


def as_rgb(picture: Picture) -> np.ndarray:
    size = picture.planes[0].shape[1::-1]
    return cv2.transform(cv2.merge([cv2.resize(p, size) for p in picture.planes]), picture.to_rgb)


READER = Reader(timeout_seconds=30, views=AsDecoded())


def training(manifest: Manifest, *, augment=None, number: int = 2, **changed) -> TrainingStage:
    options = {
        "clip": ClipConfig(frames=4, stride=2),
        "augments": of_views(augment or AugmentConfig(size=16), number),
        "reader": READER,
        "seed": 5,
        "global_batch": 2,
        "first_sample": 0,
        "views": tuple(range(number)),
        "slots": (0, 1),
        "kinds": ("ffmpeg", "ffmpeg"),
    }
    return TrainingStage(manifest, **(options | changed))


def evaluation(manifest: Manifest, **changed) -> EvaluationStage:
    options = {
        "clip": ClipConfig(frames=4, stride=2),
        "augment": AugmentConfig(size=16),
        "reader": READER,
        "clips": 2,
        "batch": 3,
        "kind": "ffmpeg",
    }
    return EvaluationStage(manifest, **(options | changed))


def same_draw(ours: Draw, theirs: Draw) -> bool:
    bare = [replace(draw, color=None, mean_matrix=None) for draw in (ours, theirs)]
    maps = [np.hstack([draw.color, draw.mean_matrix]) for draw in (ours, theirs)]
    return bare[0] == bare[1] and np.array_equal(*maps)


def same_sample(ours: Sample, theirs: Sample) -> bool:
    pairs = list(zip(ours.tracks, theirs.tracks, strict=True))
    same = ours.index == theirs.index and np.array_equal(ours.starts, theirs.starts)
    return same and all(
        np.array_equal(a.pictures, b.pictures)
        and np.array_equal(a.rows, b.rows)
        and all(same_draw(*draws) for draws in zip(a.draws, b.draws, strict=True))
        for a, b in pairs
    )


def seen_numbers(track: Track, view: int = 0) -> list[int]:
    return [read_number(track.pictures[row]) for row in track.rows[view]]


# The flat buffer

shapes = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.just(3)),
    st.tuples(st.integers(0, 50)),
)


@given(st.lists(st.lists(shapes, min_size=1, max_size=3), max_size=4), st.booleans())
@settings(deadline=None)
def test_the_flat_buffer_unpacks_to_what_was_packed(samples, strided):
    rng = np.random.default_rng(0)
    packed = []
    for number, tracks in enumerate(samples):
        made = []
        for shape in tracks:
            pictures = rng.integers(0, 256, shape, dtype=np.uint8)
            # A turned picture is not contiguous.
            pictures = np.rot90(pictures, axes=(1, 2)) if strided and len(shape) == 4 else pictures
            rows = np.zeros((1, 2), np.int32)
            made.append(Track(pictures, np.arange(3), rows, (Draw((0, 0, 1, 1)),), 90))
        packed.append(
            Sample(number + 7, number * 3, number - 1, "nvdec", made, np.array([number, 5]))
        )
    batch = pack(packed, [{"path": "x"}])
    found = batch.unpacked()
    wanted = [track for sample in packed for track in sample.tracks]
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.pictures.flags.c_contiguous
        assert np.array_equal(ours.pictures, theirs.pictures)
        assert (ours.rotation, ours.draws) == (90, theirs.draws)
    assert batch.index.tolist() == [3 * n for n in range(len(samples))]
    assert batch.label.tolist() == [n - 1 for n in range(len(samples))]
    assert batch.index.dtype == batch.label.dtype == batch.starts.dtype == np.int64
    assert batch.starts.tolist() == [[n, 5] for n in range(len(samples))]
    assert len(batch.pixels) == sum(t.pictures.size for t in wanted)


@pytest.mark.parametrize("consistent", [True, False])
def test_samples_come_back_one_by_one(manifest, consistent):
    """One track a sample, or one a frame."""
    stage = training(manifest, augment=AugmentConfig(size=16, consistent=consistent))
    wanted = [stage.sample(number, "ffmpeg", []) for number in (2, 3)]
    found = stage[1].samples()
    assert [(s.number, s.kind, s.label) for s in found] == [
        (s.number, "ffmpeg", s.label) for s in wanted
    ]
    assert len(found[0].tracks) == (1 if consistent else 4)
    assert all(same_sample(*pair) for pair in zip(found, wanted, strict=True))


# Tracks


def test_one_draw_makes_one_track_and_a_draw_a_frame_makes_tracks_of_one_frame(videos):
    plan = ClipPlan.of([np.array([10, 12, 14]), np.array([12, 12, 16])])
    pictures = [Picture((np.full((2, 2), n, np.uint8),), np.eye(3, 4)) for n in plan.frames]
    draws = [[Draw((0, 0, 1, (t + 1) / 10 + view / 100)) for t in range(3)] for view in range(2)]
    video = replace(videos[0], rotation=90, first_frame=100)
    whole = clip_tracks(pictures, video, plan, list(plan.views), [d[:1] for d in draws])
    assert len(whole) == 1 and whole[0].rows.tolist() == [[0, 1, 2], [1, 1, 3]]
    assert whole[0].draws == (draws[0][0], draws[1][0])
    assert whole[0].frames.tolist() == [110, 112, 114, 116]

    singles = clip_tracks(pictures, video, plan, list(plan.views), draws)
    encoded = clip_tracks(np.zeros(9, np.uint8), video, plan, list(plan.views), draws)
    for t, (track, coded) in enumerate(zip(singles, encoded, strict=True)):
        shown = [int(track.pictures[row[0]].planes[0][0, 0]) for row in track.rows]
        assert shown == [[10, 12, 14][t], [12, 12, 16][t]]
        assert [int(coded.frames[row[0]]) - 100 for row in coded.rows] == shown
        assert len(coded.pictures) == 9
        assert track.draws == coded.draws == (draws[0][t], draws[1][t])
        assert track.rotation == coded.rotation == 90


# Training samples


def test_a_clip_shows_the_frames_it_was_planned_to(manifest):
    stage = training(manifest)
    for number in range(VIDEOS):
        sample = stage.sample(number, "ffmpeg", [])
        (track,) = sample.tracks
        frames = manifest[sample.index].frames
        seen = seen_numbers(track)
        assert seen == [(seen[0] + 2 * t) % frames for t in range(4)]
        assert seen == seen_numbers(track, view=1)  # sampling: same
        assert sample.label == sample.index % 2


@pytest.mark.parametrize("consistent", [True, False])
def test_a_segment_shows_its_own_frames_whatever_decodes_it(videos, tmp_path, consistent):
    """Frames 11 to 25 of the longest file; the GPU's decoder counts from the file's first."""
    rows = [replace(videos[-1], key="segment", first_frame=11, frames=15)]
    augment = AugmentConfig(size=16, consistent=consistent)
    stage = training(listed(tmp_path / "m.parquet", rows), augment=augment)
    for number in range(4):
        decoded = stage.sample(number, "ffmpeg", []).tracks
        encoded = stage.sample(number, "nvdec", []).tracks
        seen = [n for track in decoded for n in seen_numbers(track)]
        assert seen == [seen[0] + 2 * t for t in range(4)] and min(seen) >= 11 and max(seen) < 26
        assert [n for t in encoded for n in t.frames[t.rows[0]].tolist()] == seen


def test_a_short_video_loops(manifest):
    """Four frames, every second one: 0 2 0 2."""
    stage = training(manifest)
    shortest = next(s for n in range(VIDEOS) if (s := stage.sample(n, "ffmpeg", [])).index == 0)
    assert seen_numbers(shortest.tracks[0]) == [0, 2, 0, 2]
    assert len(shortest.tracks[0].pictures) == 2  # decoded once


def test_random_sampling_gives_each_view_a_clip_of_its_own(manifest):
    stage = training(manifest, clip=ClipConfig(frames=2, stride=1, sampling="random"))
    tracks = [stage.sample(number, "ffmpeg", []).tracks[0] for number in range(VIDEOS)]
    assert any(seen_numbers(track) != seen_numbers(track, view=1) for track in tracks)


def numbers_at(sample: Sample, view: int) -> list[int]:
    return [n for track in sample.tracks for n in seen_numbers(track, view)]


@pytest.mark.parametrize(
    ("clip", "number"),
    [
        (ClipConfig(frames=4, stride=2, sampling="interval"), 2),
        (ClipConfig(frames=1, sampling="segments"), 7),
        (ClipConfig(frames=3, stride=2, sampling="segments", segments=2), 5),
        (ClipConfig(frames=2, sampling="segments", segments=6), 13),  # a video has four frames
    ],
    ids=lambda value: value.sampling if isinstance(value, ClipConfig) else str(value),
)
@pytest.mark.parametrize("consistent", [True, False])
def test_starts_are_the_first_frames_of_all_planned_views(manifest, clip, number, consistent):
    augment = AugmentConfig(size=16, consistent=consistent)
    stage = training(manifest, clip=clip, augment=augment, number=number)
    second = training(manifest, clip=clip, augment=augment, number=number, views=(1,))
    for place in range(VIDEOS):
        sample = stage.sample(place, "ffmpeg", [])
        frames = manifest[sample.index].frames
        assert sample.starts.dtype == np.int64
        for view, start in enumerate(sample.starts.tolist()):
            expected = [(start + t * clip.stride) % frames for t in range(clip.frames)]
            assert numbers_at(sample, view) == expected
        alone = second.sample(place, "ffmpeg", [])
        assert alone.starts.tolist() == sample.starts.tolist()
        assert numbers_at(alone, 0) == numbers_at(sample, 1)
    assert stage[1].starts.tolist() == second[1].starts.tolist()


def test_the_second_look_at_a_query_is_decoded_once_and_drawn_anew(manifest):
    stage = training(manifest, clip=ClipConfig(frames=1, sampling="segments"), number=7)
    ends = set()
    for place in range(3 * VIDEOS):
        sample = stage.sample(place, "ffmpeg", [])
        (track,) = sample.tracks
        end = 0 if sample.starts[6] == sample.starts[0] else 2
        assert track.rows[6].tolist() == track.rows[end].tolist()
        assert len(track.pictures) == len(set(sample.starts.tolist())) <= 6
        assert track.draws[6].roi != track.draws[end].roi
        ends.add(end)
    assert ends == {0, 2}


def test_a_segment_of_a_file_counts_its_own_frames(videos, tmp_path):
    rows = [replace(videos[-1], key="segment", first_frame=11, frames=15)]
    clip = ClipConfig(frames=4, stride=2, sampling="interval")
    stage = training(listed(tmp_path / "m.parquet", rows), clip=clip)
    for place in range(8):
        sample = stage.sample(place, "ffmpeg", [])
        shown = [numbers_at(sample, view)[0] for view in range(2)]
        assert shown == (sample.starts + 11).tolist() and sample.starts.max() <= 8


def test_each_view_draws_by_its_own_augmentation(manifest):
    """A view that another recipe changes draws its other numbers as before."""
    augment = AugmentConfig(size=16, blur=1.0, views={1: {"blur": 0.0, "solarize": 1.0}})
    ours = training(manifest, augment=augment)
    plain = training(manifest, augment=AugmentConfig(size=16, blur=1.0))
    for place in range(VIDEOS):
        first, second = ours.sample(place, "ffmpeg", []).tracks[0].draws
        same, other = plain.sample(place, "ffmpeg", []).tracks[0].draws
        assert first.blur_sigma > 0 and first.solarize_from == 256
        assert second.blur_sigma == 0 and second.solarize_from == 128
        assert same_draw(first, same) and (second.roi, second.flip) == (other.roi, other.flip)


def test_a_sample_does_not_depend_on_batch_process_or_history(manifest):
    alone = training(manifest)
    reference = [alone.sample(number, "ffmpeg", []) for number in range(12)]
    wide = training(manifest, global_batch=6, slots=tuple(range(6)), kinds=("ffmpeg",) * 6)
    late = training(manifest, first_sample=8)
    second = training(manifest, global_batch=4, slots=(2, 3))
    assert [wide[k].index.tolist() for k in (1, 0)] == [
        [s.index for s in reference[6:]],
        [s.index for s in reference[:6]],
    ]
    assert late[1].index.tolist() == [s.index for s in reference[10:12]]
    assert second[1].index.tolist() == [s.index for s in reference[6:8]]
    assert same_sample(pickle.loads(pickle.dumps(wide)).sample(9, "ffmpeg", []), reference[9])
    unpacked = second[1].unpacked()
    for track, sample in zip(unpacked, reference[6:8], strict=True):
        assert same_sample(replace(sample, tracks=[track]), sample)
    assert second[1].starts.tolist() == [s.starts.tolist() for s in reference[6:8]]


def test_one_view_alone_is_the_same_as_beside_the_other(manifest):
    both, second = training(manifest), training(manifest, views=(1,))
    for number in range(3):
        ours = second.sample(number, "ffmpeg", []).tracks[0]
        theirs = both.sample(number, "ffmpeg", []).tracks[0]
        assert same_draw(ours.draws[0], theirs.draws[1])
        assert seen_numbers(ours) == seen_numbers(theirs, view=1)


def test_views_epochs_and_seeds_draw_differently(manifest):
    stage = training(manifest)
    first = stage.sample(0, "ffmpeg", []).tracks[0]
    assert first.draws[0].roi != first.draws[1].roi
    here = {
        stage.sample(VIDEOS * epoch + p, "ffmpeg", []).tracks[0].draws[0].roi
        for epoch in range(3)
        for p in range(VIDEOS)
    }
    other = training(manifest, seed=6).sample(0, "ffmpeg", []).tracks[0].draws[0].roi
    assert len(here) == 3 * VIDEOS and other not in here


def test_every_epoch_has_every_video_once_in_its_own_order(manifest):
    stage = training(manifest)
    epochs = [[stage.video_at(epoch, p, 0) for p in range(VIDEOS)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(VIDEOS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_without_consistency_every_frame_draws_for_itself(manifest):
    stage = training(manifest, augment=AugmentConfig(size=16, consistent=False))
    sample = stage.sample(3, "ffmpeg", [])
    assert len(sample.tracks) == 4
    assert len({track.draws[0].roi for track in sample.tracks}) == 4
    consistent = training(manifest).sample(3, "ffmpeg", [])
    shown = [seen_numbers(track)[0] for track in sample.tracks]
    assert shown == seen_numbers(consistent.tracks[0])


def test_the_encoded_file_travels_where_the_graph_decodes(manifest):
    stage = training(manifest, kinds=("nvdec", "ffmpeg"))
    coded, decoded = stage[2].unpacked()
    index = stage[2].index[0]
    assert coded.pictures.tobytes() == manifest[int(index)].path.read_bytes()
    assert decoded.pictures.ndim == 4
    same = training(manifest)[2].unpacked()[0]
    assert np.array_equal(coded.rows, same.rows) and np.array_equal(coded.frames, same.frames)


# Damaged videos


def test_a_damaged_video_is_replaced_by_a_pure_function_of_the_place(videos, tmp_path):
    manifest = damaged(videos, tmp_path, {2, 4})
    stage, noted = training(manifest), []
    for number in range(3 * VIDEOS):
        bad: list[dict] = []
        sample = stage.sample(number, "ffmpeg", bad)
        epoch, position = divmod(number, VIDEOS)
        tried = [stage.video_at(epoch, position, attempt) for attempt in range(len(bad) + 1)]
        assert tried[-1] == sample.index and sample.index not in {2, 4}
        assert set(tried[:-1]) <= {2, 4}
        assert tried[0] == order(np.array(position), VIDEOS, seed=5, epoch=epoch)
        assert [(e["epoch"], e["position"], e["attempt"]) for e in bad] == [
            (epoch, position, attempt) for attempt in range(len(bad))
        ]
        again = training(manifest, views=(1,)).sample(number, "ffmpeg", [])
        assert again.index == sample.index
        noted += bad
    assert len(noted) >= 6  # both, in each of three epochs
    assert {entry["code"] for entry in noted} == {"E-CORRUPT"}
    assert {entry["path"] for entry in noted} == {str(tmp_path / "broken.mp4")}
    replaced = {
        stage.sample(number, "ffmpeg", []).index
        for number in range(12 * VIDEOS)
        if stage.video_at(*divmod(number, VIDEOS), 0) in {2, 4}
    }
    assert len(replaced) > 2  # not always the same stand-in


def test_the_replacement_draws_for_itself(videos, tmp_path):
    """With the same number of draws before it, an equal sigma would be the same random stream."""
    augment = AugmentConfig(size=16, scale=[1.0, 1.0], ratio=[0.01, 100.0], blur=1.0)
    whole = training(listed(tmp_path / "whole.parquet", videos), augment=augment)
    broken = training(damaged(videos, tmp_path, {2}), augment=augment)
    number = next(n for n in range(VIDEOS) if whole.video_at(0, n, 0) == 2)
    pairs = [stage.sample(number, "ffmpeg", []).tracks[0].draws for stage in (whole, broken)]
    for original, stand_in in zip(*pairs, strict=True):
        assert original.blur_sigma != stand_in.blur_sigma


def test_eight_damaged_videos_in_a_row_end_the_run_in_one_line(videos, tmp_path):
    manifest = damaged(videos, tmp_path, set(range(VIDEOS)))
    bad: list[dict] = []
    with pytest.raises(DataError) as caught:
        training(manifest).sample(VIDEOS + 3, "ffmpeg", bad)
    path = re.escape(str(tmp_path / "broken.mp4"))
    assert re.fullmatch(
        "error: sample 3 of epoch 1: 8 videos in a row cannot be decoded · "
        f"{path} · .+ · run python -m tools.index again",
        str(caught.value),
    )
    assert len(bad) == ATTEMPTS == 8


def test_a_video_past_its_deadline_is_replaced(manifest, monkeypatch):
    """Only the first attempt is late; the stand-in has its own full time."""
    slow = training(manifest).video_at(0, 0, 0)
    read = Reader.tracks

    def late_for_one(self, video, *arguments):
        seconds = -1.0 if video.key == manifest[slow].key else 30.0
        return read(replace(READER, timeout_seconds=seconds), video, *arguments)

    monkeypatch.setattr(Reader, "tracks", late_for_one)
    bad: list[dict] = []
    assert training(manifest).sample(0, "ffmpeg", bad).index != slow
    assert bad[0]["code"] == "E-TIMEOUT"
    assert bad[0]["sample"] == 0, "a resumed run replaces it unread, however fast it is by then"
    assert "raise data.decode_timeout_seconds" in bad[0]["detail"]


# Evaluation


def test_evaluation_reads_every_video_in_order_with_uniform_clips(manifest):
    stage = evaluation(manifest)
    groups = [stage[group] for group in range(len(stage))]
    assert [g.index.tolist() for g in groups] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [g.label.tolist() for g in groups] == [[0, 1, 0], [1, 0, 1], [0]]
    longest = groups[2].unpacked()[0]
    assert seen_numbers(longest) == [0, 2, 4, 6]
    assert seen_numbers(longest, view=1) == [24, 26, 28, 30]
    assert not any(draw.flip or draw.blur_sigma for draw in longest.draws)
    assert groups[2].starts.tolist() == [[0, 24]]


def test_evaluation_shows_the_crops_of_a_clip_one_after_the_other(manifest):
    stage = evaluation(manifest, augment=AugmentConfig(size=16, eval_crops=3))
    (track,) = stage.read(6).tracks
    rois = [draw.roi for draw in track.draws]
    assert rois[:3] == rois[3:] and len(set(rois)) == 3
    starts = [0, 0, 0, 24, 24, 24]
    assert [seen_numbers(track, view)[0] for view in range(6)] == starts
    assert stage[2].starts.tolist() == [starts]
    assert len(track.pictures) == 8  # two clips, however many crops


def test_evaluation_leaves_damaged_videos_out_and_lists_them(videos, tmp_path):
    stage = evaluation(damaged(videos, tmp_path, {1, 3, 4, 5}))
    groups = [stage[group] for group in range(3)]
    assert [g.index.tolist() for g in groups] == [[0, 2], [], [6]]
    assert [[entry["index"] for entry in g.bad] for g in groups] == [[1], [3, 4, 5], []]
    assert groups[1].unpacked() == [] and len(groups[1].pixels) == 0


def test_a_missing_file_is_a_bad_video_like_any_other(videos, tmp_path):
    gone = [replace(videos[0], path=tmp_path / "gone.mp4"), *videos[1:]]
    manifest = listed(tmp_path / "gone.parquet", gone)
    for kind in ("ffmpeg", "nvdec"):
        with pytest.raises(BadVideo) as caught:
            evaluation(manifest, kind=kind).read(0)
        assert caught.value.code == "E-MISSING"
