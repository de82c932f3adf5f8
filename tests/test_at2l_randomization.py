"""AT2L's tables of random resizing and padding: every cell is of the model, the attack and the
network that its row and column name, beside the paper's number.
"""

import json
from fractions import Fraction

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from labs import made_up

from tla_ops.experiments.at2l import random_layers, randomization
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Lab, Trained
from tla_ops.training.defences import RandomResizePad
from tla_ops.training.models import build
from tla_ops.training.patterns import Patterns
from tla_ops.training.pretrained import NETWORKS
from tla_ops.training.recipe import RecipeError

pytestmark = pytest.mark.usefixtures("one_thread")

TABLES = ("table2", "app-table15", "app-table16")
ROWS = ("original", "random layers", "random layers + triplets")
VANILLA = {  # typed from the paper: FGSM, DeepFool and C&W of original, random layers, triplets
    "Inception-v3": ((66.8, 100.0, 100.0), (36.2, 1.7, 3.1), (30.5, 1.1, 2.6)),
    "ResNet-v2-101": ((73.7, 100.0, 100.0), (28.2, 2.3, 2.9), (21.7, 1.5, 1.2)),
    "Inception-ResNet-v2": ((34.7, 100.0, 99.7), (19.0, 1.8, 2.3), (8.3, 0.8, 1.3)),
    "Ens-adv-Inception-ResNet-v2": ((15.6, 99.8, 99.1), (4.3, 0.9, 1.2), (4.6, 0.7, 0.9)),
}
PRINTED = {
    "table2": VANILLA,
    "app-table15": VANILLA,
    "app-table16": {
        "Inception-v3": ((62.7, 99.4, 99.4), (58.8, 18.7, 37.1), (37.3, 17.7, 23.1)),
        "ResNet-v2-101": ((60.8, 99.1, 99.0), (55.1, 19.5, 25.7), (45.1, 22.2, 20.0)),
        "Inception-ResNet-v2": ((28.5, 99.1, 98.4), (25.7, 30.6, 31.7), (23.5, 41.6, 21.7)),
        "Ens-adv-Inception-ResNet-v2": ((13.8, 98.4, 94.2), (11.1, 6.5, 13.9), (8.9, 9.0, 7.4)),
    },
}
DIGITS = ["small", "mlp", "mlp", "adversarially trained mlp"]


class Asked(Lab):
    """Trains and attacks nothing: a cell's hits are by its number, from 0 on. Originals are right
    but for an image each.
    """

    def __init__(self, output, dataset, budget=None, **options):
        shape = None if dataset == "digits" else (3, 16, 16)
        data = made_up(dataset, train=20, test=40, shape=shape)
        super().__init__(
            budget or Budget("full"), output, lambda name: data, datasets=[dataset],
            say=lambda text: None, **options,
        )  # fmt: skip
        self.asked, self.plans, self.originals = [], [], []
        self.made, self.attacked = {}, {}

    def network(self, name, method, *variation):
        """A network with weights of its own."""
        recipe = self.recipe(self.datasets[0], method, *variation)
        data = self.dataset(self.datasets[0])
        model = build(recipe.model, 10, data.train.image_shape, **recipe.model_options).eval()
        self.originals.append(Trained(name, model, recipe, f"{name} {len(self.originals)}"))
        return self.originals[-1]

    def trained(self, setting, method, *variation):
        key = json.dumps([method, variation])
        if key not in self.made:
            self.made[key] = self.network(f"digits-{method}", method, *variation)
        return self.made[key]

    def tuned(self, lab, setting, trained, recipe):
        shape = trained.model.image_shape
        model = build(recipe.model, 10, shape, **recipe.model_options).eval()
        self.plans.append((trained, recipe))
        return Trained("tuned", model, recipe, f"tuned {trained.digest}")

    def predictions(self, trained, images):
        if trained in self.originals:
            found = images.labels.clone()
            found[self.originals.index(trained)] += 1
            return found
        known, threat, some = self.attacked.pop(images.data_ptr())
        self.asked.append((trained, threat, some, None if trained is known else known))
        found = some.labels.clone()
        found[len(self.asked) % len(found) :] += 1
        return found

    def adversarial(self, trained, threat, images):
        made = images.images.clone()
        self.attacked[made.data_ptr()] = (trained, threat, images)
        return made

    def accuracy(self, trained, threat, images, source=None):
        self.asked.append((trained, threat, images, source))
        hit = len(self.asked) % len(images) / len(images)
        return {"accuracy": hit, "standard_error": (hit * (1 - hit) / len(images)) ** 0.5}


