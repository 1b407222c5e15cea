"""Errors that end the program, each with its exit code and one line that says how to mend it."""

from __future__ import annotations

EXIT_STOPPED = 75  # stopped by SIGTERM and saved: run the same command again
EXIT_INTERRUPTED = 130  # Ctrl-C, saved as well


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
