"""The host stage: from a sample's number to what a lane is given: views, crops or encoded files.

Sample s of a run is position s mod n of epoch s div n; its video, frames and draws follow from
(seed, epoch, position) alone. So the stage holds no state, and any worker can make any sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pipeline.augment import AugmentConfig, Draw, evaluation_draws, training_draw
from pipeline.clip import ClipConfig, ClipPlan, training_plan, uniform_plan
from pipeline.decode import decode_pictures, read_bytes
from pipeline.errors import BadVideo, DataError
from pipeline.host import HostViews
from pipeline.manifest import Manifest, Video
from pipeline.order import draws, order
from pipeline.render import Picture
from pipeline.track import NOTHING, Track

CLIP, REPLACEMENT, VIEW = 0, 1, 2  # streams of order.draws; view v draws from stream VIEW + v
ATTEMPTS = 8


@dataclass(frozen=True)
class Sample:
    """starts: [V] int64, for each planned view the number of its first frame in the video."""

    index: int
    label: int
    tracks: list[Track]
    starts: np.ndarray


@dataclass
class HostBatch:
    """Samples of one step for one process, their pictures and lumas in one flat buffer.

    One buffer is one shared-memory segment between a worker and the trainer, however many videos
    there are; `shapes` cuts it again, two for each track. starts: [samples, V], see Sample. `bad`
    lists the videos found damaged on the way.
    """

    pixels: Tensor
    shapes: list[tuple[int, ...]]
    tracks: list[Track]
    index: np.ndarray
    label: np.ndarray
    starts: np.ndarray
    bad: list[dict]

    def unpacked(self) -> list[Track]:
        """Tracks with their arrays back in place, as views of the buffer."""
        ends = np.cumsum([0, *(int(np.prod(shape)) for shape in self.shapes)])
        flat = self.pixels.numpy()
        arrays = [
            flat[start:end].reshape(shape)
            for (start, end), shape in zip(pairwise(ends), self.shapes, strict=True)
        ]
        return [
            replace(track, pictures=pictures, lumas=lumas)
            for track, pictures, lumas in zip(self.tracks, arrays[::2], arrays[1::2], strict=True)
        ]


def pack(samples: list[Sample], bad: list[dict]) -> HostBatch:
    """Join samples; `HostBatch.unpacked` is the inverse."""
    tracks = [track for sample in samples for track in sample.tracks]
    arrays = [array for track in tracks for array in (track.pictures, track.lumas)]
    flat = np.concatenate([array.reshape(-1) for array in [*arrays, NOTHING]])
    bare = [replace(track, pictures=NOTHING, lumas=NOTHING) for track in tracks]
    index = np.array([sample.index for sample in samples], dtype=np.int64)
    label = np.array([sample.label for sample in samples], dtype=np.int64)
    starts = np.stack([s.starts for s in samples]) if samples else np.empty((0, 0), np.int64)
    shapes = [array.shape for array in arrays]
    return HostBatch(torch.from_numpy(flat), shapes, bare, index, label, starts, bad)


@dataclass(frozen=True)
class Reader:
    """Turns a clip of a video into tracks: rendered by the host as far as `views` says, or with
    the encoded file, for a graph that decodes.
    """

    timeout_seconds: float
    views: HostViews

    def tracks(
        self,
        video: Video,
        plan: ClipPlan,
        rows: list[np.ndarray],
        draws: list[list[Draw]],
        kind: str,
    ) -> list[Track]:
        """Tracks of one sample. rows: per view [T]; draws: per view one a clip, or one a frame."""
        if kind == "nvdec":
            return clip_tracks(read_bytes(video), video, plan, rows, draws)
        pictures = decode_pictures(video, plan.frames, timeout_seconds=self.timeout_seconds)
        return [self.views(track) for track in clip_tracks(pictures, video, plan, rows, draws)]


def clip_tracks(
    pictures: np.ndarray | list[Picture],
    video: Video,
    plan: ClipPlan,
    rows: list[np.ndarray],
    draws: list[list[Draw]],
) -> list[Track]:
    """Tracks of decoded pictures or of an encoded file; for the rest see `Reader.tracks`.

    One draw a clip: one track of T frames. T draws: T tracks of one frame each.
    """
    per_frame, turn = len(draws[0]), video.rotation
    frames = video.first_frame + plan.frames
    if per_frame == 1:
        return [Track(pictures, frames, np.stack(rows), tuple(d[0] for d in draws), turn)]
    tracks = []
    for t in range(per_frame):
        wanted, inverse = np.unique([row[t] for row in rows], return_inverse=True)
        is_file = isinstance(pictures, np.ndarray)
        own = pictures if is_file else [pictures[row] for row in wanted]
        row = inverse.astype(np.int32)[:, None]
        tracks.append(Track(own, frames[wanted], row, tuple(d[t] for d in draws), turn))
    return tracks


@dataclass(frozen=True)
class TrainingStage(torch.utils.data.Dataset):
    """Item k: the samples of step k of one process. Pure; picklable; safe in any worker.

    slots: places of the global batch that this process fills, and kinds: the decoder of each.
    augments: of every view of a sample. views: those to render (all are planned, so every process
    replaces a bad video alike).
    """

    manifest: Manifest
    clip: ClipConfig
    augments: tuple[AugmentConfig, ...]
    reader: Reader
    seed: int
    global_batch: int
    first_sample: int  # number of the first sample of step 0
    views: tuple[int, ...]
    slots: tuple[int, ...]
    kinds: tuple[str, ...]

    @property
    def size(self) -> int:
        """Samples in an item."""
        return len(self.slots)

    def __getitem__(self, step: int) -> HostBatch:
        bad: list[dict] = []
        first = self.first_sample + step * self.global_batch
        pairs = zip(self.slots, self.kinds, strict=True)
        samples = [self.sample(first + slot, kind, bad) for slot, kind in pairs]
        return pack(samples, bad)

    def sample(self, number: int, kind: str, bad: list[dict]) -> Sample:
        """Sample `number` of the run; a damaged video is noted in `bad` and replaced."""
        epoch, position = divmod(number, len(self.manifest))
        for attempt in range(ATTEMPTS):
            index = self.video_at(epoch, position, attempt)
            try:
                return self.read(index, epoch, position, attempt, kind)
            except BadVideo as error:
                where = {"epoch": epoch, "position": position, "attempt": attempt}
                bad.append({**quarantine_line(error, self.manifest[index]), **where})
        raise DataError(
            f"error: sample {position} of epoch {epoch}: {ATTEMPTS} videos in a row cannot be "
            f"decoded · {bad[-1]['path']} · {bad[-1]['detail']} · run python -m tools.index again"
        )

    def video_at(self, epoch: int, position: int, attempt: int) -> int:
        """The video of a position; attempts after the first draw another one at random."""
        n = len(self.manifest)
        if attempt == 0:
            return int(order(np.array(position), n, seed=self.seed, epoch=epoch))
        rng = draws(self.seed, epoch, position, stream=REPLACEMENT, attempt=attempt)
        return int(rng.integers(n))

    def read(self, index: int, epoch: int, position: int, attempt: int, kind: str) -> Sample:
        video = self.manifest[index]
        at = {"epoch": epoch, "position": position, "attempt": attempt}
        rng = draws(self.seed, stream=CLIP, **at)
        plan = training_plan(video.frames, self.clip, len(self.augments), rng)
        per_clip = 1 if self.augments[0].consistent else self.clip.frames
        drawn = []
        for view in self.views:
            rng = draws(self.seed, stream=VIEW + view, **at)
            size, augment = (video.width, video.height), self.augments[view]
            drawn.append([training_draw(*size, augment, rng) for _ in range(per_clip)])
        rows = [plan.views[view] for view in self.views]
        tracks = self.reader.tracks(video, plan, rows, drawn, kind)
        return Sample(index, video.label, tracks, plan.starts)


@dataclass(frozen=True)
class EvaluationStage(torch.utils.data.Dataset):
    """Item k: the k-th group of `batch` videos, each with `clips` uniform clips as its views.

    Of each clip there are `augment.eval_crops` views, one after the other. Nothing is drawn and
    nothing is replaced: a video that cannot be decoded is left out and listed in `bad`.
    """

    manifest: Manifest
    clip: ClipConfig
    augment: AugmentConfig
    reader: Reader
    clips: int
    batch: int
    kind: str

    @property
    def size(self) -> int:
        """Most samples in an item."""
        return self.batch

    def __len__(self) -> int:
        return -(-len(self.manifest) // self.batch)

    def __getitem__(self, group: int) -> HostBatch:
        bad: list[dict] = []
        samples = []
        first = group * self.batch
        for index in range(first, min(first + self.batch, len(self.manifest))):
            try:
                samples.append(self.read(index))
            except BadVideo as error:
                bad.append({**quarantine_line(error, self.manifest[index]), "index": index})
        return pack(samples, bad)

    def read(self, index: int) -> Sample:
        video = self.manifest[index]
        plan = uniform_plan(video.frames, self.clip, self.clips)
        crops = evaluation_draws(video.width, video.height, self.augment)
        rows = [clip for clip in plan.views for _ in crops]
        drawn = [[crop] for crop in crops] * self.clips
        tracks = self.reader.tracks(video, plan, rows, drawn, self.kind)
        return Sample(index, video.label, tracks, np.repeat(plan.starts, len(crops)))


def quarantine_line(error: BadVideo, video: Video) -> dict:
    """What quarantine.jsonl says of a damaged video."""
    detail = f"{error.what} · {error.cure}"
    return {"path": error.path, "key": video.key, "code": error.code, "detail": detail}
