"""How many lanes, who decodes what, and that lanes of both kinds give what each gives alone."""

from __future__ import annotations

import math
import os
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import assembly
from pipeline import lanes as lanes_module
from pipeline.assembly import TrainingParts, build_lanes
from pipeline.augment import of_views
from pipeline.errors import BadVideo, DecoderFailed
from pipeline.lanes import (
    cpu_rate,
    dealt,
    described,
    divided,
    fewest_lanes,
    kinds_of,
    lane_rates,
    share_of_cpu,
    without_measuring,
)
from pipeline.loader import Place
from pipeline.refused import Refused
from pipeline.sample import Reader
from pipeline.stream import _joined
from tests.cuda import never_waiting
from tests.lane_runs import (
    AUGMENT,
    BATCH,
    CLIP,
    READER,
    STEPS,
    assert_same,
    break_pictures,
    config,
    make_data,
    training,
)

# From rates to a choice


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({1: 100}, 1),
        ({1: 100, 2: 190, 4: 350, 7: 500, 8: 510}, 7),  # 2 % less than the best
        ({1: 100, 2: 190, 4: 350, 7: 500, 8: 530}, 8),  # 6 % less
        ({1: 100, 2: 104, 4: 90}, 1),
        ({1: 100, 2: 106, 4: 90}, 2),
    ],
)
def test_the_fewest_lanes_near_the_best_rate_are_chosen(rates, chosen):
    assert fewest_lanes(rates) == chosen


@pytest.mark.parametrize(
    ("cpu", "gpu", "share"), [(100, 300, 0.25), (100, 100, 0.5), (1, 999, 0.0), (200, 100, 0.67)]
)
def test_both_kinds_are_done_at_the_same_time(cpu, gpu, share):
    assert share_of_cpu(cpu, gpu) == share


@given(st.integers(0, 100), st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 40))
def test_the_cpus_places_are_of_the_share_in_any_number_of_processes(hundredths, world, local):
    share = hundredths / 100
    whole = kinds_of(range(world * local), "both", share)
    assert whole.count("ffmpeg") == world * local * hundredths // 100
    ranks = [kinds_of(range(r * local, (r + 1) * local), "both", share) for r in range(world)]
    assert sum(ranks, ()) == whole
    assert max(r.count("ffmpeg") for r in ranks) - min(r.count("ffmpeg") for r in ranks) <= 1
    assert kinds_of(range(local), "nvdec", share) == ("nvdec",) * local


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
def test_samples_are_dealt_in_order_and_evenly(samples, lanes):
    parts = dealt(samples, lanes)
    assert [sample for part in parts for sample in part] == samples and len(parts) == lanes
    assert max(map(len, parts)) <= math.ceil(len(samples) / lanes)


@pytest.mark.parametrize(
    ("asked", "decoder", "device", "lanes", "words"),
    [
        (3, "ffmpeg", "cpu", 3, "3 lanes (asked for)"),
        ("2", "nvdec", "cuda:0", 2, "2 lanes (asked for)"),
        ("auto", "ffmpeg", "cpu", 1, "1 lane (a CPU has its parallelism in data.workers)"),
        ("auto", "ffmpeg", "cuda:0", 1, "1 lane (the workers decode)"),
        ("auto", "nvdec", "cuda:0", 7, "lanes to be measured"),
        ("auto", "both", "cuda:0", 7, "lanes to be measured"),
    ],
)
def test_the_number_of_lanes_has_a_reason(asked, decoder, device, lanes, words):
    assert without_measuring(asked, decoder, device)[0] == lanes
    assert described(asked, decoder, device) == words


# Measuring


class Engine:
    """The clock, and lanes of which `engines` at once take a second for a sample."""

    def __init__(self, engines: int):
        self.engines, self.now, self.built = engines, 0.0, []

    def __call__(self) -> float:
        return self.now

    def build(self, number: int) -> list:
        self.built.append(number)
        return [_Slow(self, number) for _ in range(number)]


class _Slow:
    def __init__(self, engine: Engine, number: int):
        self.engine, self.number, self.runs = engine, number, deque()

    def submit(self, tracks) -> None:
        self.runs.append(tracks)

    def collect(self):
        # Lanes work side by side; asked one after the other each adds its part of the time.
        self.engine.now += len(self.runs.popleft()) / min(self.number, self.engine.engines)
        return [torch.zeros(1)], []

    def rebuild(self) -> None:
        self.runs.clear()


def samples(count: int) -> list:
    return [SimpleNamespace(tracks=["track"], number=n) for n in range(count)]


