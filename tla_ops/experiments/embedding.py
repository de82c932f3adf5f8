"""Penultimate features in the plane, TLA's Figures 1 and 2, and numbers for what those show."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tla_ops.experiments.separation import NO_SPREAD, within_class


class Spread(NamedTuple):
    """Mean angular distances, 1 - |cos|, over pairs of rows of one group and over pairs of
    different groups, and ``ratio``, the second over the first: 1 where nothing tells the groups
    apart. NaN where there are no such pairs.
    """

    within: float
    between: float
    ratio: float


def tsne(features: Tensor, perplexity: float = 30, seed: int = 0) -> Tensor:
    """t-SNE by scikit-learn, of features at unit length: the loss compares directions.

    On unit vectors the squared Euclidean distance that t-SNE takes is twice the cosine distance;
    scikit-learn's metric="cosine" would square that again. The start is PCA's, of the same vectors.
    What is to be compared in one picture goes in together: t-SNE maps no further points.

    Args:
        features: (N, D), floating point, finite.
        perplexity: lowered to (N - 1) / 3 where that is less.
        seed: of scikit-learn's randomised steps. Equal seeds give equal points on one machine.

    Returns:
        (N, 2) float32 on the CPU; zeros where all features point the same way or N < 2.

    Raises:
        ValueError: features are not (N, D) or not finite.
    """
    if features.ndim != 2 or not bool(torch.isfinite(features).all()):
        raise ValueError(
            f"tsne: features must be (N, D) and finite, got {tuple(features.shape)}"
            + ("" if features.ndim != 2 else " with NaN or infinity")
        )
    n = len(features)
    unit = F.normalize(features.detach().double().cpu())
    # PCA's start divides by the spread: scikit-learn would crash without one.
    if n < 2 or bool(((unit - unit[0]).abs() <= NO_SPREAD).all()):
        return torch.zeros(n, 2)
    from sklearn.manifold import TSNE

    if unit.shape[1] == 1:
        unit = F.pad(unit, (0, 1))
    method = TSNE(perplexity=min(perplexity, (n - 1) / 3), init="pca", random_state=seed)
    return torch.from_numpy(method.fit_transform(unit.float().numpy()))


def class_spread(features: Tensor, groups: Tensor) -> Spread:
    """How far groups lie apart in feature space, in units of their own spread.

    For Figure 1 the groups are the false classes of adversarial images of one true class: a model
    that keeps them together has a ratio near 1.

    Args:
        features: (N, D), floating point; groups: (N,) integers.

    Raises:
        ValueError: groups do not match features.
    """
    _check("class_spread", features, groups)
    every, total = _pairs(features)
    own = [_pairs(features[groups == group]) for group in groups.unique()]
    pairs, inside = sum(count for count, _ in own), sum(part for _, part in own)
    others = every - pairs
    within = inside / pairs if pairs else math.nan
    between = (total - inside) / others if others else math.nan
    return Spread(within, between, between / within if within > NO_SPREAD else math.nan)


def silhouette(features: Tensor, groups: Tensor) -> float:
    """scikit-learn's mean silhouette coefficient with the cosine distance: 1 for groups far apart,
    0 for groups that overlap, below where rows are nearer to another group than to their own.

    Args:
        features: (N, D), floating point, finite; groups: (N,) integers.

    Returns:
        The coefficient; NaN for fewer than two groups or as many as rows.

    Raises:
        ValueError: groups do not match features.
    """
    _check("silhouette", features, groups)
    if not 2 <= len(groups.unique()) < len(groups):
        return math.nan
    from sklearn.metrics import silhouette_score

    rows = features.detach().float().cpu().numpy()
    return float(silhouette_score(rows, groups.cpu().numpy(), metric="cosine"))


def _pairs(features: Tensor) -> tuple[int, float]:
    """The number of unordered pairs of rows, and the sum of their distances."""
    count = len(features) * (len(features) - 1) // 2
    return count, within_class(features) * count if count else 0.0


def _check(where: str, features: Tensor, groups: Tensor) -> None:
    if groups.shape != features.shape[:1]:
        raise ValueError(
            f"{where}: groups must be ({len(features)},) to match features "
            f"{tuple(features.shape)}, got {tuple(groups.shape)}"
        )
