"""Data sets and networks that published numbers are of: training/published.yaml."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

FILE = Path(__file__).parents[1] / "published.yaml"


def data_set(classes: Sequence[str]) -> str:
    """The key of the data set with these classes; empty where it is none of them.

    Names are compared without case and signs: every copy of a list writes them in its own way.
    """
    names = {_plain(name) for name in classes}
    for key, known in content_of_file()["data_sets"].items():
        if len(classes) == known["classes"] and {_plain(n) for n in known["among"]} <= names:
            return key
    return ""


def title(key: str) -> str:
    """The data set's name."""
    return content_of_file()["data_sets"][key]["name"]


@cache
def content_of_file() -> dict:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
