"""Damaged files by the hundred: none crashes or hangs the prober, or passes with a wrong count."""

import random

import pytest

from pipeline.container import decode_linear, open_video
from pipeline.errors import BadVideo
from pipeline.probe import Probe, probe
from tests import videos
from tools.pool import Crashed, Stuck, supervised_map

MUTANTS_PER_VIDEO = 45
KINDS = {
    "faststart.mp4": {"gop": 8, "b_frames": 2, "container_options": videos.FASTSTART},
    "index_behind.mp4": {"gop": 12, "audio": True},
    "fragmented.mp4": {"gop": 8, "container_options": videos.FRAGMENTED},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 8},
    "b_frames.mkv": {"gop": 8, "b_frames": 2},
    "asp.avi": {"codec": "mpeg4", "gop": 8, "b_frames": 2},
    "hevc.ts": {"codec": "libx265", "gop": 8},
}
CODES = {"E-EMPTY", "E-NOTVIDEO", "E-TRUNCATED", "E-CORRUPT", "E-NOFRAMES", "E-NOVIDEO"}
CODES |= {"E-TOOBIG", "E-TINY", "E-CODEC", "E-FORMAT", "E-SHORT"}


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 10, 40, 200))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def zero_a_run(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 16, 200, 2000)))
    data[start:end] = bytes(end - start)


def lose_a_run(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 7, 188, 900))]


def damage_headers(data: bytearray, rng: random.Random) -> None:
    """Bytes of the index or, where there is none, of the first 700 bytes."""
    start = max(data.find(b"moov"), 0)
    for _ in range(rng.choice((1, 2, 8))):
        data[min(len(data) - 1, start + rng.randrange(700))] = rng.choice((0, 1, 0x7F, 0xFF))


DAMAGES = (flip_bits, truncate, zero_a_run, lose_a_run, damage_headers)


@pytest.fixture(scope="module")
def mutants(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    paths = []
    for name, kind in KINDS.items():
        # 64 x 64: libx265 writes outside its memory for pictures smaller than its blocks.
        whole = videos.write_video(folder / name, frames=24, size=(64, 64), **kind).read_bytes()
        for n in range(MUTANTS_PER_VIDEO):
            damage = DAMAGES[n % len(DAMAGES)]
            data = bytearray(whole)
            damage(data, random.Random(f"{name} {n}"))
            path = folder / f"{n:03}_{damage.__name__}_{name}"
            path.write_bytes(data)
            paths.append(path)
    return paths


def judged(path) -> tuple[Probe | BadVideo, int]:
    """What the prober says of a file, and how many frames of it really decode."""
    try:
        facts = probe(path)
    except BadVideo as error:
        return error, 0
    with open_video(path) as container:
        return facts, sum(1 for _ in decode_linear(container))


def test_mutants_are_refused_or_told_truly(mutants):
    outcomes = dict(supervised_map(judged, mutants, jobs=2, timeout_seconds=20))
    assert len(outcomes) == len(mutants) >= 300
    accepted = 0
    for n, path in enumerate(mutants):
        outcome = outcomes[n]
        assert not isinstance(outcome, Stuck | Crashed), f"{path.name}: {outcome}"
        facts, frames = outcome
        if isinstance(facts, BadVideo):
            assert facts.code in CODES, f"{path.name}: {facts}"
            assert facts.path == str(path) and "\n" not in str(facts)
            continue
        accepted += 1
        assert facts.frames == frames >= 2, path.name
        assert facts.damaged_frames <= 0.05 * (facts.frames + facts.damaged_frames), path.name
        assert facts.fps > 0 and facts.width >= 16 and facts.height >= 16, path.name
    # Neither all nor none: the mutations are neither too strong nor too weak.
    assert 0.1 < accepted / len(mutants) < 0.7
