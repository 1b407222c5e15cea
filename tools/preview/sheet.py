"""The samples as one PNG: a card for each, a row for each strip, the draw beside its pictures."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.preview.draws import OFF, Facts
from tools.preview.pictures import fitted, pictures, view_color
from tools.preview.samples import Shown, Strip
from tools.preview.wheel import LEGEND, wheel

PAGE, PANEL, INK, SOFT, RULE = "#fbfaf8", "#ffffff", "#1d2026", "#5d636e", "#e4e1db"
WARNING = "#b3372b"
MARGIN, PADDING, GAP, ROW_GAP = 40, 22, 4, 20
WHEEL, WHEEL_GAP = 64, 16
TEXT_WIDTH, KEY_WIDTH, LEAST_WIDTH = 330, 72, 1080
PICTURE_LIMIT, AREA_WIDTH, COLUMNS = 128, 1408, 12  # 12 pictures of 113 pixels fill a line
MOST_SIGNS = 1000  # in a line: more never fit
TITLE, HEAD, NAME, BODY, SMALL = 34, 21, 17, 15, 13
LEADING = 1.42
NOTE = (
    "An outline shows what the view of its colour cuts out; below each picture is the number of "
    "its frame. A crop is width x height at left, top, and its share of the picture. A jitter of "
    "0.90 v + 12 makes that of every level v from 0 to 255."
)
# The one font that comes with Pillow, the same everywhere, has few signs; names of files may have
# any, and are shown with escapes.
SPELLED = str.maketrans({"×": "x", "−": "-"})


def sheet(samples: Sequence[Shown], *, title: str, lead: str) -> Image.Image:
    """RGB picture of all samples; equal samples give equal pixels."""
    views = [strip for shown in samples for strip in shown.strips if _whole(strip)]
    columns = max(_columns(len(view.frames)) for view in views)
    limit = min(PICTURE_LIMIT, (AREA_WIDTH + GAP) // columns - GAP)
    limit = max(max(fitted(*view.frames.shape[2:0:-1], limit)) for view in views)
    area = columns * (limit + GAP) - GAP
    width = max(LEAST_WIDTH, TEXT_WIDTH + area + 2 * PADDING)
    words = [_text(title, TITLE, INK, width, on=PAGE)]
    words += [_text(line, BODY, SOFT, width, on=PAGE) for line in (lead, NOTE)]
    if any(strip.in_wheel_colors for shown in samples for strip in shown.strips):
        words += [8, _legend(width)]
    cards = [part for s in samples for part in (18, _card(s, columns, limit, width))]
    page = _stacked([words[0], 4, *words[1:], 6, *cards], on=PAGE)
    return _framed(page, MARGIN, PAGE, size=(width + 2 * MARGIN, page.height + 2 * MARGIN))


def thinned(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def readable(text: str) -> str:
    """Text in signs that the font has; any other one becomes its escape."""
    spelled = text.translate(SPELLED)
    return "".join(c if _has_glyph(c) else ascii(c)[1:-1] for c in spelled)


def _legend(width: int) -> Image.Image:
    """The colour wheel beside what it tells."""
    words = _text(LEGEND, BODY, SOFT, width - WHEEL - WHEEL_GAP, on=PAGE)
    image = Image.new("RGB", (width, max(WHEEL, words.height)), PAGE)
    disc = wheel(WHEEL)
    image.paste(disc, (0, (image.height - WHEEL) // 2), disc)
    image.paste(words, (WHEEL + WHEEL_GAP, (image.height - words.height) // 2))
    return image


def _whole(strip: Strip) -> bool:
    """Views are shown with all their frames; of the source, what fits in one line."""
    return strip.view is not None


def _columns(count: int) -> int:
    """Pictures in a line when `count` are cut into the fewest lines, all about equally long."""
    lines = -(-count // COLUMNS)
    return -(-count // lines)


def _card(shown: Shown, columns: int, limit: int, width: int) -> Image.Image:
    inner = width - 2 * PADDING
    parts = [_heading(shown, inner), 14]
    for what in shown.replaced:
        parts += [_text(f"in place of {what}", SMALL, WARNING, inner), 8]
    for strip in shown.strips:
        parts += [_row(strip, columns, limit), ROW_GAP]
    content = _stacked(parts[:-1])
    card = _framed(content, PADDING, PANEL, size=(width, content.height + 2 * PADDING))
    ImageDraw.Draw(card).rectangle((0, 0, card.width - 1, card.height - 1), outline=RULE)
    return card


def _heading(shown: Shown, width: int) -> Image.Image:
    """Name and class of the video, then where the sample stands in the run."""
    where = " · ".join(f"{key} {value}" for key, value in shown.facts.items())
    name = _text(_shortened(readable(shown.video.key), HEAD, width), HEAD, INK, width)
    label = _text(_shortened(readable(shown.label), BODY, width), BODY, INK, width)
    return _stacked([name, 2, label, _text(where, BODY, SOFT, width)])


def _row(strip: Strip, columns: int, limit: int) -> Image.Image:
    chosen = range(len(strip.frames)) if _whole(strip) else thinned(len(strip.frames), columns)
    words, images = _words(strip), _pictures(strip, list(chosen), columns, limit)
    row = Image.new("RGB", (TEXT_WIDTH + images.width, max(words.height, images.height)), PANEL)
    row.paste(words, (0, 0))
    row.paste(images, (TEXT_WIDTH, 0))
    return row


def _words(strip: Strip) -> Image.Image:
    """The strip's name behind a swatch of its colour, and its facts below."""
    width = TEXT_WIDTH - 20
    name = Image.new("RGB", (width, _line(NAME)), PANEL)
    draw = ImageDraw.Draw(name)
    left = 0
    if strip.view is not None:
        draw.rectangle((0, 5, 11, 16), fill=view_color(strip.view))
        left = 20
    draw.text((left, 0), readable(strip.name), fill=INK, font=_font(NAME))
    return _stacked([name, 3, _facts(strip.facts, width)])


