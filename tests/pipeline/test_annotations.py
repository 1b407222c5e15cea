import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations import Options, is_video_name, read_annotations
from pipeline.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def write_list(folder: Path, text: str | bytes, name="train.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def triples(source, *, classes=None, **options):
    found = read_annotations([source], options=Options(**options), classes=classes)
    return [(row.key, row.path, row.label) for row in found.rows]


def labels(source, *, classes=None, **options) -> dict[str, int]:
    return {key: label for key, _, label in triples(source, classes=classes, **options)}


def message(source, *, classes=None, **options) -> str:
    sources = source if isinstance(source, list) else [source]
    with pytest.raises(DataError) as caught:
        read_annotations(sources, options=Options(**options), classes=classes)
    return str(caught.value)


def test_class_folders(tmp_path):
    touch(tmp_path, "walk/b.mp4", "walk/deep/er/a.AVI", "jump/é (1).webm", "empty/readme.txt")
    found = read_annotations([tmp_path])
    assert found.classes == ["jump", "walk"]
    assert found.formats == ["class folders (root/class/**/video)"]
    assert [(row.key, row.path, row.label) for row in found.rows] == [
        ("jump/é (1).webm", tmp_path / "jump/é (1).webm", 0),
        ("walk/b.mp4", tmp_path / "walk/b.mp4", 1),
        ("walk/deep/er/a.AVI", tmp_path / "walk/deep/er/a.AVI", 1),
    ]
    assert found.notes == [f"ignored in {tmp_path}: 1 .txt"]


def test_class_folders_without_labels(tmp_path):
    touch(tmp_path, "walk/b.mp4", "jump/a.mp4")
    found = read_annotations([tmp_path], options=Options(labels=False))
    assert (found.classes, found.formats) == ([], ["folder without labels"])
    assert [(row.key, row.label) for row in found.rows] == [("jump/a.mp4", -1), ("walk/b.mp4", -1)]


def test_flat_folder_has_no_labels(tmp_path):
    touch(tmp_path, "b.mp4", "a.mkv", "10.mp4", "9.mp4")
    assert labels(tmp_path) == {"10.mp4": -1, "9.mp4": -1, "a.mkv": -1, "b.mp4": -1}
    assert list(labels(tmp_path)) == ["10.mp4", "9.mp4", "a.mkv", "b.mp4"]


def test_videos_beside_folders_of_videos_are_ambiguous(tmp_path):
    touch(tmp_path, "b.mp4", "walk/a.mp4")
    assert message(tmp_path) == (
        "error: 1 videos lie beside folders with videos, so it is not clear whether the folders "
        f"are classes · {tmp_path} · pass --no-labels, or move them into folders"
    )
    assert labels(tmp_path, labels=False) == {"b.mp4": -1, "walk/a.mp4": -1}


def test_split_folders_are_no_classes(tmp_path):
    touch(tmp_path, "train/walk/a.mp4", "val/walk/b.mp4")
    assert message(tmp_path) == (
        f"error: the folders train, val look like splits, not classes · {tmp_path} · index each "
        f"of them: python -m tools.index {tmp_path}/train ..."
    )
    assert labels(tmp_path / "train") == {"walk/a.mp4": 0}


def test_what_is_left_out(tmp_path):
    touch(tmp_path, "c/.hidden.mp4", "c/a.mp4.part", "c/a.mp4.ytdl", "c/a.jpg", ".git/x/b.mp4")
    touch(tmp_path, "c/.d/b.mp4", "c/mp4", "c/a.f137.mp4.part-Frag3", "c/ok.m4v")
    found = read_annotations([tmp_path])
    assert [row.key for row in found.rows] == ["c/ok.m4v"]
    assert found.notes == [
        f"ignored in {tmp_path}: 1 .jpg, 1 .part, 1 .part-frag3, 1 .ytdl, 1 no suffix"
    ]


def test_links_in_circles_end(tmp_path):
    root = touch(tmp_path / "root", "a/x.mp4", "b/y.mp4")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "b" / "other").symlink_to(root / "a")
    touch(tmp_path / "outside", "z.mp4")
    (root / "linked").symlink_to(tmp_path / "outside")
    assert labels(root) == {"a/x.mp4": 0, "b/y.mp4": 1, "linked/z.mp4": 2}
    assert read_annotations([root]).notes == [
        "3 links to folders that are read anyway are left out: a/self, a/up, b/other"
    ]


