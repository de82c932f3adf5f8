"""The TLA paper's numbers and settings against its text, row by row."""

import re
from fractions import Fraction

import pytest
from paper_texts import assert_printed, assert_quoted, running, text

pytest.importorskip("yaml", reason="the papers' numbers are YAML files: extra [train]")

from tla_ops.experiments import paper

MAIN, SUPPLEMENT, REBUTTAL = "tla.txt", "tla-supplement.txt", "tla-rebuttal.txt"
NUMBER = r"\d+(?:\.\d+)?%?"
SETS = {"MNIST": "mnist", "CIFAR-10": "cifar10", "Tiny-ImageNet": "tiny-imagenet"}
# Where a table begins and ends, and what stands before its column headings.
PLACES = {
    "tla/table1": (MAIN, "MNIST\n\nAttacks", "Table 1:", "Attacks"),
    "tla/table2": (MAIN, "Mini-Batch TT", "shown in bold", ""),
    "tla/table3": (MAIN, r"MNIST \(LeNet\)", "Table 3:", "Attacks"),
    "tla/table4": (MAIN, r"MNIST \(MLP\)", "Table 4:", "Attacks"),
    "tla/table5": (MAIN, "Dataset MNIST CIFAR-10 Tiny ImageNet", "Table 5:", None),
    "tla/table6": (MAIN, "Dataset MNIST CIFAR-10 Tiny-ImageNet", "Table 6:", "Type"),
    "tla/supp-table3": (SUPPLEMENT, "Dataset MNIST", "D TLA", None),
    "tla/supp-table4": (SUPPLEMENT, "Table 4:", "F Visualization", "λ"),
    "tla/supp-table5": (SUPPLEMENT, "Table 5:", "Table 6:", "α"),
    "tla/supp-table6": (SUPPLEMENT, "Table 6:", "Nearest Neighbor", "Representation Layer"),
}
HEADINGS = {
    "fgsm": "FGSM", "bim": "BIM", "cw": "C&W", "pgd": "PGD", "pgd_long": "PGD", "pgd20r": "20PGD",
    "mim": "MIM", "transfer": "BB", "jsma": "JSMA", "pgd_l2": "PGD", "cw_l2": "C&W",
    "deepfool": "DeeoFool", "adversarial": "Adv", "mini_batch_seconds": "Mini-Batch TT",
    "total_seconds": "Total TT",
}  # fmt: skip


def between(name, start, end):
    """The one passage from a line that starts so to a line that starts so."""
    (found,) = re.findall(rf"^\s?({start}.*?)^\s?{end}", text(name), re.MULTILINE | re.DOTALL)
    return found


def printed_table(target):
    return between(*PLACES[target][:3])


def printed_rows(table, label="UM|AT|ALP|TLA-RN|TLA-SA|TLA"):
    """(label, numbers as text) of every line that ends in a row's label and numbers alone; before
    it there may be letters of the heading that stands upright at the side.
    """
    pattern = rf"(?:.*? )??({label})((?: {NUMBER})+)"
    lines = (re.fullmatch(pattern, line.strip()) for line in table.splitlines())
    return [(line[1], line[2].split()) for line in lines if line]


def rows_of(target):
    return printed_rows(printed_table(target), *([r"\d+"] if target == "tla/table2" else []))


def blocks(target):
    """The panels that share the table's lines: all side by side, but for Table 1's, which stand
    one above the other.
    """
    panels = [panel for dataset in SETS.values() if (panel := paper.panel(target, dataset))]
    return [[panel] for panel in panels] if target == "tla/table1" else [panels]


def joined(block, get):
    return [item for panel in block for item in get(panel)]


@pytest.mark.parametrize("target", PLACES)
def test_every_row_is_as_printed(target):
    kept = [
        (row.upper(), joined(block, lambda panel, row=row: panel.rows[row]))
        for block in blocks(target)
        for row in dict.fromkeys(joined(block, lambda panel: panel.rows))
    ]
    printed = [(row, [float(n.rstrip("%")) for n in numbers]) for row, numbers in rows_of(target)]
    assert printed == kept


@pytest.mark.parametrize("target", PLACES)
def test_units_are_as_printed(target):
    (unit,) = {panel.unit for block in blocks(target) for panel in block}
    unmarked = {"percent": 0, "mixed": 2, "ratio": None}[unit]
    for _, numbers in rows_of(target):
        assert [n for n in numbers if not n.endswith("%") and n != "21.99"] == numbers[:unmarked]


@pytest.mark.parametrize("target", PLACES)
def test_data_sets_are_in_the_printed_order(target):
    found = re.findall("MNIST|CIFAR|Tiny", printed_table(target), re.IGNORECASE)
    printed = dict.fromkeys(name.lower() for name in found)
    kept = [name.lower() for name, key in SETS.items() if paper.panel(target, key)]
    assert list(printed) == [re.match("[a-z]+", name)[0] for name in kept]


