"""Tars as users have them, damaged in every place: found by name or refused by name, never cut."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadVideo
from pipeline.shards.tar import (
    BadShard,
    Member,
    TarWriter,
    group_samples,
    read_members,
    split_name,
)

GIB = 1 << 30
AGAIN = "copy or write the shard again"
REPACK = "pack regular files with relative names only"
CONTENTS = {"a.mp4": b"first" * 300, "a.json": b"{}", "b.mp4": b"", "b.json": b"x" * 512}


def standard(path: Path, contents=CONTENTS, *, format=tarfile.USTAR_FORMAT, pax=None) -> Path:
    """A tar by the standard library. contents: {name: data}, or a list of pairs."""
    pairs = contents.items() if isinstance(contents, dict) else contents
    with tarfile.open(path, "w", format=format, pax_headers=pax or {}) as tar:
        for name, data in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def written(path: Path, contents=CONTENTS) -> list[int]:
    """A tar by TarWriter; the offsets it told."""
    with path.open("wb") as file:
        tar = TarWriter(file)
        offsets = [tar.add(name, data) for name, data in contents.items()]
        tar.close()
    return offsets


def contents_of(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {m.name: data[m.offset : m.offset + m.size] for m in read_members(path)}


def refusal(path: Path, *, code: str = "E-SHARD") -> str:
    """What is said of a tar beside its code and its path."""
    with pytest.raises(BadVideo) as caught:
        read_members(path)
    text = str(caught.value)
    start, where, cure = text.split(" · ")
    assert start.startswith(f"error[{code}]: ") and where == str(path)
    assert "\n" not in text and text.isprintable()
    return f"{start.partition(': ')[2]} · {cure}"


def header(name: str, *, kind: bytes = tarfile.REGTYPE, size: int = 0, **fields) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def raw(path: Path, *blocks: bytes) -> Path:
    """A tar of the given blocks and an end mark."""
    path.write_bytes(b"".join(block + bytes(-len(block) % 512) for block in blocks) + bytes(1024))
    return path


def pax(**records: str) -> bytes:
    """A PAX header, its lengths counted by the standard library."""
    return tarfile.TarInfo._create_pax_generic_header(records, tarfile.XHDTYPE, "utf-8")


# Reading what is whole


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_every_format(tmp_path, format):
    contents = CONTENTS | {"ü" * 30 + ".mp4": b"u", "d" * 90 + "/" + "n" * 90 + ".mp4": b"long"}
    path = standard(tmp_path / "s.tar", contents, format=format)
    assert contents_of(path) == contents


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_longer_than_a_header_holds(tmp_path, format):
    contents = {"x" * 150 + ".mp4": b"1", "y/" * 400 + "z.mp4": b"2", "short.mp4": b"3"}
    assert contents_of(standard(tmp_path / "s.tar", contents, format=format)) == contents


def test_a_tar_by_the_tar_program(tmp_path):
    folder = tmp_path / "in" / "class one"
    folder.mkdir(parents=True)
    (folder / "v.mp4").write_bytes(b"video")
    for options in ([], ["--format=posix"], ["--format=v7"], ["--blocking-factor=1"]):
        path = tmp_path / "s.tar"
        subprocess.run(["tar", "-cf", path, *options, "-C", tmp_path / "in", "."], check=True)
        assert contents_of(path) == {"./class one/v.mp4": b"video"}


def test_a_global_pax_header_is_passed_over(tmp_path):
    path = standard(tmp_path / "s.tar", format=tarfile.PAX_FORMAT, pax={"comment": "from git"})
    assert contents_of(path) == CONTENTS


def test_fields_of_a_global_pax_header_hold_for_all_that_follow(tmp_path):
    record = tarfile.TarInfo.create_pax_global_header({"path": "same.mp4"})
    one, two = header("1.mp4", size=512), header("2.mp4", size=512)
    path = raw(tmp_path / "s.tar", record + one, bytes(512), pax(path="own.mp4") + two, bytes(512))
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["same.mp4", "own.mp4"]
    assert [m.name for m in read_members(path)] == ["same.mp4", "own.mp4"]
    path = raw(tmp_path / "s.tar", record + one, bytes(512), two, bytes(512))
    assert [m.name for m in read_members(path)] == ["same.mp4", "same.mp4"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=120),
            st.binary(max_size=1100),
        ),
        unique_by=lambda pair: pair[0],
        max_size=6,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_the_standard_library_reads_the_same(tmp_path_factory, pairs, format):
    pairs = [(f"v{name.replace('/', '')}", data) for name, data in pairs] or [("one", b"")]
    path = standard(tmp_path_factory.mktemp("t") / "s.tar", pairs, format=format)
    with tarfile.open(path) as tar:
        expected = [Member(m.name, m.offset_data, m.size) for m in tar]
    assert read_members(path) == expected
    assert contents_of(path) == dict(pairs)


def test_a_member_of_two_gibibytes_and_one_behind_it(tmp_path):
    size = 2 * GIB + 7
    path = tmp_path / "big.tar"
    with path.open("wb") as file:  # the hole takes no disk
        file.write(header("big.mp4", size=size))
        file.seek(512 + size + -size % 512)
        file.write(header("b.mp4", size=3) + b"end" + bytes(509 + 1024))
    behind = 512 + size + -size % 512 + 512
    assert read_members(path) == [Member("big.mp4", 512, size), Member("b.mp4", behind, 3)]


@pytest.mark.parametrize("how", ["base 256", "PAX"])
def test_a_size_field_beyond_eight_gibibytes(tmp_path, how):
    """Twelve octal digits end at 8 GiB; GNU and PAX each go on in another way."""
    size = 9 * GIB + 1
    head = header("a.mp4", size=size) if how != "PAX" else pax(size=str(size)) + header("a.mp4")
    path = tmp_path / "huge.tar"
    path.write_bytes(head)
    message = f"truncated at byte {len(head)} inside 'a.mp4', which ends at {len(head) + size}"
    assert refusal(path) == f"{message} · {AGAIN}"
    with path.open("r+b") as file:  # the hole takes no disk
        file.truncate(len(head) + size + -size % 512 + 1024)
    assert read_members(path) == [Member("a.mp4", len(head), size)]


# Damage


def test_every_cut_is_noticed(tmp_path):
    """At whatever byte a tar ends too early, in data, padding, a header or the end mark."""
    offsets = written(tmp_path / "whole.tar")
    whole = (tmp_path / "whole.tar").read_bytes()
    path = tmp_path / "cut.tar"
    around = {at + step for at in [*offsets, len(whole)] for step in (-513, -512, -1, 1, 511)}
    for size in sorted({*around, *range(1, len(whole), 97)} - {0, len(whole)}):
        if size < len(whole):
            path.write_bytes(whole[:size])
            assert refusal(path).startswith("truncated at byte "), size
    path.write_bytes(whole)
    assert len(read_members(path)) == len(CONTENTS)


def test_where_it_was_cut_is_said(tmp_path):
    path = tmp_path / "s.tar"
    (_, _, third, fourth) = written(path)
    whole = path.read_bytes()

    def cut(size: int) -> str:
        path.write_bytes(whole[:size])
        return refusal(path)

    inside = f"truncated at byte 700 inside 'a.mp4', which ends at {512 + 1500}"
    assert cut(700) == f"{inside} · {AGAIN}"
    assert cut(512 + 1499).startswith("truncated at byte 2011 inside 'a.mp4'")
    in_header = f"truncated at byte {third - 99} behind 'a.json': the end mark is missing"
    assert cut(third - 99) == f"{in_header} · {AGAIN}"
    at_header = f"truncated at byte {fourth - 512} behind 'b.mp4': the end mark is missing"
    assert cut(fourth - 512) == f"{at_header} · {AGAIN}"
    end = fourth + 512
    no_end = f"truncated at byte {end} behind 'b.json': the end mark is missing"
    assert cut(end) == f"{no_end} · {AGAIN}"
    assert cut(end + 512) == f"truncated at byte {end + 512} inside its end mark · {AGAIN}"
    assert cut(0) == f"is empty · {AGAIN}"


def test_every_damaged_byte_of_a_header_is_noticed(tmp_path):
    """The standard library ends there as if the tar were over."""
    path = tmp_path / "s.tar"
    _, second, *_ = written(path)
    whole = path.read_bytes()
    start = second - 512
    message = f"damaged header at byte {start}, behind 'a.mp4' ("
    for at in {*range(start, start + 512)} - {start + 155}:  # that one follows the checksum's end
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        text = refusal(path)
        assert text in (f"{message}bad checksum) · {AGAIN}", f"{message}invalid header) · {AGAIN}")
    path.write_bytes(whole[: start + 3] + b"?" + whole[start + 4 :])
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["a.mp4"]


def test_a_header_of_zeros_is_no_end(tmp_path):
    """A lost disk block looks like the end to other readers, which then drop what is behind it."""
    path = tmp_path / "s.tar"
    _, second, *_ = written(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: second - 512] + bytes(512) + whole[second:])
    assert refusal(path) == (
        f"data behind its end mark at byte {second - 512}, behind 'a.mp4' (from byte {second}) · "
        "a header was overwritten, or tars were joined: write it again"
    )


def test_a_tail_of_zeros_is_an_interrupted_copy(tmp_path):
    path = tmp_path / "s.tar"
    _, second, *_ = written(path)
    os.truncate(path, second - 512)
    os.truncate(path, second - 512 + (1 << 20))
    assert [m.name for m in read_members(path)] == ["a.mp4"]  # the padding of a big tape record
    os.truncate(path, 1 << 30)
    assert refusal(path) == (
        f"nothing but zeros from byte {second - 512} on, behind 'a.mp4': an interrupted copy · "
        f"{AGAIN}"
    )


def test_joined_tars_are_refused(tmp_path):
    written(tmp_path / "a.tar")
    (tmp_path / "b.tar").write_bytes(2 * (tmp_path / "a.tar").read_bytes())
    assert refusal(tmp_path / "b.tar").startswith("data behind its end mark")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>" * 200, "is no tar"),
        (b"<html>", "truncated at byte 6 at its start: the end mark is missing"),
        (bytes(511), "truncated at byte 511 at its start: the end mark is missing"),
    ],
)
def test_files_that_are_no_tars(tmp_path, data, message):
    path = tmp_path / "s.tar"
    path.write_bytes(data)
    assert refusal(path) == f"{message} · {AGAIN}"


def test_a_tar_without_members_has_none(tmp_path):
    written(tmp_path / "s.tar", {})
    assert read_members(tmp_path / "s.tar") == []


@pytest.mark.parametrize(
    ("name", "compress", "tool"),
    [
        ("gzip", gzip.compress, "gzip -d"),
        ("bzip2", bz2.compress, "bzip2 -d"),
        ("xz", lzma.compress, "xz -d"),
        ("zstd", lambda data: b"\x28\xb5\x2f\xfd" + data, "zstd -d"),
        ("lz4", lambda data: b"\x04\x22\x4d\x18" + data, "lz4 -d"),
        ("zip", lambda data: b"PK\3\4" + data, "unzip and tar"),
    ],
)
def test_compressed_tars_are_refused_with_the_cure(tmp_path, name, compress, tool):
    written(tmp_path / "s.tar")
    path = tmp_path / "s.tar.x"
    path.write_bytes(compress((tmp_path / "s.tar").read_bytes()))
    assert refusal(path) == (
        f"is compressed ({name}), so no member has a byte range · unpack it: {tool} s.tar.x"
    )


def test_a_missing_file_a_folder_and_a_pipe(tmp_path):
    assert refusal(tmp_path / "no.tar", code="E-MISSING") == "no such file · check the path"
    assert refusal(tmp_path, code="E-NOTFILE").startswith("is a directory")
    os.mkfifo(tmp_path / "pipe.tar")
    assert refusal(tmp_path / "pipe.tar", code="E-NOTFILE").startswith("is a named pipe")


# Hostile members


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x.mp4", "points out of its folder"),
        ("a/../../x.mp4", "points out of its folder"),
        ("..", "points out of its folder"),
        ("/etc/x.mp4", "has an absolute name"),
        ("", "has no proper name"),
        ("b\udce4d.mp4", "has a name that is not UTF-8"),
    ],
)
def test_unsafe_names_are_refused(tmp_path, name, why):
    path = raw(tmp_path / "s.tar", header("good.mp4"), header(name))
    shown = name.replace("\udce4", "\\udce4")
    assert refusal(path) == f"its member '{shown}' {why} · {REPACK}"


def test_unsafe_names_in_a_pax_header_a_long_name_and_of_a_folder(tmp_path):
    message = f"points out of its folder · {REPACK}"
    path = raw(tmp_path / "s.tar", pax(path="../p.mp4") + header("good.mp4"))
    assert refusal(path) == f"its member '../p.mp4' {message}"
    path = raw(tmp_path / "s.tar", header("../" + "n" * 200))
    assert refusal(path) == f"its member '../{'n' * 200}' {message}"
    path = raw(tmp_path / "s.tar", header("../d/", kind=tarfile.DIRTYPE))
    assert refusal(path) == f"its member '../d' {message}"
    path = raw(tmp_path / "s.tar", pax(path="a\0b.mp4") + header("good.mp4"))
    assert refusal(path) == f"its member 'a\\x00b.mp4' has no proper name · {REPACK}"


@pytest.mark.parametrize(
    ("kind", "fields", "name"),
    [
        (tarfile.SYMTYPE, {"linkname": "/etc/passwd"}, "a symbolic link"),
        (tarfile.SYMTYPE, {"linkname": "l" * 200}, "a symbolic link"),
        (tarfile.LNKTYPE, {"linkname": "a.mp4"}, "a hard link"),
        (tarfile.CHRTYPE, {}, "a device"),
        (tarfile.BLKTYPE, {}, "a device"),
        (tarfile.FIFOTYPE, {}, "a named pipe"),
        (tarfile.GNUTYPE_SPARSE, {}, "a sparse file"),
        (b"V", {}, "of the unknown type b'V'"),
    ],
)
def test_only_regular_members_are_read(tmp_path, kind, fields, name):
    path = raw(tmp_path / "s.tar", header("good.mp4"), header("x.mp4", kind=kind, **fields))
    assert refusal(path) == f"its member 'x.mp4' is {name} · {REPACK}"


def test_a_sparse_member_by_the_tar_program(tmp_path):
    (tmp_path / "x.mp4").touch()
    os.truncate(tmp_path / "x.mp4", 1 << 20)
    for format in ("gnu", "posix"):
        arguments = ["--sparse", f"--format={format}", "-C", tmp_path, "x.mp4"]
        subprocess.run(["tar", "-cf", tmp_path / "s.tar", *arguments], check=True)
        assert refusal(tmp_path / "s.tar").endswith(f"is a sparse file · {REPACK}")


def test_nothing_is_unpacked(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = sorted(tmp_path.rglob("*"))
    raw(tmp_path / "s.tar", header("../evil.mp4"))
    refusal(tmp_path / "s.tar")
    written(tmp_path / "t.tar")
    read_members(tmp_path / "t.tar")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "s.tar", tmp_path / "t.tar"])


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_negative_size_leads_nowhere(tmp_path, kind):
    """The standard library walks backwards for ever, or reads all of the tar into memory."""
    path = raw(tmp_path / "s.tar", header("good.mp4"), header("x.mp4", kind=kind, size=-1024))
    assert refusal(path) == (
        f"damaged header at byte 512, behind 'good.mp4' (negative size) · {AGAIN}"
    )


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_a_gibibyte_is_not_read(tmp_path, kind):
    path = raw(tmp_path / "s.tar", header("good.mp4"), header("x", kind=kind, size=GIB))
    assert refusal(path) == (
        f"a name of {GIB} bytes, behind 'good.mp4': at most {1 << 20} are read · {REPACK}"
    )


@pytest.mark.parametrize(
    "data", [b"9 a=b\n", b"a=b\n", b"6 ab\n\n", b"0 a=b\n", b"3 a", b"99 a=b\n", b"-1 a=b\n"]
)
def test_damaged_pax_records(tmp_path, data):
    head = header("x", kind=tarfile.XHDTYPE, size=len(data))
    path = raw(tmp_path / "s.tar", header("a.mp4"), head, data, header("b.mp4"))
    assert refusal(path) == f"damaged PAX header at byte 1024, behind 'a.mp4' · {AGAIN}"


@pytest.mark.parametrize("size", ["-512", "1e3", "", "9" * 5000, "٣"])
def test_pax_sizes_that_are_none(tmp_path, size):
    path = raw(tmp_path / "s.tar", pax(size=size) + header("a.mp4", size=512), bytes(512))
    assert refusal(path) == f"damaged PAX header of 'a.mp4' (size {size[:20]}) · {AGAIN}"


def test_a_pax_size_counts_and_hides_no_member(tmp_path):
    """Readers that disagree on the size see different members in one tar."""
    inner = header("inner.mp4")
    path = raw(tmp_path / "s.tar", pax(size="512") + header("outer.bin"), inner, header("b.mp4"))
    assert [(m.name, m.size) for m in read_members(path)] == [("outer.bin", 512), ("b.mp4", 0)]


def test_a_long_name_without_its_member(tmp_path):
    path = raw(tmp_path / "s.tar", header("a.mp4"), pax(path="lost.mp4"))
    assert refusal(path) == f"damaged: a long name without its member, behind 'a.mp4' · {AGAIN}"
    long = header("n" * 150)
    path.write_bytes(long[:512] + long[512:600])
    assert refusal(path) == f"truncated at byte 600 inside a header, at its start · {AGAIN}"


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    path = raw(tmp_path / "s.tar", header("../\x1b[2J\n.mp4"))
    assert "'../\\x1b[2J\\n.mp4'" in refusal(path)


# Samples


def grouped(*names: str):
    samples, notes = group_samples([Member(name, 512, 1) for name in names], "s.tar")
    return {s.key: {e: m.name for e, m in s.members.items()} for s in samples}, notes


def test_members_of_one_key_are_one_sample():
    assert grouped("c/a.mp4", "c/a.json", "c/b.json", "c/b.mp4") == (
        {"c/a": {"mp4": "c/a.mp4", "json": "c/a.json"},
         "c/b": {"json": "c/b.json", "mp4": "c/b.mp4"}},
        [],
    )  # fmt: skip


def test_members_that_stand_apart_are_one_sample_all_the_same():
    samples, notes = grouped("a.mp4", "b.mp4", "a.json", "b.json")
    assert samples == {
        "a": {"mp4": "a.mp4", "json": "a.json"},
        "b": {"mp4": "b.mp4", "json": "b.json"},
    }
    assert notes == [
        "2 members stand apart from their key's others; readers of streams see two samples there: "
        "a.json"
    ]


def test_names_that_other_readers_take_otherwise_are_noted():
    assert grouped("v.1.mp4", "v.2.mp4", "C.d/u.MP4") == (
        {"v": {"1.mp4": "v.1.mp4", "2.mp4": "v.2.mp4"}, "C.d/u": {"mp4": "C.d/u.MP4"}},
        [
            "2 members have two dots in the name: the key ends at the first: v.1.mp4",
            "1 members have an extension in upper case, read as lower case: C.d/u.MP4",
        ],
    )


def test_members_without_a_key_are_left_out_and_noted():
    assert grouped("README", "._a.mp4", "x/.hidden", "end.", "__meta__/a.mp4", "a.mp4") == (
        {"a": {"mp4": "a.mp4"}},
        ["5 members left out, their names have no key and extension: README"],
    )


@pytest.mark.parametrize(
    "names", [("a.mp4", "a.mp4"), ("a.MP4", "a.mp4"), ("a.mp4", "b.x", "a.mp4")]
)
def test_a_key_with_an_extension_twice_is_refused(names):
    with pytest.raises(BadShard) as caught:
        grouped(*names)
    assert str(caught.value) == (
        f"error[E-SHARD]: two members have one key and extension: '{names[0]}' and 'a.mp4' · s.tar "
        "· give every sample a key of its own"
    )


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab./_A"), min_size=1, max_size=9))
def test_keys_are_webdatasets(name):
    key, extension = webdataset.tariterators.base_plus_ext(name)
    none = not extension or key.endswith("/")  # to webdataset x/.a is extension a of the key x/
    assert split_name(name) == (("", "") if none else (key, extension))


# Writing


def test_the_offsets_told_are_those_of_the_data(tmp_path):
    path = tmp_path / "s.tar"
    offsets = written(path)
    data = path.read_bytes()
    for offset, content in zip(offsets, CONTENTS.values(), strict=True):
        assert data[offset : offset + len(content)] == content
    assert [m.offset for m in read_members(path)] == offsets
    assert len(data) % 512 == 0 and data[-1024:] == bytes(1024)


def test_headers_are_plain_and_the_same_each_time(tmp_path):
    written(tmp_path / "a.tar")
    written(tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
            assert (info.uname, info.gname) == ("", "")
    assert (tmp_path / "a.tar").read_bytes()[257:265] == b"ustar\x0000"


def test_the_tar_program_reads_it(tmp_path):
    contents = CONTENTS | {"k" * 180 + ".mp4": b"long", "ü.mp4": b"u"}
    written(tmp_path / "s.tar", contents)
    (tmp_path / "out").mkdir()
    command = ["tar", "-xf", tmp_path / "s.tar", "-C", tmp_path / "out"]
    done = subprocess.run(command, check=True, capture_output=True)
    assert not done.stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == contents


def test_a_tar_that_was_not_closed_counts_as_truncated(tmp_path):
    path = tmp_path / "s.tar"
    with path.open("wb") as file:
        TarWriter(file).add("a.mp4", b"1")
    assert (
        refusal(path) == f"truncated at byte 1024 behind 'a.mp4': the end mark is missing · {AGAIN}"
    )


@pytest.mark.parametrize("name", ["../a.mp4", "/a.mp4", "", "\udce4.mp4", "a\0.mp4"])
def test_names_that_would_not_be_read_are_not_written(name):
    file = io.BytesIO()
    with pytest.raises(ValueError, match=r"^member '.*' (points|has)"):
        TarWriter(file).add(name, b"")
    assert not file.getvalue()
