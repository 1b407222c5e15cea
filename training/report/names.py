"""Names of others, as text of a page."""

from __future__ import annotations

import re
from html import escape

# Between the words of a name as ApplyEyeMakeup or brush_hair.
SEAM = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=_)")


def breakable(name: str) -> str:
    """The name, escaped, with places where a narrow column may break it."""
    return "<wbr>".join(escape(part, quote=True) for part in SEAM.split(name))
