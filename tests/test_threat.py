"""Attacks as values: the papers' numbers, and that an attack does what its numbers say."""

import json
import sys
from dataclasses import fields, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

pytest.importorskip("yaml", reason="recipes are YAML: extra [train]")

from tla_ops.experiments import paper
from tla_ops.experiments import threat as threat_module
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.threat import KINDS, SLOW, Threat, from_recipe
from tla_ops.experiments.tla.blocks import step_within
from tla_ops.training import art_attacks, attacks
from tla_ops.training.defences import ThermometerEncoding, ls_pga
from tla_ops.training.recipe import load_recipe

BALLS = {
    "mnist": (Fraction(3, 10), Fraction(1, 100)),
    "cifar10": (Fraction(8, 255), Fraction(2, 255)),
    "tiny-imagenet": (Fraction(8, 255), Fraction(2, 255)),
}
"""Radius and step as the TLA paper's supplement (C.1) prints them."""
RADIUS, STEP = Fraction(1, 5), Fraction(1, 20)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def problem():
    """A smooth network that gets all of its images right, and another one."""
    torch.manual_seed(1)
    networks = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4))
        for _ in range(2)
    ]
    images = torch.rand(24, 1, 8, 8)
    return *networks, images, networks[0](images).argmax(1)


@pytest.fixture(scope="module")
def art():
    pytest.importorskip("multiprocess", reason="ART's AutoAttack imports it; extra [eval]")
    return pytest.importorskip("art", reason="adversarial-robustness-toolbox: extra [eval]")


@pytest.mark.parametrize("dataset", BALLS)
def test_table_1_has_the_papers_numbers(dataset):
    recipe, panel = load_recipe(f"{dataset}-at"), paper.panel("tla/table1", dataset)
    kinds = ("clean", "fgsm", "bim", "cw", "pgd", "pgd", "pgd", "mim", "transfer")
    for name, steps, kind in zip(panel.columns, panel.steps, kinds, strict=True):
        threat = from_recipe(recipe, name)
        assert threat.kind == kind
        assert threat.steps == (steps or 0)
        assert threat.restarts == (20 if name == "pgd20r" else 1)
        assert threat.norm == "linf"
        assert threat.early_stop == (name != "transfer")
        if name != "clean":
            assert threat.epsilon == BALLS[dataset][0]
        if name not in ("clean", "fgsm"):
            assert threat.step == BALLS[dataset][1]
    auto = from_recipe(recipe, "autoattack")
    assert (auto.kind, auto.epsilon, auto.norm) == ("autoattack", BALLS[dataset][0], "linf")
    assert (auto.steps, auto.restarts, auto.queries) == (100, 5, 5000)


def test_the_recipes_own_ball_and_steps():
    changes = ["epsilon=1/7", "attack_step=1/70", "eval_steps.pgd20r=3", "attack_norm=l2"]
    recipe = load_recipe("mnist-at", changes)
    assert from_recipe(recipe, "pgd20r") == Threat(
        "pgd", Fraction(1, 7), Fraction(1, 70), 3, restarts=20, norm="l2"
    )
    longer = load_recipe("mnist-at", [*changes, "attack_step=1/3", "eval_step=1/70"])
    assert from_recipe(longer, "pgd20r") == from_recipe(recipe, "pgd20r")
    assert from_recipe(recipe, "autoattack").norm == "l2"
    for name in ("mim", "cw", "fgsm"):  # which have no other ball
        assert from_recipe(recipe, name).norm == "linf"
    with pytest.raises(KeyError, match="deepfool"):
        from_recipe(recipe, "deepfool")


def test_a_step_within_a_ball():
    recipe = load_recipe("mnist-at", ["attack_step=1/2", "eval_step=1/50"])
    assert step_within(recipe, Fraction(1, 10)) == Fraction(1, 50)
    assert step_within(recipe, Fraction(1, 100)) == Fraction(1, 300)


DIFFERENT = {
    "kind": "bim", "epsilon": Fraction(1, 3), "step": Fraction(1, 4), "steps": 8, "restarts": 3,
    "norm": "l2", "queries": 9, "early_stop": False, "levels": 6,
}  # fmt: skip


