"""The compiled operators, ``torch.ops.tla_ops.*``, with their fake (meta) kernels.

Schemas stand in ``csrc/ops.cpp``. Nothing is checked here: ``functional.py`` does that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library

_library.load()

mine = torch.ops.tla_ops.mine.default
triplet_adv_loss = torch.ops.tla_ops.triplet_adv_loss.default
triplet_loss = torch.ops.tla_ops.triplet_loss.default
triplet_loss_backward = torch.ops.tla_ops.triplet_loss_backward.default
cdist = torch.ops.tla_ops.cdist.default
cdist_backward = torch.ops.tla_ops.cdist_backward.default
pack_pool = torch.ops.tla_ops.pack_pool.default
repack_pool = torch.ops.tla_ops.repack_pool.default


def result_dtype(anchor: Tensor) -> torch.dtype:
    """Losses and distances are float32, float64 for float64 anchors."""
    return torch.float64 if anchor.dtype == torch.float64 else torch.float32


def _losses(anchor: Tensor, reduction: str) -> Tensor:
    shape = (anchor.shape[0],) if reduction == "none" else ()
    return anchor.new_empty(shape, dtype=result_dtype(anchor))


@torch.library.register_fake("tla_ops::mine")
def _(anchor, candidates, labels, candidate_labels, positive, target_labels, exclude, uniform,
      metric, mining, same_class, fast, screens="", packed=None):  # fmt: skip
    rows = anchor.shape[0]
    distance = anchor.new_empty((rows,), dtype=result_dtype(anchor))
    return distance, anchor.new_empty((rows,), dtype=torch.int64)


@torch.library.register_fake("tla_ops::triplet_adv_loss")
def _(anchor, positive, candidates, labels, candidate_labels, target_labels, exclude, uniform,
      margin, weight, norm_weight, metric, mining, norm, reduction, fast, screens="",
      packed=None):  # fmt: skip
    rows, count = positive.shape[:2]
    dtype = result_dtype(anchor)
    return (
        _losses(anchor, reduction),
        anchor.new_empty((rows,), dtype=torch.int64),
        anchor.new_empty((rows, count), dtype=dtype),
        anchor.new_empty((rows,), dtype=dtype),
    )


@torch.library.register_fake("tla_ops::triplet_loss")
def _(anchor, positive, negative, positive_index, negative_index, margin, weight, norm_weight,
      metric, norm, reduction):  # fmt: skip
    rows = anchor.shape[0]
    count = positive.shape[1] if positive_index is None else 1
    dtype = result_dtype(anchor)
    return (
        _losses(anchor, reduction),
        anchor.new_empty((rows, count), dtype=dtype),
        anchor.new_empty((rows,), dtype=dtype),
    )


@torch.library.register_fake("tla_ops::triplet_loss_backward")
def _(grad, anchor, positive, negative, positive_index, negative_index, margin, weight,
      norm_weight, metric, norm, reduction, need_anchor, need_positive, need_negative,
      sparse):  # fmt: skip
    shape = (anchor.shape[0] if sparse else negative.shape[0], anchor.shape[1])
    return (
        anchor.new_empty(anchor.shape if need_anchor else (0,)),
        positive.new_empty(positive.shape if need_positive else (0,)),
        negative.new_empty(shape if need_negative else (0,)),
    )


@torch.library.register_fake("tla_ops::cdist")
def _(x1, x2, metric):
    return x1.new_empty((x1.shape[0], x1.shape[1], x2.shape[1]), dtype=result_dtype(x1))


@torch.library.register_fake("tla_ops::cdist_backward")
def _(grad, x1, x2, metric, need_x1, need_x2):
    return (
        x1.new_empty(x1.shape if need_x1 else (0,)),
        x2.new_empty(x2.shape if need_x2 else (0,)),
    )


@torch.library.register_fake("tla_ops::pack_pool")
def _(candidates, metric):
    # Its size depends on the processor: traced code does not keep packed rows.
    raise NotImplementedError("tla_ops::pack_pool cannot be traced")


@torch.library.register_fake("tla_ops::repack_pool")
def _(packed, candidates, first, count):
    return None