@pytest.mark.parametrize(("engines", "chosen"), [(1, 1), (3, 4), (7, 7)])
def test_rates_are_those_of_the_engines(engines, chosen):
    engine = Engine(engines)
    rates = lane_rates(engine.build, samples(56), ahead=2, seconds=10**6, clock=engine)
    assert rates == pytest.approx({n: min(n, engines) for n in (1, 2, 4, 7, 8)})
    assert fewest_lanes(rates) == chosen


def test_measuring_ends_with_its_time_and_with_the_samples():
    engine = Engine(2)
    assert list(lane_rates(engine.build, samples(6), ahead=1, seconds=0, clock=engine)) == [1]
    assert list(lane_rates(engine.build, samples(3), ahead=1, seconds=99, clock=engine)) == [1, 2]


@pytest.fixture
def manifest(tmp_path):
    return make_data(tmp_path)


def parts(manifest, decoder: str, *, views: int = 2, world: int = 1) -> TrainingParts:
    """As on a GPU, with DALI's CPU backend in its place."""

    class OnCpu(TrainingParts):
        def lanes(self, data, stage):
            return build_lanes(
                manifest, data, "cpu", READER.views,
                augments=tuple(self.augments[view] for view in stage.views),
                kinds=stage.kinds, tracks_per_sample=1, training=True,
            )  # fmt: skip

        def stage(self, *rest):
            return replace(super().stage(*rest), reader=READER)

    return OnCpu(
        manifest=manifest, clip=CLIP, augment=AUGMENT, augments=of_views(AUGMENT, views),
        tracks_per_sample=1, place=Place(0, world, "cuda:0"), decoder=decoder, seed=3,
        first_sample=0, luma_views=None, refused=Refused(),
    )  # fmt: skip


WHOLE = (((0, 1), 0),)  # one stream has both views


def test_what_is_open_is_measured_on_the_data_said_and_agreed_upon(manifest, monkeypatch):
    """Of real lanes; a damaged video does not stop the measuring."""
    monkeypatch.setattr(assembly, "NUMBERS", (1, 2))
    first = training(manifest).streams[0].stage.video_at(0, 0, 0)
    break_pictures(manifest, first)
    said, choices = [], []
    settled = parts(manifest, "both").settled(
        config(lanes="auto"), WHOLE, say=said.append,
        agreed=lambda choice: choices.append(choice) or (2, 0.25),
    )  # fmt: skip
    assert (settled.lanes, settled.cpu_share) == (2, 0.25)
    ((own_lanes, own_share),) = choices
    assert own_lanes in (1, 2) and 0 < own_share < 1
    assert said[0].startswith("lanes: 2 of these, by samples/s: 1: ") and ", 2: " in said[0]
    assert said[1] == "data.cpu_share: 0.25 of every batch is decoded on the CPU"


def test_what_the_recipe_says_is_not_measured(manifest, monkeypatch):
    monkeypatch.setattr(TrainingParts, "_rates", lambda *_: pytest.fail("measured"))
    quiet = {"say": pytest.fail, "agreed": pytest.fail}
    data = config(lanes=3, cpu_share=0.4)
    assert parts(manifest, "both").settled(data, WHOLE, **quiet) == data
    assert parts(manifest, "nvdec").settled(config(lanes=3), WHOLE, **quiet).lanes == 3
    assert parts(manifest, "ffmpeg").settled(config(lanes="auto"), WHOLE, **quiet).lanes == 1


def test_a_data_set_of_which_nothing_decodes_is_one_line(manifest):
    break_pictures(manifest, *range(9))
    with pytest.raises(DecoderFailed, match=r"^error: the decoder of the graph failed · "):
        parts(manifest, "nvdec").settled(config(lanes="auto"), WHOLE, say=print, agreed=print)


def test_streams_side_by_side_are_measured_side_by_side(manifest, monkeypatch):
    """Queries and exchanged keys: of each number of lanes each has half, over its own samples."""
    monkeypatch.setattr(assembly, "NUMBERS", (1, 2, 4))
    ours = parts(manifest, "nvdec", views=3, world=2)
    built, build = [], type(ours).lanes
    monkeypatch.setattr(
        type(ours), "lanes",
        lambda self, data, stage: built.append((stage.views, data.lanes)) or build(
            self, data, stage),
    )  # fmt: skip
    streams, said = (((0, 1), 0), ((2,), 1)), []
    settled = ours.settled(config(lanes="auto"), streams, say=said.append, agreed=lambda x: x)
    assert built == [((0, 1), 1), ((2,), 1)] * 2 + [((0, 1), 2), ((2,), 2)]
    assert settled.lanes in (2, 4) and " 2: " in said[0] and ", 4: " in said[0]


@pytest.mark.parametrize(
    ("workers", "lanes", "each"), [(5, 7, (2, 3)), (1, 1, (1, 1)), (0, 2, (0, 1))]
)
def test_streams_share_workers_and_lanes(workers, lanes, each):
    data = divided(config(workers=workers, lanes=lanes), 2)
    assert (data.workers, data.lanes) == each
    assert divided(data, 1) == data


