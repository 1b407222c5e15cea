"""How far apart the two clips of a pair start: CVRL's distribution over distances (2008.03800).

A clip that fits has M places to start, so that distances run from 0 to M - 1 frames. With a power
p > 0, the density over k in [0, M] and its integral are, for "decreasing",

    pdf(k) = (p + 1) / (p M) (1 - (k / M)^p)
    CDF(k) = k / M (1 + (1 - (k / M)^p) / p)

and a distance is the largest whole k with CDF(k) <= u, u uniform in [0, 1). A pair is likelier
the closer it is; power 1 is the line that the released code uses. "uniform" gives every distance
the same chance (the limit of a large power), "increasing" is "decreasing" mirrored: M - 1 - k.
"""

from __future__ import annotations

import math


def distance(u: float, places: int, *, shape: str, power: float) -> int:
    """The distance in frames, in [0, places), that stands at the quantile u in [0, 1)."""
    if shape == "uniform":
        return int(places * u)
    near = _linear(u, places) if power == 1 else _bisected(u, places, power)
    return near if shape == "decreasing" else places - 1 - near


def _linear(u: float, places: int) -> int:
    """Power 1 in closed form: 1 - (1 - k / M)^2 = u."""
    return int(places * (1 - math.sqrt(1 - u)))


def _bisected(u: float, places: int, power: float) -> int:
    low, high = 0, places  # CDF(low) <= u < CDF(high)
    while high - low > 1:
        middle = (low + high) // 2
        if _cdf(middle / places, power) <= u:
            low = middle
        else:
            high = middle
    return low


def _cdf(share: float, power: float) -> float:
    """CDF at k = share M, for share in (0, 1); expm1 keeps small powers from cancelling."""
    return share * (1 - math.expm1(power * math.log(share)) / power)
