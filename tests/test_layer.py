"""TLA on other layers, against networks that are walked through by hand, module by module."""

import copy
from collections import Counter
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_methods import (
    ATTACK,
    NOISE,
    TLA,
    angular,
    assert_same,
    equation_1,
    seeded,
    shifted,
    smooth_cross_entropy,
    some_batch,
    twins,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from waiting import NoWaiting

import tla_ops
from tla_ops import FeatureBank
from tla_ops.training import layers, methods, steps
from tla_ops.training.attacks import model_mode
from tla_ops.training.methods import Batch
from tla_ops.training.models import Classifier, lenet

pytestmark = pytest.mark.usefixtures("one_thread")

# Of `small`: a convolution's output before and after normalisation and a ReLU in place, the hidden
# layer before both, and what is no module's.
LAYERS = ("body.0", "body.1", "body.2", "body.5", "body.7", "logits")


def through(model, images, layer):
    """Representation and logits, by calling one module after the other."""
    values, taken = images, None
    for at, module in enumerate(model.body):
        values = module(values)
        if layer == f"body.{at}":
            taken = values.clone().flatten(1)
    logits = model.head(values)
    return (logits if layer == "logits" else taken), logits


def nearest(model, anchors, batch, layer):
    with torch.no_grad(), model_mode(model, "eval"):
        anchor, pool = (through(model, x, layer)[0] for x in (anchors, batch.candidates))
        distance = torch.stack([angular(row.expand_as(pool), pool) for row in anchor])
        distance[batch.labels[:, None] == batch.candidate_labels] = torch.inf
        return distance.argmin(1)


def hooked(model):
    return [name for name, module in model.named_modules() if module._forward_hooks]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_equals_equation_1_in_the_layer(layer, training):
    (model, other), batch = twins(training), some_batch()
    step = methods.tla(model, batch, attack=shifted, **TLA, layer=layer, label_smoothing=0.1)
    assert layer != "body.1" or model.body[2].inplace
    adversarial = shifted(None, batch.images, None)
    index = nearest(other, adversarial, batch, layer)
    anchor, logits = through(other, adversarial, layer)
    positive = through(other, batch.positives, layer)[0]
    negative = through(other, batch.candidates[index], layer)[0]
    loss = smooth_cross_entropy(logits, batch.labels, 0.1)
    torch.testing.assert_close(step.positive_distance, angular(anchor, positive).detach())
    torch.testing.assert_close(step.negative_distance, angular(anchor, negative).detach())
    assert_same(step, model, equation_1(loss, anchor, [positive], negative), other)
    assert model.training is training
    assert hooked(model) == []


@pytest.mark.parametrize("layer", ["body.2", "logits"])
def test_the_source_as_a_positive(layer):
    (model, other), batch = twins(), some_batch()
    options = {"source_positive": True, "noise": NOISE, "norm": "mean_square", "layer": layer}
    step = methods.tla(model, batch, attack=shifted, **TLA, **options, generator=seeded())
    adversarial = shifted(None, batch.images, None)
    index = nearest(other, adversarial, batch, layer)
    uniform = torch.rand(batch.images.shape, generator=seeded())
    anchor, logits = through(other, adversarial, layer)
    source, positive, negative = (
        through(other, images, layer)[0]
        for images in (
            (batch.images + 0.2 * uniform - 0.1).clamp(0, 1),
            batch.positives,
            batch.candidates[index],
        )
    )
    loss = F.cross_entropy(logits, batch.labels)
    expected = equation_1(loss, anchor, [source, positive], negative, "mean_square")
    assert_same(step, model, expected, other)


class Operations(TorchDispatchMode):
    """Counts what is run, backward included."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def test_penultimate_is_the_plain_formula_and_not_one_operation_more():
    (plain, model), batch = twins(), some_batch()
    with Operations() as wanted:
        adversarial = shifted(plain, batch.images, batch.labels)
        with torch.no_grad(), model_mode(plain, "eval"):
            anchor, pool = plain.features(adversarial), plain.features(batch.candidates)
            index = tla_ops.mine_negatives(anchor, pool, batch.labels, batch.candidate_labels)[1]
        anchor, positive = plain.features(adversarial), plain.features(batch.positives)
        positives = torch.stack([positive], 1)
        negative = plain.features(batch.candidates[index.clamp(min=0)])
        triplets = tla_ops.triplet_loss(
            anchor, positives, negative, **TLA, reduction="none", return_details=True
        )
        distance = torch.where(index >= 0, triplets.negative_distance, torch.inf)
        triplets = triplets._replace(negative_index=index, negative_distance=distance)
        loss = steps.cross_entropy(plain.head(anchor), batch.labels, 0.0)
        expected = steps.triplet_step(loss, triplets, None, positive, batch.labels, 0.4).loss
        expected.backward()
    for layer in ({}, {"layer": "penultimate"}):
        ours = copy.deepcopy(model)
        with Operations() as found:
            step = methods.tla(ours, batch, attack=shifted, **TLA, **layer)
            step.loss.backward()
        assert found.counts == wanted.counts
        assert torch.equal(step.loss, expected)
        for parameter, other in zip(ours.parameters(), plain.parameters(), strict=True):
            assert torch.equal(parameter.grad, other.grad)


def weighted(weights):
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = nn.Parameter(torch.tensor(weights).diag())
    return layer


def test_mining_is_in_the_layer():
    # An anchor (1, 0, 0, 0) and candidates that stray from it along an axis each; a layer's weights
    # say along which one straying is cheap.
    body = nn.Sequential(nn.Flatten(), weighted([1.0, 0.01, 10, 10]))
    model = Classifier(body, 4, 4, (1, 1, 4), weighted([1.0, 1000, 1, 0.001]))
    pool = torch.tensor([[1, 0.3, 0, 0], [1, 0, 0.1, 0], [1, 0, 0, 0.2]])[:, None, None]
    images = torch.tensor([1.0, 0, 0, 0])[None, None, None]
    batch = Batch(images, torch.tensor([0]), images, pool, torch.tensor([1, 2, 3]))
    away = {"penultimate": 0.003, "body.0": 0.1, "logits": 0.002, "body": 0.003, "head": 0.002}
    picks = {"penultimate": 0, "body.0": 1, "logits": 2, "body": 0, "head": 2}
    for layer, pick in picks.items():
        assert steps.nearest_negatives(model, images, batch, layer).tolist() == [pick]
        step = methods.tla(
            model, batch, attack=lambda model, images, labels: images, **TLA, layer=layer
        )
        expected = 1 - (1 + away[layer] ** 2) ** -0.5
        assert step.negative_distance.item() == pytest.approx(expected, abs=2e-7)


@pytest.mark.parametrize("layer", ["body.2", "logits"])
def test_a_bank_holds_the_layers_rows(layer):
    (model, other), batch = twins(training=False), some_batch()
    dim = layers.width(model, layer)
    assert dim == through(model, batch.images, layer)[0].shape[1]
    bank = FeatureBank(16, dim)
    with torch.no_grad():
        bank.enqueue(through(model, batch.candidates, layer)[0], batch.candidate_labels)
    pool = methods.tla(other, batch, attack=shifted, **TLA, layer=layer)
    step = methods.tla(model, batch, attack=shifted, **TLA, layer=layer, bank=bank)
    torch.testing.assert_close(step.loss, pool.loss)
    torch.testing.assert_close(step.negative_distance, pool.negative_distance)
    features, labels = step.features
    torch.testing.assert_close(features, through(other, batch.positives, layer)[0].detach())
    assert torch.equal(labels, batch.labels)
    wrong = FeatureBank(16, dim + 1)
    with pytest.raises(ValueError, match=rf"candidates must be \(M, {dim}\)"):
        methods.tla(model, batch, attack=shifted, **TLA, layer=layer, bank=wrong)


@pytest.mark.parametrize("layer", ["body.2", "logits"])
def test_autocast_changes_the_loss_by_its_rounding_alone(layer):
    losses = []
    for autocast in (False, True):
        model, _ = twins()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            step = methods.tla(model, some_batch(), attack=shifted, **TLA, layer=layer)
        assert step.loss.dtype == torch.float32
        step.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        losses.append(step.loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("layer", ["body.2", "logits"])
def test_nothing_waits_for_the_device(layer):
    (model, _), batch = twins(), some_batch()
    with NoWaiting():
        methods.tla(model, batch, attack=ATTACK, **TLA, layer=layer).loss.backward()


def test_the_attack_sees_no_hook():
    def attack(model, images, labels):
        seen.append(hooked(model))
        return shifted(model, images, labels)

    seen, (model, _) = [], twins()
    methods.tla(model, some_batch(), attack=attack, **TLA, layer="body.2")
    assert seen == [[]]


def test_a_step_between_processes(tmp_path):
    """DDP sees one call a step, and waits for no gradient that does not come."""
    trainer = pytest.importorskip("tla_ops.training.trainer", reason="extra [train]")
    (model, other), batch = twins(), some_batch()
    method = partial(methods.tla, attack=shifted, **TLA, layer="body.2")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        step = nn.parallel.DistributedDataParallel(trainer.TrainingStep(model, method))
        for _ in range(2):
            other.zero_grad()
            model.zero_grad()
            assert_same(step(trainer.Whole(batch)), model, method(other, batch).loss, other)
    finally:
        torch.distributed.destroy_process_group()


def test_the_two_poolings_of_lenet():
    poolings = [name for name, m in lenet(width=1 / 32).named_modules() if type(m) is nn.MaxPool2d]
    assert poolings == ["body.6", "body.13"]
    assert all(f'"{name}"' in methods.tla.__doc__ for name in poolings)
    assert [layers.width(lenet(), name) for name in poolings] == [64 * 14 * 14, 256 * 7 * 7]


# errors


class Odd(Classifier):
    """A layer that runs twice, one that never does, one that returns no tensor, one that returns no
    row an image, and one whose rows have no dimension.
    """

    def __init__(self):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), 4, 10, (1, 8, 8))
        self.twice, self.never, self.pair, self.row, self.number = (nn.Identity() for _ in range(5))
        self.broken = False

    def features(self, images):
        features = self.twice(self.twice(self.body(images)))
        self.pair((features, features))
        self.row(features.sum(0))
        self.number(features.sum(1))
        if self.broken:
            raise RuntimeError("broken")
        return features


def test_an_unknown_layer_lists_those_there_are():
    (model, _), batch = twins(), some_batch()
    for call in (
        partial(methods.tla, model, batch, attack=shifted, **TLA),
        partial(steps.nearest_negatives, model, batch.images, batch),
        partial(layers.width, model),
    ):
        for name in ("body.99", "fc", ""):
            with pytest.raises(ValueError, match="layer must be one of the model's") as caught:
                call(layer=name)
            text = str(caught.value)
            assert f"got {name!r}" in text
            listed = text.rpartition("its layers: ")[2].split(", ")
            assert listed == [
                *("penultimate", "logits", "body", *(f"body.{i}" for i in range(10)), "head"),
            ]
    with pytest.raises(ValueError, match=r"did you mean body\.9\?"):
        layers.represent(model, batch.images, "body.09")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "layer must be a submodule that a forward pass runs once, got 'twice'.* 2 times"),
        ("never", "got 'never', which it ran 0 times"),
        ("pair", r"layer must give \(6, D, ...\) for 6 images, got 'pair', which gives tuple"),
        ("row", r"got 'row', which gives \(4,\)"),
        ("number", r"layer must give \(6, D, ...\) for 6 images, got 'number', which gives \(6,\)"),
    ],
)
def test_a_layer_without_a_representation(layer, message):
    model, batch = Odd(), some_batch()
    with pytest.raises(ValueError, match=message):
        layers.represent(model, batch.images, layer)
    with pytest.raises(ValueError, match=f"layer must .*got '{layer}'"):
        methods.tla(model, batch, attack=shifted, **TLA, layer=layer)
    assert hooked(model) == []
    assert all(module.training for module in model.modules())


def test_an_exception_leaves_neither_hook_nor_mode():
    model, batch = Odd(), some_batch()
    model.twice.eval()
    modes = [module.training for module in model.modules()]
    model.broken = True
    for call in (
        partial(steps.nearest_negatives, model, batch.images, batch, "body.0"),
        partial(layers.represent, model, batch.images, "body.0"),
        partial(layers.width, model, "body.0"),
    ):
        with pytest.raises(RuntimeError, match="broken"):
            call()
        assert hooked(model) == []
        assert [module.training for module in model.modules()] == modes


# recipes

SHORT = (
    "max_steps=3", "attack_steps=1", "batch=20", "val_images=20", "val_steps=1", "candidates=30",
)  # fmt: skip


@pytest.fixture
def training():
    pytest.importorskip("lightning", reason="the trainer stands on Lightning Fabric: extra [train]")
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn: extra [train]")
    from tla_ops.training import data, recipe, trainer

    def load(name, *overrides):
        return recipe.load_recipe(name, [*SHORT, *overrides])

    return trainer, load, data.load("digits")


def test_a_recipe_trains_on_a_layer(training, tmp_path):
    trainer, load, digits = training
    results = {}
    for layer in ("penultimate", "body.2", "logits"):
        made = load("digits-tla", f"layer={layer}")
        assert made.options["layer"] == layer
        results[layer] = trainer.train(made, digits, tmp_path / layer, device="cpu")
        assert results[layer]["recipe"]["layer"] == layer
    distances = {layer: result["last"]["negative_distance"] for layer, result in results.items()}
    assert all(0 < distance < 1 for distance in distances.values())
    assert len(set(distances.values())) == 3


@pytest.mark.parametrize(("layer", "dim"), [("body.5", 64 * 4 * 4), ("logits", 10)])
def test_a_recipes_bank_has_the_layers_dimension(layer, dim, training, tmp_path):
    trainer, load, digits = training
    made = load("digits-tla", f"layer={layer}", "bank=64", "candidates=0")
    assert trainer.train(made, digits, tmp_path / "a", device="cpu")["step"] == 3
    from tla_ops.training import checkpoint

    banks = checkpoint.read(tmp_path / "a" / "last.pt")["banks"]
    assert banks["features"].shape == (1, 64, dim)
    assert banks["features"][0, :60].abs().sum(1).min() > 0  # three steps of 20 rows


def test_a_recipes_layer_that_is_not_there(training, tmp_path):
    trainer, load, digits = training
    for bank in ("bank=0", "bank=64"):
        with pytest.raises(trainer.RunError, match="one of the model's, got 'body"):
            trainer.train(load("digits-tla", "layer=body.66", bank), digits, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    for override, message in {
        "layer=6": "layer must be str, got 6",
        "layer=": "layer must be str, got None",
    }.items():
        with pytest.raises(ValueError, match=message):
            load("digits-tla", override)
    with pytest.raises(ValueError, match="unknown key layer"):
        load("digits-at", "layer=body.2")


def test_command_line(training, tmp_path, capsys):
    from tla_ops import cli

    options = ["--device", "cpu", *(text for key in SHORT for text in ("--set", key))]
    command = ["train", "digits-tla", *options, "--output", str(tmp_path / "a")]
    assert cli.main([*command, "--set", "layer=body.6", "--json"]) == 0
    assert '"layer": "body.6"' in capsys.readouterr().out
    command[-1] = str(tmp_path / "b")
    assert cli.main([*command, "--set", "layer=body.66"]) == 1
    assert "layer must be one of the model's, got 'body.66'" in capsys.readouterr().err
