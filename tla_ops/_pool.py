"""A bank's rows as a CPU's matrix unit reads them, kept from one search to the next.

A search packs its candidates while it goes through them. For a bank that is searched again and
again this is most of its work, so from the second search on the packed rows are kept. They are in
step with the features for as long as nobody but the bank writes to these: the tensor's version
tells, which counts all writes but those behind autograd's back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops
from ._dispatch import POOL

SMALLEST = 1024
"""Rows of a bank that is worth it."""

Key = tuple[int, ...]


class PackedPool:
    """Follows one tensor of features; a copy or another tensor in its place starts afresh."""

    _key: Key | None
    _packed: dict[bool, Tensor]  # for the cosines, for euclidean

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._key, self._packed = None, {}

    def __reduce__(self) -> tuple:
        return PackedPool, ()  # a copy of the features has another address

    def of(self, features: Tensor, metric: str) -> Tensor | None:
        """The packed rows, from the second search of unchanged features on."""
        if metric == "chebyshev" or not features.is_cpu or len(features) < SMALLEST:
            return None
        if not self.is_current(features):
            self._key, self._packed = _key(features), {}
            return None
        kind = metric != "euclidean"
        if kind not in self._packed:
            with torch.no_grad():
                self._packed[kind] = ops.pack_pool(features.detach(), metric)
        packed = self._packed[kind]
        return packed if packed.numel() > 0 else None

    def is_current(self, features: Tensor) -> bool:
        """Whether nobody wrote to the features since the last search, or the last `follow`."""
        return self._key is not None and self._key == _key(features)

    def follow(self, features: Tensor, first: int, count: int) -> None:
        """The bank wrote `count` rows from slot `first` on, around the end."""
        rows = len(features)
        for packed in self._packed.values():
            if packed.numel() > 0:
                ops.repack_pool(packed, features.detach(), first, min(count, rows - first))
                ops.repack_pool(packed, features.detach(), 0, max(0, first + count - rows))
        self._key = _key(features)


def pool_of(features: Tensor) -> PackedPool:
    """The one that these features carry from now on."""
    pool = getattr(features, POOL, None)
    if pool is None:
        pool = PackedPool()
        setattr(features, POOL, pool)
    return pool


def _key(features: Tensor) -> Key | None:
    # Nobody counts an inference tensor's versions, or what another process writes; a subclass may
    # be a fake tensor.
    if type(features) is not Tensor or not features.is_cpu or features.is_inference():
        return None
    if features.is_shared():
        return None
    return (features.data_ptr(), features._version, *features.shape)
