"""A run whose tars are not those of its manifest ends before it starts, and says which and why."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch

import train
from pipeline.augment import AugmentConfig
from pipeline.clip import ClipConfig
from pipeline.errors import DataError
from pipeline.loader import DataConfig, Place, build_evaluation_loader, build_loader
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.probe import probe
from pipeline.shards.check import check_shards, require_shards
from pipeline.shards.tar import TarWriter
from tests import runs
from tests.videos import write_video

SHARDS, VIDEOS_EACH = 3, 3
CURE = "bring it back, or index again with python -m tools.index"


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """Nine videos in three tars, no two of one length, and one raw video beside them."""
    rows = []
    for number in range(SHARDS):
        path = tmp_path / f"shard-{number:06d}.tar"
        lengths = range(10 + number * VIDEOS_EACH, 10 + (number + 1) * VIDEOS_EACH)
        offsets = write_shard(path, {f"{number}-{frames}": frames for frames in lengths})
        rows += [described(path, key, *place) for key, place in offsets.items()]
    raw = write_video(tmp_path / "v.mp4", frames=30, size=(40, 32))
    rows.append(described(raw, "raw", 0, raw.stat().st_size))
    return write_manifest(tmp_path / "m.parquet", rows, classes=[], options={})


def write_shard(path: Path, frames: dict[str, int]) -> dict[str, tuple[int, int]]:
    """A tar of videos of so many frames; key -> (offset, size)."""
    places = {}
    with path.open("wb") as file:
        tar = TarWriter(file)
        for key, count in frames.items():
            video = write_video(path.parent / "v.mp4", frames=count, size=(40, 32)).read_bytes()
            tar.add(f"{key}.json", b"{}")
            places[key] = tar.add(f"{key}.mp4", video), len(video)
        tar.close()
    return places


def described(path: Path, key: str, offset: int, size: int) -> Video:
    """The row of a video; its facts as the prober finds them in that byte range."""
    return Video.of(probe(path, offset=offset, size=size), key=key, path=path, offset=offset)


def shard(manifest: Manifest, number: int) -> Path:
    return manifest.path.parent / f"shard-{number:06d}.tar"


def the_only(manifest: Manifest) -> str:
    (bad,) = check_shards(manifest)
    assert bad.code == "E-SHARD"
    return f"{bad.what} · {bad.cure}"


def test_nothing_to_say_of_whole_shards(manifest):
    assert check_shards(manifest) == []
    require_shards(manifest)
    assert len(manifest.last_ranges()) == SHARDS


def test_missing_renamed_and_pointing_nowhere(manifest):
    path = shard(manifest, 1)
    message = f"shard-000001.tar missing (manifest lists 3) · {CURE}"
    path.rename(path.with_name("shard-1.tar"))
    assert the_only(manifest) == message
    path.symlink_to("nowhere.tar")
    assert the_only(manifest) == message


def test_unreadable(manifest):
    path = shard(manifest, 1)
    path.unlink()
    path.symlink_to(path)
    assert the_only(manifest) == (
        "shard-000001.tar cannot be read (Too many levels of symbolic links) · check the disk and "
        "permissions"
    )


def test_a_folder_or_a_pipe_in_place_of_a_shard(manifest):
    for make in (Path.mkdir, os.mkfifo):
        shard(manifest, 1).rename(manifest.path.parent / f"away-{make.__name__}.tar")
        make(shard(manifest, 1))
        assert the_only(manifest) == f"shard-000001.tar is no regular file · {CURE}"


@pytest.mark.parametrize("lost", [1, 512, 3000, None])
def test_truncated(manifest, lost):
    path = shard(manifest, 2)
    size = path.stat().st_size
    left = size - lost if lost else 0
    os.truncate(path, left)
    assert the_only(manifest) == (
        f"shard-000002.tar is truncated: {left} bytes, at least {size} when it was indexed · "
        "copy it again"
    )


def exchanged(manifest: Manifest, number: int) -> str:
    """The refusal of a shard, once its time and the manifest's are set to known ones."""
    times = []
    for path, days in ((shard(manifest, number), 200), (manifest.path, 400)):
        os.utime(path, (86400 * days,) * 2)
        times.append(datetime.fromtimestamp(86400 * days).isoformat(" ", "minutes"))
    return (
        f"shard-{number:06d}.tar is not the shard that was indexed (it is of {times[0]}, the "
        f"manifest of {times[1]}) · {CURE}"
    )


