"""Losses as functions of tensors. Import from here; the other modules are how, not what."""

from models.ops.info_nce import info_nce

__all__ = ["info_nce"]
