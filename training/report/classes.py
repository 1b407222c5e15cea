"""Class by class: which are found, and what the others are taken for."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from training.report.evaluation import Answers
from training.report.names import breakable

MOST_IN_TABLE = 24  # classes; the matrix of more is a picture, without names
BARS_AT_EACH_END = 12  # of more classes, the worst and the best
PAIRS = 10
RIGHT, WRONG = (38, 148, 84), (214, 69, 52)  # of the picture, readable on light and on dark


@dataclass(frozen=True)
class Pair:
    """videos of `of` of class `true` are taken for class `given`."""

    true: int
    given: int
    videos: int
    of: int


def confusion(answers: Answers) -> np.ndarray:
    """[classes, classes] int: test videos by true class (row) and answered class (column)."""
    count = len(answers.classes)
    flat = np.bincount(answers.label * count + answers.given, minlength=count * count)
    return flat.reshape(count, count)


def worst_pairs(matrix: np.ndarray) -> list[Pair]:
    """The most frequent confusions, at most PAIRS; of equal counts, those of the smaller class."""
    of = matrix.sum(1)
    pairs = [
        Pair(int(a), int(b), int(matrix[a, b]), int(of[a]))
        for a, b in zip(*matrix.nonzero(), strict=True)
        if a != b
    ]
    return sorted(pairs, key=lambda p: (-p.videos, p.of, p.true, p.given))[:PAIRS]


def section(answers: Answers) -> str:
    """Matrix, bars and pairs."""
    matrix = confusion(answers)
    small = len(answers.classes) <= MOST_IN_TABLE
    drawn = _table(matrix, answers.classes) if small else _picture(matrix)
    return (
        f'<div class="columns even classes"><div><h3>Confusion</h3>{drawn}'
        '<p class="note">Row: the true class. Column: the answer.</p></div>'
        f"<div><h3>Right, by class</h3>{bars(matrix, answers.classes)}</div></div>"
        f"<h3>Most confused</h3>{pairs(matrix, answers.classes)}"
    )


def bars(matrix: np.ndarray, classes: list[str]) -> str:
    """The share of each class's test videos that is answered rightly, best first."""
    of = matrix.sum(1)
    rows = [c for c in np.argsort(-matrix.diagonal() / np.maximum(of, 1), kind="stable") if of[c]]
    left_out = len(rows) - 2 * BARS_AT_EACH_END
    if len(classes) > MOST_IN_TABLE and left_out > 0:
        rows = [*rows[:BARS_AT_EACH_END], *rows[-BARS_AT_EACH_END:]]
    items = [_bar(classes[c], int(matrix[c, c]), int(of[c])) for c in rows]
    if len(rows) < np.count_nonzero(of):
        items.insert(BARS_AT_EACH_END, f'<li class="left-out">{left_out} classes between</li>')
    return f'<ul class="bars">{"".join(items)}</ul>'


def pairs(matrix: np.ndarray, classes: list[str]) -> str:
    found = worst_pairs(matrix)
    if not found:
        return '<p class="note">No test video is taken for another class.</p>'
    items = "".join(
        f"<li><b>{escape(classes[p.true])}</b> taken for <b>{escape(classes[p.given])}</b> "
        f"<small>{p.videos} of {p.of} videos</small></li>"
        for p in found
    )
    return f'<ol class="pairs">{items}</ol>'


def _bar(name: str, right: int, of: int) -> str:
    percent, text = 100 * right / of, escape(name, quote=True)
    return (
        f'<li><span class="name" title="{text}">{breakable(name)}</span><span class="track">'
        f'<span style="width:{percent:.1f}%"></span></span>'
        f"<small>{percent:.0f} % of {of}</small></li>"
    )


def _table(matrix: np.ndarray, classes: list[str]) -> str:
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in classes)
    lines = [f"<thead><tr><td></td>{head}</tr></thead><tbody>"]
    for row, name in enumerate(classes):
        cells = "".join(_cell(matrix, row, column, classes) for column in range(len(classes)))
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    where = 'class="scroll" tabindex="0" role="region" aria-label="Confusion matrix"'
    return f'<div {where}><table class="confusion">{"".join(lines)}</tbody></table></div>'


def _cell(matrix: np.ndarray, row: int, column: int, classes: list[str]) -> str:
    count, of = int(matrix[row, column]), int(matrix[row].sum())
    if not count:
        return "<td></td>"
    kind = "right" if row == column else "wrong"
    words = escape(f"{classes[row]} taken for {classes[column]}: {count} of {of}", quote=True)
    return f'<td class="{kind}" style="--share:{count / of:.3f}" title="{words}">{count}</td>'


def _picture(matrix: np.ndarray) -> str:
    """One pixel a cell, more opaque for a larger share of the row's videos."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    pixels = np.empty((*matrix.shape, 4), np.uint8)
    pixels[..., :3] = np.where(np.eye(len(matrix), dtype=bool)[..., None], RIGHT, WRONG)
    pixels[..., 3] = np.round(255 * np.sqrt(share))  # the root, so that single videos are seen
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    label = f"Confusion matrix of {len(matrix)} classes, in their order"
    return f'<img class="matrix" src="data:image/png;base64,{data}" alt="{label}">'
