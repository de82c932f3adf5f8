"""Tables 3 and 17 of AT2L: each row is the classifier that its name says, trained on the images it
is to be trained on, and attacked and asked as the notes say.
"""

from fractions import Fraction

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from labs import Watched, made_up

from tla_ops.experiments.at2l import defense_gan
from tla_ops.experiments.at2l.gan_data import Gan, GanSetup, Projected
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.paper import Panel
from tla_ops.training import trainer
from tla_ops.training.data import Dataset
from tla_ops.training.image_set import ImageSet

pytestmark = pytest.mark.usefixtures("one_thread")

MNIST = Setting("mnist", "mnist")
TABLE_17 = {  # typed from the appendix: FGSM and C&W in percent, of five defences
    "A": ([88.3, 1.2, 34.9, 23.6, 1.1], [85.9, 1.1, 92.3, 96.5, 1.4]),
    "B": ([97.8, 4.4, 94.0, 96.8, 0.7], [96.8, 8.4, 72.0, 70.7, 4.7]),
    "C": ([67.9, 1.1, 21.4, 11.9, 0.8], [87.4, 1.1, 96.9, 93.7, 1.1]),
    "D": ([96.2, 2.0, 26.8, 15.2, 1.6], [96.8, 1.7, 99.0, 87.7, 1.4]),
}
NO_ATTACK = {"A": 0.3, "B": 3.8, "C": 0.4, "D": 0.8}
NAMES = ["no defense", "Defense-GAN", "adv. train", "AT2L", "Defense-GAN + triplets"]
IN_TABLE_3 = [0, 1, 4]


class Asked(Lab):
    """Trains and attacks nothing. A model's name says what it is of; an accuracy is the number of
    its question over 1000, and what is predicted the label but for as many images as its own
    question's number.
    """

    def __init__(self, output, budget=None, **options):
        def part(count):
            shape = (count, 1, 28, 28)
            return ImageSet(torch.rand(shape), torch.arange(count) % 10)

        data = Dataset("mnist", part(90), part(60), 10)
        super().__init__(
            budget or Budget("full", slow_images=20), output, lambda name: data,
            datasets=["mnist"], say=lambda text: None, **options,
        )  # fmt: skip
        self.asked, self.attacked, self.predicted, self.pretrained = {}, [], [], []

    def trained(self, setting, method, *variation, data=None):
        assert (setting, method) == (MNIST, "at2l-pretrain")
        recipe = self.recipe(setting.dataset, method, *variation)
        self.pretrained.append((recipe, data))
        return Trained(f"{recipe.model}{'' if data is None else ' of the GAN'}", None, recipe, "")

    def accuracy(self, trained, threat, images, source=None):
        assert source is None
        answer = len(self.asked) + 1
        self.asked[answer] = (trained.name, threat, images)
        return {"accuracy": answer / 1000, "standard_error": answer / 1e4}

    def adversarial(self, trained, threat, images):
        self.attacked.append((trained.name, threat, images))
        return images.images + len(self.attacked)

    def predictions(self, trained, images):
        self.predicted.append((trained.name, images))
        labels = self.test(MNIST, slow=len(images) == 20).labels.clone()
        labels[: len(self.predicted) % 7] += 1
        return labels


@pytest.fixture
def fakes(monkeypatch):
    """In place of what trains a GAN and in rounds, and projects: lists of what is asked for."""
    plans, projections = [], []

    def rounds(lab, setting, plan, count):
        plans.append((plan, count))
        name = f"{plan.start.name}, round of {plan.recipe.options['weight']:g}"
        return [plan.start, plan.start._replace(name=name)]

    def trained_gan(lab, setting, setup):
        facts = {"steps": setup.steps, "seconds": 9.0, "losses": [1.0, 2.0]}
        return Gan(nn.Identity(), setup, lab.output, "", facts)

    def reconstructed(lab, setting, gan):
        data = lab.dataset(setting.dataset)
        made = data._replace(train=ImageSet(1 - data.train.images, data.train.labels))
        return made, Projected(made.train.images, 5.0)

    def projected(lab, gan, images, name):
        assert gan.facts["seconds"] == 9.0
        projections.append((images.images, images.labels, name))
        return Projected(images.images / 2, 0.5)

    for name, fake in (
        ("rounds", rounds), ("trained_gan", trained_gan), ("reconstructed", reconstructed),
        ("projected", projected),
    ):  # fmt: skip
        monkeypatch.setattr(defense_gan, name, fake)
    return plans, projections


