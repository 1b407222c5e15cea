"""State dicts as others publish them: names and shapes in tests/fixtures, and files around them.

The fixtures were written out from the sources of torchvision, CoCLR (whose S3D ViCC uses) and
mmaction2, layer by layer, by a script that knew nothing of the networks and names here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

FIXTURES = Path(__file__).parent / "fixtures"
State = dict[str, Tensor]


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Lines `name 64x3x3x7x7` of a fixture."""
    rows = (line.split() for line in (FIXTURES / f"{name}.txt").read_text().splitlines())
    return {
        key: () if shape == "scalar" else tuple(int(side) for side in shape.split("x"))
        for key, shape in rows
    }


def drawn(state: State, seed: int) -> State:
    """The same names and shapes with other numbers; variances stay positive, and what goes through
    all layers stays of a size that can be compared.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return torch.full_like(tensor, seed)
        own = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5
        return own if tensor.ndim < 2 else (own - 1) / tensor[0].numel() ** 0.5

    return {name: draw(tensor) for name, tensor in state.items()}


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def mlp(dim: int, seed: int) -> State:
    """MoCo v2's head, names without what stands before them."""
    names = {"0.weight": (dim, dim), "0.bias": (dim,), "2.weight": (8, dim), "2.bias": (8,)}
    return drawn({name: torch.empty(shape) for name, shape in names.items()}, seed)


def moco_v2(state: State, dim: int) -> dict:
    """main_moco.py of facebookresearch/moco, with --mlp."""
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": {
            **under("module.encoder_q.", state),
            **under("module.encoder_q.fc.", mlp(dim, 1)),
            **under("module.encoder_k.", drawn(state, 2)),
            **under("module.encoder_k.fc.", mlp(dim, 3)),
            "module.queue": torch.zeros(8, 16),
            "module.queue_ptr": torch.zeros(1, dtype=torch.long),
        },
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.03, "params": [0, 1]}]},
    }


def videomoco(state: State, dim: int) -> dict:
    """The netD files of tinapan-pt/VideoMoCo: a linear head, no optimiser."""
    head = {"weight": torch.full((8, dim), 0.25), "bias": torch.zeros(8)}
    return {
        "epoch": 200,
        "arch": "r2plus1d_18",
        "state_dict": {
            **under("module.encoder_q.", state),
            **under("module.encoder_q.fc.", head),
            **under("module.encoder_k.", drawn(state, 2)),
            **under("module.encoder_k.fc.", head),
            "module.queue": torch.zeros(8, 16),
            "module.queue_ptr": torch.zeros(1, dtype=torch.long),
        },
    }


def vclr(state: State, dim: int) -> dict:
    """current.pth of amazon-science/video-contrastive-learning: its command line is inside."""
    heads = {
        name: tensor
        for number, head in enumerate(("inter", "intra", "order", "tsn"))
        for name, tensor in under(f"fc_{head}.", mlp(dim, 10 + number)).items()
    }
    order = {
        "fc_order_classifier.weight": torch.zeros(4, 48),
        "fc_order_classifier.bias": torch.zeros(4),
    }
    return {
        "opt": argparse.Namespace(model_mlp=True, nce_k=131072, lr_decay_epochs=[120, 160, 200]),
        "model": under("module.", {**state, **heads, **order}),
        "model_ema": drawn({**state, **heads, **order}, 2),
        "contrast": {"params": torch.zeros(3), "memory": torch.zeros(16, 8)},
        "contrast_tsn": {"params": torch.zeros(3), "memory": torch.zeros(16, 8)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler": {"last_epoch": 9, "T_max": 395},
        "epoch": 400,
    }


def vicc(state: State, dim: int, *, cross: bool) -> dict:
    """save_epochN.pth.tar of martinetoering/ViCC. state: by CoCLR's names. cross: both streams."""
    second = {**under("second.0.", drawn(state, 2)), **vicc_head("second", dim, 3)}
    return {
        "epoch": 299,
        "state_dict": {
            **under("encoder_q.0.", state),
            **vicc_head("encoder_q", dim, 1),
            "prototypes.weight": torch.zeros(30, 8),
            **(second if cross else {}),
        },
        "best_loss": 0,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.6, "params": [0]}]},
        "iteration": 15000,
    }


def vicc_head(encoder: str, dim: int, seed: int) -> State:
    """Convolutions 2 and 4 of the encoder's sequence, of 1x1x1."""
    kernels = {"2.weight": (dim, dim, 1, 1, 1), "2.bias": (dim,),
               "4.weight": (8, dim, 1, 1, 1), "4.bias": (8,)}  # fmt: skip
    return under(f"{encoder}.", drawn({n: torch.empty(s) for n, s in kernels.items()}, seed))