def test_nothing_found(tmp_path):
    touch(tmp_path, "c/a.txt")
    text = message(tmp_path)
    assert text.startswith(f"error[E-LIST]: 0 videos (ignored in {tmp_path}: 1 .txt) · {tmp_path}")
    assert text.endswith(".webm .wmv")


def test_source_that_is_not_there(tmp_path):
    assert message(tmp_path / "none") == (
        f"error: no such file or folder · {tmp_path}/none · give a folder of videos, a video, a "
        "pattern such as 'videos/*.mp4', or a list of lines 'path label'"
    )
    os.mkfifo(tmp_path / "pipe.txt")
    assert message(tmp_path / "pipe.txt").startswith("error: neither a file nor a folder")


def test_patterns_and_single_videos(tmp_path):
    touch(tmp_path, "x/b.mp4", "x/y/a.mp4", "x/c.txt")
    assert labels(tmp_path / "x" / "**" / "*") == {"b.mp4": -1, "y/a.mp4": -1}
    touch(tmp_path, "[1].mp4")
    assert labels(tmp_path / "[1].mp4") == {"[1].mp4": -1}
    assert message(tmp_path / "z*").startswith("error[E-LIST]: 0 videos · ")


def test_keys_of_several_sources_differ(tmp_path):
    touch(tmp_path, "a/v.mp4", "b/v.mp4")
    found = read_annotations([tmp_path / "a", tmp_path / "b"])
    base = tmp_path.as_posix().lstrip("/")
    assert [row.key for row in found.rows] == [f"{base}/a/v.mp4", f"{base}/b/v.mp4"]


SAME = {"a.mp4": 0, "b c.mp4": 1, "d.webm": 0}


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 0\nb c.mp4 1\nd.webm 0\n",
        "a.mp4\t0\nb c.mp4\t1\nd.webm\t0",
        "a.mp4,0\nb c.mp4,1\nd.webm,0\n",
        "a.mp4, 0\n b c.mp4, 1\nd.webm, 0 \n",
        "\ufeffa.mp4 0\r\nb c.mp4 1\r\n\r\n# comment\r\nd.webm 0\r\n\r\n",
        'path,label\n"a.mp4",0\n"b c.mp4","1"\nd.webm,0\n',
    ],
)
def test_lists_in_every_dress(tmp_path, text):
    path = write_list(tmp_path, text)
    assert labels(path) == SAME
    assert triples(path)[1][1] == tmp_path / "b c.mp4"


def test_text_labels_build_the_class_map(tmp_path):
    path = write_list(tmp_path, "a b.mp4 high jump\nc.mp4 archery\nd.mp4 high jump\n", "l.txt")
    found = read_annotations([path])
    assert found.classes == ["archery", "high jump"]
    assert [row.label for row in found.rows] == [1, 0, 1]
    assert found.notes == ["l.txt: path and label, separated by space"]


def test_commas_in_paths_and_labels(tmp_path):
    path = write_list(tmp_path, '"a, b.mp4",run\n"say ""hi"".mp4",jump\nc.mp4,run\n')
    assert labels(path) == {"a, b.mp4": 1, 'say "hi".mp4': 0, "c.mp4": 1}
    path = write_list(tmp_path, "a,b.mp4 0\nc.mp4 1\n")
    assert labels(path) == {"a,b.mp4": 0, "c.mp4": 1}
    path = write_list(tmp_path, 'a.mp4,"skiing (not slalom, or cross)"\nb.mp4,"run"\n')
    assert read_annotations([path]).classes == ["run", "skiing (not slalom, or cross)"]


