"""The message for a name that is not known: it offers the nearest one and lists the rest."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown method 'vidoemoco'; did you mean 'videomoco'? known: cvrl, videomoco`."""
    known = sorted(known)
    nearest = get_close_matches(name, known, n=1)
    hint = f" did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {kind} {name!r};{hint} known: {', '.join(known)}"
