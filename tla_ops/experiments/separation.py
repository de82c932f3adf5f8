"""How far adversarial images lie from the natural images of a class, in units of the class's own
spread: TLA's r (section 5.2, Table 5) and r' (supplement C.2, Table 3).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

import tla_ops

NO_SPREAD = 1e-6
"""A within-class distance up to this is rounding of float32 distances between parallel features."""


class Ratio(NamedTuple):
    """``ratio`` is the mean of ``per_class`` over the ``classes`` that have one, NaN if none has.

    ``sizes`` counts the adversarial images of every class in the comparison, those left out of
    ``per_class``, too.
    """

    ratio: float
    classes: int
    per_class: dict[int, float]
    sizes: dict[int, int]


@torch.no_grad()
def within_class(features: Tensor, chunk: int = 1024) -> float:
    """The mean angular distance, 1 - |cos|, over unordered pairs of different rows (TLA's sigma of
    a class's natural images).

    Args:
        features: (n, D), floating point.
        chunk: rows and columns of the distances that are in memory at a time.

    Returns:
        The mean, summed in float64; NaN where n < 2.
    """
    n = len(features)
    if n < 2:
        return math.nan
    total = 0.0
    for start in range(0, n, chunk):
        rows, later = features[start : start + chunk], features[start + chunk :]
        upper = tla_ops.cdist(rows, rows, metric="angular").triu(diagonal=1)
        total += upper.sum(dtype=torch.float64).item() + _total(rows, later, chunk)
    return total / (n * (n - 1) / 2)


@torch.no_grad()
def between(adversarial: Tensor, natural: Tensor, chunk: int = 1024) -> float:
    """The mean angular distance over all pairs of a row of each.

    Args:
        adversarial: (q, D); natural: (n, D); floating point.
        chunk: as for :func:`within_class`.

    Returns:
        The mean, summed in float64; NaN where either is empty.
    """
    pairs = len(adversarial) * len(natural)
    if pairs == 0:
        return math.nan
    total = sum(_total(rows, natural, chunk) for rows in adversarial.split(chunk))
    return total / pairs


def ratio(adversarial: Tensor, groups: Tensor, natural: Tensor, labels: Tensor) -> Ratio:
    """The mean over classes of :func:`between` its adversarial and its natural images, over
    :func:`within_class` of its natural ones.

    Args:
        adversarial: (Q, D) penultimate features.
        groups: (Q,) the class that each is compared with. For r: the class the model takes it for,
            and only misclassified images are passed. For r': its true class.
        natural: (N, D) features of clean images; labels: (N,) their classes.

    Returns:
        See :class:`Ratio`. A class without adversarial images, with fewer than two natural ones, or
        whose natural ones all point the same way (up to `NO_SPREAD`) has no ratio and is left out;
        the paper divides by the number of classes.

    Raises:
        ValueError: groups or labels do not match their features.
    """
    for name, found, of, features in (
        ("groups", groups, "adversarial", adversarial),
        ("labels", labels, "natural", natural),
    ):
        if found.shape != features.shape[:1]:
            raise ValueError(
                f"ratio: {name} must be ({len(features)},) to match {of} {tuple(features.shape)}, "
                f"got {tuple(found.shape)}"
            )
    per_class: dict[int, float] = {}
    sizes: dict[int, int] = {}
    for group in groups.unique().tolist():
        attacked, clean = adversarial[groups == group], natural[labels == group]
        sizes[group] = len(attacked)
        spread = within_class(clean)
        # A NaN is no number to leave out: only a spread that is missing or 0 is.
        if len(clean) >= 2 and not spread <= NO_SPREAD:
            per_class[group] = between(attacked, clean) / spread
    mean = sum(per_class.values()) / len(per_class) if per_class else math.nan
    return Ratio(mean, len(per_class), per_class, sizes)


def _total(x: Tensor, y: Tensor, chunk: int) -> float:
    """The sum of distances between the rows of both."""
    tiles = (tla_ops.cdist(x, columns, metric="angular") for columns in y.split(chunk))
    return sum(tile.sum(dtype=torch.float64).item() for tile in tiles)
