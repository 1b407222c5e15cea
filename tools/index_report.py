"""What tools.index tells: on the terminal, and in the quarantine file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.annotations import Annotations, Row
from pipeline.errors import BadVideo
from pipeline.manifest import Manifest, Video
from pipeline.probe import Probe
from tools.console import printable
from tools.lines import write_lines

SHOWN_ROWS, SHOWN_EXAMPLES, SHOWN_KINDS = 3, 3, 5

Bad = Sequence[tuple[Row, BadVideo]]


def announce(annotations: Annotations) -> None:
    print(f"reading as: {', '.join(annotations.formats)}")
    for note in annotations.notes:
        print(f"  {printable(note)}")
    for row in annotations.rows[:SHOWN_ROWS]:
        label = f"label {row.label} ({annotations.classes[row.label]})" if row.label >= 0 else ""
        parts = [row.key, label or "no label", row.split, str(row.span or "")]
        print(printable(f"  {'  '.join(part for part in parts if part)}"))
    print(f"  {len(annotations.rows)} videos in all", flush=True)


def summarise(manifest: Manifest, videos: Sequence[Video], facts: Sequence[Probe]) -> None:
    seconds = sum(float(video.frames / video.fps) for video in videos)
    splits = Counter(video.split for video in videos)
    rates = Counter(f"{float(video.fps):.5g}" for video in videos)
    sizes = Counter(f"{video.width}x{video.height}" for video in videos)
    print(printable(f"wrote {manifest.path}"))
    print(f"  videos    {len(videos)}")
    if set(splits) != {""}:
        print(printable(f"  splits    {_histogram(splits)}"))
    if len(splits) > 1 and "train" in splits:
        print(
            "  note      to train on one split only: data.split=train, or index with --split train"
        )
    print(f"  classes   {len(manifest.classes)}")
    print(f"  hours     {seconds / 3600:.3g}")
    print(f"  frames    {sum(video.frames for video in videos)}")
    print(f"  fps       {_histogram(rates)}")
    print(f"  size      {_histogram(sizes)}")
    print(f"  codec     {_histogram(Counter(video.codec for video in videos))}")
    print(f"  variable frame rate  {sum(video.vfr for video in videos)}")
    print(f"  damaged but usable   {sum(one.damaged_frames > 0 for one in facts)}")


def summarise_bad(bad: Bad, listed: Path) -> None:
    """How many videos are missing and rejected, and why, with the first of them."""
    missing = [item for item in bad if item[1].code == "E-MISSING"]
    rejected = [item for item in bad if item[1].code != "E-MISSING"]
    for name, group in (("missing ", missing), ("rejected", rejected)):
        if group:
            print(printable(f"  {name}  {len(group)} ({codes(group)}), see {listed}"))
            for row, error in group[:SHOWN_EXAMPLES]:
                print(printable(f"    {row.key}: {error.what}"))


def _histogram(counts: Counter[str]) -> str:
    shown = [f"{name or '(none)'} ({count})" for name, count in counts.most_common(SHOWN_KINDS)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def codes(bad: Bad) -> str:
    counts = Counter(error.code for _, error in bad)
    return ", ".join(f"{code} {count}" for code, count in counts.most_common())


def quarantine_path(manifest: Path) -> Path:
    return manifest.with_suffix(".quarantine.jsonl")


def write_quarantine(path: Path, bad: Bad) -> None:
    """One JSON object a line; no file when nothing is bad, so an old one cannot mislead."""
    path.unlink(missing_ok=True)
    if not bad:
        return
    write_lines(path, (_entry(row, error) for row, error in bad))


def _entry(row: Row, error: BadVideo) -> dict[str, str]:
    detail = f"{error.what} · {error.cure}"
    return {"path": error.path, "code": error.code, "detail": detail, "key": row.key}
