"""Classifiers that expose their penultimate layer, model(x) = head(features(x)), by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from tla_ops.training import at2l_models, defended, pretrained
from tla_ops.training.classifier import Classifier as Classifier
from tla_ops.training.classifier import Shape as Shape
from tla_ops.training.classifier import wrap as wrap
from tla_ops.training.residual import resnet, wide_resnet


def small(classes: int = 10, image_shape: Shape = (1, 8, 8), dim: int = 128) -> Classifier:
    """Two convolutions and one hidden layer with batch normalisation; made for 8 x 8 digits on a
    CPU.
    """
    channels, height, width = image_shape
    body = nn.Sequential(
        *_conv_bn_relu(channels, 32),
        *_conv_bn_relu(32, 64, stride=2),
        nn.Flatten(),
        *_linear_bn_relu(64 * math.ceil(height / 2) * math.ceil(width / 2), dim),
    )
    return Classifier(body, dim, classes, image_shape)


def lenet(classes: int = 10, image_shape: Shape = (1, 28, 28), width: float = 1.0) -> Classifier:
    """The MNIST network of the TLA paper (supplement, Table 1): four 3 x 3 convolutions, 1,024
    features; ``width`` times as many channels and features. It takes any number of channels.
    """
    if tuple(image_shape[1:]) != (28, 28):
        raise ValueError(f"lenet: image_shape must be (C, 28, 28), got {tuple(image_shape)}")
    if not 1 / 32 <= width <= 16:
        raise ValueError(f"lenet: width must be in 1/32..16, got {width}")
    a, b, c, d, dim = (round(width * channels) for channels in (32, 64, 128, 256, 1024))
    body = nn.Sequential(
        *_conv_bn_relu(image_shape[0], a),
        *_conv_bn_relu(a, b),
        nn.MaxPool2d(2),
        *_conv_bn_relu(b, c),
        *_conv_bn_relu(c, d),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *_linear_bn_relu(7 * 7 * d, dim),
    )
    return Classifier(body, dim, classes, image_shape)


def mlp(
    classes: int = 10, image_shape: Shape = (1, 28, 28), hidden: Sequence[int] = (1024, 1024)
) -> Classifier:
    """Fully connected layers with ReLU for MNIST, of the widths ``hidden``; the last is the number
    of features.

    The TLA paper's rebuttal names an MLP and prints no architecture: the default is our choice.
    """
    if len(hidden) == 0:
        raise ValueError("mlp: hidden must have one width or more, got none")
    layers: list[nn.Module] = [nn.Flatten()]
    for dim_in, dim_out in pairwise([math.prod(image_shape), *hidden]):
        layers += [nn.Linear(dim_in, dim_out), nn.ReLU(inplace=True)]
    return Classifier(nn.Sequential(*layers), hidden[-1], classes, image_shape)


def convnet(classes: int = 10, image_shape: Shape = (3, 32, 32)) -> Classifier:
    """Two by two 3 x 3 convolutions (64 and 128 channels) and two layers of 256 features, for
    CIFAR-10.

    The TLA paper's rebuttal names a ConvNet and prints no architecture: ours is the CIFAR-10
    network of Carlini and Wagner (2017, Table I) without its dropout.
    """
    channels, height, width = image_shape
    if min(height, width) < 16:  # the second pooling has nothing left
        raise ValueError(f"convnet: image_shape must be at least 16 x 16, got {tuple(image_shape)}")
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(outputs, outputs, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        height, width = (height - 4) // 2, (width - 4) // 2
    layers += [nn.Flatten(), nn.Linear(128 * height * width, 256), nn.ReLU(inplace=True)]
    layers += [nn.Linear(256, 256), nn.ReLU(inplace=True)]
    return Classifier(nn.Sequential(*layers), 256, classes, image_shape)


def wrn(
    classes: int = 10,
    image_shape: Shape = (3, 32, 32),
    units: int = 5,
    widen: int = 10,
    standardize: bool = True,
) -> Classifier:
    """The wide residual network w32-10 of Madry et al. for CIFAR-10: 640 features at ``widen=10``.

    The TLA paper prints six units a stage (supplement, Table 2) and calls them Madry's network,
    which has five: the default. Like that network, it standardises each image first
    (``standardize``).
    """
    channels, height, width = image_shape
    if height % 4 or width % 4:  # two strides of 2, whose shortcuts pool
        raise ValueError(
            f"wrn: image_shape must have sides divisible by 4, got {tuple(image_shape)}"
        )
    body, dim = wide_resnet(channels, units, widen, standardize)
    return Classifier(body, dim, classes, image_shape)


def resnet50(classes: int = 200, image_shape: Shape = (3, 64, 64)) -> Classifier:
    """ResNet-50 for Tiny ImageNet (TLA, supplement C.1: "a stride of 2 for the first convolution"),
    2,048 features.

    Its ``body`` has the names and shapes of torchvision's ``resnet50``, its ``head`` is that one's
    ``fc``.
    """
    body, dim = resnet(image_shape[0], (3, 4, 6, 3))
    return Classifier(body, dim, classes, image_shape)


MODELS: dict[str, Callable[..., Classifier]] = {
    "small": small,
    "lenet": lenet,
    "mlp": mlp,
    "convnet": convnet,
    "wrn": wrn,
    "resnet50": resnet50,
    **at2l_models.MODELS,
    **pretrained.MODELS,
    **defended.MODELS,
}


def build(name: str, classes: int, image_shape: Shape, /, **options: Any) -> Classifier:
    """A new network of ``MODELS``.

    Args:
        name: its key there.
        classes: number of logits, 1 or more.
        image_shape: (channels, height, width).
        options: what else the builder takes, such as ``units`` of "wrn".

    Raises:
        ValueError: for an unknown name or option, or a shape the network cannot take.
    """
    if name not in MODELS:
        raise ValueError(f"build: name must be one of {', '.join(MODELS)}, got {name!r}")
    if classes < 1:
        raise ValueError(f"build: classes must be 1 or more, got {classes}")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            "build: image_shape must be three positive numbers (channels, height, width), "
            f"got {tuple(image_shape)}"
        )
    known = list(inspect.signature(MODELS[name]).parameters)[2:]
    for option in options:
        if option not in known:
            listed = f"one of {', '.join(known)}" if known else "left out"
            raise ValueError(f"build: options of {name} must be {listed}, got {option!r}")
    return MODELS[name](classes=classes, image_shape=image_shape, **options)


def _conv_bn_relu(channels_in: int, channels_out: int, stride: int = 1) -> list[nn.Module]:
    # No bias: the batch normalisation that follows has one.
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]


def _linear_bn_relu(dim_in: int, dim_out: int) -> list[nn.Module]:
    return [
        nn.Linear(dim_in, dim_out, bias=False),
        nn.BatchNorm1d(dim_out),
        nn.ReLU(inplace=True),
    ]
