import json
import os
import pty
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.annotations import Row
from pipeline.errors import BadVideo, DataError
from pipeline.manifest import Manifest
from pipeline.probe import Probe, try_probe
from tests import videos
from tools.index import main
from tools.journal import Target
from tools.pool import supervised_map
from tools.probing import WORKER_BYTES, probe_rows, probe_target

ROOT = Path(__file__).parents[2]


@dataclass
class Done:
    code: int
    stdout: str
    stderr: str


def as_program(*arguments) -> Done:
    """Runs the program as a user does."""
    command = [sys.executable, "-m", "tools.index", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def index(capsys):
    """The same within this process, which saves its start."""

    def run(*arguments, code=0) -> Done:
        capsys.readouterr()
        try:
            returned = main([str(argument) for argument in arguments])
        except SystemExit as end:
            returned = end.code
        printed = capsys.readouterr()
        assert returned == code, printed.out + printed.err
        return Done(returned, printed.out, printed.err)

    return run


def quarantine(manifest: Path) -> list[dict]:
    lines = manifest.with_suffix(".quarantine.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes with odd names, rotated and long, and two files that are no videos."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("high jump", "été"):
        (root / name).mkdir()
    for name in ["-i.mp4", "it's a b.mp4", "100%d.mp4", 'say "hi".mp4', "視頻.mp4"]:
        videos.write_video(root / "high jump" / name, frames=8)
    videos.write_video(root / "été" / "turned.mp4", frames=9, size=(96, 64), rotation=90)
    videos.write_video(root / "été" / "b.avi", frames=10, codec="mpeg4", b_frames=2)
    (root / "été" / "bad.mp4").write_bytes(b"")
    (root / "été" / "page.mp4").write_text("<html>not found</html>")
    (root / "été" / "half.mp4.part").write_bytes(b"x")
    return root


def test_class_tree(tree, tmp_path):
    output = tmp_path / "new" / "m.parquet"
    done = as_program(tree, "-o", output, "--split", "train", "--max-bad-fraction", 0.5)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:6] == [
        "reading as: class folders (root/class/**/video)",
        f"  ignored in {tree}: 1 .part",
        "  high jump/-i.mp4  label 0 (high jump)  train",
        "  high jump/100%d.mp4  label 0 (high jump)  train",
        "  high jump/it's a b.mp4  label 0 (high jump)  train",
        "  9 videos in all",
    ]
    assert f"wrote {output}" in done.stdout
    for line in [
        "  videos    7",
        "  classes   2",
        "  frames    59",
        "  fps       25 (7)",
        "  size      64x64 (6), 64x96 (1)",
        "  codec     h264 (6), mpeg4 (1)",
    ]:
        assert line in done.stdout.splitlines()
    assert "rejected  2 (E-EMPTY 1, E-NOTVIDEO 1)" in done.stdout
    manifest = Manifest.read(output, "train")
    assert manifest.classes == ["high jump", "été"]
    assert sorted(manifest.labels.tolist()) == [0, 0, 0, 0, 0, 1, 1]
    turned = next(manifest[n] for n, key in enumerate(manifest.keys) if "turned" in key)
    assert (turned.width, turned.height, turned.rotation, turned.frames) == (64, 96, 90, 9)
    assert turned.path == tree / "été" / "turned.mp4"
    assert quarantine(output) == [
        {
            "path": str(tree / "été/bad.mp4"),
            "code": "E-EMPTY",
            "detail": "is 0 bytes (interrupted download?) · download or copy it again",
            "key": "été/bad.mp4",
        },
        {
            "path": str(tree / "été/page.mp4"),
            "code": "E-NOTVIDEO",
            "detail": "looks like an HTML page · replace it by a video file",
            "key": "été/page.mp4",
        },
    ]


def test_too_many_unusable_videos(tree, tmp_path, index):
    output = tmp_path / "m.parquet"
    done = index(tree, "-o", output, code=3)
    assert len(Manifest.read(output)) == 7
    lines = done.stderr.splitlines()
    listed = output.with_suffix(".quarantine.jsonl")
    assert lines[0] == (
        "error: 2 of 9 videos are unusable, more than --max-bad-fraction=0.01 "
        f"(E-EMPTY 1, E-NOTVIDEO 1) · {listed} · mend or remove them; {output} is written"
    )
    assert lines[1].startswith("  error[E-EMPTY]: is 0 bytes")
    assert len(lines) == 3


def test_no_usable_video(tmp_path, index):
    (tmp_path / "a.mp4").write_bytes(b"")
    output = tmp_path / "m.parquet"
    done = index(tmp_path, "-o", output, "--max-bad-fraction", 1, code=3)
    assert "1 of 1 videos are unusable, none is left (E-EMPTY 1)" in done.stderr
    assert f"{output} is not written" in done.stderr
    assert not output.exists()
    assert [line["code"] for line in quarantine(output)] == ["E-EMPTY"]


def test_missing_files_beyond_the_budget_end_the_run_at_its_start(tree, tmp_path):
    listed = tmp_path / "train.txt"
    names = ["high jump/-i.mp4 0", "été/b.avi 1", "été/gone.mp4 1"]
    listed.write_text("\n".join(names))
    output = tmp_path / "m.parquet"
    done = as_program(listed, "--root", tree, "-o", output)
    assert (done.code, output.exists()) == (3, False)
    assert done.stderr == (
        "error[E-MISSING]: 1 of 3 listed videos are missing, more than --max-bad-fraction=0.01 · "
        f"{output.with_suffix('.quarantine.jsonl')} · first été/gone.mp4; paths of a list start "
        f"from {tree}: pass --root DIR to change it\n"
    )
    assert [(line["code"], line["key"]) for line in quarantine(output)] == [
        ("E-MISSING", "été/gone.mp4")
    ]


def test_missing_files_within_the_budget(tree, tmp_path, index):
    listed = tmp_path / "train.txt"
    listed.write_text("high jump/-i.mp4\nété/gone.mp4\nété/bad.mp4\n")
    output = tmp_path / "m.parquet"
    done = index(listed, "--root", tree, "-o", output, "--max-bad-fraction", 0.7)
    assert "  1 of 3 listed videos are missing, first été/gone.mp4; paths of a list" in done.stdout
    lines = done.stdout.splitlines()
    at = lines.index(f"  missing   1 (E-MISSING 1), see {output.with_suffix('.quarantine.jsonl')}")
    assert lines[at + 1 :] == [
        "    été/gone.mp4: no such file",
        f"  rejected  1 (E-EMPTY 1), see {output.with_suffix('.quarantine.jsonl')}",
        "    été/bad.mp4: is 0 bytes (interrupted download?)",
    ]


@pytest.mark.parametrize("missing_names", ["-i.mp4 0\nb.mp4 0", "x/high jump/-i.mp4 0"])
def test_the_right_root_is_suggested(tree, tmp_path, index, missing_names):
    lists = tree / "lists"
    lists.mkdir(exist_ok=True)
    listed = lists / "train.txt"
    listed.write_text(missing_names)
    done = index(listed, "-o", tmp_path / "m.parquet", code=3)
    if missing_names.startswith("x"):
        option = f"--remap {lists}/x={tree}"
    else:
        option = f"--root={tree}/high jump"
    assert f"did you mean {option}?" in done.stderr
    listed.unlink()
    lists.rmdir()


def test_flat_folder_twice_gives_the_same_bytes(tree, tmp_path, index):
    output = tmp_path / "m.parquet"
    assert as_program(tree / "high jump", "-o", output, "--jobs", 2).code == 0
    first = output.read_bytes()
    assert not output.with_suffix(".quarantine.jsonl").exists()
    output.with_suffix(".quarantine.jsonl").write_text("old\n")
    index(tree / "high jump", "-o", output, "--jobs", 1)
    assert output.read_bytes() == first
    assert not output.with_suffix(".quarantine.jsonl").exists()
    manifest = Manifest.read(output)
    assert (manifest.classes, set(manifest.labels.tolist())) == ([], {-1})


def test_classes_of_another_manifest(tree, tmp_path, index):
    names = tmp_path / "classes.txt"
    names.write_bytes("\ufeffété\r\nrun\r\nhigh jump\r\n".encode())
    train, test = tmp_path / "train.parquet", tmp_path / "test.parquet"
    index(tree, "-o", train, "--classes", names, "--max-bad-fraction", 1)
    assert Manifest.read(train).classes == ["été", "run", "high jump"]
    source = tmp_path / "list.csv"
    source.write_text(f"{tree}/high jump/-i.mp4,high jump\n")
    index(source, "-o", test, "--classes-from", train)
    assert Manifest.read(test).classes == ["été", "run", "high jump"]
    assert Manifest.read(test).labels.tolist() == [2]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "the following arguments are required: SOURCE, -o/--output"),
        (["x", "-o", "m.txt"], "'m.txt' does not end in .parquet"),
        (["x", "-o", "m.parquet", "--jobs", "0"], "expected a whole number above 0, got '0'"),
        (["x", "-o", "m.parquet", "--timeout-seconds", "no"], "expected seconds above 0, got 'no'"),
        (["x", "-o", "m.parquet", "--max-bad-fraction", "2"], "expected a number from 0 to 1"),
        (["x", "-o", "m.parquet", "--classes", "a", "--classes-from", "b"], "not allowed with"),
    ],
)
def test_usage(arguments, text, index):
    assert text in index(*arguments, code=2).stderr


