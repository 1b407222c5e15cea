import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.manifest import SCHEMA, Manifest, Video, write_manifest
from pipeline.probe import Probe

VIDEO = Video(
    key="jump/a.mp4",
    path=Path("/data/videos/jump/a.mp4"),
    offset=0,
    size=1000,
    crc32=2**32 - 1,
    frames=40,
    fps=Fraction(30000, 1001),
    width=320,
    height=240,
    rotation=90,
    codec="h264",
    keyframe_distance_frames=12,
    vfr=False,
    start_pts=-5,
    time_base=Fraction(1, 90000),
    label=0,
    split="train",
    first_frame=7,
)


def message(function, *arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments, **options)
    assert caught.value.exit_code == 3
    return str(caught.value)


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda name: "/" not in name and name not in (".", "..")
)
int32 = st.integers(1, 2**31 - 1)
int64 = st.integers(0, 2**63 - 1)
ratios = st.builds(Fraction, int32, int32)
rows = st.builds(
    Video,
    key=names,
    path=names.map(lambda name: Path("/data/videos", name)),
    offset=int64,
    size=int64,
    crc32=st.integers(0, 2**32 - 1),
    first_frame=st.integers(0, 2**31 - 1),
    frames=int32,
    fps=ratios,
    width=int32,
    height=int32,
    rotation=st.sampled_from([0, 90, 180, 270]),
    codec=st.sampled_from(["h264", "vp9"]),
    keyframe_distance_frames=int32,
    vfr=st.booleans(),
    start_pts=st.integers(-(2**63), 2**63 - 1),
    time_base=ratios,
    label=st.integers(-1, 4),
    split=st.sampled_from(["", "train", "test"]),
)


@settings(max_examples=60, deadline=None)
@given(videos=st.lists(rows, min_size=1, max_size=8, unique_by=lambda v: v.key))
def test_what_is_written_is_read(tmp_path_factory, videos):
    path = tmp_path_factory.mktemp("m") / "m.parquet"
    classes = ["a", "b", "ç", "d 'e'", ""]
    write_manifest(path, videos, classes=classes, options={"sources": ["x"]})
    manifest = Manifest.read(path)
    assert [manifest[n] for n in range(len(manifest))] == videos
    assert manifest.classes == classes
    assert manifest.options == {"sources": ["x"]}
    assert manifest.keys == [video.key for video in videos]
    assert manifest.labels.dtype == np.int64
    assert manifest.labels.tolist() == [video.label for video in videos]
    assert manifest.codecs == {video.codec for video in videos}
    assert manifest.rotated == any(video.rotation for video in videos)


