"""What ends a tool: one line, and the exit code that train.py has for the same."""

import argparse
import errno
import os

import pytest

from pipeline.errors import DataError
from tools.console import exit_code_of
from tools.lines import write_lines
from training.errors import CheckpointError


def ended(error, **options) -> int:
    """The exit code of a tool that raises `error`."""

    def program(arguments):
        raise error

    debug = options.pop("debug", False)
    words = {"output": "out.png", "interrupted": "nothing was written"}
    return exit_code_of(program, argparse.Namespace(debug=debug), **words, **options)


FULL = "error[E-DISK]: {} · {} · free some space and give the same command again"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("error: a\x1b[31m · b · c"), 3, r"error: a\x1b[31m · b · c"),
        (CheckpointError("error: a · b · c"), 4, "error: a · b · c"),
        (KeyboardInterrupt(), 130, "interrupted: nothing was written"),
        (
            PermissionError(errno.EACCES, "Permission denied", "x.json"), 2,
            "error: Permission denied · x.json · check path and permissions",
        ),
        (OSError("odd"), 2, "error: odd · out.png · check path and permissions"),
        *(
            (OSError(full, os.strerror(full)), 2, FULL.format(os.strerror(full), "out.png"))
            for full in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        ),
        (OSError(errno.ENOSPC, "full", "x"), 2, FULL.format("full", "x")),
        (ValueError("size: -1"), 2, "error: size: -1 · --debug shows where"),
        (
            ImportError("No module named 'x'"), 2,
            "error: No module named 'x' · a library is missing or broken · python -m tools.doctor",
        ),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_an_exit_code(capsys, error, code, line):
    assert ended(error, errors=(CheckpointError, ValueError, ImportError)) == code
    assert capsys.readouterr() == ("", f"{line}\n")


def test_where_the_same_command_continues_its_line_says_so(capsys):
    assert ended(OSError(errno.ENOSPC, "full"), continues=True) == 2
    assert capsys.readouterr().err == f"{FULL.format('full', 'out.png')}: it continues\n"
    assert ended(OSError("odd"), continues=True) == 2
    assert "continues" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [DataError("a"), OSError("b"), CheckpointError("c")])
def test_debug_lets_errors_through(error):
    with pytest.raises(type(error)) as caught:
        ended(error, errors=(CheckpointError,), debug=True)
    assert caught.value is error


@pytest.mark.parametrize("error", [ValueError(), CheckpointError(), ZeroDivisionError()])
def test_what_a_tool_does_not_name_is_its_own_mistake(error):
    with pytest.raises(type(error)):
        ended(error)


def test_without_an_error_the_code_is_the_programs():
    words = {"output": "", "interrupted": ""}
    arguments = argparse.Namespace(code=7)
    assert exit_code_of(lambda given: given.code, arguments, **words) == 7


def test_lines_hold_any_file_name(tmp_path):
    write_lines(tmp_path / "l", [{"path": "é"}, {"path": os.fsdecode(b"CAF\xe9"), "key": 'a"\n'}])
    lines = ['{"path": "é"}', r'{"path": "CAF\\xe9", "key": "a\"\n"}']
    assert (tmp_path / "l").read_text("utf-8").splitlines() == lines