def test_errors_are_one_line_unless_debugging(tmp_path, index):
    output = tmp_path / "m.parquet"
    done = index(tmp_path, "-o", output, "--classes", tmp_path / "none", code=3)
    assert done.stderr == (
        f"error: the class list cannot be read (No such file or directory) · {tmp_path}/none · "
        "give a UTF-8 text file with one class on each line\n"
    )
    done = index(tmp_path / "none", "-o", output, code=3)
    assert done.stderr.startswith(f"error: no such file or folder · {tmp_path}/none · ")
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "file").write_text("")
    done = index(tmp_path, "-o", tmp_path / "file" / "m.parquet", code=2)
    assert done.stderr == f"error: File exists · {tmp_path}/file · check path and permissions\n"
    with pytest.raises(DataError):
        main([str(tmp_path / "none"), "-o", str(output), "--debug"])


def test_names_cannot_steer_the_terminal_or_break_the_files(tmp_path, index):
    folder = tmp_path / "videos"
    folder.mkdir()
    made = videos.write_video(folder / "a\x1b[31m\n.mp4", frames=3)
    foreign = os.fsencode(folder) + b"/CAF\xe9.mp4"
    with open(foreign, "wb") as file:
        file.write(made.read_bytes())
    output = tmp_path / "m.parquet"
    done = index(folder, "-o", output, "--max-bad-fraction", 0.5)
    assert "\x1b" not in done.stdout
    assert Manifest.read(output).keys == ["a\x1b[31m\n.mp4"]
    (line,) = quarantine(output)
    assert (line["code"], line["path"]) == ("E-NOTFILE", f"{folder}/CAF\\xe9.mp4")


