"""Annotations that no data set has: each ends in one line that names the place, none in a hang."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.annotations import Options, read_annotations
from pipeline.annotations.text import seconds
from pipeline.errors import DataError

ENDLESS = "9" * 5000  # Python refuses to turn more than 4,300 digits into a number


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def message(*sources: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_annotations(sources, options=Options(**options))
    return str(caught.value)


@pytest.mark.parametrize("label", ["1000000", "4000000000000", ENDLESS])
def test_a_label_that_cannot_be_a_class(tmp_path, label):
    """A column of bytes or times taken for the label must not make a list of as many classes."""
    path = write(tmp_path / "train.txt", f"a.mp4 0\nb.mp4 {label}\n")
    shown = label if len(label) < 20 else f"{label[:19]}…"
    assert message(path) == (
        f"error: {path}:2: label {shown}, but at most 1000000 classes are numbered · check that "
        "this column is the label (--columns), or pass --no-labels"
    )


def write_tar(path: Path, *members: tuple[str, str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, text in members:
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize("label", ["99999999999999", ENDLESS])
def test_such_a_label_in_a_tar(tmp_path, label):
    path = write_tar(tmp_path / "s.tar", ("a.mp4", "video"), ("a.cls", label))
    assert "but at most 1000000 classes are numbered" in message(path)


def test_such_a_label_with_a_name_in_a_tar(tmp_path):
    facts = json.dumps({"label": 99999999999999, "class": "run"})
    path = write_tar(tmp_path / "s.tar", ("a.mp4", "video"), ("a.json", facts))
    assert "label 99999999999999, but at most 1000000 classes are numbered" in message(path)


def test_a_number_without_end_in_json(tmp_path):
    path = write(tmp_path / "a.json", f'{{"database": {{"x": {{"duration": {ENDLESS}}}}}}}')
    assert message(path) == (
        f"error[E-LIST]: no JSON (a number without end) · {path}:1 · download it again"
    )
    tar = write_tar(tmp_path / "s.tar", ("a.mp4", "video"), ("a.json", f'{{"label": {ENDLESS}}}'))
    assert message(tar) == f"error[E-LIST]: no JSON · {tar}: a.json · write the shard again"


@pytest.mark.parametrize("text", ["1e999999999", "1e400", ENDLESS, "1_0", "inf", "nan", "", True])
def test_times_that_are_none(text):
    assert seconds(text) is None


@pytest.mark.parametrize(
    ("text", "value"), [("6.73", 6.73), ("1e-05", 1e-5), (-3, -3), (".5", 0.5)]
)
def test_times(text, value):
    assert float(seconds(text)) == value


def test_items_of_another_kind(tmp_path):
    path = write(tmp_path / "Diving48_V2_train.json", '[{"vid_name": "a", "label": 0}, null]')
    assert message(path) == (
        f"error[E-LIST]: item 2 has no vid_name or label · {path} · download it again"
    )
    words = write(tmp_path / "Diving48_vocab.json", "[5]")
    assert message(path) == f"error[E-LIST]: expected a list of dives · {words} · download it again"
    path = write(tmp_path / "train.json", '[{"id": "1", "template": 5}]')
    assert message(path) == (
        f"error[E-LIST]: item 1 has no text as template · {path} · download it again"
    )


def test_ucf101_numbers_without_end(tmp_path):
    write(tmp_path / "classInd.txt", f"{ENDLESS} Run\n2 Walk\n")
    path = write(tmp_path / "trainlist01.txt", f"Run/v_Run_g01_c01.avi {ENDLESS}\n")
    (row,) = read_annotations([path]).rows
    assert (row.label, row.path.name) == (0, f"v_Run_g01_c01.avi {ENDLESS}")  # and so is missing


def test_ucf101_bad_rows_name_the_list_they_are_in(tmp_path):
    write(tmp_path / "classInd.txt", "1 Run\n")
    write(tmp_path / "trainlist01.txt", "Run/v_Run_g08_c01.avi 1\n")
    test = write(tmp_path / "testlist01.txt", "Run/v_Run_g01_c01.avi\nHop/v_Hop_g01_c01.avi\n")
    assert message(tmp_path) == (
        f"error[E-LIST]: 1 of 2 rows are bad · {test} · take classInd.txt of the same copy:\n"
        "  testlist01.txt:2: class 'Hop' is not in classInd.txt"
    )


def test_something_v2_below_a_folder_with_a_colon(tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    path = write(folder / "train.json", '[{"id": "1", "template": "Putting [something]"}]')
    assert [row.split for row in read_annotations([path]).rows] == ["train"]


def test_a_binary_file_is_no_list(tmp_path):
    path = tmp_path / "m.parquet"
    path.write_bytes(b"PAR1\0\x15\xff\0")
    assert message(path) == (
        f"error[E-LIST]: a binary file, no list · {path} · give a folder of videos, a video, a "
        "tar, or a list as text"
    )
    path.write_bytes("a.mp4 é\n".encode("utf-16"))
    assert message(path).startswith("error[E-LIST]: not UTF-8 text at byte 0 · ")


def test_half_a_character_in_json(tmp_path):
    """Of UTF-16: neither a terminal nor parquet takes one; two of them are a character."""
    path = write(tmp_path / "train.json", r'[{"id": "1", "template": "Putting \ud83d"}]')
    assert message(path) == (
        f"error[E-LIST]: no JSON (text with half a character) · {path}:1 · download it again"
    )
    tar = write_tar(tmp_path / "s.tar", ("a.mp4", "video"), ("a.json", r'{"class": "\ud83d"}'))
    assert message(tar) == f"error[E-LIST]: no JSON · {tar}: a.json · write the shard again"
    write(path, r'[{"id": "1", "template": "Putting \ud83d\ude00"}]')
    assert read_annotations([path]).classes == ["Putting 😀"]
