"""The options of every protocol as --help shows them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from training.protocols.views import Views

WIDTH = 88
NOTES = {
    "semi": "(optim as of finetune with solver=sgd, too; linear's is optim.weight_decay=0.0)",
}


def options(kinds: Mapping[str, type]) -> str:
    """Every `eval.*` key with its default, those of all protocols once."""
    common = [field.name for field in fields(Views)]
    paragraphs = [
        "options, each eval.KEY=VALUE, with their defaults, of several words the first "
        "(training/protocols says more):"
    ]
    paragraphs.append(_paragraph("all", _keys(Views())))
    for name, kind in kinds.items():
        own = [key for key in _keys(kind()) if key.split("=")[0] not in common]
        paragraphs.append(_paragraph(name, [*own, *NOTES.get(name, "").split()]))
    return "\n".join(paragraphs)


def _keys(default: Any, prefix: str = "") -> list[str]:
    keys, hints = [], get_type_hints(type(default))
    for field in fields(default):
        value = getattr(default, field.name)
        if get_origin(hints[field.name]) is Literal:
            others = [word for word in get_args(hints[field.name]) if word != value]
            keys.append(f"{prefix}{field.name}={'|'.join([value, *others])}")
        elif is_dataclass(value):
            keys += _keys(value, f"{prefix}{field.name}.")
        else:
            keys.append(f"{prefix}{field.name}={_shown(value)}")
    return keys


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace(" ", "")


def _paragraph(name: str, keys: list[str]) -> str:
    indent = " " * 13
    return textwrap.fill(f"  {name:<11}" + " ".join(keys), WIDTH, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip
