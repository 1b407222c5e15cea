"""Shards go both ways: ours into the webdataset package and DALI, theirs into our reader."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import webdataset
from nvidia.dali import fn, pipeline_def

import tools.index
import tools.shard.__main__
from pipeline.decode import decode_frames
from pipeline.manifest import Manifest
from pipeline.shards.check import require_shards
from pipeline.shards.tar import BadShard, TarWriter, group_samples, read_members
from tests.videos import read_number, write_video

# No two videos of one length, and names that test a header: long, accented, in folders.
KEYS = ["a", "class one/b", "é" * 40, "k" * 130, f"{'d' * 90}/{'e' * 90}", "z"]
SHORT = [key for key in KEYS if len(key) != 130]  # what ustar, which webdataset writes, can name


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """Key -> extension -> bytes of six samples, each a real video and its facts."""
    folder = tmp_path_factory.mktemp("videos")
    found = {}
    for number, key in enumerate(KEYS):
        path = write_video(folder / "v.mp4", frames=6 + number, size=(64, 48), gop=4)
        described = {"frames": 6 + number, "label": number}
        found[key] = {"mp4": path.read_bytes(), "json": json.dumps(described).encode()}
    return found


@pytest.fixture(scope="module")
def ours(tmp_path_factory, contents) -> Path:
    path = tmp_path_factory.mktemp("ours") / "shard-000000.tar"
    with path.open("wb") as file:
        tar = TarWriter(file)
        for key, parts in contents.items():
            for extension, data in parts.items():
                tar.add(f"{key}.{extension}", data)
        tar.close()
    return path


def facts(contents, key: str) -> dict:
    return json.loads(contents[key]["json"])


def read_by_ranges(path: Path) -> dict[str, dict[str, bytes]]:
    samples, notes = group_samples(read_members(path), path)
    assert not notes
    data = path.read_bytes()
    return {
        sample.key: {e: data[m.offset : m.offset + m.size] for e, m in sample.members.items()}
        for sample in samples
    }


def read_by_webdataset(*paths: Path) -> dict[str, dict[str, bytes]]:
    urls = [str(path) for path in paths]
    samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    return {
        sample["__key__"]: {e: sample[e] for e in ("mp4", "json") if e in sample}
        for sample in samples
    }


def read_by_dali(path: Path, count: int) -> list[tuple[bytes, bytes]]:
    @pipeline_def(batch_size=count, num_threads=1, device_id=None)
    def graph():
        return tuple(fn.readers.webdataset(paths=[str(path)], ext=["mp4", "json"]))

    running = graph()
    running.build()
    assert sum(running.epoch_size().values()) == count
    videos, facts = running.run()
    return [
        (np.asarray(videos.at(n)).tobytes(), np.asarray(facts.at(n)).tobytes())
        for n in range(count)
    ]


def test_ours_in_the_webdataset_package(ours, contents):
    read = read_by_webdataset(ours)
    assert read == contents and list(read) == KEYS


def test_ours_in_dali(ours, contents):
    expected = [(parts["mp4"], parts["json"]) for parts in contents.values()]
    assert read_by_dali(ours, len(KEYS)) == expected


def test_ours_in_our_reader(ours, contents):
    assert read_by_ranges(ours) == contents


def test_their_tar_writer_here(tmp_path, contents):
    path = tmp_path / "theirs.tar"
    with webdataset.TarWriter(str(path), encoder=False, format="PAX_FORMAT") as tar:
        for key, parts in contents.items():
            tar.write({"__key__": key, **parts})
    assert read_by_ranges(path) == contents == read_by_webdataset(path)


def test_their_shard_writer_here(theirs, contents):
    paths = sorted(theirs.glob("theirs-*.tar"))
    assert len(paths) == 3
    read = {}
    for path in paths:
        read |= read_by_ranges(path)
    assert read == {key: contents[key] for key in SHORT} == read_by_webdataset(*paths)


def test_their_compressed_shards_are_refused(tmp_path, contents):
    path = tmp_path / "theirs.tar.gz"
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        tar.write({"__key__": "a", **contents["a"]})
    with pytest.raises(
        BadShard, match=r"is compressed \(gzip\).* · unpack it: gzip -d theirs.tar.gz"
    ):
        read_members(path)


# Through the programs


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, contents) -> Path:
    """A folder of three shards by their ShardWriter."""
    folder = tmp_path_factory.mktemp("shards")
    options = {"maxcount": 2, "encoder": False, "verbose": 0}
    with webdataset.ShardWriter(str(folder / "theirs-%06d.tar"), **options) as shards:
        for key in SHORT:
            shards.write({"__key__": key, **contents[key]})
    return folder


@pytest.fixture(scope="module")
def indexed(theirs) -> Path:
    path = theirs / "m.parquet"
    pattern = str(theirs / "theirs-{000000..000002}.tar")
    assert tools.index.main([pattern, "-o", str(path), "--jobs", "1"]) == 0
    return path


def assert_decodes(manifest: Manifest, key: str, frames: int) -> None:
    (row,) = (n for n in range(len(manifest)) if manifest.keys[n].endswith(key))
    video = manifest[row]
    assert video.frames == frames
    pictures = decode_frames(video, np.arange(frames), timeout_seconds=30)
    assert [read_number(picture) for picture in pictures] == list(range(frames))


def test_rows_of_their_shards_decode(theirs, indexed, contents):
    manifest = Manifest.read(indexed)
    assert len(manifest) == len(SHORT)
    for row in range(len(manifest)):
        video = manifest[row]
        data = video.path.read_bytes()[video.offset : video.offset + video.size]
        assert data == contents[video.key]["mp4"]
        assert zlib.crc32(data) == video.crc32
        assert_decodes(manifest, video.key, facts(contents, video.key)["frames"])
    labels = {key: facts(contents, key)["label"] for key in SHORT}
    assert {v.key: int(manifest.classes[v.label]) for v in map(manifest.__getitem__, range(5))} == (
        labels
    )
    require_shards(manifest)


def test_shards_of_tools_shard_are_everybodys(tmp_path, indexed, contents):
    """Videos go through both programs; other readers take from the tars what our rows point at."""
    out = tmp_path / "sharded"
    arguments = [str(indexed), "-o", str(out), "--shards", "2", "--jobs", "1"]
    assert tools.shard.__main__.main(arguments) == 0
    paths = sorted(out.glob("*.tar"))
    (written,) = out.glob("*.parquet")
    manifest = Manifest.read(written)
    assert len(paths) == 2 and len(manifest) == len(SHORT)
    require_shards(manifest)
    here, packaged = {}, read_by_webdataset(*paths)
    for path in paths:
        here |= read_by_ranges(path)
        in_dali = read_by_dali(path, len(read_by_ranges(path)))
        assert in_dali == [(part["mp4"], part["json"]) for part in read_by_ranges(path).values()]
    assert packaged == here
    videos = [manifest[n] for n in range(len(manifest))]
    ranges = {v.path.read_bytes()[v.offset : v.offset + v.size] for v in videos}
    assert ranges == {parts["mp4"] for parts in packaged.values()}
    for key in SHORT:
        assert_decodes(manifest, key, facts(contents, key)["frames"])
