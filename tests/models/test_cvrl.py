import math

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from models import build_backbone
from models.methods.cvrl import Config
from models.ops import nt_xent
from tests import oracles
from tests.models.pairs import pair, truth
from tests.models.small_encoder import FrameMeans, features
from tests.models.steps import BATCH, arguments_for, backward, small_method

WORLD = 2


def small(**options):
    """In float64 on FrameMeans, whose means over 16 x 16 pixels are small."""
    method = small_method("cvrl", FrameMeans(), **{"dim": 4, "hidden_dim": 5} | options).double()
    with torch.no_grad():
        method.backbone.linear.weight.normal_().mul_(10)
    return method


def arguments(part: slice = slice(None)) -> tuple:
    views, flow, index, start_frames = arguments_for(small())
    return tuple(view[part].double() for view in views), flow, index[part], start_frames[part]


def embed(clips: np.ndarray, weights: dict[str, np.ndarray], hidden_layers: int) -> np.ndarray:
    """Backbone and head in NumPy, batch norms with the batch's statistics; unit rows [2 B, D]."""
    x = features(clips, weights["backbone.linear.weight"])
    for layer in range(hidden_layers):
        linear, norm = f"head.{3 * layer}", f"head.{3 * layer + 1}"
        x = x @ weights[f"{linear}.weight"].T
        x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
        x = np.maximum(x * weights[f"{norm}.weight"] + weights[f"{norm}.bias"], 0)
    last = f"head.{3 * hidden_layers}"
    return oracles.unit(x @ weights[f"{last}.weight"].T + weights[f"{last}.bias"])


@pytest.mark.parametrize(
    "hidden_layers, reduction, times", [(0, "mean", 1), (1, "sum_of_views", 2), (3, "mean", 1)]
)
def test_loss_and_its_gradient(hidden_layers, reduction, times):
    method = small(hidden_layers=hidden_layers, reduction=reduction)
    given = arguments()
    objectives, scalars = method(*given)
    backward(objectives)
    clips = np.concatenate([view.numpy() for view in given[0]])

    def loss(weights):
        first, second = np.split(embed(clips, weights, hidden_layers), 2)
        return times * oracles.nt_xent(first, second, 0.1)[0]

    weights = {name: p.detach().numpy().copy() for name, p in method.named_parameters()}
    assert objectives[0].loss.item() == pytest.approx(loss(weights), rel=1e-10)
    assert scalars["loss"].item() == objectives[0].loss.item()
    for name, parameter in method.named_parameters():
        exact = oracles.differences(lambda at, name=name: loss(weights | {name: at}), weights[name])
        np.testing.assert_allclose(parameter.grad.numpy(), exact, rtol=1e-4, atol=1e-6)


def test_figures_are_those_of_the_embeddings():
    method = small(hidden_layers=1)
    given = arguments()
    _, scalars = method(*given)
    clips = np.concatenate([view.numpy() for view in given[0]])
    weights = {name: p.detach().numpy() for name, p in method.named_parameters()}
    first, second = np.split(embed(clips, weights, 1), 2)
    expected = oracles.pair_figures(first, second)
    assert 0 < expected["contrast_accuracy"] < 1
    assert {name: scalars[name].item() for name in expected} == pytest.approx(expected)
    assert scalars.keys() == {"loss", *expected}


def test_one_video_has_figures():
    views, flow, index, start_frames = arguments(slice(1))
    _, scalars = small()(views, flow, index, start_frames)
    assert all(value.isfinite() for value in scalars.values())
    assert scalars["loss"] == 0 and scalars["negative_similarity"] == 0


def test_collapse_is_visible():
    method = small(hidden_layers=0)
    spread = method(*arguments())[1]["feature_std"].item()
    with torch.no_grad():
        method.head[-1].weight.zero_()
    assert method(*arguments())[1]["feature_std"].item() < 1e-6 < 0.3 < spread


def test_batch_norms_see_both_views_together():
    method = small_method("cvrl")
    method(*arguments_for(method))
    expected = small_method("cvrl")
    expected.load_state_dict(method.state_dict())
    norm = expected.backbone.stem[1]
    norm.reset_running_stats()
    clips = torch.cat(arguments_for(method)[0])
    expected.head(expected.backbone(clips))
    torch.testing.assert_close(method.backbone.stem[1].running_mean, norm.running_mean)


@pytest.mark.parametrize("batch_norm", ["sync", "plain"])
def test_batch_norms_of_backbone_and_head(batch_norm):
    method = small_method("cvrl", batch_norm=batch_norm)
    norms = [module for module in method.modules() if isinstance(module, _BatchNorm)]
    assert {isinstance(norm, nn.SyncBatchNorm) for norm in norms} == {batch_norm == "sync"}
    assert [norm.momentum for norm in method.head if isinstance(norm, _BatchNorm)] == (
        pytest.approx([0.003] * 3)
    )


