"""Small VP9 videos, which DALI decodes without a GPU, and loaders whose lanes decode them there."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from pipeline import AugmentConfig, ClipConfig, DataConfig, Manifest
from pipeline.augment import of_views
from pipeline.graph import GraphSpec, Lane
from pipeline.host import HostViews
from pipeline.lanes import kinds_of
from pipeline.loader import Loader
from pipeline.manifest import Video, write_manifest
from pipeline.probe import probe
from pipeline.refused import Refused
from pipeline.sample import Reader, TrainingStage
from pipeline.stream import Stream
from tests.videos import write_video

VIDEOS, BATCH, STEPS = 9, 4, 6  # two epochs and six samples of a third
CLIP, AUGMENT = ClipConfig(frames=3, stride=2), AugmentConfig(size=16)
READER = Reader(30.0, HostViews(AUGMENT.size, whole=False))


@functools.cache
def contents() -> list[bytes]:
    """The files, encoded once."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            write_video(
                Path(folder) / f"v{n}.mp4", frames=20 + n, size=(48, 40), codec="libvpx-vp9", gop=8
            ).read_bytes()
            for n in range(VIDEOS)
        ]


def make_data(folder: Path) -> Manifest:
    """Of whole files; what befalls them later it does not know."""
    rows = []
    for n, content in enumerate(contents()):
        path = folder / f"v{n}.mp4"
        path.write_bytes(content)
        rows.append(Video.of(probe(path), key=path.stem, path=path, label=n % 2))
    return write_manifest(folder / "m.parquet", rows, classes=["a", "b"], options={})


def config(**changed) -> DataConfig:
    quiet = {"batch_size": BATCH, "workers": 0, "prefetch_batches": 1, "lanes": 1}
    return DataConfig(**(quiet | changed))


def lanes_of(
    data: DataConfig, views: int, *, training: bool, kinds: tuple[str, ...] = ("nvdec",)
) -> dict[str, list]:
    specs = [
        GraphSpec(
            kind=kind, device="cpu", augments=of_views(AUGMENT, views), training=training,
            rotated=False, batch=BATCH, threads=1, depth=data.prefetch_batches,
        )
        for kind in kinds
    ]  # fmt: skip
    return {spec.kind: [Lane(spec) for _ in range(data.lanes)] for spec in specs}


def training(
    manifest: Manifest, *, seed=3, data=None, noted=None, refused=None, lanes=None,
    decoder="nvdec", cpu_share=0.0,
) -> Loader:  # fmt: skip
    data = data or config()
    kinds = kinds_of(range(BATCH), decoder, cpu_share)
    stage = TrainingStage(
        manifest=manifest, clip=CLIP, augments=of_views(AUGMENT, 2), reader=READER, seed=seed,
        global_batch=BATCH, first_sample=0, views=(0, 1), slots=tuple(range(BATCH)),
        kinds=kinds, refused=refused or Refused(),
    )  # fmt: skip
    lanes = lanes or lanes_of(data, 2, training=True, kinds=tuple(sorted(set(kinds))))
    return Loader([Stream(stage, lanes, data)], data, "cpu", noted or (lambda entries: None))


def break_pictures(manifest: Manifest, *rows: int) -> None:
    """Only a decoder sees it: the container stays whole."""
    for path in (manifest[row].path for row in rows):
        content = bytearray(path.read_bytes())
        for start in range(200, int(len(content) * 0.6), 40):
            content[start : start + 20] = b"\xff" * 20
        path.write_bytes(content)


def assert_same(ours, theirs) -> None:
    """The same batches, bit for bit."""
    ours, theirs = list(ours), list(theirs)
    assert [b.index.tolist() for b in ours] == [b.index.tolist() for b in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(*pair) for pair in zip(a.views, b.views, strict=True))
        assert torch.equal(a.start_frames, b.start_frames) and torch.equal(a.label, b.label)
