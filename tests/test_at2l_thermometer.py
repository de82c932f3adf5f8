"""AT2L's tables of thermometer models: every cell is of the model, the attack and the network that
its row and column name, beside the paper's number.
"""

import json
from fractions import Fraction

import pytest

pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from labs import made_up

from tla_ops.experiments.at2l import thermometer
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.threat import Threat
from tla_ops.training.models import build
from tla_ops.training.recipe import RecipeError

pytestmark = pytest.mark.usefixtures("one_thread")

KNOWN = ("table1", "app-table11", "app-table12")
TABLES = {  # typed from the paper: its data set; each row's clean, FGSM and PGD/LS-PGA errors
    "table1": ("cifar10", (5.8, 51.5, 49.5), (7.6, 37.1, 39.3), (10.1, 20.0, 20.9),
               (6.1, 27.6, 29.7), (7.2, 15.1, 13.4)),
    "app-table11": ("mnist", (0.8, 100, 100), (0.8, 31.6, 25.0), (0.9, 4.2, 5.9),
                    (0.8, 28.7, 23.0), (0.8, 3.5, 2.7)),
    "app-table12": ("cifar10", (5.8, 51.5, 49.5), (7.6, 37.1, 39.3), (10.1, 20.0, 20.9),
                    (6.1, 27.6, 29.7), (7.2, 15.1, 13.4)),
    "app-table13": ("mnist", (3.5, 89.1, 88.2), (5.1, 73.7, 77.1), (5.5, 67.0, 71.9),
                    (5.0, 53.1, 62.8), (9.2, 47.9, 55.3)),
    "app-table14": ("cifar10", (11.5, 46.5, 55.0), (13.6, 43.8, 52.9), (20.1, 39.1, 49.3),
                    (16.2, 38.6, 51.9), (17.7, 33.0, 43.0)),
}  # fmt: skip
BALLS = {
    "mnist": (Fraction(3, 10), Fraction(1, 100), 40),
    "cifar10": (Fraction(8, 255), Fraction(2, 255), 7),
    "digits": (Fraction(3, 16), Fraction(1, 160), 40),
}
NETWORKS = {
    "mnist": ("mnist_a", "mnist_c", {}),
    "cifar10": ("wrn", "convnet", {"units": 6}),
    "digits": ("small", "mlp", {}),
}
ROWS = ["Original", "Thermometer (1)", "Thermometer (7)", "Thermometer + triplets (1)",
        "Thermometer + triplets (7)"]  # fmt: skip


class Asked(Lab):
    """Trains and attacks nothing: an error is the number of its question, in tenths of percent."""

    def __init__(self, output, dataset, budget=None, **options):
        data = made_up(dataset, train=20, test=20)
        super().__init__(
            budget or Budget("full"), output, lambda name: data, datasets=[dataset],
            say=lambda text: None, **options,
        )  # fmt: skip
        self.asked, self.plans = {}, []

    def trained(self, setting, method, *variation):
        recipe = self.recipe(setting.dataset, method, *variation)
        return Trained(recipe.name, None, recipe, json.dumps(recipe.as_dict()))

    def rounds(self, lab, setting, plan, count):
        assert lab is self
        self.plans.append((setting, plan, count))
        later = [
            Trained(f"round {number}", None, plan.recipe, plan.start.digest)
            for number in range(1, count + 1)
        ]
        return [plan.start, *later]

    def accuracy(self, trained, threat, images, source=None):
        number = len(self.asked) + 1
        self.asked[number] = (trained, threat, len(images), source)
        return {"accuracy": 1 - number / 1000, "standard_error": number / 1e5}


def made(table, output, monkeypatch, dataset=None, budget=None, **options):
    lab = Asked(output, dataset or TABLES[table][0], budget, **options)
    monkeypatch.setattr(thermometer, "rounds", lab.rounds)
    (found,) = thermometer.run(lab, table).tables
    cells = {
        (row, place): (cell, *lab.asked[round(1000 * cell.value)])
        for row, line in found.rows.items()
        for place, cell in enumerate(line)
    }
    assert len(cells) == len(lab.asked) == 15
    return lab, found, cells


