"""Flow as bytes, the field's way."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flow.encoding import flow_of_image, image_of


def field(*values: float) -> torch.Tensor:
    """[1, 2, 1, 1, n]: the values as u, their negatives as v."""
    u = torch.tensor(values)
    return torch.stack([u, -u])[None, :, None, None]


def test_known_values():
    # 255 (x + 20) / 40: 0 -> 127.5, to the even 128; 1 -> 133.875; 10 -> 191.25.
    image = image_of(field(0, 1, 10, 20, -20, 1e9))
    assert image.dtype == torch.uint8 and image.shape == (1, 3, 1, 1, 6)
    assert image[0, 0].flatten().tolist() == [128, 134, 191, 255, 0, 255]
    assert image[0, 1].flatten().tolist() == [128, 121, 64, 0, 255, 0]
    assert image[0, 2].flatten().tolist() == [128] * 6


@given(st.floats(-20, 20, width=32))
def test_the_inverse_is_within_half_a_step(u):
    flow = field(u)
    assert (flow_of_image(image_of(flow)) - flow).abs().max() <= 20 / 255 + 1e-5


def test_another_bound():
    assert image_of(field(5.0), bound_pixels=5)[0, 0].item() == 255
    assert flow_of_image(image_of(field(5.0), bound_pixels=5), bound_pixels=5)[0, 0] == 5


@pytest.mark.parametrize("shape", [(2, 2, 3, 5, 7), (0, 2, 1, 4, 4)])
def test_shapes(shape):
    batch, _, *rest = shape
    image = image_of(torch.randn(shape))
    assert image.shape == (batch, 3, *rest) and flow_of_image(image).shape == shape
