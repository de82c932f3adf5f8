"""The mining functions: argument checks, documentation, and the choice of what runs."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _checks as check
from . import ops, reference
from ._dispatch import (
    check_generator,
    has_kernels,
    is_fast,
    screens,
    uniform_draws,
    with_positives_dim,
)


def mine_negatives(
    anchor: Tensor,
    candidates: Tensor,
    labels: Tensor,
    candidate_labels: Tensor,
    *,
    mining: str = "hardest",
    metric: str = "angular",
    positive: Tensor | None = None,
    target_labels: Tensor | None = None,
    exclude: Tensor | None = None,
    precision: str | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Each anchor's negative among the candidates of another class, as the TLA paper mines it.

    Args:
        anchor: (B, D) features.
        candidates: (M, D) features.
        labels: (B,) integer classes; candidate_labels: (M,).
        mining, metric, target_labels, exclude, precision, generator: as for
            :func:`tla_ops.triplet_adv_loss`.
        positive: (B, D) or (B, K, D), needed by ``mining="semihard"`` and used by it alone.

    Returns:
        (distance, index), each (B,): float32 (float64 for float64 anchors), detached; int64. Ties
        go to the lowest index; a NaN distance ranks hardest; a row without any negative has +inf
        and -1.

    Raises:
        ValueError, TypeError: an argument's shape, dtype, device or value, by name.
    """
    return negatives(
        None, anchor, candidates, labels, candidate_labels, mining, metric, positive,
        target_labels, exclude, precision, generator,
    )  # fmt: skip


def negatives(
    packed: Tensor | None,
    anchor: Tensor,
    candidates: Tensor,
    labels: Tensor,
    candidate_labels: Tensor,
    mining: str = "hardest",
    metric: str = "angular",
    positive: Tensor | None = None,
    target_labels: Tensor | None = None,
    exclude: Tensor | None = None,
    precision: str | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`mine_negatives` among candidates of which a bank may keep `packed` rows."""
    where = "mine_negatives"
    check.choice(where, "mining", mining, check.NEGATIVE_MINING)
    check.anchors(where, "anchor", anchor)
    if positive is not None:
        check.positives(where, positive, anchor)
    elif mining == "semihard":
        raise ValueError(f'{where}: positive must be given for mining="semihard", got None')
    return _mine(
        where, anchor, candidates, labels, candidate_labels, mining, metric, positive,
        target_labels, exclude, precision, generator, same_class=False, packed=packed,
    )  # fmt: skip


def mine_positives(
    anchor: Tensor,
    candidates: Tensor,
    labels: Tensor,
    candidate_labels: Tensor,
    *,
    mining: str = "hardest",
    metric: str = "angular",
    exclude: Tensor | None = None,
    precision: str | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Each anchor's positive among the candidates of its own class.

    Args:
        anchor: (B, D) features.
        candidates: (M, D) features.
        labels: (B,) integer classes; candidate_labels: (M,).
        mining: ``"hardest"`` the farthest (Hermans et al. 2017), ``"easiest"`` the nearest,
            ``"random"`` any, uniformly.
        metric, exclude, precision, generator: as for :func:`tla_ops.triplet_adv_loss`; exclude the
            anchor's own row where anchors are part of the pool.

    Returns:
        (distance, index) as for :func:`mine_negatives`; +inf and -1 where no other has the class.

    Raises:
        ValueError, TypeError: an argument's shape, dtype, device or value, by name.
    """
    where = "mine_positives"
    check.choice(where, "mining", mining, check.POSITIVE_MINING)
    check.anchors(where, "anchor", anchor)
    return _mine(
        where, anchor, candidates, labels, candidate_labels, mining, metric, None, None, exclude,
        precision, generator, same_class=True,
    )  # fmt: skip


def _mine(
    where: str,
    anchor: Tensor,
    candidates: Tensor,
    labels: Tensor,
    candidate_labels: Tensor,
    mining: str,
    metric: str,
    positive: Tensor | None,
    target_labels: Tensor | None,
    exclude: Tensor | None,
    precision: str | None,
    generator: torch.Generator | None,
    same_class: bool,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    metric = check.metric(where, metric)
    labels, candidate_labels, target_labels, exclude = check.pool(
        where, anchor, candidates, labels, candidate_labels, target_labels, exclude
    )
    fast = is_fast(where, precision)
    check_generator(where, anchor, generator)
    if not has_kernels(anchor, "mine"):
        if same_class:
            return reference.mine_positives(
                anchor, candidates, labels, candidate_labels, mining=mining, metric=metric,
                exclude=exclude, generator=generator,
            )  # fmt: skip
        return reference.mine_negatives(
            anchor, candidates, labels, candidate_labels, mining=mining, metric=metric,
            positive=positive, target_labels=target_labels, exclude=exclude, generator=generator,
        )  # fmt: skip
    uniform = uniform_draws(mining, anchor, generator)
    if positive is not None:
        positive = with_positives_dim(positive).detach() if mining == "semihard" else None
    return ops.mine(
        anchor.detach(), candidates.detach(), labels, candidate_labels, positive, target_labels,
        exclude, uniform, metric, mining, same_class, fast, screens(anchor),
        packed,
    )  # fmt: skip
