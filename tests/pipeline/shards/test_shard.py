import hashlib
import json
import random
import tarfile
import zlib
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.manifest import Video
from pipeline.shards.shard import Item, Packer, finished, member_name, plan_shards, samples_of
from pipeline.shards.spool import DiskFull, Sample, Spooled, megabytes, room_for, spool_path
from pipeline.shards.tar import read_members, split_name
from pipeline.whole import FULL_DISK, whole_file

VIDEO = Video(
    key="v", path=Path("/videos/v.mp4"), offset=0, size=1000, crc32=1, frames=100, fps=Fraction(25),
    width=64, height=48, rotation=0, codec="h264", keyframe_distance_frames=12, vfr=False,
    start_pts=0, time_base=Fraction(1, 12800), label=1, split="train",
)  # fmt: skip


def facts_of(number: int, data: bytes) -> Spooled:
    return Spooled(
        number=number, suffix="mp4", size=len(data), crc32=zlib.crc32(data), frames=90,
        fps=Fraction(30000, 1001), width=32, height=24, rotation=0, codec="h264",
        keyframe_distance_frames=12, vfr=False, start_pts=0, time_base=Fraction(1, 30000),
    )  # fmt: skip


def item(number: int, data: bytes, key: str = "") -> Item:
    sample = Sample(number, key or f"c/{number}", VIDEO, 0, 100)
    return Item.of(sample, facts_of(number, data), ["no", "yes"])


# Samples


def test_whole_videos_keep_their_keys_and_frames():
    videos = [replace(VIDEO, key="a"), replace(VIDEO, key="b", first_frame=7, frames=9)]
    assert [(s.number, s.key, s.first_frame, s.frames) for s in samples_of(videos)] == [
        (0, "a", 0, 100),
        (1, "b", 7, 9),
    ]


@given(st.integers(2, 5000), st.integers(0, 99), st.floats(0.01, 500), st.sampled_from([25, 30]))
def test_pieces_cover_a_video_and_are_of_one_length(frames, first_frame, seconds, fps):
    video = replace(VIDEO, frames=frames, first_frame=first_frame, fps=Fraction(fps))
    samples = samples_of([video], max_seconds=seconds)
    assert samples[0].first_frame == first_frame
    assert samples[-1].first_frame + samples[-1].frames == first_frame + frames
    assert all(a.first_frame + a.frames == b.first_frame for a, b in pairwise(samples))
    lengths = [sample.frames for sample in samples]
    assert max(lengths) - min(lengths) <= 1 <= min(lengths)
    assert max(lengths) <= max(2, seconds * fps)
    if len(samples) == 1:
        assert samples[0].key == "v"
    else:
        assert [sample.key for sample in samples[:2]] == ["v#000", "v#001"]


def test_two_samples_of_one_key_and_one_without_are_refused():
    with pytest.raises(DataError) as clash:
        samples_of([replace(VIDEO, key="v#000", frames=40), VIDEO], max_seconds=2.0)
    assert str(clash.value) == (
        "error: two samples have the key 'v#000' · /videos/v.mp4 · give every video a key of its "
        "own, and index again"
    )
    with pytest.raises(DataError, match="a key is empty"):
        samples_of([replace(VIDEO, key="")])


# Names

NASTY = st.text(st.sampled_from("ab./_%# é\\\n\0\x7f\x85:*"), min_size=1, max_size=12)


@given(NASTY | st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_member_name_is_safe_and_gives_its_key_back(key):
    name = member_name(key)
    assert unquote(name) == key
    assert "." not in name
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in name)
    assert all(name.split("/")), "an empty folder or base name"
    assert split_name(f"{name}.mp4") == (name, "mp4"), "what readers of WebDataset see"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("high jump/v_01", "high jump/v_01"),
        ("Class.X/v.1.mp4", "Class%2EX/v%2E1%2Emp4"),
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd"),
        ("/abs", "%2Fabs"),
        ("a//b/", "a/%2Fb%2F"),
        ("100%", "100%25"),
        ("__meta__/x", "%5F_meta__/x"),
        ("film#003", "film#003"),
        ("été", "été"),
    ],
)
def test_member_names(key, name):
    assert member_name(key) == name


# Plan

SIZES = st.lists(st.integers(0, 60_000), min_size=1, max_size=60)


@given(SIZES, st.integers(1, 9))
def test_a_plan_holds_every_item_once_in_shards_of_like_size(sizes, shards):
    items = [item(n, bytes(size)) for n, size in enumerate(sizes)]
    plan = plan_shards(items, shards=shards)
    assert len(plan) == min(shards, len(items))
    assert sorted(i.sample.number for shard in plan for i in shard.items) == list(range(len(items)))
    loads = [sum(i.bytes_in_tar for i in shard.items) for shard in plan]
    assert max(loads) - min(loads) <= max(i.bytes_in_tar for i in items)


def test_many_videos_give_shards_within_five_per_cent():
    generator = random.Random(0)
    items = [item(n, bytes(int(generator.lognormvariate(9, 1)))) for n in range(600)]
    loads = [sum(i.bytes_in_tar for i in s.items) for s in plan_shards(items, shards=12)]
    assert max(loads) / min(loads) <= 1.05


