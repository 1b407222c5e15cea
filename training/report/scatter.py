"""The test videos' features in two dimensions, a thumbnail under the pointer; no script.

Each dot is a radio button: one is reached by the tabulator key, all others by the arrows, and on a
touch screen by a tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import torch
from torch import Tensor

from pipeline import Manifest
from training.features import Features
from training.report.pictures import Pictures, spread

POINTS = 300  # at most, each with a thumbnail of about 2 kB
MOST_IN_LEGEND = 24
GOLDEN_ANGLE_DEGREES = 137.508  # between the hues of two classes that follow each other
TSNE_LEAST_POINTS = 10
TSNE_PERPLEXITY = 30.0
ROOM = 4.0  # per cent between the outermost points and the frame


def section(test: Features, manifest: Manifest, pictures: Pictures) -> str:
    """PCA of the features, t-SNE beside it where scikit-learn is installed, and the classes."""
    rows = spread(test, set(test.index.tolist()), POINTS)
    place = {int(row): n for n, row in enumerate(test.index)}
    feature = test.feature[[place[row] for row in rows]]
    position, share = pca(feature)
    maps = [_map(position, f"PCA, {100 * share:.0f} % of the variance", rows, manifest)]
    if (embedded := tsne(feature)) is not None:
        maps.append(_map(embedded, "t-SNE", rows, manifest))
    return (
        f"<style>{_thumbnails(rows, manifest, pictures)}</style>"
        f'<div class="maps">{"".join(maps)}</div>{_legend(manifest, rows)}'
    )


def pca(feature: Tensor) -> tuple[Tensor, float]:
    """[n, 2] on the two directions of the largest variance of [n, D], and its share of the whole.

    Of a direction's two signs, the one whose largest coordinate is positive.
    """
    centered = feature.double() - feature.double().mean(0)
    left, singular, _ = torch.linalg.svd(centered, full_matrices=False)
    position = torch.zeros(len(feature), 2, dtype=torch.float64)
    found = (left * singular)[:, :2]
    largest = found.gather(0, found.abs().argmax(0, keepdim=True))
    position[:, : found.shape[1]] = found * largest.sign()
    variance = singular.square()
    return position, float(variance[:2].sum() / variance.sum().clamp_min(1e-30))


def tsne(feature: Tensor) -> Tensor | None:
    """[n, 2]; None without scikit-learn, and of too few points. The same at every call."""
    if len(feature) < TSNE_LEAST_POINTS:
        return None
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    perplexity = min(TSNE_PERPLEXITY, (len(feature) - 1) / 3)
    model = TSNE(init="pca", perplexity=perplexity, random_state=0)
    return torch.from_numpy(model.fit_transform(feature.numpy()))


def hue(label: int) -> int:
    """Degrees on the colour circle: far apart for neighbouring classes."""
    return round(label * GOLDEN_ANGLE_DEGREES) % 360


def _map(position: Tensor, title: str, rows: Sequence[int], manifest: Manifest) -> str:
    low, high = position.min(0).values, position.max(0).values
    scaled = ROOM + (100 - 2 * ROOM) * (position - low) / (high - low).clamp_min(1e-12)
    group = title.split(",")[0]
    dots = "".join(
        _dot(group, number, float(x), 100 - float(y), manifest, row)
        for number, (row, (x, y)) in enumerate(zip(rows, scaled.tolist(), strict=True))
    )
    label = escape(f"{title} of the features of {len(rows)} test videos, coloured by class")
    return (
        f'<figure class="projection"><figcaption>{escape(title)}</figcaption>'
        f'<div class="map" role="radiogroup" aria-label="{label}">{dots}</div></figure>'
    )


def _dot(group: str, number: int, x: float, y: float, manifest: Manifest, row: int) -> str:
    video = manifest[row]
    name = escape(f"{manifest.classes[video.label]} · {video.key}", quote=True)
    low = " low" if y > 50 else ""
    where = f"--x:{x:.1f};--y:{y:.1f};--hue:{hue(video.label)}"
    button = f'<input type="radio" name="{group}" aria-label="{name}">'
    return f'<label class="dot v{number}{low}" style="{where}" data-name="{name}">{button}</label>'


def _thumbnails(rows: Sequence[int], manifest: Manifest, pictures: Pictures) -> str:
    """A picture for the dots of each video, in both maps; none of those that do not decode now."""
    found = [(number, pictures.still(manifest, row)) for number, row in enumerate(rows)]
    return "".join(f".v{number}{{--picture:url({data})}}" for number, data in found if data)


def _legend(manifest: Manifest, rows: Sequence[int]) -> str:
    labels = sorted({manifest[row].label for row in rows})
    if len(labels) > MOST_IN_LEGEND:
        return f'<p class="note">{len(labels)} classes, a hue each: a dot tells its own.</p>'
    items = "".join(
        f'<li style="--hue:{hue(label)}">{escape(manifest.classes[label])}</li>' for label in labels
    )
    return f'<ul class="legend">{items}</ul>'
