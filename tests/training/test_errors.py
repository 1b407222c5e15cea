"""How a program ends: errors as one line and an exit code, tracebacks only when asked for."""

from __future__ import annotations

from argparse import Namespace

import pytest

from pipeline import DataError
from training import errors
from training.errors import exit_code_of


def ending(error: BaseException):
    def program(args: Namespace) -> int:
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.ConfigError("error: a · b"), 2, "error: a · b\n"),
        (DataError("error: a · b"), 3, "error: a · b\n"),
        (errors.CheckpointError("error: a · b"), 4, "error: a · b\n"),
        (errors.NumericError("error: a · b"), 5, "error: a · b\n"),
        (errors.DistributedError("error: a · b"), 6, "error: a · b\n"),
        (ValueError("x: 3"), 2, "error: x: 3 · --debug shows where\n"),
        (
            ModuleNotFoundError("No module named 'nvidia'"),
            2,
            "error: No module named 'nvidia' · a library is missing or broken · "
            "python -m tools.doctor\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error, code, line, capsys):
    assert exit_code_of(ending(error), Namespace(debug=False)) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    "error", [errors.NumericError("a"), DataError("a"), ValueError("a"), ImportError("a")]
)
def test_debug_lets_errors_through(error, capsys):
    with pytest.raises(type(error)) as caught:
        exit_code_of(ending(error), Namespace(debug=True))
    assert caught.value is error and capsys.readouterr() == ("", "")


def test_what_nobody_foresaw_has_a_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code_of(ending(ZeroDivisionError()), Namespace(debug=False))


def test_the_program_gets_its_arguments_and_says_its_exit_code():
    args = Namespace(debug=False, code=7)
    assert exit_code_of(lambda given: given.code, args) == 7
