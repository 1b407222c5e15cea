import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import triton.language as tl

from models.ops import swapped_prediction, swapped_prediction_triton
from models.ops.reference import swapped_prediction as reference
from models.ops.swapped_prediction import _gradient, _swapped_prediction
from tests.ahead_of_time import launches
from tests.cuda import NoHostRead, eager_and_replayed
from tests.models.memory import LargestTensor
from tests.models.prototypes import (
    SHAPES,
    assert_as_exact_as_plain_torch,
    collapsed,
    plain_torch,
    problem,
    truth,
)

needs_cuda = pytest.mark.needs_cuda
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


def loss_and_gradients(given) -> tuple[torch.Tensor, ...]:
    given.z.requires_grad_()
    given.prototypes.requires_grad_()
    loss = swapped_prediction(*given.arguments())
    return loss.detach(), *torch.autograd.grad(loss, (given.z, given.prototypes))


@pytest.mark.parametrize("device", DEVICES)
class TestEquation:
    @pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (17, 40, 100)])
    @pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
    @pytest.mark.parametrize("views", [1, 3])
    def test_float64(self, shape, temperature, views, device):
        given = problem(shape, temperature=temperature, views=views, dtype=torch.float64)
        actual = loss_and_gradients(given.to(device))
        for got, exact in zip(actual, truth(given), strict=True):
            np.testing.assert_allclose(got.cpu(), exact, rtol=1e-10, atol=1e-13)

    @pytest.mark.parametrize("shape", SHAPES[:2])
    @pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
    @pytest.mark.parametrize("sums_to_one", [True, False])
    def test_float32(self, shape, temperature, sums_to_one, device):
        given = problem(shape, temperature=temperature, views=3, sums_to_one=sums_to_one)
        assert_as_exact_as_plain_torch(loss_and_gradients(given.to(device)), given, torch.float32)

    def test_3000_prototypes(self, device):
        given = problem(SHAPES[2])
        assert_as_exact_as_plain_torch(loss_and_gradients(given.to(device)), given, torch.float32)

    def test_more_than_a_tile(self, monkeypatch, device):
        monkeypatch.setattr(reference, "TILE_ROWS", 16)
        given = problem((33, 257, 100))
        assert_as_exact_as_plain_torch(loss_and_gradients(given.to(device)), given, torch.float32)

    def test_bfloat16(self, device):
        given = problem((33, 257, 100), dtype=torch.bfloat16)
        loss, *gradients = loss_and_gradients(given.to(device))
        assert loss.dtype == torch.float32
        assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)
        assert_as_exact_as_plain_torch((loss, *gradients), given, torch.bfloat16)

    def test_bfloat16_is_accumulated_in_float32(self, device):
        given = problem((33, 257, 100), dtype=torch.bfloat16)
        expected = truth(given)[0].item()
        there = given.to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            inside = loss_and_gradients(there)
        outside = loss_and_gradients(there)
        # The same rounded inputs, so only the arithmetic differs: float32's, not bfloat16's 4e-3.
        assert outside[0].item() == pytest.approx(expected, rel=1e-5)
        assert all(torch.equal(one, other) for one, other in zip(inside, outside, strict=True))

    def test_each_input_may_have_its_dtype(self, device):
        given = problem((33, 257, 100), dtype=torch.bfloat16)
        exact = truth(given)
        wider = {"prototypes": given.prototypes.float(), "assignment": given.assignment.double()}
        there = replace(given, **wider).to(device)
        loss, by_z, by_prototypes = loss_and_gradients(there)
        assert (by_z.dtype, by_prototypes.dtype) == (torch.bfloat16, torch.float32)
        assert loss.item() == pytest.approx(exact[0].item(), rel=1e-5)
        torch.testing.assert_close(by_prototypes.cpu().double(), exact[2], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("length", [1, 10, -10])
    def test_prototypes_all_alike(self, length, device):
        given = collapsed(length=length)
        actual = loss_and_gradients(given.to(device))
        assert_as_exact_as_plain_torch(actual, given, torch.float32, length=abs(length))


def test_a_small_loss_keeps_its_digits():
    # Logits 50, -50 and -50: the loss is 1e-5 (50 + 50), and 50 has float32 to 4e-6 only.
    given = problem((1, 3, 2), temperature=0.02, dtype=torch.float32)
    given.z.copy_(torch.tensor([[1.0, 0.0]]))
    given.prototypes.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]))
    given.assignment.copy_(torch.tensor([[[1.0, 1e-5, 0.0]]]))
    assert swapped_prediction(*given.arguments()).item() == pytest.approx(1e-3, rel=1e-6)


