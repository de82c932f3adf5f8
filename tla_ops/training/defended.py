"""Networks with a defence in front of them, by name: what recipes and checkpoints build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tla_ops.training.classifier import Classifier, Shape
from tla_ops.training.defences import ThermometerEncoding, behind


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


MODELS: dict[str, Callable[..., Classifier]] = {"thermometer": thermometer}