def test_progress_bar_on_a_terminal(tree, tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tools.index", str(tree / "high jump")]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "m.parquet")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    assert done.returncode == 0
    assert b"probed" in os.read(ours, 1 << 16)
    os.close(ours)


def troubled_probe(target: Target) -> Probe | BadVideo:
    """Stands for a decoder that hangs or crashes on some files."""
    if target.path.name == "hangs.mp4":
        time.sleep(600)
    if target.path.name == "crashes.mp4":
        os.abort()
    return try_probe(target.path)


def test_hanging_and_crashing_decoders(tree):
    good = tree / "high jump" / "-i.mp4"
    other = tree / "high jump" / "100%d.mp4"
    paths = [good, tree / "hangs.mp4", other, tree / "crashes.mp4", good]
    rows = [Row(str(n), path, -1) for n, path in enumerate(paths)]
    outcomes = probe_rows(rows, jobs=2, timeout_seconds=2.0, function=troubled_probe)
    assert [row for row, _ in outcomes] == rows
    facts = [fact for _, fact in outcomes]
    assert facts[0] == facts[4] == try_probe(good)
    assert facts[2] == try_probe(other)
    assert str(facts[1]) == (
        f"error[E-TIMEOUT]: not decoded within 2 s · {tree}/hangs.mp4 · raise --timeout-seconds if "
        "it is a long video"
    )
    assert str(facts[3]) == (
        f"error[E-CRASH]: the decoder crashed (killed by SIGABRT) · {tree}/crashes.mp4 · re-encode "
        "it or leave it out"
    )


def test_named_pipes_in_a_folder(tmp_path, index):
    videos.write_video(tmp_path / "a.mp4", frames=3)
    os.mkfifo(tmp_path / "pipe.mp4")
    output = tmp_path / "m.parquet"
    index(tmp_path, "-o", output, "--max-bad-fraction", 0.5)
    assert [line["code"] for line in quarantine(output)] == ["E-NOTFILE"]


def limit_seen(target: Target) -> tuple[int, int]:
    probe_target(target)
    return resource.getrlimit(resource.RLIMIT_DATA)


def test_a_crafted_index_cannot_take_all_memory(tree):
    """Only the processes that open videos are limited."""
    targets = [Target(tree / "high jump" / "-i.mp4")]
    seen = list(supervised_map(limit_seen, targets, jobs=1, timeout_seconds=60))
    assert seen == [(0, (WORKER_BYTES, WORKER_BYTES))]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert limit_seen(targets[0]) == before != seen[0][1]
