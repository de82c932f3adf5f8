"""Penultimate features in the plane, TLA's Figures 1 and 2, and numbers for what those show."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tla_ops.experiments.separation import NO_SPREAD


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


def _check(where: str, features: Tensor, groups: Tensor) -> None:
    if groups.shape != features.shape[:1]:
        raise ValueError(
            f"{where}: groups must be ({len(features)},) to match features "
            f"{tuple(features.shape)}, got {tuple(groups.shape)}"
        )
