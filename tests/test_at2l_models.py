"""AT2L's networks: the paper's Tables 6 and 18 layer by layer, and torchvision's in small."""

import sys
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tla_ops.experiments import paper
from tla_ops.training.at2l_models import MODELS
from tla_ops.training.attacks import pgd
from tla_ops.training.models import build

pytestmark = pytest.mark.usefixtures("one_thread")

# Table 6: width and channels of the convolutions, dropout behind them, hidden layers.
TABLE_6 = {
    "mnist_a": ([(5, 64), (5, 64)], 0.25, [128]),
    "mnist_b": ([(8, 64), (6, 128), (5, 128)], 0.5, []),
    "mnist_c": ([(3, 128), (3, 64)], 0.25, [128]),
    "mnist_d": ([], None, [300, 300, 300]),
}
TABLE_18 = ("gan_a", "gan_b", "gan_c", "gan_d")
MNIST = (*TABLE_6, *TABLE_18)
FEATURES = {
    **{"mnist_a": 128, "mnist_b": 12 * 12 * 128, "mnist_c": 128, "mnist_d": 300},
    **{"gan_a": 128, "gan_b": 128, "gan_c": 128, "gan_d": 200},
}
LEAST = {"mnist_a": 9, "mnist_b": 17, "mnist_c": 5, "gan_a": 5, "gan_b": 28, "gan_c": 3}
TORCHVISION = {"vgg16": 4096, "vgg19": 4096, "inception_v3": 2048, "at2l_resnet50": 2048}


def parameters(model):
    return sum(value.numel() for value in model.parameters())


