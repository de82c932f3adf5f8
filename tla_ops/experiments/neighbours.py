"""Nearest neighbours among penultimate features: TLA's Table 6, Figure 4 and the supplement's
Figure 7.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import tla_ops

QUERIES = 256
"""Of :func:`retrieve`, that are compared with the whole pool at a time."""
FARTHEST = 2.0
"""Beyond every angular distance, which is at most 1."""


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    query_features: Tensor,
    query_labels: Tensor,
    k: int = 50,
) -> float:
    """Share of queries that the majority of their k nearest training features gives their label.

    The paper prints K = 50 and no metric. This is scikit-learn's classifier with the cosine
    distance, 1 - cos, and equal votes: the metric space that the loss shapes. It is the loss's
    1 - |cos| wherever features are not negative, as after a ReLU. A tie goes to the lowest class.

    Args:
        train_features: (n, D) of clean images; train_labels: (n,).
        query_features: (q, D), clean or adversarial; query_labels: (q,) their true classes.
        k: lowered to n where n is smaller.

    Returns:
        The accuracy; NaN without queries.

    Raises:
        ValueError: there are no training features.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if len(train_features) == 0:
        raise ValueError("knn_accuracy: train_features must have a row, got none")
    if len(query_features) == 0:
        return math.nan
    classifier = KNeighborsClassifier(
        min(k, len(train_features)), metric="cosine", algorithm="brute"
    )
    classifier.fit(_array(train_features), train_labels.cpu().numpy())
    return float(classifier.score(_array(query_features), query_labels.cpu().numpy()))


@torch.no_grad()
def retrieve(query: Tensor, pool: Tensor, k: int) -> Tensor:
    """The k features nearest to each query by the angular distance, nearest first.

    Args:
        query: (q, D); pool: (M, D); floating point, on one device.
        k: in 1..M.

    Returns:
        (q, k) int64 indices into the pool. Ties go to the lowest index; a NaN distance is the
        farthest.

    Raises:
        ValueError: k is out of range.
    """
    if not 1 <= k <= len(pool):
        raise ValueError(f"retrieve: k must be in [1, {len(pool)}], got {k}")
    found = []
    for part in query.split(QUERIES):
        distances = tla_ops.cdist(part, pool, metric="angular")
        distances.nan_to_num_(nan=FARTHEST)
        found.append(distances.sort(dim=1, stable=True).indices[:, :k])
    return torch.cat(found)


def _array(features: Tensor) -> Any:
    return features.detach().float().cpu().numpy()
