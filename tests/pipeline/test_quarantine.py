"""Damaged videos are written once, over any number of restarts, until they are too many."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import DataError
from pipeline.quarantine import MOST_PRINTED, Quarantine


def entry(path: str, code: str = "E-CORRUPT") -> dict:
    return {"path": path, "code": code, "detail": "broken · remove it", "epoch": 0}


@pytest.fixture
def opened(tmp_path):
    """Opens the same file anew, as a restarted run does; `said` collects what it prints."""

    def open_again(*, videos: int = 1000, fraction: float = 1.0) -> Quarantine:
        path = tmp_path / "quarantine.jsonl"
        return Quarantine(
            path, videos=videos, max_bad_fraction=fraction, say=open_again.said.append
        )

    open_again.said = []
    return open_again


def paths(quarantine: Quarantine) -> list[str]:
    return [
        json.loads(line)["path"] for line in quarantine.path.read_text("utf-8").split("\n")[:-1]
    ]


def test_a_video_is_written_and_said_once_even_over_restarts(opened):
    first = opened()
    first.note([entry("a.mp4"), entry("a.mp4"), entry("b.mp4")])
    first.note([entry("b.mp4")])
    second = opened()
    second.note([entry("a.mp4"), entry("c.mp4")])
    assert paths(second) == ["a.mp4", "b.mp4", "c.mp4"]
    said = [
        f"quarantined [E-CORRUPT] {p} · broken · remove it" for p in ("a.mp4", "b.mp4", "c.mp4")
    ]
    assert opened.said == said
    assert json.loads(second.path.read_text().split("\n")[0]) == entry("a.mp4")


def test_nothing_is_written_before_something_is_damaged(opened):
    quarantine = opened(videos=1, fraction=0.0)
    quarantine.note([])
    assert not quarantine.path.exists() and not opened.said


def test_at_most_twenty_lines_are_said_all_are_written(opened):
    opened().note([entry(f"{n}.mp4") for n in range(15)])
    again = opened()
    again.note([entry(f"{n}.mp4") for n in range(40)])
    assert len(opened.said) == MOST_PRINTED == 20
    assert len(paths(again)) == 40


def test_a_half_written_last_line_is_passed_over_and_spoils_no_later_one(opened):
    """A kill can cut anywhere, in the middle of a letter of two bytes as well."""
    quarantine = opened()
    quarantine.note([entry("a.mp4"), entry("größe.mp4")])
    content = quarantine.path.read_bytes()
    for cut in range(1, len(content.split(b"\n")[1]) + 2):
        quarantine.path.write_bytes(content[:-cut])
        restarted = opened()
        assert list(restarted.known) == ["a.mp4", "größe.mp4"][: 2 if cut == 1 else 1]
        restarted.note([entry("b.mp4")])
        restarted.note([entry("c.mp4")])
        assert opened().known.keys() - {"größe.mp4"} == {"a.mp4", "b.mp4", "c.mp4"}


def test_videos_of_one_shard_count_each(opened):
    quarantine = opened(videos=200, fraction=0.01)
    shard = [entry("s.tar") | {"key": key} for key in ("a", "b", "c")]
    quarantine.note(shard[:2])
    quarantine.note(shard[1:2])
    with pytest.raises(DataError, match=r"^error: 3 of 200 videos are damaged"):
        opened(videos=200, fraction=0.01).note(shard)
    assert opened.said == [
        f"quarantined [E-CORRUPT] s.tar: {key} · broken · remove it" for key in ("a", "b", "c")
    ]


@pytest.mark.parametrize("name", ["größe.mp4", "line\u2028end\x85.mp4", "two\nlines.mp4"])
def test_any_file_name_comes_back(opened, name):
    opened().note([entry(name)])
    restarted = opened()
    assert list(restarted.known) == [name]
    restarted.note([entry(name)])
    assert len(opened.said) == 1


def test_too_many_damaged_videos_end_the_run_in_one_line(opened):
    quarantine = opened(videos=200, fraction=0.01)
    quarantine.note([entry("a.mp4"), entry("b.mp4", "E-MISSING")])  # 2 of 200 is the budget
    with pytest.raises(DataError) as caught:
        quarantine.note([entry("c.mp4", "E-MISSING")])
    assert str(caught.value) == (
        "error: 3 of 200 videos are damaged (E-MISSING 2, E-CORRUPT 1), more than "
        f"data.max_bad_fraction=0.01 · {quarantine.path} · mend or remove them, index again, or "
        "raise data.max_bad_fraction"
    )
    assert caught.value.exit_code == 3
    assert len(paths(quarantine)) == 3  # the straw that broke it is in the list, too
