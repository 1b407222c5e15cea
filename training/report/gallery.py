"""Test videos beside the training videos that an encoder finds nearest, as moving pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch

from pipeline import Manifest
from training.features import Features
from training.protocols import nearest
from training.report.names import breakable
from training.report.pictures import Pictures, spread

QUERIES, NEIGHBOURS = 12, 5
STAND_STILL = (
    '<input type="checkbox" id="still"><label for="still">Let the pictures stand still</label>'
)


@dataclass(frozen=True)
class Searched:
    """Features of the two sets by one encoder. name: how the gallery calls it."""

    name: str
    test: Features
    train: Features


def gallery(
    encoders: Sequence[Searched], *, train: Manifest, test: Manifest, pictures: Pictures
) -> str:
    """HTML: one figure for each query, in it one row of neighbours for each encoder; and a box to
    let the pictures stand still.
    """
    shared = [set(encoder.test.index.tolist()) for encoder in encoders]
    queries = spread(encoders[0].test, set.intersection(*shared), QUERIES)
    found = [neighbours(encoder, queries) for encoder in encoders]
    figures = []
    for number, query in enumerate(queries):
        rows = [
            _row(encoder.name, one[number], query, train=train, test=test, pictures=pictures)
            for encoder, one in zip(encoders, found, strict=True)
        ]
        figures.append(_figure(test, query, rows, pictures))
    return f'{STAND_STILL}<div class="gallery">{"".join(figures)}</div>'


def neighbours(encoder: Searched, queries: list[int]) -> list[list[int]]:
    """For each query the manifest rows of the nearest training videos, best first."""
    place = {int(row): n for n, row in enumerate(encoder.test.index)}
    query = encoder.test.feature[torch.tensor([place[row] for row in queries])]
    k = min(NEIGHBOURS, len(encoder.train.index))
    return encoder.train.index[nearest(query, encoder.train.feature, k)].tolist()


def _row(name: str, found: list[int], query: int, *, train, test, pictures) -> str:
    label = test[query].label
    right = sum(train[row].label == label for row in found)
    items = "".join(_neighbour(train, row, label, pictures) for row in found)
    return (
        f'<h4>{escape(name)} <span class="count">{right} of {len(found)} right</span></h4>'
        f'<ol class="found">{items}</ol>'
    )


def _neighbour(train: Manifest, row: int, label: int, pictures: Pictures) -> str:
    """A picture with the name of its class, marked by colour, outline, sign and words."""
    own = train[row].label
    kind, sign, words = (
        ("right", "✓", "the query's class") if own == label else ("wrong", "✗", "another class")
    )
    name = train.classes[own]
    picture = pictures(train, row, alt=f"training video of {name}, {words}")
    text = escape(name, quote=True)
    return (
        f'<li class="{kind}">{picture}<b aria-hidden="true">{sign}</b>'
        f'<span class="name" title="{text}">{breakable(name)}</span></li>'
    )


def _figure(test: Manifest, query: int, rows: list[str], pictures: Pictures) -> str:
    name = test.classes[test[query].label]
    picture = pictures(test, query, alt=f"query: test video of {name}")
    content = "".join(rows)
    return (
        f"<figure><figcaption>{picture}<h3>{breakable(name)}</h3><p>test video</p></figcaption>"
        f'<div class="answers">{content}</div></figure>'
    )
