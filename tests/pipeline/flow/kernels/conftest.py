import pytest
import torch
from torch.utils import deterministic


@pytest.fixture(autouse=True)
def _fresh_memory_is_poisoned(monkeypatch):
    """With NaN, which torch does where results shall be the same every time."""
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
