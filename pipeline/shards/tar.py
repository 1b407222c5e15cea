"""Tars of videos: where each member's bytes are, which members make a sample, and the writer.

Nothing is ever unpacked to disk: the loader reads a member as a byte range of its tar. The standard
library takes a damaged header for the end of a tar and trusts the sizes in it, so only its parser
of a single header serves here; the walk from header to header is this file's own.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pipeline.errors import BadVideo
from pipeline.probe import check_file

BLOCK_BYTES = 512
END_BYTES = 2 * BLOCK_BYTES
# Names and sizes of one member; the standard library would read as many bytes as a header claims.
MAX_EXTENSION_BYTES = 1 << 20
# Writers fill up the last record with zeros: 10 KiB, seldom more. A copy that was cut off by a
# crash can end in zeros as well, of any length.
MAX_PADDING_BYTES = 1 << 20
AGAIN = "copy or write the shard again"
REPACK = "pack regular files with relative names only"

COMPRESSIONS = (
    (b"\x1f\x8b", "gzip", "gzip -d"),
    (b"BZh", "bzip2", "bzip2 -d"),
    (b"\xfd7zXZ\0", "xz", "xz -d"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
    (b"PK\3\4", "zip", "unzip and tar"),
)
KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
# What describes the next member (or all that follow) rather than being one.
GNU_FIELDS = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
PAX_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
PAX_LENGTH = re.compile(rb"(\d{1,7}) ")
PAX_SIZE = re.compile(r"[0-9]{1,18}")
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
META = re.compile(r"__[^/]*__($|/)")  # names that readers of WebDataset pass over

# What group_samples notes: "<count> members <this>: <first name>".
NO_KEY = "left out, their names have no key and extension"
APART = "stand apart from their key's others; readers of streams see two samples there"
TWO_DOTS = "have two dots in the name: the key ends at the first"
UPPER_CASE = "have an extension in upper case, read as lower case"


class BadShard(BadVideo):
    """A whole tar cannot be used: code E-SHARD, unless the file itself cannot be opened."""


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file of a tar: its contents are bytes [offset, offset + size) of the tar."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Members with one key, by extension in lower case and without its leading dot."""

    key: str
    members: dict[str, Member]


def read_members(path: str | Path) -> list[Member]:
    """The regular files of an uncompressed tar (ustar, PAX or GNU), in their order.

    All or nothing: raises BadShard for a tar that is damaged or cut off anywhere in its headers,
    compressed, or holds a member that is no regular file or folder or has an unsafe name;
    BadVideo when `path` is missing or no regular file.
    """
    check_file(path)
    try:
        with open(path, "rb", buffering=0) as file:
            return list(_Walk(file, path).members())
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise BadShard("E-NOTFILE", what, path, "check the disk and permissions") from error