@pytest.mark.parametrize(
    "target", [target for target, place in PLACES.items() if place[3] is not None]
)
def test_columns_are_in_the_printed_order(target):
    lines = [
        re.sub(r" ?\([^)]*\)", "", line).strip() for line in printed_table(target).splitlines()
    ]
    for block in blocks(target):
        columns = joined(block, lambda panel: panel.columns)
        heading = " ".join(HEADINGS.get(c, c if c[0].isdigit() else c.title()) for c in columns)
        assert lines.count(f"{PLACES[target][3]} {heading}".strip()) == len(blocks(target))


@pytest.mark.parametrize("target", ["tla/table5", "tla/supp-table3"])
def test_radii_are_as_printed(target):
    found = re.findall(r"L∞ = ([\d.]+)(\s+255\b)?", printed_table(target))
    printed = [Fraction(number) / (255 if level else 1) for number, level in found]
    assert printed == joined(blocks(target)[0], lambda panel: map(Fraction, panel.columns))


@pytest.mark.parametrize("target", ["tla/table1", "tla/table2", "tla/table4"])
def test_steps_are_as_printed(target):
    table = printed_table(target)
    if target == "tla/table2":
        lines = [[None] * 3 + re.findall(r"\((\d+)\)", table)]
    else:
        lines = re.findall(r"^\(?Steps\)? (.*)$", table, re.MULTILINE)
        lines = [line.replace("(", "").replace(")", "").split() for line in lines]
    printed = [[int(n) if n not in (None, "-") else None for n in line] for line in lines]
    assert printed == [joined(block, lambda panel: panel.steps) for block in blocks(target)]


def test_the_rebuttals_table_differs_as_noted():
    rows = dict(printed_rows(between(REBUTTAL, r"MNIST \(MLP\)", "Gap between")))
    assert list(rows) == ["UM", "AT", "ALP", "TLA"]
    mlp, convnet = (paper.panel("tla/table4", dataset).rows for dataset in ("mnist", "cifar10"))
    for label, numbers in rows.items():
        numbers = [number.rstrip("%") for number in numbers]
        assert tuple(map(float, numbers[:5])) == mlp[label.lower()]
        same = tuple(map(float, numbers[5:])) == convnet[label.lower()]
        assert same == (label in ("UM", "ALP"))
        row = f"{label} {', '.join(numbers[5:])}"
        assert same or any(row in note for note in paper.notes("tla/table4"))


def test_the_rebuttals_other_table_is_the_same():
    rows = printed_rows(between(REBUTTAL, r"MNIST \(LeNet\)", "Figure 3"))
    assert len(rows) == 3
    assert rows == rows_of("tla/table3")


DETECTION = (
    r"level . = ([\d./]+?)(?:/1)?\((\d+) steps\) for MNIST, . = (\S+?)\((\d+) steps\) for "
    r"CIFAR-10, and . = (\S+?)\((\d+) steps\) for Tiny-ImageNet"
)
BOUNDS = r"\(L∞ = ?([\d./]+)\)"


def detection(which):
    return " ".join(
        f"{name}.{which}.{key}" for name in SETS.values() for key in ("epsilon", "steps")
    )


