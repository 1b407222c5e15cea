"""Videos of a manifest -> WebDataset tars: what stands in which shard, and writing one shard.

    rows -> samples -> encoded, each a file of the spool -> plan -> tars

How large a video becomes is known only once it is encoded, so shards of equal size are planned
from the spool. The plan is a function of the samples' sizes and order alone: who encoded what, in
which order and after how many interruptions cannot change a byte of the tars.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import av

from pipeline.checksum import sha256
from pipeline.errors import DataError
from pipeline.manifest import NO_LABEL, Video
from pipeline.shards.spool import DiskFull, Sample, Spooled, room_for, spool_path
from pipeline.shards.tar import BLOCK_BYTES, TarWriter
from pipeline.whole import whole_file

# Of a member's name: dots, which would end the key; the percent sign itself; what a terminal or a
# file system could stumble over; slashes that do not stand between two names; and the underscores
# of names that readers of WebDataset take for their own.
ESCAPED = re.compile(r'[.%\\"*:<>?|\x00-\x1f\x7f-\x9f]|^/|/$|(?<=/)/|(?:^|(?<=/))_(?=_)')


def samples_of(videos: Sequence[Video], *, max_seconds: float | None = None) -> list[Sample]:
    """One sample per video, or several of equal length (to a frame) of one over `max_seconds`.

    Pieces have the keys "<key>#000", "<key>#001", ... Raises DataError when two samples would have
    one key, or one would have none.
    """
    samples: list[Sample] = []
    for video in videos:
        pieces = _pieces(video, max_seconds)
        for n in range(pieces):
            first, end = (video.frames * k // pieces for k in (n, n + 1))
            key = f"{video.key}#{n:03d}" if pieces > 1 else video.key
            samples.append(Sample(len(samples), key, video, video.first_frame + first, end - first))
    _check_keys(samples)
    return samples


def _pieces(video: Video, max_seconds: float | None) -> int:
    if max_seconds is None:
        return 1
    most_frames = max(2, int(Fraction(max_seconds) * video.fps))
    return -(-video.frames // most_frames)


def _check_keys(samples: Sequence[Sample]) -> None:
    seen: set[str] = set()
    for sample in samples:
        if not sample.key or sample.key in seen:
            what = f"two samples have the key '{sample.key}'" if sample.key else "a key is empty"
            where, cure = sample.video.path, "give every video a key of its own, and index again"
            raise DataError(f"error: {what} · {where} · {cure}")
        seen.add(sample.key)


def member_name(key: str) -> str:
    """The base of a member's name: `key` with some characters as %XX.

    No dot, no empty or special folder name is left. `urllib.parse.unquote` gives the key back.
    """
    return ESCAPED.sub(lambda match: _percent(match[0]), key)


def _percent(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E").replace("_", "%5F")


@dataclass(frozen=True, slots=True)
class Item:
    """A sample that goes into a shard. json: the contents of its second member."""

    sample: Sample
    facts: Spooled
    json: bytes

    @classmethod
    def of(cls, sample: Sample, facts: Spooled, classes: Sequence[str]) -> Item:
        return cls(sample, facts, _described(sample, facts, classes))

    @property
    def bytes_in_tar(self) -> int:
        sizes = (self.facts.size, len(self.json))
        return sum(BLOCK_BYTES * (1 + -(-size // BLOCK_BYTES)) for size in sizes)


def _described(sample: Sample, facts: Spooled, classes: Sequence[str]) -> bytes:
    video = sample.video
    described = {
        "key": sample.key,
        "source": video.key,
        "first_frame": sample.first_frame,
        "frames": facts.frames,
        "fps": float(facts.fps),
        "width": facts.width,
        "height": facts.height,
    }
    if video.label != NO_LABEL:
        described |= {"label": video.label, "class": classes[video.label]}
    if video.split:
        described["split"] = video.split
    return (json.dumps(described, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar to be, its items in the order of their members."""

    number: int
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        return f"shard-{self.number:06d}.tar"

    @property
    def sidecar(self) -> str:
        return f"shard-{self.number:06d}.json"

    def digest(self) -> str:
        """sha256 of what decides every byte of the tar."""
        digest = hashlib.sha256()
        for item in self.items:
            name = member_name(item.sample.key)
            facts = item.facts
            line = (name, facts.suffix, facts.size, facts.crc32, zlib.crc32(item.json))
            digest.update((json.dumps(line) + "\n").encode())
        return digest.hexdigest()


