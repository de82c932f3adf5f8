"""The papers' printed numbers: the loader, the files' structure, and the arithmetic of notes."""

import re
from fractions import Fraction

import pytest

pytest.importorskip("yaml", reason="the papers' numbers are YAML files: extra [train]")

from tla_ops.experiments import paper, table2
from tla_ops.training.data import DATASETS
from tla_ops.training.recipe import METHODS, STEPPED, load_recipe

SETS = ("mnist", "cifar10", "tiny-imagenet")
TABLES = [f"tla/table{n}" for n in range(1, 7)] + [f"tla/supp-table{n}" for n in range(3, 7)]
FIGURES = [f"tla/fig{n}" for n in (1, 2, 4, 5)] + [f"tla/supp-fig{n}" for n in range(1, 9)]
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
    assert paper.source("tla/supp-table3") == "Mao et al. 2019, supplement, Table 3"


def test_what_the_paper_lacks_is_none():
    assert paper.panel("tla/table2", "mnist") is None
    assert paper.panel("tla/fig1", "cifar10") is None
    assert paper.panel("tla/table1", "digits") is None
    assert paper.value("tla/table1", "digits", "tla", "clean") is None
    assert paper.value("tla/table1", "mnist", "trades", "clean") is None
    assert paper.value("tla/table1", "mnist", "tla", "autoattack") is None
    assert paper.notes("tla/supp-fig4") == ()
    assert paper.settings("tla/supp-table3") == {}


@pytest.mark.parametrize(
    "target", ["tla/table7", "tla", "", "../paper/tla/table1", "nobody/table1"]
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
    assert {t for t in paper.targets() if t.startswith("tla/")} == set(TABLES + FIGURES)


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


@pytest.mark.parametrize("target", [*TABLES, *FIGURES])
def test_settings_and_notes(target):
    assert re.fullmatch(r"Mao et al\. 2019, (supplement, )?(Table|Figure) \d", paper.source(target))
    assert paper.source(target)[-1] == target[-1]
    assert all(isinstance(note, str) and note.strip() == note for note in paper.notes(target))
    for key, value in leaves(paper.settings(target)):
        if key in ("epsilon", "radius", "step", "l0", "train_adversarial_share"):
            assert Fraction(value) > 0
            assert isinstance(value, str)
        assert key != "dataset" or value in DATASETS


@pytest.mark.parametrize("dataset", SETS)
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


# claims


def test_sums_and_comparisons_in_notes():
    """Every "a - b = c" and "a > b" is true, of numbers that a table has."""
    printed = {
        n for t in TABLES for p in panels(t).values() for row in p.rows.values() for n in row
    }
    decimal = r"(\d+\.\d+)"
    difference, comparison = rf"{decimal} - {decimal} = {decimal}", rf"{decimal} ([<>]) {decimal}"
    count = 0
    for note in (note for target in [*TABLES, *FIGURES] for note in paper.notes(target)):
        for a, b, c in re.findall(difference, note):
            assert Fraction(a) - Fraction(b) == Fraction(c), note
            assert {float(a), float(b)} <= printed, note
            count += 1
        for a, sign, b in re.findall(comparison, note):
            assert (float(a) < float(b)) == (sign == "<"), note
            assert float(a) != float(b), note
            assert {float(a), float(b)} <= printed, note
            count += 1
        assert not re.search("[=<>]", re.sub(f"{difference}|{comparison}", "", note)), note
    assert count > 40


def test_table_2_beside_table_1_is_as_noted():
    columns, steps, rows, _ = paper.panel("tla/table2", "cifar10")
    other = paper.panel("tla/table1", "cifar10")
    places = list(zip(other.columns, other.steps, strict=True))
    # Table 2's PGD has 20 steps: Table 1's second.
    shared = [
        (i, places.index(("pgd_long" if name == "pgd" else name, step)))
        for i, (name, step) in enumerate(zip(columns, steps, strict=True))
        if not name.endswith("_seconds")
    ]
    assert len(shared) == 6
    assert all(rows["1"][i] == other.rows["tla-rn"][j] for i, j in shared)
    assert not any(row[i] == other.rows["tla"][j] for row in rows.values() for i, j in shared)


# What text and captions claim TLA to gain at most, and what it gains at most over the better of AT
# and ALP.
CLAIMS = [
    ("tla/table1", "mnist", "1.86", "1.90"),
    ("tla/table1", "cifar10", "4.12", "4.12"),
    ("tla/table1", "tiny-imagenet", "0.84", "0.84"),
    ("tla/table3", "mnist", "1.10", "0.77"),
    ("tla/table3", "cifar10", "13.1", "13.1"),
    ("tla/table4", "mnist", "4.27", "4.27"),
    ("tla/table4", "cifar10", "0.55", "0.50"),
]


@pytest.mark.parametrize(("target", "dataset", "claim", "largest"), CLAIMS)
def test_claims_that_do_not_follow_are_noted(target, dataset, claim, largest):
    columns, _, rows, _ = paper.panel(target, dataset)
    gains = [
        tla - max(at, alp)
        for column, at, alp, tla in zip(columns, rows["at"], rows["alp"], rows["tla"], strict=True)
        if column != "clean"
    ]
    assert f"{max(gains):.{len(largest.split('.')[1])}f}" == largest
    if claim != largest:
        assert any(f"{claim}%" in n and f"= {largest}" in n for n in paper.notes(target))
