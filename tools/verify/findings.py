"""What verifying can find: codes, what they mean, and how bad they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pipeline.manifest import Manifest, Video

ERROR, WARNING, NOTE = "error", "warning", "note"
# Codes that --strict turns from warnings into errors: scores mean nothing beside them.
STRICT = ("W-OVERLAP", "W-LABELS", "W-DUPLICATE", "W-CLASSES")
MEANINGS = {
    "W-OVERLAP": "one video in two sets: a test would ask for what was learned",
    "W-LABELS": "one video under two labels",
    "W-DUPLICATE": "one video listed twice",
    "W-GROUP": "near-identical clips in two sets: use the data set's official lists",
    "W-CLASSES": "class lists that differ: a label does not mean the same in both",
    "W-NOCLASS": "a class without any video in a set",
    "N-SEEK": "few key frames: slow seek, shard or re-encode",
    "N-VFR": "variable frame rate: slow seek, shard or re-encode",
    "N-DAMAGED": "some frames are damaged, within the limit",
    "N-STREAM": "something unusual in the video, no reason to refuse it",
}
UNUSABLE = "unusable: mend, leave out, or index again"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a row, or about a whole manifest (path and key are '' then)."""

    code: str
    detail: str
    manifest: str
    path: str = ""
    key: str = ""

    @property
    def meaning(self) -> str:
        return MEANINGS.get(self.code, UNUSABLE)

    def level(self, *, strict: bool) -> str:
        if self.code.startswith("E-") or (strict and self.code in STRICT):
            return ERROR
        return NOTE if self.code.startswith("N-") else WARNING


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one manifest. name: of the manifest, as shown. set: its rows of one split."""

    video: Video
    name: str
    set: str
    class_name: str

    def finding(self, code: str, detail: str) -> Finding:
        return Finding(code, detail, self.name, str(self.video.path), self.video.key)

    @property
    def seconds(self) -> Fraction:
        return self.video.frames / self.video.fps if self.video.fps else Fraction(0)


def read_rows(paths: Sequence[Path], manifests: Sequence[Manifest]) -> list[Row]:
    """All rows in order. A set is named after its split; among several manifests, after both."""
    rows = []
    for path, manifest in zip(paths, manifests, strict=True):
        for video in (manifest[n] for n in range(len(manifest))):
            own = f"{path}:{video.split}" if video.split else str(path)
            name = (video.split or str(path)) if len(manifests) == 1 else own
            label = manifest.classes[video.label] if video.label >= 0 else ""
            rows.append(Row(video, str(path), name, label))
    return rows
