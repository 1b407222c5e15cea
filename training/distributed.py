"""One process of a run: its rank, its device, and what the processes agree on."""

from __future__ import annotations

import os
import signal
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from training.errors import ConfigError, DistributedError
from training.readback import Readback

T = TypeVar("T")
# What gloo, NCCL and torch's store say when a connection ends.
PEER_IS_GONE = ("closed by peer", "reset by peer", "remote process exited", "Broken pipe",
                "Connection refused", "Timed out", "NCCL communicator was aborted")  # fmt: skip
AGREE_AFTER_STEPS = 4  # a stop flag is read this many steps after it was raised: no waiting


@dataclass(frozen=True)
class Process:
    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(device: str) -> Process:
    """Join the run that torchrun started, or be the only process.

    device: "cpu", "cuda" or "auto". Raises ConfigError when a GPU is asked for and none is here.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("error: run.device=cuda, but torch finds no GPU · use run.device=cpu")
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    if on_gpu:
        torch.cuda.set_device(local)
    if world > 1:
        # Torch 2.13 deprecates names whose successors 2.11 does not have yet.
        warnings.filterwarnings("ignore", ".*(all_gather_into_tensor|broadcast_buffers)")
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return Process(rank, world, torch.device("cuda", local) if on_gpu else torch.device("cpu"))


@contextmanager
def joined(device: str) -> Iterator[Process]:
    """`start`, and leave in the end. The loss of another process becomes a DistributedError."""
    process = start(device)
    try:
        yield process
    except RuntimeError as error:
        if process.world == 1 or not any(sign in str(error) for sign in PEER_IS_GONE):
            raise
        reason = " ".join(str(error).split())[:200]
        raise DistributedError(
            f"error: another process of the run is gone · {reason} · its own last line says why; "
            "start all of them again"
        ) from error
    finally:
        finish()


def finish() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap(method: nn.Module, process: Process) -> nn.Module:
    """The method with gradients averaged over all processes; itself when there is one."""
    if process.world == 1:
        return method
    device_ids = [process.device.index] if process.device.type == "cuda" else None
    # Buffers (queue, running statistics) are kept equal by the method itself, or are local.
    return nn.parallel.DistributedDataParallel(
        method, device_ids=device_ids, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def of_all_ranks(own: T, process: Process) -> list[T]:
    """What each process gives, in rank order. All have to ask; tensors are to be on the CPU."""
    if process.world == 1:
        return [own]
    all_of_them: list = [None] * process.world
    dist.all_gather_object(all_of_them, own)
    return all_of_them


def of_main(own: T, process: Process) -> T:
    """What the main process gives, sent to all. All have to ask; tensors are to be on the CPU."""
    if process.world == 1:
        return own
    sent = [own]
    dist.broadcast_object_list(sent, src=0)
    return sent[0]


def check_same(fingerprint: str, process: Process) -> None:
    """Raise DistributedError unless every process starts with the same recipe and data."""
    all_of_them = of_all_ranks(fingerprint, process)
    others = [r for r, other in enumerate(all_of_them) if other != all_of_them[0]]
    if others:
        raise DistributedError(
            f"error: ranks {others} started with another recipe, data set or version than rank 0 "
            "· start all with the same command and files"
        )


def precision(asked: str, process: Process) -> torch.autocast:
    """The autocast context of the forward pass. asked: "bf16", "fp32", or "auto"."""
    on_gpu = process.device.type == "cuda"
    bf16 = asked == "bf16" or (asked == "auto" and on_gpu and torch.cuda.is_bf16_supported())
    return torch.autocast(process.device.type, dtype=torch.bfloat16, enabled=bf16)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make torch's generator a pure function of (seed, step, rank), so it needs no saving."""
    # Odd multipliers keep neighbouring steps and ranks apart; the seed is taken modulo 2^64.
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank) % 2**63)


class StopSignal:
    """Turns SIGTERM, SIGUSR1 and Ctrl-C into a flag that all processes see at the same step.

    The second signal ends the process at once. Nothing is ever saved inside a handler.
    """

    def __init__(self, process: Process):
        self.process, self.received = process, 0
        self.seen = 0  # what the processes have agreed to stop for
        self._flags: deque[tuple[torch.Tensor, dist.Work]] = deque()
        self._agreed: deque[Readback] = deque()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number

    def agreed(self) -> int:
        """The signal to stop for, or 0; the same in every process. Call once a step."""
        if self.process.world == 1:
            self.seen = self.received
            return self.seen
        # torch.full: a tensor from a list would be copied from the host, which waits for that.
        flag = torch.full((1,), self.received, device=self.process.device)
        self._flags.append((flag, dist.all_reduce(flag, op=dist.ReduceOp.MAX, async_op=True)))
        if len(self._flags) == AGREE_AFTER_STEPS:
            oldest, work = self._flags.popleft()
            work.wait()  # of NCCL: the stream waits, not the host
            self._agreed.append(Readback(oldest))
        if len(self._agreed) == 2:
            (self.seen,) = self._agreed.popleft().tolist()
        return self.seen
