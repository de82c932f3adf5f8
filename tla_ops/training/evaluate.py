"""What a trained model is worth: accuracy, and the geometry of its triplets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import tla_ops
from tla_ops.training.attacks import model_mode
from tla_ops.training.data import ImageSet
from tla_ops.training.models import Classifier


class TripletStatistics(NamedTuple):
    """Share of anchors with an active hinge, and mean angular distances to the positive and to the
    mined negative.
    """

    active: float
    positive_distance: float
    negative_distance: float


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images (N, C, H, W) that ``model`` gives their label (N,), in eval mode."""
    with model_mode(model, "eval"):
        return (model(images).argmax(1) == labels).double().mean().item()


@torch.no_grad()
def triplet_statistics(
    model: Classifier,
    adversarial: Tensor,
    clean: ImageSet,
    margin: float,
    generator: torch.Generator | None = None,
) -> TripletStatistics:
    """Triplets of adversarial images (N, C, H, W), one for each row of ``clean``, in eval mode.

    The positive is another clean image of the class, the negative the nearest of all clean images
    of other classes.
    """
    positives = clean.positives(torch.arange(len(clean), device=clean.labels.device), generator)
    with model_mode(model, "eval"):
        pool = model.features(clean.images)
        details = tla_ops.triplet_adv_loss(
            model.features(adversarial),
            pool[positives],
            pool,
            clean.labels,
            clean.labels,
            margin=margin,
            return_details=True,
        )
    return summary(details.positive_distance[:, 0], details.negative_distance, margin)


def summary(positive: Tensor, negative: Tensor, margin: float) -> TripletStatistics:
    """Statistics of distances (N,) to positives and to negatives; an infinite distance (no
    negative) is left out.
    """
    found = torch.isfinite(negative)
    active = positive - negative + margin > 0
    return TripletStatistics(
        active.double().mean().item(),
        positive.double().mean().item(),
        negative[found].double().mean().item(),
    )
