"""Losses as functions of tensors. Import from here; the other modules are how, not what."""

from models.ops.choice import implementation, set_debug
from models.ops.enqueue import enqueue
from models.ops.info_nce import info_nce

__all__ = ["enqueue", "implementation", "info_nce", "set_debug"]
