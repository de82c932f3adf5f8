"""What attackers of random resizing and padding take for their target (Xie et al. 2018): the
network over fixed patterns of the random layers in front of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tla_ops.training.classifier import Classifier, Shape
from tla_ops.training.defences import resize_and_pad

COUNT = 21
"""Of the patterns in that paper."""
ROWS = 64
"""Images that a network sees at once, where they are of several patterns."""


class Pattern(NamedTuple):
    """One outcome of ``defences.RandomResizePad``."""

    side: int
    """That the image is resized to."""
    top: int
    left: int


class Patterns(Classifier):
    """A network over fixed patterns, the target of the ensemble-pattern attack: its logits are
    their mean over ``predefined(smallest, side, count)``.

    That paper wants all of the patterns that the attacker chose to fail. Which ones, and that the
    attack is on the mean of their logits, is our choice: DeepFool and C&W need the logits of one
    model. ``features`` are means, too, which the linear head takes to the same logits.

    Args:
        network: shares its parameters; it sees images (C, side, side).
        image_shape: (channels, height, width) of the images.
        smallest, side, value: as for ``defences.RandomResizePad``.
        count: number of patterns, 1 or more; all of them where there are no more.

    As many patterns are seen at once as make 64 images, and their activations are made anew in
    backward: memory is that of 64 images, or of one pattern of all of them.
    """

    def __init__(
        self,
        network: Classifier,
        image_shape: Shape,
        *,
        smallest: int,
        side: int,
        value: float = 0.0,
        count: int = COUNT,
    ) -> None:
        dim, classes = network.head.in_features, network.head.out_features
        super().__init__(network.body, dim, classes, image_shape, network.head)
        self.patterns = predefined(smallest, side, count)
        self.side, self.value = side, value

    def features(self, images: Tensor) -> Tensor:
        total, at_once = torch.zeros((), device=images.device), max(1, ROWS // len(images))
        for first in range(0, len(self.patterns), at_once):
            some = self.patterns[first : first + at_once]
            if torch.is_grad_enabled():
                total = total + checkpoint(self._sum, images, some, use_reentrant=False)
            else:
                total = total + self._sum(images, some)
        return total / len(self.patterns)

    def _sum(self, images: Tensor, patterns: list[Pattern]) -> Tensor:
        """Of the features over some patterns."""
        numbers = torch.tensor(patterns, device=images.device).repeat_interleave(len(images), 0)
        repeated = images.repeat(len(patterns), 1, 1, 1)
        sides, top, left = numbers.unbind(1)
        seen = resize_and_pad(repeated, sides, top, left, side=self.side, value=self.value)
        found: Tensor = self.body(seen)
        return found.unflatten(0, (len(patterns), len(images))).sum(0)


def predefined(smallest: int, side: int, count: int = COUNT) -> list[Pattern]:
    """``count`` patterns among those of images that are resized to ``smallest`` ... ``side - 1``
    and padded to ``side``, spread over sizes and places: in a corner or in the middle, by turns,
    of sizes at equal distances. Where that makes fewer they are fewer.

    Raises:
        ValueError: where ``smallest`` is below 1 or not below ``side``, or ``count`` below 1.
    """
    if not 1 <= smallest < side:
        raise ValueError(
            f"predefined: smallest must be at least 1 and below side, got {smallest} and {side}"
        )
    if count < 1:
        raise ValueError(f"predefined: count must be at least 1, got {count}")
    found = []
    for turn in range(count):
        size = smallest + round(turn * (side - 1 - smallest) / max(1, count - 1))
        spare = side - size
        middle = spare // 2
        places = [(0, 0), (0, spare), (spare, 0), (spare, spare), (middle, middle)]
        found.append(Pattern(size, *places[turn % len(places)]))
    return list(dict.fromkeys(found))
