"""Classifiers that expose their penultimate layer: model(x) = head(features(x))."""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Module):
    """A network in two parts.

    ``features(images)`` gives the penultimate activations (B, D), after the last ReLU;
    ``head(features)`` the logits (B, classes). ``image_shape`` is the (channels, height, width) it
    was made for.
    """

    def __init__(
        self, body: nn.Module, dim: int, classes: int, image_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(dim, classes)
        self.image_shape = image_shape

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def small(
    classes: int = 10, image_shape: tuple[int, int, int] = (1, 8, 8), dim: int = 128
) -> Classifier:
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


def lenet(classes: int = 10) -> Classifier:
    """The MNIST network of the TLA paper (supplement, Table 1): four 3 x 3 convolutions, 1,024
    features.
    """
    body = nn.Sequential(
        *_conv_bn_relu(1, 32),
        *_conv_bn_relu(32, 64),
        nn.MaxPool2d(2),
        *_conv_bn_relu(64, 128),
        *_conv_bn_relu(128, 256),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *_linear_bn_relu(7 * 7 * 256, 1024),
    )
    return Classifier(body, 1024, classes, (1, 28, 28))


def wrn(classes: int = 10, units: int = 5, widen: int = 10) -> Classifier:
    """The wide residual network w32-10 of Madry et al. for CIFAR-10: 640 features at ``widen=10``.

    The TLA paper prints six units a stage (supplement, Table 2); Madry's network, and the default
    here, has five.
    """
    widths = [16, 16 * widen, 32 * widen, 64 * widen]
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False)]
    for stage, (narrow, wide) in enumerate(pairwise(widths)):
        for unit in range(units):
            stride = 2 if stage > 0 and unit == 0 else 1
            layers.append(_WideUnit(narrow if unit == 0 else wide, wide, stride))
    layers += [
        nn.BatchNorm2d(widths[-1]),
        nn.LeakyReLU(0.1, inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return Classifier(nn.Sequential(*layers), widths[-1], classes, (3, 32, 32))


MODELS = {"small": small, "lenet": lenet, "wrn": wrn}


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


class _WideUnit(nn.Module):
    """Pre-activation residual unit; a shortcut that changes shape pools and pads channels with
    zeros.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = channels_out - channels_in
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.conv1(F.leaky_relu(self.norm1(inputs), 0.1))
        outputs = self.conv2(F.leaky_relu(self.norm2(outputs), 0.1))
        if self.stride > 1:
            inputs = F.avg_pool2d(inputs, self.stride)
        if self.padding:
            before = self.padding // 2
            inputs = F.pad(inputs, (0, 0, 0, 0, before, self.padding - before))
        return inputs + outputs