# A pattern of the text, and the settings of a target that its groups are; "255*" where the paper
# prints levels of 0 to 255, "1/1000*" where it prints thousands.
PRINTED = [
    (MAIN, rf"attacks on MNIST {BOUNDS}, CIFAR-10 {BOUNDS}, and Tiny-ImageNet {BOUNDS}",
     "tla/table1", "mnist.epsilon cifar10.epsilon tiny-imagenet.epsilon"),
    *((MAIN, r"random restart of (\d+) time and (\d+) times", "tla/table1",
       f"restarts.{a} restarts.pgd20r") for a in ("pgd", "pgd_long")),
    (MAIN, rf"adversarial robustness {BOUNDS} on CIFAR-10", "tla/table2", "epsilon"),
    (SUPPLEMENT, r"We train all the models with a batch size of (\d+)", "tla/table2", "batch"),
    (MAIN, r"L0 = ([\d.]+) and L0 = ([\d.]+) bound for JSMA on MNIST and CIFAR-10", "tla/table3",
     "mnist.jsma.l0 cifar10.jsma.l0"),
    (MAIN, r"bound as L2 = (\d+) and L2 = (\d+) on MNIST and CIFAR-10", "tla/table3",
     "mnist.pgd_l2.radius 255*cifar10.pgd_l2.radius"),
    (MAIN, r"bound as L2 = (\d+) and L2 = (\d+) on MNIST and CIFAR-10", "tla/table3",
     "mnist.cw_l2.radius 255*cifar10.cw_l2.radius"),
    *((MAIN, r"(\d+) steps of PGD and C&W on MNIST with step size ([\d.]+), and (\d+) steps of PGD "
       r"and C&W on CIFAR-10 with step size (\d+)", "tla/table3",
       f"mnist.{a}.steps mnist.{a}.step cifar10.{a}.steps 255*cifar10.{a}.step")
      for a in ("pgd_l2", "cw_l2")),
    *((MAIN, r"(\d+) steps for DeepFool attack for both dataset", "tla/table3",
       f"{name}.deepfool.steps") for name in ("mnist", "cifar10")),
    (MAIN, r"only run (\d+) test samples on CIFAR-10", "tla/table3", "cifar10.jsma.images"),
    (MAIN, r"MNIST \((LeNet)\) CIFAR-10 \((WRN)\)", "tla/table3", "mnist.model cifar10.model"),
    (MAIN, r"MNIST \((MLP)\) Cifar10 \((ConvNet)\)", "tla/table4", "mnist.model cifar10.model"),
    (MAIN, rf"attacks on MNIST {BOUNDS} and Cifar10 {BOUNDS}\. Overall", "tla/table4",
     "mnist.epsilon cifar10.epsilon"),
    (MAIN, r"perturbation levels of (\w+) attacks for all the models", "tla/table5", "attack"),
    (MAIN, r"Neighbors classifier with K = (\d+)", "tla/table6", "k"),
    (MAIN, r"(\d+) adversarial examples crafted from 1000 natural .* true class is “(\w+)\.” .* "
     r"further show (\d+) randomly sampled natural deer", "tla/fig1", "adversarial class clean"),
    (MAIN, r"(\d+) randomly sampled natural images from “bird\" and “truck” classes .* adversarial "
     r"\(adv\) (\w+) images but mispredicted as “(\w+)\.”", "tla/fig2", "clean class taken_for"),
    (MAIN, r"AT retrieves false “(\w+)\" images", "tla/fig4", "taken_for"),
    (MAIN, rf"half clean and half .* perturbation {DETECTION}\), and then", "tla/fig5",
     detection("train")),
    (MAIN, rf"natural test images and 10k .* perturbation {DETECTION}\)\. The", "tla/fig5",
     detection("test")),
    (MAIN, r"images on (\d+)k clean images and (\d+)k adver- sarial images", "tla/fig5",
     "1/1000*test_images.clean 1/1000*test_images.adversarial"),
    *((SUPPLEMENT, r"(\d+) adversarial examples crafted from 1000 clean .* further show (\d+) "
       r"randomly", f"tla/supp-fig{n}", "adversarial clean") for n in (1, 2, 3)),
    (SUPPLEMENT, r"are (\d+) randomly sampled natural .* perturbed ”(\w+)” images but mispredicted "
     r"as ”(\w+)”", "tla/supp-fig4", "clean class taken_for"),
    *((SUPPLEMENT, rf"Figure {n}: Same as Fig 4 except the two classes are ”(\w+)” and ”(\w+)”",
       f"tla/supp-fig{n}", "class taken_for") for n in (5, 6)),
    *((SUPPLEMENT, rf"Table {n}: .*? under (\d+) steps of (PGD)", f"tla/supp-table{n}",
       "steps attack") for n in (4, 5, 6)),
    (SUPPLEMENT, r"with λ1 = (\d+) when model is trained", "tla/supp-table5", "weight"),
    (SUPPLEMENT, r"All the models using λ1 = (\d+)\.", "tla/supp-table6", "weight"),
    *((MAIN, r"adopt the L∞ = ([\d.]+) bounded attack during the training and evaluation",
       f"tla/supp-table{n}", "epsilon") for n in (4, 5, 6)),
    (SUPPLEMENT, r"querying about a \"(\w+)\" on models", "tla/supp-fig7", "class"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pattern", "target", "keys"), PRINTED)
def test_settings_are_as_printed(name, pattern, target, keys):
    assert_printed(name, pattern, paper.settings(target), keys)


def test_gains_in_auc_are_as_printed():
    pattern = r"AUC score by up to (\S+)%, (\S+)%, and (\S+)% on MNIST, CIFAR-10, and Tiny ImageNet"
    (printed,) = re.findall(pattern, running(MAIN))
    kept = [paper.panel("tla/fig5", dataset).rows["tla"] for dataset in SETS.values()]
    assert [(float(number),) for number in printed] == kept


def test_figures_5_and_6_are_otherwise_as_figure_4():
    first = paper.settings("tla/supp-fig4")
    for number in (5, 6):
        settings = paper.settings(f"tla/supp-fig{number}")
        assert first == settings | {key: first[key] for key in ("class", "taken_for")}


def test_classes_are_those_of_figure_1():
    (legend,) = re.findall(r"deer\(adv\) ((?:\w+ ){8}truck)", running(MAIN))
    for number in (1, 2, 3):
        assert paper.settings(f"tla/supp-fig{number}")["classes"] == legend.split()


def test_quotations_in_notes_are_the_papers_words():
    targets = [target for target in paper.targets() if target.startswith("tla/")]
    notes = [note for target in targets for note in paper.notes(target)]
    assert_quoted([MAIN, SUPPLEMENT], notes, 16)
