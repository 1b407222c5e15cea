"""What rows and manifests say about each other: duplicates, overlap, groups, classes, seeking."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.manifest import Manifest
from tools.verify.files import Place, place
from tools.verify.findings import Finding, Row

# A core decodes some 2,500 frames a second of 340x256 and 260 of 720p: 300 frames before a clip
# cost 0.1 s, or more than 1 s.
SLOW_SEEK_FRAMES = 300
SHOWN_CLASSES = 5
# UCF101: clips cut from one recording, v_<class>_g<recording>_c<clip>.
GROUPS = (re.compile(r"(v_.+_g\d+)_c\d+"),)
Content = Mapping[Place, str]


def candidates(rows: Sequence[Row]) -> list[Place]:
    """Byte ranges that may be equal: of the same size and crc32, in different places."""
    alike: dict[tuple[int, int], set[Place]] = defaultdict(set)
    for row in rows:
        alike[row.video.size, row.video.crc32].add(place(row))
    return [at for places in alike.values() if len(places) > 1 for at in sorted(places)]


def repeated(rows: Sequence[Row], digests: Content) -> Iterator[Finding]:
    """Rows that show frames of an earlier row again. digests: of the `candidates`."""
    for same in _grouped(rows, lambda row: digests.get(place(row), place(row))):
        earlier: dict[tuple, Row] = {}  # of equal set, label and frames, one is enough
        for row in same:
            shared = [other for other in earlier.values() if _share_frames(row, other)]
            yield from _repeats(row, shared)
            if not shared and (apart := [o for o in earlier.values() if o.set != row.set]):
                yield row.finding("W-GROUP", f"other frames of it are {_where(apart[0])}")
            span = row.video.first_frame, row.video.frames
            earlier.setdefault((row.set, row.class_name, *span), row)


def _repeats(row: Row, shared: Sequence[Row]) -> Iterator[Finding]:
    """One finding of each kind for a row that shares frames with earlier ones."""
    kinds = {
        "W-OVERLAP": [other for other in shared if other.set != row.set],
        "W-LABELS": [o for o in shared if row.class_name and o.class_name != row.class_name],
        "W-DUPLICATE": [other for other in shared if other.set == row.set],
    }
    for code, others in kinds.items():
        if others:
            label = f" with the class '{others[0].class_name}'" if code == "W-LABELS" else ""
            own = f"class '{row.class_name}' here, but " if code == "W-LABELS" else ""
            yield row.finding(code, f"{own}also {_where(others[0])}{label}")


def split_groups(rows: Sequence[Row]) -> Iterator[Finding]:
    """One finding for each group of near-identical clips of which two sets have some."""
    for members in _grouped(rows, _group):
        names = sorted({row.set for row in members})
        if _group(members[0]) is None or len(names) < 2:
            continue
        counts = ", ".join(f"{sum(m.set == name for m in members)} in {name}" for name in names)
        yield members[0].finding("W-GROUP", f"clips of {_group(members[0])}: {counts}")


def slow_seeks(rows: Sequence[Row]) -> Iterator[Finding]:
    for row in rows:
        video = row.video
        if video.vfr:
            yield row.finding("N-VFR", f"each clip is decoded from the start of {video.frames}")
        elif video.keyframe_distance_frames > SLOW_SEEK_FRAMES:
            gap = video.keyframe_distance_frames
            yield row.finding("N-SEEK", f"up to {gap} frames from one key frame to the next")


def class_lists(paths: Sequence[Path], manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Manifests whose classes are not those of the first that has any."""
    labelled = [(p, m.classes) for p, m in zip(paths, manifests, strict=True) if m.classes]
    for (first, expected), (path, classes) in ((labelled[0], other) for other in labelled[1:]):
        if classes == expected:
            continue
        if sorted(classes) == sorted(expected):
            n = next(n for n, name in enumerate(classes) if name != expected[n])
            detail = f"another order: label {n} is '{classes[n]}', in {first} '{expected[n]}'"
        else:
            here, there = set(classes) - set(expected), set(expected) - set(classes)
            detail = f"only here: {_some(here)}; only in {first}: {_some(there)}"
        cure = f"index again with --classes-from {first}"
        yield Finding("W-CLASSES", f"{detail} · {cure}", str(path))


def empty_classes(
    rows: Sequence[Row], paths: Sequence[Path], manifests: Sequence[Manifest]
) -> Iterator[Finding]:
    """Classes that have no video in one of the sets."""
    lists = {str(path): m.classes for path, m in zip(paths, manifests, strict=True)}
    for members in _grouped(rows, lambda row: (row.name, row.set), alone=True):
        row = members[0]
        present = {member.class_name for member in members}
        missing = [name for name in lists[row.name] if name not in present]
        if missing and present != {""}:
            detail = f"{len(missing)} of {len(lists[row.name])} classes have no video in {row.set}"
            yield Finding("W-NOCLASS", f"{detail}: {_some(missing)}", row.name)


def _grouped(
    rows: Sequence[Row], key: Callable[[Row], Hashable], *, alone: bool = False
) -> list[list[Row]]:
    """Rows of equal key together; those that stand alone only if asked for."""
    groups: dict[Hashable, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return [members for members in groups.values() if alone or len(members) > 1]


def _group(row: Row) -> str | None:
    stem = row.video.path.stem if row.video.offset == 0 else Path(row.video.key).stem
    matches = (rule.fullmatch(stem) for rule in GROUPS)
    return next((match[1] for match in matches if match), None)


def _share_frames(row: Row, other: Row) -> bool:
    one, two = sorted(
        (r.video.first_frame, r.video.first_frame + r.video.frames) for r in (row, other)
    )
    return two[0] < one[1]


def _where(row: Row) -> str:
    return f"in {row.set} as {row.video.key}"


def _some(names) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - SHOWN_CLASSES} more" if len(listed) > SHOWN_CLASSES else ""
    return (", ".join(listed[:SHOWN_CLASSES]) or "none") + more
