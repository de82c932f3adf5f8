"""A bank's rows as a CPU's screen reads them, kept from one search to the next.

A search rounds and lays out its candidates while it goes through them; for few anchors that takes
longer than the products. What is kept is in step with the features as long as these are written to
by the bank or in ways that autograd knows of: a tensor's version counts those.
"""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from . import ops

NEVER_LABEL = torch.iinfo(torch.int64).min
"""The label of an unfilled slot: no operator ever picks a candidate that carries it."""

FEWEST_ROWS, FEWEST_ANCHORS, FEWEST_FEATURES = 1024, 8, 16
"""Smaller searches are not screened, or need no help (``csrc/common/plan.h``)."""

Key = tuple[int, ...]


class _Packed:
    """Packed rows, the state of the features they belong to, and how many were written since."""

    def __init__(self, features: Tensor, key: Key, rows: Tensor) -> None:
        self.key, self.rows, self.written = key, rows, 0
        self._features = weakref.ref(features)  # another tensor may get the address of a former one

    def belongs_to(self, features: Tensor, key: Key | None) -> bool:
        return self._features() is features and self.key == key


class PackedPool:
    """What is kept of one bank. A copy of the bank, or another process, starts afresh."""

    def __init__(self) -> None:
        self._kept: dict[bool, _Packed] = {}  # for the cosines, for euclidean
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return PackedPool, ()

    def of(self, features: Tensor, labels: Tensor, anchors: int, metric: str) -> Tensor | None:
        """The packed rows for a search with so many anchors; None where it does without."""
        key = key_of(features)
        rows, dim = features.shape
        if key is None or anchors < FEWEST_ANCHORS:
            return None
        if rows < FEWEST_ROWS or dim < FEWEST_FEATURES:
            return None
        kind = metric != "euclidean"
        with self._lock:
            kept = self._kept.get(kind)
            if kept is not None and kept.belongs_to(features, key) and kept.written < rows:
                return kept.rows
            self._kept.pop(kind, None)
            # What rows have in common is found while packing: not before there are some, and again
            # when all have been replaced.
            if 2 * int((labels != NEVER_LABEL).sum()) < rows:
                return None
            packed = ops.pack_pool(features, metric)
            if packed.numel() == 0:  # nothing to screen with
                return None
            if key_of(features) == key:  # nobody wrote meanwhile
                self._kept[kind] = _Packed(features, key, packed)
                return packed
            return None

    def follow(self, features: Tensor, before: Key | None, first: int, count: int) -> None:
        """The bank wrote `count` rows from slot `first` on, around the end, all at once, to
        features that were at `before`."""
        with self._lock:
            for kind, kept in list(self._kept.items()):
                now = key_of(features)
                if (
                    before is None
                    or not kept.belongs_to(features, before)
                    or now != _written_once(before)
                ):
                    del self._kept[kind]
                    continue
                rows = len(features)
                ops.repack_pool(kept.rows, features, first, min(count, rows - first))
                ops.repack_pool(kept.rows, features, 0, max(0, first + count - rows))
                kept.key = now
                kept.written += count

    def __bool__(self) -> bool:
        return bool(self._kept)

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()


def key_of(features: Tensor) -> Key | None:
    """Tells one state of the features from another; None where nothing tells."""
    # Nobody counts an inference tensor's versions, or what another process writes. A trace would
    # keep the packed rows for good.
    if not features.is_cpu or features.is_inference() or features.is_shared():
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    if type(features) is not Tensor or _get_current_dispatch_mode() is not None:
        return None
    return (features._version, features.data_ptr(), *features.shape)


def _written_once(key: Key) -> Key:
    return (key[0] + 1, *key[1:])
