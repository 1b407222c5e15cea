"""Tables for people and programs say the same, and a file brings its comparison back."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from tools.benchmark.conditions import file_stem, in_words
from tools.benchmark.measure import Comparison, Limit, Spread
from tools.benchmark.record import Record
from tools.benchmark.table import columns, lines, markdown, notes, verdicts


@pytest.fixture
def comparison() -> Comparison:
    """Ours takes 1, 2 and 4 ms, the rival three times as long."""
    return Comparison(
        title="info_nce, N = 4",
        unit="calls",
        goals={"eager": 2.5, "compiled": 4.0},
        rates={
            "Kinema": [1000.0, 500.0, 250.0],
            "eager": [1000 / 3, 500 / 3, 250 / 3],
            "compiled": [1000 / 3, 500 / 3, 250 / 3],
        },
        facts={
            "Kinema": {"extra MB": 8.4},
            "eager": {"extra MB": 268.0, "error": 1e-7},
            "compiled": {},
        },
        limits=[Limit("extra memory", 0.03, 0.01), Limit("in all", 0.2, 0.2)],
        left_out={"cut-cross-entropy": "not installed: pip install [it]"},
        timed=True,
    )


def test_milliseconds_are_of_one_unit(comparison):
    assert comparison.milliseconds("Kinema") == Spread(1.4, 2.0, pytest.approx(3.2))
    assert comparison.ratio("eager").p50 == pytest.approx(3.0)


def test_every_side_has_a_cell_for_every_column(comparison):
    assert columns(comparison) == [
        "ms: median (20 %, 80 %)",
        "ours is ... times as fast",
        "goal",
        "extra MB",
        "error",
    ]
    assert lines(comparison) == {
        "Kinema": ["2 (1.4, 3.2)", "", "", "8.4", ""],
        "eager": ["6 (4.2, 9.6)", "3 (3, 3)", "2.5 reached", "268", "1e-07"],
        "compiled": ["6 (4.2, 9.6)", "3 (3, 3)", "4 MISSED", "", ""],
    }


def test_large_numbers_are_whole(comparison):
    comparison.facts["eager"]["extra MB"] = 17_180.2
    assert lines(comparison)["eager"][3] == "17,180"


def test_rates_are_shown_where_they_are_what_counts(comparison):
    comparison.timed = False
    assert columns(comparison)[0] == "calls/s: median (20 %, 80 %)"
    assert lines(comparison)["Kinema"][0].startswith("500 ")


def test_verdicts_are_one_line_a_goal(comparison):
    assert verdicts(comparison) == [
        "info_nce, N = 4: 3 times as fast as eager (goal: 2.5 or more) reached",
        "info_nce, N = 4: 3 times as fast as compiled (goal: 4 or more) MISSED",
        "info_nce, N = 4: extra memory: 0.03 (goal: 0.01 or less) MISSED",
        "info_nce, N = 4: in all: 0.2 (goal: 0.2 or less) reached",
    ]


def test_notes_name_goals_and_what_is_left_out(comparison):
    assert notes(comparison) == [
        "3 rounds, all sides in each",
        "extra memory: 0.03 (goal: 0.01 or less) MISSED",
        "in all: 0.2 (goal: 0.2 or less) reached",
        "left out: cut-cross-entropy: not installed: pip install [it]",
    ]


def test_markdown_has_the_same_cells(comparison):
    heading, empty, *rest = markdown(comparison).splitlines()
    assert heading == "### info_nce, N = 4" and not empty
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rest if "|" in line]
    assert table[0] == ["", *columns(comparison)]
    assert table[2:] == [[name, *cells] for name, cells in lines(comparison).items()]
    assert [line for line in rest if line.startswith("- ")] == [f"- {n}" for n in notes(comparison)]


def test_a_file_brings_the_comparison_back(comparison, tmp_path):
    record = Record(tmp_path / "ops.json", Console(quiet=True))
    record.more = {"parts": ["one"]}
    record.add(comparison)
    record.skip("info_nce 4096 x 1048576")
    content = json.loads(record.path.read_text())
    assert Comparison.of_plain(content["comparisons"][0]) == comparison
    assert content["parts"] == ["one"] and content["not_measured"] == ["info_nce 4096 x 1048576"]
    assert content["versions"]["torch"] and content["command"] and content["load_at_start"] >= 0
    sides = content["comparisons"][0]["sides"]
    assert sides["Kinema"]["milliseconds"]["p50"] == 2.0
    assert sides["eager"]["ratio"]["p80"] == pytest.approx(3.0)


def test_what_was_measured_is_on_disk_before_the_next_begins(comparison, tmp_path):
    record = Record(tmp_path / "ops.json", Console(quiet=True))
    record.add(comparison)
    assert len(json.loads(record.path.read_text())["comparisons"]) == 1


def test_a_goal_may_be_the_least():
    low, high = (Limit("use, %", value, least=30.0) for value in (29.0, 30.0))
    assert str(low) == "use, %: 29 (goal: 30 or more) MISSED" and not low.reached
    assert str(high) == "use, %: 30 (goal: 30 or more) reached"
    sides = {"rates": {"Kinema": [1.0]}, "facts": {"Kinema": {}}}
    comparison = Comparison("t", "steps", **sides, limits=[low, high])
    assert Comparison.of_plain(json.loads(json.dumps(comparison.plain()))) == comparison


def test_every_figure_has_its_own_conditions(comparison, tmp_path, monkeypatch):
    """Of a command whose threads change between two of its parts."""
    record = Record(tmp_path / "ops.json", Console(quiet=True))
    for threads in (2, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        record.add(replace(comparison))
    found = json.loads(record.path.read_text())["comparisons"]
    assert [one["conditions"]["threads"] for one in found] == [2, 1]
    last = notes(record.comparisons[0])[-1]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d, load \d+\.\d at the start, torch threads 2(, \w+=\w+)*: "
        r"python -m tools\.benchmark.*",
        last,
    )


def test_brackets_in_a_reason_are_no_markup(comparison, tmp_path, capsys):
    Record(tmp_path / "ops.json", Console(width=100)).add(comparison)
    assert "pip install [it]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, stem",
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm4-80gb"),
        ("Intel(R) Xeon(R) Gold 6354 CPU @ 3.00GHz", "intel-xeon-gold-6354-cpu-3-00ghz"),
    ],
)
def test_a_result_is_named_after_its_device(name, stem):
    assert file_stem(name) == stem


def test_the_setting_of_waiting_threads_is_told():
    facts = {
        "device": "CPU",
        "cores": 2,
        "load_at_start": 0.04,
        "python": "3.11",
        "versions": {"torch": "2.13"},
        "threading": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": ""},
    }
    assert re.search(r"load 0\.0 at the start, .*torch 2\.13, OMP_NUM_THREADS=2$", in_words(facts))
    facts["threading"]["OMP_NUM_THREADS"] = ""
    assert in_words(facts).endswith("OpenMP as it comes")
