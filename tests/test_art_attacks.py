"""Our attacks beside ART's on the same network, and ART's in our form."""

import logging
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("art", reason="adversarial-robustness-toolbox comes with the extra [eval]")
pytest.importorskip("multiprocess", reason="ART's AutoAttack imports it; extra [eval]")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from digits import digits

from tla_ops.training import art_attacks, attacks, methods
from tla_ops.training.art_attacks import autoattack, cw_l2, deepfool, jsma
from tla_ops.training.attacks import model_mode
from tla_ops.training.evaluate import accuracy
from tla_ops.training.models import small

EPSILON, STEP = Fraction(1, 10), Fraction(1, 40)
L2 = {"epsilon": Fraction(3, 4), "step": Fraction(1, 4), "steps": 5}
QUICK = {
    "deepfool": (deepfool, {"steps": 20}),
    "cw_l2": (cw_l2, {"steps": 8, "searches": 2, "constant": 1.0, "learning_rate": 0.1}),
    "jsma": (jsma, {}),
    "autoattack": (
        autoattack,
        {"epsilon": EPSILON, "steps": 10, "restarts": 1, "queries": 50},
    ),
}
every_attack = pytest.mark.parametrize("name", QUICK)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def splits():
    return digits()


@pytest.fixture(scope="module")
def model(splits):
    """A small network after one undefended epoch, in train mode."""
    torch.manual_seed(0)
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for batch in splits.train.batches(50, 0, torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        methods.um(model, batch).loss.backward()
        optimizer.step()
    model.zero_grad()
    return model


@pytest.fixture(scope="module")
def data(splits):
    """The 720 images that the network has not learnt from."""
    parts = splits.validation, splits.test
    return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])


@pytest.fixture(scope="module")
def classifier(model):
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )


def theirs(attack, images, labels):
    return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))


def wrong(model, images, labels):
    with torch.no_grad(), model_mode(model, "eval"):
        return model(images).argmax(1) != labels


# ours and theirs, equal steps


def pair(name, classifier):
    """Options of ours, and ART's attack with the same ones."""
    ball = {"eps": float(EPSILON), "batch_size": 1000}
    steps = {"eps_step": float(STEP), "max_iter": 7, "verbose": False}
    ours = {"epsilon": EPSILON, "step": STEP, "steps": 7}
    l2 = {"norm": 2, "eps": 0.75, "eps_step": 0.25, "max_iter": 5, "verbose": False}
    projected = evasion.ProjectedGradientDescentPyTorch
    return {
        "fgsm": ({"epsilon": EPSILON}, evasion.FastGradientMethod(classifier, **ball)),
        "bim": (ours, evasion.BasicIterativeMethod(classifier, **ball, **steps)),
        "mim": (ours, evasion.MomentumIterativeMethod(classifier, **ball, **steps)),
        "pgd": (ours | {"random_start": False}, projected(classifier, **ball, **steps)),
        "pgd l2": (
            L2 | {"random_start": False, "norm": "l2"},
            projected(classifier, **l2, batch_size=1000),
        ),
        "ll": (
            {"epsilon": EPSILON},
            evasion.FastGradientMethod(classifier, **ball, targeted=True),
        ),
        "ill": (ours, evasion.BasicIterativeMethod(classifier, **ball, **steps, targeted=True)),
    }[name]


@pytest.mark.parametrize("name", ["fgsm", "bim", "mim", "pgd", "pgd l2", "ll", "ill"])
def test_deterministic_attacks_make_the_same_perturbation(model, data, classifier, name):
    images, labels = data
    options, attack = pair(name, classifier)
    ours = getattr(attacks, name.split()[0])(model, images, labels, **options)
    if name in ("ll", "ill"):
        with torch.no_grad(), model_mode(model, "eval"):
            labels = model(images).argmin(1)
    art = theirs(attack, images, labels)
    # Both add and clip in float32, in another order: a few roundings of 6e-8 a step. Where rounding
    # turns a gradient's sign or crosses a ReLU's kink, the image's later steps follow that: one
    # image in a hundred may go its own way.
    same = (ours - art).abs() <= 1e-5
    assert (same.flatten(1).double().mean(1) > 0.95).double().mean() > 0.99
    assert same.double().mean() > 0.99
    assert ((images - art).abs() > 1e-2).double().mean() > 0.2
    assert accuracy(model, ours, data[1]) == pytest.approx(accuracy(model, art, data[1]), abs=2e-3)


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fool_the_network_as_often(model, data, classifier, norm, restarts):
    images, labels = data
    budget = {"epsilon": EPSILON, "step": STEP, "steps": 4} if norm == "linf" else L2
    generator = torch.Generator().manual_seed(0)
    ours = attacks.pgd(
        *(model, images, labels), **budget, norm=norm, restarts=restarts, generator=generator
    )
    np.random.seed(0)
    attack = evasion.ProjectedGradientDescentPyTorch(
        classifier,
        norm="inf" if norm == "linf" else 2,
        eps=float(budget["epsilon"]),
        eps_step=float(budget["step"]),
        max_iter=budget["steps"],
        num_random_init=restarts,
        batch_size=1000,
        verbose=False,
    )
    art = theirs(attack, images, labels)
    ours, art, clean = (wrong(model, x, labels) for x in (ours, art, images))
    # The variance of a paired difference is the number of images that one of the two fools alone.
    alone = (ours != art).sum().item()
    assert abs(ours.sum().item() - art.sum().item()) <= 3 * alone**0.5
    assert alone < 0.1 * len(labels)
    assert clean.double().mean() + 0.2 < ours.double().mean() < 0.98


# theirs in our form


@pytest.fixture(scope="module")
def results(model, data):
    images, labels = (part[:40] for part in data)
    return {
        name: attack(model, images, labels, **options) for name, (attack, options) in QUICK.items()
    }


