import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import webdataset

from pipeline import AugmentConfig, ClipConfig, DataConfig, build_loader
from pipeline.decode import decode_frames
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.probe import probe
from tests import shard_runs, videos
from tests.conftest import damage, make_data_set
from tests.shard_runs import KillAt, Run, contents
from tools.shard.__main__ import main

ROOT = Path(__file__).parents[2]
COPY = ("--preset", "copy", "--shards", 3)
SHARDS = [f"shard-00000{n}.{suffix}" for n in range(3) for suffix in ("json", "tar")]


@pytest.fixture(autouse=True, scope="module")
def quick_workers():
    """Worker processes would each import the main module, which here is pytest."""
    with patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
        yield


@pytest.fixture
def shard(capsys):
    """The program within this process, which saves its start: (exit code, stdout, stderr)."""

    def run(*arguments, code=0):
        capsys.readouterr()
        try:
            returned = main([str(argument) for argument in arguments])
        except SystemExit as end:
            returned = end.code
        printed = capsys.readouterr()
        assert returned == code, printed.out + printed.err
        return printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def copied(tiny_data, tmp_path_factory) -> Path:
    """The tiny data in three shards, made by one worker that nothing disturbed."""
    folder = tmp_path_factory.mktemp("shards") / "copied"
    assert main([str(a) for a in (tiny_data, "-o", folder, *COPY, "--jobs", 1)]) == 0
    return folder


@pytest.fixture
def run(tiny_data, tmp_path):
    """The same job in a process of its own, into a folder of this test, with faults."""

    def start(*arguments, source=tiny_data, **faults) -> Run:
        common = (source, "-o", tmp_path / "out", *COPY, "--jobs", 1)
        return Run(tmp_path / "log", *common, *arguments, **faults)

    return start


def rows(folder: Path) -> dict:
    manifest = Manifest.read(folder / "manifest.parquet")
    return {video.key: video for video in (manifest[n] for n in range(len(manifest)))}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# What comes out


