"""Features of every video of a manifest: the common ground of all evaluation protocols."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from models import build_backbone, build_method
from pipeline import DataError, Manifest, Place, build_evaluation_loader
from training import checkpoint, weights
from training.config import Recipe
from training.errors import CheckpointError

PIXEL_GRID = 12  # side of the picture that the pixel baseline sees


@dataclass(frozen=True)
class Features:
    """feature: [n, D] float32, mean over a video's clips, unit length; label, index: [n] int64.

    index is the row in the manifest; failed lists the videos that did not decode.
    """

    feature: Tensor
    label: Tensor
    index: Tensor
    failed: list[dict]

    @property
    def videos(self) -> int:
        return len(self.index) + len(self.failed)


class Pixels(nn.Module):
    """The baseline that learns nothing: the clip itself, averaged down to 12 x 12 pixels."""

    def forward(self, clip: Tensor) -> Tensor:
        small = F.adaptive_avg_pool3d(clip, (clip.shape[2], PIXEL_GRID, PIXEL_GRID))
        return small.flatten(1)


def build_encoder(source: str, recipe: Recipe, state: checkpoint.Checkpoint | None) -> nn.Module:
    """The network whose features are measured: "random", "pixels", that of `state`, or the
    recipe's with the weights of the file `source`.
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
    method = build_method(
        recipe.method.name,
        backbone,
        frames=recipe.clip.frames,
        size=recipe.augment.size,
        **recipe.method_options(),
    )
    try:
        method.load_state_dict(state.method)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"error: the weights do not fit · {source} · {reason}") from error
    return method.encoder()


def extract(
    encoder: nn.Module, manifest: Manifest, recipe: Recipe, *, clips: int, device: torch.device
) -> Features:
    """Features of all videos, each the mean over `clips` uniform clips, scaled to unit length.

    Raises DataError when no video decodes.
    """
    place = Place(device=str(device))
    features = extract_share(encoder, manifest, recipe, clips=clips, place=place)
    if not len(features.index):
        reasons = sorted({f"{entry['code']} {entry['detail']}" for entry in features.failed})
        raise DataError(
            f"error: none of {len(manifest)} videos decodes · {manifest.path} · {reasons[0]}"
        )
    return features


def extract_share(
    encoder: nn.Module, manifest: Manifest, recipe: Recipe, *, clips: int, place: Place
) -> Features:
    """As `extract`, of the videos that fall to one process of several: perhaps of none."""
    loader = build_evaluation_loader(
        manifest, clip=recipe.clip, augment=recipe.augment, data=recipe.data, clips=clips,
        place=place,
    )  # fmt: skip
    encoder = encoder.to(place.device).eval()
    console = Console()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    description = f"features of {manifest.path.name}"
    with torch.inference_mode():
        for batch in track(loader, description, total=len(loader), disable=not console.is_terminal):
            mean = torch.stack([encoder(view).float() for view in batch.views]).mean(0)
            parts.append((F.normalize(mean, dim=1).cpu(), batch.label.cpu(), batch.index.cpu()))
    if not parts:
        none = torch.empty(0, dtype=torch.int64)
        return Features(torch.empty(0, 0), none, none, loader.failed)
    feature, label, index = (torch.cat(part) for part in zip(*parts, strict=True))
    return Features(feature, label, index, loader.failed)


def joined(shares: Sequence[Features]) -> Features:
    """The features of all processes as one process has them: in the manifest's order."""
    filled = [share for share in shares if len(share.index)] or shares[:1]
    order = torch.cat([share.index for share in filled]).argsort()
    feature, label, index = (
        torch.cat([getattr(share, name) for share in filled])[order]
        for name in ("feature", "label", "index")
    )
    failed = [entry for share in shares for entry in share.failed]
    return Features(feature, label, index, sorted(failed, key=lambda entry: entry["index"]))


def cached(path: Path, key: dict, make) -> Features:
    """Features from `path` when it was made with the same `key`, else from `make()`.

    A video that had failed and whose file has changed since makes all of them anew.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    if path.exists():
        stored_digest, stored = read(path)
        if stored_digest == digest and not _mended(stored.failed, path.stat().st_mtime):
            return stored
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        digest=digest,
        feature=made.feature.numpy(),
        label=made.label.numpy(),
        index=made.index.numpy(),
        failed=json.dumps(made.failed),
    )
    temporary.replace(path)
    return made


def read(path: Path) -> tuple[str, Features]:
    """Digest of the key and the features of a file that `cached` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        fields = [torch.from_numpy(stored[name]) for name in ("feature", "label", "index")]
        return str(stored["digest"]), Features(*fields, failed=json.loads(str(stored["failed"])))


def _mended(failed: list[dict], since: float) -> bool:
    """Whether a failed video's file was put in place or changed after the time `since`.

    The change of the inode counts: a file restored with its old modification time is new, too.
    """
    paths = (Path(entry["path"]) for entry in failed)
    return any(path.exists() and path.stat().st_ctime > since for path in paths)