@every_attack
def test_each_attack_lowers_accuracy_within_its_bounds(model, data, results, name):
    images, labels = (part[:40] for part in data)
    adversarial = results[name]
    assert adversarial.shape == images.shape
    assert adversarial.dtype == torch.float32
    assert not adversarial.requires_grad
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    assert accuracy(model, images, labels) > 0.9
    limit = 0.8 if name == "autoattack" else 0.3  # the others have no ball to stay in
    assert accuracy(model, adversarial, labels) < limit
    already = wrong(model, images, labels)
    assert already.any()
    assert torch.equal(adversarial[already], images[already])


def test_autoattack_stays_in_its_ball_and_is_no_weaker_than_pgd(model, data, results):
    images, labels = (part[:40] for part in data)
    assert (results["autoattack"] - images).abs().max() <= float(EPSILON) + 1e-7
    pgd = attacks.pgd(model, images, labels, epsilon=EPSILON, step=STEP, steps=10)
    ours, art = accuracy(model, pgd, labels), accuracy(model, results["autoattack"], labels)
    assert art <= ours
    # What withstood everything is clean.
    held = ~wrong(model, results["autoattack"], labels)
    assert torch.equal(results["autoattack"][held], images[held])
    assert held.any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning:art")  # Square's windows on 8 x 8 are empty
def test_autoattack_in_l2(model, data):
    images, labels = (part[:40] for part in data)
    options = QUICK["autoattack"][1] | {"epsilon": Fraction(1, 2), "norm": "l2"}
    adversarial = autoattack(model, images, labels, **options)
    assert ((adversarial - images).flatten(1).norm(dim=1) <= 0.5 + 1e-5).all()
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    assert accuracy(model, adversarial, labels) < accuracy(model, images, labels) - 0.2


def test_small_perturbations_are_small(data, results):
    images = data[0][:40]
    # A network that PGD fools with 3/4 in l2 falls for less than that on average.
    for name in ("deepfool", "cw_l2"):
        length = (results[name] - images).flatten(1).norm(dim=1)
        assert length.mean() < 0.75
    changed = (results["jsma"] != images).flatten(1).double().mean(1)
    assert changed.mean() < 0.25


def test_jsma_reaches_the_class_it_is_given(model, data):
    images, labels = (part[:30] for part in data)
    targets = (labels + 3) % 10
    adversarial = jsma(model, images, labels, targets=targets, theta=0.5)
    right = ~wrong(model, images, labels)
    assert not wrong(model, adversarial, targets)[right].any()


@every_attack
def test_modes_gradients_and_random_streams_are_left_alone(model, data, name):
    attack, options = QUICK[name]
    images, labels = (part[:4] for part in data)
    model.train().zero_grad()  # ART, called as it is elsewhere here, leaves gradients
    model.body[1].eval()
    model.body[0].weight.requires_grad_(False)
    kept = torch.full_like(model.head.weight, 7.0)
    model.head.weight.grad = kept
    modes = [module.training for module in model.modules()]
    wanted = [value.requires_grad for value in model.parameters()]
    values = {key: value.clone() for key, value in model.state_dict().items()}
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    try:
        with torch.inference_mode():
            once = attack(model, images + 0, labels + 0, **options)
        assert model.head.weight.grad is kept
        assert (kept == 7).all()
        assert [value.requires_grad for value in model.parameters()] == wanted
        assert [module.training for module in model.modules()] == modes
        others = [value for key, value in model.named_parameters() if key != "head.weight"]
        assert all(value.grad is None for value in others)
    finally:
        model.requires_grad_().zero_grad()
        model.train()
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(once, attack(model, images, labels, **options))


def test_float64_autocast_and_quiet(model, data, capfd, caplog):
    images, labels = (part[:8] for part in data)
    double = small().double()
    double.load_state_dict(model.state_dict())
    capfd.readouterr()
    with caplog.at_level(logging.WARNING):
        adversarial = deepfool(double, images.double(), labels, steps=20)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = deepfool(model, images, labels, steps=3)
    assert adversarial.dtype == torch.float64
    assert wrong(double, adversarial, labels).all()
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, images)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_two_classes_and_nobody_standing(model, data):
    images = data[0][:8]
    pair = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    labels = pair(images).argmax(1)
    fooled = wrong(pair, autoattack(pair, images, labels, **QUICK["autoattack"][1]), labels)
    assert fooled.any()
    assert not fooled.all()  # so that every attack of the battery ran
    for attack, options in QUICK.values():
        assert torch.equal(attack(pair, images, 1 - labels, **options), images)


def test_what_is_missing_is_named(model, data, monkeypatch):
    images, labels = (part[:2] for part in data)
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tla_ops\[eval\]'"):
        deepfool(model, images, labels)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "multiprocess", None)
    with pytest.raises(ModuleNotFoundError, match=r"autoattack needs multiprocess: pip install"):
        autoattack(model, images, labels, epsilon=EPSILON)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("autoattack", {"epsilon": Fraction(0)}, "autoattack: epsilon must be above 0, got 0"),
        (
            "autoattack",
            {"epsilon": EPSILON, "norm": "l1"},
            "autoattack: norm must be one of 'linf', 'l2', got 'l1'",
        ),
        ("jsma", {"theta": 0}, "jsma: theta must not be 0, got 0"),
        ("deepfool", {"classes": 7}, "deepfool: classes must be the model's 10 logits, got 7"),
    ],
)
def test_bad_options(model, data, name, options, message):
    with pytest.raises(ValueError) as raised:
        getattr(art_attacks, name)(model, *(part[:2] for part in data), **options)
    assert str(raised.value) == message
