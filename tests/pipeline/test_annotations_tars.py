import io
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.annotations import Annotations, Options, read_annotations
from pipeline.errors import DataError


def write_tar(path: Path, *members: tuple[str, bytes | str | dict | int]) -> Path:
    """By the standard library, whose offsets are the test's truth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            if isinstance(content, dict):
                content = json.dumps(content)
            data = content if isinstance(content, bytes) else str(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(*sources, **options) -> Annotations:
    return read_annotations(sources, options=Options(**options))


def message(*sources, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(*sources, **options)
    return str(caught.value)


def content(row) -> bytes:
    return row.path.read_bytes()[row.offset : row.offset + row.size]


def test_videos_are_byte_ranges(tmp_path):
    path = write_tar(
        tmp_path / "s.tar",
        ("x/a.mp4", b"first"),
        ("x/a.cls", 1),
        ("x/b.MP4", b"second"),
        ("x/b.json", {"label": 0, "split": "val"}),
        ("c.webm", b"third"),
        ("c.cls", 2),
        ("c.jpg", b"no video"),
    )
    found = read(path)
    assert found.formats == ["WebDataset tars"]
    assert [(r.key, r.label, r.split, content(r)) for r in found.rows] == [
        ("x/a", 1, "", b"first"),
        ("x/b", 0, "val", b"second"),
        ("c", 2, "", b"third"),
    ]
    assert found.notes[0] == "1 tars, 3 videos in them"
    with tarfile.open(path) as tar:
        assert found.rows[0].offset == tar.getmember("x/a.mp4").offset_data


def test_names_and_numbers_give_the_class_order(tmp_path):
    path = write_tar(
        tmp_path / "s.tar",
        ("a.mp4", b"1"),
        ("a.json", {"label": 2, "class": "archery (x)"}),
        ("b.mp4", b"2"),
        ("b.json", {"label": 0, "class": "yoga"}),
        ("c.mp4", b"3"),
        ("c.cls", "2"),
    )
    found = read(path)
    assert found.classes == ["yoga", "1", "archery (x)"]
    assert [row.label for row in found.rows] == [2, 0, 2]
    assert {row.label for row in read(path, labels=False).rows} == {-1}


def test_names_alone(tmp_path):
    path = write_tar(tmp_path / "s.tar", ("a.mp4", b"1"), ("a.cls", "run\n"))
    assert read(path).classes == ["run"]
    path = write_tar(tmp_path / "t.tar", ("a.mp4", b"1"))
    assert [row.label for row in read(path).rows] == [-1]


@pytest.mark.parametrize("pattern", ["", "t-{000..002}.tar", "t-*.tar", "t-{000,001,002}.tar"])
def test_many_tars(tmp_path, pattern):
    for n in range(3):
        write_tar(tmp_path / f"t-{n:03d}.tar", ("0.mp4", f"v{n}".encode()))
    found = read(tmp_path / pattern)
    assert [content(row) for row in found.rows] == [b"v0", b"v1", b"v2"]
    assert len({row.key for row in found.rows}) == 3
    assert found.rows[0].key == f"{tmp_path.as_posix().lstrip('/')}/t-000.tar#0"


def test_missing_and_damaged_tars(tmp_path):
    write_tar(tmp_path / "t-0.tar", ("0.mp4", b"v"))
    assert message(tmp_path / "t-{0..1}.tar") == (
        f"error[E-SHARD]: no such file · {tmp_path}/t-1.tar · check the path, or leave the tar out"
    )
    whole = write_tar(tmp_path / "u.tar", ("0.mp4", b"v" * 2000)).read_bytes()
    (tmp_path / "u.tar").write_bytes(whole[:1000])
    text = message(tmp_path / "u.tar")
    assert text.startswith("error[E-SHARD]: truncated at byte 1000 inside '0.mp4'")
    (tmp_path / "v.tar.gz").write_bytes(b"\x1f\x8b1234567")
    assert message(tmp_path / "v.tar.gz").startswith("error[E-SHARD]: is compressed (gzip)")
    (tmp_path / "empty").mkdir()
    assert message(tmp_path / "empty", format="webdataset").startswith("error[E-LIST]: 0 tars")


def test_labels_that_cannot_be_read(tmp_path):
    path = write_tar(tmp_path / "a.tar", ("a.mp4", b"1"), ("a.json", "{"))
    assert message(path) == (f"error[E-LIST]: no JSON · {path}: a.json · write the shard again")
    path = write_tar(tmp_path / "b.tar", ("a.mp4", b"1"), ("a.cls", b"x" * ((1 << 20) + 1)))
    assert message(path) == (
        f"error[E-LIST]: a label of 1048577 bytes · {path}: a.cls · at most 1048576 are read"
    )
    clash = [("a.mp4", b"1"), ("a.json", {"label": 0, "class": "x"})]
    clash += [("b.mp4", b"1"), ("b.json", {"label": 0, "class": "y"})]
    assert message(write_tar(tmp_path / "c.tar", *clash)) == (
        "error[E-LIST]: class 0 is 'x' and 'y' in different samples · the tars are of different "
        "data sets: index them one by one"
    )


def test_two_videos_of_one_key(tmp_path):
    path = write_tar(tmp_path / "s.tar", ("a.mp4", b"1"), ("a.left.mp4", b"2"))
    assert [row.key for row in read(path).rows] == ["a.mp4", "a.left.mp4"]


def test_tars_of_the_webdataset_package(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for n in range(4):
            writer.write({"__key__": f"v{n:03d}", "mp4": b"video %d" % n, "cls": n % 2})
    found = read(tmp_path / "w.tar")
    assert [(r.key, r.label, content(r)) for r in found.rows] == [
        (f"v{n:03d}", n % 2, b"video %d" % n) for n in range(4)
    ]
