"""ViCC against the equations as loops, and what of it stands still."""

import copy

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from models import build_backbone
from models.methods.vicc import Config, Phase
from models.prototypes import assign
from models.weights import head_state
from tests import oracles, state_dicts
from tests.models.small_encoder import FrameMeans, features
from tests.models.steps import (
    BATCH,
    arguments_for,
    backward,
    batch_of,
    place,
    small_method,
)
from training.distributed import Process
from training.optim import OptimConfig, build_optimizer
from training.step import Step

ALONE = Process(0, 1, torch.device("cpu"))
STREAMS = ("rgb", "flow")
QUEUE = 12
NOW = {"freeze_epochs": 0.0, "queue_epoch": 0.0}  # what changes in a stage, from its start
CROSS = {"cross": True}


def small(**options):
    """In float64 on FrameMeans, weights at random; the other stream counts as trained."""
    options = {"dim": 4, "queue_size": QUEUE, **NOW, **options}
    method = small_method("vicc", FrameMeans(), **options).double()
    with torch.no_grad():
        for stream in method.streams.values():
            for weight in [*stream.backbone.parameters(), *stream.head.parameters()]:
                weight.normal_()
            stream.backbone.linear.weight *= 10  # means over 16 x 16 pixels are small
        method.other.steps += 1
    return method


def arguments(method, *, seed: int = 0, part: slice = slice(None)) -> tuple:
    batch = batch_of(method, seed, part=part)
    return batch.views, batch.flow, batch.index, batch.start_frames


def fill(method) -> None:
    """Keys of other videos in every queue, as many as fit."""
    for queue in method.queues:
        keys = F.normalize(torch.randn(len(queue), 4, dtype=torch.float64), dim=1)
        queue.enqueue(keys, torch.arange(len(queue)))


# The same in NumPy


def weights_of(stream: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in stream.named_parameters()}


def embed(clip: torch.Tensor, weights: dict[str, np.ndarray]) -> np.ndarray:
    """A stream in NumPy: the channel that flow lacks is zero."""
    clip = clip.numpy()
    clip = np.concatenate([clip, np.zeros_like(clip[:, : 3 - clip.shape[1]])], axis=1)
    x = features(clip, weights["backbone.linear.weight"])
    x = np.maximum(x @ weights["head.0.weight"].T + weights["head.0.bias"], 0)
    return oracles.unit(x @ weights["head.2.weight"].T + weights["head.2.bias"])


def embed_all(method, given: tuple, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """v of the equations; `weights` are those of s."""
    clips = dict(zip(STREAMS, given[:2], strict=True))
    own, other = method.config.stream, "flow" if method.config.stream == "rgb" else "rgb"
    embedded = [embed(clip, weights) for clip in clips[own]]
    if method.config.cross:
        frozen = weights_of(method.streams[other])
        embedded += [embed(clips[other][1], frozen), embed(clips[other][0], frozen)]
    return embedded


def assignments(method, embedded: list[np.ndarray], prototypes: np.ndarray) -> list[np.ndarray]:
    config, found = method.config, []
    for view, z in enumerate(embedded):
        rows = [z @ prototypes.T]
        if method.phase.queue:
            rows.append(method.queues[view].keys.numpy() @ prototypes.T)
        q = oracles.sinkhorn(np.concatenate(rows), config.epsilon, config.iterations)
        found.append(q[: len(z)])
    return found


def truth(method, given: tuple):
    """The loss as a function of the weights of s, its assignments as they are now."""
    config, now = method.config, weights_of(method.trained)
    sets = [f"prototypes.{n}" for n in range(len(config.prototypes))]
    at_first = embed_all(method, given, now)
    assigned = {name: assignments(method, at_first, now[name]) for name in sets}

    def loss(weights: dict[str, np.ndarray]) -> float:
        embedded = embed_all(method, given, weights)
        if not config.second_view_gradient:
            embedded[1] = at_first[1]
        return np.mean([
            oracles.vicc(
                embedded,
                weights[name],
                assigned[name],
                config.temperature,
                other_modality=config.predict == "other_modality",
            )
            for name in sets
        ])  # fmt: skip

    return loss, now, at_first, assigned


OPTIONS = [
    {},
    {"stream": "flow"},
    {"prototypes": [6, 5]},
    {"second_view_gradient": False},
    {"temperature": 0.3, "epsilon": 0.2, "iterations": 1},
    CROSS,
    CROSS | {"stream": "flow", "prototypes": [5, 6]},
    CROSS | {"predict": "other_modality"},
    CROSS | {"stream": "flow", "predict": "other_modality", "second_view_gradient": False},
]


@pytest.mark.parametrize("queue", [False, True], ids=["alone", "queue"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_loss_and_gradients_are_those_of_the_equations(options, queue):
    method = small(**options)
    fill(method)
    method.begin_step(0.0, QUEUE if queue else 0)
    given = arguments(method)
    (objective,), scalars = method(*given)
    loss, now, _, _ = truth(method, given)
    assert objective.loss.item() == pytest.approx(loss(now), rel=1e-10)
    assert scalars["loss"].item() == objective.loss.item()
    backward([objective])
    names = {id(p): name for name, p in method.trained.named_parameters()}
    assert {id(p) for p in objective.moves} == names.keys()
    # Every tensor's two steepest entries, by differences: the whole gradient would take minutes.
    for parameter in objective.moves:
        name, gradient = names[id(parameter)], parameter.grad.numpy()
        for flat in np.argsort(np.abs(gradient), axis=None)[-2:]:
            place = np.unravel_index(flat, gradient.shape)
            values = []
            for size in (1e-6, -1e-6):
                moved = now[name].copy()
                moved[place] += size
                values.append(loss(now | {name: moved}))
            slope = (values[0] - values[1]) / 2e-6
            assert gradient[place] == pytest.approx(slope, rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize("options", [{}, CROSS | {"prototypes": [6, 5]}], ids=str)
def test_figures(options):
    method = small(**options)
    given = arguments(method)
    for _ in range(2):
        method(*given)
        method.after_step()
    _, scalars = method(*given)
    _, now, embedded, assigned = truth(method, given)
    # Of 12 slots the last 8 keys are one step old, 4 of those before them two.
    expected = oracles.pair_figures(*embedded[:2]) | {"queue_age_steps": (8 * 1 + 4 * 2) / 12}
    found = {"prototype_use": [], "prediction_entropy": [], "prediction_accuracy": []}
    for name, q in assigned.items():
        target = np.mean(q[1:], axis=0)
        logits = embedded[0] @ now[name].T / 0.1
        predicted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        found["prototype_use"].append(oracles.prototype_use(logits.argmax(1), len(now[name])))
        found["prediction_entropy"].append(np.mean([oracles.entropy(row) for row in predicted]))
        found["prediction_accuracy"].append(np.mean(logits.argmax(1) == target.argmax(1)))
    expected |= {name: np.mean(values) for name, values in found.items()}
    assert scalars.keys() == {"loss", *expected}
    # Counts of prototypes and of steps are float32.
    assert {name: scalars[name].item() for name in expected} == pytest.approx(expected, rel=1e-6)


def test_a_view_that_is_one_point_is_seen():
    """Although its assignments are as even as can be: Sinkhorn makes them so."""
    method = small(queue_size=0)
    spread = method(*arguments(method))[1]
    with torch.no_grad():
        method.trained.head[-1].weight.zero_()
    _, figures = method(*arguments(method))
    view = method.trained(arguments(method)[0][0])
    even = assign(view, method.trained.prototypes[0], epsilon=0.05, iterations=3)
    torch.testing.assert_close(even, torch.full_like(even, 1 / 6))
    one_of_six = oracles.prototype_use(np.zeros(BATCH, dtype=int), 6)
    assert figures["prototype_use"].item() == pytest.approx(one_of_six)
    assert figures["prototype_use"] < 0.3 < spread["prototype_use"]
    assert method.nearest_prototypes(*arguments(method)[:2])[0].unique().numel() == 1


def test_nearest_prototypes_are_those_of_the_first_view():
    method = small(stream="flow", prototypes=[6, 5])
    given = arguments(method)
    first = embed_all(method, given, weights_of(method.trained))[0]
    nearest = method.nearest_prototypes(*given[:2])
    for numbers, vectors in zip(nearest, method.trained.prototypes, strict=True):
        assert numbers.tolist() == (first @ vectors.detach().numpy().T).argmax(1).tolist()


# What a stage takes, and what it gives


@pytest.mark.parametrize(
    "options, flow, queues",
    [({}, (), 2), ({"stream": "flow"}, (0, 1), 2), (CROSS, (0, 1), 4), ({"queue_size": 0}, (), 0)],
)
def test_views_that_a_stage_asks_for(options, flow, queues):
    method = small(**options)
    assert (method.views.number, method.views.flow, len(method.queues)) == (2, flow, queues)


@pytest.mark.parametrize("stream", STREAMS)
def test_the_stream_that_learns_is_the_one_that_is_evaluated(stream):
    method = small_method("vicc", stream=stream)
    assert method.encoder() is method.streams[stream].backbone is method.trained.backbone
    assert method.heads() == [method.streams[name].head for name in STREAMS]
    learn = {id(p) for p in method.parameters() if p.requires_grad}
    assert learn == {id(p) for p in method.streams[stream].parameters()}
    optimizer = build_optimizer(method, OptimConfig())
    assert learn == {id(p) for group in optimizer.param_groups for p in group["params"]}


def test_streams_start_alike_and_share_nothing():
    backbone = build_backbone("r3d_18", width=2)
    method = small_method("vicc", backbone)
    rgb, flow = (dict(stream.named_parameters()) for stream in method.streams.values())
    assert rgb.keys() == flow.keys()
    for name, tensor in rgb.items():
        assert tensor.data_ptr() != flow[name].data_ptr(), name
        same = name.startswith("backbone") or name in ("head.2.bias",)  # which begins at zero
        assert torch.equal(tensor, flow[name]) == same, name
    buffers = [b.data_ptr() for b in method.buffers()]
    assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize("batch_norm", ["sync", "plain"])
def test_batch_norms_of_both_streams(batch_norm):
    method = small_method("vicc", batch_norm=batch_norm)
    norms = [module for module in method.modules() if isinstance(module, _BatchNorm)]
    assert len(norms) == 2 * 20
    assert {isinstance(norm, nn.SyncBatchNorm) for norm in norms} == {batch_norm == "sync"}


def test_prototypes_are_unit_vectors_and_stay_so():
    method = small(prototypes=[6, 300])
    method(*arguments(method))
    with torch.no_grad():
        for vectors in method.trained.prototypes:
            vectors.mul_(3).add_(0.1)
    method.after_step()
    for stream in method.streams.values():
        assert [tuple(vectors.shape) for vectors in stream.prototypes] == [(6, 4), (300, 4)]
        for vectors in stream.prototypes:
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)).double())


def test_heads_start_from_a_published_one():
    method = small_method("vicc")
    published = {"Conv_1a.conv1.weight": torch.zeros(1)}  # its backbone does not matter here
    head = head_state(state_dicts.vicc(published, dim=16, cross=True))
    method.start_heads(head)
    for stream in method.streams.values():
        for name, tensor in stream.head.state_dict().items():
            assert torch.equal(tensor, head[name])


# The stream that is frozen


def step_of(method, **options) -> Step:
    optimizer = build_optimizer(method, OptimConfig(weight_decay=0.1, **options))
    return Step(method, optimizer, ALONE, precision="fp32")


def take(step: Step, number: int, *, part: slice = slice(None)) -> dict[str, torch.Tensor]:
    batch = batch_of(step.method, number, part=part)
    return step(batch, number=number, lr=0.1, seed=0, **place(number))


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def assert_same_bits(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("optim", ["larc", "adamw"])
def test_the_other_stream_never_changes(stream, optim):
    """Neither weights, nor decay of them, nor running statistics."""
    method = small_method("vicc", cross=True, stream=stream, **NOW)
    method.other.steps += 1
    before, own = bits(method.other), bits(method.trained)
    step = step_of(method, name=optim)
    take(step, 0)
    method.eval()
    method.train()
    take(step, 1)
    assert_same_bits(before, bits(method.other))
    after = bits(method.trained)
    assert not any(torch.equal(own[n], after[n]) for n in own if n.endswith(("weight", "_mean")))
    assert not any(p.requires_grad or p.grad is not None for p in method.other.parameters())


def test_the_other_stream_is_in_eval_mode_whatever_the_method_is():
    method = small_method("vicc", cross=True)
    for mode in (method, method.train(), method.eval(), method.train(True)):
        assert not any(module.training for module in mode.other.modules())
    assert all(module.training for module in method.trained.modules())
    assert method.training


def test_views_are_batches_of_their_own():
    """So that the second has its own batch statistics, with a gradient or without."""
    expected = small_method("vicc", batch_norm="plain")
    norm = expected.trained.backbone.stem[1]
    norm.reset_running_stats()
    methods = [copy.deepcopy(expected) for _ in range(2)]
    methods[1].config = Config(second_view_gradient=False, batch_norm="plain")
    given = arguments_for(expected)
    for view in given[0]:
        expected.trained(view)
    for method in methods:
        method(*given)
        assert torch.equal(method.trained.backbone.stem[1].running_mean, norm.running_mean)


def test_no_gradient_through_the_second_view_or_the_other_stream():
    method = small(cross=True, second_view_gradient=False)
    views, flow, *rest = arguments(method)
    leaves = [clip.requires_grad_() for clip in (*views, *flow)]
    (objective,), _ = method(views, flow, *rest)
    objective.loss.backward()
    assert [clip.grad is not None for clip in leaves] == [True, False, False, False]
    assert method.trained.prototypes[0].grad.abs().sum() > 0


# What begins inside a stage


def test_prototypes_rest_and_then_move():
    method = small_method("vicc", freeze_epochs=1.0, queue_epoch=9.0, queue_size=2 * BATCH)
    before = bits(method.trained.prototypes)
    step = step_of(method, name="larc")
    take(step, 0)
    assert method.phase == Phase(frozen=True, queue=False)
    take(step, 1)
    assert_same_bits(before, bits(method.trained.prototypes))
    assert not method.trained.prototypes[0].requires_grad
    assert method.trained.backbone.stem[0].weight.requires_grad
    take(step, 2)
    assert method.phase == Phase(frozen=False, queue=False)
    moved = bits(method.trained.prototypes)["0"]
    assert not torch.equal(moved, before["0"])
    torch.testing.assert_close(moved.norm(dim=1), torch.ones(6))


def test_a_frozen_prototype_costs_no_gradient():
    method = small(freeze_epochs=1.0)
    method.begin_step(0.5, 0)
    (objective,), _ = method(*arguments(method))
    assert not {id(p) for p in method.trained.prototypes} & {id(p) for p in objective.moves}
    backward([objective])
    assert method.trained.prototypes[0].grad is None
    assert all(p.grad is not None for p in objective.moves)


@pytest.mark.parametrize(
    "epoch, samples, takes_part",
    [(0.99, 100, False), (1.0, 11, False), (1.0, 12, True), (7.5, 10**9, True), (0.0, 0, False)],
)
def test_the_queue_takes_part_once_it_is_full_and_its_epoch_has_come(epoch, samples, takes_part):
    method = small(queue_epoch=1.0)
    method.begin_step(epoch, samples)
    assert method.phase.queue == takes_part
    given = arguments(method)
    loss = method(*given)[0][0].loss.item()
    fill(method)
    assert (method(*given)[0][0].loss.item() != loss) == takes_part


def test_the_phase_is_a_function_of_how_far_the_stage_is():
    """In whatever order it is asked: a run that was stopped begins in the middle."""
    straight, resumed = small(freeze_epochs=1.0), small(freeze_epochs=1.0)
    for epoch in (0.0, 0.5, 1.0, 2.0):
        straight.begin_step(epoch, int(8 * epoch))
    resumed.begin_step(2.0, 16)
    assert straight.phase == resumed.phase == Phase(frozen=False, queue=True)
    assert len({straight.phase, resumed.phase}) == 1  # hashable


def test_without_a_queue():
    method = small(queue_size=0)
    method.begin_step(100.0, 10**6)
    method(*arguments(method))
    method.after_step()
    assert not method.phase.queue and not [n for n in method.state_dict() if "queue" in n]


def test_queues_hold_each_view_from_the_first_step():
    method = small(cross=True, queue_size=2 * BATCH, queue_epoch=9.0)
    embedded = []
    for number in range(3):
        given = arguments(method, seed=number)
        embedded.append(embed_all(method, given, weights_of(method.trained)))
        method(*given)
        method.after_step()
    for view, queue in enumerate(method.queues):
        newest = [embedded[number][view] for number in (2, 1)]  # the third batch wraps
        torch.testing.assert_close(queue.keys, torch.from_numpy(np.concatenate(newest)))
        assert queue.ids.tolist() == [*range(16, 24), *range(8, 16)]


def test_stages_hand_on_streams_and_not_queues():
    alone, cross = small(), small(cross=True, stream="flow", queue_size=6)
    alone(*arguments(alone))
    alone.after_step()
    queues = bits(cross.queues)
    loaded, fresh = cross.load_previous(copy.deepcopy(alone.state_dict()))
    assert_same_bits(bits(cross.streams), bits(alone.streams))
    assert_same_bits(bits(cross.queues), queues)
    assert loaded == sorted(f"streams.{name}" for name in alone.streams.state_dict())
    assert fresh == sorted(f"queues.{name}" for name in queues)
    assert cross.other.steps == 1 and cross.trained.steps == 1


def test_other_prototypes_are_refused():
    with pytest.raises(ValueError) as error:
        small(prototypes=[7]).load_previous(small().state_dict())
    assert str(error.value) == (
        "streams.flow.prototypes.0 has shape [6, 4] in the previous state and [7, 4] here; "
        "keep width, dim and queue_size between stages"
    )


# What does not fit


@pytest.mark.parametrize("stream, other", [STREAMS, STREAMS[::-1]])
def test_a_stream_that_learnt_nothing_teaches_nothing(stream, other):
    method = small_method("vicc", cross=True, stream=stream)
    with pytest.raises(ValueError) as error:
        method.begin_step(0.0, 0)
    assert str(error.value) == (
        f"vicc: cross: true learns from the {other} stream, which no stage has trained; put a "
        f"stage with stream: {other}, cross: false before"
    )
    step = step_of(small_method("vicc", stream=other))
    take(step, 0)
    method.load_previous(step.method.state_dict())
    method.begin_step(0.0, 0)


def test_a_batch_without_flow():
    method = small(stream="flow")
    views, _, *rest = arguments(method)
    with pytest.raises(ValueError) as error:
        method(views, None, *rest)
    assert str(error.value) == (
        "vicc: the batch has no flow, which stream: flow and cross: true learn from"
    )


def test_a_queue_below_one_step():
    method = small(queue_size=BATCH - 1)
    with pytest.raises(ValueError) as error:
        method(*arguments(method))
    assert str(error.value) == (
        "queue_size: 7 slots do not hold the 8 keys of one step; take method.queue_size 8 or more, "
        "or a smaller batch"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stream": "both"}, "stream: 'both' is not one of rgb, flow"),
        ({"batch_norm": "split"}, "batch_norm: 'split' is not one of sync, plain"),
        ({"predict": "none"}, "predict: 'none' is not one of all, other_modality"),
        (
            {"predict": "other_modality"},
            "predict: other_modality needs two streams; set cross: true or all",
        ),
        (
            {"prototypes": []},
            "prototypes: [] must be one set or more, of 2 or more each; [300] in the code",
        ),
        (
            {"prototypes": [300, 1]},
            "prototypes: [300, 1] must be one set or more, of 2 or more each; [300] in the code",
        ),
        ({"dim": 0}, "dim: 0 must be 1 or more"),
        ({"iterations": 0}, "iterations: 0 must be 1 or more"),
        ({"queue_size": -1}, "queue_size: -1 must be 0 or more"),
        ({"queue_epoch": -0.5}, "queue_epoch: -0.5 must be 0 or more"),
        ({"freeze_epochs": float("nan")}, "freeze_epochs: nan must be 0 or more"),
        ({"temperature": 0.0}, "temperature: 0.0 must be above 0; 0.1 in the code"),
        ({"epsilon": -1.0}, "epsilon: -1.0 must be above 0; 0.05 in the code"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        Config(**options)
    assert str(error.value) == message


# Two processes over gloo do what one does with the whole batch

WORLD = 2
RANK_STEPS = 5  # frozen in 0 and 1, moving from 2, with the queue from 3
CASES = {
    "alone": {"stream": "flow"},
    "cross": {"cross": True, "prototypes": [6, 5]},
    "no gradient": {"second_view_gradient": False, "queue_size": 0},
}


def trained(options: dict, process: Process, part: slice) -> dict:
    """Losses of the steps and the state after them; larc, so that its norms are compared, too."""
    torch.manual_seed(0)
    timing = {"freeze_epochs": 1.0, "queue_epoch": 1.5, "queue_size": 2 * BATCH}
    method = small(**timing | {"batch_norm": "plain"} | options)
    optimizer = build_optimizer(method, OptimConfig(name="larc", lars_trust=0.1))
    step = Step(method, optimizer, process, precision="fp32")
    losses, phases = [], []
    for number in range(RANK_STEPS):
        losses.append(take(step, number, part=part)["loss"])
        phases.append(tuple(method.phase))
    return {"losses": torch.stack(losses), "phases": phases, "state": method.state_dict()}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    part = slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD)
    process = Process(rank, WORLD, torch.device("cpu"))
    seen = {case: trained(options, process, part) for case, options in CASES.items()}
    with pytest.raises(ValueError) as error:
        small()(*arguments(small(), part=part))
    seen["refused"] = str(error.value)
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(ranks, case):
    """Queue, assignments, frozen prototypes and what comes after, over the batches of both."""
    whole = trained(CASES[case], ALONE, slice(None))
    with_queue = case != "no gradient"
    assert whole["phases"] == [(n < 2, n > 2 and with_queue) for n in range(RANK_STEPS)]
    parts = [rank[case] for rank in ranks]
    mean = torch.stack([part["losses"] for part in parts]).mean(0)
    torch.testing.assert_close(mean, whole["losses"], rtol=1e-9, atol=1e-9)
    for part in parts:
        assert part["phases"] == whole["phases"]
        torch.testing.assert_close(part["state"], whole["state"], rtol=1e-8, atol=1e-8)


def test_sync_batch_norm_on_a_cpu_is_refused(ranks):
    assert [rank["refused"] for rank in ranks] == [
        "method.batch_norm: torch has no SyncBatchNorm on a CPU; take plain"
    ] * WORLD
