"""Every format of source to a manifest, over a few real videos."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.annotations import read_annotations
from pipeline.manifest import Manifest
from tests import videos
from tools import index
from tools.journal import Target
from tools.probing import probe_rows, probe_target

HANDSTAND = "HandstandPushups/v_HandStandPushups_g08_c01.avi"
FRAMES = {"a": 10, "b": 12, "c": 14}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, bytes]:
    """Three videos of 10, 12 and 14 frames at 25 frames per second, as bytes."""
    folder = tmp_path_factory.mktemp("clips")
    return {
        name: videos.write_video(folder / f"{name}.mp4", frames=n, gop=4).read_bytes()
        for name, n in FRAMES.items()
    }


def put(root: Path, clips: dict[str, bytes], **places: str) -> Path:
    for name, place in places.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clips[name])
    return root


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def run(output: Path, *arguments, code=0) -> Manifest | None:
    assert index.main([*map(str, arguments), "-o", str(output)]) == code
    return Manifest.read(output) if code == 0 else None


def seen(manifest: Manifest) -> dict[str, tuple]:
    """key -> (class or None, split, frames)"""
    rows = [manifest[n] for n in range(len(manifest))]
    return {
        v.key: (manifest.classes[v.label] if v.label >= 0 else None, v.split, v.frames)
        for v in rows
    }


def ucf101(root, clips):
    put(root, clips, a=f"UCF-101/{HANDSTAND}", b="UCF-101/YoYo/v_YoYo_g01_c01.avi")
    put(root, clips, c="UCF-101/YoYo/v_YoYo_g09_c01.avi")
    lists = root / "ucfTrainTestlist"
    write(lists / "classInd.txt", "1 HandstandPushups\r\n2 YoYo\r\n")
    write(lists / "trainlist01.txt", f"{HANDSTAND} 1\r\nYoYo/v_YoYo_g09_c01.avi 2\r\n")
    write(lists / "testlist01.txt", "YoYo/v_YoYo_g01_c01.avi\r\n")
    expected = {
        HANDSTAND: ("HandstandPushups", "train", 10),
        "YoYo/v_YoYo_g09_c01.avi": ("YoYo", "train", 14),
        "YoYo/v_YoYo_g01_c01.avi": ("YoYo", "test", 12),
    }
    return [lists, "--root", root / "UCF-101", "--fold", 1], "UCF101 splits", expected


def hmdb51(root, clips):
    names = [f"Zorro_(Funny)_#{n}!&;[]@=_wave.avi" for n in range(3)]
    put(root, clips, **{c: f"v/wave/{name}" for c, name in zip("abc", names, strict=True)})
    write(root / "s/wave_test_split2.txt", "".join(f"{n} {c} \n" for c, n in enumerate(names)))
    expected = {f"wave/{names[1]}": ("wave", "train", 12), f"wave/{names[2]}": ("wave", "test", 14)}
    return [root], "HMDB51 splits", expected


def kinetics(root, clips):
    put(root, clips, a="train/skiing_not_slalom/-a_000001_000011.mp4.webm")
    put(root, clips, b="val/-b_000002_000012.mp4", c="-c_000003_000013.mkv")
    header = "label,youtube_id,time_start,time_end,split\n"
    label = "skiing (not slalom)"
    lines = [f"{label},-a,1,11,train", f"{label},-b,2,12,validate", ",-c,3,13,test"]
    listed = write(root / "k.csv", header + "\n".join(lines))
    expected = {
        "train/-a_000001_000011": (label, "train", 10),
        "val/-b_000002_000012": (label, "val", 12),
        "test/-c_000003_000013": (None, "test", 14),
    }
    return [listed], "Kinetics CSV", expected


def activitynet(root, clips):
    put(root, clips, a="v_-x.mp4", c="v_y.mkv")
    segments = [([0.1, 0.2], "Tai chi"), ([0.2, 9.0], "Kite flying")]
    database = {
        "-x": {
            "duration": 9.5,
            "subset": "training",
            "annotations": [{"segment": segment, "label": label} for segment, label in segments],
        },
        "y": {"duration": 1, "subset": "testing", "annotations": []},
    }
    listed = write(root / "activity_net.v1-3.min.json", {"database": database})
    expected = {
        "v_-x#000": ("Tai chi", "train", 3),
        "v_-x#001": ("Kite flying", "train", 5),
        "v_y": (None, "test", 14),
    }
    return [listed], "ActivityNet 1.3 segments", expected


def diving48(root, clips):
    put(root, clips, a="-d_00001.mp4", b="-d_00002.mp4")
    for n, split in enumerate(("train", "test"), start=1):
        write(root / f"Diving48_V2_{split}.json", [{"vid_name": f"-d_0000{n}", "label": 7}])
    expected = {"-d_00001": ("7", "train", 10), "-d_00002": ("7", "test", 12)}
    return [root], "Diving48", expected


def ssv2(root, clips):
    put(root, clips, a="v/1.webm", b="v/2.mp4", c="v/3.webm")
    item = {"label": "putting a cup", "template": "Putting [something]", "placeholders": ["a cup"]}
    write(root / "something-something-v2-train.json", [{"id": "1"} | item])
    write(root / "something-something-v2-validation.json", [{"id": "2"} | item])
    write(root / "something-something-v2-test.json", [{"id": "3"}])
    write(root / "something-something-v2-labels.json", {"Putting something": "0"})
    label = "Putting something"
    expected = {"1": (label, "train", 10), "2": (label, "val", 12), "3": (None, "test", 14)}
    return [root], "Something-Something v2", expected


def jester(root, clips):
    put(root, clips, a="1.webm", b="2.webm")
    write(root / "jester-v1-train.csv", "1;Swiping Left\n")
    write(root / "jester-v1-validation.csv", "2;Swiping Left\n")
    expected = {"1": ("Swiping Left", "train", 10), "2": ("Swiping Left", "val", 12)}
    return [root], "Something-Something v1 or Jester", expected


def tars(root, clips):
    write_tar(root / "t-0.tar", {"a.mp4": clips["a"], "a.cls": b"1"})
    write_tar(
        root / "t-1.tar",
        {"b.mp4": clips["b"], "b.cls": b"0", "c.mp4": clips["c"], "c.json": b'{"label": 1}'},
    )
    expected = {"a": ("1", "", 10), "b": ("0", "", 12), "c": ("1", "", 14)}
    return [root / "t-{0..1}.tar"], "WebDataset tars", expected


def coclr(root, clips):
    put(root, clips, a="ucf/Run/v_Run_g01_c01.avi")
    listed = write(root / "train_split01.csv", "/them/frames/Run/v_Run_g01_c01/,120\n")
    return (
        [listed, "--root", root / "ucf"],
        "CoCLR or ViCC list of frame folders",
        {"Run/v_Run_g01_c01": ("Run", "", 10)},
    )


def header(root, clips):
    put(root, clips, a="a (1).mp4", b="-b.mp4")
    listed = write(root / "x.csv", 'video_path,label\n"a (1).mp4","say ""hi"", (x)"\n-b.mp4,y\n')
    expected = {"a (1).mp4": ('say "hi", (x)', "", 10), "-b.mp4": ("y", "", 12)}
    return [listed], "CSV with a header", expected


def plain(root, clips):
    put(root, clips, a="some a.mp4", b="-b.mp4")
    listed = write(root / "ucf101_train_split_1_videos.txt", "some a.mp4 1\n-b.mp4 0\n")
    return [listed], "list of paths", {"some a.mp4": ("1", "", 10), "-b.mp4": ("0", "", 12)}


def videomae(root, clips):
    put(root, clips, a="a.mp4", b="b.mp4")
    listed = write(root / "train.csv", "a.mp4 0 -1\nb.mp4 4 6\n")
    expected = {"a.mp4": (None, "", 10), "b.mp4#4.0-10.0": (None, "", 6)}
    return [listed, "--columns", "path,start,frames"], "list of paths", expected


def remapped(root, clips):
    put(root, clips, a="here/x/a.mp4")
    listed = write(root / "theirs.csv", "/ssd/them/x/a.mp4,0\n")
    return (
        [listed, "--remap", f"/ssd/them={root}/here"],
        "list of paths",
        {"/ssd/them/x/a.mp4": ("0", "", 10)},
    )


FORMATS = [
    ucf101,
    hmdb51,
    kinetics,
    activitynet,
    diving48,
    ssv2,
    jester,
    tars,
    coclr,
    header,
    plain,
    videomae,
    remapped,
]


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_format_to_manifest(make, tmp_path, clips, capsys):
    (tmp_path / "data").mkdir()
    arguments, title, expected = make(tmp_path / "data", clips)
    manifest = run(tmp_path / "m.parquet", *arguments, "--jobs", 1)
    assert seen(manifest) == expected
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"reading as: {title}"
    assert f"  videos    {len(expected)}" in printed
    assert f"  {len(expected)} videos in all" in printed


def test_segments_are_rows_of_one_file(tmp_path, clips):
    arguments, _, _ = activitynet(tmp_path, clips)
    manifest = run(tmp_path / "m.parquet", *arguments)
    first, second, whole = (manifest[n] for n in range(3))
    assert (first.path, first.crc32, first.size) == (second.path, second.crc32, second.size)
    assert [(v.first_frame, v.frames) for v in (first, second, whole)] == [(2, 3), (5, 5), (0, 14)]


def test_segment_behind_the_end(tmp_path, clips, capsys):
    put(tmp_path, clips, a="a.mp4")
    listed = write(tmp_path / "x.csv", "path,start,end\na.mp4,0,0.2\na.mp4,0.4,2\n")
    run(tmp_path / "m.parquet", listed, "--max-bad-fraction", 0.5)
    line = "    a.mp4#0.4-2.0: its segment 0.4-2 s is behind the end (0.4 s)"
    assert line in capsys.readouterr().out.splitlines()


def test_rows_of_one_byte_range_are_probed_once(tmp_path, clips, monkeypatch):
    arguments, _, _ = activitynet(tmp_path, clips)
    rows = read_annotations(arguments).rows
    given = []

    def in_this_process(function, items, **_):
        given.extend(items)
        return ((n, function(item)) for n, item in enumerate(items))

    monkeypatch.setattr("tools.probing.supervised_map", in_this_process)
    outcomes = probe_rows(rows, jobs=1, timeout_seconds=9, scan="packets", function=probe_target)
    assert [item.path.name for item in given] == ["v_-x.mp4", "v_y.mkv"]
    assert {item.scan for item in given} == {"packets"}
    assert [facts.frames for _, facts in outcomes] == [10, 10, 14]


def test_byte_ranges_hold_the_video(tmp_path, clips):
    arguments, _, _ = tars(tmp_path, clips)
    manifest = run(tmp_path / "m.parquet", *arguments)
    for n, name in enumerate("abc"):
        row = manifest[n]
        data = row.path.read_bytes()[row.offset : row.offset + row.size]
        assert data == clips[name]


def test_scans_agree(tmp_path, clips):
    arguments, _, expected = ucf101(tmp_path, clips)
    whole = run(tmp_path / "a.parquet", *arguments)
    quick = run(tmp_path / "b.parquet", *arguments, "--scan", "packets")
    assert seen(whole) == seen(quick) == expected
    assert whole.fingerprint == quick.fingerprint
    assert (whole.options["scan"], quick.options["scan"]) == ("decode", "packets")


def test_one_official_split(tmp_path, clips, capsys):
    arguments, _, expected = ucf101(tmp_path, clips)
    manifest = run(tmp_path / "m.parquet", *arguments, "--split", "test")
    assert seen(manifest) == {k: v for k, v in expected.items() if v[1] == "test"}
    assert manifest.classes == ["HandstandPushups", "YoYo"]
    run(tmp_path / "n.parquet", *arguments, "--split", "val", code=3)
    assert capsys.readouterr().err == (
        "error: no videos of split 'val' · it has: test, train · pass one\n"
    )
    run(tmp_path / "n.parquet", *arguments)
    told = capsys.readouterr().out.splitlines()
    assert "  splits    train (2), test (1)" in told
    assert (
        "  note      to train on one split only: data.split=train, or index with --split train"
        in told
    )


def test_all_videos_missing_suggests_the_root(tmp_path, clips, capsys):
    """B4 b 44: before anything is decoded."""
    arguments, _, _ = ucf101(tmp_path, clips)
    run(tmp_path / "m.parquet", arguments[0], code=3)
    error = capsys.readouterr().err
    assert error.startswith("error[E-MISSING]: 3 of 3 listed videos are missing, none is left · ")
    assert error.endswith(f"; did you mean --root={tmp_path}/UCF-101?\n")
    assert f"first {HANDSTAND}, " in error


@pytest.mark.parametrize("missing", [1, 50, 100])
def test_missing_share(tmp_path, clips, capsys, missing):
    deep = tmp_path / "a/b/c/d"  # out of sight of other tests' videos
    put(deep, clips, a="a.mp4")
    for n in range(missing, 100):
        (deep / f"{n}.mp4").hardlink_to(deep / "a.mp4")
    listed = write(deep / "l.txt", "".join(f"{n}.mp4 0\n" for n in range(100)))
    code = 0 if missing == 1 else 3
    run(tmp_path / "m.parquet", listed, "--scan", "packets", code=code)
    printed = capsys.readouterr()
    count = f"{missing} of 100 listed videos are missing, "
    assert count in (printed.out if missing == 1 else printed.err)
    if missing == 100:
        assert "first 0.mp4, 1.mp4, 2.mp4; paths of a list start from" in printed.err


def test_class_order_of_a_manifest_with_another_set(tmp_path, clips, capsys):
    """B4 b 43."""
    put(tmp_path, clips, a="train/run/a.mp4", b="train/jump/b.mp4", c="test/swim/c.mp4")
    train = tmp_path / "train.parquet"
    run(train, tmp_path / "train")
    run(tmp_path / "t.parquet", tmp_path / "test", "--classes-from", train, code=3)
    assert capsys.readouterr().err == (
        f"error: 1 classes are not among the 2 given: swim · {tmp_path}/test/swim/c.mp4 · add "
        "them to the class list, or leave their videos out\n"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--format", "none"], "argument --format: invalid choice: 'none'"),
        (["--remap", "x"], "expected OLD=NEW, got 'x'"),
        (["--remap", "/=/x"], "expected OLD=NEW, got '/=/x'"),
        (["--columns", "path,colour"], "no column 'colour': take path, label, split, start, "),
        (["--columns", "label"], "expected path once and no name twice, got 'label'"),
        (["--columns", "path,label,label"], "expected path once and no name twice"),
        (["--fold", "0"], "expected a whole number above 0, got '0'"),
        (["--scan", "none"], "argument --scan: invalid choice: 'none'"),
    ],
)
def test_usage(arguments, text, capsys):
    with pytest.raises(SystemExit) as end:
        index.main(["x", "-o", "m.parquet", *arguments])
    assert end.value.code == 2
    assert text in capsys.readouterr().err


def test_target_of_a_file_that_is_not_there(tmp_path):
    assert Target(tmp_path / "none").key() is None
