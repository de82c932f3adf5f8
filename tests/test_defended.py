"""Networks behind a defence, built by name: as recipes, checkpoints and the trainer take them."""

import json
from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tla_ops.training import fast
from tla_ops.training.attacks import pgd
from tla_ops.training.defences import ThermometerEncoding, ls_pga
from tla_ops.training.defended import thermometer
from tla_ops.training.fast import FastAttack, Twin
from tla_ops.training.layers import represent
from tla_ops.training.models import build
from tla_ops.training.residual import Standardize

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {  # with what makes it small, and the images it is made for here
    "small": ({"dim": 16}, (1, 8, 8)),
    "lenet": ({"width": 1 / 32}, (1, 28, 28)),
    "mlp": ({"hidden": [16]}, (2, 5, 4)),
    "convnet": ({}, (3, 16, 16)),
    "wrn": ({"units": 1, "widen": 1}, (3, 16, 16)),
    "resnet50": ({}, (1, 8, 8)),
    "mnist_a": ({}, (1, 9, 9)),
    "mnist_b": ({}, (1, 17, 17)),
    "mnist_c": ({}, (1, 8, 8)),
    "mnist_d": ({}, (1, 4, 4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_takes_codes(name, device):
    options, shape = NETWORKS[name]
    model = build("thermometer", 7, shape, network=name, levels=5, options=options).to(device)
    assert model.image_shape == shape
    encoding, network = model.body
    assert isinstance(encoding, ThermometerEncoding)
    assert (encoding.levels, encoding.channels) == (5, shape[0])
    images = torch.rand(3, *shape, device=device)
    logits = model(images)
    assert logits.shape == (3, 7)
    F.cross_entropy(logits, torch.tensor([0, 1, 6], device=device)).backward()
    for key, value in model.named_parameters():
        assert value.grad.abs().max() > 0, key
    own = build(name, 7, (5 * shape[0], *shape[1:]), **options)
    assert [p.shape for p in own.parameters()] == [p.shape for p in model.parameters()]
    model.eval()
    expected = model.head(network(encoding(images)))
    torch.testing.assert_close(model(images), expected)
    found = ls_pga(
        model, images, torch.tensor([0, 1, 6], device=device), epsilon=Fraction(1, 5), steps=1,
        levels=5,
    )  # fmt: skip
    assert found.shape == images.shape


def test_defaults():
    model = thermometer()
    assert model.image_shape == (1, 8, 8)
    assert (model.body[0].levels, model.body[0].channels) == (16, 1)
    assert model.body[1][0].in_channels == 16
    assert model.head.out_features == 10
    options = {"hidden": [4]}
    thermometer(network="mlp", options=options)
    assert options == {"hidden": [4]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "no"}, r"name must be one of small, lenet, .*thermometer.*got 'no'"),
        ({"network": "wrn", "options": {"unit": 5}}, r"options of wrn must be .*, got 'unit'"),
        ({"levels": 1}, "levels must be at least 2, got 1"),
        ({"units": 5}, "options of thermometer must be one of network, levels, options, got"),
        ({"network": "lenet"}, r"lenet: image_shape must be \(C, 28, 28\), got \(48, 32, 32\)"),
        ({"network": "vgg16"}, r"vgg16: image_shape must be 3 channels .* got \(48, 32, 32\)"),
    ],
)
def test_what_it_does_not_take(options, message):
    with pytest.raises(ValueError, match=message):
        build("thermometer", 10, (3, 32, 32), **options)


def test_wrn_standardises_codes_unless_told_otherwise():
    def first(**options):
        given = {"units": 1, "widen": 1, **options}
        return build("thermometer", 10, (3, 16, 16), network="wrn", options=given).body[1][0]

    assert isinstance(first(), Standardize)
    assert isinstance(first(standardize=False), nn.Conv2d)


def test_a_layer_of_the_network_by_its_name():
    model = build("thermometer", 10, (1, 8, 8), levels=4).eval()
    images = torch.rand(2, 1, 8, 8)
    codes = model.body[0](images)
    expected = model.body[1][:6](codes).flatten(1)
    torch.testing.assert_close(represent(model, images, "body.1.5"), expected)


@pytest.mark.parametrize(
    ("network", "shape", "options", "folded"),
    [("small", (1, 8, 8), {}, 3), ("wrn", (3, 8, 8), {"units": 1, "widen": 1}, 4)],
)
def test_a_twin_codes_images_itself(network, shape, options, folded):
    """And folds the network's batch normalisations: coding does not hide them."""
    model = build("thermometer", 10, shape, network=network, levels=4, options=options)
    for module in model.modules():
        if isinstance(module, fast.NORMS):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    model.eval()
    twin, images = Twin(model), torch.rand(6, *shape)
    assert len(twin._folded) == folded
    torch.testing.assert_close(twin(images), model(images), rtol=1e-4, atol=1e-4)
    attack = partial(
        pgd, epsilon=Fraction(1, 5), step=Fraction(1, 10), steps=3, random_start=False
    )  # fmt: skip
    labels = torch.arange(6)
    found, expected = FastAttack(attack)(model, images, labels), attack(model, images, labels)
    assert not torch.equal(found, images)
    assert ((found - expected).abs() < 1e-5).double().mean() > 0.97


def test_the_trainer_and_checkpoints_build_it(tmp_path):
    pytest.importorskip("lightning", reason="training runs on Lightning Fabric: extra [train]")
    pytest.importorskip("yaml", reason="recipes are YAML: extra [train]")
    from labs import made_up

    from tla_ops.training import checkpoint, trainer
    from tla_ops.training.recipe import load_recipe

    options = {"network": "mlp", "levels": 3, "options": {"hidden": [8]}}
    recipe = load_recipe("digits-at2l", [
        "model=thermometer", f"model_options={json.dumps(options)}", "max_steps=2", "batch=10",
        "val_images=20", "val_steps=1", "attack_steps=1", "schedule={}",
    ])  # fmt: skip
    trainer.train(recipe, made_up("digits"), tmp_path / "run", device="cpu")
    model, read = checkpoint.read_model(tmp_path / "run" / "best.pt")
    assert read.model_options == options
    kept = checkpoint.read(tmp_path / "run" / "best.pt")["model"]
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert model.body[0].levels == 3
    assert model.body[1][1].weight.shape == (8, 3 * 64)
