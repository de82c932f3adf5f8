"""AT2L's tables and figures of rounds: every cell is of the model, the round, the attack and the
network that its row and column name, beside the paper's number.
"""

from fractions import Fraction

import pytest

pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from labs import made_up

from tla_ops.experiments import paper
from tla_ops.experiments.at2l import curves, curves_figure, ensemble, rounds_table
from tla_ops.experiments.at2l.curves_figure import Line, Panel
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.threat import Threat

pytestmark = pytest.mark.usefixtures("one_thread")

# Typed from the appendix: by what was trained with, FGSM's errors of AT (1), AT (10), AT2L (1) and
# AT2L (10), then C&W's.
TABLES = {
    "app-table4": ("cats-vs-dogs", {
        "gradient": (18.3, 11.6, 13.6, 8.3, 93.5, 96.2, 95.2, 93.1),
        "optimization": (32.6, 26.5, 27.4, 16.3, 27.4, 24.1, 16.2, 13.7),
        "mixed": (20.8, 19.6, 13.7, 11.3, 25.3, 22.2, 17.3, 12.0)}),
    "app-table5": ("cats-vs-dogs", {
        "gradient": (42.6, 25.7, 21.5, 15.2, 99.3, 95.4, 92.1, 94.6),
        "optimization": (43.7, 35.9, 32.9, 19.2, 32.8, 30.3, 18.3, 15.2),
        "mixed": (41.3, 22.7, 23.8, 12.5, 27.6, 24.6, 19.5, 13.5)}),
    "app-table7": ("mnist", {
        "fgsm": (56.9, 42.0, 54.0, 34.8, 91.6, 86.8, 91.1, 88.6),
        "bim": (83.3, 88.3, 66.6, 38.3, 83.0, 88.9, 77.9, 85.2),
        "ll": (56.7, 48.1, 46.2, 42.9, 82.6, 91.3, 86.8, 88.5),
        "ill": (87.9, 83.8, 53.0, 44.1, 79.8, 84.2, 89.9, 85.2),
        "gradient": (58.3, 46.3, 51.8, 40.3, 84.1, 88.7, 83.5, 89.3),
        "optimization": (85.2, 84.2, 68.9, 59.6, 56.4, 56.1, 43.3, 45.2),
        "mixed": (86.7, 54.9, 55.9, 37.2, 62.2, 55.7, 39.5, 23.5)}),
    "app-table8": ("mnist", {
        "fgsm": (59.3, 52.6, 52.1, 45.2, 95.1, 97.5, 95.2, 92.9),
        "bim": (83.5, 85.8, 63.6, 49.1, 95.8, 94.2, 87.2, 89.1),
        "ll": (62.1, 54.7, 45.3, 38.5, 94.1, 93.2, 93.9, 86.6),
        "ill": (82.5, 86.1, 51.9, 45.1, 97.9, 94.7, 98.5, 83.1),
        "gradient": (67.4, 53.5, 54.1, 42.2, 91.3, 95.1, 95.9, 97.2),
        "optimization": (86.1, 87.8, 59.2, 55.3, 58.3, 57.8, 46.1, 43.3),
        "mixed": (61.4, 58.2, 51.6, 39.1, 64.9, 53.1, 47.3, 32.7)}),
    "app-table9": ("cifar10", {
        "gradient": (64.2, 50.3, 49.6, 41.8, 97.1, 98.8, 96.3, 97.9),
        "optimization": (74.3, 81.9, 63.1, 62.8, 53.9, 43.0, 46.1, 35.7),
        "mixed": (66.3, 63.7, 57.2, 44.3, 62.5, 61.1, 53.9, 44.4)}),
    "app-table10": ("cifar10", {
        "gradient": (67.6, 53.1, 45.1, 41.6, 98.5, 97.3, 98.5, 98.8),
        "optimization": (84.9, 88.3, 77.3, 71.4, 57.6, 50.7, 51.1, 45.7),
        "mixed": (73.8, 69.2, 61.7, 50.9, 69.4, 63.6, 56.8, 47.3)}),
}  # fmt: skip
# In words, of the network before the first round; under attacks of figure 1 alone.
BEFORE = {"cats-vs-dogs": {"clean": 8.8}, "mnist": {"clean": 0.9},
          "cifar10": {"clean": 7.4, "fgsm": 90.1, "cw": 99.2}}  # fmt: skip