class _Walk:
    """From header to header through one open tar. behind: where we are, for messages."""

    def __init__(self, file: BinaryIO, path: str | Path):
        self.descriptor, self.path = file.fileno(), path
        self.size = os.fstat(self.descriptor).st_size
        self.behind = "at its start"

    def members(self) -> Iterator[Member]:
        self._check_start()
        position, shared, own = 0, {}, {}
        while (header := self._header(position)) is not None:
            start = position + BLOCK_BYTES
            if header.type in PAX_TYPES or header.type in GNU_FIELDS:
                fields = shared if header.type == tarfile.XGLTYPE else own
                fields |= self._extension(header, start)
                position = start + whole_blocks(header.size)
            else:
                member = self._member(header, shared | own, start)
                own = {}
                self.behind = f"behind '{printable(member.name)}'"
                position = start + whole_blocks(member.size)
                if not header.isdir():
                    yield member
        if own:
            raise self._bad(f"damaged: a long name without its member, {self.behind}")
        self._check_end(position)

    def _check_start(self) -> None:
        if not self.size:
            raise self._bad("is empty")
        head = os.pread(self.descriptor, 8, 0)
        for magic, name, tool in COMPRESSIONS:
            if head.startswith(magic):
                what = f"is compressed ({name}), so no member has a byte range"
                raise self._bad(what, f"unpack it: {tool} {os.path.basename(self.path)}")

    def _header(self, position: int) -> tarfile.TarInfo | None:
        """The header at `position`; None for a block of zeros, where the end mark begins."""
        block = os.pread(self.descriptor, BLOCK_BYTES, position)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:
            return None
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as error:
            what = f"truncated at byte {self.size} {self.behind}: the end mark is missing"
            raise self._bad(what) from error
        except tarfile.HeaderError as error:
            damaged = f"damaged header at byte {position}, {self.behind} ({error})"
            raise self._bad(damaged if position else "is no tar") from error
        if header.size < 0:
            raise self._bad(f"damaged header at byte {position}, {self.behind} (negative size)")
        return header

    def _extension(self, header: tarfile.TarInfo, start: int) -> dict[str, str]:
        """Fields of a PAX header, or the one of a GNU long name."""
        if header.size > MAX_EXTENSION_BYTES:
            what = f"a name of {header.size} bytes, {self.behind}"
            raise self._bad(f"{what}: at most {MAX_EXTENSION_BYTES} are read", REPACK)
        data = os.pread(self.descriptor, header.size, start)
        if len(data) < header.size:
            raise self._bad(f"truncated at byte {self.size} inside a header, {self.behind}")
        if field := GNU_FIELDS.get(header.type):
            return {field: _decoded(data.split(b"\0", 1)[0])}
        try:
            return dict(_pax_records(data))
        except ValueError as error:
            raise self._bad(f"damaged PAX header at byte {start}, {self.behind}") from error

    def _member(self, header: tarfile.TarInfo, fields: dict[str, str], start: int) -> Member:
        """The member of a header, with what PAX or GNU headers said of it before."""
        name = fields.get("path", header.name)
        shown = printable(name)
        if why := _unsafe(name):
            raise self._bad(f"its member '{shown}' {why}", REPACK)
        if header.isdir():
            return Member(name, start, 0)
        if header.type not in REGULAR:
            kind = KINDS.get(header.type) or f"of the unknown type {header.type!r}"
            raise self._bad(f"its member '{shown}' is {kind}", REPACK)
        if any(field.startswith("GNU.sparse") for field in fields):
            raise self._bad(f"its member '{shown}' is {KINDS[tarfile.GNUTYPE_SPARSE]}", REPACK)
        size = self._size(fields.get("size", header.size), shown)
        if start + size > self.size:
            what = f"truncated at byte {self.size} inside '{shown}', which ends at {start + size}"
            raise self._bad(what)
        return Member(name, start, size)

    def _size(self, size: str | int, shown: str) -> int:
        if isinstance(size, str) and not PAX_SIZE.fullmatch(size):
            raise self._bad(f"damaged PAX header of '{shown}' (size {printable(size[:20])})")
        return int(size)

    def _check_end(self, position: int) -> None:
        """From `position` on there are the two zero blocks of the end mark, and zeros only."""
        if self.size - position < END_BYTES:
            raise self._bad(f"truncated at byte {self.size} inside its end mark")
        padding = os.pread(self.descriptor, MAX_PADDING_BYTES, position)
        if padding.strip(b"\0"):
            at = position + len(padding) - len(padding.lstrip(b"\0"))
            what = f"data behind its end mark at byte {position}, {self.behind} (from byte {at})"
            raise self._bad(what, "a header was overwritten, or tars were joined: write it again")
        if self.size - position > MAX_PADDING_BYTES:
            what = f"nothing but zeros from byte {position} on, {self.behind}"
            raise self._bad(f"{what}: an interrupted copy")

    def _bad(self, what: str, cure: str = AGAIN) -> BadShard:
        return BadShard("E-SHARD", what, self.path, cure)