def test_every_number_is_in_the_dictionary():
    threat = Threat("pgd", RADIUS, STEP, 7, restarts=2)
    assert DIFFERENT.keys() == {field.name for field in fields(Threat)}
    seen = {json.dumps(threat.as_dict())}
    for name, value in DIFFERENT.items():
        seen.add(json.dumps(replace(threat, **{name: value}).as_dict()))
    assert len(seen) == 1 + len(DIFFERENT)
    assert threat.as_dict() == {
        "kind": "pgd", "epsilon": "1/5", "step": "1/20", "steps": 7, "restarts": 2, "norm": "linf",
        "queries": 0, "early_stop": True, "levels": 0,
    }  # fmt: skip
    near = replace(threat, epsilon=RADIUS + Fraction(1, 10**12))
    assert near.as_dict() != threat.as_dict()


def test_a_budget_caps_and_raises_nothing():
    threat = Threat("autoattack", RADIUS, STEP, steps=100, restarts=20, queries=5000)
    assert threat.within(Budget("full")) == threat
    capped = threat.within(Budget("smoke", steps=5, restarts=2, queries=20))
    assert capped == replace(threat, steps=5, restarts=2, queries=20)
    assert threat.within(Budget("smoke", steps=200, restarts=30, queries=10**6)) == threat
    assert threat.within(Budget("smoke", restarts=1)) == replace(threat, restarts=1)
    assert Threat("clean").within(Budget("smoke", steps=5)) == Threat("clean")


def test_fewer_steps_of_carlini_are_longer_ones():
    """As far as it goes in all, whatever number of steps other attacks have."""
    threat = Threat("carlini", step=Fraction(1, 200), steps=1000)
    assert threat.within(Budget("full", steps=5)) == threat
    capped = threat.within(Budget("smoke", steps=5, cw_steps=50))
    assert capped == replace(threat, step=Fraction(1, 10), steps=50)
    assert capped.within(Budget("smoke", cw_steps=50)) == capped
    assert threat.within(Budget("smoke", cw_steps=3)).step == Fraction(5, 3)
    assert threat.within(Budget("smoke", cw_steps=2000)) == threat
    other = Threat("bim", RADIUS, STEP, steps=100)
    assert other.within(Budget("smoke", cw_steps=2)) == other
    assert other.within(Budget("smoke", steps=2)) == replace(other, steps=2)


@pytest.mark.parametrize(
    ("threat", "text"),
    [
        (Threat("clean"), ""),
        (Threat("fgsm", steps=1), "1 step"),
        (Threat("pgd", steps=100), "100 steps"),
        (Threat("pgd", steps=20, restarts=20), "20 steps × 20 restarts"),
    ],
)
def test_effort(threat, text):
    assert threat.effort() == text


NUMBERS = {"epsilon": RADIUS, "step": STEP, "steps": 6}
BY_HAND = {
    "clean": lambda model, images, labels: images,
    "fgsm": partial(attacks.fgsm, epsilon=RADIUS),
    "bim": partial(attacks.bim, **NUMBERS, early_stop=True),
    "pgd": partial(attacks.pgd, **NUMBERS, restarts=3, early_stop=True),
    "mim": partial(attacks.mim, **NUMBERS),
    "cw": partial(attacks.cw_linf, **NUMBERS),
    "ll": partial(attacks.ll, epsilon=RADIUS),
    "ill": partial(attacks.ill, **NUMBERS),
}


def made(attack, model, images, labels):
    torch.manual_seed(3)
    return attack(model, images, labels)


@pytest.mark.parametrize("kind", BY_HAND)
def test_our_attacks_get_their_numbers(kind, problem):
    model, _, images, labels = problem
    threat = Threat(kind, RADIUS, STEP, 6, restarts=3)
    found = made(threat.attack(0), model, images, labels)
    assert torch.equal(found, made(BY_HAND[kind], model, images, labels))
    assert kind == "clean" or not torch.equal(found, images)