@pytest.mark.parametrize(("workers", "seats"), [(0, 1), (3, 3)])
def test_the_cpus_rate_is_that_at_which_batches_come(manifest, monkeypatch, workers, seats):
    """Once every worker has begun: a start takes seconds. Two stages, one twice as slow."""
    engine = Engine(1)

    def batches(stage, steps, **options):
        assert stage.kinds == ("ffmpeg", "ffmpeg") and options["workers"] == workers
        assert len(steps) == 5 * seats
        for step in steps:
            engine.now += 100 if step < seats else 0.5 * (1 + stage.views[0])
            yield

    monkeypatch.setattr(lanes_module, "host_batches", batches)
    stage = training(manifest).streams[0].stage
    rate = cpu_rate([stage, replace(stage, views=(1,))], config(workers=workers), clock=engine)
    assert rate == pytest.approx((2 + 2) / (0.5 + 1.0))


def test_what_is_refused_while_it_is_measured_is_tried_in_the_training(manifest, monkeypatch):
    def batches(stage, steps, **_):
        for step in steps:
            stage.refuse(step, 3, BadVideo("E-TIMEOUT", "it hangs", "path", "cure"))
            yield step

    monkeypatch.setattr(lanes_module, "host_batches", batches)
    stage = training(manifest).streams[0].stage
    assert cpu_rate([stage], config(workers=1)) > 0
    assert stage.refused.line(3, 0) is None


def test_what_the_cpu_decodes_to_be_measured_it_decodes_in_its_workers(manifest, tmp_path):
    """Which are watched: a decoder that crashes or hangs does not take the trainer with it."""
    stage = training(manifest).streams[0].stage
    (folder := tmp_path / "processes").mkdir()
    stage = replace(stage, reader=Telling(30.0, READER.views, folder))
    assert cpu_rate([stage], config(workers=2)) > 0
    processes = [int(path.name) for path in folder.iterdir()]
    assert len(processes) == 2 and os.getpid() not in processes


@dataclass(frozen=True)
class Telling(Reader):
    """Notes by which process it reads."""

    folder: Path

    def tracks(self, *rest):
        (self.folder / str(os.getpid())).touch()
        return super().tracks(*rest)


# Lanes of both kinds


@pytest.mark.needs_cuda
def test_lanes_of_both_kinds_are_joined_without_waiting_for_the_gpu():
    first, second = (torch.arange(4.0, device="cuda").view(4, 1) + 4 * n for n in (0, 1))
    order = [0, 2, 1, 3]  # of four samples of two tracks each
    _joined(([first], [second]), order)  # the first pinned memory is allocated
    with never_waiting():
        (whole,) = _joined(([first], [second]), order)
    assert whole.flatten().tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


@pytest.mark.parametrize(
    "changed", [{}, {"lanes": 2, "prefetch_batches": 2}, {"workers": 1}], ids=str
)
def test_both_kinds_together_show_what_each_shows_alone(manifest, changed):
    share, data = 0.5, config(**changed)
    ours = training(manifest, data=data, decoder="both", cpu_share=share).batches(0, 4)
    alone = {
        kind: list(training(manifest, decoder=kind).batches(0, 4)) for kind in ("ffmpeg", "nvdec")
    }
    kinds = kinds_of(range(BATCH), "both", share)
    assert kinds == ("nvdec", "ffmpeg", "nvdec", "ffmpeg")
    for step, batch in enumerate(ours):
        for place, kind in enumerate(kinds):
            other = alone[kind][step]
            assert batch.index[place] == other.index[place]
            for view, whole in zip(batch.views, other.views, strict=True):
                assert torch.equal(view[place], whole[place])
    different = [not torch.equal(*pair) for pair in zip(
        alone["ffmpeg"][0].views, alone["nvdec"][0].views, strict=True)]  # fmt: skip
    assert any(different)  # else the places above would prove nothing


def test_a_failure_among_lanes_of_both_kinds_keeps_every_sample_in_its_place(manifest):
    break_pictures(manifest, 2, 5)
    options = {"decoder": "both", "cpu_share": 0.5}
    noted: list[dict] = []
    data = config(lanes=2, prefetch_batches=2)
    ours = list(training(manifest, data=data, noted=noted.extend, **options).batches(0, STEPS))
    refused = Refused()
    for entry in noted:
        if "sample" in entry:  # the host has found what it decodes itself
            refused.add(int(entry["key"][1:]), entry["sample"], entry)
    assert_same(ours, training(manifest, refused=refused, **options).batches(0, STEPS))
    assert {entry["key"] for entry in noted} <= {"v2", "v5"} and noted
