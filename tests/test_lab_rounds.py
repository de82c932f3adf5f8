"""Models trained in rounds in a lab: what their names are decided by, which adversarial sets are
shared, and that an interrupted reproduction goes on to the same numbers.
"""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest
import torch

pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from labs import Watched, made_up

from tla_ops.experiments import rounds as module
from tla_ops.experiments import threat as threats
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Lab, Setting
from tla_ops.experiments.rounds import Plan, fewer, rounds, stored
from tla_ops.experiments.threat import Threat
from tla_ops.training import adversarial_set, set_builder, trainer
from tla_ops.training.image_set import ImageSet, hold_out
from tla_ops.training.run_parts import learned

DIGITS = Setting("digits", "mnist")
RADIUS, STEP = Fraction(3, 16), Fraction(1, 16)
MARK = Threat("mim", RADIUS, STEP, steps=2)
"""Of a kind that is replaced by `Marked`."""
GRADIENT = tuple(
    Threat(kind, RADIUS, *((STEP, 3) if kind in ("bim", "ill") else (Fraction(0), 1)),
           early_stop=False)
    for kind in ("fgsm", "ll", "bim", "ill")
)  # fmt: skip
TINY = ("model=mlp", "model_options={hidden: [8]}", "val_images=20", "val_steps=1", "batch=10",
        "max_steps=2", "schedule={}", "checkpoint_every=1")  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data():
    return {"digits": made_up("digits", train=80, test=30)}


def lab(output, data, budget=None, **options):
    budget = budget or Budget("smoke", steps=3)
    options.setdefault("overrides", TINY)
    return Watched(output, data, budget, **options)


def network(here, *variation):
    return here.trained(DIGITS, "at2l-pretrain", *variation)


def plan(here, *variation, **changes):
    """Of f and one network beside it."""
    usual = Plan(
        here.recipe("digits", "at2l-round", *variation), network(here), (MARK,),
        (network(here, "seed=7"),), name="f",
    )  # fmt: skip
    return usual._replace(**changes)


def flat(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()])


class Marked:
    """An attack that knows whom it was asked to attack."""

    def __init__(self, monkeypatch):
        self.asked, self.left = [], 0
        monkeypatch.setitem(threats.KINDS, "mim", lambda threat, seed: self)

    def __call__(self, model, images, labels):
        self.left -= 1
        if self.left == 0:
            raise InterruptedError
        self.asked.append((flat(model), len(images)))
        return (images + 0.1 * torch.sign(flat(model)[:8])).clamp(0, 1)

    def of(self, trained):
        return sum(torch.equal(found, flat(trained.model)) for found, _ in self.asked)


@pytest.fixture
def marked(monkeypatch):
    return Marked(monkeypatch)


@pytest.fixture
def copied(monkeypatch):
    """In place of training a copy of f's start is each round; returns what was asked for."""
    asked = []

    def train_rounds(recipe, dataset, output, *, start, sets, others, own, rounds, device):
        asked.append({"output": output, "recipe": recipe, "dataset": dataset, "start": start,
                      "sets": sets, "others": others, "own": own, "rounds": rounds})  # fmt: skip
        output.mkdir(parents=True, exist_ok=True)
        made = [output / f"round-{number:02}.pt" for number in range(1, rounds + 1)]
        for path in made:
            shutil.copy(start, path)
        return [start, *made]

    monkeypatch.setattr(module, "train_rounds", train_rounds)
    return asked


# Sets.


def test_sets_of_networks_that_stay_are_made_once_and_those_of_f_each_round(data, tmp_path, marked):
    here = lab(tmp_path, data)
    usual = plan(here)
    (other,) = usual.others
    models = rounds(here, DIGITS, usual, 3)
    assert [marked.of(one) for one in (other, *models)] == [1, 1, 1, 1, 0]
    assert {count for _, count in marked.asked} == {60}
    again = rounds(here, DIGITS, plan(here, "weight=0"), 2)  # another f, with the same networks
    assert [marked.of(one) for one in (other, *models)] == [1, 1, 1, 1, 0]
    assert [marked.of(one) for one in again] == [1, 1, 0]
    assert len(marked.asked) == 5
    there = lab(tmp_path, data)
    rounds(there, DIGITS, plan(there, "weight=2"), 1)
    assert len(marked.asked) == 5  # in another process, too
    assert len(list((tmp_path / "sets").iterdir())) == 2
    assert not list((tmp_path / "rounds").glob("*/sets"))


