"""Flow as the input of a network of pictures."""

import pytest
import torch

from models import three_channels


def test_flow_has_a_channel_of_zeros_behind_it():
    flow = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    clip = three_channels(flow)
    assert clip.shape == (2, 3, 3, 4, 5) and clip.dtype == flow.dtype
    assert torch.equal(clip[:, :2], flow) and not clip[:, 2].any()


def test_clips_of_three_channels_are_left_alone():
    clip = torch.randn(2, 3, 3, 4, 5)
    assert three_channels(clip) is clip


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_refused(channels):
    with pytest.raises(ValueError) as refused:
        three_channels(torch.zeros(1, channels, 2, 4, 4))
    assert str(refused.value) == (
        f"a network takes pictures of 3 channels or flow of 2, got {channels}: "
        f"[1, {channels}, 2, 4, 4]"
    )
