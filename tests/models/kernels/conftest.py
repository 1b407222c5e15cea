import pytest
import torch


@pytest.fixture(autouse=True)
def _fresh_memory_is_poisoned(monkeypatch):
    empty = torch.empty

    def poisoned(*size, **options):
        return empty(*size, **options).fill_(torch.nan)

    monkeypatch.setattr(torch, "empty", poisoned)
