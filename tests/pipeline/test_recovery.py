"""A lane whose decoder fails loses the video at fault and nothing else.

The GPU's kind of decoding runs on DALI's CPU backend here, which knows VP9 and MJPEG.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections import deque
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Manifest, graph
from pipeline.errors import DataError, DecoderFailed
from pipeline.graph import Lane
from pipeline.lane_runs import LaneRuns
from pipeline.loader import EvaluationLoader, Place
from pipeline.quarantine import Quarantine
from pipeline.refused import Refused
from pipeline.sample import EvaluationStage
from pipeline.stream import Stream
from tests.lane_runs import (
    AUGMENT,
    BATCH,
    CLIP,
    READER,
    STEPS,
    VIDEOS,
    assert_same,
    break_pictures,
    config,
    contents,
    lanes_of,
    make_data,
    training,
)


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    return make_data(tmp_path)


def cut_short(manifest: Manifest, *rows: int) -> None:
    """The host sees it, and no lane ever gets it."""
    for path in (manifest[row].path for row in rows):
        path.write_bytes(path.read_bytes()[:-1])


def evaluation(manifest, **data) -> EvaluationLoader:
    data = config(**data)
    stage = EvaluationStage(manifest, CLIP, AUGMENT, READER, 2, BATCH, "nvdec")
    return EvaluationLoader(Stream(stage, lanes_of(data, 2, training=False), data), Place())


def places(entries: list[dict]) -> set[tuple]:
    return {(e["key"], e["epoch"], e["position"], e["attempt"]) for e in entries}


@pytest.fixture
def expected(manifest) -> tuple[list, list[dict]]:
    """Batches and their bad videos where the host finds 2 and 5 damaged, and files as they were."""
    whole = {row: manifest[row].path.read_bytes() for row in (2, 5)}
    cut_short(manifest, 2, 5)
    noted: list[dict] = []
    batches = list(training(manifest, noted=noted.extend).batches(0, STEPS))
    for row, content in whole.items():
        manifest[row].path.write_bytes(content)
    return batches, noted


@pytest.mark.parametrize(
    "changed",
    [{}, {"lanes": 2, "prefetch_batches": 3}, {"lanes": 5}, {"workers": 2, "prefetch_batches": 2}],
    ids=str,
)
def test_a_video_at_which_a_lane_fails_is_replaced_as_a_damaged_one(manifest, expected, changed):
    break_pictures(manifest, 2, 5)
    noted: list[dict] = []
    loader = training(manifest, data=config(**changed), noted=noted.extend)
    assert_same(loader.batches(0, STEPS), expected[0])
    assert places(noted) == places(expected[1])
    assert {(e["key"], e["code"]) for e in noted} == {("v2", "E-CORRUPT"), ("v5", "E-CORRUPT")}
    assert all(e["detail"].startswith("the decoder of the graph failed: ") for e in noted)


def test_the_list_is_exact_and_a_resumed_run_gets_the_same(manifest, expected, tmp_path):
    """From any step on."""
    break_pictures(manifest, 2, 5)
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, videos=VIDEOS, max_bad_fraction=1.0, say=lambda line: None)
    list(training(manifest, noted=quarantine.note).batches(0, STEPS))
    assert sorted(quarantine.known) == ["v2", "v5"]
    again = Quarantine(path, videos=VIDEOS, max_bad_fraction=1.0)
    for first in (0, 1, 4):
        loader = training(manifest, refused=again.refused(manifest))
        assert_same(loader.batches(first, STEPS), expected[0][first:])


@pytest.mark.parametrize("changed", [{}, {"lanes": 3, "prefetch_batches": 2}], ids=str)
def test_evaluation_leaves_the_video_out_and_lists_it(manifest, changed):
    whole = list(evaluation(manifest))
    break_pictures(manifest, 1, 8)
    loader = evaluation(manifest, **changed)
    for _ in range(2):  # the second time it is known
        batches = list(loader)
        shown = [b.index.tolist() for b in batches]
        assert shown == [[0, 2, 3], [4, 5, 6, 7]]  # nothing is left of the third
        for ours, theirs in zip(batches, whole, strict=False):
            kept = torch.isin(theirs.index, ours.index)
            assert torch.equal(ours.views[1], theirs.views[1][kept])
        assert [(e["index"], e["code"]) for e in loader.failed] == [
            (1, "E-CORRUPT"), (8, "E-CORRUPT"),
        ]  # fmt: skip


def test_a_run_left_with_a_failure_under_way_leaves_nothing_behind(manifest, expected):
    break_pictures(manifest, 2, 5)
    loader = training(manifest, data=config(prefetch_batches=3, lanes=2))
    for _ in loader.batches(0, STEPS):
        break
    assert_same(loader.batches(0, STEPS), expected[0])


# Lanes that fail as told


class Failing:
    """A lane whose first `times` runs over more than `company` tracks fail.

    Views are the first byte of each track's file.
    """

    def __init__(self, times: int, company: int = 1):
        self.times, self.company, self.spec = times, company, type("", (), {"lumas": ()})
        self.runs: deque = deque()
        self.rebuilt = 0

    def rebuild(self) -> None:
        self.runs.clear()
        self.rebuilt += 1

    def submit(self, tracks) -> None:
        self.runs.append(tracks)

    def collect(self):
        tracks = self.runs.popleft()
        if self.times and len(tracks) > self.company:
            self.times -= 1
            raise DecoderFailed("out of sessions")
        value = torch.tensor([float(np.sum(track.pictures)) for track in tracks])
        return [value.view(-1, 1, 1, 1, 1)] * 2, []


def test_what_fails_in_company_only_is_tried_once_more(manifest):
    quiet = training(manifest, lanes={"nvdec": [Failing(0)]})
    lane, noted = Failing(1), []
    loader = training(manifest, lanes={"nvdec": [lane]}, noted=noted.extend)
    assert_same(loader.batches(0, 3), quiet.batches(0, 3))
    assert not noted and lane.rebuilt == 1
    with pytest.raises(DataError) as caught:
        list(training(manifest, lanes={"nvdec": [Failing(10**6)]}).batches(0, 3))
    assert str(caught.value) == (
        "error: the decoder of the graph failed · out of sessions · run python -m tools.index "
        "again, or use data.decoder=ffmpeg"
    )


class FailingAt(Failing):
    """Fails at one file, whatever its company."""

    def __init__(self, content: bytes):
        super().__init__(0)
        self.content = content

    def collect(self):
        if any(track.pictures.tobytes() == self.content for track in self.runs[0]):
            raise DecoderFailed("cannot read it")
        return super().collect()


@pytest.mark.parametrize("changed", [{"prefetch_batches": 2}, {"workers": 1}], ids=str)
def test_a_video_is_refused_in_its_sample_alone(manifest, changed):
    """Not in a later one under way, in a lane that can read it: nor would who resumes the run."""
    stage = training(manifest, seed=1).streams[0].stage
    first, second = 7, 9  # the end of one batch, and the beginning of the next
    row = stage.video_at(0, first, 0)
    assert stage.video_at(1, second - VIDEOS, 0) == row
    refused = Refused()
    refused.add(row, first, {"key": "known"})
    lanes = {"nvdec": [Failing(0), FailingAt(contents()[row])]}
    loader = training(manifest, seed=1, data=config(lanes=2, **changed), lanes=lanes)
    quiet = {"nvdec": [Failing(0)]}
    wanted = list(training(manifest, seed=1, refused=refused, lanes=quiet).batches(0, STEPS))
    assert_same(loader.batches(0, STEPS), wanted)
    unharmed = training(manifest, seed=1, lanes=quiet).batches(0, STEPS)
    assert torch.cat([b.index for b in unharmed]).tolist()[second] == row
    rows = torch.cat([b.index for b in wanted]).tolist()
    assert rows[first] != row and rows[second] == row


def test_a_decoder_that_fails_at_everything_ends_the_run_in_one_line(manifest):
    with pytest.raises(DataError, match=r"^error: sample \d of epoch 0: 8 videos in a row cannot"):
        list(training(manifest, lanes={"nvdec": [Failing(10**6, company=0)]}).batches(0, 1))


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=70), st.booleans())
def test_whoever_fails_alone_is_found_by_halves(bad, failed):
    lane = Counting(bad)
    samples = [Numbered(n) for n in range(len(bad))]
    failed = failed and any(bad)
    found = LaneRuns(lane).culprits(samples, failed=failed)
    assert [sample.number for sample, _ in found] == [n for n, is_bad in enumerate(bad) if is_bad]
    assert {reason for _, reason in found} <= {"cannot read it"}
    if failed and sum(bad) == 1:
        depth = max(1, math.ceil(math.log2(len(bad))))
        assert lane.count <= (depth + 1 if bad[-1] else 2 * depth)


class Numbered(NamedTuple):
    """A sample and its only track in one."""

    number: int

    @property
    def tracks(self) -> list[Numbered]:
        return [self]


class Counting(Failing):
    """Fails at some numbers, and counts its runs."""

    def __init__(self, bad: list[bool]):
        super().__init__(0)
        self.bad, self.count = bad, 0

    def collect(self):
        self.count += 1
        if any(self.bad[track.number] for track in self.runs.popleft()):
            raise DecoderFailed("cannot read it")
        return [], []


def test_a_graph_that_failed_is_gone_before_the_next_is_made(manifest, monkeypatch):
    """Else its decoders and its memory are there twice while a lane is built again."""
    break_pictures(manifest, 2)
    sample = training(manifest).streams[0].stage.read(2, 0, 0, "nvdec")
    (lane,) = lanes_of(config(), 2, training=True)["nvdec"]
    made, alive = weakref.ref(lane.pipe), []
    build = graph._build
    monkeypatch.setattr(graph, "_build", lambda spec: alive.append(made()) or build(spec))
    runs = LaneRuns(lane)
    gc.disable()  # as in a training
    try:
        runs.submit([sample])
        with pytest.raises(DecoderFailed, match=r"^error: the decoder of the graph failed · \w"):
            runs.collect()
    finally:
        gc.enable()
    assert alive == [None]


def test_a_run_that_cannot_even_be_started_is_a_failure_of_the_lane(manifest):
    """What DALI says of an earlier run may come when a later one is scheduled."""
    lane = Lane(lanes_of(config(), 1, training=False)["nvdec"][0].spec)
    stage = EvaluationStage(manifest, CLIP, AUGMENT, READER, 1, BATCH, "nvdec")
    tracks = stage.read(0).tracks
    lane.pipe = Refusing()
    lane.submit(tracks)
    lane.submit(tracks)
    with pytest.raises(DecoderFailed, match="no more runs"):
        lane.collect()
    lane.rebuild()
    lane.submit(tracks)
    assert len(lane.collect()[0][0]) == 1


class Refusing:
    def feed_input(self, name, data) -> None:
        raise RuntimeError("Error encountered: no more runs C++ context: none")
