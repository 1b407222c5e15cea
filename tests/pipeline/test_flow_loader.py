"""Flow through the whole data path: encoded videos, the graph, the operator, the batch."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.augment import AugmentConfig
from pipeline.clip import ClipConfig
from pipeline.flow.config import FlowConfig, Tvl1Config
from pipeline.flow.encoding import image_of, normalised, official_image
from pipeline.flow.operator import build_operator
from pipeline.loader import DataConfig, Loader, Place, build_evaluation_loader, build_loader
from pipeline.manifest import Manifest
from pipeline.stream import Rendered
from tests.conftest import make_moving_data
from tests.flow_oracles import endpoint_error

MOTIONS = [(2.0, 1.0), (-3.0, 0.5), (1.0, -2.0), (-1.0, -1.5), (0.0, 2.0)]
CLIP = ClipConfig(frames=3)
AUGMENT = AugmentConfig(size=48, scale=[0.4, 1.0], blur_sigma=[0.1, 1.0], solarize=0.3)
MIRROR = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
# Little work for the operator of a GPU.
FLOW = FlowConfig(tvl1=Tvl1Config(iterations=10))
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.needs_cuda)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    """Five textured videos of 128 x 96 pixels and 12 frames, each moving in its own way."""
    folder = tmp_path_factory.mktemp("moving")
    return Manifest.read(make_moving_data(folder, MOTIONS, size=(128, 96)))


def training(manifest: Manifest, *, flow_views=(0, 1), device="cpu", **options) -> Loader:
    data = {"batch_size": 4, "workers": 0, **options.pop("data", {})}
    named = {"clip": CLIP, "augment": AUGMENT, "seed": 3, "place": Place(device=device)}
    named |= {"flow": FLOW if flow_views else None, "flow_views": flow_views, **options}
    return build_loader(manifest, data=DataConfig(**data), **named)


def evaluation(manifest: Manifest, *, clips: int = 2, **options):
    data = DataConfig(batch_size=2, workers=0)
    named = {"clip": CLIP, "augment": AUGMENT, "flow": FLOW, **options}
    return build_evaluation_loader(manifest, data=data, clips=clips, **named)


def rendering(manifest: Manifest, steps: int, **options) -> Iterator[Rendered]:
    """What the lanes of such a loader give to its flow operator."""
    (stream,) = training(manifest, **options).streams
    return stream.run(range(steps))


def flows(loader, first: int = 0, last: int = 3) -> list[torch.Tensor]:
    """Flow of each flow view, of some batches in a row."""
    return joined([batch.flow for batch in loader.batches(first, last)])


def joined(batches) -> list[torch.Tensor]:
    return [torch.cat(view).cpu() for view in zip(*batches, strict=True)]


@pytest.fixture(scope="module")
def reference(manifest) -> list[torch.Tensor]:
    return flows(training(manifest))


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# What the flow is


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("decoder", ["auto", "ffmpeg"])
def test_motion_is_that_of_the_video_scaled_and_mirrored_as_the_clip(manifest, device, decoder):
    options = {"device": device, "data": {"decoder": decoder}}
    seen = set()
    for batch, rendered in zip(
        training(manifest, **options).batches(0, 3), rendering(manifest, 3, **options), strict=True
    ):
        for view, flow in enumerate(batch.flow):
            assert flow.shape == (4, 2, 3, 48, 48) == (4, 2, *batch.views[view].shape[2:])
            for clip, index, track in zip(flow, batch.index, rendered.host.tracks, strict=True):
                draw, (u, v) = track.draws[view], MOTIONS[index]
                top, left, bottom, right = draw.roi
                u *= (-1 if draw.flip else 1) * 48 / ((right - left) * 128)
                v *= 48 / ((bottom - top) * 96)
                expected = np.broadcast_to(np.reshape([u, v], (2, 1, 1, 1)), clip.shape)
                assert endpoint_error(clip.cpu(), expected, margin=12) < 0.2
                seen.add(draw.flip)
    assert seen == {True, False}


@pytest.mark.parametrize("device", DEVICES)
def test_flow_of_a_flipped_clip_is_the_mirrored_flow_with_u_negated(manifest, device):
    """A probability of 0 and of 1 leave all other draws as they are."""
    both = [{"augment": replace(AUGMENT, flip=flip), "device": device} for flip in (0, 1)]
    one, other = (rendering(manifest, 2, **options) for options in both)
    for ours, theirs in zip(one, other, strict=True):
        for a, b in zip(ours.lumas, theirs.lumas, strict=True):
            assert a.frames.dtype == torch.uint8 and a.frames.shape == (4, 4, 48, 48)
            assert torch.equal(a.frames, b.frames.flip(-1))
    for a, b in zip(*(flows(training(manifest, **options)) for options in both), strict=True):
        # No operator is quite symmetric; what it sees is, see above.
        assert endpoint_error(a, b.flip(-1) * MIRROR, margin=8) < 0.15
        assert endpoint_error(a, b.flip(-1), margin=8) > 1


def test_official_flow_of_a_flipped_clip_is_the_mirrored_picture(manifest):
    """So with this option a flipped clip moves the wrong way."""
    config = replace(FLOW, encoding="image", official=True)
    plain = replace(AUGMENT, jitter=0, grayscale=0)
    straight, flipped = (
        flows(training(manifest, augment=replace(plain, flip=flip), flow=config)) for flip in (0, 1)
    )
    for a, b in zip(straight, flipped, strict=True):
        inner = (a - b.flip(-1))[..., 8:-8, 8:-8]
        # 0.15 pixels are a byte of 255 / 40 a pixel; its deviation is taken to be 0.225.
        assert inner.abs().mean() < 0.15 * 255 / 40 / 255 / 0.225


def test_official_flow_has_the_draw_of_its_own_view(manifest):
    config = replace(FLOW, encoding="image", official=True)
    made = zip(
        training(manifest, flow=config).batches(0, 2),
        training(manifest).batches(0, 2),
        rendering(manifest, 2),
        strict=True,
    )
    for batch, raw, rendered in made:
        for view, (image, flow) in enumerate(zip(batch.flow, raw.flow, strict=True)):
            draws = [track.draws[view] for track in rendered.host.tracks]
            expected = normalised(official_image(flow, draws), AUGMENT.mean, AUGMENT.std)
            assert torch.equal(image, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_flow_is_the_operators_of_the_luma(manifest, device):
    loader = training(manifest, device=device)
    compute = build_operator(loader.flow.operator, FLOW, device=device)
    lumas = rendering(manifest, 2, device=device)
    for batch, rendered in zip(loader.batches(0, 2), lumas, strict=True):
        for flow, luma in zip(batch.flow, rendered.lumas, strict=True):
            torch.testing.assert_close(flow, compute(luma.frames))


def test_luma_is_the_grey_of_the_view_before_its_colours(manifest):
    plain = replace(AUGMENT, jitter=0, grayscale=0, blur=0, solarize=0)
    mean, std = (255 * torch.tensor(v).view(3, 1, 1, 1) for v in (plain.mean, plain.std))
    both = (rendering(manifest, 2, augment=augment) for augment in (plain, AUGMENT))
    for rendered, coloured in zip(*both, strict=True):
        for view, luma, same in zip(rendered.views, rendered.lumas, coloured.lumas, strict=True):
            levels = view * std + mean
            grey = 0.299 * levels[:, 0] + 0.587 * levels[:, 1] + 0.114 * levels[:, 2]
            assert (luma.frames[:, :-1] - grey).abs().max() <= 0.51
            assert torch.equal(luma.frames, same.frames)


@pytest.mark.parametrize("flow_views", [(0, 1), (1,)])
def test_views_are_those_without_flow_where_the_clips_are_the_same(manifest, flow_views):
    """Planned as four frames, shown as three: also those whose flow nobody wants."""
    longer = training(manifest, flow_views=(), clip=replace(CLIP, frames=4)).batches(0, 3)
    with_flow = training(manifest, flow_views=flow_views).batches(0, 3)
    for ours, theirs in zip(with_flow, longer, strict=True):
        assert theirs.flow is None and torch.equal(ours.start_frames, theirs.start_frames)
        assert equal(list(ours.views), [view[:, :, :3] for view in theirs.views])


def test_a_clip_of_one_frame_has_the_flow_to_the_next(manifest):
    loader = training(manifest, clip=ClipConfig(frames=1, stride=2))
    batch = next(loader.batches(0, 1))
    assert [view.shape for view in batch.views] == [(4, 3, 1, 48, 48)] * 2
    assert [flow.shape for flow in batch.flow] == [(4, 2, 1, 48, 48)] * 2


def test_motion_is_over_the_stride(manifest):
    whole = {"augment": replace(AUGMENT, scale=[1, 1], ratio=[4 / 3, 4 / 3], flip=0)}
    one, two = (flows(training(manifest, clip=replace(CLIP, stride=s), **whole)) for s in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert endpoint_error(2 * a, b, margin=12) < 0.3


def test_a_short_video_is_looped_with_one_seam(tmp_path):
    manifest = Manifest.read(make_moving_data(tmp_path, [(2, 0)], size=(96, 96), frames=4))
    whole = replace(AUGMENT, scale=[1, 1], ratio=[1, 1], flip=0)
    clip = ClipConfig(frames=5)
    loader = training(manifest, augment=whole, clip=clip, data={"batch_size": 1})
    flow = next(loader.batches(0, 1)).flow[0][0, 0, :, 12:-12, 12:-12].mean((1, 2))
    assert (flow[[0, 1, 2, 4]] - 1).abs().max() < 0.1
    assert flow[3] < 0  # from frame 3 to frame 0


# Nothing but the sample's number counts


@pytest.mark.parametrize(
    "data",
    [
        {"workers": 2},
        {"lanes": 2},
        {"lanes": 3, "threads": 2, "prefetch_batches": 3},
        {"batch_size": 2},
    ],
)
def test_flow_does_not_depend_on_how_it_was_made(manifest, reference, data):
    steps = 6 if data.get("batch_size") else 3
    assert equal(flows(training(manifest, data=data), 0, steps), reference)


def test_a_resumed_run_goes_on_with_the_same_flow(manifest, reference):
    loader = training(manifest)
    assert equal(flows(loader, 2, 3), [flow[8:] for flow in reference])
    assert equal(flows(loader, 0, 2), [flow[:8] for flow in reference])


def test_stopping_early_disturbs_neither_the_next_run_nor_the_process(manifest, reference):
    loader = training(manifest, data={"threads": 2})
    batches = loader.batches(0, 9)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flow")]
    assert equal(flows(loader), reference)
    own = [thread for thread in threading.enumerate() if thread.name.startswith("dis")]
    del loader, batches
    gc.collect()  # DALI's graphs are in cycles
    for thread in own:
        thread.join(20)
    assert len(own) >= 2 and not any(thread.is_alive() for thread in own)


@pytest.mark.parametrize("flow_views", [(1,), (1, 0)])
def test_flow_comes_in_the_order_it_was_asked_for(manifest, reference, flow_views):
    found = flows(training(manifest, flow_views=flow_views))
    assert equal(found, [reference[view] for view in flow_views])


@pytest.mark.parametrize("flow_views", [(0, 1), (1,), (0,)])
@pytest.mark.parametrize("exchanged", [0, 1])
def test_flow_of_an_exchanged_view_is_that_of_the_other_processes_clips(
    manifest, reference, flow_views, exchanged
):
    for rank in (0, 1):
        place = Place(rank, 2)
        loader = training(manifest, place=place, exchanged=(exchanged,), flow_views=flow_views)
        batch = next(loader.batches(0, 1))
        own, others = (slice(2 * r, 2 * r + 2) for r in (rank, 1 - rank))
        theirs = {view: reference[view][others if view == exchanged else own] for view in (0, 1)}
        assert equal(list(batch.flow), [theirs[view] for view in flow_views])
        assert [view.shape[2] for view in batch.views] == [3, 3]


def test_damaged_videos_are_replaced_and_told_once(tmp_path):
    path = make_moving_data(tmp_path, MOTIONS, size=(64, 64), frames=6)
    (tmp_path / "m0.mp4").write_bytes(b"no video at all\n" * 20)
    told: list[list[dict]] = []
    loader = training(Manifest.read(path), noted=told.append)
    for batch in loader.batches(0, 2):
        assert 0 not in batch.index.tolist() and batch.flow[0].isfinite().all()
    assert {entry["key"] for entries in told for entry in entries} == {"m0"}


# Evaluation


def test_evaluation_has_the_flow_of_every_view(manifest):
    augment = replace(AUGMENT, eval_crops=3)
    batches = list(evaluation(manifest, augment=augment))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    for batch in batches:
        assert [flow.shape for flow in batch.flow] == [(len(batch), 2, 3, 48, 48)] * 6
        for index, *views in zip(batch.index, *batch.flow, strict=True):
            # The short side of 96 pixels becomes 48.
            expected = np.reshape(MOTIONS[index], (2, 1, 1, 1)) / 2
            for flow in views:
                error = endpoint_error(flow, np.broadcast_to(expected, flow.shape), margin=12)
                assert error < 0.2


def test_evaluation_without_flow_has_none(manifest):
    (first, *_) = evaluation(manifest, flow=None)
    assert first.flow is None and first.views[0].shape == (2, 3, 3, 48, 48)


def test_official_evaluation_draws_nothing(manifest):
    official = replace(FLOW, encoding="image", official=True)
    plain = replace(AUGMENT, mean=[0.0] * 3, std=[1 / 255] * 3)
    pairs = [evaluation(manifest, augment=plain, flow=flow) for flow in (official, FLOW)]
    for image, raw in zip(*pairs, strict=True):
        for ours, flow in zip(image.flow, raw.flow, strict=True):
            assert torch.equal(ours, image_of(flow).flip(1).float())


def test_a_batch_of_failed_videos_has_no_flow(tmp_path):
    path = make_moving_data(tmp_path, MOTIONS[:3], size=(64, 64), frames=6)
    for number in (0, 1):
        (tmp_path / f"m{number}.mp4").write_bytes(b"no video at all\n" * 20)
    loader = evaluation(Manifest.read(path))
    assert [batch.index.tolist() for batch in loader] == [[2]]
    assert len(loader.failed) == 2


# What is said and refused


def test_the_operator_is_told_once(manifest):
    lines: list[str] = []
    list(training(manifest, say=lines.append).batches(0, 2))
    list(evaluation(manifest, say=lines.append))
    why = "no GPU here, and TV-L1 would take a CPU hundreds of times longer"
    assert lines == [f"flow: dis ({why}), encoding raw"] * 2


def test_nothing_is_told_of_flow_that_nobody_wants(manifest):
    lines: list[str] = []
    loader = training(manifest, flow_views=(), flow=FlowConfig(operator="nvof"), say=lines.append)
    assert next(loader.batches(0, 1)).flow is None and not lines


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"flow": None, "flow_views": (0, 1)},
            "flow: asked for of views 0, 1, and no settings for it are given",
        ),
        (
            {"augment": replace(AUGMENT, size=31)},
            "flow.operator: dis needs pictures of 32×32 pixels, got 31×31; use tvl1, or enlarge "
            "augment.size",
        ),
        (
            {"flow": FlowConfig(operator="nvof")},
            "flow.operator: nvof needs a GPU, none is here; use tvl1 or auto",
        ),
        (
            {"augment": replace(AUGMENT, consistent=False)},
            "augment.consistent: false crops every frame of a clip for itself, so what moves "
            "between them is the crop; set it to true where flow is used",
        ),
    ],
)
def test_flow_that_cannot_be_is_refused_before_anything_is_read(manifest, options, message):
    with pytest.raises(ValueError) as refused:
        training(manifest, **options)
    assert str(refused.value) == message


def test_what_the_operator_says_reaches_the_caller_as_it_is(manifest, monkeypatch):
    loader = training(manifest)
    line = "flow.operator: nvof fails for clips of [8, 4, 48, 48] · no engine · use tvl1"

    def fails(clip: torch.Tensor) -> torch.Tensor:
        raise ValueError(line)

    monkeypatch.setattr(loader.flow, "_compute", fails)
    with pytest.raises(ValueError) as failed:
        next(loader.batches(0, 3))
    assert str(failed.value) == line
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flow")]