def test_as_a_user_runs_it(tiny_data, tmp_path):
    folder = tmp_path / "new" / "shards"
    command = [sys.executable, "-m", "tools.shard", str(tiny_data), "-o", str(folder)]
    command += ["--shards", "2", "--jobs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout.splitlines()
    assert out[:2] == [f"wrote {folder}/manifest.parquet", "  videos     10"]
    assert re.fullmatch(r"  encoded    10 in this run, [\d.]+ videos/s, [\d.]+ s in all", out[2])
    assert re.fullmatch(
        r"  shards     2, [\d.]+ MB in all \([\d.]+ MB to [\d.]+ MB, largest/smallest 1\.\d{3}\)",
        out[3],
    )
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.parquet", *SHARDS[:4]]
    listed = subprocess.run(
        ["tar", "-tf", folder / "shard-000000.tar"], capture_output=True, text=True, check=True
    )
    names = listed.stdout.split()
    assert len(names) % 2 == 0 and names[1::2] == [n.replace(".mp4", ".json") for n in names[::2]]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (again.returncode, again.stdout) == (
        0,
        f"nothing to do: {folder}/manifest.parquet is complete (10 videos)\n",
    )
    assert not (folder / ".shard").exists()


def test_the_manifest_is_the_source_s_with_other_places(tiny_data, copied):
    source, made = Manifest.read(tiny_data), Manifest.read(copied / "manifest.parquet")
    assert made.keys == source.keys and made.classes == source.classes
    assert made.labels.tolist() == source.labels.tolist()
    assert made.options["preset"] == "copy" and made.options["source"] == source.fingerprint
    for before, after in ((source[n], made[n]) for n in range(len(source))):
        same = ("frames", "fps", "width", "height", "codec", "keyframe_distance_frames", "split")
        assert all(getattr(before, name) == getattr(after, name) for name in same)
        assert after.path.parent == copied and after.first_frame == 0


def batch(manifest: Path):
    loader = build_loader(
        Manifest.read(manifest),
        clip=ClipConfig(frames=4, stride=2),
        augment=AugmentConfig(size=16),
        data=DataConfig(batch_size=4, workers=0),
        seed=3,
    )
    return next(iter(loader.batches(0, 1)))


def assert_equal(one, other) -> None:
    assert one.index.tolist() == other.index.tolist()
    assert one.label.tolist() == other.label.tolist()
    for before, after in zip(one.views, other.views, strict=True):
        assert np.array_equal(before.numpy(), after.numpy())


def test_training_reads_copies_as_it_does_the_videos(tiny_data, copied):
    assert_equal(batch(tiny_data), batch(copied / "manifest.parquet"))


def test_training_reads_shards_as_it_does_their_members(tiny_data, tmp_path, shard):
    shard(tiny_data, "-o", tmp_path / "out", "--shards", 2, "--jobs", 1)
    loose = []
    for key, row in rows(tmp_path / "out").items():
        with tarfile.open(row.path) as tar:
            (tmp_path / key).write_bytes(tar.extractfile(f"{key}.mp4").read())
        loose.append(replace(row, path=tmp_path / key, offset=0))
    write_manifest(tmp_path / "loose.parquet", loose, classes=["even", "odd"], options={})
    assert_equal(batch(tmp_path / "loose.parquet"), batch(tmp_path / "out" / "manifest.parquet"))


def test_re_encoded_shards_show_the_source_s_frames(tmp_path, shard):
    source = make_data_set(tmp_path, videos=3)
    shard(source, "-o", tmp_path / "out", "--shards", 1, "--jobs", 1)
    before = Manifest.read(source)
    for n, after in enumerate(rows(tmp_path / "out").values()):
        assert (after.keyframe_distance_frames, after.codec) == (12, "h264")
        assert numbers(after) == list(range(before[n].frames))


def test_webdataset_reads_all_shards(tiny_data, copied):
    shards = f"{copied}/shard-{{000000..000002}}.tar"
    dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    read = {sample["__key__"]: json.loads(sample["json"]) for sample in dataset}
    source = Manifest.read(tiny_data)
    assert read.keys() == set(source.keys)
    assert [read[key]["label"] for key in source.keys] == source.labels.tolist()
    assert {facts["class"] for facts in read.values()} == {"even", "odd"}


# The same bytes, whoever makes them


@pytest.mark.parametrize("jobs", [2, 4])
def test_workers_do_not_change_a_byte(tiny_data, copied, tmp_path, shard, jobs):
    shard(tiny_data, "-o", tmp_path / "out", *COPY, "--jobs", jobs)
    assert contents(tmp_path / "out") == contents(copied)


def test_parts_do_not_change_a_byte(tiny_data, copied, tmp_path, shard):
    common = (tiny_data, "-o", tmp_path / "out", *COPY, "--jobs", 1)
    out, _ = shard(*common, "--part", "3/3")
    assert out.splitlines()[:2] == ["encoded part 3 of 3", "  videos     3"]
    assert "when all parts are done, the same command without --part packs them" in out
    shard(*common, "--part", "1/3")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".shard"]
    out, _ = shard(*common)
    assert "  encoded    3 in this run" in out, "what no part did"
    assert contents(tmp_path / "out") == contents(copied)
    out, _ = shard(*common, "--part", "2/3")
    assert out.startswith("nothing to do")


@pytest.fixture(scope="module")
def dask_cluster():
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


def test_a_dask_cluster_does_not_change_a_byte(tiny_data, copied, tmp_path, shard, dask_cluster):
    shard(tiny_data, "-o", tmp_path / "out", *COPY, "--dask", dask_cluster.scheduler_address)
    assert contents(tmp_path / "out") == contents(copied)