def coded(dataset, which):
    own, other, options = NETWORKS[dataset]
    network, options = (own, options) if which == "own" else (other, {})
    return {"network": network, "levels": 16, "options": options}


@pytest.mark.parametrize("dataset", [None, "digits"])
@pytest.mark.parametrize("table", TABLES)
def test_a_cell_is_what_its_row_and_column_say(table, dataset, tmp_path, monkeypatch):
    _, found, cells = made(table, tmp_path, monkeypatch, dataset)
    printed = TABLES[table][1:]
    dataset = dataset or TABLES[table][0]
    own, other, options = NETWORKS[dataset]
    radius, step, steps = BALLS[dataset]
    if dataset == "digits" and TABLES[table][0] == "cifar10":
        step, steps = Fraction(3, 64), 7
    assert list(found.rows) == ROWS
    assert [column.name for column in found.columns] == ["Clean", "FGSM", "PGD/LS-PGA"]
    assert [column.note for column in found.columns] == ["", "1 step", f"{steps} steps"]
    assert {(column.kind, column.best) for column in found.columns} == {("error", "min")}
    for (row, place), (cell, model, threat, count, source) in cells.items():
        assert cell.paper == pytest.approx(printed[ROWS.index(row)][place] / 100)
        assert cell.error == pytest.approx(cell.value / 100)
        assert count == 20
        if row == "Original":
            assert (model.recipe.method, model.recipe.model) == ("um", own)
            assert model.recipe.model_options == options
        else:
            assert (model.recipe.method, model.recipe.model) == ("at2l", "thermometer")
            assert model.recipe.model_options == coded(dataset, "own")
            assert model.name == f"round {row[-2]}"
            triplets = 0.7 if "triplets" in row else 0
            assert model.recipe.options["weight"] == triplets
        threat_of_place = [
            Threat("clean"),
            Threat("fgsm", radius, steps=1),
            Threat("pgd", radius, step, steps)
            if row == "Original"
            else Threat("ls_pga", radius, Fraction(1), steps, levels=16),
        ][place]
        if table in KNOWN or place == 0:
            assert threat == threat_of_place
            assert source is None
        else:
            assert threat == threat_of_place.to_the_end()
            assert source.recipe.method == "um"
            if row == "Original":
                assert (source.recipe.model, source.recipe.model_options) == (other, {})
            else:
                assert source.recipe.model == "thermometer"
                assert source.recipe.model_options == coded(dataset, "other")


@pytest.mark.parametrize("table", TABLES)
def test_rounds_are_of_the_paper(table, tmp_path, monkeypatch):
    lab, found, _ = made(table, tmp_path, monkeypatch)
    dataset = TABLES[table][0]
    radius, step, steps = BALLS[dataset]
    for (setting, plan, count), weight in zip(lab.plans, (0, 0.7), strict=True):
        assert setting == Setting(dataset, dataset)
        assert count == 7
        assert plan.threats == (Threat("ls_pga", radius, Fraction(1), steps, levels=16),)
        assert plan.others == ()
        assert plan.own
        assert plan.dataset is None
        assert plan.name == f"{dataset}-thermometer" + ("-tr" if weight else "")
        assert plan.start.recipe.method == "um"
        for recipe in (plan.start.recipe, plan.recipe):
            assert recipe.model == "thermometer"
            assert recipe.model_options == coded(dataset, "own")
        recipe = plan.recipe
        assert recipe.options["adversarial_weight"] == 0.3
        assert recipe.options["weight"] == weight
        assert recipe.options["margin"] == 1.5
        assert (recipe.epsilon, recipe.attack_step) == (radius, step)
    assert str(radius) in found.notes[0]
    assert "λ1 = 0.3, λ2 = 0.7, α = 1.5" in found.notes[1]
    assert len(found.notes) == (2 if table in KNOWN else 3)
    assert table in KNOWN or NETWORKS[dataset][1] in found.notes[2]


