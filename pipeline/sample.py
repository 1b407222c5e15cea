"""The host stage: from a sample's number to what a lane is given: views, crops or encoded files.

Sample s of a run is position s mod n of epoch s div n; its video, frames and draws follow from
(seed, epoch, position) alone. So the stage holds no state, and any worker can make any sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from pipeline.augment import AugmentConfig, Draw, evaluation_draws, training_draw
from pipeline.clip import ClipConfig, ClipPlan, training_plan, uniform_plan
from pipeline.cut import cut
from pipeline.decode import decode_pictures
from pipeline.errors import BadVideo, DataError
from pipeline.host import HostViews
from pipeline.manifest import Manifest, Video
from pipeline.order import draws, order
from pipeline.refused import Refused
from pipeline.render import Picture
from pipeline.track import NOTHING, Track
from pipeline.watch import watched

CLIP, REPLACEMENT, VIEW = 0, 1, 2  # streams of order.draws; view v draws from stream VIEW + v
ATTEMPTS = 8


@dataclass(frozen=True)
class Sample:
    """One video of a batch. number: of the run; in an evaluation the video's row. kind: of decoder.

    starts: [V] int64, for each planned view the number of its first frame in the video.
    """

    number: int
    index: int
    label: int
    kind: str
    tracks: list[Track]
    starts: np.ndarray


@dataclass
class HostBatch:
    """Samples of one step for one process, their pictures and lumas in one flat buffer.

    One buffer is one piece of memory between a worker and the trainer, however many videos there
    are; `shapes` cuts it again, two for each track. number, index, label: [samples] int64; kinds
    likewise, and starts: [samples, V], see Sample. `bad` lists the videos found damaged on the way.
    """

    pixels: np.ndarray
    shapes: list[tuple[int, ...]]
    tracks: list[Track]
    number: np.ndarray
    index: np.ndarray
    label: np.ndarray
    kinds: tuple[str, ...]
    starts: np.ndarray
    bad: list[dict]

    def unpacked(self) -> list[Track]:
        """Tracks with their arrays back in place, as views of the buffer."""
        ends = np.cumsum([0, *(int(np.prod(shape)) for shape in self.shapes)])
        arrays = [
            self.pixels[start:end].reshape(shape)
            for (start, end), shape in zip(pairwise(ends), self.shapes, strict=True)
        ]
        return [
            replace(track, pictures=pictures, lumas=lumas)
            for track, pictures, lumas in zip(self.tracks, arrays[::2], arrays[1::2], strict=True)
        ]

    def samples(self) -> list[Sample]:
        """What was packed, its arrays as views of the buffer."""
        tracks = self.unpacked()
        each = len(tracks) // max(1, len(self.index))
        columns = (self.number.tolist(), self.index.tolist(), self.label.tolist(), self.kinds)
        return [
            Sample(*row, tracks[n * each : (n + 1) * each], self.starts[n])
            for n, row in enumerate(zip(*columns, strict=True))
        ]


def pack(samples: list[Sample], bad: list[dict]) -> HostBatch:
    """Join samples; `HostBatch.samples` is the inverse."""
    tracks = [track for sample in samples for track in sample.tracks]
    arrays = [array for track in tracks for array in (track.pictures, track.lumas)]
    flat = np.concatenate([array.reshape(-1) for array in [*arrays, NOTHING]])
    bare = [replace(track, pictures=NOTHING, lumas=NOTHING) for track in tracks]
    numbers = [(sample.number, sample.index, sample.label) for sample in samples]
    number, index, label = np.array(numbers, dtype=np.int64).reshape(-1, 3).T
    kinds = tuple(sample.kind for sample in samples)
    starts = np.stack([s.starts for s in samples]) if samples else np.empty((0, 0), np.int64)
    shapes = [array.shape for array in arrays]
    return HostBatch(flat, shapes, bare, number, index, label, kinds, starts, bad)


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
            encoded, numbers = cut(video, plan.frames)
            video, plan = replace(video, first_frame=0), replace(plan, frames=numbers)
            return clip_tracks(encoded, video, plan, rows, draws)
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
class TrainingStage:
    """Item k: the samples of step k of one process. Pure; picklable; safe in any worker.

    slots: places of the global batch that this process fills, and kinds: the decoder of each.
    augments: of every view of a sample. views: those to render. refused: videos that are replaced
    without being read.

    All views are planned, so that every process replaces a damaged video alike. A video that takes
    too long (E-TIMEOUT) or ends its worker (E-CRASH) does so in one process, and may not in another
    that makes other views of the same sample: then these are of two videos, and only the list of
    bad videos tells. Whoever resumes the run replaces it in all views of the same sample.
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
    refused: Refused = field(default_factory=Refused)

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
            line = self.refused.line(index, number)
            try:
                if line is None:
                    with watched(number, index):
                        return self.read(index, number, attempt, kind)
            except BadVideo as error:
                line = quarantine_line(error, self.manifest[index])
                if error.code == "E-TIMEOUT":  # next time it may be in time
                    line["sample"] = number
            bad.append({**line, "epoch": epoch, "position": position, "attempt": attempt})
        raise DataError(
            f"error: sample {position} of epoch {epoch}: {ATTEMPTS} videos in a row cannot be "
            f"decoded · {bad[-1]['path']} · {bad[-1]['detail']} · run python -m tools.index again"
        )

    def refuse(self, number: int, index: int, error: BadVideo) -> None:
        """Replace the video in sample `number`."""
        line = quarantine_line(error, self.manifest[index])
        self.refused.add(index, number, {**line, "sample": number})

    def video_at(self, epoch: int, position: int, attempt: int) -> int:
        """The video of a position; attempts after the first draw another one at random."""
        n = len(self.manifest)
        if attempt == 0:
            return int(order(np.array(position), n, seed=self.seed, epoch=epoch))
        rng = draws(self.seed, epoch, position, stream=REPLACEMENT, attempt=attempt)
        return int(rng.integers(n))

    def again(self, sample: Sample, bad: list[dict]) -> list[Sample]:
        """The sample anew, its video being refused by now: with another one, which `bad` tells.

        In the trainer, unwatched: only lanes that decode ask for it, and for those a file is read
        and cut. FFmpeg may look at a first picture of VP9 or of what is no MP4; it decodes no clip.
        """
        epoch, position = divmod(sample.number, len(self.manifest))
        bad[:] = [line for line in bad if (line["epoch"], line["position"]) != (epoch, position)]
        return [self.sample(sample.number, sample.kind, bad)]

    def read(self, index: int, number: int, attempt: int, kind: str) -> Sample:
        """Sample `number` with the clips of video `index`."""
        video = self.manifest[index]
        epoch, position = divmod(number, len(self.manifest))
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
        return Sample(number, index, video.label, kind, tracks, plan.starts)


