import pytest
import torch

from models.ops import set_debug


@pytest.fixture(autouse=True)
def _reproducible():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def debug():
    """Ops look into their tensors' values."""
    set_debug(True)
    yield
    set_debug(False)
