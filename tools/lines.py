"""Files of one JSON object a line, for programs to read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.whole import whole_file
from tools.console import encodable


def write_lines(path: Path, entries: Iterable[Mapping[str, str]]) -> None:
    """The file is whole or absent. Raises OSError when it cannot be written."""
    with whole_file(path) as file:
        for entry in entries:
            text = {name: encodable(value) for name, value in entry.items()}
            file.write(json.dumps(text, ensure_ascii=False).encode() + b"\n")