def test_views_cost_one_and_equal_the_mean_of_each():
    given = problem((5, 9, 7), views=3)
    together = loss_and_gradients(given)
    alone = [loss_and_gradients(replace(given, assignment=q)) for q in given.assignment.unbind()]
    for number, whole in enumerate(together):
        mean = torch.stack([one[number] for one in alone]).mean(dim=0)
        torch.testing.assert_close(whole, mean)


def test_of_its_own_softmax_is_the_entropy():
    given = problem((5, 9, 7))
    logits = given.z @ given.prototypes.T / 0.1
    q = torch.softmax(logits, dim=1)
    loss, by_z, by_prototypes = loss_and_gradients(replace(given, assignment=q))
    assert loss.item() == pytest.approx(torch.special.entr(q).sum(dim=1).mean().item(), rel=1e-5)
    # Gibbs: no q loses less than p itself, where the gradient is zero.
    assert by_z.abs().max() < 1e-6 and by_prototypes.abs().max() < 1e-6


class TestAutograd:
    @pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (8, 33, 16)])
    @pytest.mark.parametrize("views", [1, 2])
    def test_gradients_equal_differences(self, shape, views):
        given = problem(shape, temperature=0.2, views=views, dtype=torch.float64)
        leaves = given.z.requires_grad_(), given.prototypes.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda z, c: swapped_prediction(z, c, given.assignment, 0.2), leaves
        )

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_opcheck(self, dtype, device):
        given = problem((5, 33, 16), dtype=dtype).to(device)
        given.z.requires_grad_()
        given.prototypes.requires_grad_()
        arguments = given.z, given.prototypes, given.assignment[0], 0.1
        torch.library.opcheck(_swapped_prediction, arguments)
        loss, *kept = _swapped_prediction(*arguments)
        for by_z in (True, False):
            tensors = (x.detach() for x in (loss, *arguments[:3], *kept))
            torch.library.opcheck(_gradient, (*tensors, 0.1, by_z))

    @pytest.mark.parametrize("frozen", ["z", "prototypes"])
    def test_what_is_frozen_costs_nothing(self, frozen, monkeypatch):
        sides = []
        gradient = reference.gradient
        monkeypatch.setattr(
            reference, "gradient", lambda *a, by_z: sides.append(by_z) or gradient(*a, by_z=by_z)
        )
        given = problem((5, 9, 7))
        moving = given.prototypes if frozen == "z" else given.z
        moving.requires_grad_()
        swapped_prediction(*given.arguments()).backward()
        assert sides == [frozen == "prototypes"]
        exact = truth(given)[2 if frozen == "z" else 1]
        torch.testing.assert_close(moving.grad.double(), exact, rtol=1e-4, atol=1e-6)

    def test_an_assignment_gets_no_gradient(self):
        given = problem((5, 9, 7), views=2)
        given.z.requires_grad_()
        given.assignment.requires_grad_()
        swapped_prediction(*given.arguments()).backward()
        assert given.z.grad is not None and given.assignment.grad is None

    def test_two_numbers_a_row_are_kept_beside_the_inputs(self):
        given = problem((8, 30, 16))
        given.z.requires_grad_()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
            swapped_prediction(*given.arguments())
        assert [tensor.shape for tensor in kept] == [(8, 16), (30, 16), (8, 30), (8,), (8,)]
        assert kept[2].data_ptr() == given.assignment.data_ptr()

    def test_a_second_derivative_is_refused(self):
        given = problem((3, 5, 7))
        given.z.requires_grad_()
        with pytest.raises(RuntimeError, match="swapped_prediction: there is no second deriv"):
            torch.autograd.grad(swapped_prediction(*given.arguments()), given.z, create_graph=True)

    @pytest.mark.parametrize("device", DEVICES)
    def test_compiled_in_one_graph(self, device):
        given = problem((8, 33, 16), views=2).to(device)
        expected = loss_and_gradients(given)
        compiled = torch.compile(
            lambda z, c: swapped_prediction(z, c, given.assignment, 0.1),
            fullgraph=True,
            backend="aot_eager",
        )
        loss = compiled(given.z, given.prototypes)
        gradients = torch.autograd.grad(loss, (given.z, given.prototypes))
        for got, wanted in zip((loss.detach(), *gradients), expected, strict=True):
            assert torch.equal(got, wanted)

    @needs_cuda
    def test_captured_in_a_cuda_graph(self):
        given = problem((64, 300, 128), views=3).to("cuda")
        expected, actual = eager_and_replayed(lambda: loss_and_gradients(given))
        for got, wanted in zip(actual, expected, strict=True):
            assert torch.equal(got, wanted)


