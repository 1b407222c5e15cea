"""Videos without a list: class folders, folders, patterns, single files."""

from __future__ import annotations

import glob
import os
from pathlib import Path, PurePosixPath

from pipeline.annotations.listing import SPLITS, Entry, Listing, Source, is_video_name
from pipeline.annotations.locate import walk
from pipeline.errors import DataError


def is_class_tree(source: Source) -> bool:
    """A folder with no video directly in it; its sub-folders are the classes."""
    if not (source.path.is_dir() and source.options.labels):
        return False
    with os.scandir(source.path) as entries:
        return not any(is_video_name(entry.name) and not entry.is_dir() for entry in entries)


def read_class_tree(source: Source) -> Listing:
    """root/class/**/video: the first folder below the root is the class."""
    names, notes = walk(source.path)
    classes = [PurePosixPath(name).parts[0] for name in names]
    if classes and set(classes) <= SPLITS.keys():
        raise DataError(
            f"error: the folders {', '.join(sorted(set(classes)))} look like splits, not classes · "
            f"{source.path} · index each of them: python -m tools.index "
            f"{source.path / min(classes)} ..."
        )
    pairs = zip(names, classes, strict=True)
    return Listing([_entry(source.path, name, label) for name, label in pairs], notes)


def is_folder(source: Source) -> bool:
    return source.path.is_dir()


def read_folder(source: Source) -> Listing:
    """All videos below a folder, without labels."""
    names, notes = walk(source.path)
    direct = sum("/" not in name for name in names)
    if source.options.labels and not source.options.format and direct < len(names):
        raise DataError(
            f"error: {direct} videos lie beside folders with videos, so it is not clear whether "
            f"the folders are classes · {source.path} · pass --no-labels, or move them into folders"
        )
    return Listing([_entry(source.path, name, None) for name in names], notes)


def _entry(root: Path, name: str, label: str | None) -> Entry:
    path = Path(os.path.abspath(root), name)
    return Entry(name, path, label, str(path))


def is_pattern(source: Source) -> bool:
    return glob.has_magic(str(source.path)) and not source.path.exists()


def read_pattern(source: Source) -> Listing:
    """All videos that a shell pattern matches (** for any folders), without labels."""
    found = sorted(glob.glob(str(source.path), recursive=True))
    paths = [Path(os.path.abspath(name)) for name in found if is_video_name(Path(name).name)]
    shared = os.path.commonpath([path.parent for path in paths]) if paths else ""
    keys = [path.relative_to(shared).as_posix() for path in paths]
    return Listing([Entry(k, p, None, str(p)) for k, p in zip(keys, paths, strict=True)])


def is_video(source: Source) -> bool:
    return is_video_name(source.path.name)


def read_video(source: Source) -> Listing:
    path = Path(os.path.abspath(source.path))
    return Listing([Entry(path.name, path, None, str(path))])
