"""Two results of one protocol beside each other."""

from __future__ import annotations

from typing import Any

from training.config import differences
from training.errors import ConfigError
from training.protocols.record import INTERVALS, TRAINING, labelled

PARTS = ("train", "test")
OF_A_SET = ("fingerprint", "split", "sampling", "clips", "step", "seed")


def table(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Shares of both in per cent, their intervals, and the difference in points; below, the
    measures that only one of them has: R@50 needs 50 training videos that decode.

    Raises ConfigError naming what differs in the protocol: such figures say nothing of each other.
    """
    if different := unlike(one, other):
        raise ConfigError(
            f"error: the protocols differ in {', '.join(different)} · "
            f"{'; '.join(f'{_short(a)} and {_short(b)}' for a, b in different.values())} · "
            "measure both with the same options and manifests"
        )
    lines = [f"A: {one['checkpoint']}", f"B: {other['checkpoint']}"]
    lines.append(f"{'':12}{'A':>22}{'B':>22}{'B - A':>9}")
    for name in (name for name in one["chance"] if name in other["chance"]):
        difference = 100 * (other["result"][name] - one["result"][name])
        lines.append(f"{name:<12}{_cell(one, name):>22}{_cell(other, name):>22}{difference:>+9.1f}")
    for name, told in (("test videos", _counts), ("labels of", _labelled)):
        if any(cells := [told(content) for content in (one, other)]):
            lines.append(f"{name:<12}{cells[0]:>22}{cells[1]:>22}")
    lines += _only_in("A", one, other) + _only_in("B", other, one)
    lines += _silent("A", one, other) + _silent("B", other, one)
    return "\n".join(lines)


def unlike(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs in the protocols of two results, by name.

    How clips were made for a training counts where both say it: earlier versions did not.
    """
    protocols = [protocol_of(content) for content in (one, other)]
    if TRAINING not in one or TRAINING not in other:
        for protocol in protocols:
            del protocol[TRAINING]
    return differences(*protocols)


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
        TRAINING: content.get(TRAINING, {}),
        "joined": _unlike(content),
        **sets,
    }


def _unlike(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Options and training clips of those joined results that have others than the whole."""
    names = ("options", TRAINING)
    parts = [{name: one.get(name) for name in names} for one in content.get("joined", [])]
    return [part for part in parts if part != {name: content.get(name) for name in names}]


def _cell(content: dict[str, Any], name: str) -> str:
    share = f"{100 * content['result'][name]:.1f} %"
    if interval := content.get(INTERVALS):
        low, high = (100 * end for end in interval[name])
        share += f" ({low:.1f} to {high:.1f})"
    return share


def _counts(content: dict[str, Any]) -> str:
    sets = _listed(content["test"])
    return " + ".join(f"{one['evaluated']}/{one['of']}" for one in sets)


def _labelled(content: dict[str, Any]) -> str:
    return " + ".join(filter(None, map(labelled, _listed(content["train"]))))


def _only_in(name: str, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    missing = [measure for measure in one["chance"] if measure not in other["chance"]]
    return [f"only in {name}: {', '.join(missing)}"] if missing else []


def _silent(name: str, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    is_silent = TRAINING in other and TRAINING not in one
    return [f"{name} does not say how its training clips were made"] if is_silent else []


def _listed(one: Any) -> list:
    """The sets of all splits; of a single one there is no list."""
    return one if isinstance(one, list) else [one]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
