"""The supplement's Tables 4 to 6 and Table 2: every column and row is the model that its head
names, beside the paper's number for it.
"""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from tla_ops.experiments import table2 as timing
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.tla import sweeps, table2
from tla_ops.training import checkpoint
from tla_ops.training.data import DATASETS, Dataset
from tla_ops.training.image_set import ImageSet
from tla_ops.training.models import build
from tla_ops.training.recipe import RecipeError

pytestmark = pytest.mark.usefixtures("one_thread")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CIFAR = Setting("cifar10", "cifar10")
SWEPT = {  # typed from the supplement: the heads and the numbers
    "supp-table4": (
        ["λ1 = 0", "λ1 = 0.025", "λ1 = 0.5", "λ1 = 1", "λ1 = 2", "λ1 = 4"],
        [94.82, 96.31, 96.96, 96.57, 96.72, 96.26],
    ),
    "supp-table5": (
        ["α = 0", "α = 0.025", "α = 0.05", "α = 0.1", "α = 0.2"],
        [96.60, 96.47, 96.72, 96.36, 96.35],
    ),
    "supp-table6": (["Lower", "Middle", "Higher", "Logit"], [96.14, 96.48, 96.72, 96.34]),
}
VALUES = {
    "supp-table4": [("weight", value) for value in (0, 0.025, 0.5, 1, 2, 4)],
    "supp-table5": [("margin", value) for value in (0, 0.025, 0.05, 0.1, 0.2)],
    "supp-table6": [("layer", value) for value in ("body.6", "body.13", None, "logits")],
}
TABLE2 = {  # seconds as printed, then percent
    1: (0, 1.802, 81.02, 55.41, 51.44, 49.66, 49.94, 49.63),
    250: (0.467, 2.259, 86.38, 59.05, 53.02, 50.49, 50.71, 50.31),
    500: (0.908, 2.688, 88.32, 60.02, 53.20, 51.30, 50.46, 50.07),
    1000: (1.832, 3.621, 86.71, 59.08, 53.25, 50.88, 51.22, 50.74),
    2000: (3.548, 5.992, 87.45, 59.23, 52.52, 50.57, 50.20, 49.79),
}


def noise(name, train, test):
    def part(count):
        images = torch.randint(0, 256, (count, *DATASETS[name].shape), dtype=torch.uint8)
        return ImageSet(images, torch.arange(count) % 10)

    return Dataset(name, part(train), part(test), 10)


class Asked(Lab):
    """Trains and attacks nothing: an accuracy is the number of its question."""

    def __init__(self, output, dataset, budget=None, *, train=2600, **options):
        data = noise(dataset, train, 20)
        super().__init__(
            budget or Budget("full"), output, lambda name: data, datasets=[dataset],
            say=lambda text: None, **options,
        )  # fmt: skip
        self.asked = {}

    def trained(self, setting, method, *variation):
        recipe = self.recipe(setting.dataset, method, *variation)
        return Trained(recipe.name, None, recipe, json.dumps(recipe.as_dict()))

    def accuracy(self, trained, threat, images, source=None):
        answer = len(self.asked) + 1
        self.asked[answer] = (trained.recipe, threat, len(images))
        return {"accuracy": answer, "standard_error": answer / 1000}


@pytest.mark.parametrize("name", SWEPT)
def test_a_column_is_the_model_that_its_head_names(name, tmp_path):
    lab = Asked(tmp_path, "mnist")
    result = sweeps.run(lab, name)
    (table,), (heads, printed) = result.tables, SWEPT[name]
    assert [column.name for column in table.columns] == heads
    (cells,) = table.rows.values()
    usual = lab.recipe("mnist", "tla").as_dict()
    for cell, (key, value), percent in zip(cells, VALUES[name], printed, strict=True):
        recipe, threat, count = lab.asked[cell.value]
        found, wanted = recipe.as_dict(), {key: value}
        if name != "supp-table4":
            wanted["weight"] = 2
        elif value == 0:  # AT's, whose number the paper has there
            wanted["norm_weight"] = 0
        assert {k: found.get(k) for k in found.keys() | usual if found.get(k) != usual.get(k)} == {
            k: v for k, v in wanted.items() if v != usual.get(k)
        }
        assert (threat.kind, threat.epsilon, threat.steps) == ("pgd", Fraction(3, 10), 100)
        assert threat.restarts == 1
        assert count == 20
        assert cell.paper == pytest.approx(percent / 100)
        assert cell.error == cell.value / 1000
    assert len({str(lab.asked[cell.value][0]) for cell in cells}) == len(heads)
    assert "100 steps, ε = 3/10" in table.notes[0]
    assert "MNIST, 20 test images" in table.title
    assert ("λ1 = 2" in table.title) == (name != "supp-table4")


