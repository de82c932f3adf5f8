"""The list of targets, and that a table's cells are the right model's, attack's and paper's."""

import json
import re
from fractions import Fraction

import pytest
import torch

pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from labs import TINY, Watched, fake_training, made_up

from tla_ops.experiments import paper, target, targets
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Setting, Trained
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Result, Target, make
from tla_ops.experiments.targets import TARGETS, chosen
from tla_ops.experiments.threat import Threat
from tla_ops.experiments.tla import blocks, separation, table1, table3, table4, table6
from tla_ops.training import attacks
from tla_ops.training.data import DATASETS, Dataset
from tla_ops.training.image_set import ImageSet
from tla_ops.training.recipe import load_recipe, recipe_names

SETS = ("mnist", "cifar10", "tiny-imagenet")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data():
    sets = {name: made_up(name, train=40, test=20) for name in ("digits", *SETS)}
    return sets | {"mnist": made_up("mnist", train=300, test=20)}


# The list.


def test_every_table_and_figure_of_the_paper_is_a_target():
    numbers = [
        *(f"table{n}" for n in range(1, 7)), "fig1", "fig2", "fig4", "fig5",
        *(f"supp-table{n}" for n in range(3, 7)), *(f"supp-fig{n}" for n in range(1, 9)),
    ]  # fmt: skip
    assert [name for name in TARGETS if name.startswith("tla/")] == [f"tla/{n}" for n in numbers]


def test_the_targets_of_at2l():
    numbers = [
        *(f"fig{n}" for n in (1, 2, 3)), *(f"table{n}" for n in (1, 2, 3)),
        *(f"app-table{n}" for n in (4, 5, *range(7, 18))),
    ]  # fmt: skip
    of_at2l = [name for name in TARGETS if name.startswith("at2l/")]
    assert of_at2l == [f"at2l/{n}" for n in numbers]
    assert list(TARGETS)[-len(of_at2l) :] == of_at2l
    # Those without a target are no results: the networks of tables 6 and 18.
    without = [name for name in paper.targets() if name.startswith("at2l/") and name not in TARGETS]
    assert without == ["at2l/app-table6", "at2l/app-table18"]
    for name in of_at2l:
        found = TARGETS[name]
        assert found.module.startswith("at2l.")
        (argument,) = found.arguments.values()
        assert name == f"at2l/{argument}"
        assert found.arguments.keys() == {"figure" if "fig" in name else "table"}
        printed = paper.settings(name)
        if "dataset" in printed:
            assert found.datasets == (printed["dataset"],)
        for word in ("known", "unknown"):
            if printed.get("attack_type") == word:
                assert f" {word} attack" in found.title or "Defense-GAN" in found.title
    of_all = [name for name in of_at2l if len(TARGETS[name].datasets) > 1]
    assert of_all == ["at2l/fig1", "at2l/fig2"]
    assert TARGETS["at2l/fig1"].datasets == ("cats-vs-dogs", "mnist", "cifar10")
    assert [found.name for found in chosen(["at2l"])] == of_at2l
    assert len(chosen(["at2l", "tla"])) == len(TARGETS)


def test_data_sets_that_stand_in():
    cats, of_tla = ("cats-vs-dogs", "mnist"), ("mnist", "cifar10")
    assert targets.stands_for("digits", cats) == "cats-vs-dogs"
    assert targets.stands_for("digits", of_tla) == "mnist"
    assert targets.stands_for("cifar10-cats-dogs", cats) == "cats-vs-dogs"
    assert targets.stands_for("cifar10-cats-dogs", of_tla) == ""
    assert targets.stands_for("mnist", cats) == ""
    assert targets.stands_for("cifar10", cats) == ""
    assert targets.STAND_INS.keys() | set(targets.STAND_INS.values()) <= DATASETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_has_a_source_and_recipes(name):
    found = TARGETS[name]
    assert found.name == name
    assert paper.source(name)
    assert found.folder == name.replace("/", "-")
    assert found.title
    assert set(found.datasets) <= (set(SETS) if name.startswith("tla/") else DATASETS.keys())
    stand_ins = [one for one in (targets.STAND_IN, *targets.STAND_INS)
                 if targets.stands_for(one, found.datasets)]  # fmt: skip
    wanted = {f"{dataset}-{method}" for dataset in (*found.datasets, *stand_ins)
              for method in found.methods}  # fmt: skip
    assert wanted <= set(recipe_names())


