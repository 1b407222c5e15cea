"""What every method of the folder keeps to; a new file in models/methods is picked up here."""

import copy
from dataclasses import FrozenInstanceError

import pytest
import torch

from models import build_method, method_config, names
from tests.cuda import NoHostRead
from tests.models.steps import arguments_for, backward, small_method, step

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("name", names())
class TestEveryMethod:
    def test_objectives_are_finite_scalars(self, name):
        method = small_method(name)
        objectives, scalars = method(*arguments_for(method))
        for value in [objective.loss for objective in objectives] + list(scalars.values()):
            assert value.shape == () and value.isfinite()
        assert not any(value.requires_grad for value in scalars.values())

    def test_each_objective_moves_its_parameters_alone(self, name):
        method = small_method(name)
        step(method, 0)
        arguments = arguments_for(method)
        count = len(method(*arguments)[0])
        for number in range(count):
            moved = copy.deepcopy(method)
            objective = moved(*arguments)[0][number]
            before = {key: p.detach().clone() for key, p in moved.named_parameters()}
            objective.loss.backward(inputs=objective.moves)
            torch.optim.SGD(moved.parameters(), lr=0.1).step()
            chosen = {id(parameter) for parameter in objective.moves}
            for key, parameter in moved.named_parameters():
                same = torch.equal(parameter, before[key])
                assert same or id(parameter) in chosen, key
            assert all(parameter.grad is not None for parameter in objective.moves)

    def test_loss_of_a_fixed_batch_falls(self, name):
        method = small_method(name)
        for number in range(3):
            step(method, number)
        arguments = arguments_for(method, seed=9)
        encoder = next(method.encoder().parameters())
        losses = []
        for _ in range(12):
            torch.manual_seed(0)
            objectives, _ = method(*arguments)
            chosen = [o for o in objectives if any(p is encoder for p in o.moves)]
            losses.append(chosen[0].loss.item())
            backward(chosen)
            with torch.no_grad():
                for parameter in chosen[0].moves:
                    parameter -= 0.02 * parameter.grad
            method.zero_grad()
        assert losses[-1] < 0.9 * losses[0]

    def test_restored_state_takes_the_same_step(self, name):
        method = small_method(name)
        for number in range(2):
            step(method, number)
        torch.manual_seed(77)
        restored = small_method(name)
        restored.load_state_dict(copy.deepcopy(method.state_dict()))
        for number in (2, 3):
            assert torch.equal(
                torch.stack(step(method, number)), torch.stack(step(restored, number))
            )
        for key, tensor in method.state_dict().items():
            assert torch.equal(tensor, restored.state_dict()[key]), key

    def test_step_never_waits_for_the_device(self, name, monkeypatch):
        method = small_method(name)
        step(method, 0)
        for read in ("tolist", "numpy", "cpu"):  # these pass the dispatcher by
            monkeypatch.setattr(torch.Tensor, read, refuse)
        with NoHostRead():
            step(method, 1)

    def test_bfloat16_autocast_runs(self, name):
        method = small_method(name)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            objectives, _ = method(*arguments_for(method))
        backward(objectives)
        method.after_step()
        for objective in objectives:
            assert objective.loss.dtype == torch.float32 and objective.loss.isfinite()
            assert all(parameter.grad.isfinite().all() for parameter in objective.moves)

    def test_config_is_frozen(self, name):
        config = method_config(name)()
        with pytest.raises(FrozenInstanceError):
            config.seed = 1

    def test_encoder_gives_features(self, name):
        backbone = small_method(name).encoder()
        clip = torch.randn(2, 3, 4, 16, 16)
        assert backbone.eval()(clip).shape == (2, backbone.feature_dim)


def refuse(*args, **kwargs):
    raise AssertionError("reads the device")


@pytest.mark.parametrize("read", [torch.Tensor.item, int, bool, float])
def test_the_watch_sees_a_host_read(read):
    with NoHostRead(), pytest.raises(AssertionError, match="reads the device"):
        read(torch.tensor(1.0) + 1)


def test_folder_is_the_list():
    assert "videomoco" in names()
    assert not any(name.startswith("_") for name in names())


def test_unknown_method_names_the_nearest():
    with pytest.raises(ValueError) as error:
        build_method("vidoemoco", torch.nn.Identity(), frames=4, size=16)
    assert str(error.value) == (
        f"unknown method 'vidoemoco'; did you mean 'videomoco'? known: {', '.join(names())}"
    )


def test_unknown_option_names_the_nearest():
    with pytest.raises(ValueError) as error:
        small_method("videomoco", temprature=0.1)
    assert str(error.value).startswith(
        "unknown option of method 'videomoco': 'temprature'; did you mean 'temperature'? known: "
    )
