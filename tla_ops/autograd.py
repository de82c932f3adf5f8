"""The autograd Functions: a forward operator, a backward operator, and what is saved between.

Backward computes distances again from the rows, so that only inputs and picks are kept. Forward and
its context are one method: a separate ``setup_context`` costs torch 40 microseconds a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import ops
from ._dispatch import with_positives_dim


class TripletOptions(NamedTuple):
    """The scalars of a triplet loss, in the order of the operators' schemas."""

    margin: float
    weight: float
    norm_weight: float
    metric: str
    norm: str
    reduction: str


class MineOptions(NamedTuple):
    """How the negative is mined: the operators' remaining arguments."""

    target_labels: Tensor | None
    exclude: Tensor | None
    uniform: Tensor | None
    mining: str
    fast: bool
    screens: str
    packed: Tensor | None


class _NoDoubleBackward(torch.autograd.Function):
    """The identity on a gradient, tied to its sources: differentiating it is an error."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            "tla_ops: double backward is not supported; use the same function in "
            "tla_ops.reference where second derivatives are needed"
        )


def _first_order(
    gradients: Sequence[Tensor], needed: Sequence[bool], *sources: Tensor
) -> list[Tensor | None]:
    """The gradients asked for. Under create_graph a second backward meets an error, not a zero."""
    if torch.is_grad_enabled():
        gradients = [_NoDoubleBackward.apply(g, *sources) for g in gradients]
    return [g if need else None for g, need in zip(gradients, needed, strict=True)]


def _detached(*tensors: Tensor) -> Sequence[Tensor]:
    """For an operator that a backward calls: only under create_graph would it be recorded."""
    return [t.detach() for t in tensors] if torch.is_grad_enabled() else tensors


def _triplet_gradients(
    ctx: Any, grad: Tensor, tensors: Sequence[Tensor], index: Tensor | None, sparse: bool
) -> list[Tensor | None]:
    """Of (anchor, positive, negative or the candidates that `index` picks from)."""
    needs = ctx.needs_input_grad[:3]
    g, anchor, positive, negative = _detached(grad, *tensors)
    grads = ops.triplet_loss_backward(
        g, anchor, with_positives_dim(positive), negative, None, index, *ctx.options, *needs, sparse
    )
    if needs[1] and positive.dim() == 2:
        grads = grads[0], grads[1].squeeze(1), grads[2]
    if needs[2] and sparse and index is not None:
        grads = *grads[:2], _sparse_rows(grads[2], index, negative)
    return _first_order(grads, needs, grad, *tensors)


def _sparse_rows(rows: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Rows (B, D) at `index`, as ``nn.Embedding`` gives; zero for anchors without a pick."""
    if like.shape[0] == 0:
        rows, index = rows[:0], index[:0]
    return torch.sparse_coo_tensor(
        index.clamp(min=0).unsqueeze(0), rows, like.shape, check_invariants=False
    )


class TripletAdvLoss(torch.autograd.Function):
    """Mining and loss in one operator: the loss, or with `details` the operator's four results,
    which cost as much as the rest of the Function."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        positive: Tensor,
        candidates: Tensor,
        labels: Tensor,
        candidate_labels: Tensor,
        mine: MineOptions,
        options: TripletOptions,
        sparse_grad: bool,
        details: bool,
    ) -> Tensor | tuple[Tensor, ...]:
        o = options
        output = ops.triplet_adv_loss(
            anchor, with_positives_dim(positive), candidates, labels, candidate_labels,
            mine.target_labels, mine.exclude, mine.uniform, o.margin, o.weight, o.norm_weight,
            o.metric, mine.mining, o.norm, o.reduction, mine.fast, mine.screens,
            mine.packed,
        )  # fmt: skip
        ctx.options, ctx.sparse_grad = options, sparse_grad
        ctx.save_for_backward(anchor, positive, candidates, output[1])
        if not details:
            return output[0]
        ctx.mark_non_differentiable(*output[1:])
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, index = ctx.saved_tensors
        grads = _triplet_gradients(ctx, grad, tensors, index, ctx.sparse_grad)
        return *grads, None, None, None, None, None, None


class TripletLoss(torch.autograd.Function):
    """The loss of given triplets. Returns (loss, positive distance, negative distance)."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, positive: Tensor, negative: Tensor, options: TripletOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        positives = with_positives_dim(positive)
        output = ops.triplet_loss(anchor, positives, negative, None, None, *options)
        ctx.options = options
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(anchor, positive, negative)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *_triplet_gradients(ctx, grad, ctx.saved_tensors, None, False), None


class BatchHardTripletLoss(torch.autograd.Function):
    """The loss of triplets picked from one batch by the indices given. Returns the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        positive_index: Tensor,
        negative_index: Tensor,
        options: TripletOptions,
    ) -> Tensor:
        ctx.options = options
        ctx.save_for_backward(embeddings, positive_index, negative_index)
        e = embeddings
        return ops.triplet_loss(e, e, e, positive_index, negative_index, *options)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, *picks = ctx.saved_tensors
        g, e = _detached(grad, embeddings)
        e = e.to(ops.result_dtype(e))  # a row's three parts are added up before they are rounded
        as_anchor, as_positive, as_negative = ops.triplet_loss_backward(
            g, e, e, e, *picks, *ctx.options, True, True, True, False
        )
        total = (as_anchor + as_positive + as_negative).to(embeddings.dtype)
        return *_first_order([total], [True], grad, embeddings), None, None, None


class Cdist(torch.autograd.Function):
    """The matrix of distances of (N, B, D) and (N, M, D)."""

    @staticmethod
    def forward(ctx: Any, x1: Tensor, x2: Tensor, metric: str) -> Tensor:
        ctx.metric = metric
        ctx.save_for_backward(x1, x2)
        return ops.cdist(x1, x2, metric)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x1, x2 = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        grads = ops.cdist_backward(*_detached(grad, x1, x2), ctx.metric, *needs)
        return *_first_order(grads, needs, grad, x1, x2), None
