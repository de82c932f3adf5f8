"""Laws fitted to times: a + b x, an exponent, where two of them cross."""

from __future__ import annotations

import math
from collections.abc import Sequence

UPPER = 100
"""Exponents are of the grid's upper end: from its largest value down to one so many times less."""


def linear(xs: Sequence[float], ts: Sequence[float]) -> tuple[float, float]:
    """(a, b) of t = a + b x, by least squares of relative errors: each decade counts."""
    weights = [1 / t**2 for t in ts]
    total = sum(weights)
    x_mean = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
    t_mean = sum(w * t for w, t in zip(weights, ts, strict=True)) / total
    pairs = list(zip(weights, xs, ts, strict=True))
    spread = sum(w * (x - x_mean) ** 2 for w, x, _ in pairs)
    b = sum(w * (x - x_mean) * (t - t_mean) for w, x, t in pairs) / spread
    return t_mean - b * x_mean, b


def exponent(xs: Sequence[float], ts: Sequence[float]) -> float:
    """p of t ~ x^p over the upper range."""
    upper = [(math.log(x), math.log(t)) for x, t in zip(xs, ts, strict=True) if x >= xs[-1] / UPPER]
    x_mean, t_mean = (sum(values) / len(upper) for values in zip(*upper, strict=True))
    spread = sum((x - x_mean) ** 2 for x, _ in upper)
    return sum((x - x_mean) * (t - t_mean) for x, t in upper) / spread


def crossover(xs: Sequence[float], ours: Sequence[float], other: Sequence[float]) -> float | None:
    """From where on ours is the faster at all that follows, between two values by their logarithms;
    the first value if it always is, None if it is not at the last one."""
    gaps = [math.log(b / a) for a, b in zip(ours, other, strict=True)]
    if gaps[-1] <= 0:
        return None
    after = next((i for i in range(len(gaps), 0, -1) if gaps[i - 1] <= 0), 0)
    if after == 0:
        return xs[0]
    before = after - 1
    share = gaps[before] / (gaps[before] - gaps[after])
    return xs[before] * (xs[after] / xs[before]) ** share