@pytest.mark.parametrize("kind", ["bim", "pgd"])
@pytest.mark.parametrize("change", [{"norm": "l2"}, {"early_stop": False}])
def test_the_ball_and_the_early_stop_are_the_threats(kind, change, problem):
    model, _, images, labels = problem
    threat = Threat(kind, Fraction(1), Fraction(1, 4), 6, **change)
    function = {"bim": attacks.bim, "pgd": attacks.pgd}[kind]
    options = {"norm": "linf", "early_stop": True} | change
    by_hand = partial(function, epsilon=1, step=Fraction(1, 4), steps=6, **options)
    found = made(threat.attack(0), model, images, labels)
    assert torch.equal(found, made(by_hand, model, images, labels))
    plain = replace(threat, norm="linf", early_stop=True).attack(0)
    assert not torch.equal(found, made(plain, model, images, labels))


def test_transfer_attacks_the_source(problem):
    model, other, images, labels = problem
    threat = Threat("transfer", RADIUS, STEP, 6, early_stop=False)
    found = made(threat.attack(0, other), model, images, labels)
    on_other = partial(attacks.pgd, **NUMBERS)
    assert torch.equal(found, made(on_other, other, images, labels))
    assert not torch.equal(found, made(on_other, model, images, labels))
    with pytest.raises(ValueError, match="source must be a model for transfer, got None"):
        threat.attack(0)
    known = ", ".join(KINDS)
    with pytest.raises(ValueError, match=rf"kind must be one of {known}, got 'pdg'"):
        replace(threat, kind="pdg").attack(0)


@pytest.mark.parametrize("kind", BY_HAND)
def test_any_attack_is_made_on_a_source_that_is_given(kind, problem):
    model, other, images, labels = problem
    threat = Threat(kind, RADIUS, STEP, 6, restarts=3)
    found = made(threat.attack(0, other), model, images, labels)
    assert torch.equal(found, made(BY_HAND[kind], other, images, labels))
    if kind != "clean":
        assert not torch.equal(found, made(BY_HAND[kind], model, images, labels))


@pytest.mark.parametrize("transferred", [False, True])
def test_ls_pga_gets_its_numbers(transferred, problem):
    torch.manual_seed(2)
    _, _, images, labels = problem
    model, other = (
        nn.Sequential(ThermometerEncoding(8, 1), nn.Flatten(), nn.Linear(8 * 64, 4))
        for _ in range(2)
    )
    threat = Threat("ls_pga", RADIUS, Fraction(1, 2), 6, levels=8)
    by_hand = partial(ls_pga, epsilon=RADIUS, step=0.5, steps=6, levels=8)
    found = made(threat.attack(0, other if transferred else None), model, images, labels)
    assert torch.equal(found, made(by_hand, other if transferred else model, images, labels))
    assert not torch.equal(found, made(by_hand, model if transferred else other, images, labels))
    for change in ({"step": Fraction(1)}, {"steps": 5}, {"epsilon": RADIUS / 2}):
        assert not torch.equal(
            made(replace(threat, **change).attack(0), model, images, labels),
            made(by_hand, model, images, labels),
        )


def test_a_carlini_success_outside_the_ball_is_none(problem, monkeypatch):
    """In the l-infinity norm, of which 0 is no limit. The attack itself has tests of its own."""
    model, _, images, labels = problem
    moves, seen = torch.linspace(0, 0.4, len(images)), []

    def moved(model, images, labels, *, steps, learning_rate):
        seen.append((steps, learning_rate))
        found = images.clone()
        found[:, :, 0] += moves.view(-1, 1, 1)
        return found

    fake = ModuleType("carlini")
    fake.carlini_linf = moved
    monkeypatch.setitem(sys.modules, "tla_ops.training.carlini", fake)
    found = Threat("carlini", RADIUS, STEP, 9).attack(0)(model, images, labels)
    inside = moves <= float(RADIUS)
    assert 0 < inside.sum() < len(images)
    free = moved(model, images, labels, steps=9, learning_rate=0.05)
    assert torch.equal(found[inside], free[inside])
    assert torch.equal(found[~inside], images[~inside])
    assert torch.equal(Threat("carlini", step=STEP, steps=9).attack(0)(model, images, labels), free)
    assert seen == [(9, 0.05)] * 3


