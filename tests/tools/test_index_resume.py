"""An index that was killed continues, and its manifest is the one of an undisturbed run."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.annotations import Row
from pipeline.errors import BadVideo, DataError
from pipeline.probe import Probe, try_probe
from tests import videos
from tools import index
from tools.journal import Journal, Target
from tools.probing import probe_rows, probe_target

ROOT = Path(__file__).parents[2]
VIDEOS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("many")
    made = videos.write_video(root / "v00.mp4", frames=250, size=(160, 128), gop=12)
    for n in range(1, VIDEOS):
        (root / f"v{n:02d}.mp4").write_bytes(made.read_bytes())
    (root / "v03.mp4").write_bytes(b"no video at all")
    return root


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory) -> bytes:
    # The manifest holds paths relative to its folder, as deep here as those of the tests are.
    output = tmp_path_factory.mktemp("whole") / "m.parquet"
    assert index.main([str(folder), "-o", str(output), "--max-bad-fraction", "0.1"]) == 0
    assert not list(output.parent.glob("*journal*"))
    return output.read_bytes()


def command(folder: Path, output: Path, *more: str) -> list[str]:
    options = ["-o", str(output), "--max-bad-fraction", "0.1", "--jobs", "1", *more]
    return [sys.executable, "-m", "tools.index", str(folder), *options]


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def kill_after(folder: Path, output: Path, probed: int) -> Path:
    """Starts the program and kills it when its journal has so many lines."""
    journal = output.with_suffix(".journal.jsonl")
    program = subprocess.Popen(command(folder, output), cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(lines(journal)) < probed and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(program.pid, signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    assert not output.exists()
    return journal


def test_killed_and_run_again(folder, undisturbed, tmp_path):
    output = tmp_path / "m.parquet"
    journal = kill_after(folder, output, probed=5)
    known = len(lines(journal))
    assert 5 <= known < VIDEOS
    # What is known is not opened again: its content could be anything of the same size and time.
    first = Path(json.loads(lines(journal)[0])["path"])
    kept, status = first.read_bytes(), first.stat()
    first.write_bytes(bytes(len(kept)))
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    try:
        done = subprocess.run(
            command(folder, output), cwd=ROOT, capture_output=True, text=True, timeout=100
        )
    finally:
        first.write_bytes(kept)
        os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (done.returncode, done.stderr) == (0, "")
    told = f"  continuing: {known} videos are known from the run before"
    assert told in done.stdout.splitlines()
    assert output.read_bytes() == undisturbed
    assert not journal.exists()
    assert output.with_suffix(".quarantine.jsonl").exists()


def test_killed_twice_with_a_torn_line(folder, undisturbed, tmp_path):
    output = tmp_path / "m.parquet"
    journal = kill_after(folder, output, probed=2)
    with journal.open("ab") as file:
        file.write(b'{"path": "/half of a li')
    before = len(lines(journal)) - 1
    kill_after(folder, output, probed=before + 3)
    assert all(json.loads(line) for line in lines(journal)[:-1])
    assert index.main(command(folder, output)[3:]) == 0
    assert output.read_bytes() == undisturbed


def test_changed_videos_and_other_scans_are_probed_again(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", frames=5)
    target = Target(path)
    facts = try_probe(path)
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.add(target.key(), facts)
        assert (tmp_path / "j.jsonl").read_bytes().endswith(b"\n")  # at once, for kill -9
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.get(target.key()) == facts
        assert journal.get(Target(path, scan="packets").key()) is None
        assert journal.get(Target(path, offset=1).key()) is None
        assert journal.get(Target(path, size=facts.size).key()) == facts
        os.utime(path, ns=(1, 1))
        assert journal.get(target.key()) is None
        assert journal.get(Target(tmp_path / "none").key()) is None


def refused(target: Target) -> BadVideo:
    return BadVideo("E-CODEC", "no decoder here for its codec", target.path, "re-encode it")


def test_what_was_refused_is_probed_again(tmp_path):
    """Another PyAV, or other permissions, leave no trace in the file."""
    path = videos.write_video(tmp_path / "é\n.mp4", frames=5)
    rows = [Row("a", path, -1)]
    for function, kind in ((refused, BadVideo), (probe_target, Probe), (refused, Probe)):
        with Journal(tmp_path / "j.jsonl") as journal:
            work = {"jobs": 1, "timeout_seconds": 60, "journal": journal}
            ((_, outcome),) = probe_rows(rows, function=function, **work)
        assert isinstance(outcome, kind)


def test_beyond_the_budget_what_is_known_stays(tmp_path, capsys):
    (tmp_path / "v").mkdir()
    good = videos.write_video(tmp_path / "v" / "good.mp4", frames=5)
    bad = good.with_name("bad.mp4")
    bad.write_bytes(b"")
    arguments = [str(tmp_path / "v"), "-o", str(tmp_path / "m.parquet")]
    journal = tmp_path / "m.journal.jsonl"
    assert index.main(arguments) == 3
    assert [json.loads(line)["path"] for line in lines(journal)] == [str(good)]
    bad.unlink()
    capsys.readouterr()
    assert index.main(arguments) == 0
    assert "  continuing: 1 videos are known from the run before" in capsys.readouterr().out
    assert not journal.exists()


@pytest.mark.parametrize("limit_bytes", [16, 512])  # of the journal, of the manifest
def test_a_full_disk_is_one_line_and_the_run_continues(tmp_path, capsys, limit_bytes):
    path = videos.write_video(tmp_path / "v.mp4", frames=5)
    output = tmp_path / "m.parquet"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
    try:
        code = index.main([str(path), "-o", str(output)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 2 and not output.exists()
    assert capsys.readouterr().err == (
        f"error[E-DISK]: File too large · {output} · free some space and give the same command "
        "again\n"
    )
    assert index.main([str(path), "-o", str(output)]) == 0


@pytest.mark.parametrize(
    "line",
    [b"", b"no json", b"[]", b"null", b"{}", b"\xff\xfe", b'{"path": 1}', "facts", "unhashable"],
)
def test_damaged_lines_are_passed_over(tmp_path, line):
    path = videos.write_video(tmp_path / "a.mp4", frames=5)
    facts = try_probe(path)
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.add(Target(path).key(), facts)
    good = (tmp_path / "j.jsonl").read_bytes()
    if line == "facts":
        line = good.strip().replace(b'"frames"', b'"pictures"')
    if line == "unhashable":
        line = good.strip().replace(b'"offset": 0', b'"offset": [0]')
    (tmp_path / "j.jsonl").write_bytes(line + b"\n" + good + good[: len(good) // 2])
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.get(Target(path).key()) == facts
        journal.add(Target(path).key(), facts)
    assert (tmp_path / "j.jsonl").read_bytes() == line + b"\n" + good + good


def test_two_runs_to_one_manifest(tmp_path):
    with Journal(tmp_path / "m.journal.jsonl"), pytest.raises(DataError) as caught:
        Journal(tmp_path / "m.journal.jsonl")
    assert str(caught.value) == (
        f"error: another tools.index writes the same manifest · {tmp_path}/m.journal.jsonl · wait "
        "for it, or stop it"
    )


def test_interrupted_by_hand(folder, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "probe_rows", stop)
    assert index.main([str(folder), "-o", str(tmp_path / "m.parquet")]) == 130
    message = "interrupted: no manifest was written; run it again to continue\n"
    assert capsys.readouterr().err == message


def test_facts_survive_the_journal_exactly(tmp_path):
    """Every field, for a rate that is no whole number."""
    path = videos.write_video(tmp_path / "a.mp4", frames=5, fps=videos.Fraction(30000, 1001))
    facts = try_probe(path)
    assert isinstance(facts, Probe)
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.add(Target(path).key(), facts)
    with Journal(tmp_path / "j.jsonl") as journal:
        again = journal.get(Target(path).key())
    assert again == facts
    assert type(again.fps) is type(facts.fps)
