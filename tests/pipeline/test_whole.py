import os
from threading import Thread

import pytest

from pipeline.whole import whole_file


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_has_its_name_only_when_whole(tmp_path, sync):
    path = tmp_path / "a"
    with whole_file(path, sync=sync) as file:
        file.write(b"x")
        assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("ended_by", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, ended_by):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(ended_by), whole_file(path) as file:
        file.write(b"half")
        raise ended_by
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and path.read_bytes() == b"old"


def test_its_bytes_are_on_the_disk_before_its_name_and_its_name_at_the_end(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def named(source, target):
        events.append(("name", str(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named)
    with whole_file(tmp_path / "a") as file:
        partial = file.name
        file.write(b"x")
    assert events == [("sync", partial), ("name", partial), ("sync", str(tmp_path))]
    events.clear()
    with whole_file(tmp_path / "b", sync=False) as file:
        partial = file.name
    assert events == [("name", partial)]


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    def other():
        with whole_file(tmp_path / "a") as file:
            file.write(b"other")

    with whole_file(tmp_path / "a") as file:
        file.write(b"one")
        thread = Thread(target=other)
        thread.start()
        thread.join()
        assert (tmp_path / "a").read_bytes() == b"other"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"one"
