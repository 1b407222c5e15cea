"""The report from the command line."""

from __future__ import annotations

import shutil

import pytest

from tests.reports import Page, finished
from tools import report


@pytest.fixture(scope="module")
def work():
    return finished()


def test_a_page_beside_the_run_or_where_asked(work, tmp_path, capsys):
    run, own = work / "run", work / "eval" / "random"
    assert report.main([str(run)]) == 0
    assert capsys.readouterr().out == f"written to {run / 'report.html'}\n"
    assert "Results" not in Page(run / "report.html").words()
    assert report.main([str(run), "--eval", str(own), "-o", str(tmp_path / "x.html")]) == 0
    assert "Results" in Page(tmp_path / "x.html").words()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}"], "error: no run folder: config.yaml is missing · {0} · name the run.dir of a "
                  "training that has begun\n"),
        (["{run}", "--eval", "{0}"], "error: no result of evaluate.py · {0} · name a folder that "
                                     "it wrote with -o\n"),
        (["{run}", "-o", "{0}/none/x.html"], "error: No such file or directory · "
                                             "{0}/none/x.html"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(work, tmp_path, capsys, arguments, message):
    filled = [text.format(tmp_path, run=work / "run") for text in arguments]
    assert report.main(filled) == 2
    said = capsys.readouterr().err
    assert said.startswith(message.format(tmp_path)) and said.count("\n") == 1


def test_results_that_do_not_belong_together(work, tmp_path, capsys):
    own = tmp_path / "own"
    shutil.copytree(work / "eval" / "<b>trained", own)
    text = (own / "linear.json").read_text()
    (own / "linear.json").write_text(text.replace('"digest": "', '"digest": "0'))
    assert report.main([str(work / "run"), "--eval", str(own)]) == 2
    assert "they are not of the linear.json beside them" in capsys.readouterr().err
    (own / "linear.json").write_text(text)
    foreign = work / "eval" / "random" / "features_test.npz"
    (own / "features_test.npz").write_bytes(foreign.read_bytes())
    page = tmp_path / "report.html"
    assert report.main([str(work / "run"), "--eval", str(own), "-o", str(page)]) == 0
    assert "features_test.npz of own is of no result here" in page.read_text()
