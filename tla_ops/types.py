"""Named results of the loss functions."""

from typing import NamedTuple

from torch import Tensor


class TripletLossDetails(NamedTuple):
    """What ``triplet_adv_loss`` and ``triplet_loss`` return with ``return_details=True``.

    Distances are detached, float32 (float64 for float64 anchors).
    """

    loss: Tensor
    """Reduced loss; (B,) for ``reduction="none"``."""
    negative_index: Tensor
    """(B,) int64: the row's negative among the candidates, -1 where it has none."""
    positive_distance: Tensor
    """(B, K): distance of the anchor to each of its positives."""
    negative_distance: Tensor
    """(B,): distance of the anchor to its negative, +inf where it has none."""


class BatchHardDetails(NamedTuple):
    """What ``batch_hard_triplet_loss`` returns with ``return_details=True``.

    Distances are detached, float32 (float64 for float64 embeddings).
    """

    loss: Tensor
    """Reduced loss; (B,) for ``reduction="none"``."""
    positive_index: Tensor
    """(B,) int64: the row's positive in the batch, -1 where it has none."""
    negative_index: Tensor
    """(B,) int64: the row's negative in the batch, -1 where it has none."""
    positive_distance: Tensor
    """(B,): distance to the positive, +inf where there is none."""
    negative_distance: Tensor
    """(B,): distance to the negative, +inf where there is none."""