KNOWN = {"app-table4": True, "app-table5": False, "app-table7": True, "app-table8": False,
         "app-table9": True, "app-table10": False}  # fmt: skip
FIGURES = {"fig1": ("app-table4", "app-table7", "app-table9"),
           "fig2": ("app-table5", "app-table8", "app-table10")}  # fmt: skip
TORCHVISION = ("vgg16", "vgg19", "inception_v3", "at2l_resnet50")
OURS = ("mnist_a", "mnist_b", "mnist_c", "mnist_d")
NETWORKS = {  # of f; of M; of the unknown attack's images
    ("large", True): (0, (0, 1, 2, 3), None),
    ("large", False): (1, (1, 2, 3), 0),
    ("small", True): (0, (0, 1, 2, 3), None),
    ("small", False): (0, (0, 1, 3), 2),
}
SETS = {"gradient": ("fgsm", "ll", "bim", "ill"), "optimization": ("carlini",),
        "mixed": ("fgsm", "ll", "bim", "ill", "carlini")}  # fmt: skip
TITLES = {"fgsm": "FGSM", "bim": "iter FGSM", "ll": "LL", "ill": "iter LL",
          "gradient": "Gradient-based", "optimization": "Optimization-based",
          "mixed": "Mixed"}  # fmt: skip
CW = Threat("carlini", step=Fraction(1, 200), steps=1000)
BALLS = {"digits": (Fraction(3, 16), Fraction(3, 160))}


class Asked(Lab):
    """Trains and attacks nothing: an error is the number of its question, in hundredths of a
    percent. A model's digest says how it was made.
    """

    def __init__(self, output, data, datasets, budget=None, **options):
        super().__init__(
            budget or Budget("full", images=20, slow_images=10), output, lambda name: data[name],
            datasets=datasets, say=lambda text: None, **options,
        )  # fmt: skip
        self.asked, self.plans = {}, []

    def trained(self, setting, method, *variation):
        assert method == "at2l-pretrain"
        recipe = self.recipe(setting.dataset, method, *variation)
        return Trained(recipe.name, None, recipe, ("start", setting.dataset, recipe.model))

    def rounds(self, lab, setting, plan, count):
        assert lab is self
        self.plans.append((setting, plan, count))
        later = [
            Trained(plan.name, None, plan.recipe, (plan, number)) for number in range(1, count + 1)
        ]
        return [plan.start, *later]

    def accuracy(self, trained, threat, images, source=None):
        number = len(self.asked) + 1
        self.asked[number] = (trained, threat, len(images), source)
        return {
            "accuracy": 1 - number / 1e4, "standard_error": number / 1e6, "mean_linf": number / 1e5
        }  # fmt: skip

    def of(self, cell):
        assert cell.error == pytest.approx(cell.value / 100)
        return self.asked[round(cell.value * 1e4)]


@pytest.fixture(scope="module")
def data():
    names = ("digits", "mnist", "cifar10", "cats-vs-dogs", "cifar10-cats-dogs")
    return {name: made_up(name, train=600, test=40) for name in names}


@pytest.fixture
def ask(data, tmp_path, monkeypatch):
    def make(*datasets, **options):
        made = Asked(tmp_path, data, datasets, **options)
        monkeypatch.setattr(ensemble, "rounds", made.rounds)
        return made

    return make


def threats_of(name, dataset):
    radius, step = BALLS.get(dataset, (Fraction(3, 10), Fraction(3, 100)))
    made = {
        "fgsm": Threat("fgsm", radius, steps=1), "ll": Threat("ll", radius, steps=1),
        "bim": Threat("bim", radius, step, 10, early_stop=False),
        "ill": Threat("ill", radius, step, 10, early_stop=False), "carlini": CW,
    }  # fmt: skip
    return tuple(made[kind] for kind in SETS.get(name, (name,)))


