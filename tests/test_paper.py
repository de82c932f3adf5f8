"""The papers' printed numbers: the loader, and the files' structure."""

import re
from fractions import Fraction

import pytest

pytest.importorskip("yaml", reason="the papers' numbers are YAML files: extra [train]")

from tla_ops.experiments import paper, table2
from tla_ops.training.data import DATASETS
from tla_ops.training.evaluate import ATTACKS
from tla_ops.training.recipe import METHODS, STEPPED, load_recipe

SETS = ("mnist", "cifar10", "tiny-imagenet", "cats-vs-dogs", "imagenet")
TABLES = [f"tla/table{n}" for n in range(1, 7)] + [f"tla/supp-table{n}" for n in range(3, 7)]
FIGURES = [f"tla/fig{n}" for n in (1, 2, 4, 5)] + [f"tla/supp-fig{n}" for n in range(1, 9)]
AT2L = [f"at2l/table{n}" for n in (1, 2, 3)]
AT2L += [f"at2l/app-table{n}" for n in (4, 5, 7, *range(8, 18))]
AT2L_OTHERS = ["at2l/fig1", "at2l/fig2", "at2l/fig3", "at2l/app-table6", "at2l/app-table18"]
BY_DATASET = {"cats-vs-dogs": (4, 5), "mnist": (7, 8), "cifar10": (9, 10)}
AUTHORS = {"tla": r"Mao et al\. 2019, (supplement, )?", "at2l": r"Li et al\. 2019, (appendix, )?"}
UNITS = {"tla/table2": "mixed", "tla/table5": "ratio", "tla/supp-table3": "ratio"}


def panels(target):
    found = {dataset: paper.panel(target, dataset) for dataset in SETS}
    return {dataset: panel for dataset, panel in found.items() if panel}


def leaves(settings):
    """Every (key, value) at any depth."""
    for key, value in settings.items():
        yield from leaves(value) if isinstance(value, dict) else [(key, value)]


# the loader


def test_values():
    assert paper.value("tla/table1", "mnist", "tla", "clean") == 0.9952
    assert paper.value("tla/table1", "cifar10", "tla-sa", "transfer") == 0.6167
    assert paper.value("tla/table2", "cifar10", "250", "mini_batch_seconds") == 0.467
    assert paper.value("tla/table2", "cifar10", "250", "fgsm") == 0.5905
    assert paper.value("tla/table5", "mnist", "tla", "3/10") == 1.847
    assert paper.value("tla/fig5", "cifar10", "tla", "auc_gain") == 0.0645
    assert paper.value("at2l/app-table4", "cats-vs-dogs", "at2l/mixed/10", "cw") == 0.12
    assert paper.value("at2l/table2", "imagenet", "Inception-ResNet-v2/rand-tr", "fgsm") == 0.083
    assert paper.value("at2l/table1", "cifar10", "thermometer-tr/7", "ls_pga") == 0.134
    assert paper.value("at2l/app-table17", "mnist", "B/um", "clean") == 0.038
    assert paper.source("at2l/app-table17") == "Li et al. 2019, appendix, Table 17"
    assert paper.source("tla/supp-table3") == "Mao et al. 2019, supplement, Table 3"


def test_what_the_paper_lacks_is_none():
    assert paper.panel("tla/table2", "mnist") is None
    assert paper.panel("tla/fig1", "cifar10") is None
    assert paper.panel("tla/table1", "digits") is None
    assert paper.value("tla/table1", "digits", "tla", "clean") is None
    assert paper.value("tla/table1", "mnist", "trades", "clean") is None
    assert paper.value("tla/table1", "mnist", "tla", "autoattack") is None
    assert paper.panel("at2l/app-table4", "mnist") is None
    assert paper.panel("at2l/app-table6", "mnist") is None
    assert paper.value("at2l/app-table17", "mnist", "B/at2l", "clean") is None
    assert paper.notes("tla/supp-fig4") == ()
    assert paper.settings("tla/supp-table3") == {}


@pytest.mark.parametrize(
    "target", ["tla/table7", "at2l/table4", "tla", "", "../paper/tla/table1", "nobody/table1"]
)
@pytest.mark.parametrize(
    "ask",
    [
        paper.settings,
        paper.source,
        paper.notes,
        lambda target: paper.panel(target, "mnist"),
        lambda target: paper.value(target, "mnist", "tla", "clean"),
    ],
)
def test_an_unknown_target_lists_the_known(target, ask):
    with pytest.raises(ValueError, match=r"one of .*tla/table1, .*tla/supp-fig8, got '") as error:
        ask(target)
    assert str(error.value).endswith(repr(target))


def test_a_target_is_in_its_papers_file(tmp_path, monkeypatch):
    entry = "{source: S, unit: percent, panels: {mnist: {columns: [a, b], rows: {at: [5, null]}}}}"
    (tmp_path / "other.yaml").write_text(f"other/table1: {entry}\n")
    (tmp_path / "tla.yaml").write_text(f"tla/table1: {entry}\nother/table2: {entry}\n")
    monkeypatch.setattr(paper, "FOLDER", tmp_path)
    assert paper.value("other/table1", "mnist", "at", "a") == 0.05
    assert paper.value("other/table1", "mnist", "at", "b") is None
    with pytest.raises(ValueError):
        paper.source("other/table2")


