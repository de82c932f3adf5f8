"""AT2L's networks (IJCAI 2019, appendix): for MNIST those of its two tables, and torchvision's.

Those for MNIST have ``width`` times as many channels and hidden units as printed, one or more of
each. Images too small for a network's kernels, such as scikit-learn's digits, are resized
(bilinear) so that their shorter side has 28 pixels: within the model, so that attacks are on the
images themselves.

The paper says of torchvision's no more than their names, and that clean accuracy on CIFAR-10
reaches 92.6%. They start without weights, take images (3, H, W), and differ from torchvision's for
small images alone, as each one says. Making them needs torchvision, which no extra of this package
installs.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from torch import nn

from tla_ops.training.classifier import Classifier, Shape, wrap

MNIST: Shape = (1, 28, 28)
CIFAR10: Shape = (3, 32, 32)
INCEPTION_SIDE = 75
"""The smallest image that Inception-v3 leaves a pixel of."""


def mnist_a(classes: int = 10, image_shape: Shape = MNIST, width: float = 1.0) -> Classifier:
    """Network A of the AT2L paper's Table 6: two 5 x 5 convolutions of 64 channels, 128 features.

    Of all four: the table prints neither strides nor padding nor rates of dropout. Convolutions
    have stride 1 and no padding, Keras' defaults. A dropout between convolutions and a hidden layer
    has the rate 0.25, all others 0.5, as in the paper's Table 18 and in Tramèr et al. (2018), whose
    networks these resemble. "Flatten", which the table leaves out of A and D, is before the first
    hidden layer, and features have passed the last dropout.
    """
    layers = (_Conv(64, 5), _Conv(64, 5))
    return _mnist("mnist_a", classes, image_shape, width, layers, (128,))


def mnist_b(classes: int = 10, image_shape: Shape = MNIST, width: float = 1.0) -> Classifier:
    """Network B of Table 6: convolutions of 64 (8 x 8), 128 (6 x 6) and 128 channels (5 x 5), all
    of whose outputs, 18,432 for MNIST, are features. See :func:`mnist_a`, and :func:`gan_b`.
    """
    layers = (_Conv(64, 8), _Conv(128, 6), _Conv(128, 5))
    return _mnist("mnist_b", classes, image_shape, width, layers, ())


def mnist_c(classes: int = 10, image_shape: Shape = MNIST, width: float = 1.0) -> Classifier:
    """Network C of Table 6: 3 x 3 convolutions of 128 and 64 channels, 128 features. See
    :func:`mnist_a`.
    """
    layers = (_Conv(128, 3), _Conv(64, 3))
    return _mnist("mnist_c", classes, image_shape, width, layers, (128,))


def mnist_d(classes: int = 10, image_shape: Shape = MNIST, width: float = 1.0) -> Classifier:
    """Network D of Table 6: three hidden layers of 300, the last the features. See
    :func:`mnist_a`.
    """
    return _mnist("mnist_d", classes, image_shape, width, (), (300, 300, 300))


def gan_a(classes: int = 10, image_shape: Shape = MNIST, width: float = 1.0) -> Classifier:
    """Classifier A of the AT2L paper's Table 18, beside Defense-GAN: 5 x 5 convolutions of 64
    channels with strides of 1 and 2, 128 features.

    Of all four: layers, strides and rates of dropout are as printed, without the softmax. Padding
    is not printed. The first convolution is padded, by (kernel - 1) // 2, which at 28 x 28 is
    TensorFlow's "SAME", and no other is, as in Defense-GAN's public code. That code hands the
    printed rates to a dropout that takes the share to keep.
    """
    layers = (_Conv(64, 5, padding=2), _Conv(64, 5, stride=2))
    return _mnist("gan_a", classes, image_shape, width, layers, (128,))


def gan_b(classes: int = 10, image_shape: Shape = MNIST, width: float = 1.0) -> Classifier:
    """Classifier B of Table 18: a dropout of 0.2 on the image, convolutions of 64 (8 x 8), 128
    (6 x 6) and 128 channels (5 x 5) with strides of 2, 2 and 1: 128 features for MNIST. See
    :func:`gan_a`.
    """
    layers = (_Conv(64, 8, stride=2, padding=3), _Conv(128, 6, stride=2), _Conv(128, 5))
    return _mnist("gan_b", classes, image_shape, width, layers, (), image_dropout=0.2)


def gan_c(classes: int = 10, image_shape: Shape = MNIST, width: float = 1.0) -> Classifier:
    """Classifier C of Table 18: 3 x 3 convolutions of 128 and 64 channels with strides of 1 and 2,
    128 features. See :func:`gan_a`; Defense-GAN's code has 5 x 5 in the second.
    """
    layers = (_Conv(128, 3, padding=1), _Conv(64, 3, stride=2))
    return _mnist("gan_c", classes, image_shape, width, layers, (128,))


def gan_d(classes: int = 10, image_shape: Shape = MNIST, width: float = 1.0) -> Classifier:
    """Classifier D of Table 18: two hidden layers of 200, the last the features. See :func:`gan_a`;
    Defense-GAN's code has a dropout behind the first alone.
    """
    return _mnist("gan_d", classes, image_shape, width, (), (200, 200))


def vgg16(classes: int = 10, image_shape: Shape = CIFAR10, batch_norm: bool = False) -> Classifier:
    """VGG16 (Simonyan and Zisserman 2015), 4,096 features.

    Torchvision's pools whatever its convolutions leave to 7 x 7 pixels. Of images below 224 they
    leave fewer, H/32 x W/32, and this one pools to no more than those: at 32 x 32 its first hidden
    layer has 512 inputs, not 49 copies of each. That layer starts as in He et al. (2015).
    ``batch_norm`` puts one behind each convolution, as torchvision's ``vgg16_bn`` has it.
    """
    return _vgg("vgg16", classes, image_shape, batch_norm)


def vgg19(classes: int = 10, image_shape: Shape = CIFAR10, batch_norm: bool = False) -> Classifier:
    """VGG19, of 16 convolutions where :func:`vgg16`, which says the rest, has 13."""
    return _vgg("vgg19", classes, image_shape, batch_norm)


def inception_v3(
    classes: int = 10, image_shape: Shape = CIFAR10, side: int = INCEPTION_SIDE
) -> Classifier:
    """Inception-v3 (Szegedy et al. 2016) without its auxiliary classifier, 2,048 features.

    Images whose shorter side is below ``side``, of 75 or more, are resized (bilinear) so that it
    has that length: within the model, so that attacks are on the images themselves. The published
    size is 299, which takes 28 times the work of 75.
    """
    _check("inception_v3", image_shape, 1)
    if side < INCEPTION_SIDE:
        raise ValueError(f"inception_v3: side must be at least {INCEPTION_SIDE}, got {side}")
    resize: nn.Module = nn.Identity()
    if min(image_shape[1:]) < side:
        resize = _enlarge(image_shape, side)
    make = _torchvision("inception_v3", "inception_v3")
    network = make(num_classes=classes, aux_logits=False, init_weights=True)
    parts: OrderedDict[str, nn.Module] = OrderedDict(resize=resize, network=network)
    return wrap(nn.Sequential(parts), "network.fc", image_shape=image_shape)


def at2l_resnet50(classes: int = 10, image_shape: Shape = CIFAR10) -> Classifier:
    """ResNet-50 (He et al. 2016), 2,048 features.

    For images below 64 pixels its first convolution is 3 x 3 with a stride of 1, and no pooling
    follows, as that paper has it for CIFAR-10. Where a stage halves the resolution its 3 x 3
    convolution does, as in torchvision.
    """
    _check("at2l_resnet50", image_shape, 1)
    network = _torchvision("at2l_resnet50", "resnet50")(num_classes=classes)
    if min(image_shape[1:]) < 64:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return wrap(network, "fc", image_shape=image_shape)


MODELS: dict[str, Callable[..., Classifier]] = {
    "mnist_a": mnist_a,
    "mnist_b": mnist_b,
    "mnist_c": mnist_c,
    "mnist_d": mnist_d,
    "gan_a": gan_a,
    "gan_b": gan_b,
    "gan_c": gan_c,
    "gan_d": gan_d,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "inception_v3": inception_v3,
    "at2l_resnet50": at2l_resnet50,
}


class _Conv(NamedTuple):
    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0


def _mnist(
    name: str,
    classes: int,
    image_shape: Shape,
    width: float,
    convolutions: Sequence[_Conv],
    hidden: Sequence[int],
    image_dropout: float = 0.0,
) -> Classifier:
    """A network of convolutions and of hidden layers, all with ReLU."""
    if not 0 < width <= 16:
        raise ValueError(f"{name}: width must be above 0 and at most 16, got {width}")
    least = 1
    for layer in reversed(convolutions):
        least = (least - 1) * layer.stride + layer.kernel - 2 * layer.padding
    channels, *sides = image_shape
    layers: list[nn.Module] = []
    if min(sides) < least:
        resize = _enlarge(image_shape, MNIST[-1])
        layers.append(resize)
        sides = list(resize.size)
    if image_dropout:
        layers.append(nn.Dropout(image_dropout))
    for wide, kernel, stride, padding in convolutions:
        outputs = max(1, round(width * wide))
        layers += [nn.Conv2d(channels, outputs, kernel, stride, padding), nn.ReLU(inplace=True)]
        channels, sides = outputs, [(side + 2 * padding - kernel) // stride + 1 for side in sides]
    if convolutions:
        layers.append(nn.Dropout(0.25 if hidden else 0.5))
    layers.append(nn.Flatten())
    dim = math.prod((channels, *sides))
    for wide in hidden:
        outputs = max(1, round(width * wide))
        layers += [nn.Linear(dim, outputs), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        dim = outputs
    return Classifier(nn.Sequential(*layers), dim, classes, image_shape)


def _enlarge(image_shape: Shape, side: int) -> Any:
    """To a shorter side of ``side``, bilinear."""
    shorter = min(image_shape[1:])
    size = tuple(round(length * side / shorter) for length in image_shape[1:])
    return nn.Upsample(size, mode="bilinear")


def _vgg(name: str, classes: int, image_shape: Shape, batch_norm: bool) -> Classifier:
    _check(name, image_shape, 32)  # five poolings
    network = _torchvision(name, f"{name}_bn" if batch_norm else name)(num_classes=classes)
    height, width = (min(7, length // 32) for length in image_shape[1:])
    if (height, width) != (7, 7):
        network.avgpool = nn.AdaptiveAvgPool2d((height, width))
        first = nn.Linear(512 * height * width, 4096)
        nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
        nn.init.zeros_(first.bias)
        network.classifier[0] = first
    return wrap(network, "classifier.6", image_shape=image_shape)


def _check(name: str, image_shape: Shape, least: int) -> None:
    channels, height, width = image_shape
    if channels != 3 or min(height, width) < least:
        raise ValueError(
            f"{name}: image_shape must be 3 channels of at least {least} x {least}, "
            f"got {tuple(image_shape)}"
        )


def _torchvision(model: str, name: str) -> Any:
    try:
        return getattr(import_module("torchvision.models"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{model} needs torchvision: pip install torchvision", name=error.name
        ) from error
