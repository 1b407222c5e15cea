"""Losses and updates as functions of tensors. Import from here; other modules are how, not what."""

from models.ops.choice import implementation, set_debug
from models.ops.enqueue import enqueue
from models.ops.info_nce import info_nce
from models.ops.multi_tensor import ema_, larc_, lars_, total_norm
from models.ops.nt_xent import nt_xent
from models.ops.sinkhorn import sinkhorn
from models.ops.swapped_prediction import swapped_prediction

__all__ = [
    "ema_",
    "enqueue",
    "implementation",
    "info_nce",
    "larc_",
    "lars_",
    "nt_xent",
    "set_debug",
    "sinkhorn",
    "swapped_prediction",
    "total_norm",
]