def made(table, output, monkeypatch, dataset, budget=None, **options):
    lab = Asked(output, dataset, budget, **options)
    monkeypatch.setattr(randomization, "fine_tuned", lab.tuned)

    def pretrained(lab, setting, name):
        if name not in lab.made:
            lab.made[name] = lab.network(NETWORKS[name], "at2l-round", "model=mlp",
                                         "model_options={hidden: [4]}")  # fmt: skip
        return lab.made[name]

    if dataset == "imagenet":
        monkeypatch.setattr(randomization, "original", pretrained)
    result = randomization.run(lab, table)
    (found,) = result.tables
    lines = [(row, place) for row in found.rows for place in range(4)]
    cells = {
        where: (found.rows[where[0]][where[1]], number, *asked)
        for number, (where, asked) in enumerate(zip(lines, lab.asked, strict=True), 1)
    }
    return lab, result, found, cells


def inside(model):
    """The parameters of the network, whatever is in front of it."""
    return {value.data_ptr() for value in model.parameters()}


@pytest.mark.parametrize("dataset", ["imagenet", "digits"])
@pytest.mark.parametrize("table", TABLES)
def test_a_cell_is_what_its_row_and_column_say(table, dataset, tmp_path, monkeypatch):
    lab, result, found, cells = made(table, tmp_path, monkeypatch, dataset)
    printed = PRINTED[table]
    names = list(printed) if dataset == "imagenet" else [
        f"{own} for {name}" for own, name in zip(DIGITS, printed, strict=True)
    ]  # fmt: skip
    assert list(found.rows) == [f"{name}: {row}" for name in names for row in ROWS]
    assert [column.name for column in found.columns] == ["Clean", "FGSM", "DeepFool", "C&W"]
    assert [column.note for column in found.columns] == ["", "1 step", "50 steps", "100 steps"]
    assert {(column.kind, column.best) for column in found.columns} == {("error", "")}
    radius = Fraction(2, 255) if dataset == "imagenet" else Fraction(3, 64)
    front = (16, 18, 0.5) if dataset == "imagenet" else (15, 16, 0.0)
    for (row, place), (cell, number, model, threat, images, source) in cells.items():
        name, _, kind = row.partition(": ")
        which, at = names.index(name), ROWS.index(kind)
        own = lab.originals[which]
        numbers = (None, *(value / 100 for value in list(printed.values())[which][at]))
        assert cell.paper == (pytest.approx(numbers[place]) if place else None)
        hit = number % 36 / 36
        assert cell.value == pytest.approx(1 - hit)
        assert cell.error == pytest.approx((hit * (1 - hit) / 36) ** 0.5)
        assert len(images) == 36
        assert threat.kind == ("clean", "fgsm", "deepfool", "cw_l2")[place]
        assert threat.steps == (0, 1, 50, 100)[place]
        if place == 1:
            assert threat.epsilon == radius
        if place == 3:  # longer than any change of an image
            assert threat.epsilon >= Fraction(images.images[0].numel())
        weights = inside(own.model)
        known = model if at == 0 else source
        if at == 2:
            assert not weights & inside(model.model)
            assert model.recipe.model == "randomized"
        else:
            assert inside(model.model) == weights
        if at > 0:
            assert isinstance(model.model.body[0], RandomResizePad)
            layers = model.model.body[0]
            assert (layers.smallest, layers.side, layers.value) == front
            assert (source is None) == (place == 0)
        else:
            assert source is None
        if known is not None and at > 0:
            assert inside(known.model) == inside(model.model)
        if known is not None:
            over = isinstance(known.model, Patterns)
            assert over == (table == "app-table16")
            if not over:
                alone = nn.Identity if dataset == "imagenet" else nn.Upsample
                assert isinstance(known.model.body[0], alone)
    for trained, recipe in lab.plans:
        assert (recipe.options["adversarial_weight"], recipe.options["weight"]) == (0.3, 1)
        assert recipe.options["margin"] == 2
        assert trained in lab.originals
    assert [trained for trained, _ in lab.plans] == lab.originals
    data = "ImageNet" if dataset == "imagenet" else "UCI digits for ImageNet"
    scenario = "Ensemble-pattern" if table == "app-table16" else "Vanilla"
    assert found.title == f"{scenario} attack: {data}, 36 test images"
    text = " ".join(found.notes)
    assert f"ε = {radius}" in text
    assert "λ1 = 0.3, λ2 = 1.0, α = 2.0" in text
    assert ("fixed patterns" in text) == (table == "app-table16")
    assert "Of 40 test images" in text
    assert bool(result.notes) == (dataset == "digits")


