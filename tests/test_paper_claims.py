"""What notes say of the papers' numbers: sums, comparisons, and claims that do not follow."""

import re
from fractions import Fraction

import pytest

pytest.importorskip("yaml", reason="the papers' numbers are YAML files: extra [train]")

from tla_ops.experiments import paper

SETS = ("mnist", "cifar10", "tiny-imagenet", "cats-vs-dogs", "imagenet")

DECIMAL = r"(\d+\.\d+)"
DIFFERENCE, COMPARISON = rf"{DECIMAL} - {DECIMAL} = {DECIMAL}", rf"{DECIMAL} ([<>]) {DECIMAL}"


def targets(short):
    return [target for target in paper.targets() if target.startswith(f"{short}/")]


def panels(target):
    found = {dataset: paper.panel(target, dataset) for dataset in SETS}
    return {dataset: panel for dataset, panel in found.items() if panel}


@pytest.mark.parametrize(("short", "at_least"), [("tla", 41), ("at2l", 50)])
def test_sums_and_comparisons_in_notes(short, at_least):
    """Every "a - b = c" and "a > b" is true, of numbers that a table has."""
    printed = {
        n
        for t in targets(short)
        for p in panels(t).values()
        for row in p.rows.values()
        for n in row
    }
    count = 0
    for note in (note for target in targets(short) for note in paper.notes(target)):
        for a, b, c in re.findall(DIFFERENCE, note):
            assert Fraction(a) - Fraction(b) == Fraction(c), note
            assert {float(a), float(b)} <= printed, note
            count += 1
        for a, sign, b in re.findall(COMPARISON, note):
            assert (float(a) < float(b)) == (sign == "<"), note
            assert float(a) != float(b), note
            assert {float(a), float(b)} <= printed, note
            count += 1
        assert not re.search("[=<>]", re.sub(f"{DIFFERENCE}|{COMPARISON}", "", note)), note
    assert count >= at_least


# TLA


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


# AT2L

BETTER = {"at": "at2l"} | {name: f"{name}-tr" for name in ("thermometer", "rand", "defense-gan")}


def cells(target):
    """Every cell that is printed, by (row, column)."""
    (found,) = panels(target).values()
    return {
        (row, column): number
        for row, numbers in found.rows.items()
        for column, number in zip(found.columns, numbers, strict=True)
        if number is not None
    }


def notes(target):
    return " ".join(paper.notes(target))


@pytest.mark.parametrize("target", [t for t in targets("at2l") if "table" in t and panels(t)])
def test_where_the_triplet_loss_does_worse_is_noted(target):
    """Every cell in which the paper's "better" and "further improve" do not hold."""
    kept, worse = cells(target), []
    pairs = 0
    for (row, column), plain in kept.items():
        for method, triplet in BETTER.items():
            other = re.sub(rf"(^|/){method}(?=/|$)", rf"\1{triplet}", row)
            if other != row:
                pairs += 1
                if kept.get((other, column), plain) > plain:
                    worse.append(f"{kept[other, column]} > {plain}")
    assert pairs
    for comparison in worse:
        assert worse.count(comparison) <= notes(target).count(comparison)
    for count, of in re.findall(r"[Ii]n (\d+) of (\d+) cells (?:its|AT2L's) error", notes(target)):
        assert (int(count), int(of)) == (len(worse), pairs)


@pytest.mark.parametrize("target", targets("at2l"))
def test_other_numbers_in_notes_are_the_targets_own(target):
    """Those of its cells and settings; what is quoted, and sums and comparisons, are tested
    elsewhere.
    """
    own = {str(n) for p in panels(target).values() for row in p.rows.values() for n in row}
    own |= set(re.findall(DECIMAL, str(paper.settings(target))))
    for epsilon in filter(None, [paper.settings(target).get("epsilon")]):
        own.add(str(float(Fraction(epsilon))))
    others = re.sub(rf'"[^"]*"|[Ss]ection \d\.\d|{DIFFERENCE}|{COMPARISON}', "", notes(target))
    # An accuracy's error, which the last test adds up.
    assert set(re.findall(DECIMAL, others)) <= own | {"8.8"}


KNOWN = [(4, 5), (7, 8), (9, 10)]  # the table of the known attack, and of the unknown


@pytest.mark.parametrize(("known", "unknown"), KNOWN)
def test_the_unknown_attack_beside_the_known_is_as_noted(known, unknown):
    first, second = (cells(f"at2l/app-table{n}") for n in (known, unknown))
    assert list(first) == list(second)
    easier = sum(second[key] < first[key] for key in first)
    pattern = rf"in (\d+) of (\d+) cells the error is below that of Table {known}"
    ((count, of),) = re.findall(pattern, notes(f"at2l/app-table{unknown}").replace("In", "in"))
    assert (int(count), int(of)) == (easier, len(first))


def test_the_largest_differences_of_known_and_unknown_attacks_are_those_noted():
    pairs = {b: (cells(f"at2l/app-table{a}"), cells(f"at2l/app-table{b}")) for a, b in KNOWN}
    fgsm = max(b[key] - a[key] for a, b in pairs.values() for key in a if key[1] == "fgsm")
    assert f"= {fgsm:.1f}" in notes("at2l/fig2")
    a, b = pairs[10]
    assert f"= {max(b[key] - a[key] for key in a):.1f}" in notes("at2l/app-table10")


@pytest.mark.parametrize("number", [9, 10])
@pytest.mark.parametrize("rounds", [1, 10])
@pytest.mark.parametrize(("attack", "own"), [("fgsm", "gradient"), ("cw", "optimization")])
def test_on_cifar10_mixed_training_is_never_best_as_noted(number, rounds, attack, own):
    kept = cells(f"at2l/app-table{number}")
    mixed, best = (kept[f"at2l/{name}/{rounds}", attack] for name in ("mixed", own))
    assert best < mixed
    assert f"{best} < {mixed}" in notes("at2l/app-table9")


def test_table_3_is_part_of_the_appendixs_table_17():
    assert cells("at2l/table3").items() <= cells("at2l/app-table17").items()


def test_the_clean_error_noted_of_cats_and_dogs():
    accuracy = paper.settings("at2l/app-table4")["clean_accuracy_percent"]
    assert f"{100 - accuracy:.1f} by the accuracy of {accuracy}%" in notes("at2l/app-table4")
    assert cells("at2l/app-table4")["at2l/gradient/10", "fgsm"] < 100 - accuracy
