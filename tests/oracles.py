"""The papers' equations as float64 loops, independent of the package; used by tests alone."""

from __future__ import annotations

import itertools
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


# VCLR (arXiv 2108.02722); S frames of a tuple


def two_way(query: Array, positive: Array, others: Array, temperature: float) -> float:
    """L_intra: cross-entropy of the positive against one other frame, mean over videos and others.

    query, positive [B, D], others [B, S - 1, D].
    """
    total, count = 0.0, 0
    for i in range(len(query)):
        right = math.exp(float(np.dot(query[i], positive[i])) / temperature)
        for other in others[i]:
            wrong = math.exp(float(np.dot(query[i], other)) / temperature)
            total -= math.log(right / (right + wrong))
            count += 1
    return total / count


def order_features(tuples: Array, norm: str) -> Array:
    """[B, S, D] with every embedding ("feature") or every channel over the frames at length 1."""
    out = tuples.astype(float)
    for b in range(len(tuples)):
        for s, d in np.ndindex(*tuples.shape[1:]):
            rest = tuples[b, s] if norm == "feature" else tuples[b, :, d]
            out[b, s, d] = tuples[b, s, d] / math.sqrt(sum(x * x for x in rest))
    return out


def order_label(*orders: list[int], reverse_is_order: bool) -> int:
    """Of one tuple 0 in order, 1 shuffled; of two 0 neither, 1 the first, 2 the second, 3 both."""
    label = 0
    for number, order in enumerate(orders):
        steps = [b - a for a, b in itertools.pairwise(order)]
        forward = all(step == 1 for step in steps)
        backward = all(step == -1 for step in steps) and reverse_is_order
        if not forward and not backward:
            label += 2**number
    return label


def cross_entropy(logits: Array, labels: list[int]) -> float:
    """Mean over the rows of -log softmax(logits)[label]."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        total += math.log(sum(math.exp(x) for x in row)) - row[label]
    return total / len(labels)


# SimCLR (arXiv 2002.05709) and CVRL (arXiv 2008.03800), equation 1 of both


def nt_xent(first: Array, second: Array, temperature: float) -> tuple[float, Array, Array]:
    """Mean loss of the 2 N views, and its gradients by first and second, [N, D] each."""
    z = np.concatenate([first, second])
    count = len(z)
    loss, gradient = 0.0, np.zeros(z.shape)
    for i in range(count):
        positive = (i + len(first)) % count
        others = [k for k in range(count) if k != i]
        logits = {k: float(np.dot(z[i], z[k])) / temperature for k in others}
        largest = max(logits.values())
        mass = sum(math.exp(logits[k] - largest) for k in others)
        loss += largest + math.log(mass) - logits[positive]
        for k in others:
            by_logit = math.exp(logits[k] - largest) / mass - (k == positive)
            gradient[i] += by_logit * z[k] / temperature
            gradient[k] += by_logit * z[i] / temperature
    return loss / count, gradient[: len(first)] / count, gradient[len(first) :] / count


def interval_density(k: float, places: int, power: float) -> float:
    """CVRL (arXiv 2008.03800): chance per frame that two clips lie k frames apart, decreasing."""
    return (power + 1) / (power * places) * (1 - (k / places) ** power)


def interval_cdf(k: float, places: int, power: float) -> float:
    """Integral of `interval_density` from 0 to k, term by term as CVRL's code has it."""
    linear = (power + 1) * k / (power * places)
    return linear - k ** (power + 1) / (power * places ** (power + 1))


def interval_by_bisection(u: float, places: int, power: float) -> int:
    """The search of CVRL's code: halve [0, M], rounding down, until it is one frame wide."""
    left, right = 0, places
    while right - left > 1:
        half = left + (right - left) // 2
        left, right = (half, right) if interval_cdf(half, places, power) <= u else (left, half)
    return left


# SwAV (arXiv 2006.09882) and ViCC (arXiv 2106.10137)


def sinkhorn(scores: Array, epsilon: float, iterations: int) -> Array:
    """Q [N, P] of all rows [N, P]: prototypes and rows divided by their sums in turn, as written.

    SwAV's code keeps it transposed, [P, N].
    """
    rows, prototypes = scores.shape
    q = np.exp((scores - scores.max()) / epsilon)
    q = q / q.sum()
    for _ in range(iterations):
        for p in range(prototypes):
            q[:, p] /= sum(q[:, p]) * prototypes
        for i in range(rows):
            q[i] /= sum(q[i]) * rows
    return q * rows


