"""One method per file; the file's name is the method's name everywhere else.

A method's file defines `Config`, a frozen dataclass of its options, and
`build(backbone, config, *, frames, size) -> Method`. Files that begin with an underscore are not
methods. Nothing has to be registered.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from models.lookup import unknown

__all__ = ["load", "names"]


def names() -> list[str]:
    """The methods of this folder, sorted."""
    return sorted(module.name for module in iter_modules(__path__) if module.name[0] != "_")


def load(name: str) -> ModuleType:
    """The module of a method. Raises ValueError for a name that has no file here."""
    if name not in names():
        raise ValueError(unknown("method", name, names()))
    return import_module(f"{__name__}.{name}")
