import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import Method, build_backbone, build_method
from models.batchnorm import SplitBatchNorm
from models.methods.vclr import LOSSES, Config
from tests import oracles
from tests.models.small_encoder import FrameMeans, features
from tests.models.steps import BATCH, FRAMES, SIZE, backward, small_method, step

VIDEOS = torch.arange(BATCH)
LAST = torch.tensor([False, True, True, False, True, False, False, True])  # x^q of segment S
OFF = {f"{loss}_weight": 0.0 for loss in LOSSES}


def only(*losses: str) -> dict[str, float]:
    """Weights that leave these losses on."""
    return OFF | {f"{loss}_weight": 1.0 for loss in losses}


def arguments(segments: int = 3, *, seed: int = 0, frames: int = FRAMES) -> tuple:
    """Views as the loader gives them, in float64: x^1 looks like the query frame that it repeats.

    Segments lie 100 frames apart; the key's frame is another of the segment.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(scale: float) -> torch.Tensor:
        shape = BATCH, 3, frames, SIZE, SIZE
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    shown = [noise(1) for _ in range(segments)]
    query, key = ([frame + noise(0.1) for frame in shown] for _ in range(2))
    repeated = torch.where(LAST[:, None, None, None, None], query[-1], query[0])
    start = 100 * torch.arange(segments) + torch.randint(100, (BATCH, segments))
    first = torch.where(LAST, start[:, -1], start[:, 0])
    start_frames = torch.cat([start, start + 1, first[:, None]], dim=1)
    return (*query, *key, repeated + noise(0.01)), None, VIDEOS, start_frames


def small(segments: int = 3, **options):
    """In float64 on FrameMeans, all weights at random, with keys of these videos in the queues."""
    method = small_method("vclr", FrameMeans(), segments=segments, **options).double()
    with torch.no_grad():
        for weight in method.parameters():
            weight.normal_()
        for encoder in (method.query, method.key):
            encoder.backbone.linear.weight *= 10  # means over 16 x 16 pixels are small
    for queue in method.queues.values():
        queue.enqueue(F.normalize(torch.randn(8, 8, dtype=torch.float64), dim=1), VIDEOS + 4)
    return method


# The same in NumPy


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().copy()


def head(encoder: nn.Module, loss: str, feature: np.ndarray) -> np.ndarray:
    """Linear, ReLU, linear on rows."""
    first, _, second = encoder.heads[loss]
    hidden = np.maximum(feature @ array(first.weight).T + array(first.bias), 0)
    return hidden @ array(second.weight).T + array(second.bias)


def frame_features(encoder: nn.Module, views: list[torch.Tensor]) -> np.ndarray:
    """[B, N, features] of N views."""
    w = array(encoder.backbone.linear.weight)
    return np.stack([features(array(view), w) for view in views], axis=1)


def of_each_video(views: tuple, pick) -> list[torch.Tensor]:
    """Views put together from view pick(b)[n] of video b."""
    chosen = [pick(bool(last)) for last in LAST]
    return [
        torch.stack([views[chosen[b][n]][b] for b in range(BATCH)]) for n in range(len(chosen[0]))
    ]


def truth(method, views: tuple, orders: list[np.ndarray]) -> dict[str, float]:
    """All four losses by the oracles; orders [B, S] that FrameOrder drew for query and key."""
    config, s = method.config, method.config.segments
    (frame,) = of_each_video(views, lambda last: [s - 1 if last else 0])
    rest = range(s)
    repeats = of_each_video(
        views, lambda last: [2 * s, *[n for n in rest if n != (s - 1 if last else 0)]]
    )
    x, keys = frame_features(method.query, [frame])[:, 0], frame_features(method.key, repeats)
    tuples = [
        frame_features(method.query, views[:s]),
        frame_features(method.key, views[s : 2 * s]),
    ]

    def embed(side, loss, rows):
        return oracles.unit(head(side, loss, rows))

    def against_queue(loss, query, key):
        queue = method.queues[loss]
        ids = (array(VIDEOS), array(queue.ids)) if config.exclude_same_video else (None, None)
        return oracles.info_nce(query, key, array(queue.keys), config.temperature, None, *ids)

    query, twin = method.query, method.key
    losses = {}
    if "inter" in config.losses:
        q = embed(query, "inter", x)
        each = [against_queue("inter", q, embed(twin, "inter", keys[:, j])) for j in range(s)]
        losses["inter"] = sum(each) / s
    if "intra" in config.losses:
        k = [embed(twin, "intra", keys[:, j]) for j in range(s)]
        others = np.stack(k[1:], axis=1)
        q = embed(query, "intra", x)
        losses["intra"] = oracles.two_way(q, k[0], others, config.intra_temperature)
    if "segment" in config.losses:
        v, key = (
            embed(side, "segment", frames.sum(axis=1) / s)
            for side, frames in zip((query, twin), tuples, strict=True)
        )
        losses["segment"] = against_queue("segment", v, key)
    if "order" in config.losses:
        losses["order"] = order_truth(method, tuples, orders)
    return losses


def order_truth(method, tuples: list[np.ndarray], orders: list[np.ndarray]) -> float:
    config = method.config
    sides = (method.query, method.key)[: len(orders)]
    seen = []
    for side, frames, order in zip(sides, tuples, orders, strict=False):
        embedded = np.stack([head(side, "order", frames[b]) for b in range(BATCH)])
        normed = oracles.order_features(embedded, config.order_norm)
        seen.append(np.stack([normed[b][order[b]] for b in range(BATCH)]).reshape(BATCH, -1))
    linear = method.order.classifier
    logits = np.concatenate(seen, axis=1) @ array(linear.weight).T + array(linear.bias)
    labels = [
        oracles.order_label(*one, reverse_is_order=config.reverse_is_order)
        for one in zip(*[order.tolist() for order in orders], strict=True)
    ]
    return oracles.cross_entropy(logits, labels)


def drawn(method, seed: int) -> list[np.ndarray]:
    """The orders that a forward pass after manual_seed(seed) takes."""
    if method.order is None:
        return []
    torch.manual_seed(seed)
    tuples = 2 if method.config.order_label == "joint" else 1
    return [array(method.order.draw(BATCH)[0]) for _ in range(tuples)]


def run(method, given: tuple, seed: int = 5):
    torch.manual_seed(seed)
    objectives, scalars = method(*given)
    return objectives, scalars


OPTIONS = [
    {},
    {"batches": "together"},
    {"order_norm": "frame", "reverse_is_order": False},
    {"order_label": "binary", "exclude_same_video": False},
    {"segments": 4, "mlp": True, "temperature": 0.2, "intra_temperature": 0.3, "queue_size": 40},
    {"segments": 2, "order_weight": 0.0},
    {"segments": 1, "order_weight": 0.0, "intra_weight": 0.0},
    {"segments": 2, "reverse_is_order": False},
    {"inter_weight": 0.5, "intra_weight": 2.0, "segment_weight": 3.0, "order_weight": 4.0},
    *[only(loss) for loss in LOSSES],
    only("inter", "intra"),
    only("order") | {"order_label": "binary", "batches": "together"},
    only("intra", "segment") | {"batches": "together"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_losses_and_gradients_are_those_of_the_equations(options):
    method = small(**options)
    given = arguments(method.config.segments)
    orders = drawn(method, seed=5)
    (objective,), scalars = run(method, given)
    expected = truth(method, given[0], orders)
    assert {f"loss_{name}" for name in expected} == {n for n in scalars if n.startswith("loss_")}
    for name, value in expected.items():
        assert scalars[f"loss_{name}"].item() == pytest.approx(value, rel=1e-9), name
    weighted = sum(method.config.weight(name) * value for name, value in expected.items())
    assert objective.loss.item() == pytest.approx(weighted, rel=1e-9)
    objective.loss.backward(inputs=objective.moves)
    # Every tensor's steepest entries, by differences: the whole gradient would take minutes.
    for parameter in objective.moves:
        place = np.unravel_index(int(parameter.grad.abs().argmax()), parameter.shape)
        assert parameter.grad[place].item() == pytest.approx(
            slope(method, given[0], orders, parameter, place), rel=1e-4, abs=1e-7
        )


def slope(method, views, orders, parameter, place) -> float:
    """d loss / d parameter[place] by central differences of the oracles."""
    values, size = [], 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            parameter[place] += sign * size
        losses = truth(method, views, orders)
        values.append(sum(method.config.weight(name) * value for name, value in losses.items()))
        with torch.no_grad():
            parameter[place] -= sign * size
    return (values[0] - values[1]) / (2 * size)


def test_tie_means_the_first_segment():
    """In a video of one frame all views begin with it: x^1 is then a view of t^q_1."""
    method = small(**only("intra"))
    views, flow, index, start_frames = arguments()
    _, tied = run(method, (views, flow, index, torch.zeros_like(start_frames)))
    start_frames[:, -1] = start_frames[:, 0]
    _, first = run(method, (views, flow, index, start_frames))
    assert tied["loss"] == first["loss"] != run(method, arguments())[1]["loss"]


class TestOneSide:
    """Gradients pass through the query's side alone."""

    def test_moves_are_query_encoder_and_order_classifier(self):
        method = small()
        (objective,), _ = run(method, arguments())
        moved = {id(parameter) for parameter in objective.moves}
        for name, parameter in method.named_parameters():
            assert (id(parameter) in moved) == name.startswith(("query.", "order.")), name

    def test_key_frames_have_none(self):
        method = small()
        views, *rest = arguments()
        views = tuple(view.requires_grad_() for view in views)
        (objective,), _ = run(method, (views, *rest))
        objective.loss.backward()
        assert [view.grad is not None for view in views] == [True] * 3 + [False] * 4
        assert all(p.grad is None for p in method.key.parameters())
        assert method.order.classifier.weight.grad.abs().sum() > 0