def test_several_splits_are_refused_where_one_is_needed(tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(
        path, [VIDEO, replace(VIDEO, key="b", split="test")], classes=["x", "y"], options={}
    )
    with pytest.raises(DataError) as caught:
        Manifest.read(path, one_split=True)
    assert str(caught.value) == (
        f"error: it holds several splits (test, train) · {path} · choose one: "
        "data.split=NAME to train, --split TRAIN TEST to evaluate"
    )
    assert len(Manifest.read(path, "test", one_split=True)) == 1 and len(Manifest.read(path)) == 2


def test_rows_of_one_split(tmp_path):
    path = tmp_path / "m.parquet"
    test = replace(VIDEO, key="b", split="test", label=1)
    write_manifest(path, [VIDEO, test], classes=["x", "y"], options={})
    manifest = Manifest.read(path, "test")
    assert [manifest[n] for n in range(len(manifest))] == [test]
    assert manifest.labels.tolist() == [1]
    assert message(Manifest.read, path, "val") == (
        f"error: no videos of split 'val' · {path} · it has: test, train"
    )


def test_a_copy_in_another_process_reads_the_file_again(tmp_path):
    path = tmp_path / "m.parquet"
    manifest = write_manifest(
        path, [VIDEO, replace(VIDEO, key="b", split="test")], classes=["x"], options={}
    )
    assert len(pickle.dumps(manifest)) < 300
    assert len(pickle.loads(pickle.dumps(Manifest.read(path, "test")))) == 1


def test_the_last_byte_range_in_every_file(tmp_path):
    """Rows of one tar need not be in its order, and two may be segments of one member."""
    one, two = tmp_path / "1.tar", tmp_path / "sub" / "2.tar"
    places = [(one, 4096, 10), (one, 512, 3000), (VIDEO.path, 0, 9), (two, 512, 7), (one, 4096, 10)]
    rows = [
        replace(VIDEO, key=str(n), path=path, offset=offset, size=size)
        for n, (path, offset, size) in enumerate(places)
    ]
    manifest = write_manifest(tmp_path / "m.parquet", rows, classes=["x"], options={})
    assert manifest.last_ranges() == {one: (4096, 10), two: (512, 7)}


def test_negative_and_numpy_indices(tmp_path):
    manifest = write_manifest(
        tmp_path / "m.parquet", [VIDEO, replace(VIDEO, key="b")], classes=["x"], options={}
    )
    assert manifest[-1].key == manifest[np.int64(1)].key == "b"
    with pytest.raises(IndexError):
        manifest[2]


def stored_path(manifest: Path) -> str:
    return pq.read_table(manifest)["path"][0].as_py()


def test_paths_move_with_the_manifest(tmp_path):
    (tmp_path / "lists").mkdir()
    video = replace(VIDEO, path=tmp_path / "videos" / "a.mp4")
    path = tmp_path / "lists" / "m.parquet"
    write_manifest(path, [video], classes=["x"], options={})
    assert stored_path(path) == "../videos/a.mp4"
    assert Manifest.read(path)[0].path == tmp_path / "videos" / "a.mp4"
    moved = tmp_path / "elsewhere" / "lists"
    moved.mkdir(parents=True)
    os.rename(path, moved / "m.parquet")
    assert Manifest.read(moved / "m.parquet")[0].path == tmp_path / "elsewhere/videos/a.mp4"


def test_paths_that_share_only_the_root_stay_absolute(tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(path, [VIDEO], classes=["x"], options={})
    assert stored_path(path) == "/data/videos/jump/a.mp4"


def test_relative_manifest_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = replace(VIDEO, path=Path("a.mp4"))
    write_manifest("m.parquet", [video], classes=["x"], options={})
    assert stored_path(tmp_path / "m.parquet") == "a.mp4"
    manifest = Manifest.read("m.parquet")
    monkeypatch.chdir("/")
    assert manifest[0].path == tmp_path / "a.mp4"


def test_fingerprint_follows_content_and_labels_only(tmp_path):
    def fingerprint(**changes):
        videos = [replace(VIDEO, **changes)]
        path = tmp_path / "m.parquet"
        return write_manifest(path, videos, classes=["x", "y"], options={}).fingerprint

    first = fingerprint()
    assert fingerprint(path=Path("/other/a.mp4"), split="test", vfr=True) == first
    changes = [{"key": "b"}, {"size": 1}, {"crc32": 1}, {"label": 1}]
    changes += [{"first_frame": 8}, {"frames": 39}]
    assert len({first, *(fingerprint(**change) for change in changes)}) == 7


def test_equal_rows_give_equal_bytes(tmp_path):
    write_manifest(tmp_path / "a.parquet", [VIDEO], classes=["x"], options={"b": 1, "a": 2})
    write_manifest(tmp_path / "b.parquet", [VIDEO], classes=["x"], options={"a": 2, "b": 1})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.parquet"
    write_manifest(path, [VIDEO], classes=["x"], options={})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.manifest.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(path, [VIDEO, replace(VIDEO, key="b")], classes=["x"], options={})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("videos", "text"),
    [
        ([], "a manifest needs at least one video"),
        ([VIDEO, VIDEO], "two videos have the key 'jump/a.mp4'"),
        ([replace(VIDEO, label=1)], "'jump/a.mp4': label 1 of 1 classes"),
        ([replace(VIDEO, label=-2)], "'jump/a.mp4': label -2 of 1 classes"),
    ],
)
def test_rows_that_make_no_sense(tmp_path, videos, text):
    with pytest.raises(ValueError, match=text):
        write_manifest(tmp_path / "m.parquet", videos, classes=["x"], options={})
    assert not (tmp_path / "m.parquet").exists()


def test_missing_file_or_folder(tmp_path):
    path = tmp_path / "m.parquet"
    cure = "make one with: python -m tools.index VIDEOS -o NAME.parquet"
    assert message(Manifest.read, path) == f"error: no such manifest · {path} · {cure}"
    assert message(Manifest.read, tmp_path) == (
        f"error: the manifest is a folder · {tmp_path} · {cure}"
    )


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_not_parquet(tmp_path, damage):
    path = tmp_path / "m.parquet"
    write_manifest(path, [VIDEO], classes=["x"], options={})
    path.write_bytes({"text": b"a,b\n", "cut": path.read_bytes()[:-9], "empty": b""}[damage])
    assert message(Manifest.read, path) == (
        f"error: not a readable parquet file · {path} · write it again: "
        "python -m tools.index VIDEOS -o m.parquet"
    )


AGAIN = "write it again: python -m tools.index VIDEOS -o NAME.parquet"


def foreign(path, table, metadata=None):
    encoded = {b"kinema": json.dumps(metadata).encode()} if metadata else None
    pq.write_table(table.replace_schema_metadata(encoded), path)
    return path


def test_foreign_parquet(tmp_path):
    path = foreign(tmp_path / "m.parquet", pa.table({"a": [1]}))
    assert message(Manifest.read, path) == (
        f"error: a parquet file, but not a Kinema manifest · {path} · {AGAIN}"
    )


@pytest.mark.parametrize("version", [1, 7])
def test_other_version(tmp_path, version):
    path = foreign(tmp_path / "m.parquet", pa.table({"a": [1]}), {"schema_version": version})
    assert message(Manifest.read, path) == (
        f"error: manifest version {version}, this Kinema reads 2 · {path} · {AGAIN}"
    )


def test_a_row_of_facts_has_them_and_what_is_said_beside_them():
    facts = VIDEO.columns()
    probed = Probe(**facts, damaged_frames=3)
    assert probed.columns() == facts, "what a subclass adds is not a fact"
    row = Video.of(probed, key="b", path=Path("/b.mp4"))
    assert row == Video(key="b", path=Path("/b.mp4"), **facts)
    assert (row.offset, row.label, row.split, row.first_frame) == (0, -1, "", 0)
    assert Video.of(probed, key="b", path=Path("/b.mp4"), frames=9) == replace(row, frames=9)
    place = {name: getattr(VIDEO, name) for name in Video.__dataclass_fields__.keys() - facts}
    assert Video.of(probed, **place) == VIDEO


def test_segments_of_one_file_are_rows_of_their_own(tmp_path):
    segments = [replace(VIDEO, key=f"a/{n}", first_frame=n, frames=20) for n in (0, 20, 35)]
    manifest = write_manifest(tmp_path / "m.parquet", segments, classes=["x"], options={})
    assert [manifest[n] for n in range(3)] == segments
    assert Video.__dataclass_fields__["first_frame"].default == 0


def test_missing_column_and_no_rows(tmp_path):
    metadata = {"schema_version": 2, "classes": [], "fingerprint": "", "options": {}}
    path = foreign(tmp_path / "m.parquet", SCHEMA.empty_table(), metadata)
    assert message(Manifest.read, path) == f"error: the manifest has no videos · {path} · {AGAIN}"
    path = foreign(tmp_path / "n.parquet", SCHEMA.empty_table().drop(["fps_den"]), metadata)
    assert message(Manifest.read, path) == f"error: no column fps_den · {path} · {AGAIN}"


def test_importing_the_manifest_needs_no_decoder():
    code = "import sys, pipeline.manifest; sys.exit('nvidia.dali' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
