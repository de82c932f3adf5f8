"""Networks with a defence in front of them, by name: what recipes and checkpoints build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil
from typing import Any

from torch import nn

from tla_ops.training.classifier import Classifier, Shape
from tla_ops.training.defences import RandomResizePad, ThermometerEncoding, behind

ENLARGED = Fraction(331, 299)
"""The largest side that Xie et al. (2018) show a network, by the image's."""


def thermometer(
    classes: int = 10,
    image_shape: Shape = (1, 8, 8),
    network: str = "small",
    levels: int = 16,
    options: Mapping[str, Any] | None = None,
) -> Classifier:
    """A network on thermometer codes (Buckman et al. 2018): :class:`defences.ThermometerEncoding`
    in front of it.

    Args:
        network: its name in ``models.MODELS``; it is made for images (C·levels, H, W), which
            torchvision's do not take.
        levels: buckets of a pixel, 2 or more; 16 in that paper.
        options: what else the network's builder takes, such as ``units`` of "wrn".

    A "wrn" standardises the codes of an image, all levels together, as it does pixels, and as the
    network of Athalye et al. (2018) does; its ``standardize`` turns that off. The network's
    "body.6" is "body.1.6" here.

    Raises:
        ValueError: as ``models.build`` for the network, and for ``levels`` below 2.
    """
    from tla_ops.training.models import build  # whose list has this builder

    encoding = ThermometerEncoding(levels, image_shape[0])
    coded = (image_shape[0] * levels, *image_shape[1:])
    return behind(encoding, build(network, classes, coded, **(options or {})), image_shape)


def randomized(
    classes: int = 10,
    image_shape: Shape = (1, 8, 8),
    network: str = "small",
    smallest: int | None = None,
    side: int | None = None,
    value: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> Classifier:
    """A network behind random resizing and padding (Xie et al. 2018), in training and evaluation:
    :class:`defences.RandomResizePad` in front of it.

    Args:
        network: its name in ``models.MODELS``; it is made for images (C, side, side).
        smallest: the side that images are resized to at least; None: their own, the longer one.
        side: what they are padded to; None: ``smallest`` times 331/299, as in that paper, rounded
            up. Where it is ``smallest`` itself, nothing is random: images are resized to it, by
            their nearest pixels.
        value: of the padding.
        options: what else the network's builder takes, such as ``units`` of "wrn".

    A network that ends in a global pooling takes its weights along from images of any size. Others
    have those of the same ``side`` without randomness.

    Raises:
        ValueError: as ``models.build`` for the network, and where ``smallest`` is above ``side``.
    """
    from tla_ops.training.models import build  # whose list has this builder

    smallest = max(image_shape[1:]) if smallest is None else smallest
    side = ceil(smallest * ENLARGED) if side is None else side
    random = smallest != side
    layers = RandomResizePad(smallest, side, value) if random else nn.Upsample((side, side))
    padded = (image_shape[0], side, side)
    return behind(layers, build(network, classes, padded, **(options or {})), image_shape)


MODELS: dict[str, Callable[..., Classifier]] = {
    "thermometer": thermometer,
    "randomized": randomized,
}