class TestQueues:
    def test_inter_takes_the_key_of_every_frame_and_segment_of_every_tuple(self):
        method = small(queue_size=40)
        given = arguments()
        run(method, given)
        twin, views = method.key, given[0]
        repeats = of_each_video(views, lambda last: [6, 0, 1] if last else [6, 1, 2])
        rows = frame_features(twin, repeats).reshape(-1, FrameMeans.feature_dim)
        frames = oracles.unit(head(twin, "inter", rows))
        rows = frame_features(twin, views[3:6]).sum(axis=1) / 3
        tuples = oracles.unit(head(twin, "segment", rows))
        before = {loss: queue.keys.clone() for loss, queue in method.queues.items()}
        method.after_step()
        for loss, keys, ids in (
            ("inter", frames, VIDEOS.repeat_interleave(3)),
            ("segment", tuples, VIDEOS),
        ):
            queue = method.queues[loss]
            written = slice(8, 8 + len(keys))  # 8 were there
            np.testing.assert_allclose(array(queue.keys[written]), keys, rtol=1e-9)
            assert torch.equal(queue.ids[written], ids)
            assert torch.equal(queue.keys[:8], before[loss][:8])
            assert torch.equal(queue.keys[written.stop :], before[loss][written.stop :])
            assert queue.keys_written == 8 + len(keys)

    def test_first_random_keys_differ(self):
        queues = small_method("vclr").queues
        assert not torch.equal(queues["inter"].keys, queues["segment"].keys)

    def test_twin_follows_without_its_buffers(self):
        method = small_method("vclr", momentum=0.9)
        before = copy.deepcopy(method.key)
        step(method, 0)
        after = dict(method.key.named_parameters())
        for name, slow in before.named_parameters():
            mixed = 0.9 * slow + 0.1 * method.query.get_parameter(name)
            torch.testing.assert_close(after[name], mixed)

    def test_ages_are_in_steps(self):
        method = small_method("vclr", queue_size=48)
        given = step_arguments(method)
        for _ in range(3):
            _, scalars = method(*given)
            method.after_step()
        # 24 keys a step fill 48 slots in two, 8 in six: after two steps 32 of 48 are of the start.
        assert scalars["queue_age_steps"] == 1.5
        assert scalars["segment_queue_age_steps"] == pytest.approx((8 * 1 + 8 * 2 + 32 * 2) / 48)

    def test_a_step_that_overflows_one_is_refused(self):
        method = small_method("vclr", queue_size=23)
        with pytest.raises(ValueError) as error:
            method(*step_arguments(method))
        assert str(error.value) == (
            "queue_size: 23 slots do not hold the 24 keys of one step; "
            "take method.queue_size 24 or more, or a smaller batch"
        )

    def test_both_are_in_the_state(self):
        state = small_method("vclr").state_dict()
        for loss in ("inter", "segment"):
            assert {f"queues.{loss}.{name}" for name in ("keys", "ids", "keys_written")} <= set(
                state
            )


