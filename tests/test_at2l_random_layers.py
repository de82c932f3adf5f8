"""Networks of the tables of random resizing and padding: where their weights are from, and what is
in front of them.
"""

import json
from fractions import Fraction

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from labs import Watched, fake_training, made_up

from tla_ops.experiments import paper
from tla_ops.experiments.at2l import random_layers
from tla_ops.experiments.at2l.random_layers import (
    STAND_INS,
    Layers,
    attacked,
    defended,
    fine_tuned,
    network_of,
    original,
    round_recipe,
)
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Setting, Trained
from tla_ops.experiments.threat import Threat
from tla_ops.training import checkpoint, pretrained
from tla_ops.training.defences import RandomResizePad
from tla_ops.training.models import build
from tla_ops.training.patterns import Patterns
from tla_ops.training.pretrained import WeightsError

DIGITS = Setting("digits", "imagenet")
CIFAR = Setting("cifar10", "imagenet")
IMAGENET = Setting("imagenet", "imagenet")
SAID = paper.settings("at2l/table2")
TIMM = "test_resnet.r160_in1k"

pytestmark = pytest.mark.usefixtures("one_thread")


def lab(tmp_path, dataset="digits", shape=None, classes=10, **options):
    data = {dataset: made_up(dataset, train=30, test=20, classes=classes, shape=shape)}
    return Watched(tmp_path, data, Budget("full"), datasets=[dataset], overrides=(), **options)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A lab on digits that trains nothing, and one of its originals."""
    fake_training(monkeypatch)
    made = lab(tmp_path)
    return made, original(made, DIGITS, "Inception-ResNet-v2")


# The layers.


@pytest.mark.parametrize(
    ("setting", "shape", "expected"),
    [
        (DIGITS, (1, 8, 8), (15, 16, 0.0)),
        (CIFAR, (3, 32, 32), (32, 36, 0.5)),
        (IMAGENET, (3, 299, 299), (299, 331, 0.5)),
    ],
)
def test_sizes_are_in_proportion_to_the_papers(setting, shape, expected, tmp_path):
    made = lab(tmp_path, setting.dataset, shape=shape)
    assert random_layers.random_layers(made, setting) == expected


# Originals.


def test_what_is_trained_in_the_places_of_the_papers_networks(tmp_path, monkeypatch):
    trained = fake_training(monkeypatch)
    for setting in (DIGITS, CIFAR):
        assert list(STAND_INS[setting.dataset]) == list(pretrained.NETWORKS)
    made = lab(tmp_path)
    models = [original(made, DIGITS, name).model for name in pretrained.NETWORKS]
    assert [recipe.method for recipe in trained] == ["um", "um", "um", "at"]
    networks = [recipe.model_options["network"] for recipe in trained]
    assert networks == ["small", "mlp", "mlp", "mlp"]
    assert trained[2].model_options == trained[3].model_options != trained[1].model_options
    for model in models:  # nothing is random in front of an original
        images = torch.rand(3, 1, 8, 8)
        torch.testing.assert_close(model(images), model(images))
        assert model.body[0](images).shape == (3, 1, 16, 16)


def test_networks_on_cifar10_take_larger_images(tmp_path, torchvision_models, monkeypatch):
    for init in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"):  # which take time
        monkeypatch.setattr(nn.init, init, lambda tensor, *_, **__: nn.init.zeros_(tensor))
    made = lab(tmp_path, "cifar10")
    for method, *variation in STAND_INS["cifar10"].values():
        recipe = made.recipe("cifar10", method, *variation)
        own = {"units": 1, "widen": 1} if recipe.model == "wrn" else recipe.model_options
        at = [build(recipe.model, 10, (3, side, side), **own).state_dict() for side in (32, 36)]
        shapes = [{key: value.shape for key, value in weights.items()} for weights in at]
        assert shapes[0] == shapes[1]


@pytest.fixture
def timm(monkeypatch, tmp_path):
    """timm, and a writer of weights by a seed to where they are looked for."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # it imports torchvision
        pytest.skip(f"timm cannot be imported: {error}")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLA_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(pretrained.NETWORKS, "Inception-v3", TIMM)
    place = tmp_path / "data" / "imagenet" / "weights" / f"{TIMM}.pth"

    def write(seed):
        torch.manual_seed(seed)
        module = timm.create_model(TIMM, pretrained=False).eval()
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), place)
        return module

    return write


