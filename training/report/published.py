"""Published numbers of the data set and protocol of a result: training/published.yaml."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

FILE = Path(__file__).parents[1] / "published.yaml"


@dataclass(frozen=True)
class Published:
    """values: in per cent, by measure. what: network and training. source: who says so."""

    method: str
    what: str
    values: dict[str, float]
    source: str


def data_set(classes: Sequence[str]) -> str:
    """The key of the data set with these classes; empty where it is none of them.

    Names are compared without case and signs: every copy of a list writes them in its own way.
    """
    names = {_plain(name) for name in classes}
    for key, known in _file()["data_sets"].items():
        if len(classes) == known["classes"] and {_plain(n) for n in known["among"]} <= names:
            return key
    return ""


def title(key: str) -> str:
    """The data set's name."""
    return _file()["data_sets"][key]["name"]


def published(protocol: str, key: str) -> list[Published]:
    """What is known for a protocol on the data set `key`."""
    content = _file()
    return [
        Published(row["method"], row["what"], row["values"], content["sources"][row["source"]])
        for row in content["results"]
        if (row["protocol"], row["data"]) == (protocol, key)
    ]


@cache
def _file() -> dict:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