def test_what_is_chosen():
    assert [found.name for found in chosen(["tla/table5", "tla/table1"])] == [
        "tla/table1", "tla/table5",
    ]  # fmt: skip
    assert chosen(["tla/table1"] * 2) == [TARGETS["tla/table1"]]
    of_tla = [found for name, found in TARGETS.items() if name.startswith("tla/")]
    assert chosen(["tla"]) == chosen(["tla", "tla/fig1"]) == of_tla
    with pytest.raises(ValueError, match=r"got 'tla/tabel3', did you mean tla/table3\?"):
        chosen(["tla/table1", "tla/tabel3"])
    with pytest.raises(ValueError, match=r"TARGET must be one of .*tla, .*, got 'x'$"):
        chosen(["x"])


# Attacks and papers beside the cells: no attack is run, every question for an accuracy gets a
# number of its own as the answer.


class Asked(Watched):
    """A lab that trains and attacks nothing, and knows what it was asked for by its answer."""

    def __init__(self, output, data, *datasets, **options):
        options.setdefault("overrides", ())
        budget = options.pop("budget", Budget("full"))
        super().__init__(output, data, budget, datasets=datasets, **options)
        self.asked = {}

    def trained(self, setting, method, *variation):
        recipe = self.recipe(setting.dataset, method, *variation)
        digest = json.dumps(recipe.as_dict())
        return Trained(recipe.name, None, recipe, digest)

    def accuracy(self, trained, threat, images, source=None):
        answer = len(self.asked) + 1
        self.asked[answer] = (trained, threat, images, source)
        return {"accuracy": answer, "standard_error": answer / 1000}


def cells(lab, table):
    """By (row, place): the cell, and what the lab was asked for it."""
    return {
        (row, place): (cell, *lab.asked[cell.value])
        for row, line in table.rows.items()
        for place, cell in enumerate(line)
    }


METHODS = {"UM": "um", "AT": "at", "ALP": "alp", "TLA-RN": "tla_rn", "TLA-SA": "tla_sa",
           "TLA": "tla"}  # fmt: skip
TABLE1 = {  # of AT: Table 1, typed from the page
    "mnist": (99.24, 97.31, 95.95, 96.66, 96.58, 94.82, 93.87, 95.47, 96.67),
    "cifar10": (87.14, 55.63, 48.29, 46.97, 49.79, 45.72, 45.21, 45.16, 62.83),
    "tiny-imagenet": (44.77, 21.99, 19.59, 17.34, 19.79, 19.44, 19.25, 19.28, 27.73),
}
STEPS1 = {
    "mnist": (0, 1, 40, 40, 40, 100, 100, 200, 100),
    "cifar10": (0, 1, 7, 30, 7, 20, 20, 40, 7),
    "tiny-imagenet": (0, 1, 10, 10, 10, 20, 20, 40, 10),
}
HEADS1 = ["Clean", "FGSM", "BIM", "C&W", "PGD", "PGD", "20PGD", "MIM", "BB", "AutoAttack"]
KINDS1 = ["clean", "fgsm", "bim", "cw", "pgd", "pgd", "pgd", "mim", "transfer", "autoattack"]


@pytest.mark.parametrize("dataset", SETS)
def test_table_1(dataset, data, tmp_path):
    lab = Asked(tmp_path, data, dataset, seed=3)
    (table,) = table1.run(lab).tables
    assert [column.name for column in table.columns] == HEADS1
    assert ("statistics: adversarial" in table.notes[0]) == (dataset == "mnist")
    assert "AutoAttack is ART's" in table.notes[0]
    assert list(table.rows) == list(METHODS)
    for (row, place), (cell, trained, threat, images, source) in cells(lab, table).items():
        assert trained.recipe.method == METHODS[row]
        assert trained.recipe.seed == 3
        assert trained.name.startswith(dataset)
        assert threat.kind == KINDS1[place]
        assert threat.steps == [*STEPS1[dataset], 100][place]
        assert threat.restarts == {6: 20, 9: 5}.get(place, 1)
        assert len(images) == 20
        assert cell.error == cell.value / 1000
        if row == "AT":
            printed = [*TABLE1[dataset], None][place]
            assert cell.paper == (None if printed is None else pytest.approx(printed / 100))
        if place == 8:
            assert (source.recipe.method, source.recipe.seed) == ("um", 1003)
        else:
            assert source is None
    by_hand = {"mnist": {"UM": 81.81, "TLA": 97.73}, "cifar10": {"UM": 7.6, "ALP": 67.27},
               "tiny-imagenet": {"TLA-SA": 29.96, "TLA": 29.98}}[dataset]  # fmt: skip
    for row, printed in by_hand.items():
        assert table.rows[row][8].paper == pytest.approx(printed / 100)