def test_dask_is_optional(tiny_data, tmp_path, shard, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    _, err = shard(tiny_data, "-o", tmp_path / "out", "--dask", "tcp://localhost:1", code=2)
    assert err == (
        "error: --dask needs a package that is not installed · distributed · pip install "
        "distributed\n"
    )


# Killed and continued

POINTS = {
    "first video": KillAt(r"\d{7}", "after"),
    "half a video": KillAt(r"\d{7}", "half", 4),
    "last video": KillAt(r"\d{7}", "after", 10),
    "half a shard": KillAt(r"shard-000001\.tar", "half"),
    "shard before its sidecar": KillAt(r"shard-000001\.tar", "after"),
    "half a sidecar": KillAt(r"shard-000001\.json", "half"),
    "sidecar": KillAt(r"shard-000001\.json", "after"),
    "all shards": KillAt(r"manifest\.parquet", "before"),
    "half a manifest": KillAt(r"manifest\.parquet", "half"),
    "manifest": KillAt(r"manifest\.parquet", "after"),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_given_again_it_continues(run, copied, tmp_path, point):
    assert run(files=POINTS[point]).wait().code == -signal.SIGKILL
    whole, left = contents(copied), contents(tmp_path / "out")
    assert all(left[name] == whole[name] for name in whole.keys() & left.keys()), "half a file"
    assert ("manifest.parquet" in left) == (point == "manifest")
    again = run().wait()
    assert again.code == 0, again.output
    assert contents(tmp_path / "out") == whole
    if "video" not in point and point != "manifest":
        assert "  encoded    0 in this run, -, " in again.output


def test_a_line_that_was_cut_costs_one_video(run, copied, tmp_path):
    """How many lines there are when it is killed depends on the other worker."""
    run(files=KillAt(r"\d{7}", "after", 6)).wait()
    journal = tmp_path / "out" / ".shard" / "facts.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    before = journal.read_bytes()
    assert run(files=KillAt(r"\d{7}", "after", 2)).wait().code == -signal.SIGKILL
    noted = before.count(b"\n") + journal.read_bytes()[len(before) :].count(b'{"')
    again = run().wait()
    assert again.code == 0 and contents(tmp_path / "out") == contents(copied)
    left = f"  encoded    {10 - noted} in this run"
    assert left in again.output, "one more: the next line went with the cut one"


def test_a_shard_that_changed_meanwhile_is_written_again(run, copied, tmp_path):
    run(files=KillAt(r"shard-000002\.tar", "before")).wait()
    path = tmp_path / "out" / "shard-000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-512])
    again = run().wait()
    assert again.code == 0 and contents(tmp_path / "out") == contents(copied)


def test_a_complete_folder_that_lost_a_shard_is_made_whole(run, copied, tmp_path):
    run().wait()
    (tmp_path / "out" / "shard-000001.tar").unlink()
    again = run().wait()
    assert again.code == 0 and "nothing to do" not in again.output
    assert contents(tmp_path / "out") == contents(copied)


def test_workers_end_with_the_run(run, tmp_path):
    hang = shard_runs.Hang("v3", tmp_path / "pid")
    started = run(video=hang)
    worker = hang.wait()
    os.kill(started.process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(worker)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ctrl_c(run, tmp_path):
    hang = shard_runs.Hang("v3", tmp_path / "pid")
    started = run(video=hang)
    worker = hang.wait()
    os.kill(started.process.pid, signal.SIGINT)
    started.wait()
    assert (started.code, started.output) == (
        130,
        "interrupted: give the same command again, it continues\n",
    )
    assert not alive(worker)


def test_a_disk_that_keeps_nothing(tiny_data, tmp_path, shard, monkeypatch):
    monkeypatch.setattr("tools.shard.run._size", lambda path: -1)
    _, err = shard(tiny_data, "-o", tmp_path / "out", *COPY, code=3)
    assert err == (
        f"error: encoded videos vanish (10 are missing again) · {tmp_path}/out/.shard/spool · use "
        "a folder that keeps what is written, and that all workers share\n"
    )


# Workers that die


def test_a_worker_that_is_killed_costs_nothing(run, copied, tmp_path):
    done = run("--jobs", 2, video=shard_runs.DieOnce("v4", tmp_path / "flag")).wait()
    assert done.code == 0, done.output
    assert re.search(
        r"a worker process died; what it may have died of \(\d\) is tried again one by one",
        done.output,
    )
    assert contents(tmp_path / "out") == contents(copied)


def test_a_video_that_kills_the_encoder_is_named(run, tmp_path, tiny_data):
    done = run("--max-bad-fraction", 0.1, video=shard_runs.DieAlways("v4")).wait()
    assert done.code == 0, done.output
    assert "  rejected   1 (E-CRASH 1), see quarantine.jsonl" in done.output
    assert lines(tmp_path / "out" / "quarantine.jsonl") == [
        {
            "path": str(tiny_data.parent / "v4.mp4"),
            "code": "E-CRASH",
            "detail": "the encoder crashed (killed by SIGSEGV) · re-encode it or leave it out",
            "key": "v4",
        }
    ]
    assert "v4" not in rows(tmp_path / "out") and len(rows(tmp_path / "out")) == 9


def test_a_video_that_hangs_is_named(run, tmp_path):
    hang = shard_runs.Hang("v4", tmp_path / "pid")
    done = run("--max-bad-fraction", 0.1, "--timeout-seconds", 1.5, video=hang).wait()
    assert done.code == 0, done.output
    (entry,) = lines(tmp_path / "out" / "quarantine.jsonl")
    assert (entry["code"], entry["detail"]) == (
        "E-TIMEOUT",
        "not encoded within 1.5 s · raise --timeout-seconds, or cut it with --max-seconds",
    )


def test_a_packer_that_dies_ends_the_run(run, copied, tmp_path):
    done = run(shard=shard_runs.DieAlways("shard-000001.tar")).wait()
    assert done.code == 3
    assert done.output.splitlines()[-1] == (
        "error: a worker cannot write a shard (killed by SIGSEGV) · "
        f"{tmp_path}/out/shard-000001.tar · look at its memory and disk, then give the same "
        "command again: it continues"
    )
    assert run().wait().code == 0 and contents(tmp_path / "out") == contents(copied)


def test_a_killed_dask_worker_costs_nothing(tiny_data, copied, tmp_path, dask_cluster, run):
    flag = tmp_path / "flag"
    fault = shard_runs.DieOnce("v4", flag)
    done = run("--dask", dask_cluster.scheduler_address, video=fault).wait()
    assert done.code == 0, done.output
    assert flag.exists() and contents(tmp_path / "out") == contents(copied)


# A full disk


@pytest.mark.parametrize("limit", [1000, 5000])
def test_a_full_disk(run, copied, tmp_path, limit):
    """1,000 bytes are too few for a video, 5,000 too few for a shard."""
    done = run(file_limit=limit).wait()
    assert done.code == 2
    what = ".shard/spool/0000/000000" if limit == 1000 else "shard-00000"
    assert re.fullmatch(
        r"error\[E-DISK\]: needs [\d.]+ MB, [\d.]+ [MG]B free \(File too large\) · "
        rf"{tmp_path}/out/{what}\S* · free some space and give the same command again: it "
        r"continues\n",
        done.output,
    )
    left = contents(tmp_path / "out")
    assert not [name for name in left if "partial" in name or name.endswith("tar")]
    assert run().wait().code == 0 and contents(tmp_path / "out") == contents(copied)


# Bad videos, copies, pieces


def test_a_video_that_cannot_be_encoded(own_data, tmp_path, shard):
    (path,) = damage(own_data, 4)
    common = (own_data, "-o", tmp_path / "out", *COPY, "--jobs", 1)
    _, err = shard(*common, code=3)
    crc = f"{rows_of(own_data)['v4'].crc32:08x}"
    assert err.splitlines()[0] == (
        "error: 1 of 10 videos cannot be encoded, more than --max-bad-fraction=0.01 (E-CHANGED 1) "
        f"· {tmp_path}/out/quarantine.jsonl · mend or remove them and index again; what is encoded "
        "is kept"
    )
    assert "its bytes are not those that were indexed (crc32 " in err and f"not {crc})" in err
    assert not list((tmp_path / "out").glob("shard-*"))
    out, _ = shard(*common, "--max-bad-fraction", 0.1)
    assert "  videos     9" in out and "  rejected   1 (E-CHANGED 1), see quarantine.jsonl" in out
    assert "  encoded    0 in this run" in out
    assert [entry["path"] for entry in lines(tmp_path / "out" / "quarantine.jsonl")] == [str(path)]


def test_a_video_that_is_back_is_taken_after_all(own_data, tmp_path, shard):
    path = own_data.parent / "v4.mp4"
    path.rename(tmp_path / "away")
    common = (own_data, "-o", tmp_path / "out", *COPY, "--jobs", 1)
    _, err = shard(*common, code=3)
    assert "E-MISSING" in err
    (tmp_path / "away").rename(path)
    shard(*common)
    assert len(rows(tmp_path / "out")) == 10
    assert not (tmp_path / "out" / "quarantine.jsonl").exists()


def rows_of(manifest: Path) -> dict:
    source = Manifest.read(manifest)
    return {video.key: video for video in (source[n] for n in range(len(source)))}


def numbers(row: Video) -> list[int]:
    """The number drawn into each frame."""
    pictures = decode_frames(row, np.arange(row.frames), timeout_seconds=10)
    return [videos.read_number(picture) for picture in pictures]


def rewrite(manifest: Path, change) -> Path:
    """The manifest with rows changed by a function of the list."""
    source = Manifest.read(manifest)
    path = manifest.with_name("changed.parquet")
    videos = change([source[n] for n in range(len(source))])
    write_manifest(path, videos, classes=source.classes, options={})
    return path


def test_copies_are_left_out_and_their_labels_compared(own_data, tmp_path, shard):
    for number, key in ((0, "copy"), (1, "other")):
        (own_data.parent / f"{key}.mp4").write_bytes(
            (own_data.parent / f"v{number}.mp4").read_bytes()
        )

    def change(videos):
        copy = replace(videos[0], key="copy", path=own_data.parent / "copy.mp4")
        other = replace(videos[1], key="other", path=own_data.parent / "other.mp4", label=0)
        test = replace(videos[2], key="test", split="test")
        segment = replace(videos[3], key="segment", first_frame=2, frames=5)
        return [*videos, copy, other, test, segment]

    source = rewrite(own_data, change)
    common = ("--shards", 1, "--jobs", 1, "--preset", "small")
    out, _ = shard(source, "-o", tmp_path / "out", *common, "--dedup")
    assert set(rows(tmp_path / "out")) == {*(f"v{n}" for n in range(10)), "test", "segment"}
    assert "  duplicates 2 left out, see duplicates.jsonl" in out
    assert "  note: 1 of them have another label than the video that is kept:" in out
    assert "    other = v1 (label 0, kept 1)" in out
    assert lines(tmp_path / "out" / "duplicates.jsonl")[0] == {
        "key": "copy",
        "same_as": "v0",
        "path": str(own_data.parent / "copy.mp4"),
        "label": 0,
        "kept_label": 0,
    }


def test_equal_checksums_are_not_yet_a_copy(own_data, tmp_path, shard):
    def change(videos):
        return [
            videos[0],
            replace(videos[1], size=videos[0].size, crc32=videos[0].crc32, frames=12),
        ]

    source = rewrite(own_data, change)
    common = (*COPY, "--jobs", 1, "--dedup", "--max-bad-fraction", 1)
    out, _ = shard(source, "-o", tmp_path / "out", *common)
    assert "duplicates" not in out and "rejected   1" in out


def test_long_videos_and_segments_are_cut(own_data, tmp_path, shard):
    def change(videos):
        return [videos[0], replace(videos[9], key="segment", first_frame=3, frames=17)]

    source = rewrite(own_data, change)
    common = ("--max-seconds", 0.25, "--shards", 1, "--jobs", 1)
    shard(source, "-o", tmp_path / "out", *common)
    assert {key: numbers(row) for key, row in rows(tmp_path / "out").items()} == {
        "v0#000": list(range(0, 6)),
        "v0#001": list(range(6, 12)),
        "segment#000": list(range(3, 8)),
        "segment#001": list(range(8, 14)),
        "segment#002": list(range(14, 20)),
    }


def test_of_a_video_that_changed_no_piece_is_taken(own_data, tmp_path, shard):
    """Its first piece alone compares the bytes; all others decode, to whatever is there now."""
    path = own_data.parent / "v4.mp4"
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"Xavf"))
    common = ("--max-seconds", 0.25, "--shards", 1, "--jobs", 1, "--max-bad-fraction", 0.2)
    out, _ = shard(own_data, "-o", tmp_path / "out", *common)
    assert {key.partition("#")[0] for key in rows(tmp_path / "out")} == {
        f"v{n}" for n in range(10) if n != 4
    }
    assert "  rejected   3 (E-CHANGED 3), see quarantine.jsonl" in out


def test_one_split_of_several(own_data, tmp_path, shard):
    source = rewrite(
        own_data, lambda videos: [replace(v, split="train" if v.label else "test") for v in videos]
    )
    shard(source, "-o", tmp_path / "out", *COPY, "--jobs", 1, "--split", "test")
    assert {row.split for row in rows(tmp_path / "out").values()} == {"test"}
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert json.load(tar.extractfile(tar.getnames()[1]))["split"] == "test"


def test_copying_warns_of_long_gops(tmp_path, shard):
    path = videos.write_video(tmp_path / "long.mp4", frames=80, gop=250)
    video = Video.of(probe(path), key="long", path=path)
    write_manifest(tmp_path / "m.parquet", [video], classes=[], options={})
    out, _ = shard(tmp_path / "m.parquet", "-o", tmp_path / "out", *COPY, "--jobs", 1)
    assert out.splitlines()[-1] == (
        "  warning: 1 of 1 videos have up to 80 frames between key frames: random clips of them "
        "decode about 40 frames in vain; --preset fast sets 12"
    )


# Refusals


def test_a_folder_in_use(run, tiny_data, tmp_path, shard):
    hang = shard_runs.Hang("v0", tmp_path / "pid")
    started = run("--part", "1/2", video=hang)
    hang.wait()
    common = (tiny_data, "-o", tmp_path / "out", *COPY, "--jobs", 1)
    for arguments in ((*common, "--part", "1/2"), common):
        _, err = shard(*arguments, code=2)
        holder = f"process {started.process.pid} on {socket.gethostname()}"
        assert err == (
            f"error: the folder is in use by {holder} · {tmp_path}/out · wait for that run, or "
            "choose another folder\n"
        )
    shard(*common, "--part", "2/2")
    os.kill(started.process.pid, signal.SIGKILL)
    started.wait()
    shard(*common)


def test_a_folder_of_another_job(tiny_data, copied, tmp_path, shard):
    before = contents(copied)
    _, err = shard(tiny_data, "-o", copied, "--shards", 2, code=2)
    assert err == (
        f"error: the folder is of another job (preset copy -> fast, shards 3 -> 2) · {copied} · "
        "choose a new folder, or remove this one\n"
    )
    assert contents(copied) == before
    (tmp_path / "thesis.txt").write_text("mine")
    _, err = shard(tiny_data, "-o", tmp_path, *COPY, code=2)
    assert err == (
        f"error: the folder is not empty, and not of an earlier run · {tmp_path} · choose a new "
        "folder\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_library_versions_do_not_continue_a_job(run, tiny_data, tmp_path, shard):
    run(files=KillAt(r"\d{7}", "after", 2)).wait()
    job = tmp_path / "out" / ".shard" / "job.json"
    job.write_text(job.read_text().replace('"av": "', '"av": "9'))
    _, err = shard(tiny_data, "-o", tmp_path / "out", *COPY, code=2)
    assert "error: the folder is of another job (another libraries)" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--part", "0/3"), "expected I/N with I from 1 to N, got '0/3'"),
        (("--part", "4/3"), "expected I/N with I from 1 to N, got '4/3'"),
        (("--shard-bytes", "0"), "expected a size such as 500M or 1G, got '0'"),
        (("--shard-bytes", "1G", "--shards", "2"), "not allowed with argument"),
        (("--preset", "best"), "invalid choice: 'best'"),
        (("--preset", "copy", "--max-seconds", "3"), "error: a copy cannot be cut · --max-seconds"),
        (("--dask", "tcp://127.0.0.1:9"), "error: no Dask scheduler answers"),
    ],
)
def test_wrong_arguments(tiny_data, tmp_path, shard, arguments, message, monkeypatch):
    monkeypatch.setattr("tools.shard.workers.CONNECT_SECONDS", 0.3)
    _, err = shard(tiny_data, "-o", tmp_path / "out", *arguments, code=2)
    assert message in err and "Traceback" not in err


def test_a_folder_that_cannot_be_written(tiny_data, tmp_path, shard):
    (tmp_path / "file").write_text("")
    _, err = shard(tiny_data, "-o", tmp_path / "file" / "out", code=2)
    assert err == f"error: Not a directory · {tmp_path}/file/out · check path and permissions\n"
    _, err = shard(tmp_path / "none.parquet", "-o", tmp_path / "out", code=3)
    assert err.startswith("error: no such manifest")