def test_odd_names_survive(tmp_path):
    names = ["-i.mp4", "it's.mp4", "100%d.mp4", "Zorro_(Funny)!#&;[]@=.avi", "été/視頻 1.mp4"]
    path = write_list(tmp_path, "".join(f"{name} 0\n" for name in names))
    assert list(labels(path)) == names


def test_list_of_paths_has_no_labels(tmp_path):
    path = write_list(tmp_path, "a b.mp4\nsub/c.mp4\n/abs/d.mp4\n")
    assert [(key, str(p)) for key, p, _ in triples(path)] == [
        ("a b.mp4", f"{tmp_path}/a b.mp4"),
        ("sub/c.mp4", f"{tmp_path}/sub/c.mp4"),
        ("/abs/d.mp4", "/abs/d.mp4"),
    ]
    assert set(labels(path).values()) == {-1}


def test_labels_can_be_left_out(tmp_path):
    assert set(labels(write_list(tmp_path, "a.mp4 5\nb.mp4 7\n"), labels=False).values()) == {-1}


def test_root_of_a_list(tmp_path):
    path = write_list(tmp_path, "x/a.mp4 0\n")
    assert triples(path, root=Path("/data"))[0][1] == Path("/data/x/a.mp4")


def test_bad_rows_are_counted_and_the_first_five_shown(tmp_path):
    good = "".join(f"v{n}.mp4 {n}\n" for n in range(16))
    bad = "w.mp4 12 3\nx.mp4\ny.mp4 -1\nhttp://a.b/c.mp4 0\n" + "z.mp4 1 2 3\n" * 3
    path = write_list(tmp_path, good + bad)
    assert message(path) == (
        f"error[E-LIST]: 7 of 23 rows are bad · {path} · correct them, or use --columns "
        "path,frames,label:\n"
        "  train.csv:17: expected 2 columns (path label), got 3\n"
        "  train.csv:18: expected 2 columns (path label), got 1\n"
        "  train.csv:19: expected a label of 0 or more, got -1\n"
        "  train.csv:20: remote paths are not read: download the video\n"
        "  train.csv:21: expected 2 columns (path label), got 4\n"
        "  and 2 more"
    )


@pytest.mark.parametrize("text", ["", "\n\r\n", "# nothing\n#\n", "\ufeff"])
def test_empty_list(tmp_path, text):
    path = write_list(tmp_path, text)
    assert message(path) == f"error[E-LIST]: 0 rows · {path} · write lines: path label"


def test_comments_are_mentioned(tmp_path):
    path = write_list(tmp_path, "# one\n#two.mp4 1\nthree.mp4 0\n")
    assert read_annotations([path]).notes[-1] == "2 lines starting with # skipped"


def test_list_in_another_encoding(tmp_path):
    path = write_list(tmp_path, "été.mp4 0\n".encode("latin-1"))
    assert message(path) == (f"error[E-LIST]: not UTF-8 text at byte 0 · {path} · save it as UTF-8")


def test_labels_from_one(tmp_path):
    path = write_list(tmp_path, "a.mp4 1\nb.mp4 3\nc.mp4 2\n")
    assert message(path) == (
        f"error: labels look 1-based (1...3) · {path}:1 · pass --one-based to take 1 as the first "
        "class, or give all names, from class 0 on, with --classes"
    )
    assert labels(path, one_based=True) == {"a.mp4": 0, "b.mp4": 2, "c.mp4": 1}
    assert labels(path, classes=list("wxyz")) == {"a.mp4": 1, "b.mp4": 3, "c.mp4": 2}
    assert labels(path, classes=list("xyz"), one_based=True)["b.mp4"] == 2
    assert "look 1-based" in message(path, classes=list("xyz"))


