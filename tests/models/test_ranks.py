"""Two processes over gloo do what one does with the whole batch."""

from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from models.gather import gather, world_size
from tests.models.steps import BATCH, backward, batch_for, small_method

WORLD = 2


def frozen_statistics(protection: str, generator: str):
    """A method whose batch norms use running statistics, so that ranks can equal one process."""
    torch.manual_seed(0)
    method = small_method("videomoco", key_batch_norm=protection, generator=generator)
    with torch.no_grad():
        method.query.head.weight.normal_()
        method.key.head.weight.copy_(method.query.head.weight)
    for module in method.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return method


def result(method, model, views, index) -> dict[str, torch.Tensor]:
    """Two steps' losses; gradients of the second, positive similarity of the first, the queue."""
    seen = {}
    for number in range(2):
        method.zero_grad()
        objectives, scalars = model(views, None, index)
        backward(objectives)
        method.after_step(number)
        seen |= {f"loss {number} {i}": o.loss.detach() for i, o in enumerate(objectives)}
        seen[f"positive {number}"] = scalars["positive_similarity"]
    seen |= {f"grad {n}": p.grad for n, p in method.named_parameters() if p.grad is not None}
    return seen | {f"queue {name}": buffer for name, buffer in method.queue.state_dict().items()}


def slices(rank: int, protection: str):
    """What the loader gives to a rank: with exchange, view 1 of the next rank's videos."""
    (first, second), index = batch_for(small_method("videomoco", generator="none"))
    part = BATCH // WORLD
    own = slice(rank * part, (rank + 1) * part)
    other = (rank + 1) % WORLD if protection == "exchange" else rank
    return (first[own], second[other * part : (other + 1) * part]), index[own]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    assert world_size() == WORLD
    assert gather(torch.tensor([[rank, 5]])).tolist() == [[0, 5], [1, 5]]
    for protection, generator in CASES:
        method = frozen_statistics(protection, generator)
        seen = result(method, DistributedDataParallel(method), *slices(rank, protection))
        torch.save(seen, f"{folder}/{protection}-{generator}-{rank}.pt")
    method = small_method("videomoco", key_batch_norm="sync", generator="none")
    with pytest.raises(ValueError, match="torch has no SyncBatchNorm on a CPU; take exchange or"):
        views, index = slices(rank, "plain")
        method(views, None, index)
    dist.destroy_process_group()


CASES = [("exchange", "adversarial"), ("plain", "adversarial"), ("split", "none")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD)
    return folder


@pytest.mark.parametrize("protection, generator", CASES)
def test_two_ranks_equal_one_process(folder, protection, generator):
    ranks = [torch.load(folder / f"{protection}-{generator}-{rank}.pt") for rank in range(WORLD)]
    method = frozen_statistics("plain", generator)
    whole = result(method, method, *batch_for(method))
    assert {n for n in whole if n.startswith("grad query")}
    assert bool([n for n in whole if n.startswith("grad gen")]) == (generator == "adversarial")
    for name, expected in whole.items():
        parts = [rank[name] for rank in ranks]
        if name.startswith(("loss", "positive")):  # means over each rank's part
            torch.testing.assert_close(torch.stack(parts).mean(), expected, rtol=1e-5, atol=1e-6)
        else:  # averaged or gathered: the same on every rank
            for part in parts:
                torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-5)


def test_exchanged_keys_return_to_their_queries(folder):
    # View 1 resembles view 0 of the same video alone, so a wrong partner shows at once.
    ranks = [torch.load(folder / f"exchange-adversarial-{rank}.pt") for rank in range(WORLD)]
    for rank in ranks:
        assert rank["queue ids"][:BATCH].tolist() == list(range(BATCH))
        assert rank["positive 0"] > 0.8
