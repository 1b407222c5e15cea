"""The page shows every figure that the JSON has, and whatever names it is given are only text."""

from __future__ import annotations

import json
import re

import pytest
from rich.console import Console

from tests.reports import EVIL, Page
from tools.benchmark.bars import bars
from tools.benchmark.measure import Comparison, Limit
from tools.benchmark.record import Record
from tools.benchmark.workings import Figure, Workings


@pytest.fixture
def comparison() -> Comparison:
    """Ours does 40 clips a second, a rival of an odd name 10."""
    return Comparison(
        f"Clips {EVIL}",
        "clips",
        goals={EVIL: 5.0},
        rates={"Kinema": [30.0, 40.0, 50.0], EVIL: [10.0, 10.0, 10.0]},
        facts={"Kinema": {"CPU ms/clip": 3.5}, EVIL: {}},
        limits=[Limit("growth, MB", 20.0, 50.0)],
        left_out={"torchcodec": "not here: <nothing>"},
        series={"open files": [(0, 60.0), (8, 61.0)]},
    )


@pytest.fixture
def record(tmp_path, comparison) -> Record:
    record = Record(tmp_path / "data.json", Console(quiet=True))
    record.add(comparison)
    record.explain(Workings("Bytes", [Figure("sent", 1.5, "MB", "3 x 0.5 MB")], ["taken: <b>"]))
    record.skip("later & more")
    return record


def test_the_page_is_whole_and_names_are_text(record):
    page = Page(record.page)
    words = page.words()
    for text in (EVIL, "not here: <nothing>", "later & more", "taken: <b>", "growth, MB: 20"):
        assert " ".join(text.split()) in words, text
    assert not page.all("script") and page.all("svg", "wide")[0]["aria-label"].startswith("Clips <")
    assert not re.search(r"""(src|href)=|url\(|@import""", record.page.read_text())


def test_every_cell_of_the_terminal_is_there(record):
    words = Page(record.page).words()
    for cell in ("40 (34, 46)", "10 (10, 10)", "4 (3.4, 4.6)", "5 MISSED", "3.5", "3 rounds"):
        assert cell in words, cell
    assert "1 of 2 goals are reached" in words
    assert "1.5 MB" in words and "3 x 0.5 MB" in words


def test_it_says_what_was_measured_on_and_how(record):
    content, words = json.loads(record.path.read_text()), Page(record.page).words()
    for value in (content["command"], content["device"], content["versions"]["torch"]):
        assert " ".join(value.split()) in words
    assert content["workings"][0]["figures"][0]["how"] == "3 x 0.5 MB"


def test_goals_are_marked(record):
    kinds = [one["class"] for one in Page(record.page).all("li") if "class" in one]
    assert kinds == ["missed", "reached"]


def test_bars_are_as_long_as_their_medians(comparison):
    wide, narrow = bars(comparison).split("</svg>\n")
    for drawn, width in ((wide, 960), (narrow, 400)):
        ours, theirs = (float(w) for w in re.findall(r'<rect [^>]*? width="([\d.]+)"', drawn))
        assert ours == pytest.approx(4 * theirs, rel=1e-2) and ours < width
        start, _, end = (
            float(x) for x in re.findall(r'"M([\d.]+) .*?M([\d.]+) .*?H([\d.]+)', drawn)[0]
        )
        assert (start / ours, end / ours) == pytest.approx((34 / 40, 46 / 40), rel=1e-2)
    assert 'class="wide rates"' in wide and 'class="narrow rates"' in narrow


def test_bars_in_milliseconds_are_short_where_fast(comparison):
    comparison.timed = True
    ours, theirs = re.findall(r'<rect [^>]*? width="([\d.]+)"', bars(comparison))[:2]
    assert float(theirs) > 3 * float(ours)


def test_sides_that_are_no_rivals_have_no_ratio(record, comparison):
    comparison.apart, comparison.goals = True, {}
    record.add(comparison)
    plain = comparison.plain()
    assert "ratio" not in plain["sides"][EVIL]
    assert Comparison.of_plain(json.loads(json.dumps(plain))) == comparison
    assert bars(comparison).count('class="ours"') == 0


def test_a_series_is_drawn(record):
    (label,) = [one["aria-label"] for one in Page(record.page).all("svg", "small")]
    assert "open files" in label
