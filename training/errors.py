"""Errors that end the program, each with its exit code and one line that says how to mend it."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable

from pipeline import DataError

EXIT_STOPPED = 75  # stopped by SIGTERM and saved: run the same command again
EXIT_INTERRUPTED = 130  # Ctrl-C; training has saved as well, once there is something to save


class ConfigError(Exception):
    """The command line or the recipe is wrong."""

    exit_code = 2


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, or of another run."""

    exit_code = 4


class NumericError(Exception):
    """A loss or gradient is not finite."""

    exit_code = 5


class DistributedError(Exception):
    """The processes of a run do not fit together."""

    exit_code = 6


ALL = (ConfigError, CheckpointError, NumericError, DistributedError)


def exit_code_of(program: Callable[[Namespace], int], args: Namespace) -> int:
    """Run a program. An error becomes its line on the terminal and its exit code.

    args.debug: let errors through instead, with their tracebacks.
    """
    try:
        return program(args)
    except (DataError, *ALL) as error:
        if args.debug:
            raise
        print(error, file=sys.stderr)
        return error.exit_code
    except ImportError as error:  # DALI, say, which only a GPU needs
        if args.debug:
            raise
        line = f"error: {error} · a library is missing or broken · python -m tools.doctor"
        print(line, file=sys.stderr)
        return ConfigError.exit_code
    except ValueError as error:  # what every part raises for a value that makes no sense there
        if args.debug:
            raise
        print(f"error: {error} · --debug shows where", file=sys.stderr)
        return ConfigError.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