def test_a_plan_without_f_never_attacks_it(data, tmp_path, marked):
    here = lab(tmp_path, data)
    usual = plan(here, own=False)
    models = rounds(here, DIGITS, usual, 3)
    assert [marked.of(one) for one in (*usual.others, *models)] == [1, 0, 0, 0, 0]


def test_f_alone_is_attacked_alone(data, tmp_path, marked):
    here = lab(tmp_path, data)
    models = rounds(here, DIGITS, plan(here, others=()), 2)
    assert [marked.of(one) for one in models] == [1, 1, 0]
    assert len(marked.asked) == 2


def test_a_round_learns_from_the_budgets_images_but_for_the_held_out(
    data, tmp_path, marked, monkeypatch
):
    here = lab(tmp_path, data, Budget("smoke", learned={"digits": 50}))
    built, build = [], set_builder.build

    def watched(wanted, attack, model, images, **options):
        built.append(images)
        return build(wanted, attack, model, images, **options)

    monkeypatch.setattr(set_builder, "build", watched)
    usual = plan(here)
    rounds(here, DIGITS, usual, 2)
    some = hold_out(data["digits"].train, 50)[1]
    rest, held_out = hold_out(some, 20, usual.recipe.seed)
    assert (len(rest), len(held_out)) == (30, 20)
    assert len(built) == 4
    for images in built:
        assert torch.equal(images.stored, rest.stored)
        assert torch.equal(images.labels, rest.labels)
    (run,) = [run for run in here.parts["digits"]["runs"] if "rounds" in run]
    assert run["images"] == 30


def test_fewer_images_are_a_stratified_choice(data, tmp_path):
    whole = data["digits"]
    for budget in (
        {}, {"learned": {"mnist": 10}}, {"learned": {"digits": 80}}, {"learned": {"digits": 90}},
    ):  # fmt: skip
        assert fewer(lab(tmp_path, data, Budget("full", **budget)), DIGITS) is whole
    found = fewer(lab(tmp_path, data, Budget("full", learned={"digits": 20})), DIGITS)
    assert torch.bincount(found.train.labels).tolist() == [2] * 10
    assert found.test is whole.test
    assert (found.name, found.classes, found.notes) == (whole.name, whole.classes, whole.notes)


def test_a_plans_own_images_are_those_learned_from(data, tmp_path, copied):
    here = lab(tmp_path, data, Budget("smoke", learned={"digits": 50}))
    own = made_up("digits", train=70, seed=5)
    rounds(here, DIGITS, plan(here), 1)
    rounds(here, DIGITS, plan(here, dataset=own), 1)
    assert len(copied[0]["dataset"].train) == 50
    assert copied[1]["dataset"] is own


def taken(one, images):
    return one.take(torch.arange(len(images)), images.images)


@pytest.mark.parametrize(
    "asked",
    [
        GRADIENT, GRADIENT[::-1], GRADIENT[:1], GRADIENT[2:3], GRADIENT[:2],
        (*GRADIENT[:2], Threat("carlini", step=Fraction(1, 10), steps=2)),
        (Threat("pgd", RADIUS, STEP, 2), GRADIENT[3]),
        (GRADIENT[0], replace(GRADIENT[2], epsilon=Fraction(1, 8))),
        (GRADIENT[2], replace(GRADIENT[3], step=Fraction(1, 8))),
        (GRADIENT[2], replace(GRADIENT[3], steps=2)),
    ],
    ids=lambda asked: "+".join(threat.kind for threat in asked),
)  # fmt: skip
def test_a_set_is_what_its_attack_makes(asked, data, tmp_path):
    """Whichever attacks it shares its passes with, and in the order that they are asked for."""
    here = lab(tmp_path, data)
    member = network(here)
    images, _ = learned(here.recipe("digits", "at2l-round"), data["digits"])
    made = stored(here, tmp_path / "sets", member, asked, images)
    assert [one.about["threat"] for one in made] == [threat.as_dict() for threat in asked]
    alone = lab(tmp_path / "alone", data)
    for one, threat in zip(made, asked, strict=True):
        clean = images.images
        (by_itself,) = stored(alone, tmp_path / "alone" / "sets", member, [threat], images)
        assert torch.equal(taken(one, images), taken(by_itself, images))
        assert one.epsilon == (threat.epsilon or None)
        if threat.kind not in ("pgd", "carlini"):  # draws nothing
            exact = threat.attack(0)(member.model, clean, images.labels)
            off = float(threat.epsilon) / 240 + 1e-6
            assert (taken(one, images) - exact).abs().max() <= off
            assert not torch.equal(exact, clean)


