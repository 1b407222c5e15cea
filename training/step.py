"""One step of a training, as train.py takes it and as the benchmark times it."""

from __future__ import annotations

import gc
from collections.abc import Hashable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from models import Method
from pipeline import Batch
from training import distributed
from training.config import RunConfig
from training.distributed import Process
from training.errors import ConfigError
from training.optim import gradient_norm, make_capturable, set_lr
from training.staging import StaticBatch

# Steps before the capture: they make the optimiser's state, choose cuDNN's algorithms and compile
# kernels, none of which a graph may do.
WARM_UP_STEPS = 3


def build_step(
    method: Method, optimizer: torch.optim.Optimizer, process: Process, run: RunConfig
) -> Step:
    """The step that `run` asks for. Raises ConfigError where it asks for what is not here."""
    check(run, process)
    if run.compile:
        compile_networks(method)
    kind = CapturedStep if run.cuda_graph else Step
    return kind(method, optimizer, process, precision=run.precision)


def check(run: RunConfig, process: Process) -> None:
    """Raises ConfigError where a captured step cannot be."""
    if run.cuda_graph and process.device.type != "cuda":
        raise ConfigError(
            f"error: run.cuda_graph needs a GPU, this run is on {process.device.type} · leave it "
            "out, or train where torch finds a GPU"
        )
    if run.cuda_graph and process.world > 1:
        raise ConfigError(
            f"error: run.cuda_graph is for one process, this run has {process.world} · leave it out"
        )


def compile_networks(method: Method) -> None:
    """torch.compile for each network of the method, in place: names in the state dict stay.

    The networks alone, for they are nearly all of a step's work: what joins them, the queue and
    the losses, are fused operations already.
    """
    for network in networks(method):
        network.compile(dynamic=False)  # batches have one shape


def networks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules inside `module` that compute: not the lists and queues around them."""
    for child in module.children():
        if type(child).forward is nn.Module.forward:  # torch's own, which only raises
            yield from networks(child)
        else:
            yield child


class Step:
    """From a batch to new weights. The host waits for the device nowhere."""

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        process: Process,
        *,
        precision: str,
    ):
        self.method, self.optimizer, self.process = method, optimizer, process
        self.precision = distributed.precision(precision, process)
        self._model: nn.Module | None = None  # the method as all processes share it, for `_phase`
        self._phase: Hashable = None

    def __call__(
        self, batch: Batch, *, number: int, lr: float, seed: int, epoch: float, samples: int
    ) -> dict[str, Tensor]:
        """Take step `number` of the run. Returns scalars that stay on the device.

        epoch, samples: what the stage has done before, see `Method.begin_step`. Whatever the step
        draws is a function of (seed, number, rank).
        """
        distributed.seed_step(seed, number, self.process.rank)
        # A float32, as on the device: eager and captured steps have the same rate to the last bit.
        set_lr(self.optimizer, float(np.float32(lr)))
        self.method.begin_step(epoch, samples)
        if self._model is None or self.method.phase != self._phase:
            self._enter_phase()
        return self._on_device(batch)

    def _enter_phase(self) -> None:
        """Another set of parameters may require gradients, and the wrapper of several processes
        looks for that only when it is made. The last one goes first, with its hooks and buckets.
        """
        if self._model is not None:
            self._model = None
            gc.collect()  # it is in cycles, and its buckets are as large as all gradients
        self._model = distributed.wrap(self.method, self.process)
        self._phase = self.method.phase

    def _on_device(self, batch: Batch) -> dict[str, Tensor]:
        with self.precision:
            objectives, scalars = self._model(
                batch.views, batch.flow, batch.index, batch.start_frames
            )
        for objective in objectives:
            more = objective is not objectives[-1]
            objective.loss.backward(inputs=objective.moves, retain_graph=more)
        scalars["grad_norm"] = gradient_norm(self.optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step()
        return scalars


class CapturedStep(Step):
    """The same step, recorded once as a CUDA graph and replayed: one launch for all of it.

    The first WARM_UP_STEPS are ordinary steps of the run on the stream of the capture. Then one
    step is recorded, which computes nothing, and is replayed for its batch and every later one of
    the method's phase; the next phase begins with ordinary steps again.

    A replay repeats every number that Python had at the capture. Three change from step to step
    and are on the device instead: the batch, copied into the graph's own buffers; the learning
    rate, one tensor that `set_lr` fills; and the seed. torch registers its generator with the
    graph and, before each replay, writes its seed and offset where the graph's kernels read them.
    Seeding it sets the offset to zero, at the start of an eager step and of a replay alike, so
    both draw the same numbers.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        process: Process,
        *,
        precision: str,
    ):
        super().__init__(method, optimizer, process, precision=precision)
        self._stream = torch.cuda.Stream(process.device)

    def _enter_phase(self) -> None:
        """A phase has its own graph, and new parameters their optimiser's state to be made."""
        super()._enter_phase()
        self._warm_up_left = WARM_UP_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None

    def _on_device(self, batch: Batch) -> dict[str, Tensor]:
        if self._warm_up_left:
            self._warm_up_left -= 1
            return self._beside(batch)
        if self._graph is None:
            self._capture(batch)
        self._inputs.fill(batch)
        self._graph.replay()
        return dict(self._scalars)  # the tensors of every replay: good until the next

    def _beside(self, batch: Batch) -> dict[str, Tensor]:
        """An eager step on the capture's stream, where its memory is the graph's to reuse."""
        compute = torch.cuda.current_stream(self.process.device)
        self._stream.wait_stream(compute)
        with torch.cuda.stream(self._stream):
            scalars = super()._on_device(batch)
        compute.wait_stream(self._stream)
        return scalars

    def _capture(self, batch: Batch) -> None:
        self._inputs, graph = StaticBatch(batch), torch.cuda.CUDAGraph()
        make_capturable(self.optimizer, self.process.device)
        try:
            # The loader's threads allocate and copy meanwhile; only this one's mistakes count.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._scalars = super()._on_device(self._inputs.batch)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"error: run.cuda_graph: the step cannot be captured · {reason} · leave it out"
            ) from error
        self._graph = graph