def test_what_the_paper_trains_once_is_trained_once(tmp_path):
    """λ1 = 2, α = 0.05 and the penultimate layer are one model, 96.72%, in its three tables."""
    lab = Asked(tmp_path, "mnist")
    places = {"supp-table4": 4, "supp-table5": 2, "supp-table6": 2}
    cells = [sweeps.run(lab, name).tables[0].rows["TLA"][at] for name, at in places.items()]
    assert {cell.paper for cell in cells} == {0.9672}
    assert len({json.dumps(lab.asked[cell.value][0].as_dict()) for cell in cells}) == 1


def test_the_figure_has_the_tables_numbers(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sweeps, "sweep_figure", lambda *given, footnote: drawn.append(given))
    monkeypatch.setattr(sweeps, "save", lambda figure, path: None)
    result = sweeps.run(Asked(tmp_path, "mnist"), "supp-table5")
    result.figures[0].draw(tmp_path, "")
    ((names, (ours, printed), label),) = drawn
    cells = result.tables[0].rows["TLA"]
    assert list(names) == ["0", "0.025", "0.05", "0.1", "0.2"]
    assert label == "α"
    assert list(ours.values) == [cell.value for cell in cells]
    assert not ours.printed
    assert list(ours.errors) == [cell.error for cell in cells]
    assert list(printed.values) == pytest.approx([x / 100 for x in SWEPT["supp-table5"][1]])
    assert printed.printed


