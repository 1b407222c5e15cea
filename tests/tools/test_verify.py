import json
import os
import pty
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.manifest import Video, write_manifest
from pipeline.probe import probe
from tests import videos
from tools.verify import files
from tools.verify.__main__ import main

ROOT = Path(__file__).parents[2]
CLASSES = ["jump", "run"]


def row(path, *, key=None, label=-1, split="", offset=0, size=None, **changes) -> Video:
    facts = probe(path, offset=offset, size=size)
    place = {"key": key or path.name, "path": path, "offset": offset}
    return Video.of(facts, **place, label=label, split=split, **changes)


def manifest(path, rows, classes=CLASSES) -> Path:
    write_manifest(path, rows, classes=classes, options={})
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Ten different videos, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    return [
        videos.write_video(folder / f"v{n}.mp4", frames=8 + n, gop=4, size=(48, 48))
        for n in range(10)
    ]


@pytest.fixture
def data(made, tmp_path):
    """The same videos in a folder of the test's own, with rows: five of each class and split."""
    folder = tmp_path / "videos"
    folder.mkdir()
    rows = []
    for n, path in enumerate(made):
        own = folder / path.name
        own.write_bytes(path.read_bytes())
        rows.append(row(own, label=n % 2, split="train" if n < 6 else "test"))
    return rows