def test_images_are_those_that_all_originals_have_right(tmp_path, monkeypatch):
    """The first four of them are each missed by one."""
    _, _, _, cells = made("table2", tmp_path, monkeypatch, "digits")
    lab = Asked(tmp_path, "digits")
    test = lab.dataset("digits").test
    for _, _, _, _, images, _ in cells.values():
        assert torch.equal(images.stored, test.stored[4:])


def test_slow_attacks_meet_fewer_images(tmp_path, monkeypatch):
    budget = Budget("short", slow_images=10, steps=30, cw_steps=7)
    _, _, found, cells = made("table2", tmp_path, monkeypatch, "digits", budget)
    assert [column.note for column in found.columns] == [
        "", "1 step", "30 steps, 10 images", "7 steps, 10 images",
    ]  # fmt: skip
    counts = [36, 36, 10, 10]
    for (_, place), (_, _, _, threat, images, _) in cells.items():
        assert len(images) == counts[place]
        assert threat.steps == (0, 1, 50, 7)[place]
        if place > 1:  # stratified: the images lie sorted by their class
            assert len(images.labels.unique()) > 5


def test_without_an_image_that_is_right_there_are_no_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(Asked, "predictions", lambda self, trained, images: images.labels + 1)
    monkeypatch.setattr(random_layers, "rounds", lambda lab, setting, plan, count: [plan.start])
    lab = Asked(tmp_path, "digits", Budget("smoke", slow_images=5))
    (table,) = randomization.run(lab, "table2").tables
    assert {cell.value for cells in table.rows.values() for cell in cells} == {None}
    assert table.rows["small for Inception-v3: original"][1].paper == 0.668
    assert not lab.asked


def test_the_users_values(tmp_path, monkeypatch):
    lab, _, found, cells = made(
        "table2", tmp_path, monkeypatch, "digits", overrides=["epsilon=1/7", "epochs=3"]
    )
    assert {cell[3].epsilon for (_, place), cell in cells.items() if place == 1} == {Fraction(1, 7)}
    assert "ε = 1/7" in " ".join(found.notes)
    assert {recipe.epochs for _, recipe in lab.plans} == {3}
    for override in ("model=mlp", "margin=1", "weight=2"):
        with pytest.raises(RecipeError, match=f"must be left to the table.*got '{override}'"):
            randomization.run(Asked(tmp_path, "digits", overrides=[override]), "table2")


def test_a_whole_table(tmp_path):
    """Real rounds, patterns and transfer of what can be made quickly: no attack of ART's."""
    budget = Budget("smoke", images=30, slow_images=4, steps=1, learned={"digits": 40})
    data = made_up("digits", train=80, test=30)
    tiny = ["max_steps=30", "learning_rate=0.01", "epsilon=1/4", "val_images=20", "val_steps=1",
            "batch=10", "attack_steps=1", "schedule={}"]  # fmt: skip

    class Fast(Lab):
        def adversarial(self, trained, threat, images):
            return images.images

    lab = Fast(budget, tmp_path, lambda name: data, datasets=["digits"], overrides=tiny,
               say=lambda text: None)  # fmt: skip
    found = []
    for table in ("table2", "app-table16"):
        lab.begin()
        (made,) = randomization.run(lab, table).tables
        names = [run["name"] for run in lab.parts["digits"]["runs"]]
        assert names == ["digits-um"] * 3 + ["digits-at"] + [
            *(f"digits-um-{own}-rand-tr" for own in ("small", "mlp", "mlp")),
            "digits-at-mlp-rand-tr",
        ]  # fmt: skip
        found.append(made.as_dict()["rows"])
    first, second = found
    for row, cells in first.items():  # the same models, and the same draws
        if not row.endswith("original"):
            assert cells[0] == second[row][0]
    assert list(first) == list(second)
    assert all(cells[0]["value"] == 0 for row, cells in first.items() if row.endswith("original"))
    for errors in found:
        assert sum(cells[1]["value"] > cells[0]["value"] for cells in errors.values()) > 8
