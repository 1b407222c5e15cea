"""Broken videos are broken for every clip, and a list that is off by one video is found out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline import BadVideo, ClipConfig
from pipeline.decode import decode_frames
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.probe import probe
from tests import videos
from tools.benchmark import damaged, loader
from tools.benchmark.damaged import BROKEN, KINDS, LISTED, WRONG, Listed

FRAMES = 60


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Manifest:
    """A video as the shards have it, its index before its pictures."""
    folder = tmp_path_factory.mktemp("shard")
    path = videos.write_video(
        folder / "v.mp4", frames=FRAMES, gop=12, container_options=videos.FASTSTART
    )
    return write_manifest(
        folder / "m.parquet", [Video.of(probe(path), key="v", path=path)], classes=[], options={}
    )


def test_no_clip_of_a_broken_video_decodes(shard, tmp_path):
    rows = [replace(shard[0], key=kind.__name__) for kind in KINDS]
    whole = write_manifest(tmp_path / "whole.parquet", rows, classes=[], options={})
    broken = damaged.with_damage(whole, range(len(KINDS)), tmp_path)
    sizes = [video.path.stat().st_size for video in broken]
    assert len(set(sizes)) == 3 and shard[0].size in sizes and 0 in sizes
    for video in broken:
        for start in (0, FRAMES // 2, FRAMES - 2):
            with pytest.raises(BadVideo):
                decode_frames(video, np.array([start, start + 1]), timeout_seconds=10)
    assert len(decode_frames(whole[1], np.array([0, FRAMES - 1]), timeout_seconds=10)) == 2


def test_the_others_are_as_they_were(tiny_data, tmp_path):
    manifest = Manifest.read(tiny_data)
    numbers = [2, 7]
    broken = damaged.with_damage(manifest, numbers, tmp_path)
    assert [video.key for video in broken] == [video.key for video in manifest]
    other = [n for n in range(len(manifest)) if broken[n].path != manifest[n].path]
    assert other == numbers and broken.classes == manifest.classes


def test_one_in_a_hundred_and_no_two_side_by_side():
    assert damaged.broken_numbers(300) == [0, 100, 200]
    assert len(damaged.broken_numbers(6400)) == 64 and damaged.broken_numbers(7) == [0]


@pytest.fixture
def small(monkeypatch):
    """Three broken videos of twelve, in turns of two batches made in this process."""
    monkeypatch.setattr(loader, "CLIP", ClipConfig(frames=2, stride=2, sampling="interval"))
    monkeypatch.setattr(loader, "AUGMENT", replace(loader.AUGMENT, size=16))
    monkeypatch.setattr(damaged, "VIDEOS", {"cpu": 12})
    monkeypatch.setattr(damaged, "SHARE", 0.25)
    return loader.Means(workers=0, batch_videos=6)


class TestComparison:
    def test_the_list_is_exact(self, small, tiny_data, tmp_path):
        manifest = Manifest.read(tiny_data)
        found = damaged.beside_whole(manifest, small, tmp_path / "work", rounds=1)
        assert list(found.rates) == ["none damaged", "3 of 12 damaged"] and found.apart
        time, listed = found.limits
        ratio = found.ratio("3 of 12 damaged")
        assert (time.value, time.most) == (ratio.p50, 1.05)
        assert time.what.startswith("time with 3 of 12 damaged over time with none (20 % to 80 % ")
        assert str(listed) == (
            "videos wrongly on or off the quarantine list (3 broken and drawn, 3 listed): 0 "
            "(goal: 0 or less) reached"
        )
        facts = found.facts["3 of 12 damaged"]
        assert facts[BROKEN] == facts[LISTED] == 3 and "CPU ms/sample" in facts
        assert found.title.endswith("12 samples a turn")

    def test_a_video_that_is_not_listed_is_found_out(self, small, tiny_data, tmp_path, monkeypatch):
        note = damaged.Quarantine.note

        def forgetful(quarantine, entries):
            note(quarantine, [entry for entry in entries if not entry["key"].startswith("4-")])

        monkeypatch.setattr(damaged.Quarantine, "note", forgetful)
        found = damaged.beside_whole(Manifest.read(tiny_data), small, tmp_path / "work", rounds=1)
        assert found.facts["3 of 12 damaged"][WRONG] == 1 and not found.limits[1].reached


def test_wrong_are_the_missing_the_harmless_and_those_that_came_as_samples(tiny_data, tmp_path):
    listed = Listed(Manifest.read(tiny_data), tmp_path / "quarantine.jsonl")
    assert listed.compared(set()) == {BROKEN: 0, LISTED: 0, WRONG: 0}
    lines = (json.dumps({"key": key, "path": "p"}) for key in ("v1", "v2"))
    listed.path.write_text("\n".join(lines))
    assert listed.compared({"v1", "v2"}) == {BROKEN: 2, LISTED: 2, WRONG: 0}
    assert listed.compared({"v1"})[WRONG] == 1 and listed.compared({"v1", "v2", "v3"})[WRONG] == 1
    listed.given = {1, 5}
    assert listed.compared({"v1", "v2"})[WRONG] == 1
    assert Listed(listed.manifest, listed.path).compared({"v1"})[LISTED] == 0  # of a run before
