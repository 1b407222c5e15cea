"""What one look at the machine found, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

OK, OFF, LOW, STOP = "ok", "off", "low", "stop"


@dataclass(frozen=True)
class Finding:
    """level: ok; off, something is missing and switches `effect` off; low, a limit that is too
    small, `effect` says for what; stop, training cannot run. data: the same as plain numbers.
    """

    name: str
    level: str
    value: str
    effect: str = ""
    cure: str = ""
    data: dict = field(default_factory=dict)

    def plain(self) -> dict:
        return asdict(self)


def checked(name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What `look` finds. A look that fails is a finding too: nothing here may end the others."""
    try:
        return look()
    except Exception as error:
        value = f"cannot be found out: {reason(error)}"
        return [Finding(name, OFF, value, "this check", "see the message")]


def reason(error: BaseException) -> str:
    """An error in one line, without the paths of a long import chain."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:200]}"


def amount(count: float) -> str:
    """Bytes as 64 MiB or 7.5 GiB."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count / 1024:.0f} KiB"
