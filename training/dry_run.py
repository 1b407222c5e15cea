"""What a run would do, found out by building all of it and reading one batch."""

from __future__ import annotations

import time

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline import Batch, Manifest
from pipeline.loader import decoding_of
from training.config import RunConfig
from training.distributed import Process
from training.online import OnlineRetrieval
from training.optim import peak_lr
from training.stages import Stage, build, first_method, training_loader


def dry_run(schedule: list[Stage], manifest: Manifest, process: Process) -> None:
    """Print for every stage what will be trained, how, and how much memory it takes."""
    recipe = schedule[0].recipe
    decoding = decoding_of(manifest, recipe.data, str(process.device))
    say = print if process.is_main else lambda line: None
    say(f"data: {len(manifest)} videos, {len(manifest.classes)} classes, {decoding}")
    for stage in schedule:
        for line in planned(stage, process):
            say(f"{stage.name}: {line}")
    for stage in schedule:
        method, _ = build(stage, process, say=say)
        started = time.perf_counter()
        loader = training_loader(stage, manifest, method, process, say=say)
        batch = next(iter(loader.batches(0, 1)))
        seconds = time.perf_counter() - started
        online = OnlineRetrieval(stage, process)
        for line in [*describe(stage, method, batch, process), online.describe()]:
            say(f"{stage.name}: {line}")
        say(f"{stage.name}: first batch read in {seconds:.1f} s")


def planned(stage: Stage, process: Process) -> list[str]:
    """What the recipe alone tells: it is said even where the stage cannot be built here."""
    recipe, optim = stage.recipe, stage.recipe.optim
    size = recipe.data.batch_size
    peak = peak_lr(optim, size)
    return [
        f"global batch {size} = {process.world} process(es) x {size // process.world}",
        f"effective lr {peak:g} ({optim.name}, {optim.schedule}; {peak * 256 / size:g} per 256)",
        f"{stage.last_step - stage.first_step} steps, {stage.steps_per_epoch:.1f} an epoch",
        step_line(recipe.run),
    ]


def describe(stage: Stage, method, batch: Batch, process: Process) -> list[str]:
    """One line for each fact about a stage that is built."""
    backbone = stage.recipe.backbone
    trainable = sum(p.numel() for p in method.parameters() if p.requires_grad)
    return [
        f"{stage.recipe.method.name} on {backbone.name} (width {backbone.width}), "
        f"{trainable / 1e6:.2f} M trained parameters",
        *[f"view {n}: {list(view.shape)}" for n, view in enumerate(batch.views)],
        *[
            f"flow of view {n}: {list(flow.shape)}"
            for n, flow in zip(method.views.flow, batch.flow or (), strict=True)
        ],
        memory_line(stage, method, batch, process.device),
    ]


def step_line(run: RunConfig) -> str:
    """How a step runs, besides what it computes."""
    kinds = {
        "channels last": run.channels_last,
        "compiled": run.compile,
        "one CUDA graph": run.cuda_graph,
    }
    on = [kind for kind, asked in kinds.items() if asked]
    return ", ".join([f"precision {run.precision}", *on])


def memory_line(stage: Stage, method, batch: Batch, device: torch.device) -> str:
    """Bytes of weights, gradients, optimiser and of what the forward pass keeps for the backward.

    The forward pass runs on tensors without data, so the estimate costs neither time nor memory.
    """
    state = sum(t.numel() * t.element_size() for t in method.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    slots = {"sgd": 1, "lars": 1, "larc": 1, "adamw": 2}[stage.recipe.optim.name]
    kept = saved_bytes(stage, batch, device)
    total = state + trained * (1 + slots) + kept
    return (
        f"memory about {_size(total)} a process in fp32: weights and queue {_size(state)}, "
        f"gradients and optimiser {_size(trained * (1 + slots))}, activations {_size(kept)}"
    )


def saved_bytes(stage: Stage, batch: Batch, device: torch.device) -> int:
    """Bytes that autograd keeps on `device` after the forward pass of this process's batch."""
    storages: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        return tensor

    method = first_method(stage, fresh=False)
    mode = FakeTensorMode()

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        without_data = mode.from_tensor(tensor)
        with mode:
            moved = torch.empty_like(without_data, device=device)
        return moved.requires_grad_(tensor.requires_grad)

    for layer in method.modules():
        if isinstance(layer, torch.nn.SyncBatchNorm):
            layer.eval()  # keeps as much for the backward, and asks no other process
    tensors = dict(method.named_parameters()) | dict(method.named_buffers())
    tensors = {name: fake(tensor) for name, tensor in tensors.items()}
    views = tuple(fake(view) for view in batch.views)
    flow = tuple(map(fake, batch.flow)) if batch.flow else None
    index, starts = fake(batch.index), fake(batch.start_frames)
    with mode, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        objectives, _ = torch.func.functional_call(method, tensors, (views, flow, index, starts))
    assert objectives, "a method without objectives trains nothing"
    return sum(storages.values())


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
