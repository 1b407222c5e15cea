"""DIS by OpenCV: its threads, and the sizes that OpenCV cannot take."""

import pytest
import torch

from pipeline.flow.config import DisConfig
from pipeline.flow.dis import Dis
from tests import flow_oracles as oracles


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
@pytest.mark.parametrize("size", [(32, 32), (33, 200), (61, 47)])
def test_every_preset_takes_every_size(preset, size):
    clip, truth = oracles.moving(2, *size, oracles.shift(1, 0))
    flow = Dis(DisConfig(preset))(torch.from_numpy(clip)[None])
    assert oracles.endpoint_error(flow, truth[None], margin=8) < 0.3


def test_threads_change_nothing():
    clip, _ = oracles.moving(0, 64, 64, oracles.shift(2, 1), frames=60)
    clip = torch.from_numpy(clip).view(3, 20, 64, 64)
    assert torch.equal(Dis(DisConfig("medium"))(clip), Dis(DisConfig("medium"), threads=3)(clip))


def test_clips_in_another_order_in_memory():
    clip = torch.from_numpy(oracles.moving(2, 40, 48, oracles.shift(1, 0))[0])[None]
    strided = clip.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(Dis(DisConfig())(strided), Dis(DisConfig())(clip))


@pytest.mark.parametrize("height, width", [(31, 64), (64, 31), (1, 1), (8, 64)])
def test_small_pictures_are_refused(height, width):
    # OpenCV 5.0 itself crashes on the last of these.
    with pytest.raises(ValueError) as refused:
        Dis(DisConfig())(torch.zeros(1, 2, height, width, dtype=torch.uint8))
    assert str(refused.value) == (
        f"flow.operator: dis needs pictures of 32×32 pixels, got {width}×{height}; "
        "use tvl1, or enlarge augment.size"
    )
