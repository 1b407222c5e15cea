"""What the training loop knows of a method."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from models.heads import load_head


@dataclass(frozen=True)
class Objective:
    """A scalar loss and the parameters that it may change.

    The loop runs `loss.backward(inputs=moves)`, so a loss reaches no other parameter even where
    the graph does.
    """

    loss: Tensor
    moves: list[nn.Parameter]


@dataclass(frozen=True)
class ViewNeeds:
    """What a method asks of the loader.

    number: views per video. exchanged: views that rank r takes from the videos of rank
    (r + 1) % world, so that a video's views meet different batch statistics. sampling: the
    `clip.sampling` whose views alone mean what the method takes them for; empty: any. flow: views
    whose optical flow `forward` is given, in this order.
    """

    number: int
    exchanged: tuple[int, ...] = ()
    sampling: str = ""
    flow: tuple[int, ...] = ()


class Method(nn.Module):
    """An encoder, its training state and its objectives. Subclasses live one per file here.

    All that changes the next step is a parameter or a buffer, hence in the state dict.
    """

    views: ViewNeeds
    # State-dict prefixes that a stage of a training may have and the next may not.
    optional: ClassVar[tuple[str, ...]] = ()
    # What `begin_step` has decided. Where it changes, other parameters train or other operations
    # run: a wrapper of several processes and a captured step are made anew.
    phase: Hashable = None

    def begin_step(self, epoch: float, samples: int) -> None:
        """How far the stage is before a step: for what starts or ends inside a stage.

        epoch: epochs of the stage done, a fraction. samples: that all ranks have used in it.
        Sets `phase`, and which parameters require gradients, from these two and the options alone,
        so that a run that was stopped goes on in the phase it was in.
        """

    def forward(
        self,
        views: tuple[Tensor, ...],
        flow: tuple[Tensor, ...] | None,
        index: Tensor,
        start_frames: Tensor | None = None,
    ) -> tuple[list[Objective], dict[str, Tensor]]:
        """One step's objectives, and detached scalars to log that stay on the device.

        views: [B, 3, T, H, W] each. index: [B] int64, the video of each sample. start_frames:
        [B, V] int64, the first frame in its video of each view of the sample, for a method that
        asks when a view was.
        """
        raise NotImplementedError

    def check_ranks(self, world: int, device: str) -> None:
        """Raises ValueError, naming the recipe's key, where the method cannot train in `world`
        processes on a device of that type: before a video is read, and again in `forward`.
        """

    def after_step(self) -> None:
        """Momentum twin and queue; runs after the optimiser, without host synchronisation.

        With run.cuda_graph this and `forward` run in Python only until a step is captured, whose
        kernels are then repeated: what changes from step to step is a buffer, never a number of
        Python's, and no branch depends on a tensor's value.
        """

    def encoder(self) -> nn.Module:
        """The backbone that evaluation loads."""
        raise NotImplementedError

    def heads(self) -> list[nn.Module]:
        """The projection heads that a head trained elsewhere may replace, twins included."""
        return []

    def start_heads(self, state: Mapping[str, Tensor]) -> None:
        """Starts every head from one trained elsewhere, as VCLR's four from MoCo v2's.

        Raises ValueError where the method has no head, or another.
        """
        if not self.heads():
            raise ValueError("the method has no head that could start from a file")
        for head in self.heads():
            load_head(head, state)

    def load_previous(self, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
        """Continues from the state of the same method with other options.

        Loads every tensor that both have; only tensors under an `optional` prefix may be on one
        side alone. Returns the names loaded and the names left as they were initialised. Raises
        ValueError, and loads nothing, where a shape differs or another tensor is missing.
        """
        own = self.state_dict()
        for name in own.keys() ^ state.keys():
            if not name.startswith(self.optional):
                side = "the previous state" if name in own else "the new method"
                raise ValueError(
                    f"{name} is missing in {side}; continue with the same method, backbone and head"
                )
        shared = sorted(own.keys() & state.keys())
        for name in shared:
            if own[name].shape != state[name].shape:
                raise ValueError(
                    f"{name} has shape {list(state[name].shape)} in the previous state and "
                    f"{list(own[name].shape)} here; keep width, dim and queue_size between stages"
                )
        self.load_state_dict({name: state[name] for name in shared}, strict=False)
        return shared, sorted(own.keys() - state.keys())


def check_choices(config: object) -> None:
    """Raises ValueError where a field annotated Literal[...] holds another value."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        hint, value = hints[field.name], getattr(config, field.name)
        choices = get_args(hint)
        if get_origin(hint) is Literal and value not in choices:
            listed = ", ".join(str(choice) for choice in choices)
            raise ValueError(f"{field.name}: {value!r} is not one of {listed}")


def check_counts(config: object, *names: str) -> None:
    """Raises ValueError where one of these fields is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: {getattr(config, name)} must be 1 or more")