def check_model(trained, method, against, number, *, dataset, target, known):
    """Against what the appendix says of a row and a column."""
    size = "large" if target != "mnist" else "small"
    f, members, _ = NETWORKS[size, known]
    names = OURS if dataset in ("digits", "mnist") else TORCHVISION
    if number == 0:
        assert trained.digest == ("start", dataset, names[f])
        return
    plan, found = trained.digest
    assert found == number
    assert plan.start.digest == ("start", dataset, names[f])
    assert plan.own is (f in members)
    assert [other.digest for other in plan.others] == [
        ("start", dataset, names[member]) for member in members if member != f
    ]
    assert plan.recipe.name == f"{dataset}-at2l-round"
    assert plan.recipe.model == names[f]
    assert plan.dataset is None
    weight = 0.6 if target == "cifar10" else 0.3
    own = plan.recipe.options
    assert (own["adversarial_weight"], own["weight"], own["margin"]) == {
        "at": (weight, 0, 1), "at2l": (weight, 1, 1), "tr": (0, 1, 1),
    }[method]  # fmt: skip
    expected = threats_of(against, dataset)
    if dataset == "digits":  # its ball and steps are the recipe's own
        assert [threat.kind for threat in plan.threats] == [threat.kind for threat in expected]
        assert {t.epsilon for t in plan.threats if t.kind != "carlini"} <= {Fraction(3, 16)}
        assert all(t == CW for t in plan.threats if t.kind == "carlini")
    else:
        assert plan.threats == expected


def check_attack(threat, count, source, attack, *, dataset, target, known):
    radius = BALLS.get(dataset, (Fraction(3, 10),))[0]
    expected = {"clean": Threat("clean"), "fgsm": Threat("fgsm", radius, steps=1), "cw": CW}
    assert threat == expected[attack]
    assert count == (10 if attack == "cw" else 20)
    if known or attack == "clean":
        assert source is None
    else:
        _, _, unknown = NETWORKS["large" if target != "mnist" else "small", False]
        names = OURS if dataset in ("digits", "mnist") else TORCHVISION
        assert source.digest == ("start", dataset, names[unknown])


DATASETS = {"cats-vs-dogs": ("cats-vs-dogs", "cifar10-cats-dogs", "digits"),
            "mnist": ("mnist", "digits"), "cifar10": ("cifar10", "digits")}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "dataset"),
    [(table, name) for table, (target, _) in TABLES.items() for name in DATASETS[target]],
)
@pytest.mark.parametrize("rounds", [None, 3, 1], ids=lambda rounds: f"{rounds or 'all'} rounds")
def test_a_cell_is_what_its_row_and_column_say(table, dataset, rounds, ask):
    budget = Budget("full", images=20, slow_images=10, rounds=rounds)
    lab = ask(dataset, budget=budget)
    target, printed = TABLES[table]
    known = KNOWN[table]
    attacked, clean, *changes = rounds_table.run(lab, table).tables
    numbers = {None: [1, 10], 3: [1, 3], 1: [1]}[rounds]
    names = [f"{method} ({number})" for method in ("Adv. train", "AT2L") for number in numbers]
    assert [(column.group, column.name) for column in attacked.columns] == [
        (attack, name) for attack in ("FGSM", "C&W") for name in names
    ]
    assert [(column.group, column.name) for column in clean.columns] == [
        ("Clean", name) for name in names
    ]
    assert {(column.kind, column.best) for column in attacked.columns} == {("error", "min")}
    notes = [column.note for column in attacked.columns]
    assert notes == ["1 step"] * len(names) + ["1000 steps"] * len(names)
    before, *rows = attacked.rows
    assert rows == [TITLES[name] for name in printed]
    assert before.endswith(" before the first round")
    assert list(clean.rows) == [before, *rows]
    about = {"dataset": dataset, "target": target, "known": known}
    for row, against in zip((before, *rows), (None, *printed), strict=True):
        for found, attacks in ((attacked, ("fgsm", "cw")), (clean, ("clean",))):
            heads = [
                (attack, method, number)
                for attack in attacks for method in ("at", "at2l") for number in numbers
            ]  # fmt: skip
            for cell, (attack, method, number) in zip(found.rows[row], heads, strict=True):
                trained, threat, count, source = lab.of(cell)
                check_model(trained, method, against, number if against else 0, **about)
                check_attack(threat, count, source, attack, **about)
                if against is None or attack == "clean":
                    said = BEFORE[target].get(attack) if against is None else None
                    if not known and attack != "clean":
                        said = None
                    assert cell.paper == (None if said is None else pytest.approx(said / 100))
                    continue
                place = 4 * (attack == "cw") + 2 * (method == "at2l") + (number > 1)
                assert cell.paper == pytest.approx(printed[against][place] / 100)
    assert len(changes) == known
    for found in changes:
        assert [(column.name, column.kind, column.best) for column in found.columns] == [
            (name, "number", "max") for name in names
        ]
        assert list(found.rows) == list(attacked.rows)
        for row, cells in found.rows.items():
            for cell, beside in zip(cells, attacked.rows[row][len(names) :], strict=True):
                assert (cell.paper, cell.error) == (None, None)
                assert cell.value == pytest.approx(beside.value / 10)  # of the same question
    assert {count for _, _, count in lab.plans} == {max(numbers)}
    ours = [note for note in attacked.notes if "rounds, ours of" in note]
    said = {None: [], 3: ["1 and 10 rounds, ours of 1 and 3."], 1: ["1 and 10 rounds, ours of 1."]}
    assert [note.partition("are of ")[2] for note in ours] == said[rounds]