def test_exchanged_for_another(manifest):
    """One with the same names and enough bytes, its videos of other sizes."""
    keys = {f"0-{frames}": 40 + frames for frames in (10, 11, 12)}
    write_shard(shard(manifest, 0), keys)
    message = exchanged(manifest, 0)
    assert the_only(manifest) == message


def test_only_the_last_video_is_another(manifest):
    """Its header stands where the old one's did, and says another size."""
    path = shard(manifest, 0)
    frames = {"0-10": 10, "0-11": 11, "0-12": 60}
    places = write_shard(path, frames)
    assert manifest.last_ranges()[path][0] == places["0-12"][0]
    message = exchanged(manifest, 0)
    assert the_only(manifest) == message


def test_zeros_or_text_in_place_of_a_shard(manifest):
    path = shard(manifest, 0)
    for data in (bytes(path.stat().st_size), b"<html>" * path.stat().st_size):
        path.write_bytes(data)
        message = exchanged(manifest, 0)
        assert the_only(manifest) == message


OPTIONS = {"clip": ClipConfig(frames=4, stride=1), "augment": AugmentConfig(size=16)}
DATA = DataConfig(batch_size=2, workers=0, prefetch_batches=1)


@pytest.mark.parametrize("build", ["training", "evaluation"])
def test_no_loader_starts_without_its_shards(manifest, build):
    def start():
        if build == "training":
            return build_loader(manifest, data=DATA, seed=0, **OPTIONS)
        return build_evaluation_loader(manifest, data=DATA, clips=1, **OPTIONS)

    assert start()
    shard(manifest, 0).unlink()
    os.truncate(shard(manifest, 2), 512)
    with pytest.raises(DataError) as caught:
        start()
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        "error[E-SHARD]: shard-000000.tar missing (manifest lists 3), and 1 more are missing or "
        f"changed · {shard(manifest, 0)} · {CURE}"
    )


def test_no_training_starts_without_its_shards(manifest, tmp_path, capsys):
    shard(manifest, 1).unlink()
    assert train.main(runs.smoke(manifest.path, tmp_path / "run")) == 3
    assert capsys.readouterr().err == (
        f"error[E-SHARD]: shard-000001.tar missing (manifest lists 3) · {shard(manifest, 1)} · "
        f"{CURE}\n"
    )


def test_a_shard_gives_the_batches_of_its_videos(manifest, tmp_path):
    """Three shards for two processes of two workers: nobody waits for a shard of their own."""
    rows = [manifest[n] for n in range(len(manifest))]
    raw = []
    for n, row in enumerate(rows):
        path = tmp_path / f"{n}.mp4"
        path.write_bytes(row.path.read_bytes()[row.offset : row.offset + row.size])
        raw.append(replace(row, path=path, offset=0))
    whole = write_manifest(tmp_path / "raw.parquet", raw, classes=[], options={})
    for rank in range(2):
        options = {"seed": 3, "place": Place(rank, 2), **OPTIONS}
        data = replace(DATA, workers=2, batch_size=4)
        ours = list(build_loader(manifest, data=data, **options).batches(0, 4))
        theirs = list(build_loader(whole, data=replace(data, workers=0), **options).batches(0, 4))
        for a, b in zip(ours, theirs, strict=True):
            assert a.index.tolist() == b.index.tolist()
            assert all(map(torch.equal, a.views, b.views))


def test_damaged_videos_of_one_shard_count_each(manifest):
    """Many videos share the path of a tar: each is named and counted by its key."""
    rows = [manifest[n] for n in range(len(manifest))][:-1]  # all but the raw one
    for row in rows:
        with row.path.open("r+b") as file:
            file.seek(row.offset)
            file.write(b"x" * row.size)
    loader = build_evaluation_loader(manifest, data=DATA, clips=1, **OPTIONS)
    assert [batch.index.tolist() for batch in loader] == [[len(rows)]]
    assert [(entry["path"], entry["key"]) for entry in loader.failed] == [
        (str(row.path), row.key) for row in rows
    ]


def test_a_split_needs_only_its_own_shards(manifest, tmp_path):
    videos = [manifest[n] for n in range(len(manifest))]
    rows = [replace(video, split=video.key[0]) for video in videos]
    path = tmp_path / "split.parquet"
    write_manifest(path, rows, classes=[], options={})
    shard(manifest, 0).unlink()
    assert check_shards(Manifest.read(path, "1")) == []
    assert len(check_shards(Manifest.read(path, "0"))) == 1
