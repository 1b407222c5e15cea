"""The samples as one HTML file that moves: no script, no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from tools.console import encodable
from tools.preview.draws import OFF, Facts
from tools.preview.pictures import fitted, pictures, view_color
from tools.preview.samples import Shown, Strip
from tools.preview.wheel import LEGEND, wheel

TEMPLATE = Path(__file__).with_suffix(".html")
PICTURE_LIMIT = 224  # pixels; a view is shown as it is up to here
FILM_PIXELS = 16_000  # WebP ends at 16,383 a side
LOSSLESS_PIXELS = 64  # a view this small is enlarged on the page, and every pixel is seen
WEBP_QUALITY = 85
WHEEL_PIXELS = 144  # for screens of two pixels a point
STILL_LIMIT = 112  # pixels of a picture where the page shows it frame by frame
UNKNOWN_FPS = 25  # how fast a video moves that does not tell its rate


def page(samples: Sequence[Shown], *, title: str, lead: str, stride: int) -> str:
    """HTML with every sample's clips in motion. stride: of the clips, in frames of the video."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_escaped(title),
        lead=_escaped(lead),
        legend=_legend(samples),
        samples="\n".join(_card(shown, stride) for shown in samples),
    )


def _legend(samples: Sequence[Shown]) -> str:
    """The colour wheel and what it tells, where there is flow."""
    if not any(strip.in_wheel_colors for shown in samples for strip in shown.strips):
        return ""
    address = _webp([wheel(WHEEL_PIXELS)], lossless=True)
    return (
        f'<p class="note wheel"><i style="background-image:url({address})"></i>'
        f"{_escaped(LEGEND)}</p>"
    )


def _card(shown: Shown, stride: int) -> str:
    milliseconds = 1000 * stride / float(shown.video.fps or UNKNOWN_FPS)
    films = [_Film(n, strip, milliseconds) for n, strip in enumerate(shown.strips)]
    addresses = "".join(f"--film-{film.number}:url({film.address});" for film in films)
    replaced = "".join(f'<p class="bad">in place of {_escaped(r)}</p>' for r in shown.replaced)
    where = " · ".join(f"{_escaped(key)} {_escaped(value)}" for key, value in shown.facts.items())
    return (
        f'<article style="{addresses}"><header><h2>{_escaped(shown.video.key)}</h2>'
        f'<p class="label">{_escaped(shown.label)}</p><p class="where">{where}</p>{replaced}'
        f'</header><div class="clips">{"".join(film.moving() for film in films)}</div>'
        f"<details><summary>Frame by frame</summary>{''.join(film.still() for film in films)}"
        "</details></article>"
    )


class _Film:
    """A strip as one picture, its frames side by side, which a style moves along."""

    def __init__(self, number: int, strip: Strip, milliseconds: float):
        self.number, self.strip, self.count = number, strip, len(strip.frames)
        longest = max(strip.frames.shape[1:3])
        limit = max(1, min(PICTURE_LIMIT, FILM_PIXELS // self.count))
        # The page enlarges views; the source is enlarged here, so that outlines stay thin.
        images = pictures(strip, limit if strip.boxes else min(limit, longest))
        self.width, self.height = images[0].size
        self.small = longest <= LOSSLESS_PIXELS
        self.seconds = milliseconds * self.count / 1000
        self.address = _webp(images, lossless=self.small)

    def moving(self) -> str:
        return (
            f'<figure style="{self._style()}"><div class="{self._class("clip")}" role="img" '
            f'aria-label="{self._alt("moving")}"></div>'
            f"<figcaption><h3>{self._name()}</h3>{_list(self.strip.facts)}</figcaption></figure>"
        )

    def still(self) -> str:
        numbers = "".join(f"<li>{number}</li>" for number in self.strip.numbers)
        return (
            f'<h3>{self._name()}</h3><div class="scroll" tabindex="0" role="region" '
            f'aria-label="{self._alt("frame by frame")}"><div class="still" '
            f'style="{self._style()}"><div class="{self._class("film")}"></div>'
            f"<ol>{numbers}</ol></div></div>"
        )

    def _class(self, name: str) -> str:
        return name + " small" * self.small + " moves" * (self.count > 1)

    def _style(self) -> str:
        across, _ = fitted(self.width, self.height, STILL_LIMIT)
        return (
            f"--film:var(--film-{self.number});--frames:{self.count};--across:{across}px;"
            f"--shape:{self.width}/{self.height};--seconds:{self.seconds:.3f}s"
        )

    def _name(self) -> str:
        view = self.strip.view
        swatch = "" if view is None else f'<i style="background:{view_color(view)}"></i>'
        return swatch + _escaped(self.strip.name)

    def _alt(self, how: str) -> str:
        return f"{_escaped(self.strip.name)}, {how}"


def _list(facts: Facts) -> str:
    return f"<dl>{''.join(_fact(key, value) for key, value in facts.items())}</dl>"


def _fact(key: str, value: str) -> str:
    kind = ' class="off"' if value == OFF else ""
    return f"<dt>{_escaped(key)}</dt><dd{kind}>{_escaped(value)}</dd>"


def _webp(images: Sequence[Image.Image], *, lossless: bool) -> str:
    """A data address of the pictures side by side."""
    width, height = images[0].size
    film = Image.new(images[0].mode, (width * len(images), height))
    for number, image in enumerate(images):
        film.paste(image, (number * width, 0))
    file = io.BytesIO()
    film.save(file, "WEBP", lossless=lossless, quality=WEBP_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _escaped(text: str) -> str:
    return escape(encodable(text), quote=True)
