from tools import progress


def test_lines_now_and_then_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_SECONDS", -1.0)
    with progress.progress(3, "probed") as shown:
        assert list(shown("abc")) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == ["probed 1/3", "probed 2/3", "probed 3/3"]


def test_short_runs_say_nothing(capsys):
    with progress.progress(3, "probed") as shown:
        assert list(shown("abc")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