def test_pretrained_originals(timm, tmp_path):
    made = lab(tmp_path, "imagenet", shape=(3, 40, 40), classes=1000)
    with pytest.raises(WeightsError, match=f"weights of {TIMM} must be in"):
        original(made, IMAGENET, "Inception-v3")
    digests = set()
    for seed in (1, 2):
        module = timm(seed)
        found = original(made, IMAGENET, "Inception-v3")
        images = torch.rand(2, 3, 40, 40)
        torch.testing.assert_close(
            found.model(images), module(images * 2 - 1), rtol=1e-3, atol=1e-5
        )
        assert not found.model.training
        assert found is original(made, IMAGENET, "Inception-v3")
        assert found.name == TIMM
        assert (found.recipe.model, found.recipe.model_options) == ("timm", {"name": TIMM})
        run = made.parts["imagenet"]["runs"][-1]
        assert run["name"] == TIMM
        assert (made.output / run["checkpoint"]) == found.path
        again, _ = checkpoint.read_model(found.path)  # which asks for no weights of timm's
        torch.testing.assert_close(again(images), found.model(images))
        digests.add(found.digest)
    assert len(digests) == 2
    assert len(made.parts["imagenet"]["runs"]) == 2


# Fine-tuning.


def test_the_recipe_of_a_round(started):
    made, trained = started
    recipe = round_recipe(made, DIGITS, trained, Layers(15, 16, 0.25), SAID)
    assert recipe.name == "digits-at2l-round"
    assert recipe.model == "randomized"
    assert recipe.model_options == {
        "network": "mlp", "options": {"hidden": [128, 128]}, "smallest": 15, "side": 16,
        "value": 0.25,
    }  # fmt: skip
    assert recipe.options["adversarial_weight"] == 0.3
    assert (recipe.options["weight"], recipe.options["margin"]) == (1.0, 2.0)
    assert (recipe.attack, recipe.epsilon, recipe.attack_step) == (
        "fgsm", Fraction(3, 64), Fraction(3, 256),
    )  # fmt: skip


@pytest.mark.parametrize(("setting", "shape"), [(CIFAR, (3, 32, 32)), (IMAGENET, (3, 40, 40))])
def test_the_recipe_of_a_network_without_a_front(setting, shape, tmp_path):
    made = lab(tmp_path, setting.dataset, shape=shape)
    options = {"name": TIMM} if setting is IMAGENET else {"units": 1}
    model = "timm" if setting is IMAGENET else "wrn"
    own = made.recipe(
        setting.dataset, "at2l-round", f"model={model}", f"model_options={json.dumps(options)}"
    )
    recipe = round_recipe(made, setting, Trained("own", None, own, ""), Layers(40, 45, 0.5), SAID)
    assert recipe.model_options == {
        "network": model, "options": options, "smallest": 40, "side": 45, "value": 0.5
    }  # fmt: skip
    assert recipe.epsilon == Fraction(2, 255)


