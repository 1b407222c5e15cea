"""Two processes over gloo do what one does with the whole batch."""

from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from models import gather as gathering
from models.gather import from_next_rank, gather, world_size
from tests.models.steps import BATCH, arguments_for, backward, small_method

WORLD = 2


def frozen_statistics(name: str, protection: str, options: dict):
    """A method whose batch norms use running statistics, so that ranks can equal one process."""
    torch.manual_seed(0)
    method = small_method(name, key_batch_norm=protection, **options)
    with torch.no_grad():
        for (which, own), twin in zip(
            method.query.named_parameters(), method.key.parameters(), strict=True
        ):
            if "head" in which and which.endswith("weight"):
                twin.copy_(own.normal_())
    for module in method.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return method


def result(method, model, arguments: tuple) -> dict[str, torch.Tensor]:
    """Two steps' losses; gradients of the second, positive similarity of the first, the queues."""
    seen = {}
    for number in range(2):
        method.zero_grad()
        objectives, scalars = model(*arguments)
        backward(objectives)
        method.after_step()
        seen |= {f"loss {number} {i}": o.loss.detach() for i, o in enumerate(objectives)}
        seen[f"positive {number}"] = scalars["positive_similarity"]
    seen |= {f"grad {n}": p.grad for n, p in method.named_parameters() if p.grad is not None}
    return seen | {n: tensor for n, tensor in method.state_dict().items() if n.startswith("queue")}


def slices(rank: int, method) -> tuple:
    """What the loader gives to a rank: of the views that are exchanged, the next rank's videos."""
    views, flow, index, start_frames = arguments_for(method)
    part = BATCH // WORLD
    own, other = (slice(r * part, (r + 1) * part) for r in (rank, (rank + 1) % WORLD))
    exchanged = method.views.exchanged
    parts = tuple(view[other if n in exchanged else own] for n, view in enumerate(views))
    return parts, flow, index[own], start_frames[own]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    assert world_size() == WORLD
    assert gather(torch.tensor([[rank, 5]])).tolist() == [[0, 5], [1, 5]]
    assert from_next_rank(torch.tensor([rank, 5])).tolist() == [(rank + 1) % WORLD, 5]
    without_data = FakeTensorMode()
    clips = torch.empty(2, 3, 4, 5).transpose(1, 3)
    assert (
        from_next_rank(without_data.from_tensor(clips)).stride() == from_next_rank(clips).stride()
    )
    for case, (name, protection, options) in CASES.items():
        method = frozen_statistics(name, protection, options)
        seen = result(method, DistributedDataParallel(method), slices(rank, method))
        torch.save(seen, f"{folder}/{case}-{rank}.pt")
    method = small_method("videomoco", key_batch_norm="sync", generator="none")
    with pytest.raises(ValueError, match="torch has no SyncBatchNorm on a CPU; take exchange or"):
        method(*slices(rank, method))
    dist.destroy_process_group()


# Tuples are shuffled by every rank's own draws, so VCLR's order loss has no equal in one process.
NO_ORDER = {"order_weight": 0.0}
CASES = {
    "exchange": ("videomoco", "exchange", {"generator": "adversarial"}),
    "plain": ("videomoco", "plain", {"generator": "adversarial"}),
    "split": ("videomoco", "split", {"generator": "none"}),
    "vclr exchange": ("vclr", "exchange", NO_ORDER),
    "vclr exchange together": ("vclr", "exchange", NO_ORDER | {"batches": "together"}),
    "vclr split": ("vclr", "split", NO_ORDER),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(folder, case):
    name, _, options = CASES[case]
    ranks = [torch.load(folder / f"{case}-{rank}.pt") for rank in range(WORLD)]
    method = frozen_statistics(name, "plain", options)
    whole = result(method, method, arguments_for(method))
    assert {n for n in whole if n.startswith("grad query")}
    by_generator = bool([n for n in whole if n.startswith("grad gen")])
    assert by_generator == (options.get("generator") == "adversarial")
    for name, expected in whole.items():
        parts = [rank[name] for rank in ranks]
        if name.startswith(("loss", "positive")):  # means over each rank's part
            torch.testing.assert_close(torch.stack(parts).mean(), expected, rtol=1e-5, atol=1e-6)
        else:  # averaged or gathered: the same on every rank
            for part in parts:
                torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-5)


def test_exchanged_keys_return_to_their_queries(folder):
    # View 1 resembles view 0 of the same video alone, so a wrong partner shows at once.
    ranks = [torch.load(folder / f"exchange-{rank}.pt") for rank in range(WORLD)]
    for rank in ranks:
        assert rank["queue.ids"][:BATCH].tolist() == list(range(BATCH))
        assert rank["positive 0"] > 0.8


@pytest.mark.parametrize("own", range(3))
def test_what_comes_from_the_next_rank_went_to_the_one_before(own, monkeypatch):
    """With two ranks before and next are the same; here is one of three, without its neighbours."""
    monkeypatch.setattr(gathering, "world_size", lambda: 3)
    monkeypatch.setattr(gathering, "rank", lambda: own)
    monkeypatch.setattr(dist, "P2POp", lambda operation, _, peer: (operation, peer))
    asked = []
    monkeypatch.setattr(dist, "batch_isend_irecv", lambda both: asked.extend(both) or [])
    from_next_rank(torch.zeros(2))
    assert asked == [(dist.isend, (own + 2) % 3), (dist.irecv, (own + 1) % 3)]
