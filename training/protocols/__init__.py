"""Evaluation protocols, one file each: features in, shares of rightly answered test videos out.

    inputs -> job -> (views -> features) -> PROTOCOL.measure -> outcome -> record

Every protocol has `Options`, the typed `eval.*` of the command line, and `measure(job)`, whose
docstring names its source. `features` (export) and `fuse` measure nothing themselves.
"""

from __future__ import annotations

from training.protocols import finetune, knn, linear, retrieval, semi, svm
from training.protocols.ranking import nearest
from training.protocols.retrieval import recall_among

MEASURES = {
    "retrieval": retrieval,
    "knn": knn,
    "linear": linear,
    "svm": svm,
    "finetune": finetune,
    "semi": semi,
}

__all__ = ["MEASURES", "nearest", "recall_among"]
