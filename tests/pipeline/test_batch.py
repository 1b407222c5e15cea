"""A batch refuses what does not fit together, and says which field."""

from __future__ import annotations

import pytest
import torch

from pipeline.batch import Batch

B, VIEW = 3, (3, 3, 4, 8, 8)


def fields(**changed) -> dict:
    whole = {
        "views": (torch.zeros(VIEW), torch.zeros(VIEW)),
        "label": torch.zeros(B, dtype=torch.int64),
        "index": torch.arange(B),
        "flow": (torch.zeros(B, 2, 4, 8, 8),),
        "start_frames": torch.zeros(B, 2, dtype=torch.int64),
    }
    return whole | changed


def test_a_whole_batch_is_accepted_with_and_without_flow():
    assert len(Batch(**fields())) == B
    assert len(Batch(**fields(flow=None))) == B
    halves = tuple(view.bfloat16() for view in fields()["views"])
    assert Batch(**fields(views=halves)).flow is not None
    assert Batch(**fields(start_frames=None)).start_frames is None


def test_it_describes_itself_without_its_pixels():
    text = repr(Batch(**fields(flow=None)))
    one = "[3, 3, 4, 8, 8] float32"
    assert text == f"Batch(views=({one}, {one}), flow=None, size=3)"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "label",
            torch.zeros(2, dtype=torch.int64),
            "batch.label: expected [3] int64, got [2] int64",
        ),
        ("label", torch.zeros(3), "batch.label: expected [3] int64, got [3] float32"),
        (
            "label",
            torch.zeros(3, 1, dtype=torch.int64),
            "batch.label: expected [3] int64, got [3, 1] int64",
        ),
        (
            "index",
            torch.arange(3, dtype=torch.int32),
            "batch.index: expected [3] int64, got [3] int32",
        ),
        (
            "views",
            (torch.zeros(VIEW), torch.zeros(2, 3, 4, 8, 8)),
            "batch.views[1]: expected [3, C, T, H, W] float, got [2, 3, 4, 8, 8] float32",
        ),
        (
            "views",
            (torch.zeros(3, 3, 8, 8),),
            "batch.views[0]: expected [3, C, T, H, W] float, got [3, 3, 8, 8] float32",
        ),
        (
            "views",
            (torch.zeros(VIEW, dtype=torch.uint8),),
            "batch.views[0]: expected [3, C, T, H, W] float, got [3, 3, 4, 8, 8] uint8",
        ),
        (
            "flow",
            (torch.zeros(4, 2, 4, 8, 8),),
            "batch.flow[0]: expected [3, C, T, H, W] float, got [4, 2, 4, 8, 8] float32",
        ),
        (
            "start_frames",
            torch.zeros(3, 1, dtype=torch.int64),
            "batch.start_frames: expected [3, 2] int64, got [3, 1] int64",
        ),
        (
            "start_frames",
            torch.zeros(3, 2),
            "batch.start_frames: expected [3, 2] int64, got [3, 2] float32",
        ),
    ],
)  # fmt: skip
def test_a_wrong_shape_or_type_names_its_field(field, value, message):
    with pytest.raises(ValueError) as caught:
        Batch(**fields(**{field: value}))
    assert str(caught.value) == message