def test_integer_labels_with_gaps_keep_their_numbers(tmp_path):
    path = write_list(tmp_path, "a.mp4 1\nb.mp4 4\n")
    found = read_annotations([path])
    assert ([row.label for row in found.rows], found.classes) == ([1, 4], list("01234"))


def test_one_based_with_a_zero(tmp_path):
    path = write_list(tmp_path, "a.mp4 1\nb.mp4 0\n")
    assert message(path, one_based=True) == f"error: {path}:2: label 0 · leave out --one-based"


def test_label_beyond_the_classes(tmp_path):
    path = write_list(tmp_path, "a.mp4 0\nb.mp4 2\n")
    assert message(path, classes=["x", "y"]) == (
        f"error: {path}:2: label 2, but there are 2 classes · give all classes, or correct the "
        "label"
    )


def test_mixed_labels(tmp_path):
    path = write_list(tmp_path, "a.mp4 0\nb.mp4 1\nc.mp4 jump\n")
    assert message(path) == (
        f"error: {path}:3: label 'jump' is text, most others are an integer · use one kind, or "
        "name all classes with --classes"
    )
    assert labels(path, classes=["jump", "0", "1"]) == {"a.mp4": 1, "b.mp4": 2, "c.mp4": 0}


def test_some_sources_with_labels(tmp_path):
    touch(tmp_path, "tree/c/a.mp4", "flat/b.mp4")
    assert message([tmp_path / "tree", tmp_path / "flat"]) == (
        f"error: {tmp_path}/flat/b.mp4: no label, but {tmp_path}/tree/c/a.mp4 has one · index the "
        "sources one by one, or pass --no-labels"
    )


def test_given_class_order(tmp_path):
    touch(tmp_path, "walk/a.mp4", "jump/b.mp4")
    assert labels(tmp_path, classes=["walk", "run", "jump"]) == {"jump/b.mp4": 2, "walk/a.mp4": 0}
    assert message(tmp_path, classes=["walk", "run"]) == (
        f"error: 1 classes are not among the 2 given: jump · {tmp_path}/jump/b.mp4 · add them to "
        "the class list, or leave their videos out"
    )
    assert message(tmp_path, classes=["a", "a"]) == (
        "error: the class 'a' is listed 2 times · list it once"
    )


def test_rows_listed_twice(tmp_path):
    path = write_list(tmp_path, "a.mp4 0\nb.mp4 1\n./a.mp4 0\n")
    found = read_annotations([path])
    assert [row.key for row in found.rows] == ["a.mp4", "b.mp4"]
    assert found.notes[-1] == "1 videos are listed more than once: taken once (./a.mp4)"
    path = write_list(tmp_path, "a.mp4 0\nb.mp4 1\na.mp4 1\n")
    assert message(path) == (
        f"error: {path}:3: a.mp4 has label '1', but '0' at {path}:1 · remove one of the two"
    )


word = (
    st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters='\t,"#/:'),
        min_size=1,
        max_size=8,
    )
    .map(str.strip)
    .filter(lambda text: text and not is_video_name("x" + text))
)


@settings(max_examples=80, deadline=None)
@given(
    stems=st.lists(word, min_size=1, max_size=6, unique=True),
    separator=st.sampled_from("\t, "),
    end=st.sampled_from(["\n", "\r\n"]),
    text_labels=st.booleans(),
)
def test_any_path_and_label_come_back(tmp_path_factory, stems, separator, end, text_labels):
    names = [f"{stem}.mp4" for stem in stems]
    given_labels = [f"class {n % 3}" if text_labels else str(n % 3) for n in range(len(stems))]
    lines = [f"{n}{separator}{label}" for n, label in zip(names, given_labels, strict=True)]
    path = write_list(tmp_path_factory.mktemp("l"), end.join(lines))
    found = read_annotations([path])
    assert [row.key for row in found.rows] == names
    assert [found.classes[row.label] for row in found.rows] == given_labels
