"""Lists with columns, headers and someone else's paths; frame folders; where videos are found."""

from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.annotations import Annotations, Options, Span, read_annotations, suggested_root
from pipeline.errors import DataError
from tests.data_sets import touch


def write(folder: Path, text: str, name="train.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def read(*sources, classes=None, **options) -> Annotations:
    return read_annotations(sources, options=Options(**options), classes=classes)


def rows(source, **options) -> list[tuple]:
    found = read(source, **options)
    return [(r.key, found.classes[r.label] if r.label >= 0 else None) for r in found.rows]


def message(*sources, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(*sources, **options)
    return str(caught.value)


THREE = "error[E-LIST]: 3 columns mean different things to different tools · "
CURE = (
    " · say which: --columns path,frames,label (SlowFast, mmaction2), path,start,frames "
    "(VideoMAEv2) or path,label,skip (several labels: the first)"
)


@pytest.mark.parametrize(
    "line", ["some/a b.mp4 120 5", "frames/some_dir 120 5", "a.mp4,120,5", "a.mp4\t0\t-1"]
)
def test_three_columns_are_never_guessed(tmp_path, line):
    path = write(tmp_path, f"{line}\n{line.replace('a', 'c')}\n")
    assert message(path) == f"{THREE}{path}:1: {line}{CURE}"


def test_columns_of_slowfast_and_mmaction(tmp_path):
    text = "v/a b.mp4 120 1\nv/c.mp4 90 0\n"
    path = write(tmp_path, text)
    found = [("v/a b.mp4", "1"), ("v/c.mp4", "0")]
    assert rows(path, columns=("path", "frames", "label")) == found
    assert read(path, columns=("path", "frames", "label")).rows[0].span is None
    path = write(tmp_path, text.replace(" b", "").replace(" ", ","))
    assert rows(path, columns=("path", "skip", "label"))[1] == ("v/c.mp4", "0")


def test_columns_of_videomae_pretraining(tmp_path):
    path = write(tmp_path, "a.mp4 0 -1\nb.mp4 30 60\n")
    found = read(path, columns=("path", "start", "frames"))
    span = Span(Fraction(30), Fraction(90), in_frames=True)
    assert [(row.key, row.span) for row in found.rows] == [
        ("a.mp4", None),
        ("b.mp4#30.0-90.0", span),
    ]
    assert span.frames(80, Fraction(25)) == (30, 50)
    assert str(span) == "30-90 frames"


def test_first_of_several_labels(tmp_path):
    path = write(tmp_path, "a.mp4 4 7\nb.mp4 2 5\n")
    assert rows(path, columns=("path", "label", "skip")) == [("a.mp4", "4"), ("b.mp4", "2")]


def test_bad_rows_with_columns(tmp_path):
    path = write(tmp_path, "a.mp4 1 0\nb.mp4 1\nc.mp4 x 0\nd.mp4 9 -1\nhttp://e.org/e.mp4 3 0\n")
    assert message(path, columns=("path", "frames", "label")) == (
        f"error[E-LIST]: 4 of 5 rows are bad · {path} · correct them:\n"
        "  train.csv:2: expected 3 columns (path frames label), got 2\n"
        "  train.csv:3: expected a whole number as frames, got 'x'\n"
        "  train.csv:4: expected a label of 0 or more, got -1\n"
        "  train.csv:5: remote paths are not read: download the video"
    )


def test_vjepa_double_colon(tmp_path):
    path = write(tmp_path, "/data/a b.mp4::1\n/data/-c.mp4::0\n")
    assert rows(path) == [("/data/a b.mp4", "1"), ("/data/-c.mp4", "0")]


def test_header_names_columns(tmp_path):
    path = write(
        tmp_path,
        '\ufeffid,file_name,Label,split,fps\r\n1,"a, b.mp4",run,train,25\r\n'
        "2,-c.mp4,'it''s' (x),validation,30\r\n3,d.mp4,run,val,30\r\n"
        "4,e.mp4,'it''s' (x),train,30\r\n",
    )
    found = read(path)
    assert found.formats == ["CSV with a header"]
    assert rows(path)[:2] == [("a, b.mp4", "run"), ("-c.mp4", "'it''s' (x)")]
    assert [row.split for row in found.rows] == ["train", "val", "val", "train"]
    assert found.notes[:2] == [
        "columns: path = file_name, label = Label, split = split",
        "columns not used: id, fps",
    ]


def test_header_with_segments_and_ids(tmp_path):
    touch(tmp_path, "deep/er/-id_1.webm")
    path = write(tmp_path, "video;start;end;class_name;label\n-id_1;0.5;2;run;7\n-id_1;2;4;run;7\n")
    found = read(path)
    assert [(r.key, float(r.span.start), r.path) for r in found.rows] == [
        ("-id_1#0.5-2.0", 0.5, tmp_path / "deep/er/-id_1.webm"),
        ("-id_1#2.0-4.0", 2.0, tmp_path / "deep/er/-id_1.webm"),
    ]
    assert found.classes == ["run"]
    assert found.notes[-1] == "2 names without a video's suffix: found by name"


def test_header_bad_rows(tmp_path):
    path = write(tmp_path, "path,label,start,end\na.mp4,1\nb.mp4,-1,,\nc.mp4,1,5,2\n,1,,\n")
    assert message(path) == (
        f"error[E-LIST]: 4 of 4 rows are bad · {path} · correct them:\n"
        "  train.csv:2: expected 4 columns, got 2\n"
        "  train.csv:3: expected a label of 0 or more, got -1\n"
        "  train.csv:4: expected 0 <= start < end in seconds, got '5', '2'\n"
        "  train.csv:5: no path"
    )
    path = write(tmp_path, "path,label\n")
    assert message(path) == (f"error[E-LIST]: 0 rows · {path} · write lines below the header")
    path = write(tmp_path, "a.mp4,1\n")
    assert message(path, format="csv").startswith(
        "error[E-LIST]: no header with a column for the path (path, video_path, "
    )


def test_coclr_frame_folders(tmp_path):
    """The folder is the class, and the number is no label."""
    name = "HandstandPushups/v_HandStandPushups_g08_c01"
    root = touch(tmp_path / "ucf", f"{name}.avi")
    lines = f"/proj/them/jpegs/{name}/,120\r\n/proj/them/jpegs/YoYo/v_YoYo_g01_c01/,81\r\n"
    path = write(tmp_path, lines, "train_split01.csv")
    found = read(path, root=root)
    assert found.formats == ["CoCLR or ViCC list of frame folders"]
    assert rows(path, root=root) == [(name, "HandstandPushups"), ("YoYo/v_YoYo_g01_c01", "YoYo")]
    assert found.rows[0].path == root / f"{name}.avi"
    moved = read(path, remap=(("/proj/them/jpegs", str(root)),)).rows
    assert moved[1].path == root / "YoYo/v_YoYo_g01_c01"


def test_remap(tmp_path):
    path = write(tmp_path, "/their/k400/train/a.mp4 0\n/their/k400x/b.mp4 1\n/other/c.mp4 1\n")
    remap = (("/their/k400/", "/mine"), ("/other", "rel"))
    found = read(path, remap=remap)
    assert [str(row.path) for row in found.rows] == [
        "/mine/train/a.mp4",
        "/their/k400x/b.mp4",
        f"{tmp_path}/rel/c.mp4",
    ]
    assert found.rows[0].key == "/their/k400/train/a.mp4"
    assert read(path, remap=(("/none", "/x"),)).notes[-1] == "--remap: no path starts with /none"


def test_suggested_root(tmp_path):
    touch(tmp_path, "ucf/Run/a.mp4", "lists/train.txt")
    near = [tmp_path / "lists"]
    lists = tmp_path / "lists"
    assert suggested_root([lists / "Run/a.mp4"], lists, near) == f"--root={tmp_path}/ucf"
    found = suggested_root([Path("/their/Run/a.mp4")], lists, near)
    assert found == f"--remap /their={tmp_path}/ucf"
    assert suggested_root([lists / "none.mp4"], lists, near) == ""


def test_format_by_name(tmp_path):
    path = write(tmp_path, "/x/Run/a/,12\n/x/Run/b/,13\n")
    assert read(path, format="list").classes == [str(n) for n in range(14)]
    assert message(path, format="kinetics") == (
        f"error[E-LIST]: no Kinetics list · {path} · its header must name youtube_id, time_start "
        "and time_end"
    )
    assert message(tmp_path, format="list") == (
        f"error: neither a file nor a folder · {tmp_path} · give a list of videos"
    )
    assert message(path, format="none").startswith("error: no format 'none' · there are: ucf101, ")


@pytest.mark.parametrize(
    "name", ["ucf101", "hmdb51", "kinetics", "activitynet", "diving48", "ssv2", "ssv1", "csv"]
)
def test_a_forced_format_that_does_not_fit_is_one_line(tmp_path, name):
    path = write(tmp_path, "a.mp4 0\n", "list.txt")
    text = message(path, format=name)
    assert text.startswith("error[E-LIST]: ")
    assert len(text.splitlines()) == 1


# Repeats and overlaps


def test_listed_twice(tmp_path):
    path = write(tmp_path, "a.mp4 0\na.mp4 0\nb.mp4 0\n")
    note = "1 videos are listed more than once: taken once (a.mp4)"
    assert read(path).notes[-1] == note
    assert message(path, strict=True) == f"error: {note} · mend the list, or leave out --strict"


def test_in_two_splits(tmp_path):
    path = write(tmp_path, "path,label,split\na.mp4,0,train\na.mp4,0,test\nb.mp4,0,train\n")
    found = read(path)
    assert [(row.key, row.split) for row in found.rows] == [("a.mp4", "test"), ("b.mp4", "train")]
    note = "1 videos are in several splits: left out of train (a.mp4)"
    assert note in found.notes
    assert message(path, strict=True) == f"error: {note} · mend the list, or leave out --strict"


def test_classes_of_one_split_only(tmp_path):
    text = "path,label,split\na.mp4,run,train\nb.mp4,jump,train\nc.mp4,run,test\n"
    path = write(tmp_path, text)
    note = "1 classes are in split 'train', but not in 'test': jump"
    assert read(path).notes[-1] == note
    assert message(path, strict=True) == f"error: {note} · correct the lists, or leave out --strict"
    path = write(tmp_path, text + "d.mp4,swim,test\n")
    assert message(path) == (
        "error: 1 classes are in split 'test', but not in 'train': swim · correct the lists, or "
        "pass --no-labels"
    )


def test_sources_with_different_class_lists(tmp_path):
    for name, classes in (("a", "Run\nJump\n"), ("b", "Jump\nRun\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "classInd.txt").write_text(classes)
        (tmp_path / name / "testlist01.txt").write_text(f"Run/v_Run_g01_c0{name}.avi\n")
    assert message(tmp_path / "a", tmp_path / "b") == (
        "error: the sources define different class lists (same names, other order) · pass the one "
        "to use with --classes"
    )
    found = read(tmp_path / "a", tmp_path / "b", classes=["Jump", "Run"])
    assert [row.label for row in found.rows] == [1, 1]


def test_spellings_of_one_class_become_one(tmp_path):
    touch(tmp_path, "playing guitar/a.mp4", "playing_guitar/b.mp4", "it's/c.mp4")
    found = read(tmp_path)
    assert found.classes == ["it's", "playing guitar"]
    assert [row.label for row in found.rows] == [0, 1, 1]
    assert found.notes == ["1 classes in another spelling: playing_guitar = playing guitar"]
