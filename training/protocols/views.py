"""Which clips of a video are looked at, and the mean over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from pipeline import DataError, Manifest, Place
from pipeline.clip import ClipConfig, span, with_next_frame
from pipeline.windows import Windows, one_random, sliding, uniform
from training.config import Recipe
from training.distributed import Process, of_all_ranks, of_main
from training.errors import ConfigError, NumericError
from training.features import Features, extract_share, flow_of, joined, of_means
from training.parts import Parts
from training.protocols import layer

Kind = Literal["uniform", "windows", "random"]


@dataclass
class Views:
    """Options that every protocol has: which clips of a video it looks at."""

    clips: int = 10  # of uniform: clips of a video, spread end to end
    train: Kind = "uniform"  # of a training video: uniform clips, windows, or one random clip
    test: Kind = "uniform"  # of a test video
    window_step: int = 0  # of windows: frames of the video between two; 0: half a clip
    size: int = 0  # side of a view in evaluation, pixels; 0: augment.size
    # stem or layer1 to layer4: features of an earlier stage than the last; empty: as it ends
    layer: str = ""

    @property
    def trains_on_clips(self) -> bool:
        """Whether training videos are shown as augmented clips, and no features of them kept."""
        return False


def check(options: Views) -> None:
    """Raise ConfigError naming the option that makes no clips, or has no effect."""
    for name, least in (("clips", 1), ("window_step", 0), ("size", 0)):
        if (value := getattr(options, name)) < least:
            raise ConfigError(f"error: eval.{name}: expected at least {least}, got {value}")
    layer.check(options.layer)
    if options.window_step and "windows" not in (options.train, options.test):
        raise ConfigError(
            "error: eval.window_step has no effect without eval.train=windows or eval.test=windows"
        )


def check_clips(options: Views, name: str, parts: Sequence[str]) -> None:
    """Raise ConfigError where a number of clips has no effect on the sets that are looked at.

    A classifier that is trained on clips sees a random one of every training video.
    """
    looked_at = [part for part in parts if part == "test" or not options.trains_on_clips]
    if any(getattr(options, part) == "uniform" for part in looked_at):
        return
    kinds = " and ".join(f"eval.{part}={getattr(options, part)}" for part in looked_at)
    raise ConfigError(
        f"error: {name} has no effect with {kinds} · it is the number of uniform clips of a video"
    )


@dataclass(frozen=True)
class Sampling:
    """The clips of one set. clips: of uniform; step: of windows, in frames; seed: of random."""

    kind: Kind
    clips: int = 0
    step: int = 0
    seed: int = 0

    def cut(self, manifest: Manifest, clip: ClipConfig) -> Windows:
        """Every clip of every video as a row of its own."""
        if self.kind == "uniform":
            return uniform(manifest, clip, self.clips)
        if self.kind == "windows":
            return sliding(manifest, clip, self.step)
        return one_random(manifest, clip, self.seed)

    def described(self) -> dict:
        """What it depends on, for a result and the key of a cache."""
        number = {"uniform": "clips", "windows": "step", "random": "seed"}[self.kind]
        return {"sampling": self.kind, number: getattr(self, number)}


def sampling_of(part: Literal["train", "test"], options: Views, recipe: Recipe) -> Sampling:
    """The clips of the training or the test videos."""
    clip = recipe.clip
    step = options.window_step or max(1, span(clip.frames, clip.stride) // 2)
    return Sampling(getattr(options, part), options.clips, step, recipe.run.seed)


def sized(recipe: Recipe, options: Views) -> Recipe:
    """The recipe with views of the size asked for in evaluation."""
    if not options.size:
        return recipe
    return replace(recipe, augment=replace(recipe.augment, size=options.size))


def extract(
    encoder: nn.Module,
    manifest: Manifest,
    recipe: Recipe,
    *,
    sampling: Sampling,
    process: Process,
    parts: Parts | None = None,
) -> Features:
    """Mean over the clips of each video, scaled to unit length; the processes share the work.

    parts: what a killed process has left, and where this one leaves its own. Raises DataError when
    no video decodes.
    """
    how = {"process": process, "parts": parts}
    if sampling.kind == "uniform":
        found = _of_all(encoder, manifest, recipe, clips=sampling.clips, **how)
    else:
        found = mean_by_video(*extract_clips(encoder, manifest, recipe, sampling=sampling, **how))
    if not len(found.index):
        reasons = sorted({f"{entry['code']} {entry['detail']}" for entry in found.failed})
        raise DataError(
            f"error: none of {len(manifest)} videos decodes · {manifest.path} · {reasons[0]}"
        )
    return found


def extract_clips(
    encoder: nn.Module,
    manifest: Manifest,
    recipe: Recipe,
    *,
    sampling: Sampling,
    process: Process,
    parts: Parts | None = None,
) -> tuple[Features, Windows]:
    """The features of every clip, and the windows that their `index` counts.

    A clip that fails fails its video: `failed` lists videos, and their other clips are left out.
    """
    cut = windows_of(manifest, recipe, sampling)
    found = _of_all(encoder, cut, recipe, clips=1, process=process, parts=parts)
    return whole_videos(found, cut), cut


def windows_of(manifest: Manifest, recipe: Recipe, sampling: Sampling) -> Windows:
    """The windows of a set, each a frame longer where the encoder takes flow."""
    clip = recipe.clip
    return sampling.cut(manifest, with_next_frame(clip) if flow_of(recipe) else clip)


def whole_videos(clips: Features, cut: Windows) -> Features:
    """The clips of those videos of which all decode; `failed` lists the other videos once."""
    owner = torch.from_numpy(cut.owner)
    failed = {int(owner[entry["index"]]): entry for entry in reversed(clips.failed)}
    kept = ~torch.isin(owner[clips.index], torch.tensor(list(failed), dtype=torch.int64))
    listed = [{**failed[row], "index": row} for row in sorted(failed)]
    return of_means(clips.raw[kept], clips.label[kept], clips.index[kept], listed)


def mean_by_video(clips: Features, cut: Windows) -> Features:
    """Features of the videos from those of their clips, as `extract_clips` has them."""
    index, of = torch.from_numpy(cut.owner)[clips.index].unique(return_inverse=True)
    number = torch.bincount(of, minlength=len(index))
    total = torch.zeros(len(index), clips.feature.shape[-1], dtype=torch.float64)
    total.index_add_(0, of, clips.raw.double())
    label = torch.from_numpy(cut.manifest.labels)[index]
    return of_means((total / number[:, None]).float(), label, index, clips.failed)


def _of_all(
    encoder, rows, recipe: Recipe, *, clips: int, process: Process, parts: Parts | None
) -> Features:
    place = Place(process.rank, process.world, str(process.device))
    say = print if process.is_main else lambda line: None
    earlier, under_way = [], {}
    if parts:
        earlier = of_main(parts.found() if process.is_main else [], process)
        under_way = {"skip": parts.groups(earlier), "done": parts.add}
    own = extract_share(encoder, rows, recipe, clips=clips, place=place, say=say, **under_way)
    scaled = [of_means(part.feature, part.label, part.index, part.failed) for part in earlier]
    found = joined([*scaled, *of_all_ranks(own, process)])
    _refuse_nan(found, rows)
    return found


def _refuse_nan(found: Features, rows: Manifest | Windows) -> None:
    """Raise NumericError for vectors that are no numbers: they would be ranked all the same."""
    if wrong := int((~found.raw.isfinite()).any(1).sum()):
        raise NumericError(
            f"error: {wrong} of {len(found.index)} outputs of the network are not finite · "
            f"{rows.path} · its weights are damaged or its training diverged; a classifier trained "
            "here wants a lower eval.optim.lr"
        )