def shapes_through(model, images, *kinds):
    """(C, H, W) of what each layer of these kinds gives, in the order in which they run."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, out: seen.append(tuple(out.shape[1:])))
        for layer in model.modules()
        if isinstance(layer, kinds)
    ]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return seen


def described(layer):
    if isinstance(layer, nn.Conv2d):
        sizes = layer.in_channels, layer.out_channels, layer.kernel_size
        return (nn.Conv2d, *sizes, layer.stride, layer.padding)
    if isinstance(layer, nn.Linear):
        return nn.Linear, layer.in_features, layer.out_features
    if isinstance(layer, nn.Dropout):
        return nn.Dropout, layer.p
    return type(layer)


def as_printed(layer):
    """A layer as Table 18 has it."""
    if isinstance(layer, nn.Conv2d):
        (height, width), (stride, across) = layer.kernel_size, layer.stride
        assert stride == across
        return f"Conv({layer.out_channels},{height}x{width},{stride})"
    if isinstance(layer, nn.Linear):
        return f"FC({layer.out_features})"
    return f"Dropout({layer.p})" if isinstance(layer, nn.Dropout) else type(layer).__name__


def check_classifier(model, classes, dim):
    """A head on features, and a gradient for every parameter."""
    images = torch.rand(2, *model.image_shape)
    model.eval()
    with torch.no_grad():
        features = model.features(images)
        assert features.shape == (2, dim)
        assert model(images).shape == (2, classes)
        torch.testing.assert_close(model(images), F.linear(features, *model.head.parameters()))
        assert features.min() >= 0  # behind the last activation
    logits = model.train()(images)
    F.cross_entropy(logits, torch.tensor([0, classes - 1])).backward()
    for key, value in model.named_parameters():
        assert torch.isfinite(value.grad).all(), key
        assert value.grad.abs().max() > 0, key


def test_the_tests_have_every_network():
    assert list(MODELS) == [*MNIST, *TORCHVISION]


# MNIST


@pytest.mark.parametrize("name", TABLE_6)
def test_layers_of_table_6(name):
    convolutions, dropout, hidden = TABLE_6[name]
    model = MODELS[name]()
    assert model.image_shape == (1, 28, 28)
    expected, channels, side = [], 1, 28
    for kernel, outputs in convolutions:
        expected += [(nn.Conv2d, channels, outputs, (kernel, kernel), (1, 1), (0, 0)), nn.ReLU]
        channels, side = outputs, side - kernel + 1
    if dropout:
        expected.append((nn.Dropout, dropout))
    expected.append(nn.Flatten)
    dim = channels * side * side
    for outputs in hidden:
        expected += [(nn.Linear, dim, outputs), nn.ReLU, (nn.Dropout, 0.5)]
        dim = outputs

    assert [described(layer) for layer in model.body] == expected
    assert described(model.head) == (nn.Linear, dim, 10)


@pytest.mark.parametrize("name", TABLE_18)
def test_layers_of_table_18(name):
    printed = paper.settings("at2l/app-table18")["networks"][name[-1].upper()]
    model = MODELS[name]()
    assert model.image_shape == (1, 28, 28)
    layers = [layer for layer in model.body if not isinstance(layer, nn.Flatten)]
    assert [as_printed(layer) for layer in layers] == printed[:-1]
    assert f"{as_printed(model.head)}+Softmax" == printed[-1]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert all(layer.padding == (0, 0) for layer in convolutions[1:])


@pytest.mark.parametrize(
    ("name", "sides"),
    [("gan_a", (28, 12)), ("gan_b", (14, 5, 1)), ("gan_c", (28, 13)), ("gan_d", ())],
)
def test_sides_of_table_18(name, sides):
    # TensorFlow's SAME divides a side by the stride, its VALID leaves out what does not fit.
    seen = shapes_through(MODELS[name](), torch.rand(1, 1, 28, 28), nn.Conv2d)
    assert [shape[1:] for shape in seen] == [(side, side) for side in sides]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mnist_a", 64 * 26 + 64 * (64 * 25 + 1) + 128 * (20 * 20 * 64 + 1) + 10 * 129),
        (
            "mnist_b",
            64 * 65 + 128 * (64 * 36 + 1) + 128 * (128 * 25 + 1) + 10 * (12 * 12 * 128 + 1),
        ),
        ("mnist_c", 128 * 10 + 64 * (128 * 9 + 1) + 128 * (24 * 24 * 64 + 1) + 10 * 129),
        ("mnist_d", 300 * 785 + 2 * 300 * 301 + 10 * 301),
    ],
)
def test_parameters_of_table_6(name, count):
    assert parameters(MODELS[name]()) == count


@pytest.mark.parametrize("name", MNIST)
def test_mnist_networks_are_classifiers(name):
    torch.manual_seed(0)
    check_classifier(MODELS[name](), 10, FEATURES[name])
    other = build(name, 3, (2, 17, 20))
    assert other(torch.rand(2, 2, 17, 20)).shape == (2, 3)


def test_dropout_is_for_training_alone():
    for name in MNIST:
        model, images = MODELS[name](), torch.rand(1, 1, 28, 28)
        assert not torch.equal(model(images), model(images))
        model.eval()
        assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", MNIST)
def test_width_of_every_layer(name):
    def widths(width):
        return [
            layer.weight.shape[0]
            for layer in build(name, 10, (1, 28, 28), width=width).modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        ]

    printed = widths(1.0)
    assert printed[-1] == 10
    assert widths(0.25) == [*(count // 4 for count in printed[:-1]), 10]
    assert widths(0.02)[:-1] == [round(0.02 * count) for count in printed[:-1]]
    assert widths(1e-6) == [*[1] * (len(printed) - 1), 10]
    narrow = build(name, 10, (1, 28, 28), width=0.25)
    assert narrow(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    for width in (0.0, -1.0, 16.5, float("nan")):
        with pytest.raises(ValueError, match=f"{name}: width must be above 0 and at most 16, got"):
            build(name, 10, (1, 28, 28), width=width)


@pytest.mark.parametrize("name", LEAST)
def test_images_too_small_for_the_convolutions_are_enlarged_within(name):
    torch.manual_seed(0)
    side = LEAST[name]
    kept = build(name, 10, (1, side, side + 1)).eval()
    assert not any(isinstance(layer, nn.Upsample) for layer in kept.body)
    assert kept(torch.rand(2, 1, side, side + 1)).shape == (2, 10)

    small = (1, side - 1, 2 * side - 2)
    model, images = build(name, 10, small).eval(), torch.rand(2, *small)
    large = build(name, 10, (1, 28, 56)).eval()
    large.load_state_dict(dict(zip(large.state_dict(), model.state_dict().values(), strict=True)))
    enlarged = F.interpolate(images, (28, 56), mode="bilinear", align_corners=False)
    with torch.no_grad():
        torch.testing.assert_close(model(images), large(enlarged))
    found = pgd(model, images, torch.tensor([1, 2]), epsilon=0.1, step=0.1, steps=1)
    assert found.shape == images.shape
    assert model.image_shape == small


@pytest.mark.parametrize("name", MNIST)
def test_mnist_networks_take_the_digits(name):
    torch.manual_seed(0)
    check_classifier(build(name, 10, (1, 8, 8), width=0.25), 10, {
        "mnist_b": 12 * 12 * 32, "mnist_d": 75, "gan_d": 50,
    }.get(name, 32))  # fmt: skip
    resized = isinstance(build(name, 10, (1, 8, 8)).body[0], nn.Upsample)
    assert resized == (LEAST.get(name, 1) > 8)


def test_no_image_is_too_small_for_hidden_layers():
    for name in ("mnist_d", "gan_d"):
        assert build(name, 10, (1, 1, 1))(torch.rand(2, 1, 1, 1)).shape == (2, 10)


# CIFAR-10 and Cats vs. Dogs


@pytest.fixture(scope="module")
def made(torchvision_models):
    """One of each for CIFAR-10, made once."""
    kept = {}

    def make(name):
        if name not in kept:
            torch.manual_seed(0)
            kept[name] = build(name, 10, (3, 32, 32))
        return kept[name]

    return make


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_are_classifiers(made, name):
    model = made(name)
    assert model.image_shape == (3, 32, 32)
    check_classifier(model, 10, TORCHVISION[name])


def vgg_parameters(stages, first):
    """Of stages of 3 x 3 convolutions, and of hidden layers on ``first`` inputs."""
    count, narrow = 0, 3
    for channels, convolutions in stages:
        for _ in range(convolutions):
            count += channels * (9 * narrow + 1)
            narrow = channels
    return count + 4096 * (first + 1) + 4096 * 4097 + 10 * 4097


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("vgg16", [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]),
        ("vgg19", [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]),
    ],
)
def test_vgg_by_hand(made, name, stages):
    model = made(name)
    assert parameters(model) == vgg_parameters(stages, 512)
    seen = shapes_through(model, torch.rand(1, 3, 32, 32), nn.AdaptiveAvgPool2d, nn.Linear)
    assert seen == [(512, 1, 1), (4096,), (4096,), (10,)]
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == sum(count for _, count in stages)


def test_vgg_of_large_images_is_torchvisions(torchvision_models):
    torch.manual_seed(0)
    theirs = torchvision_models.vgg16(num_classes=2).eval()
    ours = build("vgg16", 2, (3, 224, 224)).eval()
    assert ours.head.out_features == 2
    assert (
        vgg_parameters([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 49 * 512)
        == parameters(ours) + 8 * 4097
    )
    ours.load_state_dict(
        {
            key.replace("classifier.6", "head") if "classifier.6" in key else f"body.{key}": value
            for key, value in theirs.state_dict().items()
        }
    )
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_vgg_in_other_shapes(torchvision_models):
    model = build("vgg16", 10, (3, 64, 100), batch_norm=True)
    seen = shapes_through(model, torch.rand(1, 3, 64, 100), nn.AdaptiveAvgPool2d, nn.BatchNorm2d)
    assert len(seen) == 14
    assert seen[-1] == (512, 2, 3)
    first = model.body.classifier[0]
    assert first.in_features == 512 * 6
    assert first.weight.std().item() == pytest.approx((2 / first.in_features) ** 0.5, rel=0.01)
    assert (first.bias == 0).all()


def test_inception_resizes_within(made, torchvision_models):
    model = made("inception_v3").eval()
    images = torch.rand(2, 3, 32, 32)
    assert shapes_through(model, images, nn.Upsample) == [(3, 75, 75)]
    with torch.no_grad():
        enlarged = F.interpolate(images, (75, 75), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model.features(images), model.body.network(enlarged))
    # 23.8 million with ImageNet's 1,000 classes, of which 2049 * 990 are not here.
    assert parameters(model) == 23_834_568 - 2049 * 990
    other = build("inception_v3", 10, (3, 100, 50), side=80)
    assert shapes_through(other, torch.rand(1, 3, 100, 50), nn.Upsample) == [(3, 160, 80)]


def test_inception_of_larger_images_is_torchvisions(torchvision_models):
    torch.manual_seed(0)
    theirs = torchvision_models.inception_v3(
        num_classes=2, aux_logits=False, init_weights=False
    ).eval()
    ours = build("inception_v3", 2, (3, 75, 96)).eval()
    ours.load_state_dict(
        {
            key.replace("fc.", "head.") if key.startswith("fc.") else f"body.network.{key}": value
            for key, value in theirs.state_dict().items()
        }
    )
    images = torch.rand(1, 3, 75, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_resnet_of_small_images_keeps_their_resolution(made):
    model = made("at2l_resnet50")
    body = model.body
    assert body.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    seen = shapes_through(body, torch.rand(1, 3, 32, 32), type(body.layer1[0]))
    assert [seen[0], seen[3], seen[7], seen[13]] == [
        (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4),
    ]  # fmt: skip
    # 25.6 million with 1,000 classes and a first convolution of 7 x 7.
    assert parameters(model) == 25_557_032 - 2049 * 990 - 3 * 64 * (49 - 9)


def test_resnet_of_larger_images_is_the_other_one(torchvision_models):
    ours, other = (build(name, 4, (3, 64, 64)).eval() for name in ("at2l_resnet50", "resnet50"))
    other.load_state_dict(ours.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), other(images))


def test_attacks_are_on_the_small_images(made):
    images, labels = torch.rand(1, 3, 32, 32), torch.tensor([3])
    epsilon = Fraction(8, 255)
    found = pgd(made("inception_v3"), images, labels, epsilon=epsilon, step=epsilon, steps=1)
    assert found.shape == images.shape
    assert (found != images).float().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vgg16", (3, 32, 31), r"vgg16: image_shape must be 3 channels of at least 32 x 32, got"),
        ("vgg19", (1, 32, 32), r"vgg19: image_shape must be 3 channels .* got \(1, 32, 32\)"),
        ("inception_v3", (4, 75, 75), "inception_v3: image_shape must be 3 channels"),
        ("at2l_resnet50", (1, 32, 32), "at2l_resnet50: image_shape must be 3 channels"),
    ],
)
def test_shapes_they_cannot_take(name, shape, message):
    with pytest.raises(ValueError, match=message):
        build(name, 10, shape)
    with pytest.raises(ValueError, match="inception_v3: side must be at least 75, got 74"):
        build("inception_v3", 10, (3, 32, 32), side=74)


@pytest.mark.parametrize("name", TORCHVISION)
def test_without_torchvision_they_name_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(
        ModuleNotFoundError, match=f"{name} needs torchvision: pip install torchvision"
    ):
        build(name, 10, (3, 32, 32))