TABLE3 = {
    "mnist": {"AT": (99.08, 96.61, 99.08, 99.13), "ALP": (98.83, 96.28, 98.91, 98.95),
              "TLA": (99.32, 97.38, 99.36, 99.35)},
    "cifar10": {"AT": (40.4, 36.8, 50.0, 67.7), "ALP": (36.9, 38.6, 51.2, 43.5),
                "TLA": (48.6, 41.1, 53.5, 80.8)},
}  # fmt: skip
ATTACKS3 = {
    "mnist": [
        Threat("jsma", Fraction(1, 10)),
        Threat("pgd", Fraction(3), Fraction(1, 10), 40, norm="l2"),
        Threat("cw_l2", Fraction(3), steps=40, norm="l2"),
        Threat("deepfool", steps=2, norm="l2"),
    ],
    "cifar10": [
        Threat("jsma", Fraction(1, 50)),
        Threat("pgd", Fraction(128, 255), Fraction(32, 255), 10, norm="l2"),
        Threat("cw_l2", Fraction(128, 255), steps=10, norm="l2"),
        Threat("deepfool", steps=2, norm="l2"),
    ],
}
HEADS3 = ["JSMA (l0)", "PGD (l2)", "C&W (l2)", "DeepFool (l2)"]


def test_table_3(data, tmp_path):
    lab = Asked(tmp_path, data, "mnist", "cifar10", budget=Budget("full", slow_images=10))
    (table,) = table3.run(lab).tables
    assert [column.name for column in table.columns] == HEADS3 * 2
    assert [column.group.partition(",")[0] for column in table.columns] == [
        *["MNIST"] * 4, *["CIFAR-10"] * 4,
    ]  # fmt: skip
    assert list(table.rows) == ["AT", "ALP", "TLA"]
    for (row, place), (cell, trained, threat, images, source) in cells(lab, table).items():
        dataset, place = SETS[place // 4], place % 4
        assert cell.paper == pytest.approx(TABLE3[dataset][row][place] / 100)
        assert trained.recipe.method == METHODS[row]
        assert trained.name.startswith(dataset)
        assert threat == ATTACKS3[dataset][place]
        assert len(images) == (20 if place == 1 else 10)
        assert source is None
    notes = [column.note for column in table.columns[:4]]
    assert notes == ["10 images", "40 steps", "40 steps, 10 images", "2 steps, 10 images"]


TABLE4 = {
    "mnist": {"UM": (98.27, 5.23, 0, 0, 0), "AT": (96.43, 73.25, 57.83, 62.60, 58.10),
              "ALP": (95.56, 77.08, 64.39, 63.46, 64.13),
              "TLA": (97.15, 78.44, 65.47, 67.73, 65.88)},
    "cifar10": {"UM": (77.84, 3.50, 0.09, 0.08, 0.03), "AT": (67.60, 40.26, 36.34, 33.17, 34.83),
                "ALP": (66.18, 39.45, 36.15, 32.55, 35.32),
                "TLA": (67.48, 40.76, 36.77, 33.27, 35.38)},
}  # fmt: skip
STEPS4 = {"mnist": (0, 1, 40, 40, 100), "cifar10": (0, 1, 7, 30, 20)}


def test_table_4(data, tmp_path):
    lab = Asked(tmp_path, data, "cifar10", "mnist")
    (table,) = table4.run(lab).tables
    assert [column.name for column in table.columns] == ["Clean", "FGSM", "BIM", "C&W", "PGD"] * 2
    for (row, place), (cell, trained, threat, _, _) in cells(lab, table).items():
        dataset, place = ("cifar10", "mnist")[place // 5], place % 5
        assert cell.paper == pytest.approx(TABLE4[dataset][row][place] / 100)
        assert trained.recipe.method == METHODS[row]
        assert (trained.recipe.dataset, trained.recipe.model) == (
            dataset, {"mnist": "mlp", "cifar10": "convnet"}[dataset],
        )  # fmt: skip
        assert trained.recipe.model_options == {}  # not the WRN's six units
        assert threat.steps == STEPS4[dataset][place]
        assert threat.kind == KINDS1[place]
        if dataset == "cifar10":
            assert trained.recipe.learning_rate == 0.01


def test_the_stand_in_has_the_papers_first_data_set_beside_it(data, tmp_path):
    lab = Asked(tmp_path, data, "digits")
    (table,) = table1.run(lab).tables
    assert table.rows["AT"][1].paper == pytest.approx(0.9731)
    assert table.title == "UCI digits for MNIST, 20 test images"
    assert lab.asked[table.rows["AT"][1].value][1].epsilon == Fraction(3, 16)
    (table,) = table4.run(lab).tables
    assert lab.asked[table.rows["AT"][0].value][0].recipe.model == "mlp"


# Radii.


@pytest.mark.parametrize("dataset", SETS)
@pytest.mark.parametrize("printed", ["3/100", "3/10", "8/255", "25/255", Fraction(1, 3), "3"])
def test_the_papers_data_sets_get_the_papers_radii(dataset, printed, data, tmp_path):
    setting = Setting(dataset, dataset)
    for found in (
        blocks.level(setting, load_recipe(f"{dataset}-at"), printed),
        blocks.radius(Asked(tmp_path, data), setting, printed),
    ):
        assert isinstance(found, Fraction)
        assert found == Fraction(printed)


def test_the_stand_in_gets_radii_in_proportion(data, tmp_path):
    lab, recipe = Asked(tmp_path, data), load_recipe("digits-at")
    mnist, cifar10 = Setting("digits", "mnist"), Setting("digits", "cifar10")
    assert blocks.level(mnist, recipe, "3/10") == Fraction(3, 16)
    assert blocks.level(mnist, recipe, "3/100") == Fraction(3, 160)
    assert blocks.level(cifar10, recipe, "25/255") == Fraction(3, 16) * 25 / 8
    assert blocks.radius(lab, mnist, "3") == Fraction(6, 7)
    assert blocks.radius(lab, cifar10, "128/255") == Fraction(32, 255)
    attacks = table3.threats(lab, mnist)
    assert attacks["jsma"].epsilon == Fraction(1, 10)
    assert (attacks["pgd_l2"].epsilon, attacks["pgd_l2"].step) == (Fraction(6, 7), Fraction(1, 35))
    assert attacks["cw_l2"].epsilon == Fraction(6, 7)


# Values against what they are defined as.


@pytest.fixture
def real(data, tmp_path, monkeypatch):
    """A lab with networks, untrained ones, that is asked for real."""
    fake_training(monkeypatch)
    wide = [*TINY, "model_options={hidden: [32]}"]
    budget = Budget("smoke", steps=30, pool=250)
    return Watched(tmp_path, data, budget, datasets=["mnist"], overrides=wide)


def angular(x, y):
    x, y = x.double(), y.double()
    return 1 - (x @ y.T).abs() / (x.norm(dim=1)[:, None] * y.norm(dim=1)[None])


def separated(features, groups, natural, labels):
    """r, or r', from all pairs."""
    ratios = []
    for group in groups.unique():
        its = natural[labels == group]
        if len(its) >= 2:
            within = angular(its, its)
            spread = within[~torch.eye(len(its), dtype=torch.bool)].mean()
            ratios.append(angular(features[groups == group], its).mean() / spread)
    return torch.stack(ratios).mean().item()


@pytest.mark.parametrize("toward", ["false", "true"])
def test_table_5_and_its_counterpart(toward, real):
    result = separation.run(real, toward)
    (table,) = result.tables
    assert [column.name for column in table.columns] == ["ε = 3/100", "ε = 3/10"]
    best = {"false": "max", "true": "min"}[toward]
    assert [column.best for column in table.columns] == [best] * 2
    target_name, setting = separation.TABLES[toward], Setting("mnist", "mnist")
    test = real.test(setting)
    for row, line in table.rows.items():
        made = real.trained(setting, METHODS[row])
        for cell, radius in zip(line, ("3/100", "3/10"), strict=True):
            torch.manual_seed(0)
            adversarial = attacks.pgd(
                made.model, test.images, test.labels, epsilon=Fraction(radius),
                step=Fraction(1, 100), steps=30,
            )  # fmt: skip
            with torch.no_grad():
                features = made.model.features(adversarial)
                natural = made.model.features(test.images)
                groups = made.model(adversarial).argmax(1)
            wrong = groups != test.labels
            expected = (
                separated(features[wrong], groups[wrong], natural, test.labels)
                if toward == "false"
                else separated(features, test.labels, natural, test.labels)
            )
            assert cell.value == pytest.approx(expected, rel=1e-4)
            assert cell.paper == paper.value(target_name, "mnist", METHODS[row], radius)
    by_hand = {"false": {"AT": (1.288, 1.308), "ALP": (1.398, 1.394), "TLA": (1.810, 1.847)}}
    for row, printed in by_hand.get(toward, {}).items():
        assert tuple(cell.paper for cell in table.rows[row]) == printed
    if toward == "true":
        assert list(table.rows) == ["UM", "AT", "ALP", "TLA"]


def test_table_6(real):
    (table,) = table6.run(real).tables
    assert [column.name for column in table.columns] == ["Adv", "Natural"]
    setting = Setting("mnist", "mnist")
    test, pool = real.test(setting), real.pool(setting)
    assert len(pool) == 250
    assert any(line[0].value != line[1].value for line in table.rows.values())
    for row, line in table.rows.items():
        made = real.trained(setting, METHODS[row])
        torch.manual_seed(0)
        adversarial = attacks.pgd(
            made.model, test.images, test.labels, epsilon=Fraction(3, 10), step=Fraction(1, 100),
            steps=30,
        )  # fmt: skip
        for cell, images in zip(line, (adversarial, test.images), strict=True):
            with torch.no_grad():
                known, asked = made.model.features(pool.images), made.model.features(images)
            known, asked = (torch.nn.functional.normalize(some) for some in (known, asked))
            nearest = (asked @ known.T).argsort(1, descending=True)[:, :50]
            votes = torch.nn.functional.one_hot(pool.labels[nearest], 10).sum(1)
            assert cell.value == pytest.approx((votes.argmax(1) == test.labels).double().mean())
    assert {row: tuple(cell.paper for cell in line) for row, line in table.rows.items()} == {
        "AT": (0.9301, 0.9868), "ALP": (0.9520, 0.9843), "TLA": (0.9698, 0.9947),
    }  # fmt: skip


# What a target writes.


def run(lab):
    part = {"dataset": "digits", "stands_in_for": "mnist", "images": 5, "notes": [], "runs": []}
    lab.parts["digits"] = part
    seen.append(torch.get_num_threads())
    table = Table("Title", "Method", [Column("A"), Column("B")],
                  {"AT": [Cell(0.25, 0.5), Cell(float("nan"), 0.5)]})  # fmt: skip
    drawing = target.Drawing(
        "curve", "A caption", "A text", lambda path, footnote: path.write_text(footnote)
    )
    return Result([table], [drawing], {"nan": float("nan"), "third": Fraction(1, 3)}, ["A note"])


seen: list[int] = []


def test_what_is_written(data, tmp_path, monkeypatch):
    monkeypatch.setattr(target.importlib, "import_module", lambda name: __import__(__name__))
    lab = Watched(tmp_path, data, seed=4)
    lab.parts["other"] = {"of": "the target before"}
    torch.set_num_threads(2)
    try:
        metrics = make(Target("tla/table1", "A title", "x", ("mnist",), ("at",)), lab)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen.pop() == 1
    assert metrics["environment"]["threads"] == 1
    folder = lab.place("tla-table1")
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "table.md", "curve.png"}

    def fail(constant):
        pytest.fail(f"{constant} is no JSON")

    shown = (folder / "curve.png").read_text()
    assert shown == "tla/table1 on digits. Smoke run: not a result."
    written = json.loads((folder / "metrics.json").read_text(), parse_constant=fail)
    assert written == metrics
    json.dumps(metrics, allow_nan=False)
    assert metrics["numbers"] == {"nan": None, "third": "1/3"}
    assert metrics["tables"][0]["rows"]["AT"][1]["value"] is None
    assert (metrics["experiment"], metrics["budget"], metrics["seed"]) == ("tla/table1", "smoke", 4)
    assert metrics["source"] == "Mao et al. 2019, Table 1"
    assert metrics["complete"] is True
    assert [part["dataset"] for part in metrics["parts"]] == ["digits"]
    assert metrics["notes"][-1] == "A note"
    assert any("digits stand in for mnist" in note for note in metrics["notes"])
    beside = "whose numbers in the paper are those shown beside ours"
    assert any(beside in note for note in metrics["notes"])
    bare = target._notes(lab, [Table("t", "c", [Column("x")], {"AT": [Cell(0.5)]})])
    assert "digits stand in for mnist" in bare  # and of no number of the paper is anything said
    page = (folder / "table.md").read_text()
    assert "![A text](curve.png)" in page
    assert re.search(r"\| AT \| 25\.00% .*paper 50\.00%.* \| – .*paper 50\.00%", page)


def test_an_empty_data_set_of_misclassified_images_is_no_number(data, tmp_path, monkeypatch):
    """A model that nothing misleads has no r."""
    fake_training(monkeypatch)
    one = data["mnist"].test
    images = ImageSet(one.stored, torch.zeros(20, dtype=torch.int64))
    sets = {"mnist": Dataset("mnist", ImageSet(one.stored, one.labels), images, 1)}
    lab = Watched(tmp_path, sets, Budget("smoke", steps=1), datasets=["mnist"])
    metrics = make(TARGETS["tla/table5"], lab)
    assert metrics["tables"][0]["rows"]["AT"][0]["value"] is None
    assert metrics["tables"][0]["rows"]["AT"][0]["paper"] == 1.288