def test_names_of_plans_differ(ask):
    lab = ask("mnist")
    rounds_table.run(lab, "app-table7")
    names = [plan.name for _, plan, _ in lab.plans]
    assert len(names) == len(set(names)) == 14
    assert names[0] == "mnist-A-at-fgsm"


@pytest.mark.parametrize(
    ("most", "numbers"),
    [(None, [1, 10]), (1, [1]), (2, [1, 2]), (9, [1, 9]), (10, [1, 10]), (20, [1, 10])],
)
def test_the_rounds_that_are_looked_at(most, numbers, ask):
    lab = ask("mnist", budget=Budget("full", rounds=most))
    assert ensemble.numbers_of_rounds(lab, [1, 10]) == numbers


def test_notes(ask):
    known, unknown = (rounds_table.run(ask("mnist"), f"app-table{n}") for n in (7, 8))
    assert known.tables[0].title == "Known attack: MNIST, 20 test images, 10 under C&W"
    assert unknown.tables[0].title.startswith("Unknown attack: MNIST")
    assert "on the trained network A itself." in known.tables[0].notes[1]
    assert "made on a network C, whose structure is not in M" in unknown.tables[0].notes[1]
    for found, members in ((known, "A, B, C, D"), (unknown, "A, B, D")):
        how = found.tables[0].notes[2]
        assert how.startswith(f"M = {members}. A round: adversarial images of 400 training images")
        assert "24 steps of 32, from where the round before ended." in how
        assert "adversarial weight=0.3, weight=1.0, margin=1.0; ε = 3/10, iter FGSM" in how
        assert "iter LL take 10 steps of 3/100. Negatives are of any other class" in how
    cw = [note for note in known.tables[0].notes if note.startswith("C&W is")]
    assert cw[0].endswith("without a bound on the change: 1000 steps of Adam at each constant, "
                          "learning rate 0.005.")  # fmt: skip
    assert any("all of them, whatever the model" in note for note in known.tables[0].notes)
    assert not any("whatever the model" in note for note in unknown.tables[0].notes)
    few = ask("mnist", budget=Budget("short", cw_steps=50))
    notes = rounds_table.run(few, "app-table7").tables[0].notes
    assert any("50 steps of Adam at each constant, learning rate 0.1 (1000 and 0.005" in note
               for note in notes)  # fmt: skip
    assert known.notes == unknown.notes == []
    stand_in = rounds_table.run(ask("digits"), "app-table4")
    assert stand_in.tables[0].title.startswith("Known attack: UCI digits for Cats vs. Dogs, 20")
    (note,) = stand_in.notes
    assert note.endswith("Table 6: A for VGG16, B for VGG19, C for inceptionv3, D for resnet50")


def test_a_budgets_width_is_of_the_small_networks(ask):
    for dataset, table, options in (
        ("mnist", "app-table7", {"width": 0.125}), ("digits", "app-table4", {"width": 0.125}),
        ("cifar10", "app-table9", {}),
    ):  # fmt: skip
        lab = ask(dataset, budget=Budget("smoke", images=20, width=0.125, rounds=1))
        rounds_table.run(lab, table)
        for _, plan, _ in lab.plans:
            for trained in (plan.start, *plan.others):
                assert trained.recipe.model_options == options
            assert plan.recipe.model_options == options


