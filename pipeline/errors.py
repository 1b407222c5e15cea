"""What can go wrong with data, each in one line: what, where, why, how to mend."""

from __future__ import annotations

from pathlib import Path


class DataError(Exception):
    """The data set as a whole cannot be used; the program ends with exit code 3."""

    exit_code = 3


class DecoderFailed(DataError):
    """The decoder inside a lane failed, and does not say at which video; `reason` is its word."""

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(
            f"error: the decoder of the graph failed · {reason} · run python -m tools.index again, "
            "or use data.decoder=ffmpeg"
        )


class BadVideo(Exception):
    """One video cannot be used: indexing and training quarantine it, evaluation counts it.

    `code` is one of the E-... codes of the README; `cure` tells the user what to do.
    """

    def __init__(self, code: str, what: str, path: str | Path, cure: str):
        # Four arguments to Exception keep the error picklable across worker processes.
        super().__init__(code, what, str(path), cure)
        self.code, self.what, self.path, self.cure = code, what, str(path), cure

    def __str__(self) -> str:
        return f"error[{self.code}]: {self.what} · {self.path} · {self.cure}"
