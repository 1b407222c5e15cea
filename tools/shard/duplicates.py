"""Videos that are the same to the byte: the first stays, the others are named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline.checksum import sha256
from pipeline.errors import BadVideo
from pipeline.manifest import Video
from pipeline.probe import check_file
from tools.progress import progress


def without_duplicates(videos: Sequence[Video]) -> tuple[list[Video], list[dict]]:
    """The videos without later copies of one of the same split, and what is to say of each copy.

    Same are rows of equal size, crc32, segment and sha256; only files that share the first three
    are read. A file that cannot be read has no copies.
    """
    first: dict[tuple, Video] = {}
    copies: dict[str, dict] = {}
    candidates = _candidates(videos)
    with progress(len(candidates), "compared") as shown:
        for video in shown(candidates):
            kept = first.setdefault((_identity(video), _content(video)), video)
            if kept is not video:
                copies[video.key] = _entry(video, kept)
    return [video for video in videos if video.key not in copies], list(copies.values())


def _candidates(videos: Sequence[Video]) -> list[Video]:
    groups = defaultdict(list)
    for video in videos:
        groups[_identity(video)].append(video)
    return [video for video in videos if len(groups[_identity(video)]) > 1]


def _identity(video: Video) -> tuple:
    return video.size, video.crc32, video.first_frame, video.frames, video.split


def _content(video: Video) -> str:
    try:
        check_file(video.path)
        return sha256(video.path, video.offset, video.size)
    except (BadVideo, OSError):
        return video.key


def _entry(video: Video, kept: Video) -> dict:
    return {
        "key": video.key,
        "same_as": kept.key,
        "path": str(video.path),
        "label": video.label,
        "kept_label": kept.label,
    }
