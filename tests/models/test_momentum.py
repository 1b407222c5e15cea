import torch
from torch import nn

from models.momentum import momentum_twin, momentum_update


def module() -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))


def test_parameters_follow_the_moving_average():
    source = module()
    twin = momentum_twin(source)
    assert not any(p.requires_grad for p in twin.parameters())
    expected = [p.double().detach().clone() for p in twin.parameters()]
    for _ in range(5):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.add_(torch.randn_like(parameter))
        momentum_update(twin, source, momentum=0.9)
        pairs = zip(expected, source.parameters(), strict=True)
        expected = [0.9 * mean + (1 - 0.9) * p.double() for mean, p in pairs]
    for actual, truth in zip(twin.parameters(), expected, strict=True):
        torch.testing.assert_close(actual.double(), truth, rtol=1e-6, atol=1e-6)


def test_source_is_left_alone_and_shares_nothing():
    source = module()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    twin = momentum_twin(source)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    momentum_update(twin, source, momentum=0.5)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.data_ptr() != twin.state_dict()[name].data_ptr()


def test_buffers_belong_to_the_twin():
    source = module()
    twin = momentum_twin(source)
    source(torch.randn(4, 3, 2, 2, 2) + 5)
    momentum_update(twin, source, momentum=0.5)
    assert twin[1].running_mean.eq(0).all() and twin[1].num_batches_tracked == 0
    twin(torch.randn(4, 3, 2, 2, 2))
    assert twin[1].num_batches_tracked == 1 and source[1].num_batches_tracked == 1