@dataclass(frozen=True)
class EvaluationStage:
    """Item k: the k-th group of `batch` videos, each with `clips` uniform clips as its views.

    Of each clip there are `augment.eval_crops` views, one after the other. Nothing is drawn and
    nothing is replaced: a video that cannot be decoded is left out and listed in `bad`, and so is
    one that is refused.
    """

    manifest: Manifest
    clip: ClipConfig
    augment: AugmentConfig
    reader: Reader
    clips: int
    batch: int
    kind: str
    refused: Refused = field(default_factory=Refused)

    def __len__(self) -> int:
        return -(-len(self.manifest) // self.batch)

    def __getitem__(self, group: int) -> HostBatch:
        bad: list[dict] = []
        samples = []
        first = group * self.batch
        for index in range(first, min(first + self.batch, len(self.manifest))):
            if line := self.refused.line(index, index):
                bad.append(line)
                continue
            try:
                with watched(index, index):
                    samples.append(self.read(index))
            except BadVideo as error:
                bad.append({**quarantine_line(error, self.manifest[index]), "index": index})
        return pack(samples, bad)

    def refuse(self, number: int, index: int, error: BadVideo) -> None:
        """Leave the video out; here its number is its row."""
        line = {**quarantine_line(error, self.manifest[index]), "index": index}
        self.refused.add(index, number, line)

    def again(self, sample: Sample, bad: list[dict]) -> list[Sample]:
        """Nothing takes the place of a sample whose video is refused; `bad` tells why."""
        bad.append(self.refused.line(sample.index, sample.number))
        return []

    def read(self, index: int) -> Sample:
        video = self.manifest[index]
        plan = uniform_plan(video.frames, self.clip, self.clips)
        crops = evaluation_draws(video.width, video.height, self.augment)
        rows = [clip for clip in plan.views for _ in crops]
        drawn = [[crop] for crop in crops] * self.clips
        tracks = self.reader.tracks(video, plan, rows, drawn, self.kind)
        starts = np.repeat(plan.starts, len(crops))
        return Sample(index, index, video.label, self.kind, tracks, starts)


def quarantine_line(error: BadVideo, video: Video) -> dict:
    """What quarantine.jsonl says of a damaged video."""
    detail = f"{error.what} · {error.cure}"
    return {"path": error.path, "key": video.key, "code": error.code, "detail": detail}