def test_attacks_are_within_the_budget(data, tmp_path, marked):
    here = lab(tmp_path, data, Budget("smoke", steps=1))
    images, _ = learned(here.recipe("digits", "at2l-round"), data["digits"])
    here.begin()
    rounds(here, DIGITS, plan(here, threats=(replace(MARK, steps=9), *GRADIENT)), 1)
    found = {attack["kind"]: attack["steps"] for attack in here.attacks}
    assert found == {"mim": 1, "fgsm": 1, "ll": 1, "bim": 1, "ill": 1}
    one, *_ = stored(here, tmp_path / "sets", network(here), [MARK.within(here.budget)], images)
    assert one.about["threat"]["steps"] == 1
    before = len(here.attacks)
    rounds(here, DIGITS, plan(here, threats=(replace(MARK, steps=9), *GRADIENT)), 1)
    assert len(here.attacks) == before


@pytest.mark.parametrize("change", ["seed", "threat", "member", "images"])
def test_sets_are_known_by_all_that_decides_them(change, data, tmp_path, marked):
    here = lab(tmp_path, data)
    images, _ = learned(here.recipe("digits", "at2l-round"), data["digits"])
    member, threat = network(here), MARK
    stored(here, tmp_path / "sets", member, [threat], images)
    stored(here, tmp_path / "sets", member, [threat], images)
    assert len(marked.asked) == 1
    if change == "seed":
        here.seed = 1
    elif change == "threat":
        threat = replace(MARK, step=Fraction(1, 99))
    elif change == "member":
        member = network(here, "seed=7")
    else:
        pixels = images.stored.clone()
        pixels[0, 0, 0, 0] ^= 1
        images = ImageSet(pixels, images.labels)
    stored(here, tmp_path / "sets", member, [threat], images)
    assert len(marked.asked) == 2
    assert len(list((tmp_path / "sets").iterdir())) == 2


# What decides the weights.


def changed_plans(here, usual):
    """By what is changed: plans of which each has other weights."""
    pixels = here.dataset("digits").train.stored.clone()
    pixels[0, 0, 0, 0] ^= 1
    train = ImageSet(pixels, here.dataset("digits").train.labels)
    third = network(here, "seed=8")
    return {
        "start": usual._replace(start=third),
        "threat": usual._replace(threats=(replace(MARK, step=Fraction(1, 99)),)),
        "threats": usual._replace(threats=(MARK, GRADIENT[0])),
        "others": usual._replace(others=(third,)),
        "no others": usual._replace(others=()),
        "more others": usual._replace(others=(*usual.others, third)),
        "own": usual._replace(own=False),
        "recipe": usual._replace(recipe=here.recipe("digits", "at2l-round", "weight=0")),
        "length": usual._replace(recipe=here.recipe("digits", "at2l-round", "learning_rate=.1")),
        "images": usual._replace(dataset=here.dataset("digits")._replace(train=train)),
    }


def test_other_weights_are_in_another_folder(data, tmp_path, marked, copied):
    here = lab(tmp_path, data)
    usual = plan(here)
    for count in (1, 3, 0, 2):
        rounds(here, DIGITS, usual, count)
    rounds(here, DIGITS, usual._replace(name="g"), 1)
    test = here.dataset("digits")._replace(test=here.dataset("digits").train)
    rounds(here, DIGITS, usual._replace(dataset=test), 1)
    (folder,) = {asked["output"] for asked in copied}
    assert folder.parent == tmp_path / "rounds"
    assert folder.name.startswith("digits-at2l-round-")
    seen = {folder}
    for name, other in changed_plans(here, usual).items():
        rounds(here, DIGITS, other, 1)
        assert copied[-1]["output"] not in seen, name
        seen.add(copied[-1]["output"])
    there = lab(tmp_path, data)
    rounds(there, DIGITS, plan(there), 1)
    assert copied[-1]["output"] == folder


def test_the_seed_of_attacks_decides_the_weights(data, tmp_path, marked, copied):
    """A user's key holds the recipes' seed, and the lab's is that of attacks still."""
    folders = set()
    for seed in (0, 1):
        here = lab(tmp_path, data, overrides=(*TINY, "seed=5"), seed=seed)
        usual = plan(here)
        assert usual.recipe.seed == 5
        rounds(here, DIGITS, usual, 1)
        folders.add(copied[-1]["output"])
    assert len(folders) == 2