def _facts(facts: Facts, width: int) -> Image.Image:
    lines = []
    for key, value in facts.items():
        words = _text(value, SMALL, SOFT if value == OFF else INK, width - KEY_WIDTH)
        line = Image.new("RGB", (width, words.height), PANEL)
        line.paste(_text(key, SMALL, SOFT, KEY_WIDTH), (0, 0))
        line.paste(words, (KEY_WIDTH, 0))
        lines.append(line)
    return _stacked(lines)


def _pictures(strip: Strip, chosen: list[int], columns: int, limit: int) -> Image.Image:
    """The chosen pictures in lines, each with the number of its frame below."""
    images = pictures(strip, limit, chosen)
    across, down = limit + GAP, images[0].height + _line(SMALL) + GAP
    lines = -(-len(images) // columns)
    area = Image.new("RGB", (columns * across - GAP, lines * down - GAP), PANEL)
    draw = ImageDraw.Draw(area)
    for place, (image, n) in enumerate(zip(images, chosen, strict=True)):
        left, top = place % columns * across, place // columns * down
        area.paste(image, (left, top))
        middle = left + image.width / 2
        number = str(strip.numbers[n])
        below = (middle, top + image.height + 2)
        draw.text(below, number, fill=SOFT, font=_font(SMALL), anchor="ma")
    return area


# Text and composition


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


@cache
def _has_glyph(character: str) -> bool:
    if character == " ":
        return True
    missing, own = (_font(BODY).getmask(c) for c in ("\uffff", character))
    return (own.size, bytes(own)) != (missing.size, bytes(missing)) and bool(bytes(own))


def _line(size: int) -> int:
    return round(size * LEADING)


def _text(text: str, size: int, color: str, width: int, *, on: str = PANEL) -> Image.Image:
    """Text broken into lines of at most `width` pixels."""
    lines = _broken(readable(text), size, width)
    image = Image.new("RGB", (width, _line(size) * len(lines)), on)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((0, number * _line(size)), line, fill=color, font=_font(size))
    return image


def _broken(text: str, size: int, width: int) -> list[str]:
    font, lines = _font(size), [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_shortened(line, size, width) for line in lines]


def _shortened(text: str, size: int, width: int) -> str:
    """The text without its middle where it is too long: both ends of a path tell something."""

    def cut(kept: int) -> str:
        return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"

    font = _font(size)
    if font.getlength(text[:MOST_SIGNS]) <= width and len(text) <= MOST_SIGNS:
        return text
    most = min(len(text), MOST_SIGNS)
    fits = bisect.bisect(range(most), width, key=lambda kept: font.getlength(cut(kept)))
    return cut(max(0, fits - 1))


def _stacked(parts: Sequence[Image.Image | int], *, on: str = PANEL) -> Image.Image:
    """Pictures one below the other; a number is that many empty pixels."""
    heights = [part if isinstance(part, int) else part.height for part in parts]
    width = max(part.width for part in parts if not isinstance(part, int))
    image = Image.new("RGB", (width, sum(heights)), on)
    top = 0
    for part, height in zip(parts, heights, strict=True):
        if not isinstance(part, int):
            image.paste(part, (0, top))
        top += height
    return image


def _framed(content: Image.Image, space: int, color: str, *, size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, color)
    image.paste(content, (space, space))
    return image
