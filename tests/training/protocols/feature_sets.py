"""Small sets of features with labels, as protocols take them."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from training.features import Features, of_means


def features(feature, label) -> Features:
    """Features as given, in the rows of the manifest from 0."""
    feature = torch.as_tensor(feature, dtype=torch.float32)
    label = torch.as_tensor(label, dtype=torch.int64)
    return Features(feature, label, torch.arange(len(label)), failed=[])


def random_features(seed: int, videos: int, classes: int, dim: int = 6) -> Features:
    """Unit vectors and labels that know nothing of each other."""
    rng = np.random.default_rng(seed)
    unit = F.normalize(torch.from_numpy(rng.standard_normal((videos, dim))), dim=1)
    return features(unit, rng.integers(classes, size=videos))


def clustered(seed: int, videos: int, classes: int, *, dim: int = 12, noise: float = 1.0):
    """Gaussian clouds, one a class, with the lengths that an encoder's features would have."""
    rng = np.random.default_rng(seed)
    centre = np.random.default_rng(0).standard_normal((classes, dim))
    label = torch.from_numpy(np.arange(videos) % classes)
    mean = torch.from_numpy(centre[label] + noise * rng.standard_normal((videos, dim))).float()
    return of_means(3 * mean, label, torch.arange(videos), [])
