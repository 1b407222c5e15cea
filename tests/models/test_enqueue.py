import pytest
import torch

from models.ops import enqueue
from models.ops.enqueue import _enqueue
from models.queue import FeatureQueue
from tests.cuda import never_waiting

needs_cuda = pytest.mark.needs_cuda
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
DTYPES = [torch.float32, torch.bfloat16]


def ring_of(queue: FeatureQueue) -> dict[str, torch.Tensor]:
    return dict(queue.named_buffers())


def batch(count: int, dim: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    keys = torch.randn(count, dim, generator=generator).to(device)
    return keys, torch.arange(count, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
class TestRing:
    @pytest.mark.parametrize(
        "slots, sizes", [(7, (3, 3, 3)), (5, (5, 12, 0, 1)), (300, (256,) * 3)]
    )
    def test_holds_the_newest_where_they_belong(self, slots, sizes, dtype, device):
        queue = FeatureQueue(slots, 16, dtype=dtype).to(device)
        truth = [(row, -1, -slots + n, 0) for n, row in enumerate(queue.keys.clone())]
        written = 0
        for step, size in enumerate(sizes):
            keys, ids = batch(size, 16, device)
            enqueue(keys, ids, **ring_of(queue))
            for n in range(size):  # one after the other, later ones over earlier ones
                truth[written % slots] = (keys[n].to(dtype), n, written, step)
                written += 1
        keys, ids, birth_key, birth_step = zip(*truth, strict=True)
        assert torch.equal(queue.keys, torch.stack(keys))
        assert queue.ids.tolist() == list(ids)
        assert queue.birth_key.tolist() == list(birth_key)
        assert queue.birth_step.tolist() == list(birth_step)
        assert (queue.keys_written.item(), queue.steps.item()) == (written, len(sizes))

    def test_opcheck(self, dtype, device):
        queue = FeatureQueue(7, 16, dtype=dtype).to(device)
        torch.library.opcheck(_enqueue, (*batch(5, 16, device), *ring_of(queue).values()))

    def test_compiled_in_one_graph(self, dtype, device):
        eager, compiled = (FeatureQueue(7, 16, dtype=dtype).to(device) for _ in range(2))
        step = torch.compile(compiled.enqueue, fullgraph=True, backend="aot_eager")
        for size in (3, 9):
            eager.enqueue(*batch(size, 16, device))
            step(*batch(size, 16, device))
        for name, buffer in eager.named_buffers():
            assert torch.equal(buffer, compiled.get_buffer(name)), name

    def test_keys_may_have_a_graph(self, dtype, device):
        queue = FeatureQueue(7, 16, dtype=dtype).to(device)
        keys, ids = batch(3, 16, device)
        queue.enqueue(keys.requires_grad_() * 1, ids)
        assert not queue.keys.requires_grad


@needs_cuda
@pytest.mark.parametrize("dtype", DTYPES)
def test_captured_in_a_cuda_graph(dtype):
    once, replayed = (FeatureQueue(300, 128, dtype=dtype).to("cuda") for _ in range(2))
    keys, ids = batch(256, 128, "cuda")
    for queue in (once, replayed):
        queue.enqueue(keys, ids)
    with never_waiting():
        for queue in (once, replayed):
            queue.enqueue(keys, ids)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.enqueue(keys, ids)
    for _ in range(3):
        graph.replay()
        once.enqueue(keys, ids)
    torch.cuda.synchronize()
    for name, buffer in once.named_buffers():
        assert torch.equal(buffer, replayed.get_buffer(name)), name


KEYS, IDS = torch.zeros(4, 8), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    "keys, ids, ring, message",
    [
        (
            KEYS[:, :7],
            IDS,
            {},
            "new_keys [4, 7] is torch.float32; expected [B, 8] and a floating dtype",
        ),
        (KEYS[0], IDS, {}, "new_keys [8] is torch.float32; expected [B, 8] and a floating dtype"),
        (
            KEYS.long(),
            IDS,
            {},
            "new_keys [4, 8] is torch.int64; expected [B, 8] and a floating dtype",
        ),
        (KEYS, IDS[:3], {}, "new_ids [3] is torch.int64; expected [4] and int64"),
        (KEYS, IDS.int(), {}, "new_ids [4] is torch.int32; expected [4] and int64"),
        (
            KEYS.to("meta"),
            IDS,
            {},
            "new_keys [4, 8] is on meta, keys [5, 8] on cpu; move one to the other",
        ),
        (
            KEYS,
            IDS.to("meta"),
            {},
            "new_ids [4] is on meta, keys [5, 8] on cpu; move one to the other",
        ),
        (
            KEYS,
            IDS,
            {"keys": torch.zeros(0, 8)},
            "keys [0, 8] is no ring; expected [K, D], one slot or more",
        ),
    ],
)
def test_bad_input_is_named(keys, ids, ring, message):
    with pytest.raises(ValueError) as error:
        enqueue(keys, ids, **(ring_of(FeatureQueue(5, 8)) | ring))
    assert str(error.value) == f"enqueue: {message}"