# Figures.


def drawn(lab, figure, monkeypatch):
    panels, saved = [], []
    monkeypatch.setattr(curves, "curves_figure", lambda those, footnote: panels.extend(those))
    monkeypatch.setattr(curves, "save", lambda image, path: saved.append(path))
    result = curves.run(lab, figure)
    (drawing,) = result.figures
    drawing.draw("a path", "")
    assert saved == ["a path"]
    assert drawing.name == figure
    return result, panels, drawing


@pytest.mark.parametrize("rounds", [None, 2, 12], ids=lambda rounds: f"{rounds or 'all'} rounds")
@pytest.mark.parametrize("figure", FIGURES)
def test_a_figures_lines_and_marks(figure, rounds, ask, monkeypatch):
    budget = Budget("full", images=20, slow_images=10, rounds=rounds)
    datasets = ("cats-vs-dogs", "mnist", "cifar10")
    lab = ask(*datasets, budget=budget)
    result, panels, drawing = drawn(lab, figure, monkeypatch)
    last = rounds or 10
    attacks = {"fig1": ("fgsm", "cw"), "fig2": ("fgsm",)}[figure]
    wanted = [(place, attack) for place in range(3) for attack in attacks]
    assert [panel.title for panel in panels] == [
        f"{('Cats vs. Dogs', 'MNIST', 'CIFAR-10')[place]}, {'FGSM' if a == 'fgsm' else 'C&W'}"
        for place, a in wanted
    ]
    assert "Hollow" in drawing.caption
    lines = [(method, against) for against in SETS for method in ("at", "at2l")]
    for panel, table, (place, attack) in zip(panels, result.tables, wanted, strict=True):
        target, printed = TABLES[FIGURES[figure][place]]
        about = {"dataset": target, "target": target, "known": figure == "fig1"}
        assert [(line.method, line.trained_with) for line in panel.lines] == lines
        assert [column.name for column in table.columns] == [str(n) for n in range(last + 1)]
        assert list(table.rows) == [line.name for line in panel.lines]
        for line, (method, against) in zip(panel.lines, lines, strict=True):
            assert line.name == {"at": "Adv. train", "at2l": "AT2L"}[method] + {
                "gradient": "-Gra", "optimization": "-Opt", "mixed": "-Mix",
            }[against]  # fmt: skip
            cells = table.rows[line.name]
            assert line.values == [cell.value for cell in cells]
            for number, cell in enumerate(cells):
                trained, threat, count, source = lab.of(cell)
                check_model(trained, method, against, number, **about)
                check_attack(threat, count, source, attack, **about)
            place = 4 * (attack == "cw") + 2 * (method == "at2l")
            first, tenth = (printed[against][place + more] / 100 for more in (0, 1))
            marks = {1: first, 10: tenth} if last >= 10 else {1: first}
            if figure == "fig1" and attack in BEFORE[target]:
                marks[0] = BEFORE[target][attack] / 100
            assert line.printed == pytest.approx(marks)
            assert [cell.paper for cell in cells] == [line.printed.get(n) for n in range(last + 1)]


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_figure_3_is_algorithm_1_by_three_methods(dataset, ask, monkeypatch):
    lab = ask(dataset)
    result, (panel,), drawing = drawn(lab, "fig3", monkeypatch)
    (table,) = result.tables
    assert "Hollow" not in drawing.caption
    names = ["Adv. train", "Triplet reg.", "AT2L"]
    assert list(table.rows) == [line.name for line in panel.lines] == names
    for line, method in zip(panel.lines, ("at", "tr", "at2l"), strict=True):
        assert (line.method, line.printed) == (method, {})
        for number, cell in enumerate(table.rows[line.name]):
            assert cell.paper is None
            trained, threat, count, source = lab.of(cell)
            check_attack(threat, count, source, "fgsm", dataset=dataset, target="mnist", known=True)
            if number:
                plan, found = trained.digest
                assert (found, plan.others, plan.own) == (number, (), True)
                assert plan.start.digest == ("start", dataset, "mnist_a")
                assert [threat.kind for threat in plan.threats] == ["fgsm"]
                own = plan.recipe.options
                assert (own["adversarial_weight"], own["weight"]) == {
                    "at": (0.3, 0), "tr": (0, 1), "at2l": (0.3, 1),
                }[method]  # fmt: skip
                assert own["confused_class"] is True
            else:
                assert trained.digest == ("start", dataset, "mnist_a")
    assert any(note.startswith("Algorithm 1 against FGSM.") for note in table.notes)
    assert any("Negatives are of the class of the mistake" in note for note in table.notes)
    assert not any("C&W" in note for note in (table.title, *table.notes))


