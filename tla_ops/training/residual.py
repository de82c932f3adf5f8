"""The bodies of the residual networks: modules from images to penultimate features (B, D)."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def wide_resnet(channels: int, units: int, widen: int, standardize: bool) -> tuple[nn.Module, int]:
    """Body and number of features of the network in Madry et al.'s ``cifar10_challenge``: three
    stages of ``units`` pre-activation units with 160, 320 and 640 channels at ``widen=10``.
    """
    widths = [16, 16 * widen, 32 * widen, 64 * widen]
    layers: list[nn.Module] = [Standardize()] if standardize else []
    layers.append(nn.Conv2d(channels, widths[0], 3, padding=1, bias=False))
    for stage, (narrow, wide) in enumerate(pairwise(widths)):
        for unit in range(units):
            first = unit == 0
            layers.append(
                WideUnit(
                    narrow if first else wide,
                    wide,
                    stride=2 if first and stage > 0 else 1,
                    activated_shortcut=first and stage == 0,
                )
            )
    layers += [
        nn.BatchNorm2d(widths[-1]),
        nn.LeakyReLU(0.1, inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return _he_initialised(nn.Sequential(*layers)), widths[-1]


def resnet(channels: int, blocks: tuple[int, int, int, int]) -> tuple[nn.Module, int]:
    """Body and number of features of a bottleneck ResNet (He et al. 2016): (3, 4, 6, 3) blocks make
    ResNet-50.

    Where a stage halves the resolution its 3 x 3 convolution does, as in torchvision, whose names
    the parts have.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, 2, padding=1),
    )
    width = 64
    for stage, count in enumerate(blocks):
        inner, stride = 64 << stage, 2 if stage > 0 else 1
        first = Bottleneck(width, inner, stride)
        width = inner * Bottleneck.expansion
        rest = [Bottleneck(width, inner, 1) for _ in range(count - 1)]
        layers[f"layer{stage + 1}"] = nn.Sequential(first, *rest)
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return _he_initialised(nn.Sequential(layers)), width


class Standardize(nn.Module):
    """Each image (B, C, H, W) to mean 0 and standard deviation 1, as TensorFlow's
    ``per_image_standardization`` does it.
    """

    def forward(self, images: Tensor) -> Tensor:
        pixels = images[0].numel()
        centred = images - images.mean((1, 2, 3), keepdim=True)
        variance = centred.square().mean((1, 2, 3), keepdim=True)
        # TensorFlow's floor 1 / sqrt(pixels) is in units of 0..255. It is put under the root, whose
        # derivative at 0, of a constant image, would be infinite.
        return centred / variance.clamp(min=1 / (255**2 * pixels)).sqrt()


class WideUnit(nn.Module):
    """Pre-activation residual unit; a shortcut that changes shape pools and pads channels with
    zeros.

    With ``activated_shortcut`` the shortcut starts behind the first activation, as in the network's
    first unit.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, activated_shortcut: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = channels_out - channels_in
        self.activated_shortcut = activated_shortcut
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        activated = F.leaky_relu(self.norm1(inputs), 0.1)
        shortcut = activated if self.activated_shortcut else inputs
        outputs = self.conv2(F.leaky_relu(self.norm2(self.conv1(activated)), 0.1))
        if self.stride > 1:
            shortcut = F.avg_pool2d(shortcut, self.stride)
        if self.padding:
            before = self.padding // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, before, self.padding - before))
        return shortcut + outputs


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut, projected where the shape changes."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = channels * self.expansion
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels_in != channels_out:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels_out))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = F.relu(self.bn1(self.conv1(inputs)), inplace=True)
        outputs = F.relu(self.bn2(self.conv2(outputs)), inplace=True)
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        return F.relu(self.bn3(self.conv3(outputs)) + shortcut, inplace=True)


def _he_initialised(body: nn.Module) -> nn.Module:
    """Convolutions normal with variance 2 / (kernel area x channels out), as both sources have."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body