def test_a_budget_of_fewer_images_or_steps_is_another_run(data, tmp_path, marked, copied):
    for budget in ({}, {"learned": {"digits": 50}}, {"steps": 1}):
        here = lab(tmp_path, data, Budget("smoke", **budget))
        rounds(here, DIGITS, plan(here), 1)
    assert len({asked["output"] for asked in copied}) == 3


def test_what_is_trained_is_the_plans(data, tmp_path, copied):
    here = lab(tmp_path, data)
    usual = plan(here)
    models = rounds(here, DIGITS, usual, 2)
    (asked,) = copied
    assert asked["recipe"] == usual.recipe
    assert asked["start"] == usual.start.path
    assert asked["others"] == [other.path for other in usual.others]
    assert (asked["own"], asked["rounds"]) == (True, 2)
    assert models[0] is usual.start
    assert [one.path.name for one in models[1:]] == ["round-01.pt", "round-02.pt"]
    assert not any(one.model.training for one in models)
    rounds(here, DIGITS, usual._replace(own=False), 1)
    assert copied[-1]["own"] is False
    with pytest.raises(ValueError, match=r"rounds: x must have a checkpoint, got none"):
        rounds(here, DIGITS, usual._replace(start=usual.start._replace(name="x", path=None)), 1)


# Found again.


