"""Features of every video of a manifest: the common ground of all evaluation protocols."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from models import build_backbone, build_method, three_channels
from pipeline import Batch, FlowConfig, Manifest, Place, build_evaluation_loader
from pipeline.whole import whole_file
from training import checkpoint, config, weights
from training.config import Recipe
from training.errors import CheckpointError, ConfigError

STORED = ("feature", "label", "index", "length")
PIXEL_GRID = 12  # side of the picture that the pixel baseline sees


@dataclass(frozen=True)
class Features:
    """feature: [n, D] float32, mean over a video's clips, unit length; label, index: [n] int64.

    index is the row in the manifest; failed lists the videos that did not decode. length: [n] of
    the mean before it was scaled; None: it was 1.
    """

    feature: Tensor
    label: Tensor
    index: Tensor
    failed: list[dict]
    length: Tensor | None = None

    @property
    def raw(self) -> Tensor:
        """[n, D] the mean over a video's clips as it was before scaling."""
        return self.feature if self.length is None else self.feature * self.length[:, None]

    @property
    def videos(self) -> int:
        return len(self.index) + len(self.failed)


def stream_of(recipe: Recipe) -> Literal["rgb", "flow"]:
    """What the encoder of a recipe's method takes: pictures, unless the method says flow."""
    return getattr(recipe.method, "stream", "rgb")


def flow_of(recipe: Recipe) -> FlowConfig | None:
    """How a loader makes the flow that the encoder takes; None: it takes pictures."""
    return recipe.flow if stream_of(recipe) == "flow" else None


def clips_of(batch: Batch, recipe: Recipe) -> tuple[Tensor, ...]:
    """Those clips of a batch that the encoder takes, [B, 3, T, H, W] each: views, or their flow."""
    if stream_of(recipe) == "rgb":
        return batch.views
    assert batch.flow is not None, "the loader was built without flow_of(recipe)"
    return tuple(map(three_channels, batch.flow))


class Pixels(nn.Module):
    """The baseline that learns nothing: the clip itself, averaged down to 12 x 12 pixels."""

    def forward(self, clip: Tensor) -> Tensor:
        small = F.adaptive_avg_pool3d(clip, (clip.shape[2], PIXEL_GRID, PIXEL_GRID))
        return small.flatten(1)


def build_encoder(source: str, recipe: Recipe, state: checkpoint.Checkpoint | None) -> nn.Module:
    """The network whose features are measured: "random", "pixels", that of `state`, or the
    recipe's with the weights of the file `source`.

    The recipe's clips may be others than those of the training, to which a method's networks
    beside the encoder are fitted.
    """
    if source == "pixels":
        return Pixels()
    torch.manual_seed(recipe.run.seed)
    backbone = build_backbone(**recipe.backbone.network())
    if source == "random":
        return backbone
    if state is None:
        print(f"{source}: {weights.load(Path(source), backbone)}")
        return backbone
    trained = config.of_checkpoint(state.config, state.stage, [])
    method = build_method(
        recipe.method.name,
        backbone,
        frames=trained.clip.frames,
        size=trained.augment.size,
        **recipe.method_options(),
    )
    try:
        method.load_state_dict(state.method)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"error: the weights do not fit · {source} · {reason}") from error
    return method.encoder()