def test_settings_are_the_callers_to_change():
    paper.settings("tla/table3")["mnist"]["jsma"]["l0"] = "1"
    paper.panel("tla/table1", "mnist").rows.clear()
    assert paper.settings("tla/table3")["mnist"]["jsma"] == {"l0": "1/10"}
    assert paper.value("tla/table1", "mnist", "um", "clean") == 0.992


# structure


def test_targets():
    assert len(paper.targets()) == len(set(paper.targets()))
    assert set(paper.targets()) == set(TABLES + FIGURES + AT2L + AT2L_OTHERS)


@pytest.mark.parametrize("path", sorted(paper.FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_key_is_given_twice(path):
    """YAML would take the last."""
    import yaml

    def check(node):
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert sorted(set(keys)) == sorted(keys)
            for _, value in node.value:
                check(value)

    check(yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader))


@pytest.mark.parametrize("target", [*TABLES, "tla/fig5"])
def test_a_table_is_whole(target):
    found = panels(target)
    assert found
    names = {method.replace("_", "-") for method in METHODS}
    for dataset, (columns, steps, rows, unit) in found.items():
        assert len(set(columns)) == len(columns) == len(steps)
        assert all(isinstance(name, str) for name in [*columns, *rows])
        assert all(step is None or isinstance(step, int) for step in steps)
        assert unit == UNITS.get(target, "percent")
        assert target == "tla/table2" or set(rows) <= names
        for row, numbers in rows.items():
            assert len(numbers) == len(columns)
            for column in columns:
                number = paper.value(target, dataset, row, column)
                assert isinstance(number, float)
                assert number >= 0
                assert number <= 1 or unit == "ratio" or column.endswith("_seconds")


NETWORKS = "A|B|C|D|Inception-v3|ResNet-v2-101|(?:Ens-adv-)?Inception-ResNet-v2"
ROW = re.compile(
    rf"(?:(?:{NETWORKS})/)?(?:um|at|at2l|(?:thermometer|rand|defense-gan)(?:-tr)?)"
    r"(?:/(?P<training>[a-z]+))?(?:/(?P<rounds>\d+))?"
)


@pytest.mark.parametrize("target", AT2L)
def test_a_table_of_at2l_is_whole(target):
    ((dataset, (columns, steps, rows, unit)),) = panels(target).items()
    settings = paper.settings(target)
    assert settings.get("dataset", "imagenet") == dataset
    assert set(columns) <= {"clean", "ls_pga", *ATTACKS}
    assert set(steps) == {None}
    assert len(set(columns)) == len(columns) == len(steps)
    assert unit == "error_percent"
    for row, numbers in rows.items():
        assert len(numbers) == len(columns)
        assert all(0 <= number <= 100 for number in numbers if number is not None)
        assert None not in numbers or (target == "at2l/app-table17" and not row.endswith("/um"))
    parts = [ROW.fullmatch(row) for row in rows]
    assert {int(p["rounds"]) for p in parts if p["rounds"]} == set(settings.get("rounds", ()))
    trained = {part["training"] for part in parts if part["training"]}
    sets = settings.get("trained_with", {})
    assert trained <= set(sets) | {attack for attacks in sets.values() for attack in attacks}
    assert trained >= set(sets)


@pytest.mark.parametrize(("dataset", "tables"), BY_DATASET.items())
def test_figures_of_at2l_and_their_tables_have_the_same_settings(dataset, tables):
    for figure, table in zip((1, 2), tables, strict=True):
        kept = paper.settings(f"at2l/fig{figure}")
        assert paper.settings(f"at2l/app-table{table}") == kept[dataset] | {
            "dataset": dataset,
            "rounds": [1, 10],
            **{key: kept[key] for key in ("epsilon", "bim", "ill", "cw", "trained_with")},
        }


@pytest.mark.parametrize("target", [*TABLES, *FIGURES, *AT2L, *AT2L_OTHERS])
def test_settings_and_notes(target):
    short, _, name = target.partition("/")
    apart, kind, number = re.fullmatch(r"(supp-|app-)?(table|fig)(\d+)", name).groups()
    kind = {"table": "Table", "fig": "Figure"}[kind]
    match = re.fullmatch(rf"{AUTHORS[short]}{kind} {number}", paper.source(target))
    assert bool(match[1]) == bool(apart)
    assert all(isinstance(note, str) and note.strip() == note for note in paper.notes(target))
    for key, value in leaves(paper.settings(target)):
        if key in ("epsilon", "radius", "step", "l0", "train_adversarial_share"):
            assert Fraction(value) > 0
            assert isinstance(value, str)
        assert key != "dataset" or value in DATASETS
        # AT2L's figure 3 has the regulariser alone, which is no method of ours.
        assert key != "methods" or set(value) <= {"tr", *METHODS}


@pytest.mark.parametrize("dataset", SETS[:3])
def test_names_and_steps_of_table_1_are_those_of_evaluation(dataset):
    columns, steps, *_ = paper.panel("tla/table1", dataset)
    assert columns[:2] == ("clean", "fgsm")
    assert set(columns[2:]) <= set(STEPPED)
    recipe = load_recipe(f"{dataset}-tla")
    assert recipe.eval_steps == dict(zip(columns[2:], steps[2:], strict=True))
    assert str(recipe.epsilon) == paper.settings("tla/table1")[dataset]["epsilon"]


def test_table_2_is_what_its_benchmark_shows():
    rows = paper.panel("tla/table2", "cifar10").rows
    assert {int(size): numbers[:2] for size, numbers in rows.items()} == table2.PAPER
