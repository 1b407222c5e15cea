import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.annotations import Annotations, Options, Span, read_annotations
from pipeline.errors import DataError
from tests import data_sets
from tests.data_sets import HMDB51, UCF101, touch


def read(*sources, classes=None, **options) -> Annotations:
    return read_annotations(sources, options=Options(**options), classes=classes)


def message(*sources, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(*sources, **options)
    return str(caught.value)


def splits(found: Annotations) -> Counter:
    return Counter(row.split for row in found.rows)


def names(found: Annotations) -> dict[str, str | None]:
    return {r.key: found.classes[r.label] if r.label >= 0 else None for r in found.rows}


# UCF101


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory):
    return data_sets.write_ucf101(tmp_path_factory.mktemp("ucf") / "ucfTrainTestlist")


@pytest.mark.parametrize(("fold", "counts"), data_sets.UCF101_COUNTS.items())
def test_ucf101_has_the_official_counts(ucf101, fold, counts):
    found = read(ucf101, fold=fold)
    assert splits(found) == {"train": counts[0], "test": counts[1]}
    assert found.classes == UCF101
    assert found.formats == ["UCF101 splits"]
    assert found.notes == [f"fold {fold}: {counts[0]} train, {counts[1]} test videos"]
    for row in found.rows:
        assert UCF101[row.label] == row.key.split("/")[0]
        assert row.path == ucf101 / row.key


def test_ucf101_handstand_pushups(ucf101, tmp_path):
    """The file says HandStandPushups, the class is HandstandPushups, wherever the video lies."""
    name = "v_HandStandPushups_g08_c01.avi"
    found = names(read(ucf101))
    assert found[f"HandstandPushups/{name}"] == "HandstandPushups"
    assert "HandStandPushups" not in found.values()
    for number, place in enumerate((f"HandstandPushups/{name}", name, name.replace("St", "st"))):
        root = touch(tmp_path / str(number), place)
        rows = {row.key: row for row in read(ucf101, root=root).rows}
        assert rows[f"HandstandPushups/{name}"].path == root / place


def test_ucf101_one_list_alone(ucf101):
    found = read(ucf101 / "testlist02.txt")
    assert splits(found) == {"test": 3734}
    assert found.classes == UCF101
    assert message(ucf101 / "testlist02.txt", fold=1) == (
        f"error: no lists of fold 1 · {ucf101}/testlist02.txt · there are: 2"
    )
    assert read(ucf101).notes[0] == "folds 1, 2, 3 are there: --fold picks another"


def test_ucf101_from_the_folder_above(ucf101):
    found = read(ucf101.parent)
    assert splits(found) == {"train": 9537, "test": 3783}
    assert found.rows[0].path == ucf101.parent / found.rows[0].key


def test_ucf101_without_labels(ucf101):
    found = read(ucf101, labels=False)
    assert {row.label for row in found.rows} == {-1}
    assert splits(found) == {"train": 9537, "test": 3783}


def test_ucf101_rewritten_lists(tmp_path):
    """Numbers from 0, classes without numbers, no carriage returns: TSM's copies."""
    (tmp_path / "ClassInd.txt").write_text("Archery\nBowling\n")
    (tmp_path / "trainlist01.txt").write_text("v_Archery_g08_c01.avi 0\nv_Bowling_g08_c01.avi 1\n")
    (tmp_path / "testlist01.txt").write_text("v_BOWLING_g01_c01.avi\n")
    found = read(tmp_path)
    assert names(found) == {
        "v_Archery_g08_c01.avi": "Archery",
        "v_Bowling_g08_c01.avi": "Bowling",
        "v_BOWLING_g01_c01.avi": "Bowling",
    }
    assert "fold 1: 2 train, 1 test videos; the official lists have 9537 and 3783" in found.notes


def test_ucf101_without_class_list(tmp_path):
    lines = "B/v_B_g08_c01.avi 1\nA/v_A_g08_c01.avi 2\n"
    (tmp_path / "trainlist01.txt").write_text(lines)
    assert read(tmp_path).classes == ["B", "A"]
    (tmp_path / "trainlist01.txt").unlink()
    (tmp_path / "testlist01.txt").write_text("B/v_B_g01_c01.avi\nA/v_A_g01_c01.avi\n")
    assert read(tmp_path).classes == ["A", "B"]