def test_a_stand_in_takes_the_first_data_sets_place(ask, monkeypatch):
    for figure, table in (("fig1", "app-table4"), ("fig2", "app-table5")):
        result, panels, _ = drawn(ask("digits"), figure, monkeypatch)
        assert panels[0].title == "UCI digits for Cats vs. Dogs, FGSM"
        printed = TABLES[table][1]["gradient"]
        assert panels[0].lines[0].printed == pytest.approx({1: printed[0] / 100,
                                                            10: printed[1] / 100})  # fmt: skip
        assert len(result.notes) == 1


def test_settings_are_those_printed():
    for target in (*(f"at2l/{figure}" for figure in FIGURES), *(f"at2l/{name}" for name in TABLES)):
        datasets = [TABLES[target[5:]][0]] if "table" in target else list(DATASETS)
        for dataset in datasets:
            found = ensemble.ensemble(target, dataset)
            assert found.known == (target == "at2l/fig1" or KNOWN.get(target[5:], False))
            assert (found.attacked in found.members) == found.known
            assert found.network in found.members
    paper_cw = paper.settings("at2l/fig1")["cw"]
    assert float(ensemble.CW.step) == paper_cw["learning_rate"]
    assert ensemble.CW.steps == paper_cw["max_iter"]


def test_named():
    assert ensemble.named(Setting("mnist", "mnist")) == "MNIST"
    assert ensemble.named(Setting("cifar10-cats-dogs", "cats-vs-dogs")) == (
        "CIFAR-10's cats and dogs for Cats vs. Dogs"
    )


def test_what_is_drawn():
    pytest.importorskip("matplotlib", reason="figures are drawn with matplotlib: extra [train]")
    many = [
        Line("a", "at", "gradient", [0.9, 0.5, None], {1: 0.4}),
        Line("b", "at2l", "gradient", [0.9, 0.3, 0.2], {1: 0.2, 10: 0.1}),
        Line("c", "at", "mixed", [0.9, 0.6, 0.5], {}),
    ]
    figure = curves_figure.curves_figure([Panel(f"panel {n}", many) for n in range(4)])
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == [f"panel {n}" for n in range(4)]
    assert len(figure.axes) == 6
    drawn_lines = shown[0].get_lines()
    curve, marks = drawn_lines[::2], drawn_lines[1::2]
    assert [list(line.get_xdata()) for line in curve] == [[0, 1, 2]] * 3
    assert list(curve[1].get_ydata()) == [0.9, 0.3, 0.2]
    assert [list(mark.get_xdata()) for mark in marks] == [[1], [1, 10], []]
    assert [list(mark.get_ydata()) for mark in marks] == [[0.4], [0.2, 0.1], []]
    assert [mark.get_marker() for mark in marks] == ["s", "D", "s"]
    assert [mark.get_linestyle() for mark in marks] == ["None"] * 3
    assert [line.get_linestyle() for line in curve] == ["--", "-", "--"]
    assert [line.get_marker() for line in curve] == ["s", "D", "s"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "a", "b", "c", "the paper's, Adv. train", "the paper's, AT2L"
    ]  # fmt: skip
    hollow = legend.legend_handles[3:]
    assert [mark.get_marker() for mark in hollow] == ["s", "D"]
    assert [mark.get_markerfacecolor() for mark in hollow] == ["none"] * 2
    colours = [line.get_color() for line in curve]
    assert colours[0] == colours[1] != colours[2]  # by what was trained with
    assert [mark.get_markeredgecolor() for mark in marks] == colours
    one = curves_figure.curves_figure(
        [Panel("p", [Line(m, m, "fgsm", [0.5, 0.4], {}) for m in ("at", "tr", "at2l")])]
    )
    assert len({line.get_color() for line in one.axes[0].get_lines()[::2]}) == 3
    assert [text.get_text() for text in one.legends[0].get_texts()] == ["at", "tr", "at2l"]
