"""Image sets that stay in memory, with positives drawn in constant time per image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tla_ops.training.methods import Batch


class ImageSet:
    """Images (N, C, H, W) in [0, 1] and their labels (N,) int64.

    The rows of each class are listed once, so that another image of an image's class is one random
    number away.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if len(images) != len(labels):
            raise ValueError(
                f"ImageSet: labels must be ({len(images)},) to match images, got ({len(labels)},)"
            )
        self.images = images
        self.labels = labels
        self._by_class = torch.argsort(labels, stable=True)
        self._count = torch.bincount(labels)
        self._start = self._count.cumsum(0) - self._count
        self._position = torch.empty_like(self._by_class)
        self._position[self._by_class] = torch.arange(len(labels), device=labels.device)

    def __len__(self) -> int:
        return len(self.labels)

    def positives(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """For each row (B,) the row of another image of its class, uniform; itself if its class has
        no other.
        """
        labels = self.labels[rows]
        count, start = self._count[labels], self._start[labels]
        uniform = torch.rand(
            len(rows), dtype=torch.float64, device=rows.device, generator=generator
        )
        offset = 1 + (uniform * (count - 1)).long().clamp_(max=(count - 2).clamp_(min=0))
        return self._by_class[start + (self._position[rows] - start + offset) % count]

    def batches(
        self, size: int, candidates: int = 0, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One shuffled epoch of batches; a last, smaller batch is left out.

        Each batch brings one positive per image and ``candidates`` further images drawn without
        replacement from the whole set.
        """
        if size < 1 or size > len(self):
            raise ValueError(f"ImageSet.batches: size must be in 1..{len(self)}, got {size}")
        if candidates > len(self):
            raise ValueError(
                f"ImageSet.batches: candidates must be at most {len(self)}, got {candidates}"
            )
        order = self._permutation(generator)
        for first in range(0, len(self) - size + 1, size):
            rows = order[first : first + size]
            pool = self._permutation(generator)[:candidates]
            yield Batch(
                self.images[rows],
                self.labels[rows],
                self.images[self.positives(rows, generator)],
                self.images[pool],
                self.labels[pool],
            )

    def _permutation(self, generator: torch.Generator | None) -> Tensor:
        return torch.randperm(len(self), generator=generator, device=self.labels.device)


class Splits(NamedTuple):
    """Disjoint parts of one data set: learn on ``train``, choose on ``validation``, report on
    ``test``.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet


def digits(seed: int = 0) -> Splits:
    """The UCI handwritten digits that scikit-learn carries: 1,797 images (1, 8, 8) with 17 grey
    levels, 10 classes.

    Values are scaled from 0..16 to [0, 1]. The split is stratified by class: 60% train, 20%
    validation and 20% test, drawn with ``seed``. Needs scikit-learn; nothing is downloaded.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.float32).div_(16).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)

    def stratified(rows: list[int], share: float) -> tuple[list[int], list[int]]:
        rest, part = train_test_split(
            rows, test_size=share, random_state=seed, stratify=labels[rows].numpy()
        )
        return rest, part

    rest, test = stratified(list(range(len(labels))), 0.2)
    train, validation = stratified(rest, 0.25)
    return Splits(*(ImageSet(images[rows], labels[rows]) for rows in (train, validation, test)))