def _pax_records(data: bytes) -> Iterator[tuple[str, str]]:
    """(keyword, value) of records "<length> <keyword>=<value>\\n"; ValueError for anything else."""
    position = 0
    while position < len(data):
        length = PAX_LENGTH.match(data, position)
        if not length:
            raise ValueError(f"no PAX record at byte {position}")
        end = position + int(length[1])
        keyword, equals, value = data[length.end() : end - 1].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            raise ValueError(f"no PAX record at byte {position}")
        yield _decoded(keyword), _decoded(value)
        position = end


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def whole_blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _unsafe(name: str) -> str:
    """Why no program should meet this member name; empty when it may."""
    if not name or "\0" in name:
        return "has no proper name"
    if name.startswith("/"):
        return "has an absolute name"
    if ".." in PurePosixPath(name).parts:
        return "points out of its folder"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    return ""


def printable(name: str) -> str:
    """A member's name without control characters: it must not steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def group_samples(members: Iterable[Member], path: str | Path) -> tuple[list[Sample], list[str]]:
    """Samples of the tar `path` by WebDataset's rule, and notes for the user.

    The key is the name up to the first dot behind its last slash; the rest is the extension, in
    lower case. Members of one key make one sample wherever they stand: a byte range is as good
    anywhere. What a reader of the stream would take otherwise is noted, with a count and the first
    name. Raises BadShard when a key has an extension twice.
    """
    samples: dict[str, Sample] = {}
    odd: dict[str, list[str]] = {}
    last = ""
    for member in members:
        key, extension = split_name(member.name)
        if not key:
            odd.setdefault(NO_KEY, []).append(member.name)
            continue
        sample = samples.setdefault(key, Sample(key, {}))
        if sample.members and key != last:
            odd.setdefault(APART, []).append(member.name)
        if "." in extension:
            odd.setdefault(TWO_DOTS, []).append(member.name)
        if extension != (extension := extension.lower()):
            odd.setdefault(UPPER_CASE, []).append(member.name)
        if (first := sample.members.setdefault(extension, member)) is not member:
            both = f"'{printable(first.name)}' and '{printable(member.name)}'"
            what = f"two members have one key and extension: {both}"
            raise BadShard("E-SHARD", what, path, "give every sample a key of its own")
        last = key
    return list(samples.values()), [_note(what, names) for what, names in odd.items()]


def _note(what: str, names: list[str]) -> str:
    return f"{len(names)} members {what}: {printable(names[0])}"


def split_name(name: str) -> tuple[str, str]:
    """(key, extension) of a member's name; ("", "") when it is no part of a sample.

    Those are names without an extension, hidden files, and `__meta__` ones.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    hidden = not stem or not extension
    return ("", "") if hidden or META.match(name) else (folder + slash + stem, extension)


class TarWriter:
    """Writes a plain tar to a binary file: equal members in equal order give equal bytes.

    Headers are ustar, with a GNU long name where a name does not fit: DALI reads no PAX.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.position = file, 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its data. ValueError for a name not to be read."""
        if why := _unsafe(name):
            raise ValueError(f"member '{printable(name)}' {why}")
        header = tarfile.TarInfo(name)
        header.size, header.mtime, header.mode = len(data), 0, 0o644
        block = _block(header)
        offset = self.position + len(block)
        for part in (block, data, bytes(-len(data) % BLOCK_BYTES)):
            self.file.write(part)
        self.position = offset + whole_blocks(len(data))
        return offset

    def close(self) -> None:
        """Write the end mark; the file stays open. Without it the tar counts as truncated."""
        self.file.write(bytes(END_BYTES))


def _block(header: tarfile.TarInfo) -> bytes:
    try:
        return header.tobuf(tarfile.USTAR_FORMAT, "utf-8")
    except ValueError:
        return header.tobuf(tarfile.GNU_FORMAT, "utf-8")
