"""Images that stay in memory, on the device that trains on them, with positives drawn in constant
time per image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tla_ops.training.augment import Augment
from tla_ops.training.methods import Batch


class ImageSet:
    """Images (N, C, H, W), uint8 or floating, and their labels (N,) int64.

    ``scale`` is the stored value that stands for 1.0; 255 for uint8 and 1 for floating by default.
    Images are kept as they come (``stored``), so that a set of photos takes a byte a value, and
    become float32 in [0, 1] when they are taken. The rows of each class are listed once, so that
    another image of an image's class is one random number away. Nothing but the constructor waits
    for the device.
    """

    def __init__(self, images: Tensor, labels: Tensor, scale: float | None = None) -> None:
        if images.dim() != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise ValueError(
                "ImageSet: images must be (N, C, H, W), uint8 or floating, "
                f"got {tuple(images.shape)}, {images.dtype}"
            )
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"ImageSet: labels must be ({len(images)},) int64 to match images, "
                f"got {tuple(labels.shape)}, {labels.dtype}"
            )
        if scale is None:
            scale = 255.0 if images.dtype == torch.uint8 else 1.0
        if not scale > 0:
            raise ValueError(f"ImageSet: scale must be positive, got {scale}")
        self.stored = images
        self.labels = labels
        self.scale = scale
        self._by_class = torch.argsort(labels, stable=True)
        self._count = torch.bincount(labels)
        self._start = self._count.cumsum(0) - self._count
        self._position = torch.empty_like(self._by_class)
        self._position[self._by_class] = torch.arange(len(labels), device=labels.device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        channels, height, width = self.stored.shape[1:]
        return channels, height, width

    @property
    def images(self) -> Tensor:
        """All images (N, C, H, W) as float32 in [0, 1], converted at each call: for small sets."""
        return self._unit(self.stored)

    def take(self, rows: Tensor) -> Tensor:
        """The images of rows (B,) as float32 in [0, 1], (B, C, H, W)."""
        return self._unit(self.stored[rows])

    def subset(self, rows: Tensor) -> ImageSet:
        """A set of its own with the images of rows (B,), in their order."""
        return ImageSet(self.stored[rows], self.labels[rows], self.scale)

    def to(self, device: torch.device | str) -> ImageSet:
        """This set on ``device``; itself where it is there."""
        stored, labels = self.stored.to(device), self.labels.to(device)
        if stored is self.stored and labels is self.labels:
            return self
        return ImageSet(stored, labels, self.scale)

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

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` different rows, every subset and order equally likely.

        The head of a permutation of all rows: O(N), since what is exact in O(count) goes one row
        after the other, or waits for the device to count repetitions. N of 100,000 cost 0.7 ms on
        one core.
        """
        if not 0 <= count <= len(self):
            raise ValueError(f"ImageSet.draw: count must be in 0..{len(self)}, got {count}")
        if count == 0:
            return torch.empty(0, dtype=torch.int64, device=self.labels.device)
        return self.epoch(generator)[:count]

    def epoch(self, generator: torch.Generator | None = None) -> Tensor:
        """All rows (N,), shuffled."""
        return torch.randperm(len(self), generator=generator, device=self.labels.device)

    def batch(
        self,
        rows: Tensor,
        candidates: int = 0,
        *,
        augment: Augment | None = None,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """The batch of rows (B,), with one positive per image and ``candidates`` further images
        drawn without replacement from the whole set.

        ``augment`` is applied to images, positives and candidates on their own.
        """
        pool = self.draw(candidates, generator)
        positives = self.positives(rows, generator)

        def part(rows: Tensor) -> Tensor:
            images = self.take(rows)
            return images if augment is None or len(rows) == 0 else augment(images, generator)

        return Batch(part(rows), self.labels[rows], part(positives), part(pool), self.labels[pool])

    def batches(
        self,
        size: int,
        candidates: int = 0,
        generator: torch.Generator | None = None,
        *,
        augment: Augment | None = None,
    ) -> Iterator[Batch]:
        """One shuffled epoch of :meth:`batch`; a last, smaller batch is left out."""
        if size < 1 or size > len(self):
            raise ValueError(f"ImageSet.batches: size must be in 1..{len(self)}, got {size}")
        if candidates < 0 or candidates > len(self):
            raise ValueError(
                f"ImageSet.batches: candidates must be in 0..{len(self)}, got {candidates}"
            )
        order = self.epoch(generator)
        for first in range(0, len(self) - size + 1, size):
            rows = order[first : first + size]
            yield self.batch(rows, candidates, augment=augment, generator=generator)

    def _unit(self, images: Tensor) -> Tensor:
        images = images.to(torch.float32)
        return images if self.scale == 1 else images / self.scale


def hold_out(train: ImageSet, count: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Split ``count`` images off: (the rest, the held out), disjoint, both in the set's order.

    Classes keep their shares to within one image. The split depends on ``seed`` and the labels
    alone, not on the device.
    """
    if not 0 < count < len(train):
        raise ValueError(f"hold_out: count must be in 1..{len(train) - 1}, got {count}")
    labels = train.labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    size = torch.bincount(labels)
    # Largest remainders, in integers; of equal ones the lower class comes first.
    quota, remainder = size * count // len(labels), size * count % len(labels)
    missing = count - int(quota.sum())
    quota[torch.argsort(remainder, descending=True, stable=True)[:missing]] += 1
    rank = torch.arange(len(labels)) - (size.cumsum(0) - size)[labels[by_class]]
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[by_class] = rank < quota[labels[by_class]]
    device = train.labels.device
    rest, out = (train.subset(mask.nonzero()[:, 0].to(device)) for mask in (~held, held))
    return rest, out