def test_memory_does_not_grow_with_the_rows():
    given = problem((1000, 30, 7))
    arguments = given.z, given.prototypes, given.assignment[0]
    with NoHostRead(), LargestTensor() as seen:
        loss, *kept = reference.swapped_prediction(*arguments, given.temperature)
        for by_z in (True, False):
            reference.gradient(loss, *arguments, *kept, given.temperature, by_z=by_z)
    tile = reference.TILE_ROWS * 30
    assert seen.numbers == max(tile, given.z.numel())


@pytest.mark.parametrize("narrow", ["z", "prototypes"])
def test_the_wider_dtype_of_two_is_multiplied(narrow):
    # Seen in the launches: where Triton interprets, all products are float32's.
    given = problem((33, 257, 100))
    one = replace(given, **{narrow: getattr(given, narrow).bfloat16()})
    both = replace(one, z=one.z.bfloat16(), prototypes=one.prototypes.bfloat16())
    for each, dtype in ((given, tl.float32), (one, tl.float32), (both, tl.bfloat16)):
        arguments = each.z, each.prototypes, each.assignment[0], 0.1
        found, _ = launches(swapped_prediction_triton.swapped_prediction, *arguments)
        assert found.arguments["PRODUCT"] == dtype


def test_long_vectors_are_left_to_plain_torch():
    def fits(dim: int, *dtypes: torch.dtype) -> bool:
        return swapped_prediction_triton.fits(*(torch.empty(1, dim, dtype=d) for d in dtypes))

    single, half = torch.float32, torch.bfloat16
    assert fits(128, single, half) and not fits(129, single, half)
    assert fits(512, half, half) and not fits(513, half, half)


def test_parts_of_a_gradient_take_no_more_than_the_assignment():
    z, prototypes = torch.empty(256, 128), torch.empty(3000, 128)
    for held, passing in ((z, prototypes), (prototypes, z)):
        cut = swapped_prediction_triton.backward_tiles(held, passing, processors=132)
        assert 1 < cut.parts * held.numel() <= 256 * 3000
        assert (cut.parts - 1) * cut.part_keys < len(passing) <= cut.parts * cut.part_keys


def test_eager_is_the_equation():
    given = problem((5, 9, 7), views=3, dtype=torch.float64)
    for got, exact in zip(plain_torch(given, torch.float64), truth(given), strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-10, atol=1e-13)


# Bad input

Z, PROTOTYPES, ASSIGNMENT = torch.zeros(3, 7), torch.zeros(5, 7), torch.zeros(3, 5)
FIT = "do not fit; expected [N, D], [P, D], and [N, P] or [M, N, P]"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"z": Z[0]}, f"z [7], prototypes [5, 7] and assignment [3, 5] {FIT}"),
        ({"z": Z[:2]}, f"z [2, 7], prototypes [5, 7] and assignment [3, 5] {FIT}"),
        (
            {"prototypes": PROTOTYPES.T},
            f"z [3, 7], prototypes [7, 5] and assignment [3, 5] {FIT}",
        ),
        (
            {"assignment": ASSIGNMENT.T},
            f"z [3, 7], prototypes [5, 7] and assignment [5, 3] {FIT}",
        ),
        (
            {"assignment": ASSIGNMENT[None, None]},
            f"z [3, 7], prototypes [5, 7] and assignment [1, 1, 3, 5] {FIT}",
        ),
        ({"assignment": ASSIGNMENT.expand(0, 3, 5)}, "assignment [0, 3, 5] is empty"),
        ({"z": Z[:0], "assignment": ASSIGNMENT[:0]}, "z [0, 7] is empty"),
        (
            {"prototypes": PROTOTYPES[:0], "assignment": ASSIGNMENT[:, :0]},
            "prototypes [0, 7] is empty",
        ),
        (
            {"assignment": ASSIGNMENT.long()},
            "assignment [3, 5] is torch.int64; expected float32, bfloat16 or float64",
        ),
        (
            {"prototypes": PROTOTYPES.to("meta")},
            "prototypes [5, 7] is on meta, z [3, 7] on cpu; move one to the other",
        ),
        ({"temperature": 0.0}, "temperature 0.0 must be above 0; ViCC has 0.1"),
        ({"temperature": math.nan}, "temperature nan must be above 0; ViCC has 0.1"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"z": Z, "prototypes": PROTOTYPES, "assignment": ASSIGNMENT, "temperature": 0.1}
    with pytest.raises(ValueError) as error:
        swapped_prediction(**arguments | changes)
    assert str(error.value) == f"swapped_prediction: {message}"