def extract_share(
    encoder: nn.Module,
    manifest: Manifest,
    recipe: Recipe,
    *,
    clips: int,
    place: Place,
    say: Callable[[str], None] = lambda line: None,
    bar: bool = True,
    skip: Container[int] = (),
    done: Callable[[Tensor, Tensor, Tensor, list[dict]], None] = lambda *group: None,
) -> Features:
    """Features of the videos that fall to one process of several, perhaps of none: of each the mean
    over `clips` uniform clips, scaled to unit length.

    say: is told what makes the flow, where the encoder takes flow. bar: show progress on a
    terminal; a training, which draws there itself, does not. skip: groups of videos, as many as
    data.batch_size, that are left out. done: is given every group, means before scaling [b, D],
    labels and rows, and the entries of all videos that failed so far.
    """
    loader = build_evaluation_loader(
        manifest, clip=recipe.clip, augment=recipe.augment, data=recipe.data, clips=clips,
        place=place, flow=flow_of(recipe), skip=skip, say=say,
    )  # fmt: skip
    encoder = encoder.to(place.device).eval()
    hidden = not (bar and Console().is_terminal)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    description = f"features of {manifest.path.name}"
    with torch.inference_mode():
        for batch in track(loader, description, total=len(loader), disable=hidden):
            mean = torch.stack([encoder(clip).float() for clip in clips_of(batch, recipe)]).mean(0)
            parts.append((mean.cpu(), batch.label.cpu(), batch.index.cpu()))
            done(*parts[-1], loader.failed)
    if not parts:
        none = torch.empty(0, dtype=torch.int64)
        return Features(torch.empty(0, 0), none, none, loader.failed, torch.empty(0))
    mean, label, index = (torch.cat(part) for part in zip(*parts, strict=True))
    return of_means(mean, label, index, loader.failed)


def of_means(mean: Tensor, label: Tensor, index: Tensor, failed: list[dict]) -> Features:
    """Features whose vectors before scaling are `mean` [n, D]."""
    return Features(F.normalize(mean, dim=1), label, index, failed, mean.norm(dim=1))


def joined(shares: Sequence[Features]) -> Features:
    """The features of all processes as one process has them: in the manifest's order."""
    filled = [share for share in shares if len(share.index)] or shares[:1]
    order = torch.cat([share.index for share in filled]).argsort()
    feature, label, index, length = (
        torch.cat([getattr(share, name) for share in filled])[order] for name in STORED
    )
    failed = sorted((e for share in shares for e in share.failed), key=lambda entry: entry["index"])
    return Features(feature, label, index, failed, length)


def kept(path: Path, key: dict) -> Features | None:
    """Features from `path` when it was made with the same `key`.

    None also for a missing or damaged file, and where a video had failed and its file has changed
    since: all are to be made anew.
    """
    try:
        since = path.stat().st_mtime
        digest, stored = read(path)
    except (FileNotFoundError, ConfigError):  # another process may remove it meanwhile
        return None
    same = digest == digest_of(key) and not mended(stored.failed, since)
    return stored if same else None


def keep(path: Path, key: dict, made: Features) -> None:
    """Write features for `kept`; equal ones give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    length = torch.ones(len(made.index)) if made.length is None else made.length
    with whole_file(path) as file:
        np.savez(
            file,
            digest=digest_of(key),
            feature=made.feature.numpy(),
            label=made.label.numpy(),
            index=made.index.numpy(),
            length=length.numpy(),
            failed=json.dumps(made.failed),
        )


def digest_of(key: dict) -> str:
    """sha256 of all that something depends on."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> tuple[str, Features]:
    """Digest of the key and the features of a file that `keep` wrote.

    Raises ConfigError for another or a damaged one.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            fields = {name: torch.from_numpy(stored[name]) for name in STORED if name in stored}
            failed = json.loads(str(stored["failed"]))
            return str(stored["digest"]), Features(**fields, failed=failed)
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ConfigError(
            f"error: no features that evaluate.py has kept · {path} · delete it and measure again"
        ) from error


def failed_once(entries: list[dict]) -> list[dict]:
    """Each failed video once, in the order of the manifest where its rows are known."""
    by_key = {entry["key"]: entry for entry in reversed(entries)}
    return sorted(by_key.values(), key=lambda entry: (entry.get("index", 0), entry["key"]))


def mended(failed: list[dict], since: float) -> bool:
    """Whether a failed video's file was put in place or changed after the time `since`.

    The change of the inode counts: a file restored with its old modification time is new, too.
    """
    paths = (Path(entry["path"]) for entry in failed)
    return any(path.exists() and path.stat().st_ctime > since for path in paths)