def test_a_round_starts_from_the_originals_weights(started, monkeypatch):
    made, trained = started
    recipe = round_recipe(made, DIGITS, trained, Layers(15, 16, 0.0), SAID)
    plans = []

    def rounds(lab, setting, plan, count):
        assert (lab, setting, count) == (made, DIGITS, 1)
        plans.append(plan)
        return [plan.start, plan.start._replace(name="tuned")]

    monkeypatch.setattr(random_layers, "rounds", rounds)
    assert fine_tuned(made, DIGITS, trained, recipe).name == "tuned"
    fine_tuned(made, DIGITS, trained, recipe)
    plan = plans[0]
    assert plans[1].start is plan.start
    assert plan.recipe is recipe
    assert plan.threats == (Threat("fgsm", Fraction(3, 64), steps=1),)
    assert (plan.others, plan.own, plan.dataset) == ((), True, None)
    model, kept = checkpoint.read_model(plan.start.path)
    assert (kept.model, kept.model_options) == ("randomized", recipe.model_options)
    assert isinstance(model.body[0], RandomResizePad)
    own, its = network_of(trained), network_of(plan.start)
    images = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(its(images), own(images))
    other = original(made, DIGITS, "Ens-adv-Inception-ResNet-v2")
    fine_tuned(made, DIGITS, other, recipe)
    assert plans[2].start.path != plan.start.path
    torch.testing.assert_close(network_of(plans[2].start)(images), network_of(other)(images))


# What is attacked, and what is looked at.


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_the_network_alone_is_attacked(dataset, tmp_path):
    made, setting = lab(tmp_path, dataset), Setting(dataset, "imagenet")
    shape = made.dataset(dataset).train.image_shape
    if dataset == "digits":
        options = {"network": "mlp", "smallest": 16, "side": 16, "options": {"hidden": [4]}}
        overrides = ("model=randomized", f"model_options={json.dumps(options)}")
    else:
        overrides = ("model=wrn", "model_options={units: 1, widen: 1}")
    recipe = made.recipe(dataset, "um", *overrides)
    model = build(recipe.model, 10, shape, **recipe.model_options).eval()
    weights = Trained("own", model, recipe, "abc")
    images = torch.rand(2, *shape)
    known = attacked(setting, weights, Layers(20, 24, 0.5), "vanilla")
    torch.testing.assert_close(known.model(images), model(images))


def test_a_fine_tuned_network_is_attacked_without_its_layers(started):
    made, trained = started
    recipe = round_recipe(made, DIGITS, trained, Layers(15, 16, 0.0), SAID)
    model = build("randomized", 10, (1, 8, 8), **recipe.model_options).eval()
    known = attacked(
        DIGITS, Trained("tuned", model, recipe, "abc"), Layers(15, 16, 0.0), "vanilla"
    ).model
    images = torch.rand(2, 1, 8, 8)
    enlarged = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(known(images), model.head(model.body[1](enlarged)))


def test_the_network_over_patterns_is_attacked(started):
    _, trained = started
    known = attacked(DIGITS, trained, Layers(14, 16, 0.25), "ensemble-pattern").model
    expected = Patterns(network_of(trained), (1, 8, 8), smallest=14, side=16, value=0.25).eval()
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(known(images), expected(images))
    assert not known.training


def test_random_layers_draw_the_same_each_time(started, tmp_path):
    made, trained = started
    images, layers = torch.rand(40, 1, 8, 8), Layers(13, 16, 0.0)
    found = [defended(made, trained, layers) for _ in range(2)]
    logits = [one.model(images) for one in found]
    torch.testing.assert_close(*logits)
    assert not torch.allclose(found[0].model(images), logits[0])  # further draws are others
    other = defended(lab(tmp_path / "other", seed=1), trained, layers)
    assert not torch.allclose(other.model(images), logits[0])
    assert not found[0].model.training
    front = found[0].model.body[0]
    assert (front.smallest, front.side, front.value) == layers
    assert found[0].digest == found[1].digest != other.digest


def test_what_differs_has_another_digest(started):
    made, trained = started
    digests = {trained.digest}
    weights = [trained, trained._replace(digest="other")]
    for each in weights:
        for layers in (Layers(15, 16, 0.0), Layers(14, 16, 0.0), Layers(15, 16, 0.5)):
            digests.add(defended(made, each, layers).digest)
            digests.add(attacked(DIGITS, each, layers, "ensemble-pattern").digest)
            digests.add(attacked(DIGITS, each, layers, "vanilla").digest)
    assert len(digests) == 1 + 2 * (3 + 3 + 1)