def test_lower_and_middle_are_where_it_says():
    body = build("lenet", 10, (1, 28, 28)).body
    names = sweeps.LAYERS["lenet"].values()
    kinds = [isinstance(body.get_submodule(name[5:]), nn.MaxPool2d) for name in names]
    assert kinds == [True, True]
    assert sum(isinstance(m, nn.MaxPool2d) for m in body) == 2
    body = build("small", 10, (1, 8, 8)).body
    kinds = [type(body[index]) for index in range(6)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
    assert sweeps.LAYERS["small"] == {"lower": "body.2", "middle": "body.5"}


def test_columns_are_trained_apart(tmp_path):
    """Two steps of every one: the values are in the checkpoints, and decide the weights."""
    data = noise("digits", 80, 20)
    lab = Lab(
        Budget("smoke", steps=1), tmp_path, lambda name: data, say=lambda text: None,
        overrides=["max_steps=2", "val_images=20", "val_steps=1", "batch=20", "candidates=30",
                   "attack_steps=1", "model_options.dim=16"],
    )  # fmt: skip
    found = {}
    for name in SWEPT:
        lab.begin()
        sweeps.run(lab, name)
        found[name] = [lab.output / run["checkpoint"] for run in lab.parts["digits"]["runs"]]
        kept = [checkpoint.read(path) for path in found[name]]
        layers = ("body.2", "body.5", None, "logits")
        values = layers if name == "supp-table6" else [value for _, value in VALUES[name]]
        assert [each["recipe"].get(VALUES[name][0][0]) for each in kept] == list(values)
        if name != "supp-table4":
            assert {each["recipe"]["weight"] for each in kept} == {2}
        for one, other in itertools.combinations(kept, 2):
            weights = [each["model"]["body.0.weight"] for each in (one, other)]
            assert not torch.equal(*weights)
    assert found["supp-table4"][4] == found["supp-table5"][2] == found["supp-table6"][2]


@pytest.mark.parametrize(
    ("run", "override"),
    [
        (lambda lab: sweeps.run(lab, "supp-table4"), "weight=1"),
        (lambda lab: sweeps.run(lab, "supp-table5"), "margin=1"),
        (lambda lab: sweeps.run(lab, "supp-table5"), "weight=1"),
        (lambda lab: sweeps.run(lab, "supp-table6"), "layer=logits"),
        (table2.run, "candidates=10"),
        (table2.run, "bank=10"),
    ],
)
def test_what_a_table_varies_is_not_the_users(run, override, tmp_path):
    """Whose keys are over the target's: all its columns would be one model."""
    lab = Asked(tmp_path, "digits", Budget("smoke"), overrides=["batch=20", override])
    with pytest.raises(RecipeError, match=f"^{override[:4]}.* must be left .* got '{override}'"):
        run(lab)
    assert not lab.asked


def test_a_network_without_named_layers(tmp_path):
    lab = Asked(tmp_path, "mnist", overrides=["model=mlp"])
    with pytest.raises(RecipeError, match=r"^model must be one of lenet, small .* got 'mlp'"):
        sweeps.run(lab, "supp-table6")
    assert not lab.asked
    assert len(sweeps.run(lab, "supp-table5").tables[0].columns) == 5


# Table 2.


def timed(config):
    """Times that say what they are of."""
    rows = [
        {"flow": flow, "M": size, "mini_batch_ms": 1e3 * size + (flow == "bank"),
         "median_ms": 2e3 * size + (flow == "bank")}
        for size, flow in config.cases
    ]  # fmt: skip
    return {"rows": rows, "slope_ms_per_candidate": timing.slopes([
        row | {"pool_forward_ms": 0, "mining_ms": 0} for row in rows
    ])}  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    configs = []
    monkeypatch.setattr(timing, "run", lambda config: configs.append(config) or timed(config))
    return configs


def test_table_2(tmp_path, clock):
    lab = Asked(tmp_path, "cifar10", overrides=["val_images=50"])
    result = table2.run(lab)
    kinds = ["clean", "fgsm", "bim", "cw", "pgd", "mim"]
    steps = [0, 1, 7, 30, 20, 40]
    for table, flow in zip(result.tables, ("paper", "bank"), strict=True):
        assert ("bank" in table.title) == (flow == "bank")
        assert list(table.rows) == [str(size) for size in TABLE2]
        for (size, printed), cells in zip(TABLE2.items(), table.rows.values(), strict=True):
            more = (flow == "bank" and size > 1) / 1e3
            assert [cell.value for cell in cells[:2]] == pytest.approx(
                [size + more, 2 * size + more]
            )
            asked = [lab.asked[cell.value] for cell in cells[2:]]
            assert [threat.kind for _, threat, _ in asked] == kinds
            assert [threat.steps for _, threat, _ in asked] == steps
            assert {threat.epsilon for _, threat, _ in asked[1:]} == {Fraction(8, 255)}
            shares = [*printed[:2], *(number / 100 for number in printed[2:])]
            assert [cell.paper for cell in cells] == pytest.approx(shares)
            (model,) = {json.dumps(recipe.as_dict()) for recipe, _, _ in asked}
            recipe = asked[0][0]
            if size == 1:
                assert (recipe.method, recipe.bank) == ("tla_rn", 0)
            elif flow == "bank":
                assert (recipe.method, recipe.bank) == ("tla", size)
            else:
                assert (recipe.method, recipe.candidates, recipe.bank) == ("tla", size, 0)
            assert model == json.dumps(recipe.as_dict())
    (config,) = clock
    assert (config.model, config.batch, config.negatives) == ("wrn", 50, tuple(TABLE2))
    assert config.attack_steps == 7
    assert config.repeats == 10
    (note,) = result.notes
    assert "cifar10: each further candidate adds 1e+03 ms in the paper's flow" in note
    assert "1.76 ms in the paper" in note


def test_sizes_that_there_are_images_for(tmp_path, clock):
    lab = Asked(tmp_path, "cifar10", train=600, overrides=["val_images=200"])
    result = table2.run(lab)
    for table in result.tables:
        assert list(table.rows) == ["1", "250", "400"]
        assert [cell.paper for cell in table.rows["400"]] == [None] * 8
        assert table.rows["250"][2].paper == pytest.approx(0.8638)
    assert clock[0].negatives == (1, 250, 400)
    sizes = {recipe.candidates for recipe, _, _ in lab.asked.values() if not recipe.bank}
    assert sizes == {250, 400, 500}  # TLA-RN has the recipe's own number of them


@pytest.mark.parametrize("negatives", [[1, 250], [1]])
def test_no_slope_of_one_size(negatives, tmp_path, clock):
    lab = Asked(tmp_path, "cifar10", Budget("smoke", negatives=negatives))
    assert table2.run(lab).notes == []


def test_times_are_of_this_machine_and_of_what_is_timed(tmp_path, clock, monkeypatch):
    here = {"machine": "one", "threads": 1, "date": "never the same"}
    devices = []  # two GPUs may stand beside one kind of processor
    monkeypatch.setattr(table2, "environment", lambda device: devices.append(device) or dict(here))

    def times(*overrides, **budget):
        lab = Asked(tmp_path, "cifar10", Budget("smoke", **budget), overrides=overrides)
        found = table2.timed(lab, CIFAR)
        return found["rows"], len(clock)

    assert times() == times() == times("learning_rate=1") == (times()[0], 1)
    ways = (("batch=20",), ("attack_steps=1",), ("model_options.units=1",), ("val_images=2500",))
    for count, overrides in enumerate(ways, 2):
        assert times(*overrides)[1] == count
    assert times(repeats=2)[1] == 6
    assert times(negatives=[9])[1] == 7
    here["machine"] = "another, with the same processor beside it"
    assert times()[1] == 8
    here["threads"] = 2
    assert times()[1] == 9
    here["date"] = "later"
    assert times()[1] == 9
    assert set(devices) == {torch.device("cpu")}
