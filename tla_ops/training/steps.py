"""What the training methods are made of: a step's batch and result, and its triplets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

import tla_ops
from tla_ops.training.attacks import model_mode
from tla_ops.training.layers import PENULTIMATE, represent, represent_with_logits
from tla_ops.training.models import Classifier

STATISTICS = ("all", "adversarial")
"""Which streams move batch normalisation's running statistics."""


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

    The distances are None for methods without triplets; ``positive_distance`` is the mean over an
    anchor's positives, and a row without a negative has a ``negative_distance`` of +inf.
    ``active``: whether any of an anchor's hinges is. ``features``: clean features (B, D), detached,
    and their labels (B,), for the method's bank: enqueue them after backward.
    """

    loss: Tensor
    positive_distance: Tensor | None = None
    negative_distance: Tensor | None = None
    features: tuple[Tensor, Tensor] | None = None
    active: Tensor | None = None


@contextmanager
def clean_streams(model: Classifier, statistics: str) -> Iterator[None]:
    """Run the body, which forwards clean images through ``model``.

    Args:
        model: whose layers of batch normalisation are meant. In train mode every batch is
            normalised by its own statistics all the same; those in eval mode change nothing.
        statistics: "all" counts the images into the running statistics, "adversarial" does not.

    Raises:
        ValueError: for another ``statistics``.
    """
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, got {statistics!r}")
    counting = [
        module
        for module in (model.modules() if statistics == "adversarial" else ())
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    for module in counting:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in counting:
            module.track_running_stats = True


@torch.no_grad()
def pool_features(
    model: Classifier, anchors: Tensor, candidates: Tensor, layer: str = PENULTIMATE
) -> tuple[Tensor, Tensor]:
    """Features of anchors (B, D) and candidates (M, D), in eval mode and without gradient;
    ``layer`` as for :func:`tla`.
    """
    with model_mode(model, "eval"):
        return represent(model, anchors, layer), represent(model, candidates, layer)


def tla_loss(
    model: Classifier,
    batch: Batch,
    adversarial: Tensor,
    index: Tensor | None,
    *,
    weight: float,
    norm_weight: float,
    margin: float,
    norm: str = "l2",
    layer: str = PENULTIMATE,
    source_positive: bool = False,
    noise: Fraction = Fraction(0),
    statistics: str = "all",
    bank: tla_ops.FeatureBank | None = None,
    label_smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> Step:
    """Equation 1 for adversarial images (B, C, H, W) and the ``index`` (B,) of their negatives
    among ``batch.candidates``, -1 for none; with a ``bank`` the index is not looked at.

    The rest is as for :func:`tla`.
    """
    if noise != 0 and not source_positive:
        raise ValueError(
            "tla: noise must be 0 where source_positive is False: it is added to the clean "
            f"source alone, got {noise}"
        )
    anchor, logits = represent_with_logits(model, adversarial, layer)
    sources = [noisy(batch.images, noise, generator)] if source_positive else []
    with clean_streams(model, statistics):
        positives = [represent(model, images, layer) for images in (*sources, batch.positives)]
        triplets = triplets_of(
            model, batch, anchor, torch.stack(positives, 1), index, bank, layer,
            weight=weight, norm_weight=norm_weight, margin=margin, norm=norm,
        )  # fmt: skip
    loss = cross_entropy(logits, batch.labels, label_smoothing)
    return triplet_step(loss, triplets, bank, positives[-1], batch.labels, margin)


def nearest_negatives(
    model: Classifier, anchors: Tensor, batch: Batch, layer: str = PENULTIMATE
) -> Tensor:
    """Index (B,) of the candidate of another class nearest to each anchor image, -1 for none;
    ``layer`` as for :func:`tla`.
    """
    _check_candidates(batch)
    anchor, candidates = pool_features(model, anchors, batch.candidates, layer)
    return tla_ops.mine_negatives(anchor, candidates, batch.labels, batch.candidate_labels)[1]


def random_negatives(batch: Batch, generator: torch.Generator | None) -> Tensor:
    """Index (B,) of a random candidate of another class, -1 for none."""
    _check_candidates(batch)
    # Random mining looks at labels alone; features of one zero stand in for those it wants.
    anchor = batch.images.new_zeros(len(batch.labels), 1)
    candidates = batch.images.new_zeros(len(batch.candidate_labels), 1)
    return tla_ops.mine_negatives(
        anchor, candidates, batch.labels, batch.candidate_labels, mining="random",
        generator=generator,
    )[1]  # fmt: skip


def _check_candidates(batch: Batch) -> None:
    if len(batch.candidates) == 0:
        raise ValueError("tla: batch must have candidates where there is no bank, got none")


def triplets_of(
    model: Classifier,
    batch: Batch,
    anchor: Tensor,
    positive: Tensor,
    index: Tensor | None,
    bank: tla_ops.FeatureBank | None,
    layer: str = PENULTIMATE,
    **options: Any,
) -> tla_ops.TripletLossDetails:
    """A loss a row, with negatives from the bank or, forwarded again, from the candidates."""
    options |= {"reduction": "none", "return_details": True}
    if bank is not None:
        return bank.triplet_adv_loss(anchor, positive, batch.labels, **options)
    assert index is not None
    negative = represent(model, batch.candidates[index.clamp(min=0)], layer)
    triplets = tla_ops.triplet_loss(anchor, positive, negative, **options)
    distance = torch.where(index >= 0, triplets.negative_distance, torch.inf)
    return triplets._replace(negative_index=index, negative_distance=distance)


def triplet_step(
    loss: Tensor,
    triplets: tla_ops.TripletLossDetails,
    bank: tla_ops.FeatureBank | None,
    clean: Tensor,
    labels: Tensor,
    margin: float,
) -> Step:
    """The cross entropy ``loss`` plus, of rows with a negative, the triplets: a mean over all."""
    found = triplets.negative_index >= 0
    return Step(
        loss + torch.where(found, triplets.loss, 0.0).mean(),
        triplets.positive_distance.mean(1),
        triplets.negative_distance,
        None if bank is None else (clean.detach(), labels),
        active_hinges(triplets, margin),
    )


@torch.no_grad()
def active_hinges(triplets: tla_ops.TripletLossDetails, margin: float) -> Tensor:
    """(B,): whether any of the anchor's hinges is above 0; False without a negative."""
    hinges = triplets.positive_distance - triplets.negative_distance[:, None] + margin
    return (hinges > 0).any(1)


def noisy(images: Tensor, noise: Fraction, generator: torch.Generator | None) -> Tensor:
    """Images with uniform noise within ``noise`` of them and within [0, 1]."""
    if noise < 0:
        raise ValueError(f"tla: noise must not be negative, got {noise}")
    if noise == 0:
        return images
    uniform = torch.rand(
        images.shape, dtype=images.dtype, device=images.device, generator=generator
    )
    return (images + float(noise) * (2 * uniform - 1)).clamp(0, 1)


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    return F.cross_entropy(at_work(logits), labels, label_smoothing=label_smoothing)


def at_work(logits: Tensor) -> Tensor:
    """In float32 at least, whatever autocast made them."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