@pytest.mark.parametrize(
    ("rounds", "names"),
    [(3, ["(1)", "(3 for the paper's 7)"]), (1, ["(1)", "(1 for the paper's 7)"]),
     (9, ["(1)", "(7)"])],
)  # fmt: skip
def test_a_budgets_rounds_are_said(rounds, names, tmp_path, monkeypatch):
    budget = Budget("smoke", rounds=rounds, steps=5)
    lab, found, cells = made("app-table11", tmp_path, monkeypatch, "digits", budget)
    assert {count for _, _, count in lab.plans} == {min(rounds, 7)}
    expected = [f"{title} {name}" for title in ("Thermometer", "Thermometer + triplets")
                for name in names]  # fmt: skip
    assert list(found.rows) == ["Original", *expected]
    for row, printed in zip(expected, TABLES["app-table11"][2:], strict=True):
        cell, model, *_ = cells[row, 1]
        assert model.name == f"round {row.partition('(')[2][0]}"
        assert cell.paper == pytest.approx(printed[1] / 100)
    assert found.columns[2].note == "5 steps"


def test_networks_as_the_budget_has_them(tmp_path, monkeypatch):
    budget = Budget("short", width=0.25)
    *_, cells = made("app-table13", tmp_path, monkeypatch, budget=budget)
    _, model, _, _, source = cells["Original", 2]
    assert model.recipe.model_options == source.recipe.model_options == {"width": 0.25}
    _, model, _, _, source = cells["Thermometer (1)", 2]
    for name, made_of in (("mnist_a", model), ("mnist_c", source)):
        wanted = {"network": name, "levels": 16, "options": {"width": 0.25}}
        assert made_of.recipe.model_options == wanted
    small = {"units": 1, "widen": 1}
    budget = Budget("smoke", width=0.25, recipes={"cifar10": {"model_options": small}})
    *_, cells = made("app-table14", tmp_path, monkeypatch, budget=budget)
    _, model, _, _, source = cells["Original", 2]
    assert (model.recipe.model_options, source.recipe.model_options) == (small, {})
    _, model, _, _, source = cells["Thermometer (1)", 2]
    assert model.recipe.model_options["options"] == small
    assert source.recipe.model_options["options"] == {}


def test_a_users_radius(tmp_path, monkeypatch):
    *_, cells = made("app-table11", tmp_path, monkeypatch, overrides=["epsilon=1/10"])
    assert cells["Original", 1][2].epsilon == Fraction(1, 10)
    assert cells["Original", 2][2].step == Fraction(1, 300)
    assert cells["Thermometer (1)", 2][2].epsilon == Fraction(1, 10)


@pytest.mark.parametrize("override", ["model=mlp", "model_options.units=1", "weight=1", "margin=1"])
def test_what_the_tables_set_is_not_the_users(override, tmp_path):
    lab = Asked(tmp_path, "mnist", overrides=[override])
    with pytest.raises(RecipeError, match="must be left to the table"):
        thermometer.run(lab, "app-table11")
    assert not lab.asked


@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10"])
def test_networks_can_be_built(dataset, tmp_path):
    small = {"units": 1, "widen": 1}
    budget = Budget("smoke", recipes={"cifar10": {"model_options": small}})
    lab = Asked(tmp_path, dataset, budget)
    shape = lab.dataset(dataset).train.image_shape
    setting = Setting(dataset, dataset)
    for name in thermometer.NETWORKS[dataset]:
        made_of = thermometer.network(lab, setting, name)
        for variation in (made_of.plain, made_of.coded):
            recipe = lab.recipe(dataset, "um", *variation)
            assert build(recipe.model, 10, shape, **recipe.model_options).image_shape == shape