def test_state_is_that_of_backbone_and_head():
    backbone = build_backbone("r3d_18", width=2)
    method = small_method("cvrl", backbone, hidden_layers=1)
    head = {"0.weight": [2048, 16], "1.weight": [2048], "1.bias": [2048]}
    head |= {"1.running_mean": [2048], "1.running_var": [2048], "1.num_batches_tracked": []}
    head |= {"3.weight": [8, 2048], "3.bias": [8]}
    state = method.state_dict()
    assert {n[5:]: list(t.shape) for n, t in state.items() if n.startswith("head.")} == head
    assert {n[9:] for n in state if n.startswith("backbone.")} == backbone.state_dict().keys()
    assert len(state) == len(head) + len(backbone.state_dict())
    assert method.heads() == [method.head] and method.encoder() is method.backbone


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hidden_layers": 4}, "hidden_layers: 4 is outside 0 to 3; 3 in the code"),
        ({"hidden_layers": -1}, "hidden_layers: -1 is outside 0 to 3; 3 in the code"),
        ({"hidden_dim": 0}, "hidden_dim: 0 must be 1 or more"),
        ({"dim": 0}, "dim: 0 must be 1 or more"),
        ({"temperature": 0.0}, "temperature: 0.0 must be above 0; 0.1 in the code"),
        ({"temperature": math.nan}, "temperature: nan must be above 0; 0.1 in the code"),
        ({"reduction": "sum"}, "reduction: 'sum' is not one of sum_of_views, mean"),
        ({"batch_norm": "split"}, "batch_norm: 'split' is not one of sync, plain"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        Config(**options)
    assert str(error.value) == message


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


class TestRanks:
    """Two processes over gloo do what one does with the whole batch."""

    @pytest.mark.parametrize("hidden_layers", [0, 2])
    def test_averaged_gradients_equal_one_process(self, ranks, hidden_layers):
        whole = gradients(hidden_layers, slice(None))
        assert len(whole) == 1 + {0: 3, 2: 9}[hidden_layers]
        for name, expected in whole.items():
            parts = [rank[f"{hidden_layers} layers"][name] for rank in ranks]
            if name == "loss":
                torch.testing.assert_close(torch.stack(parts).mean(), expected)
            for part in parts if name != "loss" else ():
                torch.testing.assert_close(part, expected)

    @pytest.mark.parametrize("how", ["eager", "compiled"])
    def test_each_rank_has_the_gradient_of_all_losses(self, ranks, how):
        loss, by_first, by_second = truth(VIDEOS)
        losses, first, second = zip(*(rank[how] for rank in ranks), strict=True)
        torch.testing.assert_close(torch.stack(losses).mean(), loss)
        torch.testing.assert_close(torch.cat(first), WORLD * by_first)
        torch.testing.assert_close(torch.cat(second), WORLD * by_second)

    def test_every_loss_has_its_own_weight(self, ranks):
        # With weights 0 and 1 the two ranks' gradients are those of the second rank's loss alone.
        alone = [rank["eager"] for rank in ranks]
        weighed = [rank["weighed"] for rank in ranks]
        for number in (1, 2):
            expected = torch.cat([all_of_it[number] for all_of_it in alone])
            of_second = torch.cat([some[number] for some in weighed])
            of_first = torch.cat([rank["weighed the other way"][number] for rank in ranks])
            torch.testing.assert_close(of_first + of_second, expected)
            assert not torch.allclose(of_first, of_second)

    def test_sync_batch_norm_on_a_cpu_is_refused(self, ranks):
        assert [rank["refused"] for rank in ranks] == [
            "method.batch_norm: torch has no SyncBatchNorm on a CPU; take plain"
        ] * WORLD


VIDEOS = pair((6, 10), dtype=torch.float64)


def gradients(hidden_layers: int, part: slice) -> dict[str, torch.Tensor]:
    """Loss and gradients, which ranks average, of the method; its batch norms do not use the
    batch's statistics, which no two ranks share on a CPU.
    """
    torch.manual_seed(0)
    method = small(hidden_layers=hidden_layers, batch_norm="plain")
    for module in method.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    model = DistributedDataParallel(method) if dist.is_initialized() else method
    objectives, scalars = model(*arguments(part))
    backward(objectives)
    return {"loss": scalars["loss"]} | {n: p.grad for n, p in method.named_parameters()}


def loss_and_gradients(part: slice, *, weight: float = 1.0, compiled: bool = False) -> tuple:
    def loss_of(first, second):
        return nt_xent(first, second, VIDEOS.temperature)

    leaves = [view[part].clone().requires_grad_() for view in (VIDEOS.first, VIDEOS.second)]
    run = torch.compile(loss_of, fullgraph=True, backend="aot_eager") if compiled else loss_of
    loss = weight * run(*leaves)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    part = slice(rank * 3, rank * 3 + 3)
    seen = {
        "eager": loss_and_gradients(part),
        "compiled": loss_and_gradients(part, compiled=True),
        "weighed": loss_and_gradients(part, weight=rank),
        "weighed the other way": loss_and_gradients(part, weight=1 - rank),
    }
    own = slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD)
    seen |= {f"{layers} layers": gradients(layers, own) for layers in (0, 2)}
    with pytest.raises(ValueError) as error:
        small()(*arguments(own))
    seen["refused"] = str(error.value)
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
