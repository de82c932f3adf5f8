"""Classifiers that expose their penultimate layer: model(x) = head(features(x))."""

from __future__ import annotations

import copy
import difflib
import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tla_ops.training.attacks import model_mode
from tla_ops.training.residual import resnet, wide_resnet

Shape = Sequence[int]
"""(channels, height, width) of an image."""


class Classifier(nn.Module):
    """A network in two parts.

    ``features(images)`` gives the penultimate activations (B, D), after the last activation
    function; ``head(features)`` the logits (B, classes). ``image_shape`` is the (channels, height,
    width) it was made for. ``head`` is a new linear layer from ``dim`` to ``classes`` where none is
    given.
    """

    def __init__(
        self,
        body: nn.Module,
        dim: int,
        classes: int,
        image_shape: Shape,
        head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(dim, classes) if head is None else head
        self.image_shape = tuple(image_shape)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


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
    features; ``width`` times as many channels and features.
    """
    if tuple(image_shape) != (1, 28, 28):
        raise ValueError(f"lenet: image_shape must be (1, 28, 28), got {tuple(image_shape)}")
    if not 1 / 32 <= width <= 16:
        raise ValueError(f"lenet: width must be in 1/32..16, got {width}")
    a, b, c, d, dim = (round(width * channels) for channels in (32, 64, 128, 256, 1024))
    body = nn.Sequential(
        *_conv_bn_relu(1, a),
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
}


def build(name: str, classes: int, image_shape: Shape, **options: Any) -> Classifier:
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


def wrap(
    module: nn.Module, layer: str, *, image_shape: Shape, classes: int | None = None
) -> Classifier:
    """Any network as a :class:`Classifier`: ``features`` is what enters its last layer.

    Args:
        module: maps images (B, C, H, W) to logits (B, classes), such as a torchvision or timm
            model.
        layer: dotted name of its last layer, linear or a convolution that acts as one: "fc",
            "classifier.6", "head.fc".
        image_shape: (channels, height, width); two random images of it are forwarded, in eval mode.
        classes: a number that differs from the layer's gives the result a new linear head.

    Returns:
        A classifier whose ``body`` is the module with an identity in the layer's place and whose
        ``head`` is the layer, as ``nn.Linear``. Its state_dict has the module's keys behind
        ``body.``, and ``head.weight`` and ``head.bias`` in place of the layer's own: load a
        checkpoint of the module before the module is wrapped. It shares the module's parameters;
        the module itself still works.

    Raises:
        ValueError: no layer of that name, one that is not linear, or one that is not the last:
            head(features(x)) differs from module(x).

    A module that returns more than logits in train mode, such as Inception with its auxiliary
    classifier, has to be made without (``aux_logits=False``).
    """
    head = _linear(module, layer)
    weight = head.weight
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, *image_shape, generator=generator).to(weight.device, weight.dtype)
    body = _without(module, layer)
    with torch.no_grad(), model_mode(module, "eval"), model_mode(body, "eval"):
        expected = module(images)
        same = False
        reason: Exception | None = None
        try:
            logits = head(body(images))
            shapes = logits.shape == expected.shape == (len(images), head.out_features)
            same = shapes and torch.allclose(logits, expected, rtol=1e-3, atol=1e-5)
        except (AttributeError, RuntimeError, TypeError) as error:  # what the rest cannot take
            reason = error
    if not same:
        raise ValueError(
            f"wrap: layer must be the last of the module, whose output is the logits, got {layer!r}"
            + _linear_layers(module)
        ) from reason
    if classes not in (None, head.out_features):
        head = nn.Linear(head.in_features, classes, device=weight.device, dtype=weight.dtype)
    return Classifier(body, head.in_features, head.out_features, image_shape, head)


def _linear(module: nn.Module, name: str) -> nn.Linear:
    """The layer of that name; a 1 x 1 convolution as the linear layer it is at one pixel."""
    modules = dict(module.named_modules())
    if not name or name not in modules:
        near = difflib.get_close_matches(name, modules, n=3)
        hint = f"; similar: {', '.join(near)}" if near else ""
        raise ValueError(
            f"wrap: layer must name a layer of the module, got {name!r}{hint}"
            + _linear_layers(module)
        )
    layer = modules[name]
    if isinstance(layer, nn.Linear):
        return layer
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        linear = nn.Linear(layer.in_channels, layer.out_channels, bias=False, device="meta")
        linear.weight = nn.Parameter(layer.weight.detach().flatten(1))
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.detach())
        return linear
    raise ValueError(
        f"wrap: layer must be linear, got {name!r}, a {type(layer).__name__}"
        + _linear_layers(module)
    )


def _linear_layers(module: nn.Module) -> str:
    """The end of a message: the last of the module's linear layers, by name."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return f"; its last linear layers: {', '.join(names[-5:]) or 'none'}"


def _without(module: nn.Module, name: str) -> nn.Module:
    """The module with an identity in place of a layer: new modules along the layer's path, all
    else shared with the original, which is left as it is.
    """
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    child, _, rest = name.partition(".")
    clone._modules[child] = _without(module.get_submodule(child), rest) if rest else nn.Identity()
    return clone


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