def plan_shards(
    items: Sequence[Item], *, shards: int | None = None, shard_bytes: int | None = None
) -> list[Shard]:
    """Shards of nearly equal size: `shards` of them, or as many as of `shard_bytes` are needed.

    Greedy, longest processing time first: from the largest item to the smallest, each goes to the
    shard that is smallest so far. Ties fall to the earlier item and the earlier shard. The largest
    exceeds the smallest by at most one item. Within a shard the order is that of a hash of the
    keys, so that a reader of the stream meets the classes mixed.
    """
    if shards is None:
        shards = -(-sum(item.bytes_in_tar for item in items) // shard_bytes)
    loads = [(0, number) for number in range(min(shards, len(items)))]
    members: list[list[Item]] = [[] for _ in loads]
    for item in sorted(items, key=lambda item: (-item.bytes_in_tar, item.sample.number)):
        load, number = loads[0]
        members[number].append(item)
        heapq.heapreplace(loads, (load + item.bytes_in_tar, number))
    return [Shard(n, tuple(sorted(chosen, key=_mixed))) for n, chosen in enumerate(members)]


def _mixed(item: Item) -> bytes:
    return hashlib.sha256(item.sample.key.encode()).digest()


@dataclass(frozen=True, slots=True)
class Packer:
    """Writes shards into `folder` from the spool, and empties the spool of them."""

    folder: Path
    spool: Path

    def __call__(self, shard: Shard) -> list[int] | DataError | DiskFull:
        """Offsets of the items' videos in the tar, which is kept where it is whole already."""
        try:
            sidecar = finished(shard, self.folder)
            if sidecar is None or sidecar["sha256"] != sha256(self.folder / shard.name):
                sidecar = self._write(shard)
        except (DataError, DiskFull) as error:
            return error
        for item in shard.items:
            spool_path(self.spool, item.sample.number).unlink(missing_ok=True)
        return sidecar["offsets"]

    def _write(self, shard: Shard) -> dict:
        needed = sum(item.bytes_in_tar for item in shard.items)
        path = self.folder / shard.name
        with room_for(path, needed=needed), whole_file(path) as file:
            hashed = _Hashed(file)
            tar = TarWriter(hashed)
            offsets = [self._add(tar, item) for item in shard.items]
            tar.close()
        sidecar = {
            "shard": shard.name,
            "samples": len(shard.items),
            "size": hashed.size,
            "sha256": hashed.digest.hexdigest(),
            "plan": shard.digest(),
            "offsets": offsets,
        }
        text = (json.dumps(sidecar) + "\n").encode()
        path = self.folder / shard.sidecar
        with room_for(path, needed=len(text)), whole_file(path) as file:
            file.write(text)
        return sidecar

    def _add(self, tar: TarWriter, item: Item) -> int:
        path = spool_path(self.spool, item.sample.number)
        data = path.read_bytes() if path.exists() else b""
        if (len(data), zlib.crc32(data)) != (item.facts.size, item.facts.crc32):
            path.unlink(missing_ok=True)
            raise DataError(
                f"error: the encoded video is damaged · {path} · give the same command again: it "
                "is encoded anew"
            )
        name = member_name(item.sample.key)
        offset = tar.add(f"{name}.{item.facts.suffix}", data)
        tar.add(f"{name}.json", item.json)
        return offset


class _Hashed:
    """Passes what is written on to a file, and hashes it."""

    def __init__(self, file: BinaryIO):
        self.file, self.size, self.digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)


def finished(shard: Shard, folder: Path) -> dict | None:
    """The sidecar of a shard that is in `folder` by this very plan; its bytes are not read."""
    try:
        sidecar = json.loads((folder / shard.sidecar).read_text())
        size = (folder / shard.name).stat().st_size
        same = (sidecar["plan"], sidecar["size"]) == (shard.digest(), size)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return sidecar if same else None


def libraries() -> dict[str, str]:
    """Versions of what decides the bytes of an encoded video."""
    parts = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return {"av": av.__version__, **{name: parts[name] for name in sorted(parts)}}
