import copy
import math
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import build_backbone
from models.batchnorm import SplitBatchNorm
from models.methods.videomoco import Config
from tests import oracles
from tests.models.small_encoder import FrameMeans, features
from tests.models.steps import BATCH, SIZE, backward, batch_for, small_method, step


def embed(clip: np.ndarray, encoder: dict[str, np.ndarray]) -> np.ndarray:
    """FrameMeans and a linear head in NumPy; unit rows [B, D]."""
    feature = features(clip, encoder["w"])
    return oracles.unit(feature @ encoder["head"].T + encoder["bias"])


def weights(encoder: nn.Module) -> dict[str, np.ndarray]:
    tensors = encoder.backbone.linear.weight, encoder.head.weight, encoder.head.bias
    arrays = (tensor.detach().numpy().copy() for tensor in tensors)
    return dict(zip(("w", "head", "bias"), arrays, strict=True))


@pytest.fixture(params=["key", "step"])
def trained(request):
    """A method in float64 whose queue holds random keys, keys of two steps, and known videos."""
    method = small_method(
        "videomoco", FrameMeans(), queue_size=20, decay=0.9, decay_unit=request.param
    ).double()
    with torch.no_grad():
        method.query.head.weight.normal_()
        method.key.head.weight.normal_()
    for first in (0, 4):
        keys = F.normalize(torch.randn(BATCH, 8, dtype=torch.float64), dim=1)
        method.queue.enqueue(keys, torch.arange(BATCH) + first)
    return method


def queue_ages(method) -> np.ndarray:
    """20 slots, 8 keys at step 0 in slots 0-7, 8 at step 1 in slots 8-15, 4 random ones left."""
    if method.config.decay_unit == "step":
        return np.array([2] * 8 + [1] * 8 + [2] * 4)
    return np.array([*range(15, -1, -1), 19, 18, 17, 16])


def run(method):
    views, index = batch_for(method)
    views = tuple(view.double() for view in views)
    objectives, scalars = method(views, None, index)
    backward(objectives)
    return views, index, objectives, scalars


def pieces(method, views):
    scores = method.generator(views[0]).detach().numpy()
    clip = views[0].numpy()
    return clip, scores, oracles.hard_drop(clip, scores, count=1)  # 0.25 of 4 frames