def step_arguments(method, frames: int = FRAMES) -> tuple:
    views, *rest = arguments(method.config.segments, frames=frames)
    return tuple(view.float() for view in views), *rest


def batches_through(method) -> dict[str, list[int]]:
    """Batch sizes of every call of both backbones in one forward pass."""
    seen = {"query": [], "key": []}
    for side, sizes in seen.items():
        backbone = getattr(method, side).backbone
        backbone.register_forward_hook(
            lambda _, given, __, sizes=sizes: sizes.append(len(given[0]))
        )
    frames = 1 if isinstance(backbone, FrameMeans) and backbone.linear.in_features == 3 else FRAMES
    method(*step_arguments(method, frames))
    return {side: [size // BATCH for size in sizes] for side, sizes in seen.items()}


@pytest.mark.parametrize(
    "options, query, key",
    [
        # The released code: 4 and 6 frames of a video, in these batches.
        ({}, [1, 3], [1, 1, 1, 3]),
        ({"batches": "together"}, [3], [6]),
        (only("inter"), [1], [1, 1, 1]),
        (only("inter") | {"batches": "together"}, [1], [3]),
        (only("intra"), [1], [1, 1, 1]),
        (only("segment"), [3], [3]),
        (only("order"), [3], [3]),
        (only("order") | {"order_label": "binary"}, [3], []),
        (only("inter", "order") | {"order_label": "binary"}, [1, 3], [1, 1, 1]),
    ],
    ids=str,
)
def test_only_frames_that_a_loss_needs_are_encoded(options, query, key):
    assert batches_through(small_method("vclr", **options)) == {"query": query, "key": key}


class TestBatchNorm:
    @pytest.fixture(params=["split", "plain"])
    def frozen(self, request):
        """Methods of the same weights whose statistics stand still, in one batch and in several."""
        methods = []
        for batches in ("apart", "together"):
            torch.manual_seed(0)
            backbone = build_backbone("r3d_18", width=2)
            options = {"batches": batches, "key_batch_norm": request.param, "split_groups": 4}
            method = small_method("vclr", backbone, **options)
            methods.append(method.eval())
        return methods

    def test_batches_differ_in_statistics_alone(self, frozen):
        first, second = (run(method, step_arguments(method))[1] for method in frozen)
        assert first["loss_inter"] > 0
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-5, msg=name)

    def test_statistics_are_of_their_own_batch(self):
        losses = []
        for batches in ("apart", "together"):
            torch.manual_seed(0)
            method = small_method("vclr", batches=batches, key_batch_norm="plain")
            losses.append(run(method, step_arguments(method))[1]["loss"].item())
        assert losses[0] != pytest.approx(losses[1], rel=1e-3)

    @pytest.mark.parametrize("batches", ["apart", "together"])
    def test_blocks_hold_whole_videos_and_keys_find_their_queries(self, batches):
        """Query and key show the same: with statistics frozen their embeddings are the same."""
        method = small_method("vclr", batches=batches, split_groups=4)
        sizes = []
        for module in method.modules():
            if isinstance(module, SplitBatchNorm):
                module.register_forward_hook(lambda m, x, _: sizes.append(len(x[0]) // m.groups))
        views, *rest = step_arguments(method)
        run(method, (views, *rest))
        assert {size % (BATCH // 4) for size in sizes} == {0}
        method = small_method("vclr", batches=batches, split_groups=4).eval()
        same = tuple(views[0] for _ in views)
        scalars = run(method, (same, *rest))[1]
        for prefix in ("", "segment_"):
            similarity = scalars[f"{prefix}positive_similarity"].item()
            assert similarity == pytest.approx(1, abs=1e-5)

    def test_exchange_asks_the_loader_for_what_only_keys_show(self):
        method = small_method("vclr", key_batch_norm="exchange")
        assert method.views.exchanged == (3, 4, 5, 6)
        with pytest.raises(ValueError) as error:
            method(*step_arguments(method))
        assert str(error.value) == (
            "method.key_batch_norm: exchange gives keys to another rank, and there is one process; "
            "start several, or set method.key_batch_norm=split"
        )


@pytest.mark.parametrize("name, frames", [("r3d_18", 1), ("r3d_18", 4), ("r2plus1d_18", 2)])
def test_frames_and_clips_alike(name, frames):
    backbone = build_backbone(name, width=2)
    options = {"dim": 8, "queue_size": 28, "split_groups": 2}
    method = build_method("vclr", backbone, frames=frames, size=SIZE, **options)
    before = copy.deepcopy(method.state_dict())
    objectives, scalars = run(method, step_arguments(method, frames))
    backward(objectives)
    method.after_step()
    assert all(value.isfinite() for value in scalars.values())
    assert all(p.grad.isfinite().all() for p in objectives[0].moves)
    assert method.state_dict().keys() == before.keys()


class TestFigures:
    def test_similarities(self):
        method = small(queue_size=40)
        given = arguments()
        _, scalars = run(method, given)
        views = given[0]
        (frame,) = of_each_video(views, lambda last: [2 if last else 0])
        repeats = of_each_video(views, lambda last: [6, 0, 1] if last else [6, 1, 2])
        q = oracles.unit(head(method.query, "inter", frame_features(method.query, [frame])[:, 0]))
        keys = frame_features(method.key, repeats)
        k = [oracles.unit(head(method.key, "inter", keys[:, j])) for j in range(3)]
        queue = array(method.queues["inter"].keys)
        positive = np.array([[np.dot(q[i], k[j][i]) for j in range(3)] for i in range(BATCH)])
        negative = np.array([[np.dot(q[i], row) for row in queue] for i in range(BATCH)])
        assert scalars["positive_similarity"].item() == pytest.approx(positive.mean())
        assert scalars["negative_similarity"].item() == pytest.approx(negative.mean())
        nearest = (positive > negative.max(axis=1, keepdims=True)).mean()
        assert scalars["accuracy"].item() == pytest.approx(nearest)

    def test_collapse_is_visible(self):
        method = small(**only("segment"))
        spread = run(method, arguments())[1]["feature_std"].item()
        with torch.no_grad():
            method.query.heads["segment"][2].weight.zero_()
            method.query.heads["segment"][2].bias.copy_(torch.arange(8))
        assert run(method, arguments())[1]["feature_std"].item() < 1e-6 < 0.3 < spread


class TestStages:
    def test_losses_may_come_and_go(self):
        first = small_method("vclr", **only("inter", "intra"))
        step(first, 0)
        second = small_method("vclr", **only("inter", "segment", "order"))
        loaded, fresh = second.load_previous(first.state_dict())
        assert {name.split(".")[0] for name in fresh} == {"query", "key", "queues", "order"}
        assert not [name for name in fresh if "backbone" in name or "inter" in name]
        assert all(torch.equal(second.state_dict()[n], first.state_dict()[n]) for n in loaded)
        step(second, 1)

    def test_another_backbone_is_refused(self):
        state = small_method("vclr", build_backbone("r2plus1d_18", width=2)).state_dict()
        with pytest.raises(ValueError, match=r"backbone\..* is missing in the (previous|new)"):
            small_method("vclr").load_previous(state)

    def test_another_number_of_segments_is_refused(self):
        state = small_method("vclr", segments=4).state_dict()
        with pytest.raises(ValueError, match=r"order.classifier.weight has shape \[4, 64\]"):
            small_method("vclr").load_previous(state)


class TestHeadOfAnotherTraining:
    """The code starts all four heads from MoCo v2's one."""

    def test_starts_all_heads_and_their_twins(self):
        method, other = small_method("vclr"), small_method("videomoco", mlp=True)
        step(method, 0)
        method.start_heads(other.query.head.state_dict())
        for encoder in (method.query, method.key):
            assert encoder.heads.keys() == set(LOSSES)
            for own in encoder.heads.values():
                for name, tensor in other.query.head.state_dict().items():
                    assert torch.equal(own.state_dict()[name], tensor)

    def test_that_does_not_fit_is_refused(self):
        method = small_method("vclr")
        before = copy.deepcopy(method.state_dict())
        with pytest.raises(ValueError) as error:
            method.start_heads(small_method("videomoco").query.head.state_dict())
        assert str(error.value) == (
            "the file's head is weight [8, 16], bias [8], the method's 0.weight [16, 16], "
            "0.bias [16], 2.weight [8, 16], 2.bias [8]; set backbone.name, method.mlp and "
            "method.dim as it was trained, or start without it"
        )
        assert all(torch.equal(method.state_dict()[name], before[name]) for name in before)

    def test_method_without_a_head_says_so(self):
        with pytest.raises(ValueError, match="the method has no head that could start from a file"):
            Method().start_heads({})


def test_batch_without_start_frames_names_the_sampling():
    views, flow, index, _ = step_arguments(small_method("vclr"))
    with pytest.raises(ValueError) as error:
        small_method("vclr")(views, flow, index)
    assert str(error.value) == (
        "vclr: the batch has no start_frames to tell which frame the last view shows; "
        "take clip.sampling: segments"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"segments": 0}, "segments: 0 must be 1 or more; 3 in the code"),
        (
            {"segments": 1},
            "segments: 1 leaves intra no other frame; take more or intra_weight: 0",
        ),
        (
            {"segments": 2},
            "segments: 2 with reverse_is_order cannot be told from shuffled; "
            "take 3 to 8 or order_weight: 0",
        ),
        (
            {"segments": 9, "reverse_is_order": False},
            "segments: 9 cannot be told from shuffled; take 2 to 8 or order_weight: 0",
        ),
        ({"dim": 0}, "dim: 0 must be 1 or more"),
        ({"momentum": 0.0}, "momentum: 0.0 is outside (0, 1]"),
        ({"temperature": 0.0}, "temperature: 0.0 must be above 0; 0.1 in the code"),
        ({"temperature": math.nan}, "temperature: nan must be above 0; 0.1 in the code"),
        ({"intra_temperature": -1.0}, "intra_temperature: -1.0 must be above 0; 0.1 in the code"),
        ({"inter_weight": -1.0}, "inter_weight: -1.0 must be 0 or more"),
        ({"order_weight": math.nan}, "order_weight: nan must be 0 or more"),
        (
            OFF,
            "inter_weight, intra_weight, segment_weight, order_weight: all are 0, "
            "which leaves nothing to train",
        ),
        ({"order_hidden": -1}, "order_hidden: -1 must be 0, linear, or more"),
        ({"order_label": "both"}, "order_label: 'both' is not one of joint, binary"),
        ({"order_norm": "batch"}, "order_norm: 'batch' is not one of feature, frame"),
        ({"split_groups": 0}, "split_groups: 0 must be 1 or more"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        small_method("vclr", **options)
    assert str(error.value) == message


def test_batch_that_does_not_split_is_refused():
    method = small_method("vclr", split_groups=3)
    with pytest.raises(ValueError, match="8 clips per process does not split into 3 groups; make"):
        method(*step_arguments(method))


def test_defaults_are_the_codes():
    config = Config()
    assert (config.segments, config.dim, config.queue_size) == (3, 128, 131_072)
    assert (config.momentum, config.temperature, config.intra_temperature) == (0.999, 0.1, 0.1)
    assert config.losses == LOSSES and {config.weight(loss) for loss in LOSSES} == {1.0}
    assert config.order_label == "joint" and config.reverse_is_order and config.mlp