def untrainable(monkeypatch):
    monkeypatch.setattr(trainer, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(set_builder, "build", lambda *_, **__: pytest.fail("attacked again"))


def test_fewer_rounds_are_found_and_more_go_on(data, tmp_path, marked, monkeypatch):
    here = lab(tmp_path / "whole", data)
    whole = rounds(here, DIGITS, plan(here), 3)
    for count in (1, 3):
        here = lab(tmp_path / "parts", data)
        parts = rounds(here, DIGITS, plan(here), count)
    for first, second in zip(whole, parts, strict=True):
        assert torch.equal(flat(first.model), flat(second.model))
    untrainable(monkeypatch)
    for count in (3, 2, 1, 0):
        here = lab(tmp_path / "parts", data)
        found = rounds(here, DIGITS, plan(here), count)
        assert len(found) == count + 1
        for first, second in zip(whole[: count + 1], found, strict=True):
            assert torch.equal(flat(first.model), flat(second.model))


def test_a_model_is_called_the_same_whether_it_is_found_or_trained(data, tmp_path, marked):
    """What was measured of it is kept by its name."""
    names, said = [], []
    for _ in range(2):
        here = lab(tmp_path, data)
        models = rounds(here, DIGITS, plan(here), 3)
        here.said.clear()
        for one in models:
            here.accuracy(one, GRADIENT[0], here.test(DIGITS))
        names.append([one.name for one in models])
        said.append(len(here.said))
    assert names == [["digits-at2l-pretrain", "f-round1", "f-round2", "f-round3"]] * 2
    assert said == [4, 0]
    again = rounds(here, DIGITS, plan(here, name="g"), 1)
    assert again[1].name == "g-round1"
    assert rounds(here, DIGITS, plan(here, name=""), 1)[1].name == "digits-at2l-round-round1"


def test_what_is_recorded(data, tmp_path, marked):
    runs = []
    for _ in range(2):
        here = lab(tmp_path, data)
        usual = plan(here, threats=(MARK, *GRADIENT[:2]))
        here.begin()
        rounds(here, DIGITS, usual, 2)
        rounds(here, DIGITS, usual, 2)
        (part,) = here.parts.values()
        assert (part["dataset"], part["stands_in_for"]) == ("digits", "mnist")
        runs.append(part["runs"])
    assert runs[0] == runs[1]  # rates are of when sets were made, not of when they were found
    (run,) = runs[0]
    rates = run.pop("images_per_second")
    assert {name: set(of) for name, of in rates.items()} == {
        "f": {"mim", "fgsm", "ll"}, "mlp": {"mim", "fgsm", "ll"},
    }  # fmt: skip
    assert min(rate for of in rates.values() for rate in of.values()) > 0
    recipe = run.pop("recipe")
    assert recipe == json.loads(json.dumps(usual.recipe.as_dict()))
    assert "weight" not in {text.partition(":")[0] for text in run.pop("changed")}
    path = run.pop("checkpoint")
    assert (tmp_path / path).name == "round-02.pt"
    assert (tmp_path / path).exists()
    assert run == {
        "method": "at2l", "name": "f", "rounds": 2, "attacks": ["mim", "fgsm", "ll"],
        "networks": ["f", "mlp"], "images": 60, "seed": 0,
    }  # fmt: skip


# Interruption.


@pytest.mark.parametrize(
    ("kind", "number"), [*(("attack", n) for n in (1, 2, 3)), *(("step", n) for n in (1, 3, 4))]
)
def test_an_interrupted_plan_goes_on_to_the_same_weights(
    kind, number, data, tmp_path, marked, monkeypatch
):
    monkeypatch.setattr(Lab, "batch", 40)  # a set is made in two batches
    here = lab(tmp_path / "whole", data)
    whole = rounds(here, DIGITS, plan(here), 2)
    here = lab(tmp_path / "parts", data)
    usual, asked = plan(here), len(marked.asked)
    assert asked == 6
    if kind == "attack":
        marked.left = 2 * number  # in the second batch of a set
    train_step, left = trainer.Trainer.train_step, [number]

    def interrupted(self):
        left[0] -= kind == "step"
        if kind == "step" and left[0] == 0:
            raise InterruptedError
        train_step(self)

    monkeypatch.setattr(trainer.Trainer, "train_step", interrupted)
    with pytest.raises(InterruptedError):
        rounds(here, DIGITS, usual, 2)
    there = lab(tmp_path / "parts", data)
    found = rounds(there, DIGITS, plan(there), 2)
    assert len(marked.asked) - asked == 6  # and no batch was attacked twice
    for first, second in zip(whole, found, strict=True):
        assert torch.equal(flat(first.model), flat(second.model))
    assert [one.name for one in found] == [one.name for one in whole]
    rates = [run["images_per_second"] for run in there.parts["digits"]["runs"] if "rounds" in run]
    assert {name: set(of) for name, of in rates[0].items()} == {"f": {"mim"}, "mlp": {"mim"}}


def test_a_damaged_set_is_made_again(data, tmp_path, marked):
    here = lab(tmp_path, data)
    rounds(here, DIGITS, plan(here), 1)
    assert len(marked.asked) == 2
    for folder in (tmp_path / "sets").iterdir():
        path = folder / adversarial_set.CHANGES
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    there = lab(tmp_path, data)
    rounds(there, DIGITS, plan(there, "weight=0"), 1)
    assert len(marked.asked) == 4


# A model of other images than the setting's.


def test_a_model_is_trained_on_the_images_that_are_given(data, tmp_path, monkeypatch):
    asked, train = [], trainer.train

    def watched(recipe, dataset, output, **options):
        asked.append((dataset, output))
        return train(recipe, dataset, output, **options)

    monkeypatch.setattr(trainer, "train", watched)
    here = lab(tmp_path, data)
    other = made_up("digits", seed=9)
    usual = network(here)
    own = here.trained(DIGITS, "at2l-pretrain", data=other)
    assert [dataset for dataset, _ in asked] == [data["digits"], other]
    assert usual.path != own.path
    assert own.digest != usual.digest
    assert here.trained(DIGITS, "at2l-pretrain", data=other) is own
    same = made_up("digits", train=80, test=30)
    assert here.trained(DIGITS, "at2l-pretrain", data=same) is network(here) is usual
    assert len(asked) == 2
    assert len(here.parts["digits"]["runs"]) == 2


def test_a_checkpoint_is_read_once(data, tmp_path, monkeypatch):
    here = lab(tmp_path, data)
    usual = network(here)
    monkeypatch.setattr(
        "tla_ops.training.checkpoint.read_model", partial(pytest.fail, "read again")
    )
    again = here.read(usual.path, usual.recipe, "another name")
    assert (again.name, again.model, again.digest) == ("another name", usual.model, usual.digest)
    assert here.read(usual.path, usual.recipe).name == usual.name


def test_carlinis_epsilon_is_none_in_a_set(data, tmp_path):
    here = lab(tmp_path, data)
    images, _ = learned(here.recipe("digits", "at2l-round"), data["digits"])
    few = images.subset(torch.arange(4))
    carlini = Threat("carlini", step=Fraction(1, 10), steps=2)
    (made,) = stored(here, tmp_path / "sets", network(here), [carlini], few)
    assert made.epsilon is None
    assert made.changes.dtype.name == "float16"
