"""One optimiser step of a method as the training loop makes it, and small inputs for it."""

from __future__ import annotations

import torch
from torch import Tensor

from models import Method, Objective, build_backbone, build_method, method_config
from pipeline import Batch

FRAMES, SIZE, BATCH = 4, 16, 8

# Options that make a method small, where it has them.
SMALL = {"dim": 8, "queue_size": 28, "split_groups": 2, "prototypes": [6]}


def small_method(name: str, backbone=None, **options) -> Method:
    known = method_config(name).__dataclass_fields__
    small = {option: value for option, value in SMALL.items() if option in known}
    backbone = backbone or build_backbone("r3d_18", width=2)
    return build_method(name, backbone, frames=FRAMES, size=SIZE, **(small | options))


def batch_for(
    method: Method, *, seed: int = 0, batch: int = BATCH
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Views of random videos, alike within a video, and the videos' numbers."""
    generator = torch.Generator().manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(batch, 3, FRAMES, SIZE, SIZE, generator=generator)

    video = noise()
    views = tuple(video + 0.2 * noise() for _ in range(method.views.number))
    return views, torch.arange(batch) + batch * seed


def arguments_for(method: Method, *, seed: int = 0) -> tuple:
    """What the training loop gives a method: views, flow, index, start_frames."""
    views, index = batch_for(method, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    # The motion of a video is another matter than its pictures, and alike in its views, too.
    video = torch.randn(BATCH, 2, FRAMES, SIZE, SIZE, generator=generator)
    noise = (0.2 * torch.randn(video.shape, generator=generator) for _ in method.views.flow)
    flow = tuple(video + one for one in noise) or None
    # Of two numbers, so that views of a video often begin with the same frame.
    start_frames = torch.randint(2, (BATCH, len(views)), generator=generator)
    return views, flow, index, start_frames


def batch_of(method: Method, number: int = 0, *, part: slice = slice(None)) -> Batch:
    """The same as the loader hands it over, of the method's dtype, and where it is."""
    like = next(method.parameters())
    views, flow, index, start_frames = arguments_for(method, seed=number)
    views, flow = (
        given and tuple(view[part].to(like) for view in given) for given in (views, flow)
    )
    index, start_frames = index[part].to(like.device), start_frames[part].to(like.device)
    return Batch(views, torch.zeros_like(index), index, flow, start_frames)


def place(number: int) -> dict[str, float]:
    """Epochs and samples before a step, in a data set of two batches."""
    return {"epoch": number / 2, "samples": number * BATCH}


def backward(objectives: list[Objective]) -> None:
    for number, objective in enumerate(objectives, start=1):
        objective.loss.backward(inputs=objective.moves, retain_graph=number < len(objectives))


def step(method: Method, number: int, *, lr: float = 0.05, model=None) -> list[Tensor]:
    """Step `number` on its own batch with plain SGD; returns the losses. `model` wraps `method`."""
    torch.manual_seed(number)
    objectives, _ = (model or method)(*arguments_for(method, seed=number))
    backward(objectives)
    with torch.no_grad():
        for objective in objectives:
            for parameter in objective.moves:
                parameter -= lr * parameter.grad
    method.zero_grad()
    method.after_step()
    return [objective.loss.detach() for objective in objectives]