def test_contrastive_loss_and_its_gradient(trained):
    views, index, objectives, scalars = run(trained)
    _, _, dropped = pieces(trained, views)
    keys = embed(views[1].numpy(), weights(trained.key))
    decay = 0.9 ** queue_ages(trained)
    queue, ids = trained.queue.keys.numpy(), trained.queue.ids.numpy()

    def loss(encoder):
        query = embed(dropped, encoder)
        return oracles.info_nce(query, keys, queue, 0.07, decay, index.numpy(), ids)

    encoder = weights(trained.query)
    assert objectives[1].loss.item() == pytest.approx(loss(encoder), rel=1e-10)
    assert scalars["loss"].item() == objectives[1].loss.item()
    gradients = {
        "w": trained.query.backbone.linear.weight.grad,
        "head": trained.query.head.weight.grad,
        "bias": trained.query.head.bias.grad,
    }
    for name, actual in gradients.items():
        truth = oracles.differences(lambda at, name=name: loss(encoder | {name: at}), encoder[name])
        np.testing.assert_allclose(actual.numpy(), truth, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("estimator", ["ste", "official"])
def test_generator_loss_and_its_gradient(estimator):
    method = small_method("videomoco", FrameMeans(), estimator=estimator).double()
    with torch.no_grad():
        method.query.head.weight.normal_()
    views, _, objectives, scalars = run(method)
    clip, scores, dropped = pieces(method, views)
    encoder = weights(method.query)
    real = embed(clip, encoder)

    def loss(mixed):
        return -100 * oracles.distance(embed(mixed, encoder), real)

    assert objectives[0].loss.item() == pytest.approx(loss(dropped), rel=1e-10)
    assert scalars["drop_distance"].item() == pytest.approx(-loss(dropped) / 100, rel=1e-10)
    if estimator == "ste":
        mask = np.stack([row == row.min() for row in scores])
        by_score = oracles.drop_amount_gradient(loss, clip, mask)
        by_score *= oracles.relaxation_slope(scores, 1)
    else:
        # x' + s: the differences are taken around the dropped clip
        by_score = oracles.shift_gradient(loss, dropped)
    actual = [parameter.grad for parameter in method.generator.parameters()]
    truth = torch.autograd.grad(
        method.generator(views[0]),
        list(method.generator.parameters()),
        torch.from_numpy(by_score),
    )
    assert max(gradient.abs().max() for gradient in truth) > 1e-4
    for got, wanted in zip(actual, truth, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-9)


def test_objectives_move_disjoint_parameters():
    method = small_method("videomoco")
    views, index = batch_for(method)
    generator, encoder = method(views, None, index)[0]
    assert {id(p) for p in generator.moves} == {id(p) for p in method.generator.parameters()}
    assert {id(p) for p in encoder.moves} == {id(p) for p in method.query.parameters()}


def test_official_defect_moves_the_generator_by_both():
    def gradient(**options):
        torch.manual_seed(3)
        method = small_method("videomoco", FrameMeans(), estimator="official", **options)
        views, index = batch_for(method)
        objectives, _ = method(views, None, index)
        backward(objectives)
        moved = torch.cat([p.grad.flatten() for p in method.generator.parameters()])
        return method, objectives, moved

    _, _, alone = gradient()
    method, objectives, both = gradient(generator_sees_loss=True)
    views, index = batch_for(method)
    objectives, _ = method(views, None, index)
    own = torch.autograd.grad(objectives[1].loss, list(method.generator.parameters()))
    torch.testing.assert_close(both - alone, torch.cat([g.flatten() for g in own]))
    assert not torch.equal(both, alone)


@pytest.mark.parametrize("mlp", [False, True])
def test_without_generator_and_decay_it_is_plain_moco(mlp):
    method = small_method(
        "videomoco",
        generator="none",
        decay=1.0,
        mlp=mlp,
        exclude_same_video=False,
        key_batch_norm="plain",
        momentum=0.9,
    )
    query, twin = copy.deepcopy(method.query), copy.deepcopy(method.query)
    queue = deque(method.queue.keys.clone(), maxlen=len(method.queue))
    for number in range(4):
        (clip, key_clip), _ = batch_for(method, seed=number)
        q = F.normalize(query(clip), dim=1)
        with torch.no_grad():
            k = F.normalize(twin(key_clip), dim=1)
        similarity = torch.cat([(q * k).sum(1, keepdim=True), q @ torch.stack(list(queue)).T], 1)
        loss = F.cross_entropy(similarity / 0.07, torch.zeros(BATCH, dtype=torch.int64))
        gradients = torch.autograd.grad(loss, list(query.parameters()))
        actual = step(method, number, lr=0.05)
        with torch.no_grad():
            for p, slow, g in zip(query.parameters(), twin.parameters(), gradients, strict=True):
                p -= 0.05 * g
                slow.copy_(0.9 * slow + (1 - 0.9) * p)
        queue.extend(k)
        torch.testing.assert_close(actual, [loss.detach()])
    for got, wanted in ((method.query, query), (method.key, twin)):
        for name, tensor in wanted.state_dict().items():
            torch.testing.assert_close(got.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_random_drop_has_one_objective_and_depends_on_the_seed():
    method = small_method("videomoco", generator="random", drop_content="noise")
    views, index = batch_for(method)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        objectives, scalars = copy.deepcopy(method)(views, None, index)
        assert len(objectives) == 1 and "loss_generator" not in scalars
        losses.append(objectives[0].loss.item())
    assert losses[0] == losses[1] != losses[2]


def test_queries_meet_their_own_keys_through_split_batch_norm():
    # Twin = query encoder and both views the same clip: with statistics frozen q equals k.
    # Four blocks, so that the order of the keys is not its own inverse.
    method = small_method("videomoco", generator="none", split_groups=4)
    norms = [module for module in method.modules() if isinstance(module, SplitBatchNorm)]
    for norm in norms:
        norm.eval()
    assert norms
    (clip, _), index = batch_for(method)
    _, scalars = method((clip, clip), None, index)
    assert scalars["positive_similarity"].item() == pytest.approx(1, abs=1e-5)


def test_split_statistics_differ_between_query_and_key():
    method = small_method("videomoco", generator="none")
    (clip, _), index = batch_for(method)
    _, scalars = method((clip, clip), None, index)
    assert scalars["positive_similarity"].item() < 0.999


def test_running_statistics_see_the_real_clip_then_the_dropped_one():
    method = small_method("videomoco", key_batch_norm="plain")
    expected = copy.deepcopy(method.query)
    (clip, key_clip), index = batch_for(method)
    dropped = torch.from_numpy(
        oracles.hard_drop(clip.numpy(), method.generator(clip).detach().numpy(), 1)
    )
    expected(clip)
    expected(dropped)
    method((clip, key_clip), None, index)
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(method.query.get_buffer(name), buffer)


def test_collapse_is_visible():
    method = small_method("videomoco", FrameMeans(), generator="none")
    views, index = batch_for(method)
    with torch.no_grad():
        method.query.head.weight.normal_()
    spread = method(views, None, index)[1]["feature_std"].item()
    with torch.no_grad():
        method.query.head.weight.zero_()
        method.query.head.bias.copy_(torch.arange(8))
    assert method(views, None, index)[1]["feature_std"].item() < 1e-6 < 0.3 < spread


class TestStages:
    def test_generator_joins_a_trained_encoder(self):
        first = small_method("videomoco", generator="none", decay=1.0)
        step(first, 0)
        second = small_method("videomoco")
        loaded, fresh = second.load_previous(first.state_dict())
        assert loaded == sorted(first.state_dict())
        assert fresh and all(name.startswith("generator.") for name in fresh)
        for name, tensor in first.state_dict().items():
            assert torch.equal(second.state_dict()[name], tensor), name
        step(second, 1)

    def test_generator_may_leave(self):
        loaded, fresh = small_method("videomoco", generator="none").load_previous(
            small_method("videomoco").state_dict()
        )
        assert fresh == [] and not any(name.startswith("generator.") for name in loaded)

    def test_missing_encoder_tensor_is_refused(self):
        state = small_method("videomoco").state_dict()
        del state["query.backbone.stem.0.weight"]
        with pytest.raises(ValueError) as error:
            small_method("videomoco").load_previous(state)
        assert str(error.value) == (
            "query.backbone.stem.0.weight is missing in the previous state; "
            "continue with the same method, backbone and head"
        )

    def test_another_head_is_refused(self):
        state = small_method("videomoco", mlp=True).state_dict()
        with pytest.raises(ValueError, match=r"is missing in the (previous state|new method);"):
            small_method("videomoco").load_previous(state)

    def test_another_queue_is_refused_and_nothing_loaded(self):
        state = small_method("videomoco", queue_size=21).state_dict()
        method = small_method("videomoco", queue_size=20)
        before = copy.deepcopy(method.state_dict())
        with pytest.raises(ValueError) as error:
            method.load_previous(state)
        assert str(error.value) == (
            "queue.birth_key has shape [21] in the previous state and [20] here; "
            "keep width, dim and queue_size between stages"
        )
        assert all(torch.equal(method.state_dict()[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"generator": "adversarail"},
            "generator: 'adversarail' is not one of adversarial, random, none",
        ),
        ({"dim": 0}, "dim: 0 must be 1 or more"),
        ({"momentum": 1.5}, "momentum: 1.5 is outside (0, 1]"),
        ({"decay": 0.0}, "decay: 0.0 is outside (0, 1]"),
        ({"temperature": 0.0}, "temperature: 0.0 must be above 0; 0.07 in the paper"),
        ({"temperature": math.nan}, "temperature: nan must be above 0; 0.07 in the paper"),
        ({"split_groups": 0}, "split_groups: 0 must be 1 or more"),
        (
            {"drop_fraction": 1.0},
            "drop_fraction: 1.0 of 4 frames leaves none; "
            "lower it, take longer clips or set generator: none",
        ),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        small_method("videomoco", **options)
    assert str(error.value) == message


def test_batch_that_does_not_split_is_refused():
    method = small_method("videomoco", generator="none", split_groups=3)
    views, index = batch_for(method)
    with pytest.raises(ValueError, match="8 clips per process does not split into 3 groups; make"):
        method(views, None, index)


def test_exchange_with_oneself_is_refused():
    method = small_method("videomoco", generator="none", key_batch_norm="exchange")
    assert method.views.exchanged == (1,)
    views, index = batch_for(method)
    with pytest.raises(ValueError) as error:
        method(views, None, index)
    assert str(error.value) == (
        "method.key_batch_norm: exchange gives keys to another rank, and there is one process; "
        "start several, or set method.key_batch_norm=split"
    )


def test_sync_in_one_process_is_plain():
    losses = []
    for protection in ("sync", "plain"):
        torch.manual_seed(0)
        method = small_method(
            "videomoco", build_backbone("r3d_18", width=2), key_batch_norm=protection
        )
        losses.append(step(method, 0))
    assert losses[0] == losses[1]
    assert any(
        isinstance(m, nn.SyncBatchNorm)
        for m in small_method("videomoco", key_batch_norm="sync").key.modules()
    )


def test_keys_may_be_stored_in_bfloat16():
    losses = {}
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        method = small_method("videomoco", queue_dtype=dtype, generator="none")
        assert method.queue.keys.dtype == getattr(torch, dtype)
        losses[dtype] = step(method, 0)[0].item()
    # A key is rounded by 2 ** -9 of itself, its logit by at most that over the temperature.
    assert losses["float32"] == pytest.approx(losses["bfloat16"], abs=2**-9 / 0.07)
    assert losses["float32"] != losses["bfloat16"]


def test_defaults_are_the_papers():
    config = Config()
    assert (config.dim, config.queue_size, config.momentum) == (128, 65_536, 0.999)
    assert (config.temperature, config.decay, config.drop_fraction) == (0.07, 0.99999, 0.25)
    assert config.decay**config.queue_size == pytest.approx(0.519, abs=1e-3)
    assert SIZE == 16  # the geometry of the tests, not the paper's 112