def swapped_prediction(
    z: Array, prototypes: Array, assignment: Array, temperature: float
) -> tuple[float, Array, Array]:
    """SwAV, equation 2, averaged over rows and M views, and its gradients by z and prototypes.

    z [N, D], prototypes [P, D], assignment [M, N, P].
    """
    loss, by_z, by_prototypes = 0.0, np.zeros(z.shape), np.zeros(prototypes.shape)
    for i in range(len(z)):
        logits = np.array([float(np.dot(z[i], c)) for c in prototypes]) / temperature
        largest = max(logits)
        log_mass = largest + math.log(sum(math.exp(x - largest) for x in logits))
        for q in assignment[:, i]:
            loss -= sum(share * (logit - log_mass) for share, logit in zip(q, logits, strict=True))
            by_logits = sum(q) * np.exp(logits - log_mass) - q
            for p, by_logit in enumerate(by_logits):
                by_z[i] += by_logit * prototypes[p] / temperature
                by_prototypes[p] += by_logit * z[i] / temperature
    count = assignment.shape[0] * assignment.shape[1]
    return loss / count, by_z / count, by_prototypes / count


def vicc(
    views: list[Array],
    prototypes: Array,
    assigned: list[Array],
    temperature: float,
    *,
    other_modality: bool = False,
) -> float:
    """ViCC: each view's assignment [N, P] predicted by the other views [N, D], or by those of the
    other half of the list alone.
    """
    total, half = 0.0, len(views) // 2
    for a, q in enumerate(assigned):
        losses = []
        for b, z in enumerate(views):
            apart = (a < half) != (b < half) if other_modality else a != b
            if apart:
                losses.append(swapped_prediction(z, prototypes, q[None], temperature)[0])
        total += sum(losses) / len(losses)
    return total / len(assigned)


def entropy(shares: Array) -> float:
    """Of numbers that sum to 1, divided by its most."""
    return -sum(s * math.log(s) for s in shares if s > 0) / math.log(len(shares))


def pair_figures(first: Array, second: Array) -> dict[str, float]:
    """Of unit rows [N, D], two views of N videos: how alike those of one and of two videos are, and
    how the first views spread, times sqrt(D).
    """
    similarity = [[float(np.dot(a, b)) for b in second] for a in first]
    others = [[x for j, x in enumerate(row) if j != i] for i, row in enumerate(similarity)]
    own = [row[i] for i, row in enumerate(similarity)]
    right = [x > max(row) for x, row in zip(own, others, strict=True)]
    return {
        "positive_similarity": np.mean(own),
        "negative_similarity": np.mean(others),
        "contrast_accuracy": np.mean(right),
        "feature_std": np.mean(np.std(first, axis=0)) * np.sqrt(first.shape[1]),
    }


def prototype_use(nearest: Array, among: int) -> float:
    """exp of the entropy of their shares, over that of as many random picks: each of the `among`
    prototypes gets c of N with the binomial's probability.
    """
    n = len(nearest)
    shares = [list(nearest).count(number) / n for number in range(among)]
    chance = -among * sum(
        math.comb(n, c) * (among - 1) ** (n - c) / among**n * c / n * math.log(c / n)
        for c in range(1, n + 1)
    )
    return math.exp(entropy(shares) * math.log(among) - chance)


# What a step does to all tensors of a network


def moving_average(twin: Array, source: Array, momentum: float) -> Array:
    """MoCo (arXiv 1911.05722), equation 2, entry by entry."""
    mean = np.zeros(twin.shape)
    for at in np.ndindex(*twin.shape):
        mean[at] = momentum * twin[at] + (1 - momentum) * source[at]
    return mean


def length(tensors: list[Array]) -> float:
    """Euclidean length of all entries of all tensors."""
    return math.sqrt(sum(float(x) ** 2 for tensor in tensors for x in tensor.flat))


def lars_velocity(
    velocity: Array,
    weight: Array,
    gradient: Array,
    *,
    momentum: float,
    weight_decay: float,
    trust: float,
) -> Array:
    """LARS (arXiv 1708.03888), algorithm 1, the velocity of one layer.

    The learning rate is a factor of the update there; here it is the caller's, of the velocity.
    """
    update = np.zeros(weight.shape)
    for at in np.ndindex(*weight.shape):
        update[at] = gradient[at] + weight_decay * weight[at]
    ratio = 1.0
    if length([weight]) > 0 and length([update]) > 0:
        ratio = trust * length([weight]) / length([update])
    after = np.zeros(weight.shape)
    for at in np.ndindex(*weight.shape):
        after[at] = momentum * velocity[at] + ratio * update[at]
    return after


def larc_velocity(
    velocity: Array,
    weight: Array,
    gradient: Array,
    *,
    momentum: float,
    weight_decay: float,
    trust: float,
) -> Array:
    """LARC of NVIDIA's apex with clip=False around SGD, the velocity of one tensor."""
    of_weight, of_gradient = length([weight]), length([gradient])
    adapts = of_weight != 0 and of_gradient != 0
    after = np.zeros(weight.shape)
    for at in np.ndindex(*weight.shape):
        update = gradient[at]
        if adapts:
            rate = trust * of_weight / (of_gradient + of_weight * weight_decay + 1e-8)
            update = (update + weight_decay * weight[at]) * rate
        after[at] = momentum * velocity[at] + update
    return after
