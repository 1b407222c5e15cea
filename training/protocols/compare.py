"""Two results of one protocol beside each other."""

from __future__ import annotations

from typing import Any

from training.config import differences
from training.errors import ConfigError
from training.protocols.record import INTERVALS

PARTS = ("train", "test")
OF_A_SET = ("fingerprint", "split", "sampling", "clips", "step", "seed")


def table(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Shares of both in per cent, their intervals, and the difference in points.

    Raises ConfigError naming what differs in the protocol: such figures say nothing of each other.
    """
    different = differences(protocol_of(one), protocol_of(other))
    if different:
        raise ConfigError(
            f"error: the protocols differ in {', '.join(different)} · "
            f"{'; '.join(f'{_short(a)} and {_short(b)}' for a, b in different.values())} · "
            "measure both with the same options and manifests"
        )
    lines = [f"A: {one['checkpoint']}", f"B: {other['checkpoint']}"]
    lines.append(f"{'':12}{'A':>22}{'B':>22}{'B - A':>9}")
    for name in one["chance"]:
        difference = 100 * (other["result"][name] - one["result"][name])
        lines.append(f"{name:<12}{_cell(one, name):>22}{_cell(other, name):>22}{difference:>+9.1f}")
    counts = [_counts(content) for content in (one, other)]
    lines.append(f"{'test videos':<12}{counts[0]:>22}{counts[1]:>22}")
    return "\n".join(lines)


def protocol_of(content: dict[str, Any]) -> dict[str, Any]:
    """What two comparable results have in common.

    A stream is no part of the protocol, nor is what made its flow.
    """
    views = content["views"] if isinstance(content["views"], list) else [content["views"]]
    plain = [{k: v for k, v in view.items() if k not in ("stream", "flow")} for view in views]
    sets = {
        part: [{name: one.get(name) for name in OF_A_SET} for one in _listed(content[part])]
        for part in PARTS
    }
    return {
        "protocol": content["protocol"],
        "options": content["options"],
        "views": [view for n, view in enumerate(plain) if view not in plain[:n]],
        "classes": content["classes"],
        "joined": [one["options"] for one in content.get("joined", [])],
        **sets,
    }


def _cell(content: dict[str, Any], name: str) -> str:
    share = f"{100 * content['result'][name]:.1f} %"
    if interval := content.get(INTERVALS):
        low, high = (100 * end for end in interval[name])
        share += f" ({low:.1f} to {high:.1f})"
    return share


def _counts(content: dict[str, Any]) -> str:
    sets = _listed(content["test"])
    return " + ".join(f"{one['evaluated']}/{one['of']}" for one in sets)


def _listed(one: Any) -> list:
    """The sets of all splits; of a single one there is no list."""
    return one if isinstance(one, list) else [one]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
