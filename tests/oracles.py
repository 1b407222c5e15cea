"""The papers' equations as float64 loops, independent of the package; used by tests alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray


def unit(rows: Array) -> Array:
    """Each row divided by its Euclidean length."""
    return np.stack([row / math.sqrt(sum(x * x for x in row)) for row in rows])


def info_nce(
    query: Array,
    key: Array,
    queue: Array,
    temperature: float,
    weight: Array | None = None,
    query_id: Array | None = None,
    queue_id: Array | None = None,
) -> float:
    """MoCo (arXiv 1911.05722), equation 1, with weighted negatives and left-out videos."""
    total = 0.0
    for i in range(len(query)):
        positive = float(np.dot(query[i], key[i])) / temperature
        logits = [positive]
        for j in range(len(queue)):
            if query_id is not None and queue_id[j] != -1 and queue_id[j] == query_id[i]:
                continue
            w = 1.0 if weight is None else float(weight[j])
            logits.append(w * float(np.dot(query[i], queue[j])) / temperature)
        largest = max(logits)
        total += largest + math.log(sum(math.exp(x - largest) for x in logits)) - positive
    return total / len(query)


def info_nce_gradients(
    query: Array,
    key: Array,
    queue: Array,
    temperature: float,
    weight: Array | None = None,
    query_id: Array | None = None,
    queue_id: Array | None = None,
) -> tuple[Array, Array]:
    """d info_nce / d query and d key: softmax of the logits, less one at the positive."""
    by_query, by_key = np.zeros(query.shape), np.zeros(key.shape)
    for i in range(len(query)):
        vectors = [key[i]]
        for j in range(len(queue)):
            if query_id is not None and queue_id[j] != -1 and queue_id[j] == query_id[i]:
                continue
            vectors.append((1.0 if weight is None else float(weight[j])) * queue[j])
        logits = [float(np.dot(query[i], vector)) / temperature for vector in vectors]
        largest = max(logits)
        parts = [math.exp(x - largest) for x in logits]
        mass = sum(parts)
        p = [part / mass for part in parts]
        p[0] -= 1
        by_query[i] = sum(share * vector for share, vector in zip(p, vectors, strict=True))
        by_key[i] = p[0] * query[i]
    scale = temperature * len(query)
    return by_query / scale, by_key / scale


def hard_drop(clip: Array, scores: Array, count: int) -> Array:
    """VideoMoCo: the `count` frames of smallest score become their mean over channels and pixels.

    clip [B, C, T, H, W], scores [B, T].
    """
    out = clip.copy()
    for b in range(len(clip)):
        for t in sorted(range(scores.shape[1]), key=lambda t: scores[b, t])[:count]:
            out[b, :, t] = clip[b, :, t].sum() / clip[b, :, t].size
    return out


def drop_amount_gradient(loss: Callable[[Array], float], clip: Array, dropped: Array) -> Array:
    """d loss / d m_t of x' = x + m (mean - x) at the hard mask `dropped` [B, T], by differences."""
    gradient = np.zeros(dropped.shape)
    step = 1e-5
    for b, t in np.ndindex(*dropped.shape):
        values = []
        for sign in (1.0, -1.0):
            amount = dropped.astype(float)
            amount[b, t] += sign * step
            mixed = clip.copy()
            for i, j in np.ndindex(*dropped.shape):
                mean = clip[i, :, j].mean()
                mixed[i, :, j] += amount[i, j] * (mean - clip[i, :, j])
            values.append(loss(mixed))
        gradient[b, t] = (values[0] - values[1]) / (2 * step)
    return gradient


def shift_gradient(loss: Callable[[Array], float], clip: Array) -> Array:
    """d loss / d s_t of x'_t = x_t + s_t, the rule of VideoMoCo's code, by differences; [B, T]."""
    gradient = np.zeros((clip.shape[0], clip.shape[2]))
    step = 1e-5
    for b, t in np.ndindex(*gradient.shape):
        up, down = clip.copy(), clip.copy()
        up[b, :, t] += step
        down[b, :, t] -= step
        gradient[b, t] = (loss(up) - loss(down)) / (2 * step)
    return gradient


def relaxation_slope(scores: Array, count: int) -> Array:
    """d sigmoid(theta - log s) / d s, theta midway between the count-th and next log s; [B, T]."""
    slope = np.zeros(scores.shape)
    for b in range(len(scores)):
        logs = sorted(math.log(s) for s in scores[b])
        theta = (logs[count - 1] + logs[count]) / 2
        for t, s in enumerate(scores[b]):
            m = 1 / (1 + math.exp(math.log(s) - theta))
            slope[b, t] = -m * (1 - m) / s
    return slope


def differences(loss: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    """The gradient of a scalar function by central differences, entry by entry."""
    gradient = np.zeros(at.shape)
    for position in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[position] += step
        down[position] -= step
        gradient[position] = (loss(up) - loss(down)) / (2 * step)
    return gradient


def distance(query: Array, real: Array) -> float:
    """mean |q - q_real| over batch and coordinates: VideoMoCo's L_G is -100 times this."""
    total = sum(
        abs(a - b) for q, r in zip(query, real, strict=True) for a, b in zip(q, r, strict=True)
    )
    return total / query.size
