"""The losses and cdist: argument checks, documentation, and the choice of what runs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import _checks as check
from . import autograd, ops, reference
from ._dispatch import (
    check_generator,
    has_kernels,
    is_fast,
    screens,
    uniform_draws,
)
from .types import BatchHardDetails, TripletLossDetails


def triplet_adv_loss(
    anchor: Tensor,
    positive: Tensor,
    candidates: Tensor,
    labels: Tensor,
    candidate_labels: Tensor,
    *,
    margin: float = 0.03,
    weight: float = 1.0,
    norm_weight: float = 0.0,
    metric: str = "angular",
    mining: str = "hardest",
    norm: str = "l2",
    target_labels: Tensor | None = None,
    exclude: Tensor | None = None,
    precision: str | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    sparse_grad: bool = False,
    return_details: bool = False,
) -> Any:
    r"""Triplet loss of adversarial features against the hardest negative of a pool.

    For each anchor the negative n(i) is mined among the candidates of another class, and with it

    .. math:: \ell_i = w \sum_k [d(a_i, p_{ik}) - d(a_i, c_{n(i)}) + \alpha]_+
              + w_n (\|a_i\| + \sum_k \|p_{ik}\| + \|c_{n(i)}\|),

    which is equation 1 of "Metric Learning for Adversarial Robustness" (TLA, NeurIPS 2019) with
    :math:`w = \lambda_1, w_n = \lambda_2`. The anchors x candidates matrix is never stored.

    Args:
        anchor: (B, D) features, usually of adversarial images. float64, float32, bfloat16 or
            float16, any strides; positive and candidates may each have another of these dtypes.
        positive: (B, D) or (B, K, D) features of the anchors' own classes; K may be 0.
        candidates: (M, D) pool the negatives are mined from; M may be 0.
        labels: (B,) class of each anchor, any integer dtype.
        candidate_labels: (M,) class of each candidate; one that carries
            ``torch.iinfo(torch.int64).min`` is an unfilled slot and is never picked.
        margin: :math:`\alpha` in units of the distance. Any finite number: a negative one lets a
            negative be nearer than the positive by as much.
        weight: factor of the hinge.
        norm_weight: factor of the norm decay; 0 leaves the norms out altogether.
        metric: ``"angular"`` 1 - \|cos\| (the paper's), ``"cosine"`` 1 - cos, ``"euclidean"``,
            ``"chebyshev"`` (alias ``"linf"``; AT2L's).
        mining: ``"hardest"`` the smallest distance; ``"semihard"`` the smallest that is greater
            than that to the nearest positive, the largest of all if there is none; ``"random"``
            any, uniformly.
        norm: ``"l2"`` as above; ``"mean_square"``: the mean over D of the squares in its place,
            as the authors' code has it.
        target_labels: (B,) look only among candidates of this class; where that is the row's own
            class, or no candidate has it, among all other classes (AT2L's mistaken class).
        exclude: (B,) index of one candidate that the row never picks; any other number, such as
            -1, leaves none out.
        precision: ``"exact"``: the pick is the true hardest in float32 arithmetic; ``"fast"``: one
            pass of the fastest matrix unit finds it, the distance is still float32; ``None``:
            exact unless ``torch.get_float32_matmul_precision()`` is not ``"highest"``.
        reduction: ``"mean"`` over B, ``"sum"`` or ``"none"``.
        generator: of the random draws; torch's default if None. Not under ``torch.compile``.
        sparse_grad: the candidates' gradient as a sparse tensor of the picked rows, as
            ``nn.Embedding`` gives it. Not under ``torch.compile``.
        return_details: return a :class:`TripletLossDetails` instead of the loss alone.

    Returns:
        The loss: a scalar, or (B,) for ``reduction="none"``; float32, float64 for float64 anchors.
        A row without any candidate of another class has hinge 0 and no negative's norm.

    Raises:
        ValueError, TypeError: an argument's shape, dtype, device or value, by name.
        RuntimeError: a CUDA tensor where no CUDA kernels were built; a second backward.

    Gradients reach anchor, positive and the picked candidates, in their dtypes, the same bits every
    run; everything else of the candidates' gradient is zero. The subgradient at a kink (the hinge
    at 0, a cosine of 0, equal vectors) is 0. Picks and the details' distances carry none.
    """
    return adv_loss(
        None, anchor, positive, candidates, labels, candidate_labels, margin, weight, norm_weight,
        metric, mining, norm, target_labels, exclude, precision, reduction, generator, sparse_grad,
        return_details,
    )  # fmt: skip


def adv_loss(
    packed: Tensor | None,
    anchor: Tensor,
    positive: Tensor,
    candidates: Tensor,
    labels: Tensor,
    candidate_labels: Tensor,
    margin: float = 0.03,
    weight: float = 1.0,
    norm_weight: float = 0.0,
    metric: str = "angular",
    mining: str = "hardest",
    norm: str = "l2",
    target_labels: Tensor | None = None,
    exclude: Tensor | None = None,
    precision: str | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    sparse_grad: bool = False,
    return_details: bool = False,
) -> Any:
    """:func:`triplet_adv_loss` with candidates of which a bank may keep `packed` rows."""
    where = "triplet_adv_loss"
    metric = check.metric(where, metric)
    check.choice(where, "mining", mining, check.NEGATIVE_MINING)
    options = _loss_options(where, margin, weight, norm_weight, metric, norm, reduction)
    check.anchors(where, "anchor", anchor)
    check.positives(where, positive, anchor)
    labels, candidate_labels, target_labels, exclude = check.pool(
        where, anchor, candidates, labels, candidate_labels, target_labels, exclude
    )
    fast = is_fast(where, precision)
    check_generator(where, anchor, generator)
    if sparse_grad and torch.compiler.is_compiling():
        raise ValueError(f"{where}: sparse_grad must be False under torch.compile")
    if not has_kernels(anchor, "triplet_adv_loss"):
        return reference.triplet_adv_loss(
            anchor, positive, candidates, labels, candidate_labels, **options._asdict(),
            mining=mining, target_labels=target_labels, exclude=exclude, generator=generator,
            return_details=return_details,
        )  # fmt: skip
    uniform = uniform_draws(mining, anchor, generator)
    output = autograd.TripletAdvLoss.apply(
        anchor, positive, candidates, labels, candidate_labels,
        autograd.MineOptions(
            target_labels, exclude, uniform, mining, fast, screens(anchor), packed
        ),
        options, sparse_grad, return_details,
    )  # fmt: skip
    return TripletLossDetails(*output) if return_details else output


def triplet_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float = 0.03,
    weight: float = 1.0,
    norm_weight: float = 0.0,
    metric: str = "angular",
    norm: str = "l2",
    reduction: str = "mean",
    return_details: bool = False,
) -> Any:
    """The loss of :func:`triplet_adv_loss` for negatives that are given, one a row.

    Args:
        anchor: (B, D) features.
        positive: (B, D) or (B, K, D) features.
        negative: (B, D) features.
        margin, weight, norm_weight, metric, norm, reduction: as for :func:`triplet_adv_loss`.
        return_details: return a :class:`TripletLossDetails`, whose ``negative_index`` counts the
            rows.

    Returns:
        The loss, float32 (float64 for float64 anchors): a scalar, or (B,) for ``reduction="none"``.

    Raises:
        ValueError, TypeError: an argument's shape, dtype, device or value, by name.

    Gradients reach all three tensors, in their dtypes.
    """
    where = "triplet_loss"
    options = _loss_options(
        where, margin, weight, norm_weight, check.metric(where, metric), norm, reduction
    )
    check.anchors(where, "anchor", anchor)
    check.positives(where, positive, anchor)
    check.features(where, "negative", negative, (2,), "(B, D)")
    if negative.shape != anchor.shape:
        raise ValueError(
            f"{where}: negative must be {check.shape(anchor)} to match anchor, "
            f"got {check.shape(negative)}"
        )
    check.same_device(where, "negative", negative, "anchor", anchor)
    if not has_kernels(anchor, "triplet_loss"):
        return reference.triplet_loss(
            anchor, positive, negative, **options._asdict(), return_details=return_details
        )
    loss, positive_distance, negative_distance = autograd.TripletLoss.apply(
        anchor, positive, negative, options
    )
    if not return_details:
        return loss
    index = torch.arange(anchor.shape[0], device=anchor.device)
    return TripletLossDetails(loss, index, positive_distance, negative_distance)


def batch_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    metric: str = "euclidean",
    weight: float = 1.0,
    norm_weight: float = 0.0,
    norm: str = "l2",
    mining: str = "hardest",
    positive_mining: str = "hardest",
    precision: str | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    return_details: bool = False,
) -> Any:
    """Triplet loss with positives and negatives from the batch itself, in O(B) memory.

    "In Defense of the Triplet Loss for Person Re-Identification" (Hermans et al. 2017), equation 5.
    Each row is an anchor; its positive is mined first (never the row itself), then its negative.

    Args:
        embeddings: (B, D) features.
        labels: (B,) integer classes.
        margin: as for :func:`triplet_adv_loss`, as are metric, weight, norm_weight, norm,
            precision, reduction and generator (which draws for the positives first).
        mining: of negatives, as for :func:`mine_negatives`; semihard uses the mined positive.
        positive_mining: as for :func:`mine_positives`.
        return_details: return a :class:`BatchHardDetails` instead of the loss alone.

    Returns:
        The loss, float32 (float64 for float64 embeddings). A row that lacks a positive or a
        negative gives 0 and counts in the mean.

    Raises:
        ValueError, TypeError: an argument's shape, dtype, device or value, by name.

    The gradient of a row sums its parts as anchor, positive and negative, the same bits every run.
    """
    where = "batch_hard_triplet_loss"
    metric = check.metric(where, metric)
    options = _loss_options(where, margin, weight, norm_weight, metric, norm, reduction)
    check.choice(where, "mining", mining, check.NEGATIVE_MINING)
    check.choice(where, "positive_mining", positive_mining, check.POSITIVE_MINING)
    check.anchors(where, "embeddings", embeddings)
    labels = check.integers(
        where, "labels", labels, embeddings.shape[0], "embeddings", embeddings, "embeddings"
    )
    fast = is_fast(where, precision)
    check_generator(where, embeddings, generator)
    if not has_kernels(embeddings, "mine", "triplet_loss"):
        return reference.batch_hard_triplet_loss(
            embeddings, labels, **options._asdict(), mining=mining,
            positive_mining=positive_mining, generator=generator, return_details=return_details,
        )  # fmt: skip
    pool = embeddings.detach()
    own = torch.arange(pool.shape[0], device=pool.device)
    rest = (pool, pool, labels, labels)
    uniform = uniform_draws(positive_mining, pool, generator)
    positive_distance, positive_index = ops.mine(
        *rest, None, None, own, uniform, metric, positive_mining, True, fast, screens(pool)
    )
    positive = None
    if mining == "semihard":
        # A row without a positive has nothing to be farther than: NaN makes it fall back.
        mined = pool[positive_index.clamp(min=0)]
        positive = torch.where((positive_index >= 0)[:, None], mined, torch.nan).unsqueeze(1)
    uniform = uniform_draws(mining, pool, generator)
    negative_distance, negative_index = ops.mine(
        *rest, positive, None, None, uniform, metric, mining, False, fast, screens(pool)
    )
    loss = autograd.BatchHardTripletLoss.apply(embeddings, positive_index, negative_index, options)
    if not return_details:
        return loss
    return BatchHardDetails(
        loss, positive_index, negative_index, positive_distance, negative_distance
    )


def cdist(x1: Tensor, x2: Tensor, *, metric: str = "angular") -> Tensor:
    """Every distance between the rows of two sets, the values that mining compares.

    Args:
        x1: (..., B, D) features; x2: (..., M, D) with the same leading dimensions or ones that
            broadcast against them. Dtypes may differ.
        metric: as for :func:`triplet_adv_loss`.

    Returns:
        (..., B, M), float32 (float64 for float64 x1); differentiable by both.

    Raises:
        ValueError, TypeError: an argument's shape, dtype, device or value, by name.

    Gradients are in the inputs' dtypes; at a kink (equal rows, a cosine of 0) they are 0, and
    chebyshev's goes to the lowest of tied coordinates.
    """
    where = "cdist"
    metric = check.metric(where, metric)
    for name, x, form in (("x1", x1, "(..., B, D)"), ("x2", x2, "(..., M, D)")):
        check.features(where, name, x, tuple(range(2, 65)), form)
    if x1.shape[-1] == 0:
        raise ValueError(f"{where}: x1 must have D >= 1 features, got {check.shape(x1)}")
    if x1.shape[-1] != x2.shape[-1]:
        raise ValueError(
            f"{where}: x2 must be (..., M, {x1.shape[-1]}) to match x1 {check.shape(x1)}, "
            f"got {check.shape(x2)}"
        )
    check.same_device(where, "x2", x2, "x1", x1)
    try:
        batch = torch.broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
    except RuntimeError:
        raise ValueError(
            f"{where}: x2 must have leading dimensions that broadcast with x1 {check.shape(x1)}, "
            f"got {check.shape(x2)}"
        ) from None
    if not has_kernels(x1, "cdist"):
        return reference.cdist(x1, x2, metric=metric)
    rows, columns, dim = x1.shape[-2], x2.shape[-2], x1.shape[-1]
    count = math.prod(batch)
    x1 = x1.expand(*batch, rows, dim).reshape(count, rows, dim)
    x2 = x2.expand(*batch, columns, dim).reshape(count, columns, dim)
    return autograd.Cdist.apply(x1, x2, metric).reshape(*batch, rows, columns)


def _loss_options(
    where: str,
    margin: float,
    weight: float,
    norm_weight: float,
    metric: str,
    norm: str,
    reduction: str,
) -> autograd.TripletOptions:
    check.choice(where, "norm", norm, check.NORMS)
    check.choice(where, "reduction", reduction, check.REDUCTIONS)
    return autograd.TripletOptions(
        check.number(where, "margin", margin),
        check.number(where, "weight", weight),
        check.number(where, "norm_weight", norm_weight),
        metric,
        norm,
        reduction,
    )
