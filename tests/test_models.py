"""Networks with a penultimate layer: the papers' own, and wrapped ones."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tla_ops.training import at2l_models, defended, methods, pretrained
from tla_ops.training.models import MODELS, Classifier, build, lenet, mlp, resnet50, wrap, wrn
from tla_ops.training.residual import Standardize, WideUnit

SMALLEST = {
    "small": {},
    "lenet": {},
    "mlp": {},
    "convnet": {},
    "wrn": {"units": 1, "widen": 1},
    "resnet50": {},
}
FEATURES = {
    "small": 128, "lenet": 1024, "mlp": 1024, "convnet": 256, "wrn": 64, "resnet50": 2048,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def timm():
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # it imports torchvision
        pytest.skip(f"timm cannot be imported: {error}")
    return timm


def parameters(model):
    return sum(value.numel() for value in model.parameters())


# the papers' networks


def test_every_network_is_tested():
    # The rest in tests of their modules.
    parts = (at2l_models, pretrained, defended)
    assert list(MODELS) == [*SMALLEST, *(name for part in parts for name in part.MODELS)]


@pytest.mark.parametrize("name", SMALLEST)
def test_models_are_a_head_on_features(name):
    model = MODELS[name](**SMALLEST[name]).eval()
    images = torch.rand(2, *model.image_shape)
    features = model.features(images)
    classes = 200 if name == "resnet50" else 10
    assert features.shape == (2, FEATURES[name])
    assert model(images).shape == (2, classes)
    torch.testing.assert_close(model(images), model.head(features))
    torch.testing.assert_close(model(images), F.linear(features, *model.head.parameters()))
    floor = -0.1 * features.abs().max() if name == "wrn" else 0
    assert features.min() >= floor  # behind the last activation


@pytest.mark.parametrize("name", SMALLEST)
def test_every_parameter_of_a_built_model_learns(name):
    shape = {"lenet": [1, 28, 28], "resnet50": [4, 33, 40]}.get(name, [4, 24, 20])
    torch.manual_seed(0)
    model = build(name, 7, shape, **SMALLEST[name])
    assert model.image_shape == tuple(shape)
    logits = model(torch.rand(3, *shape))
    assert logits.shape == (3, 7)
    F.cross_entropy(logits, torch.tensor([0, 1, 6])).backward()
    for key, value in model.named_parameters():
        assert torch.isfinite(value.grad).all(), key
        assert value.grad.abs().max() > 0, key


def test_lenet_by_hand():
    convolutions = 9 * (1 * 32 + 32 * 64 + 64 * 128 + 128 * 256)
    norms = 2 * (32 + 64 + 128 + 256 + 1024)
    assert parameters(lenet()) == convolutions + norms + 7 * 7 * 256 * 1024 + 1024 * 10 + 10


def test_mlp_by_hand():
    assert parameters(mlp()) == 785 * 1024 + 1025 * 1024 + 1025 * 10
    assert parameters(mlp(hidden=(5,))) == 785 * 5 + 6 * 10


@pytest.mark.parametrize("units", [5, 6])
def test_wrn_by_hand(units):
    with torch.device("meta"):
        model = wrn(units=units)
    count = 27 * 16 + 2 * 640 + 641 * 10
    for narrow, wide in ((16, 160), (160, 320), (320, 640)):
        count += 2 * narrow + 9 * narrow * wide + 2 * wide + 9 * wide * wide
        count += (units - 1) * 2 * (2 * wide + 9 * wide * wide)
    assert parameters(model) == count
    if units == 5:
        # WRN-34-10 with projections in place of the padded shortcuts has 46.2 million.
        assert count + 16 * 160 + 160 * 320 + 320 * 640 == 46_160_474
    assert model.head.in_features == 640


def test_wrn_unit_by_hand():
    torch.manual_seed(0)
    inputs = torch.rand(2, 4, 6, 6)

    def activated(unit, norm, x):
        return F.leaky_relu(getattr(unit, norm)(x), 0.1)

    for activated_shortcut in (False, True):
        unit = WideUnit(4, 10, 2, activated_shortcut).eval()
        nn.init.uniform_(unit.norm1.bias)
        inner = activated(unit, "norm2", unit.conv1(activated(unit, "norm1", inputs)))
        straight = activated(unit, "norm1", inputs) if activated_shortcut else inputs
        expected = unit.conv2(inner)
        expected[:, 3:7] += straight.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
        torch.testing.assert_close(unit(inputs), expected)


def test_only_wrns_first_unit_activates_its_shortcut():
    units = [m for m in wrn(units=2, widen=1).modules() if isinstance(m, WideUnit)]
    assert [unit.activated_shortcut for unit in units] == [True] + [False] * 5
    assert [unit.stride for unit in units] == [1, 1, 2, 1, 2, 1]


def test_standardize():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 8, 8, generator=generator)
    images[1] = 0.5
    images.requires_grad_()
    got = Standardize()(images)
    for row in (0, 2):
        expected = (images[row] - images[row].mean()) / images[row].std(correction=0)
        torch.testing.assert_close(got[row], expected)
    got[1].sum().backward()
    assert (got[1] == 0).all()
    assert torch.isfinite(images.grad).all()
    model = wrn(units=1, widen=1).eval()
    batch = torch.rand(2, 3, 32, 32, generator=generator)
    torch.testing.assert_close(model(0.5 * batch + 0.2), model(batch), rtol=1e-3, atol=1e-4)
    plain = wrn(units=1, widen=1, standardize=False).eval()
    assert (plain(0.5 * batch + 0.2) - plain(batch)).abs().max() > 1e-3
    assert plain.state_dict().keys() != model.state_dict().keys()


def test_resnet50_by_hand():
    with torch.device("meta"):
        model = resnet50()
    count = 49 * 3 * 64 + 2 * 64 + 2049 * 200
    width = 64
    for inner, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        outer = 4 * inner
        count += width * outer + 2 * outer  # the projection
        for _ in range(blocks):
            count += width * inner + 9 * inner * inner + inner * outer + 4 * inner + 2 * outer
            width = outer
    assert parameters(model) == count
    # 25.6 million with ImageNet's 1,000 classes.
    assert count + 2049 * 800 == 25_557_032


def test_resnet50_is_torchvisions(torchvision_models):
    torch.manual_seed(0)
    theirs = torchvision_models.resnet50(num_classes=200).eval()
    ours = resnet50().eval()
    weights = {
        key.replace("fc.", "head.") if key.startswith("fc.") else f"body.{key}": value
        for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(weights)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", 10, (1, 8, 8)), "name must be one of small, lenet, .*got 'nothing'"),
        (("small", 0, (1, 8, 8)), "classes must be 1 or more, got 0"),
        (("small", 10, (8, 8)), r"three positive numbers .*got \(8, 8\)"),
        (("small", 10, (1, 0, 8)), r"three positive numbers .*got \(1, 0, 8\)"),
        (("lenet", 10, (3, 64, 64)), r"lenet: image_shape must be \(C, 28, 28\), got"),
        (("convnet", 10, (3, 15, 32)), "convnet: image_shape must be at least 16 x 16"),
        (("wrn", 10, (3, 30, 32)), "wrn: image_shape must have sides divisible by 4"),
    ],
)
def test_build_says_what_it_takes(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(*arguments)


def test_build_names_the_options():
    with pytest.raises(ValueError, match=r"must be one of units, widen, stand.*got 'unit'"):
        build("wrn", 10, (3, 32, 32), unit=5)
    with pytest.raises(ValueError, match=r"options of convnet must be left out, got .dim."):
        build("convnet", 10, (3, 32, 32), dim=5)
    with pytest.raises(ValueError, match="hidden must have one width"):
        build("mlp", 10, (1, 28, 28), hidden=())


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_lenet_in_another_width(width):
    model = build("lenet", 10, (1, 28, 28), width=width)
    assert model.features(torch.rand(2, 1, 28, 28)).shape == (2, 1024 * width)
    channels = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert channels == [32 * width, 64 * width, 128 * width, 256 * width]


def test_lenet_of_more_channels():
    model = build("lenet", 10, (5, 28, 28), width=1 / 32)
    assert model(torch.rand(2, 5, 28, 28)).shape == (2, 10)
    assert model.image_shape == (5, 28, 28)


def test_lenet_of_no_width():
    with pytest.raises(ValueError, match=r"lenet: width must be in 1/32\.\.16, got 0"):
        build("lenet", 10, (1, 28, 28), width=0)


# wrapped modules


class Net(nn.Module):
    """A network with its linear layers under names of their own, and ``last`` behind them."""

    def __init__(self, last=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.neck = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
        self.last = last or nn.Identity()

    def forward(self, images):
        return self.last(self.neck(self.norm(self.stem(images)).mean((2, 3))))


def wrapped(module=None, layer="neck.2", **options):
    torch.manual_seed(0)
    return wrap(module or Net(), layer, image_shape=(3, 9, 9), **options)


IMAGES = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def test_wrap_finds_the_penultimate_layer():
    torch.manual_seed(0)
    module = Net().train()
    before = copy.deepcopy(module.state_dict())
    model = wrap(module, "neck.2", image_shape=[3, 9, 9])
    assert isinstance(model, Classifier)
    assert model.image_shape == (3, 9, 9)
    assert model.head is module.neck[2]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(part.training for part in (*module.modules(), *model.modules()))
    model.eval()
    entering = module.eval().neck[:2](module.norm(module.stem(IMAGES)).mean((2, 3)))
    torch.testing.assert_close(model.features(IMAGES), entering)
    torch.testing.assert_close(model.head(model.features(IMAGES)), module(IMAGES))
    torch.testing.assert_close(model(IMAGES), module(IMAGES))


def test_wrapped_modules_copy_save_and_load(tmp_path):
    model = wrapped().eval()
    twin = copy.deepcopy(model)
    torch.save(model.state_dict(), tmp_path / "weights")
    with torch.no_grad():
        twin.head.weight += 1
        twin.body.stem.weight += 1
    assert not torch.allclose(twin(IMAGES), model(IMAGES))
    other = wrapped(Net()).eval()
    other.load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
    assert torch.equal(other(IMAGES), model(IMAGES))
    keys = {f"body.{key}" for key in Net().state_dict() if not key.startswith("neck.2.")}
    assert set(model.state_dict()) == keys | {"head.weight", "head.bias"}
    assert len(list(model.parameters())) == len(list(Net().parameters()))


def test_wrapped_modules_compile_in_one_piece():
    model = wrapped().eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGES), model(IMAGES))
    features = torch.compile(model.features, backend="eager", fullgraph=True)
    torch.testing.assert_close(features(IMAGES), model.features(IMAGES))


def test_wrapped_modules_train():
    module = Net()
    model = wrapped(module)
    before = copy.deepcopy(model)
    batch = methods.Batch(IMAGES, torch.arange(4), IMAGES.flip(3), IMAGES, torch.arange(4))
    options = {"weight": 2.0, "norm_weight": 0.01, "margin": 0.4}
    step = methods.tla(model, batch, attack=lambda _, images, labels: images * 0.9, **options)
    step.loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for key, value in model.named_parameters():
        assert torch.isfinite(value.grad).all(), key
    assert not torch.equal(model.body.stem.weight, before.body.stem.weight)
    # The parameters are the module's own.
    torch.testing.assert_close(model.eval()(IMAGES), module.eval()(IMAGES))


def test_wrap_with_other_classes():
    module = Net()
    model = wrapped(module, classes=3)
    assert model(IMAGES).shape == (4, 3)
    assert module(IMAGES).shape == (4, 5)
    assert model.head.in_features == 8
    assert wrapped(module, classes=5).head is module.neck[2]


def test_wrap_takes_a_convolution_of_one_pixel():
    torch.manual_seed(0)
    for bias in (True, False):
        module = nn.Sequential(
            nn.Conv2d(3, 6, 9), nn.ReLU(), nn.Conv2d(6, 5, 1, bias=bias), nn.Flatten()
        )
        model = wrap(module, "2", image_shape=(3, 9, 9))
        assert model.features(IMAGES).shape == (4, 6)
        assert isinstance(model.head, nn.Linear)
        torch.testing.assert_close(model(IMAGES), module(IMAGES))
        model(IMAGES).sum().backward()
        assert all(torch.isfinite(value.grad).all() for value in model.parameters())


@pytest.mark.parametrize(
    ("module", "layer", "message"),
    [
        (Net(), "neck.3", r"got 'neck\.3'; similar: neck.*last linear layers: neck\.0, neck\.2$"),
        (Net(), "", "must name a layer of the module, got ''"),
        (Net(), "stem", r"must be linear, got 'stem', a Conv2d; .*neck\.2$"),
        (Net(), "neck", "must be linear, got 'neck', a Sequential"),
        (Net(), "neck.0", r"must be the last .*got 'neck\.0'; its last linear layers: neck\.0, n"),
        (Net(nn.Softmax(1)), "neck.2", "must be the last of the module"),
        (Net(nn.Linear(5, 5)), "neck.2", "must be the last of the module.*last$"),
        (Net(nn.Unflatten(0, (1, -1))), "neck.2", "must be the last of the module"),
    ],
)
def test_wrap_rejects_other_layers(module, layer, message):
    before = [name for name, _ in module.named_modules()]
    with pytest.raises(ValueError, match=message):
        wrap(module, layer, image_shape=(3, 9, 9))
    assert [name for name, _ in module.named_modules()] == before
    module(IMAGES)


def check_wrapped(module, layer, shape, dim, classes=7):
    torch.manual_seed(0)
    with torch.no_grad():
        # Some libraries start their last layer at zero, which would hide what enters it.
        for value in module.get_submodule(layer).parameters():
            value.normal_()
    model = wrap(module, layer, image_shape=shape)
    images = torch.rand(2, *shape)
    model.eval()
    module.eval()
    with torch.no_grad():
        features = model.features(images)
        assert features.shape == (2, dim)
        assert model.head.weight.shape == (classes, dim)
        torch.testing.assert_close(model(images), module(images))
        torch.testing.assert_close(model.head(features), module(images))
    copy.deepcopy(model).load_state_dict(model.state_dict())
    model.zero_grad()
    F.cross_entropy(model(images), torch.tensor([0, 1])).backward()
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize(
    ("name", "layer", "dim"),
    [
        ("resnet18", "fc", 512),
        ("densenet121", "classifier", 1024),
        ("mobilenet_v3_small", "classifier.3", 1024),
    ],
)
def test_torchvision_models(torchvision_models, name, layer, dim):
    module = getattr(torchvision_models, name)(num_classes=7)
    check_wrapped(module, layer, (3, 64, 64), dim)


def test_torchvision_vision_transformer(torchvision_models):
    module = torchvision_models.VisionTransformer(32, 16, 2, 2, 24, 48, num_classes=7)
    check_wrapped(module, "heads.head", (3, 32, 32), 24)


def test_torchvision_vgg(torchvision_models):
    # Its own classifier has 120 million weights; the layers' places are what matters.
    with torch.device("meta"):
        vgg = torchvision_models.vgg11(init_weights=False)
    vgg.features.to_empty(device="cpu")
    for value in vgg.features.parameters():
        nn.init.normal_(value, std=0.05)
    vgg.avgpool = nn.AdaptiveAvgPool2d(1)
    vgg.classifier[0], vgg.classifier[3] = nn.Linear(512, 64), nn.Linear(64, 64)
    vgg.classifier[6] = nn.Linear(64, 7)
    check_wrapped(vgg, "classifier.6", (3, 32, 32), 64)


@pytest.mark.parametrize(
    ("name", "layer", "dim"),
    [
        ("resnet18", "fc", 512),
        ("vit_tiny_patch16_224", "head", 192),
        ("convnext_atto", "head.fc", 320),
        ("efficientnet_b0", "classifier", 1280),
        ("resnetv2_50", "head.fc", 2048),  # a 1 x 1 convolution
    ],
)
def test_timm_models(timm, name, layer, dim):
    options = {"img_size": 32} if name.startswith("vit") else {}
    module = timm.create_model(name, num_classes=7, **options)
    check_wrapped(module, layer, (3, 32, 32), dim)