def test_what_is_printed(tmp_path, fakes):
    (table,) = defense_gan.run(Asked(tmp_path), "app-table17").tables
    rows = iter(table.rows.items())
    for network, (fgsm, cw) in TABLE_17.items():
        for name, *printed in zip(NAMES, fgsm, cw, strict=True):
            row, cells = next(rows)
            assert row == f"{network}: {name}"
            clean = NO_ATTACK[network] / 100 if name == "no defense" else None
            assert cells[0].paper == pytest.approx(clean)
            assert [cell.paper for cell in cells[1:]] == pytest.approx([x / 100 for x in printed])
    assert next(rows, None) is None
    (short,) = defense_gan.run(Asked(tmp_path), "table3").tables
    assert list(short.rows) == [f"{n}: {NAMES[place]}" for n in TABLE_17 for place in IN_TABLE_3]
    for name, cells in short.rows.items():
        assert [cell.paper for cell in cells[1:]] == [cell.paper for cell in table.rows[name][1:]]
        assert cells[0].paper is None
    for made in (table, short):
        assert [column.name for column in made.columns] == ["Clean", "FGSM", "C&W"]
        assert {(column.kind, column.best) for column in made.columns} == {("error", "min")}
        notes = ["", "1 step", "1000 steps, 20 images"]
        assert [column.note for column in made.columns] == notes
        assert "MNIST, 60 test images, 20 under C&W" in made.title


def test_classifiers_without_the_gan(tmp_path, fakes):
    lab = Asked(tmp_path)
    (table,) = defense_gan.run(lab, "app-table17").tables
    models = {"no defense": "", "adv. train": ", round of 0", "AT2L": ", round of 0.5"}
    seen = []
    for letter in "abcd":
        for method, model in models.items():
            cells = table.rows[f"{letter.upper()}: {method}"]
            for cell, kind in zip(cells, ("clean", "fgsm", "carlini"), strict=True):
                answer = round(1000 * (1 - cell.value))
                name, threat, images = lab.asked[answer]
                assert cell.value == 1 - answer / 1000
                assert cell.error == answer / 1e4
                assert name == f"gan_{letter}{model}"
                assert threat.kind == kind
                assert images is not None
                assert len(images) == (20 if kind == "carlini" else 60)
                if kind == "fgsm":
                    assert threat.epsilon == Fraction(3, 10)
                seen.append(answer)
    assert sorted(seen) == list(range(1, 37))


def test_classifiers_behind_the_gan(tmp_path, fakes):
    lab, (_, projections) = Asked(tmp_path), fakes
    (table,) = defense_gan.run(lab, "app-table17").tables
    test, some = lab.test(MNIST), lab.test(MNIST, slow=True)
    assert torch.equal(projections[0][0], test.images)  # clean images, once for all
    wrong, attacked, asked = iter(projections[1:]), iter(lab.attacked), iter(lab.predicted)
    number = 0
    for letter in "abcd":
        for method, more in (("Defense-GAN", ""), ("Defense-GAN + triplets", ", round of 0.5")):
            name = f"gan_{letter} of the GAN{more}"
            cells = table.rows[f"{letter.upper()}: {method}"]
            for column, cell in zip(("clean", "fgsm", "carlini"), cells, strict=True):
                images = some if column == "carlini" else test
                who, seen = next(asked)
                assert who == name
                if column == "clean":
                    assert torch.equal(seen, test.images / 2)
                else:
                    # The attack is on this very classifier; what it finds is projected, then seen.
                    who, threat, given = next(attacked)
                    assert (who, threat.kind) == (name, column)
                    assert torch.equal(given.images, images.images)
                    found, labels, _ = next(wrong)
                    assert torch.equal(seen, found / 2)
                    assert torch.equal(labels, images.labels)
                    assert (found - images.images).mean() == pytest.approx(
                        lab.attacked.index((who, threat, given)) + 1, rel=1e-5
                    )
                number += 1
                share = number % 7 / len(images)
                assert cell.value == pytest.approx(share)
                assert cell.error == pytest.approx((share * (1 - share) / len(images)) ** 0.5)
    assert [next(rest, None) for rest in (wrong, attacked, asked)] == [None] * 3


def test_how_they_are_trained(tmp_path, fakes):
    lab, (plans, _) = Asked(tmp_path), fakes
    defense_gan.run(lab, "app-table17")
    train = lab.dataset("mnist").train
    whose = {}
    for recipe, data in lab.pretrained:
        assert recipe.method == "um"
        assert recipe.model_options == {}
        if data is not None:
            assert torch.equal(data.train.images, 1 - train.images)
        whose.setdefault(recipe.model, set()).add(data is None)
    assert whose == {f"gan_{letter}": {True, False} for letter in "abcd"}
    kinds = set()
    for plan, count in plans:
        recipe = plan.recipe
        assert count == 1
        assert plan.own
        assert plan.others == ()
        assert (recipe.method, recipe.model) == ("at2l", plan.start.recipe.model)
        (threat,) = plan.threats
        assert (threat.kind, threat.epsilon) == ("fgsm", Fraction(3, 10))
        assert recipe.options["adversarial_weight"] == 0.3
        assert recipe.options["margin"] == 2.0
        behind = plan.dataset is not None
        assert plan.start.name == recipe.model + " of the GAN" * behind
        if behind:
            assert torch.equal(plan.dataset.train.images, 1 - train.images)
        kinds.add((recipe.model, recipe.options["weight"], behind))
    assert kinds == {
        (f"gan_{letter}", *kind)
        for letter in "abcd"
        for kind in ((0.0, False), (0.5, False), (0.5, True))
    }


