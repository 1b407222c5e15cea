"""Operations over all tensors of a network, against loops over their entries in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.ops import ema_, larc_, lars_, total_norm
from tests import oracles
from tests.cuda import never_waiting

needs_cuda = pytest.mark.needs_cuda
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
SHAPES = [(3,), (2, 1, 3, 1, 1), (1, 1), (5, 4), ()]
DTYPES = [torch.float32, torch.float64]
KERNELS = [shape for shape in SHAPES if len(shape) > 1]
LARS = {"momentum": 0.9, "weight_decay": 0.125, "trust": 0.02}

shapes = st.lists(st.lists(st.integers(1, 3), max_size=4).map(tuple), min_size=1, max_size=5)


def noise(shapes, *, seed: int = 0, device="cpu", dtype=torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
        for shape in shapes
    ]


def exact(tensors: list[Tensor]) -> list[np.ndarray]:
    return [tensor.detach().double().cpu().numpy().copy() for tensor in tensors]


def assert_close(tensors: list[Tensor], truth: list[np.ndarray]) -> None:
    for tensor, right in zip(tensors, truth, strict=True):
        # Two or three roundings of numbers about 1.
        tolerance = 4 * torch.finfo(tensor.dtype).eps
        np.testing.assert_allclose(exact([tensor])[0], right, rtol=tolerance, atol=tolerance)


def lars_problem(device="cpu", dtype=torch.float64, shapes=KERNELS) -> list[list[Tensor]]:
    """Velocities, weights and gradients: a weight that is zero, and one that is not to change."""
    lists = [noise(shapes, seed=seed, device=device, dtype=dtype) for seed in range(3)]
    _, weights, gradients = lists
    weights[0].zero_()
    gradients[-1] = -LARS["weight_decay"] * weights[-1]  # a power of two: they cancel exactly
    return lists


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
class TestEquations:
    @pytest.mark.parametrize("momentum", [0.0, 0.5, 0.999, 1.0])
    def test_moving_average(self, momentum, dtype, device):
        twin, source = (noise(SHAPES, seed=s, device=device, dtype=dtype) for s in range(2))
        before, unchanged = exact(twin), exact(source)
        ema_(twin, source, momentum)
        means = zip(before, unchanged, strict=True)
        assert_close(twin, [oracles.moving_average(*pair, momentum) for pair in means])
        assert all(map(np.array_equal, exact(source), unchanged))

    def test_lars(self, dtype, device):
        velocities, weights, gradients = lars_problem(device, dtype)
        layers = zip(*map(exact, (velocities, weights, gradients)), strict=True)
        truth = [oracles.lars_velocity(*layer, **LARS) for layer in layers]
        unchanged = exact(weights), exact(gradients)
        lars_(velocities, weights, gradients, **LARS)
        assert_close(velocities, truth)
        assert all(map(np.array_equal, exact(weights), unchanged[0]))
        assert all(map(np.array_equal, exact(gradients), unchanged[1]))

    def test_larc(self, dtype, device):
        velocities, weights, gradients = lars_problem(device, dtype, SHAPES)
        gradients[1].zero_()
        layers = zip(*map(exact, (velocities, weights, gradients)), strict=True)
        truth = [oracles.larc_velocity(*layer, **LARS) for layer in layers]
        larc_(velocities, weights, gradients, **LARS)
        assert_close(velocities, truth)

    def test_length(self, dtype, device):
        tensors = noise(SHAPES, device=device, dtype=dtype)
        norm = total_norm(tensors)
        assert norm.shape == () and norm.dtype == dtype and norm.device.type == device
        assert_close([norm], [np.array(oracles.length(exact(tensors)))])

    def test_other_memory_formats(self, dtype, device):
        """Convolutions are channels last, and their gradients may be in either order."""
        shape = (2, 3, 2, 2, 2)
        last = [t.to(memory_format=torch.channels_last_3d) for t in noise([shape], dtype=dtype)]
        first = noise([shape], seed=1, dtype=dtype)
        truth = oracles.moving_average(exact(last)[0], exact(first)[0], 0.9)
        twin = [tensor.to(device) for tensor in last]
        ema_(twin, [tensor.to(device) for tensor in first], 0.9)
        assert_close(twin, [truth])
        assert twin[0].is_contiguous(memory_format=torch.channels_last_3d)


@given(shapes, st.floats(0, 1), st.integers(0, 2**31))
def test_any_shapes(shapes, momentum, seed):
    twin, source = noise(shapes, seed=seed), noise(shapes, seed=seed + 1)
    pairs = list(zip(exact(twin), exact(source), strict=True))
    ema_(twin, source, momentum)
    assert_close(twin, [oracles.moving_average(*pair, momentum) for pair in pairs])
    assert total_norm(source).item() == pytest.approx(oracles.length(exact(source)), rel=1e-14)


@pytest.mark.parametrize("device", DEVICES)
class TestRegistered:
    def test_opcheck(self, device):
        twin, source = (noise(SHAPES, seed=s, device=device) for s in range(2))
        torch.library.opcheck(torch.ops.kinema.ema_.default, (twin, source, 0.9))
        torch.library.opcheck(torch.ops.kinema.total_norm.default, (twin,))
        arguments = (*lars_problem(device), *LARS.values())
        torch.library.opcheck(torch.ops.kinema.lars_.default, arguments)
        torch.library.opcheck(torch.ops.kinema.larc_.default, arguments)

    def test_compiled_in_one_graph(self, device):
        def all_of_them(twin, source, velocities, weights, gradients):
            ema_(twin, source, 0.9)
            lars_(velocities, weights, gradients, **LARS)
            larc_(velocities, weights, gradients, **LARS)
            return total_norm(gradients)

        def inputs():
            twin, source = (noise(SHAPES, seed=s, device=device) for s in range(2))
            return twin, source, *lars_problem(device)

        eager, compiled = inputs(), inputs()
        run = torch.compile(all_of_them, fullgraph=True, backend="aot_eager")
        assert torch.equal(run(*compiled), all_of_them(*eager))
        for ours, theirs in zip(compiled, eager, strict=True):
            assert all(map(torch.equal, ours, theirs))

    def test_weights_that_train(self, device):
        """Leaves with requires_grad are read and written, and no graph comes of it."""
        weights = [w.requires_grad_() for w in noise(KERNELS, device=device)]
        gradients = noise(KERNELS, seed=1, device=device)
        velocities = [torch.zeros_like(w) for w in weights]
        lars_(velocities, weights, gradients, **LARS)
        ema_(weights, gradients, 0.9)
        assert not total_norm(weights).requires_grad
        assert all(w.is_leaf and w.grad_fn is None for w in weights)
        assert not any(v.requires_grad for v in velocities)


@needs_cuda
def test_captured_in_a_cuda_graph():
    once, replayed = (lars_problem("cuda") for _ in range(2))

    def work(velocities, weights, gradients):
        lars_(velocities, weights, gradients, **LARS)
        larc_(velocities, weights, gradients, **LARS)
        ema_(gradients, velocities, 0.9)
        return total_norm(velocities)

    with never_waiting():
        for problem in (once, replayed):
            work(*problem)
        for _ in range(3):
            expected = work(*once)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        norm = work(*replayed)
    with never_waiting():
        for _ in range(3):
            graph.replay()
    assert torch.equal(norm, expected)
    assert all(map(torch.equal, once[0], replayed[0]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda t: ema_(t, t, 1.5), "ema_: momentum 1.5 is outside [0, 1]; MoCo has 0.999"),
        (
            lambda t: ema_([], [], 0.9),
            "ema_: twin is an empty list; give the parameters of a network",
        ),
        (lambda t: ema_(t, t[:1], 0.9), "ema_: 1 tensors in source, 2 in twin"),
        (
            lambda t: ema_(t, [t[1], t[0]], 0.9),
            "ema_: source [2, 3] is torch.float32, its twin [4] torch.float32",
        ),
        (
            lambda t: ema_(t, [x.double() for x in t], 0.9),
            "ema_: source [4] is torch.float64, its twin [4] torch.float32",
        ),
        (
            lambda t: ema_([t[0], t[1].double()], t, 0.9),
            "ema_: twin [2, 3] is torch.float64; expected one floating dtype, that of the first is "
            "torch.float32",
        ),
        (
            lambda t: total_norm([t[0].long()]),
            "total_norm: tensors [4] is torch.int64; expected one floating dtype, that of the "
            "first is torch.int64",
        ),
        (
            lambda t: ema_(t, [x.to("meta") for x in t], 0.9),
            "ema_: source [4] is on meta, twin [4] on cpu; move one to the other",
        ),
        (
            lambda t: total_norm([t[0], t[1].to("meta")]),
            "total_norm: tensors [2, 3] is on meta, tensors [4] on cpu; move one to the other",
        ),
        (lambda t: lars_(t, t, t[:1], **LARS), "lars_: 1 tensors in gradients, 2 in velocities"),
        (lambda t: larc_(t, t[:1], t, **LARS), "larc_: 1 tensors in weights, 2 in velocities"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call([torch.zeros(4), torch.zeros(2, 3)])
    assert str(error.value) == message