@pytest.fixture
def verify(capsys, monkeypatch):
    """Runs the tool within this process; gives what it printed and the findings it wrote."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, code=0):
        capsys.readouterr()
        try:
            returned = main([str(argument) for argument in arguments])
        except SystemExit as end:
            returned = end.code
        printed = capsys.readouterr()
        assert returned == code, printed.out + printed.err
        report = Path(arguments[0]).with_suffix(".verify.jsonl")
        lines = report.read_text().splitlines() if report.exists() else []
        return printed, [json.loads(line) for line in lines]

    return run


def found(findings, *keys):
    return [tuple(line[key] for key in keys) for line in findings]


def test_data_in_order(data, tmp_path, verify):
    path = manifest(tmp_path / "m.parquet", data)
    for options in ([], ["--full"]):
        printed, findings = verify(path, *options)
        assert findings == []
        assert printed.err == ""
        checked = "size, checksum and every frame" if options else "size and checksum"
        assert f"10 of 10 videos are in order ({checked})" in printed.out
    lines = [line.split() for line in printed.out.splitlines()]
    assert ["set", "videos", "hours", "GB", "classes"] in lines
    assert [line[:2] + line[4:] for line in lines if line[:1] == ["train"]] == [["train", "6", "2"]]
    page = (tmp_path / "m.verify.html").read_text()
    assert "<td>test</td>" in page and "Nothing to report" in page


def test_what_happened_to_files_since(data, tmp_path, verify):
    path = manifest(tmp_path / "m.parquet", data)
    gone, empty, longer, flipped, folder, pipe = (video.path for video in data[:6])
    size = longer.stat().st_size
    gone.unlink()
    empty.write_bytes(b"")
    longer.write_bytes(longer.read_bytes() + b"x")
    damaged = bytearray(flipped.read_bytes())
    damaged[-1] ^= 1
    flipped.write_bytes(damaged)
    for replaced in (folder, pipe):
        replaced.unlink()
    folder.mkdir()
    os.mkfifo(pipe)
    printed, findings = verify(path, code=3)
    again = "restore it, or index again"
    assert found(findings, "code", "key")[:6] == [
        ("E-MISSING", "v0.mp4"),
        ("E-EMPTY", "v1.mp4"),
        ("E-CHANGED", "v2.mp4"),
        ("E-CHANGED", "v3.mp4"),
        ("E-NOTFILE", "v4.mp4"),
        ("E-NOTFILE", "v5.mp4"),
    ]
    details = [line["detail"] for line in findings]
    assert details[0] == "no such file · check the path"
    assert details[1] == f"is 0 bytes (interrupted download?) · {again}"
    assert details[2] == f"has {size + 1} bytes, the manifest says {size} · {again}"
    assert details[3].startswith("its bytes differ from the manifest's (crc32 ")
    assert details[4:6] == ["is a directory · leave it out", "is a named pipe · leave it out"]
    assert findings[0] == {
        "code": "E-MISSING",
        "level": "error",
        "path": str(gone),
        "key": "v0.mp4",
        "detail": details[0],
        "manifest": str(path),
    }
    assert printed.err == (
        "error: 6 of 10 videos are unusable (E-CHANGED 2, E-NOTFILE 2, E-MISSING 1, E-EMPTY 1), "
        f"more than --max-bad-fraction=0.01 · {tmp_path}/m.verify.html · mend or remove them, "
        "index again\n"
    )
    assert "4 of 10 videos are in order (size and checksum)" in printed.out


def test_the_budget(data, tmp_path, verify):
    path = manifest(tmp_path / "m.parquet", data)
    data[0].path.unlink()
    verify(path, "--max-bad-fraction", 0.1)
    printed, _ = verify(path, "--max-bad-fraction", 0.09, code=3)
    assert "1 of 10 videos are unusable (E-MISSING 1), more than --max-bad-fraction=0.09" in (
        printed.err
    )


def test_full_decodes_and_compares(data, tmp_path, verify):
    data[0] = replace(data[0], frames=data[0].frames + 1)
    data[1] = replace(data[1], width=1000, rotation=90)
    data[2] = replace(data[2], frames=3, first_frame=5)
    path = manifest(tmp_path / "m.parquet", data)
    assert verify(path)[1] == []
    _, findings = verify(path, "--full", code=3)
    assert found(findings, "code", "key", "detail") == [
        ("E-TRUNCATED", "v0.mp4", "8 of 9 frames decode · re-encode it, or index again"),
        (
            "E-CHANGED",
            "v1.mp4",
            "differs from the manifest: rotation 0, not 90, width 48, not 1000 · restore it, or "
            "index again",
        ),
    ]


def test_full_notes_damage_and_streams(made, tmp_path, verify):
    path = videos.write_video(
        tmp_path / "a.mp4", frames=90, size=(128, 96), gop=12, container_options=videos.FASTSTART
    )
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[middle : middle + 2] = b"\xff\xff"
    path.write_bytes(content)
    damaged = probe(path).damaged_frames
    assert damaged
    parts = [
        videos.write_video(tmp_path / f"{side}.ts", frames=5, size=(side, 64)).read_bytes()
        for side in (64, 128)
    ]
    grows = tmp_path / "grows.ts"
    grows.write_bytes(b"".join(parts))
    listed = manifest(tmp_path / "m.parquet", [row(path), row(grows)], classes=[])
    _, findings = verify(listed, "--full")
    assert found(findings, "code", "level")[:2] == [("N-DAMAGED", "note"), ("N-STREAM", "note")]
    assert findings[0]["detail"] == f"{damaged}/90 frames damaged"
    assert findings[1]["detail"].startswith("its size changes in mid-stream (64x64, 128x64)")


def test_shards(data, made, tmp_path, verify):
    contents = [path.read_bytes() for path in made[:3]]
    shard, lost = tmp_path / "shard-000016.tar", tmp_path / "shard-000017.tar"
    shard.write_bytes(b"h" * 512 + contents[0] + b"h" * 512 + contents[1])
    lost.write_bytes(b"h" * 512 + contents[2])
    second = 1024 + len(contents[0])
    rows = [
        row(shard, key="a", offset=512, size=len(contents[0])),
        row(shard, key="b", offset=second, size=len(contents[1])),
        row(lost, key="c", offset=512, size=len(contents[2])),
        row(lost, key="d", offset=512, size=len(contents[2]), first_frame=1, frames=2),
    ]
    path = manifest(tmp_path / "m.parquet", rows, classes=[])
    verify(path, "--full", "--max-bad-fraction", 0)
    lost.unlink()
    shard.write_bytes(shard.read_bytes()[:-1])
    _, findings = verify(path, code=3)
    again = "copy or write the shard again"
    missing = f"shard-000017.tar missing (the manifest lists 2 videos in it) · {again}"
    end = second + len(contents[1])
    short = f"shard-000016.tar has {end - 1} bytes, its video b ends at {end} · {again}"
    assert found(findings, "code", "key", "detail")[:3] == [
        ("E-SHARD", "b", short),
        ("E-SHARD", "c", missing),
        ("E-SHARD", "d", missing),
    ]


def test_one_flipped_byte_in_a_shard(made, tmp_path, verify):
    content = made[0].read_bytes()
    shard = tmp_path / "s.tar"
    shard.write_bytes(b"h" * 512 + content + b"t" * 512)
    path = manifest(
        tmp_path / "m.parquet", [row(shard, key="a", offset=512, size=len(content))], classes=[]
    )
    data = bytearray(shard.read_bytes())
    data[100] ^= 1  # a header is not part of the video
    shard.write_bytes(data)
    assert verify(path)[1] == []
    data[512 + len(content) // 2] ^= 1
    shard.write_bytes(data)
    assert found(verify(path, code=3)[1], "code", "key") == [("E-CHANGED", "a")]


def copied(video, name, **changes) -> Video:
    path = video.path.with_name(name)
    path.write_bytes(video.path.read_bytes())
    return replace(video, path=path, key=name, **changes)


def test_duplicates_labels_and_overlap(data, tmp_path, verify):
    rows = [
        *data,
        copied(data[0], "same.mp4"),
        copied(data[1], "other_label.mp4", label=0),
        copied(data[2], "in_test.mp4", split="test"),
    ]
    path = manifest(tmp_path / "m.parquet", rows)
    printed, findings = verify(path)
    assert found(findings, "code", "key", "detail") == [
        ("W-DUPLICATE", "same.mp4", "also in train as v0.mp4"),
        (
            "W-LABELS",
            "other_label.mp4",
            "class 'jump' here, but also in train as v1.mp4 with the class 'run'",
        ),
        ("W-DUPLICATE", "other_label.mp4", "also in train as v1.mp4"),
        ("W-OVERLAP", "in_test.mp4", "also in train as v2.mp4"),
    ]
    assert {line["level"] for line in findings} == {"warning"}
    assert "one video in two sets: a test would ask for what was learned" in printed.out
    printed, findings = verify(path, "--strict", code=3)
    assert {line["level"] for line in findings} == {"error"}
    assert printed.err.startswith("error: --strict: W-DUPLICATE 2, W-LABELS 1, W-OVERLAP 1 · ")


def test_equal_size_and_checksum_are_not_enough(data, tmp_path, verify, monkeypatch):
    """Two videos of one size and crc32 are compared by their sha256."""
    copy = copied(data[0], "same.mp4")
    path = manifest(tmp_path / "m.parquet", [data[0], copy, *data[1:]])
    assert found(verify(path)[1], "code") == [("W-DUPLICATE",)]
    own = {data[0].path: "1", copy.path: "2"}
    monkeypatch.setattr(
        "tools.verify.__main__.sha256_of", lambda places, **_: {at: own[at[0]] for at in places}
    )
    assert verify(path)[1] == []


def test_overlap_between_manifests(data, tmp_path, verify):
    train = manifest(tmp_path / "train.parquet", data[:6])
    test = manifest(tmp_path / "test.parquet", [replace(data[5], split="test"), *data[6:]])
    assert verify(train)[1] == []
    _, findings = verify(train, test)
    assert found(findings, "code", "key", "manifest") == [("W-OVERLAP", "v5.mp4", str(test))]
    assert findings[0]["detail"] == f"also in {train}:train as v5.mp4"
    assert verify(train, train)[1] == []  # given twice is one manifest


def test_segments_of_one_file(data, tmp_path, verify):
    video = data[9]
    half = [replace(video, frames=8), replace(video, key="rest", first_frame=8, frames=9)]
    assert verify(manifest(tmp_path / "a.parquet", [*data[:9], *half]), "--full")[1] == []
    half[1] = replace(half[1], first_frame=7)
    found_now = verify(manifest(tmp_path / "b.parquet", [*data[:9], *half]))[1]
    assert found(found_now, "code", "key") == [("W-DUPLICATE", "rest")]
    half[1] = replace(half[1], first_frame=8, split="train")
    found_now = verify(manifest(tmp_path / "c.parquet", [*data[:9], *half]))[1]
    assert found(found_now, "code", "detail") == [
        ("W-GROUP", "other frames of it are in test as v9.mp4")
    ]


def test_a_group_of_ucf101_cut_by_a_random_split(data, tmp_path, verify):
    names = ["v_Jump_g01_c01", "v_Jump_g01_c02", "v_Jump_g01_c03", "v_Jump_g02_c01"]
    names += ["v_Run_g01_c01", "v_Run_g02_c01", "v_Run_g03_c01", "v_Run_g03_c02", "w", "x"]
    splits = ["train", "train", "test", "test", "train", "test", "test", "test", "train", "test"]
    rows = []
    for video, name, split in zip(data, names, splits, strict=True):
        moved = video.path.rename(video.path.with_name(f"{name}.mp4"))
        rows.append(replace(video, path=moved, split=split, key=name))
    _, findings = verify(manifest(tmp_path / "m.parquet", rows))
    assert found(findings, "code", "key", "detail") == [
        ("W-GROUP", "v_Jump_g01_c01", "clips of v_Jump_g01: 1 in test, 2 in train")
    ]


def test_classes(data, tmp_path, verify):
    train = manifest(tmp_path / "train.parquet", data[:6])
    test = [replace(video, label=0) for video in data[6:]]
    swapped = manifest(tmp_path / "swapped.parquet", test, classes=["run", "jump"])
    other = manifest(tmp_path / "other.parquet", test, classes=["run", "swim"])
    _, findings = verify(train, swapped, other)
    cure = f"index again with --classes-from {train}"
    lists = [line for line in findings if line["code"] == "W-CLASSES"]
    assert found(lists, "manifest", "detail") == [
        (str(swapped), f"another order: label 0 is 'run', in {train} 'jump' · {cure}"),
        (str(other), f"only here: swim; only in {train}: jump · {cure}"),
    ]
    empty = [line for line in findings if line["code"] == "W-NOCLASS"]
    assert found(empty, "manifest", "detail") == [
        (str(swapped), f"1 of 2 classes have no video in {swapped}:test: jump"),
        (str(other), f"1 of 2 classes have no video in {other}:test: swim"),
    ]
    verify(train, swapped, "--strict", code=3)


def test_slow_seeks_are_noted(data, tmp_path, verify):
    rows = [
        replace(data[0], keyframe_distance_frames=301),
        replace(data[1], keyframe_distance_frames=300),
        replace(data[2], vfr=True),
    ]
    printed, findings = verify(manifest(tmp_path / "m.parquet", rows))
    assert found(findings, "code", "level", "key", "detail") == [
        ("N-SEEK", "note", "v0.mp4", "up to 301 frames from one key frame to the next"),
        ("N-VFR", "note", "v2.mp4", "each clip is decoded from the start of 10"),
    ]
    assert "few key frames: slow seek, shard or re-encode" in printed.out


def test_names_are_text_only(data, tmp_path, verify):
    name = "<script>alert(1)</script>[red]\x1b[31m"
    data[0] = replace(data[0], key=name)
    data[0].path.unlink()
    printed, findings = verify(manifest(tmp_path / "m.parquet", data), code=3)
    assert findings[0]["key"] == name
    page = (tmp_path / "m.verify.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;[red]" in page
    assert "\x1b" not in page + printed.out + printed.err
    assert "<script>alert(1)</script>[red]" in printed.out


def test_where_the_report_goes(data, tmp_path, verify):
    path = manifest(tmp_path / "m.parquet", data)
    verify(path, "--report", tmp_path / "new" / "r.html")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["r.html", "r.jsonl"]
    (tmp_path / "file").write_text("")
    printed, _ = verify(path, "--report", tmp_path / "file" / "r.html", code=2)
    assert printed.err == f"error: File exists · {tmp_path}/file · check path and permissions\n"
    assert not list(tmp_path.rglob("*.partial"))


def test_no_manifest(tmp_path, verify):
    printed, _ = verify(tmp_path / "none.parquet", code=3)
    assert printed.err.startswith(f"error: no such manifest · {tmp_path}/none.parquet · make one")
    assert len(printed.err.splitlines()) == 1
    printed, _ = verify(tmp_path / "none.parquet", "--max-bad-fraction", "2", code=2)
    assert "expected a number from 0 to 1, got '2'" in printed.err


def troubled(stored):
    """Stands for a decoder that hangs or crashes on some files."""
    if stored.video.key == "v1.mp4":
        time.sleep(600)
    if stored.video.key == "v2.mp4":
        os.abort()
    return files.check(stored)


def test_hanging_and_crashing_decoders(data, tmp_path, verify, monkeypatch):
    monkeypatch.setattr(files, "check", troubled)
    _, findings = verify(
        manifest(tmp_path / "m.parquet", data), "--timeout-seconds", 3, "--full", code=3
    )
    assert found(findings, "code", "key", "detail") == [
        (
            "E-TIMEOUT",
            "v1.mp4",
            "not verified within 3 s · raise --timeout-seconds if it is a long video",
        ),
        (
            "E-CRASH",
            "v2.mp4",
            "the decoder crashed (killed by SIGABRT) · re-encode it or leave it out",
        ),
    ]


def test_as_a_program_on_a_terminal(data, tmp_path):
    path = manifest(tmp_path / "m.parquet", data)
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "tools.verify", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        text=True,
    )
    os.close(theirs)
    assert done.returncode == 0
    assert "10 of 10 videos are in order" in done.stdout
    assert b"verified" in os.read(ours, 1 << 16)
    os.close(ours)
