"""AT2L's networks (IJCAI 2019, appendix): four for MNIST, and torchvision's for larger images.

The paper says of the latter no more than their names, and that clean accuracy on CIFAR-10 reaches
92.6%. They start without weights, take images (3, H, W), and differ from torchvision's for small
images alone, as each one says. Making them needs torchvision, which no extra of this package
installs.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from torch import nn

from tla_ops.training.classifier import Classifier, Shape, wrap

MNIST: Shape = (1, 28, 28)
CIFAR10: Shape = (3, 32, 32)
INCEPTION_SIDE = 75
"""The smallest image that Inception-v3 leaves a pixel of."""


def mnist_a(classes: int = 10, image_shape: Shape = MNIST) -> Classifier:
    """Network A of the AT2L paper's Table 6: two 5 x 5 convolutions of 64 channels, 128 features.

    Of all four: the table prints neither strides nor padding nor rates of dropout. Convolutions
    have stride 1 and no padding, Keras' defaults. A dropout between convolutions and a hidden layer
    has the rate 0.25, all others 0.5, as in the paper's Table 18 and in Tramèr et al. (2018), whose
    networks these resemble. "Flatten", which the table leaves out of A and D, is before the first
    hidden layer, and features have passed the last dropout.
    """
    return _mnist("mnist_a", classes, image_shape, ((64, 5), (64, 5)), (128,))


def mnist_b(classes: int = 10, image_shape: Shape = MNIST) -> Classifier:
    """Network B of Table 6: convolutions of 64 (8 x 8), 128 (6 x 6) and 128 channels (5 x 5), all
    of whose outputs, 18,432 for MNIST, are features. See :func:`mnist_a`; Table 18's B has strides
    of 2 and a dropout on the image, too.
    """
    return _mnist("mnist_b", classes, image_shape, ((64, 8), (128, 6), (128, 5)), ())


def mnist_c(classes: int = 10, image_shape: Shape = MNIST) -> Classifier:
    """Network C of Table 6: 3 x 3 convolutions of 128 and 64 channels, 128 features. See
    :func:`mnist_a`.
    """
    return _mnist("mnist_c", classes, image_shape, ((128, 3), (64, 3)), (128,))


def mnist_d(classes: int = 10, image_shape: Shape = MNIST) -> Classifier:
    """Network D of Table 6: three hidden layers of 300, the last the features. See
    :func:`mnist_a`.
    """
    return _mnist("mnist_d", classes, image_shape, (), (300, 300, 300))


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
    shorter = min(image_shape[1:])
    resize: nn.Module = nn.Identity()
    if shorter < side:
        size = tuple(round(length * side / shorter) for length in image_shape[1:])
        resize = nn.Upsample(size, mode="bilinear")
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
    "vgg16": vgg16,
    "vgg19": vgg19,
    "inception_v3": inception_v3,
    "at2l_resnet50": at2l_resnet50,
}


def _mnist(
    name: str,
    classes: int,
    image_shape: Shape,
    convolutions: Sequence[tuple[int, int]],
    hidden: Sequence[int],
) -> Classifier:
    """A network of convolutions, by channels and width, and of hidden layers, all with ReLU."""
    channels, height, width = image_shape
    least = 1 + sum(kernel - 1 for _, kernel in convolutions)
    if min(height, width) < least:
        raise ValueError(
            f"{name}: image_shape must be at least {least} x {least}, got {tuple(image_shape)}"
        )
    layers: list[nn.Module] = []
    for outputs, kernel in convolutions:
        layers += [nn.Conv2d(channels, outputs, kernel), nn.ReLU(inplace=True)]
        channels, height, width = outputs, height - kernel + 1, width - kernel + 1
    if convolutions:
        layers.append(nn.Dropout(0.25 if hidden else 0.5))
    layers.append(nn.Flatten())
    dim = math.prod((channels, height, width))
    for outputs in hidden:
        layers += [nn.Linear(dim, outputs), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        dim = outputs
    return Classifier(nn.Sequential(*layers), dim, classes, image_shape)


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
