"""Encode, plan, pack: from a manifest to a complete folder of shards, or as far as a part goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import BadVideo, DataError
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.shards.shard import Item, Packer, Shard, finished, libraries, plan_shards, samples_of
from pipeline.shards.spool import CHANGED, DiskFull, Encoder, Sample, Spooled, spool_path
from tools.pool import Crashed, Stuck
from tools.progress import progress
from tools.shard.duplicates import without_duplicates
from tools.shard.workers import Workers
from tools.shard.workspace import Part, Workspace

SHOWN_EXAMPLES = 3
WATCHDOG_FACTOR = 1.25  # the process of one sample alone is to tell a time-out from a crash
MOST_ROUNDS = 3  # lost files are encoded again; a video that fails then changes the plan once more
PACKING_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Options:
    """What to make. shard_bytes counts where shards is None."""

    preset: str
    shards: int | None
    shard_bytes: int
    max_seconds: float | None
    dedup: bool
    split: str
    timeout_seconds: float
    max_bad_fraction: float

    def job(self, source: Manifest) -> dict:
        """What decides every byte of the result, as the manifest of the shards remembers it."""
        return {
            "tool": "tools.shard",
            "source": source.fingerprint,
            "classes": source.classes,
            "split": self.split,
            "preset": self.preset,
            "shards": self.shards,
            "shard_bytes": None if self.shards else self.shard_bytes,
            "max_seconds": self.max_seconds,
            "dedup": self.dedup,
            "libraries": libraries(),
        }


@dataclass
class Result:
    """What one run did. encoded, seconds: of this run alone; encode_seconds without the packing."""

    samples: int = 0
    encoded: int = 0
    encode_seconds: float = 0.0
    seconds: float = 0.0
    rejected: list[dict] = field(default_factory=list)
    copies: list[dict] = field(default_factory=list)
    facts: list[Spooled] = field(default_factory=list)
    shard_bytes: list[int] = field(default_factory=list)


class Sharding:
    """One run in an open workspace."""

    def __init__(self, source: Manifest, options: Options, space: Workspace, workers: Workers):
        self.source, self.options, self.space, self.workers = source, options, space, workers
        self.result = Result()
        self.bad: dict[int, BadVideo] = {}
        self.started = time.monotonic()

    def encode_part(self, part: Part) -> Result:
        """Encode every count-th sample from `index` on; a run without a part packs them."""
        mine = self._samples()[part.index - 1 :: part.count]
        self._encode([sample for sample in mine if sample.number not in self.space.facts])
        self._note_rejected(self.space.work / f"quarantine-{part}.jsonl", mine)
        return self._finish(mine)

    def make(self) -> Result:
        """Encode what is not yet, write the shards and at last the manifest.

        Raises DataError when more samples than allowed cannot be encoded, and DiskFull.
        """
        samples = self._samples()
        self._encode([sample for sample in samples if sample.number not in self.space.facts])
        self._refuse_changed(samples)
        shards = self._plan(samples)
        rounds = 0
        while missing := self._missing(shards):
            rounds += 1
            if rounds > MOST_ROUNDS:
                raise DataError(
                    f"error: encoded videos vanish ({len(missing)} are missing again) · "
                    f"{self.space.spool} · use a folder that keeps what is written, and that all "
                    "workers share"
                )
            self._encode(missing)
            shards = self._plan(samples)
        self.space.write(self.space.folder / "duplicates.jsonl", self.result.copies)
        self._note_rejected(self.space.folder / "quarantine.jsonl", samples)
        self._pack(shards)
        return self._finish(samples)

    def _samples(self) -> list[Sample]:
        videos = [self.source[n] for n in range(len(self.source))]
        if self.options.dedup:
            videos, self.result.copies = without_duplicates(videos)
        return samples_of(videos, max_seconds=self.options.max_seconds)

    def _encode(self, samples: Sequence[Sample]) -> None:
        begin = time.monotonic()
        seconds = self.options.timeout_seconds
        alone = Encoder(self.options.preset, self.space.spool)
        encoder = replace(alone, watchdog_seconds=seconds * WATCHDOG_FACTOR)
        outcomes = self.workers.map(encoder, samples, alone=alone, timeout_seconds=seconds)
        with closing(outcomes), progress(len(samples), "encoded") as shown:
            for sample, outcome in shown(outcomes):
                self._note(sample, _verdict(outcome, sample))
        self.result.encode_seconds += time.monotonic() - begin

    def _note(self, sample: Sample, outcome: Spooled | BadVideo) -> None:
        if isinstance(outcome, Spooled):
            self.space.note(outcome)
            self.result.encoded += 1
            return
        self.space.facts.pop(sample.number, None)
        self.bad[sample.number] = outcome

    def _refuse_changed(self, samples: Sequence[Sample]) -> None:
        """All pieces of a video that is not the one indexed, which its first piece tells."""
        changed = {
            sample.video.key: self.bad[sample.number]
            for sample in samples
            if sample.number in self.bad and self.bad[sample.number].code == CHANGED
        }
        for sample in samples:
            if sample.video.key in changed:
                self.space.facts.pop(sample.number, None)
                self.bad.setdefault(sample.number, changed[sample.video.key])

    def _plan(self, samples: Sequence[Sample]) -> list[Shard]:
        facts, classes = self.space.facts, self.source.classes
        items = [Item.of(s, facts[s.number], classes) for s in samples if s.number in facts]
        options = self.options
        return plan_shards(items, shards=options.shards, shard_bytes=options.shard_bytes)

    def _missing(self, shards: Sequence[Shard]) -> list[Sample]:
        """Samples that are neither in their shard nor, whole, in the spool."""
        open_shards = (shard for shard in shards if finished(shard, self.space.folder) is None)
        return [
            item.sample
            for shard in open_shards
            for item in shard.items
            if _size(spool_path(self.space.spool, item.sample.number)) != item.facts.size
        ]

    def _note_rejected(self, path: Path, samples: Sequence[Sample]) -> None:
        """Raises DataError when there are more than the user allows."""
        rejected = [(s, self.bad[s.number]) for s in samples if s.number in self.bad]
        self.result.rejected = [_entry(sample, error) for sample, error in rejected]
        self.space.write(path, self.result.rejected)
        fraction, usable = self.options.max_bad_fraction, len(samples) - len(rejected)
        if usable and len(rejected) <= fraction * len(samples):
            return
        limit = f"more than --max-bad-fraction={fraction:g}" if usable else "none is left"
        examples = "".join(f"\n  {error}" for _, error in rejected[:SHOWN_EXAMPLES])
        raise DataError(
            f"error: {len(rejected)} of {len(samples)} videos cannot be encoded, {limit} "
            f"({codes(self.result.rejected)}) · {path} · mend or remove them and index again; what "
            f"is encoded is kept{examples}"
        )

    def _pack(self, shards: Sequence[Shard]) -> None:
        folder = self.space.folder
        self.space.drop_shards({name for shard in shards for name in (shard.name, shard.sidecar)})
        packer = Packer(folder, self.space.spool)
        rows: dict[int, Video] = {}
        outcomes = self.workers.map(packer, shards, alone=packer, timeout_seconds=PACKING_SECONDS)
        try:
            with closing(outcomes), progress(len(shards), "packed") as shown:
                for shard, outcome in shown(outcomes):
                    offsets = _offsets(outcome, folder / shard.name)
                    for item, offset in zip(shard.items, offsets, strict=True):
                        row = item.facts.row(item.sample, folder / shard.name, offset)
                        rows[item.sample.number] = row
        except BaseException:
            self.space.drop_left_overs()  # of the workers that ended with the one that failed
            raise
        write_manifest(
            folder / "manifest.parquet",
            [rows[number] for number in sorted(rows)],
            classes=self.source.classes,
            options=self.options.job(self.source),
        )
        self.result.shard_bytes = [(folder / shard.name).stat().st_size for shard in shards]

    def _finish(self, samples: Sequence[Sample]) -> Result:
        self.result.samples = len(samples)
        facts = self.space.facts
        self.result.facts = [facts[s.number] for s in samples if s.number in facts]
        self.result.seconds = time.monotonic() - self.started
        return self.result


def codes(rejected: Sequence[dict]) -> str:
    counts = Counter(entry["code"] for entry in rejected)
    return ", ".join(f"{code} {count}" for code, count in counts.most_common())


def _verdict(outcome: Spooled | BadVideo | DiskFull | Stuck | Crashed, sample: Sample):
    if isinstance(outcome, DiskFull):
        raise outcome
    if isinstance(outcome, Stuck):
        what = f"not encoded within {outcome.seconds:g} s"
        cure = "raise --timeout-seconds, or cut it with --max-seconds"
        return BadVideo("E-TIMEOUT", what, sample.video.path, cure)
    if isinstance(outcome, Crashed):
        what = f"the encoder crashed ({outcome.reason})"
        return BadVideo("E-CRASH", what, sample.video.path, "re-encode it or leave it out")
    return outcome


def _offsets(outcome: list[int] | DataError | DiskFull | Stuck | Crashed, path: Path) -> list[int]:
    if isinstance(outcome, DataError | DiskFull):
        raise outcome
    if isinstance(outcome, Stuck | Crashed):
        how = outcome.reason if isinstance(outcome, Crashed) else "it hangs"
        raise DataError(
            f"error: a worker cannot write a shard ({how}) · {path} · look at its memory and disk, "
            "then give the same command again: it continues"
        )
    return outcome


def _entry(sample: Sample, error: BadVideo) -> dict:
    detail = f"{error.what} · {error.cure}"
    return {"path": error.path, "code": error.code, "detail": detail, "key": sample.key}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
