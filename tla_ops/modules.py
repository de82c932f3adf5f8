"""Modules over the functions: the loss with its options, and a ring of candidates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import _checks as check
from ._pool import NEVER_LABEL, PackedPool, key_of
from .functional import adv_loss, triplet_adv_loss
from .mining import negatives


class TripletAdvLoss(nn.Module):
    """:func:`tla_ops.triplet_adv_loss` with its options fixed.

    Args:
        margin, weight, norm_weight, metric, mining, norm, precision, reduction, generator,
            sparse_grad, return_details: as for :func:`tla_ops.triplet_adv_loss`, and checked at
            the first call.
    """

    def __init__(
        self,
        *,
        margin: float = 0.03,
        weight: float = 1.0,
        norm_weight: float = 0.0,
        metric: str = "angular",
        mining: str = "hardest",
        norm: str = "l2",
        precision: str | None = None,
        reduction: str = "mean",
        generator: torch.Generator | None = None,
        sparse_grad: bool = False,
        return_details: bool = False,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "margin": margin,
            "weight": weight,
            "norm_weight": norm_weight,
            "metric": metric,
            "mining": mining,
            "norm": norm,
            "precision": precision,
            "reduction": reduction,
            "generator": generator,
            "sparse_grad": sparse_grad,
            "return_details": return_details,
        }

    def forward(
        self,
        anchor: Tensor,
        positive: Tensor,
        candidates: Tensor,
        labels: Tensor,
        candidate_labels: Tensor,
        *,
        target_labels: Tensor | None = None,
        exclude: Tensor | None = None,
    ) -> Any:
        return triplet_adv_loss(
            anchor, positive, candidates, labels, candidate_labels,
            target_labels=target_labels, exclude=exclude, **self.options,
        )  # fmt: skip

    def extra_repr(self) -> str:
        shown = ("margin", "weight", "norm_weight", "metric", "mining", "norm", "reduction")
        return ", ".join(f"{name}={self.options[name]!r}" for name in shown)


class FeatureBank(nn.Module):
    """A ring of candidate features and labels, to mine from without forwarding a pool.

    ``features`` (capacity, dim) and ``labels`` (capacity,) int64 are buffers, in the state_dict
    together with ``cursor``, the slot that is written next; they go to the operators as they are::

        loss = tla_ops.triplet_adv_loss(a, p, bank.features, y, bank.labels)
        loss.backward()
        bank.enqueue(clean_features, y)

    Slots not yet filled carry the label ``torch.iinfo(torch.int64).min``, which no operator picks.
    Enqueue after backward: the loss keeps a reference to ``features``, and autograd refuses
    tensors that were written to in between.

    Args:
        capacity: rows the ring holds, at least 1.
        dim: features a row has, at least 1.
        dtype: float64, float32, bfloat16 or float16.
        device: where the buffers are.

    Raises:
        ValueError, TypeError: capacity, dim or dtype.
    """

    features: Tensor
    labels: Tensor
    cursor: Tensor

    def __init__(
        self,
        capacity: int,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("capacity", capacity), ("dim", dim)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"FeatureBank: {name} must be an int, got {type(value).__name__}")
            if value < 1:
                raise ValueError(f"FeatureBank: {name} must be at least 1, got {value}")
        if dtype not in check.FLOATS:
            raise TypeError(
                f"FeatureBank: dtype must be float64, float32, bfloat16 or float16, got {dtype}"
            )
        self.register_buffer("features", torch.zeros(capacity, dim, dtype=dtype, device=device))
        self.register_buffer("labels", torch.full((capacity,), NEVER_LABEL, device=device))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64, device=device))
        self._pool = PackedPool()

    @property
    def capacity(self) -> int:
        """Rows the ring holds."""
        return self.features.shape[0]

    @torch.no_grad()
    def enqueue(self, features: Tensor, labels: Tensor) -> None:
        """Write rows over the oldest ones. No host synchronisation; nothing of the graph is kept.

        Args:
            features: (N, dim), any float dtype; of more than ``capacity`` rows the last stay.
            labels: (N,) integers.

        Raises:
            ValueError, TypeError: a shape, dtype or device.
        """
        check.rows_like("FeatureBank.enqueue", "features", features, self.features, "the bank")
        labels = check.integers(
            "FeatureBank.enqueue", "labels", labels, features.shape[0], "features",
            self.features, "the bank",
        )  # fmt: skip
        count, capacity = features.shape[0], self.capacity
        first = max(0, count - capacity)
        before = key_of(self.features) if self._pool else None
        start = 0 if before is None else int(self.cursor) + first  # only ever on a CPU
        slots = torch.arange(first, count, device=features.device)
        slots = (slots + self.cursor) % capacity
        self.features.index_copy_(0, slots, features[first:].to(self.features.dtype))
        self.labels.index_copy_(0, slots, labels[first:])
        self.cursor.copy_((self.cursor + count) % capacity)
        if before is not None:
            self._pool.follow(self.features, before, start % capacity, count - first)

    @torch.no_grad()
    def clear(self) -> None:
        """Forget all rows."""
        self.features.zero_()
        self.labels.fill_(NEVER_LABEL)
        self.cursor.zero_()

    def mine_negatives(self, anchor: Tensor, labels: Tensor, **options: Any) -> Any:
        """:func:`tla_ops.mine_negatives` among the bank's rows, which stay packed between calls.

        On a CPU with AMX, AVX-512 VNNI or AVX2 alone the rows are kept as these read them, so that
        only what is enqueued is converted again: one byte (AVX2: two) of memory an
        element for the cosines, and as much for euclidean. Elsewhere this is the function itself.

        Args:
            anchor: (B, dim) features; labels: (B,) integers.
            options: as for :func:`tla_ops.mine_negatives`.

        Returns:
            (distance, index) as from that function, the same bits.

        Raises:
            ValueError, TypeError: an argument's shape, dtype, device or value, by name.

        Whoever writes to ``features`` behind autograd's back (``.data``, a NumPy view) has to call
        :meth:`forget_packed`.
        """
        packed = self._packed(anchor, options)
        return negatives(packed, anchor, self.features, labels, self.labels, **options)

    def triplet_adv_loss(
        self, anchor: Tensor, positive: Tensor, labels: Tensor, **options: Any
    ) -> Any:
        """:func:`tla_ops.triplet_adv_loss` with negatives from the bank, as `mine_negatives` does.

        Args:
            anchor: (B, dim); positive: (B, dim) or (B, K, dim); labels: (B,) integers.
            options: as for :func:`tla_ops.triplet_adv_loss`.

        Returns, raises and gradients: as there. Enqueue after backward.
        """
        packed = self._packed(anchor, options)
        return adv_loss(packed, anchor, positive, self.features, labels, self.labels, **options)

    def _packed(self, anchor: Tensor, options: dict[str, Any]) -> Tensor | None:
        metric = options.get("metric", "angular")
        known = metric in ("angular", "cosine", "euclidean") and isinstance(anchor, Tensor)
        if not known or anchor.dim() != 2 or options.get("mining") == "random":
            return None
        return self._pool.of(self.features, self.labels, anchor.shape[0], metric)

    def forget_packed(self) -> None:
        """Have the next search pack all rows: they changed in a way that autograd missed."""
        self._pool.forget()

    def __len__(self) -> int:
        """Filled slots; waits for the device."""
        return int((self.labels != NEVER_LABEL).sum())

    def extra_repr(self) -> str:
        capacity, dim = self.features.shape
        return f"{capacity}, {dim}, dtype={self.features.dtype}"
