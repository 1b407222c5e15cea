"""Where the videos are: all below a folder, by name, or where a list says."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from pipeline.annotations.listing import VIDEO_SUFFIXES, class_key, is_video_name, shown
from pipeline.errors import DataError

PARENTS_SEARCHED, FOLDERS_SEARCHED = 3, 100
EXAMPLES = 3


def walk(root: Path) -> tuple[list[str], list[str]]:
    """Videos below `root` as sorted relative paths, and notes on what was ignored.

    Every folder is entered once, so links cannot go in circles. Hidden files and folders and files
    without a video's suffix are left out.
    """
    root = Path(os.path.abspath(root))
    videos: list[str] = []
    again: list[str] = []
    ignored: Counter[str] = Counter()
    for folder, names in _folders(root, again):
        beginning = "" if folder == str(root) else os.path.relpath(folder, root) + os.sep
        for name in names:
            if is_video_name(name):
                videos.append(beginning + name)
            elif not name.startswith("."):
                ignored[os.path.splitext(name)[1].lower() or "no suffix"] += 1
    most = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))[:5]
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in most)
    notes = [f"ignored in {root}: {kinds}"] if ignored else []
    if again:
        links = shown([os.path.relpath(link, root) for link in again])
        notes.append(f"{len(again)} links to folders that are read anyway are left out: {links}")
    return sorted(videos), notes


def _folders(root: Path, again: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(folder, names in it); `again` gets the links to folders that had their turn."""
    if not root.is_dir():
        raise DataError(f"error: no such folder · {root} · pass the videos' folder with --root")
    seen = {_identity(root)}
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_unreadable):
        followed = []
        for name in sorted(folders):
            if name.startswith("."):
                continue
            identity = _identity(Path(folder, name))
            if identity in seen:
                again.append(os.path.join(folder, name))
            else:
                seen.add(identity)
                followed.append(name)
        folders[:] = followed
        yield folder, names


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _unreadable(error: OSError) -> None:
    raise DataError(
        f"error: the folder cannot be read ({error.strerror}) · {error.filename} · mend its "
        "permissions or leave it out"
    ) from error


def stem(name: str) -> str:
    """A file's name without its video suffixes: of `id.mp4.webm`, which crawlers write, `id`."""
    while os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
        name = os.path.splitext(name)[0]
    return name


class VideoIndex:
    """All videos below a folder by their name without suffix, in whatever folders they are."""

    def __init__(self, root: Path):
        self.root = root
        self.ambiguous: list[str] = []

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for relative in walk(self.root)[0]:
            found.setdefault(stem(os.path.basename(relative)), []).append(relative)
        return found

    @cached_property
    def _by_folded_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, places in self._by_stem.items():
            found.setdefault(name.casefold(), []).extend(places)
        return found

    @property
    def folders(self) -> set[str]:
        """Names of the folders that hold videos."""
        places = (place for places in self._by_stem.values() for place in places)
        return {os.path.basename(os.path.dirname(place)) for place in places} - {""}

    def find(self, *names: str, hints: Sequence[str] = (), any_case: bool = False) -> Path | None:
        """The video of the first name that there is.

        hints: names of folders (class, split), in any spelling of a class: of several videos with
        one name, the one in most of these folders is taken, and `ambiguous` notes what stays open.
        """
        for name in names:
            places = self._by_stem.get(name)
            if places is None and any_case:
                places = self._by_folded_stem.get(name.casefold())
            if places:
                return self.root / self._likeliest(name, places, hints)
        return None

    def _likeliest(self, name: str, places: list[str], hints: Sequence[str]) -> str:
        if len(places) == 1:
            return places[0]
        wanted = {class_key(hint) for hint in hints}
        fits = [len(wanted & {class_key(p) for p in PurePosixPath(s).parts[:-1]}) for s in places]
        if fits.count(max(fits)) > 1:
            self.ambiguous.append(name)
        return places[fits.index(max(fits))]

    def notes(self) -> list[str]:
        if not self.ambiguous:
            return []
        count = len(self.ambiguous)
        return [f"{count} videos are there more than once, the first is taken: {self.ambiguous[0]}"]


def remapped(name: str, remap: Sequence[tuple[str, str]]) -> str:
    """A listed path with the first beginning that matches, up to a `/`, replaced."""
    for old, new in remap:
        old, new = old.rstrip("/"), new.rstrip("/")
        if name == old or name.startswith(f"{old}/"):
            return new + name[len(old) :]
    return name


def suggested_root(missing: Sequence[Path], root: Path, near: Sequence[Path]) -> str:
    """The --root or --remap with which the first missing videos would be found; "" when none is.

    root: where they were looked for. near: folders around which to look, three levels up and one
    level down.
    """
    for folder in _around([root, *near]):
        for path in missing[:EXAMPLES]:
            below_root = path.is_relative_to(root)
            parts = path.relative_to(root).parts if below_root else path.parts[1:]
            for cut in range(len(parts)):
                if not folder.joinpath(*parts[cut:]).is_file():
                    continue
                if cut == 0 and below_root:
                    return f"--root={folder}"
                old = (root if below_root else Path("/")).joinpath(*parts[:cut])
                return f"--remap {old}={folder}"
    return ""


def _around(places: Sequence[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for place in places:
        for folder in [place, *place.parents][: PARENTS_SEARCHED + 1]:
            for near in [folder, *_subfolders(folder)]:
                if near not in seen:
                    seen.add(near)
                    yield near


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    return [folder / name for name in names[:FOLDERS_SEARCHED]]