def test_shard_bytes_is_the_aim_of_every_shard():
    items = [item(n, bytes(3000)) for n in range(100)]
    total = sum(i.bytes_in_tar for i in items)
    plan = plan_shards(items, shard_bytes=total // 5)
    assert len(plan) == 5
    assert len(plan_shards(items, shard_bytes=total // 5 - 1)) == 6
    assert len(plan_shards(items, shard_bytes=10 * total)) == 1


def test_the_plan_depends_on_sizes_only_and_the_order_within_mixes_classes():
    items = [item(n, bytes(1000), key=f"{n // 20:02d}/v{n:03d}") for n in range(100)]
    (shard,) = plan_shards(items, shards=1)
    keys = [i.sample.key for i in shard.items]
    assert keys == sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())
    assert keys != sorted(keys)
    assert shard == plan_shards(items, shards=1)[0]
    ties = plan_shards(items, shards=3)
    assert [sorted(i.sample.number for i in s.items)[:2] for s in ties] == [[0, 3], [1, 4], [2, 5]]


# Facts


def test_facts_survive_the_journal_and_a_cut_line_does_not():
    facts = facts_of(3, b"abc")
    line = facts.to_json()
    assert Spooled.from_json(line) == facts
    for end in range(len(line)):
        with pytest.raises(ValueError):
            Spooled.from_json(line[:end])


def test_a_row_says_where_in_the_tar_the_video_is():
    sample = Sample(0, "v#001", VIDEO, 50, 50)
    row = facts_of(0, b"abc").row(sample, Path("/shards/a.tar"), 512)
    assert (row.key, row.path, row.offset, row.size) == ("v#001", Path("/shards/a.tar"), 512, 3)
    assert (row.frames, row.fps, row.first_frame) == (90, Fraction(30000, 1001), 0)
    assert (row.label, row.split, row.crc32) == (1, "train", zlib.crc32(b"abc"))


# Writing


@pytest.fixture
def packed(tmp_path):
    """A folder, its spool, and a shard whose videos wait there."""
    items = [item(n, bytes([n]) * (700 + 50 * n), key=f"k.{n}") for n in range(6)]
    (shard,) = plan_shards(items, shards=1)
    store = tmp_path / "spool"

    def fill():
        for one in items:
            path = spool_path(store, one.sample.number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([one.facts.number]) * one.facts.size)

    fill()
    folder = tmp_path / "out"
    folder.mkdir()
    return folder, store, shard, fill


def test_a_shard_is_a_plain_tar_of_adjacent_pairs(packed):
    folder, store, shard, _ = packed
    offsets = Packer(folder, store)(shard)
    members = read_members(folder / shard.name)
    names = [member_name(i.sample.key) for i in shard.items]
    assert [m.name for m in members] == [n + e for n in names for e in (".mp4", ".json")]
    assert [m.offset for m in members[::2]] == offsets
    with tarfile.open(folder / shard.name) as tar:
        described = json.load(tar.extractfile(members[1].name))
    first = shard.items[0]
    assert described == {
        "key": first.sample.key, "source": "v", "first_frame": 0, "frames": 90,
        "fps": 30000 / 1001, "width": 32, "height": 24, "label": 1, "class": "yes",
        "split": "train",
    }  # fmt: skip
    assert not [path for path in store.rglob("*") if path.is_file()], "the spool is emptied"


def test_webdataset_reads_it(packed):
    folder, store, shard, _ = packed
    Packer(folder, store)(shard)
    dataset = webdataset.WebDataset(str(folder / shard.name), shardshuffle=False, empty_check=False)
    read = {sample["__key__"]: sample for sample in dataset}
    assert {unquote(key) for key in read} == {i.sample.key for i in shard.items}
    for one in shard.items:
        sample = read[member_name(one.sample.key)]
        assert sample["mp4"] == bytes([one.facts.number]) * one.facts.size
        assert json.loads(sample["json"])["key"] == one.sample.key


def test_the_sidecar_tells_a_finished_shard(packed):
    folder, store, shard, fill = packed
    assert finished(shard, folder) is None
    offsets = Packer(folder, store)(shard)
    path = folder / shard.name
    before, sidecar = path.read_bytes(), finished(shard, folder)
    assert sidecar["sha256"] == hashlib.sha256(before).hexdigest()
    assert Packer(folder, store)(shard) == offsets, "kept: the spool is empty"
    (other,) = plan_shards(list(shard.items[:5]), shards=1)
    assert finished(replace(other, number=0), folder) is None, "another plan"
    path.write_bytes(before[:-1])
    assert finished(shard, folder) is None, "another size"
    path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
    fill()
    assert Packer(folder, store)(shard) == offsets
    assert path.read_bytes() == before, "other bytes of the same size: written again"


def test_a_damaged_spool_is_never_packed(packed):
    folder, store, shard, _ = packed
    path = spool_path(store, 2)
    path.write_bytes(b"x" * path.stat().st_size)
    error = Packer(folder, store)(shard)
    assert str(error) == (
        f"error: the encoded video is damaged · {path} · give the same command again: it is "
        "encoded anew"
    )
    assert not path.exists() and list(folder.iterdir()) == []


@pytest.mark.parametrize("code", FULL_DISK)
def test_a_full_disk_leaves_nothing(tmp_path, code):
    path = tmp_path / "shard-000003.tar"
    path.write_bytes(b"older")
    room = room_for(path, needed=412_000_000)
    with pytest.raises(DiskFull) as full, room, whole_file(path) as file:
        file.write(b"half")
        raise OSError(code, "reason")
    free = full.value.free
    assert str(full.value) == (
        f"error[E-DISK]: needs 412 MB, {megabytes(free)} free (reason) · {path} · free some space "
        "and give the same command again: it continues"
    )
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 MB"), (81920, "0.0819 MB"), (412_300_000, "412 MB"), (3.2e9, "3.20 GB")],
)
def test_megabytes(count, text):
    assert megabytes(count) == text