@pytest.mark.parametrize(
    ("count", "overrides", "epochs"),
    [(90, (), {10}), (30, (), {10, 30}), (40, (), {10, 22}), (30, ("epochs=3",), {3}),
     (30, ("epochs=null", "max_steps=7"), {None})],
)  # fmt: skip
def test_few_images_are_learned_from_for_as_many_steps(
    count, overrides, epochs, tmp_path, fakes, monkeypatch
):
    made = defense_gan.reconstructed

    def some(lab, setting, gan):
        data, projections = made(lab, setting, gan)
        return data._replace(train=data.train.subset(torch.arange(count))), projections

    monkeypatch.setattr(defense_gan, "reconstructed", some)
    lab = Asked(tmp_path, overrides=overrides)
    defense_gan.run(lab, "table3")
    assert {recipe.epochs for recipe, _ in lab.pretrained} == epochs
    if len(epochs) > 1:
        lengths = {data is None: recipe.epochs for recipe, data in lab.pretrained}
        assert lengths == {True: min(epochs), False: max(epochs)}


def test_numbers_are_of_every_projection_once(tmp_path, fakes):
    result = defense_gan.run(Asked(tmp_path), "app-table17")
    found = result.numbers["mnist"]
    assert found["gan"]["losses"] == [1.0, 2.0]
    assert found["gan"]["layout"] == "printed"
    count = 90 + 60 + 8 * (60 + 20)
    seconds = 5.0 + 0.5 * 17
    test = Asked(tmp_path).test(MNIST)
    assert found["projection"]["images"] == count
    assert found["projection"]["seconds"] == seconds
    assert found["projection"]["images_per_second"] == pytest.approx(count / seconds)
    assert found["projection"]["clean_mean_squared_error"] == pytest.approx(
        (test.images / 2).square().mean().item(), rel=0.05
    )


def test_what_the_budget_changes(tmp_path, fakes):
    lab = Asked(tmp_path)
    setup = defense_gan.defend(lab, MNIST, {"projection": {"steps": 150, "restarts": 8}}).gan.setup
    assert setup == GanSetup(iterations=150, restarts=8)
    budget = Budget("short", width=0.25, slow_images=20, gan={"iterations": 5, "steps": 7})
    lab = Asked(tmp_path, budget)
    result = defense_gan.run(lab, "table3")
    assert result.numbers["mnist"]["gan"]["iterations"] == 5
    assert result.numbers["mnist"]["gan"]["restarts"] == 10
    assert {str(recipe.model_options) for recipe, _ in lab.pretrained} == {"{'width': 0.25}"}
    assert {str(plan.recipe.model_options) for plan, _ in fakes[0]} == {"{'width': 0.25}"}
    notes = " ".join(result.tables[0].notes)
    assert "by 5 steps from 10 starts" in notes
    assert "90 projected training images, for as many steps as others do from all" in notes
    assert "λ1 = 0.3, λ2 = 0.5, α = 2.0" in notes
    assert "FGSM: ε = 3/10" in notes
    assert "after 7 steps of 50 images: printed layout, 1 times the channels, 128 latent" in notes
    with pytest.raises(TypeError, match="unknown"):
        defense_gan.run(Asked(tmp_path, Budget("short", gan={"unknown": 1})), "table3")


def test_network_a_in_a_real_lab(tmp_path, monkeypatch):
    """Everything is trained, attacked and projected, and found the next time."""
    rows = {f"A/{method}": (None, None, None) for method in defense_gan.METHODS}
    panel = Panel(("clean", "fgsm", "cw"), (None, None, None), rows, "error_percent")
    monkeypatch.setattr(defense_gan.paper, "panel", lambda target, dataset: panel)
    gan = {
        **{"steps": 2, "layout": "source", "width": 0.02, "latent_dim": 4, "batch": 4},
        **{"iterations": 2, "restarts": 2, "images": 60},
    }
    budget = Budget(
        "smoke", images=20, slow_images=3, learned={"digits": 60}, width=0.05, cw_steps=2, gan=gan
    )
    data = {"digits": made_up("digits")}
    overrides = ("val_images=20", "val_steps=1", "batch=10", "max_steps=2", "attack_steps=1")
    lab = Watched(tmp_path, data, budget, overrides=overrides)
    (table,) = defense_gan.run(lab, "table3").tables
    assert list(table.rows) == [f"A: {name}" for name in NAMES]
    cells = [cell for row in table.rows.values() for cell in row]
    assert all(0 <= cell.value <= 1 for cell in cells)
    told = [text for text in lab.said if text.startswith("projecting")]
    assert told[:3] == [
        "projecting 60 training images of digits", "projecting 20 test images, clean",
        "projecting 20 test images, A/defense-gan/fgsm",
    ]  # fmt: skip
    assert "projecting 20 test images, A/defense-gan-tr/fgsm" in told
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert len(list((tmp_path / "rounds").iterdir())) == 3
    monkeypatch.setattr(trainer, "train", lambda *_, **__: pytest.fail("trained again"))
    again = Watched(tmp_path, data, budget, overrides=overrides)
    assert defense_gan.run(again, "table3").tables[0].rows == table.rows
    assert again.said == []