def test_ucf101_with_another_copys_class_list(tmp_path):
    (tmp_path / "classInd.txt").write_text("1 Archery\n2 Bowling\n")
    (tmp_path / "trainlist01.txt").write_text(
        "Archery/v_Archery_g08_c01.avi 1\nBowling/v_Bowling_g08_c01.avi 1\nChew/v_C_g08_c01.avi 9\n"
    )
    assert message(tmp_path) == (
        f"error[E-LIST]: 2 of 3 rows are bad · {tmp_path}/trainlist01.txt · take classInd.txt of "
        "the same copy:\n"
        "  trainlist01.txt:2: class 1 is 'Archery', but the folder is 'Bowling'\n"
        "  trainlist01.txt:3: class 'Chew' is not in classInd.txt"
    )


def test_ucf101_lists_in_two_folders(tmp_path):
    for name in ("recognition", "detection"):
        touch(tmp_path / name, "trainlist01.txt")
    assert message(tmp_path) == (
        f"error: annotations are in several folders: {tmp_path}/detection, {tmp_path}/recognition "
        f"· {tmp_path} · pass the one to take as the source, and the videos' folder with --root"
    )


# HMDB51


@pytest.fixture(scope="module")
def hmdb51(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hmdb") / "testTrainMulti_7030_splits"
    return data_sets.write_hmdb51(folder)


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_hmdb51_has_the_official_counts(hmdb51, fold):
    found = read(hmdb51, fold=fold)
    assert splits(found) == {"train": 3570, "test": 1530}
    assert found.classes == sorted(HMDB51)
    assert found.notes == [f"fold {fold}: 3570 train, 1530 test, 1666 unused videos"]
    for row in found.rows:
        label = row.key.split("/")[0]
        assert (found.classes[row.label], row.path) == (label, hmdb51 / row.key)


def test_hmdb51_finds_videos_flat_and_in_folders(hmdb51, tmp_path):
    name = next(row.key for row in read(hmdb51).rows if "Zorro_(" in row.key)
    label, _, base = name.partition("/")
    for number, place in enumerate((name, base, f"{label}/{label}/{base}")):
        root = touch(tmp_path / str(number), place)
        rows = {row.key: row for row in read(hmdb51, root=root).rows}
        assert rows[name].path == root / place


def test_hmdb51_bad_code(tmp_path):
    (tmp_path / "wave_test_split1.txt").write_text("a.avi 1 \nb.avi 3 \nc.avi\n")
    assert message(tmp_path) == (
        f"error[E-LIST]: 2 of 3 rows are bad · {tmp_path}/wave_test_split1.txt · correct them:\n"
        "  wave_test_split1.txt:2: expected `name.avi` and 0, 1 or 2, got 'b.avi 3'\n"
        "  wave_test_split1.txt:3: expected `name.avi` and 0, 1 or 2, got 'c.avi'"
    )


# Kinetics

KINETICS = """\ufefflabel,youtube_id,time_start,time_end,split,is_cc\r
skiing (not slalom or crosscountry),-3B32lodo2M,59,69,train,0\r
"massaging person's head",--07WQ2iBlw,1,11,train,0\r
abseiling,zzz,12,22,train,0\r
abseiling,_0bc,0,10,validate,1\r
"""
CLIPS = {
    "train/-3B32lodo2M_000059_000069": "skiing (not slalom or crosscountry)",
    "train/--07WQ2iBlw_000001_000011": "massaging person's head",
    "train/zzz_000012_000022": "abseiling",
    "val/_0bc_000000_000010": "abseiling",
}
SPELLINGS = (
    lambda label: label,
    lambda label: label.replace(" ", "_"),
    lambda label: label.replace(" ", "_").translate(str.maketrans("", "", "'()")),
)


def write_kinetics(folder: Path, text=KINETICS, name="train.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, newline="")
    return folder / name


@pytest.mark.parametrize("spelled", SPELLINGS)
@pytest.mark.parametrize("tail", [".mp4", ".mkv", ".mp4.webm"])
def test_kinetics_in_every_folder_spelling(tmp_path, spelled, tail):
    places = {
        key: f"{key.split('/')[0]}/{spelled(label)}/{key.split('/')[1]}{tail}"
        for key, label in CLIPS.items()
    }
    root = touch(tmp_path / "k400", *places.values())
    found = read(write_kinetics(tmp_path), root=root)
    assert found.formats == ["Kinetics CSV"]
    assert names(found) == CLIPS
    assert {row.key: row.path for row in found.rows} == {k: root / p for k, p in places.items()}
    assert {row.key: row.split for row in found.rows} == {k: k.split("/")[0] for k in CLIPS}
    assert found.notes == [
        "2 classes are in split 'train', but not in 'val': massaging person's head, skiing (not "
        "slalom or crosscountry)"
    ]


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_class_folders_match_given_classes_in_every_spelling(tmp_path, spelled):
    classes = sorted(set(CLIPS.values()))
    touch(tmp_path, *(f"{spelled(label)}/{n}.mp4" for n, label in enumerate(classes)))
    assert {r.key: r.label for r in read(tmp_path, classes=classes).rows} == {
        f"{spelled(label)}/{n}.mp4": n for n, label in enumerate(classes)
    }


def test_every_unmatched_class_is_named(tmp_path):
    root = touch(
        tmp_path / "k", "abseiling/zzz_000012_000022.mp4", "abselling/_x_000001_000002.mp4"
    )
    found = read(write_kinetics(tmp_path), root=root)
    assert found.notes[:2] == [
        "2 classes have no video on disk: massaging person's head; skiing (not slalom or "
        "crosscountry)",
        "1 folders are none of the classes: abselling",
    ]


def test_all_unknown_class_folders_are_named(tmp_path):
    many = [f"class_{n:02d}" for n in range(12)]
    touch(tmp_path, *(f"{label}/a.mp4" for label in many))
    with pytest.raises(
        DataError, match="11 classes are not among the 1 given: " + ", ".join(many[1:])
    ):
        read(tmp_path, classes=["class 00"])


def test_kinetics_crawler_header_and_names(tmp_path):
    text = (
        "YouTube Identifier,Start time,End time,Class label\n-a,1.0,11.0,'x' (y)\nb,5,15,'x' (y)\n"
    )
    listed = write_kinetics(tmp_path, text, "kinetics_train.csv")
    root = touch(tmp_path / "v", "-a_1_11.mp4", "b.mp4")
    found = read(listed, root=root)
    assert [(r.path.name, r.split) for r in found.rows] == [
        ("-a_1_11.mp4", "train"),
        ("b.mp4", "train"),
    ]
    assert found.classes == ["'x' (y)"]


def test_kinetics_folder_of_lists_with_a_test_list_without_labels(tmp_path):
    annotations = tmp_path / "annotations"
    write_kinetics(annotations, "label,youtube_id,time_start,time_end,split\nrun,a,0,10,train\n")
    write_kinetics(
        annotations, "label,youtube_id,time_start,time_end,split\nrun,b,0,10,val\n", "val.csv"
    )
    write_kinetics(annotations, "youtube_id,time_start,time_end,split\nc,0,10,test\n", "test.csv")
    touch(tmp_path, "test/c_000000_000010.mp4", "train/run/a_000000_000010.mp4")
    found = read(tmp_path)
    assert splits(found) == {"train": 1, "val": 1, "test": 1}
    assert names(found) == {
        "train/a_000000_000010": "run",
        "val/b_000000_000010": "run",
        "test/c_000000_000010": None,
    }
    assert found.rows[0].path == tmp_path / "test/c_000000_000010.mp4"


def test_kinetics_copies_in_several_places(tmp_path):
    root = touch(
        tmp_path / "k",
        "train/abseiling/zzz_000012_000022.mp4",
        "val/abseiling/zzz_000012_000022.mp4",
    )
    rows = {row.key: row for row in read(write_kinetics(tmp_path), root=root).rows}
    assert rows["train/zzz_000012_000022"].path.parts[-3] == "train"
    root = touch(tmp_path / "k2", "a/zzz_000012_000022.mp4", "b/zzz_000012_000022.mkv")
    notes = read(tmp_path / "train.csv", root=root).notes
    assert "1 videos are there more than once, the first is taken: zzz_000012_000022" in notes


def test_kinetics_video_in_another_class_folder(tmp_path):
    root = touch(tmp_path / "k", "abseiling/--07WQ2iBlw_000001_000011.mp4")
    found = read(write_kinetics(tmp_path), root=root)
    assert names(found)["train/--07WQ2iBlw_000001_000011"] == "massaging person's head"
    assert found.notes[1] == (
        "1 videos lie in another class's folder, the list counts: "
        "abseiling/--07WQ2iBlw_000001_000011.mp4 (massaging person's head)"
    )


def test_kinetics_bad_rows(tmp_path):
    listed = write_kinetics(tmp_path, KINETICS + "run,,1,2,train,0\r\nrun,x,soon,2,train,0\r\n")
    assert message(listed) == (
        f"error[E-LIST]: 2 of 6 rows are bad · {listed} · correct them:\n"
        "  train.csv:6: expected label, youtube_id, time_start, time_end, split, is_cc, got "
        "'run,,1,2,train,0'\n"
        "  train.csv:7: expected label, youtube_id, time_start, time_end, split, is_cc, got "
        "'run,x,soon,2,train,0'"
    )


# Something-Something and Jester

LABELS = {"Putting [something] on a surface": 1, "Holding [something], [part]": 0}


def write_ssv2(folder: Path, prefix="something-something-v2-") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {t.replace("[", "").replace("]", ""): str(n) for t, n in LABELS.items()}
    train, validation = (
        [
            {
                "id": str(id),
                "label": "putting a cup on a surface",
                "template": template,
                "placeholders": ["a cup"],
            }
            for id, template in zip(ids, LABELS, strict=True)
        ]
        for ids in ((78687, 42326), (74225, 116154))
    )
    for name, content in {
        "labels": numbers,
        "train": train,
        "validation": validation,
        "test": [{"id": "1420"}],
    }.items():
        (folder / f"{prefix}{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_something_v2(tmp_path, prefix):
    folder = write_ssv2(tmp_path / "labels", prefix)
    root = touch(tmp_path / "20bn", "78687.webm", "42326.mp4")
    found = read(folder, root=root)
    assert found.formats == ["Something-Something v2"]
    assert found.classes == ["Holding something, part", "Putting something on a surface"]
    assert splits(found) == {"train": 2, "val": 2, "test": 1}
    assert {row.key: row.label for row in found.rows} == {
        "78687": 1,
        "42326": 0,
        "74225": 1,
        "116154": 0,
        "1420": -1,
    }
    paths = {row.key: row.path for row in found.rows}
    assert paths["78687"] == root / "78687.webm"
    assert paths["42326"] == root / "42326.mp4"
    assert paths["1420"] == root / "1420.webm"
    assert found.notes == ["left and right have a meaning here: pretrain without horizontal flips"]


def test_something_v2_test_answers(tmp_path):
    folder = write_ssv2(tmp_path, "")
    (folder / "test-answers.csv").write_text("1420;Putting something on a surface\n")
    assert names(read(folder))["1420"] == "Putting something on a surface"


def test_something_v2_unknown_template(tmp_path):
    folder = write_ssv2(tmp_path)
    (folder / "something-something-v2-labels.json").write_text('{"Holding something, part": "0"}')
    assert message(folder / "something-something-v2-train.json") == (
        "error[E-LIST]: 1 templates are not in labels.json: Putting something on a surface · "
        f"{folder}/something-something-v2-train.json · take labels.json of the same release"
    )


def test_jester(tmp_path):
    (tmp_path / "jester-v1-train.csv").write_text("34870;Drumming Fingers\r\n56557;Sliding Two\r\n")
    (tmp_path / "jester-v1-validation.csv").write_text("9223;Sliding Two\n1;Drumming Fingers")
    (tmp_path / "jester-v1-test.csv").write_text("7\n8\n")
    (tmp_path / "jester-v1-labels.csv").write_text("Sliding Two\nDrumming Fingers\nNo gesture\n")
    found = read(tmp_path)
    assert found.formats == ["Something-Something v1 or Jester"]
    assert found.classes == ["Sliding Two", "Drumming Fingers", "No gesture"]
    assert {row.key: (row.label, row.split) for row in found.rows} == {
        "34870": (1, "train"),
        "56557": (0, "train"),
        "9223": (0, "val"),
        "1": (1, "val"),
        "7": (-1, "test"),
        "8": (-1, "test"),
    }


# Diving48


def write_diving48(folder: Path, edition="V2_") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [["Back", "15som", f"{n:02d}Twis", "FREE"] for n in range(48)]
    (folder / "Diving48_vocab.json").write_text(json.dumps(vocabulary))
    for split, ids in {"train": (19, 20), "test": (21,)}.items():
        items = [
            {
                "vid_name": f"-mvzCSPSbxo_{n:05d}",
                "label": 47 if n == 19 else 8,
                "start_frame": 0,
                "end_frame": 114,
            }
            for n in ids
        ]
        (folder / f"Diving48_{edition}{split}.json").write_text(json.dumps(items))
    return folder


def test_diving48(tmp_path):
    folder = write_diving48(tmp_path)
    root = touch(tmp_path / "rgb", "-mvzCSPSbxo_00019.mp4")
    found = read(folder, root=root)
    assert found.formats == ["Diving48"]
    assert (len(found.classes), found.classes[8]) == (48, "Back 15som 08Twis FREE")
    assert {row.key: (row.label, row.split) for row in found.rows} == {
        "-mvzCSPSbxo_00019": (47, "train"),
        "-mvzCSPSbxo_00020": (8, "train"),
        "-mvzCSPSbxo_00021": (8, "test"),
    }
    assert found.notes[0] == "labels of Diving48 V2"
    (folder / "Diving48_vocab.json").unlink()
    assert read(folder).classes == [str(n) for n in range(48)]


def test_diving48_editions_are_not_mixed(tmp_path):
    folder = write_diving48(write_diving48(tmp_path), "")
    assert message(folder) == (
        f"error[E-LIST]: Diving48 V1 ({folder}/Diving48_train.json) and Diving48 V2 "
        f"({folder}/Diving48_V2_train.json) number their classes differently · pass files of one "
        "edition, best Diving48_V2_train.json and Diving48_V2_test.json"
    )
    assert "number their classes differently" in message(
        folder / "Diving48_V2_train.json", folder / "Diving48_test.json"
    )
    both = read(folder / "Diving48_V2_train.json", folder / "Diving48_V2_test.json")
    assert splits(both) == {"train": 2, "test": 1}


def test_diving48_label_out_of_range(tmp_path):
    path = tmp_path / "Diving48_V2_test.json"
    path.write_text('[{"vid_name": "a", "label": 48}]')
    assert message(path) == (
        "error[E-LIST]: item 1 (a): label 48, but there are 48 classes · "
        f"{path} · take Diving48_vocab.json of the same release"
    )


# ActivityNet


def write_activitynet(path: Path, **videos) -> Path:
    path.write_text(json.dumps({"database": videos, "taxonomy": [], "version": "VERSION 1.3"}))
    return path


def video(subset: str, duration: float, *segments: tuple[float, float, str]) -> dict:
    annotations = [{"segment": [start, end], "label": label} for start, end, label in segments]
    return {
        "duration": duration,
        "subset": subset,
        "resolution": "320x240",
        "url": "https://example.org/watch",
        "annotations": annotations,
    }


def test_activitynet(tmp_path):
    path = write_activitynet(
        tmp_path / "activity_net.v1-3.min.json",
        **{
            "---9CpRcKoU": video(
                "training", 14.07, (0.01, 12.644, "Drinking beer"), (13, 14.07, "Tai chi")
            ),
            "HsGPGwN7vSk": video(
                "validation",
                100,
                (90, 120.5, "Tai chi"),
                (50, 40, "Tai chi"),
                (101, 110, "Tai chi"),
                (7, 7, "Tai chi"),
                (-1, 3, "Tai chi"),
            ),
            "x": video("testing", 5),
        },
    )
    root = touch(tmp_path / "v", "v_---9CpRcKoU.mkv", "HsGPGwN7vSk.webm")
    found = read(path, root=root)
    assert found.formats == ["ActivityNet 1.3 segments"]
    rows = [
        (r.key, r.path.name, r.span and (float(r.span.start), float(r.span.end)), r.split)
        for r in found.rows
    ]
    assert rows == [
        ("v_---9CpRcKoU#000", "v_---9CpRcKoU.mkv", (0.01, 12.644), "train"),
        ("v_---9CpRcKoU#001", "v_---9CpRcKoU.mkv", (13, 14.07), "train"),
        ("v_HsGPGwN7vSk#000", "HsGPGwN7vSk.webm", (90, 100), "val"),
        ("v_HsGPGwN7vSk#001", "HsGPGwN7vSk.webm", (40, 50), "val"),
        ("v_HsGPGwN7vSk#004", "HsGPGwN7vSk.webm", (0, 3), "val"),
        ("v_x", "v_x.mp4", None, "test"),
    ]
    assert found.rows[0].span.end == Fraction("12.644")  # as written: no binary rounding
    assert [r.label for r in found.rows] == [0, 1, 1, 1, 1, -1]
    assert found.notes[:3] == [
        "1 segments run backwards: their ends are swapped",
        "2 segments reach beyond the video: clipped to its duration",
        "2 segments cover nothing of the video: left out",
    ]
    whole = read(path, root=root, labels=False)
    assert [(r.key, r.span) for r in whole.rows] == [
        (f"v_{id}", None) for id in ("---9CpRcKoU", "HsGPGwN7vSk", "x")
    ]


def test_activitynet_of_mmaction(tmp_path):
    path = tmp_path / "anet_anno_val.json"
    item = {
        "duration_second": 10.0,
        "duration_frame": 300,
        "annotations": [{"segment": [1.5, 11.0], "label": "Tai chi"}],
        "fps": 30.0,
        "rfps": 30.0,
        "feature_frame": 288,
    }
    path.write_text(json.dumps({"v_abc": item}))
    (row,) = read(path).rows
    assert (row.key, row.split, row.span) == (
        "v_abc#000",
        "val",
        Span(Fraction(3, 2), Fraction(10)),
    )


def test_activitynet_malformed(tmp_path):
    path = write_activitynet(tmp_path / "a.json", x=video("training", 5, ("a", 3, "b")))
    assert message(path) == (
        'error[E-LIST]: a segment is not as in {"duration": s, "annotations": [{"segment": [s, e], '
        f'"label": ...}}]}} · {path} v_x · download it again'
    )
    path.write_text('{"database": {')
    assert message(path).startswith("error[E-LIST]: no JSON (Expecting property name")


@pytest.mark.parametrize(
    ("start", "end", "fps", "frames", "expected"),
    [
        ("0.28", "0.56", 25, 100, (7, 7)),
        ("0.281", "0.561", 25, 100, (7, 8)),
        ("0", "1", Fraction(30000, 1001), 100, (0, 30)),
        ("3.9", "5", 25, 100, (97, 3)),
        ("4", "5", 25, 100, (0, 0)),
    ],
)
def test_frames_of_a_segment(start, end, fps, frames, expected):
    """All frames that are shown at some time of [start, end)."""
    span = Span(Fraction(start), Fraction(end))
    assert span.frames(frames, Fraction(fps)) == expected
    shown = [
        n
        for n in range(frames)
        if Fraction(n, 1) / fps < span.end and Fraction(n + 1, 1) / fps > span.start
    ]
    assert expected == ((shown[0], len(shown)) if shown else (0, 0))
