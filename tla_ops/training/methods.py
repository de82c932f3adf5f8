"""Training methods: each one short function from a model and a batch to the loss of one step."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import tla_ops
from tla_ops.training.attacks import Attack, model_mode
from tla_ops.training.models import Classifier


class Batch(NamedTuple):
    """Clean images of one step.

    ``images`` (B, C, H, W) with ``labels`` (B,); ``positives`` (B, C, H, W), another image of each
    image's class; ``candidates`` (M, C, H, W) with ``candidate_labels`` (M,), the extra mini-batch
    that negatives come from.
    """

    images: Tensor
    labels: Tensor
    positives: Tensor
    candidates: Tensor
    candidate_labels: Tensor


class Step(NamedTuple):
    """Loss (scalar, differentiable) of one step, and what the triplets looked like (each (B,),
    detached).

    The distances are None for methods without triplets; a row without a negative has +inf.
    """

    loss: Tensor
    positive_distance: Tensor | None = None
    negative_distance: Tensor | None = None


def um(model: Classifier, batch: Batch) -> Step:
    """Undefended model: cross entropy on clean images."""
    return Step(F.cross_entropy(model(batch.images), batch.labels))


def at(model: Classifier, batch: Batch, *, attack: Attack) -> Step:
    """Adversarial training (Madry et al. 2018): cross entropy on adversarial images."""
    adversarial = attack(model, batch.images, batch.labels)
    return Step(F.cross_entropy(model(adversarial), batch.labels))


def tla(
    model: Classifier,
    batch: Batch,
    *,
    attack: Attack,
    weight: float,
    norm_weight: float,
    margin: float,
) -> Step:
    """Triplet loss adversarial training (Mao et al. 2019, equation 1): cross entropy on adversarial
    images plus triplets.

    The anchor is the adversarial image, the positive a clean image of its class, the negative the
    clean image of another class that is nearest to the anchor among ``batch.candidates``.
    ``weight`` is the paper's lambda 1, ``norm_weight`` its lambda 2, ``margin`` its alpha; the loss
    is the mean over the batch.
    """
    adversarial = attack(model, batch.images, batch.labels)
    anchor, candidates = pool_features(model, adversarial, batch.candidates)
    _, index = tla_ops.mine_negatives(anchor, candidates, batch.labels, batch.candidate_labels)
    return tla_loss(
        model, batch, adversarial, index, weight=weight, norm_weight=norm_weight, margin=margin
    )


@torch.no_grad()
def pool_features(
    model: Classifier, adversarial: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Penultimate features of anchors (B, D) and candidates (M, D), in eval mode and without
    gradient.
    """
    with model_mode(model, "eval"):
        return model.features(adversarial), model.features(candidates)


def tla_loss(
    model: Classifier,
    batch: Batch,
    adversarial: Tensor,
    index: Tensor,
    *,
    weight: float,
    norm_weight: float,
    margin: float,
) -> Step:
    """Equation 1 for adversarial images (B, C, H, W) and the ``index`` (B,) of their negatives, -1
    for none.

    The picks are forwarded again, with gradient and in the model's own mode.
    """
    # Each stream is a forward pass of its own: batch normalisation never mixes clean and
    # adversarial statistics.
    anchor = model.features(adversarial)
    positive = model.features(batch.positives)
    negative = model.features(batch.candidates[index.clamp(min=0)])
    triplets = tla_ops.triplet_loss(
        anchor,
        positive,
        negative,
        margin=margin,
        weight=weight,
        norm_weight=norm_weight,
        reduction="none",
        return_details=True,
    )
    found = index >= 0  # a row without a candidate of another class adds no triplet and no norms
    cross_entropy = F.cross_entropy(model.head(anchor), batch.labels)
    return Step(
        cross_entropy + torch.where(found, triplets.loss, 0.0).mean(),
        triplets.positive_distance[:, 0],
        torch.where(found, triplets.negative_distance, torch.inf),
    )