def test_what_is_kept_knows_the_sources_of_attacks(monkeypatch):
    folder = Path(attacks.__file__).parent
    files = {path.name for path in folder.glob("*.py")}
    assert {"_ascent.py", "attacks.py", "art_attacks.py", "defences.py"} <= files
    read, changed = Path.read_bytes, []

    def altered(path):
        return read(path) + b"#" * (path.name in changed)

    monkeypatch.setattr(Path, "read_bytes", altered)
    assert threat_module._code() == threat_module.CODE
    known = {threat_module.CODE}
    for name in ("_ascent.py", "attacks.py", "art_attacks.py", "defences.py", "threat.py"):
        changed[:] = [name]
        known.add(threat_module._code())
    assert len(known) == 6
    monkeypatch.setattr(Path, "read_bytes", read)
    monkeypatch.setattr(threat_module, "SOURCES", (*threat_module.SOURCES, "no such module"))
    assert threat_module._code() == threat_module.CODE


def lengths(found, images):
    return (found - images).flatten(1).norm(dim=1)


@pytest.mark.parametrize(
    ("threat", "by_hand"),
    [
        (Threat("cw_l2", steps=6, norm="l2"), partial(art_attacks.cw_l2, steps=6)),
        (Threat("deepfool", steps=2, norm="l2"), partial(art_attacks.deepfool, steps=2)),
    ],
)
def test_an_l2_success_outside_the_ball_is_none(threat, by_hand, problem, art):
    model, _, images, labels = problem
    free = by_hand(model, images, labels)
    moved = lengths(free, images)
    radius = Fraction(moved[moved > 0].median().item())
    found = replace(threat, epsilon=radius).attack(0)(model, images, labels)
    outside = moved > float(radius)
    assert 0 < outside.sum() < len(images)
    assert torch.equal(found[~outside], free[~outside])
    assert torch.equal(found[outside], images[outside])
    limitless = threat.attack(0)(model, images, labels)
    if threat.kind == "deepfool":  # 0 is no limit
        assert torch.equal(limitless, free)
    else:
        assert torch.equal(limitless, images)


@pytest.mark.parametrize("share", [Fraction(1, 10), Fraction(1, 2), Fraction(1, 64), Fraction(1)])
def test_jsma_keeps_to_its_share_of_the_pixels(share, problem, art):
    model, _, images, labels = problem
    found = Threat("jsma", share).attack(0)(model, images, labels)
    changed = (found != images).flatten(1).sum(1)
    most = changed.max().item()
    assert most <= share * 64
    assert ((found == images) | (found == 1)).all()
    fooled = model(found).argmax(1) != labels
    assert most > share * 64 - 2 or fooled.all()  # it gives up at the bound, not before
    assert fooled.any() == (share >= Fraction(1, 32))
    assert Threat("jsma", share).attack(0)(model, images[:0], labels[:0]).shape == (0, 1, 8, 8)


def test_autoattack_gets_its_numbers(problem, monkeypatch):
    model, _, images, labels = problem
    seen = {}

    def watched(*arguments, **options):
        seen.update(options)
        return images

    monkeypatch.setattr(art_attacks, "autoattack", watched)
    threat = Threat("autoattack", RADIUS, steps=9, restarts=2, norm="l2", queries=11)
    threat.attack(7)(model, images, labels)
    assert seen == {
        "epsilon": RADIUS, "norm": "l2", "steps": 9, "restarts": 2, "queries": 11, "seed": 7,
    }  # fmt: skip


def test_autoattack_takes_any_seed(problem, art):
    model, _, images, labels = problem
    threat = Threat("autoattack", Fraction(1, 50), steps=1, restarts=1, queries=2)
    few = images[:6], labels[:6]
    found = [threat.attack(seed)(model, *few) for seed in (2**32 + 5, 5)]
    assert torch.equal(*found)
    assert lengths(found[0], few[0]).max() <= 8 / 50 + 1e-5


def test_what_is_slow():
    assert set(SLOW) == {"autoattack", "deepfool", "cw_l2", "jsma", "carlini"}
    assert set(SLOW) < set(KINDS)
