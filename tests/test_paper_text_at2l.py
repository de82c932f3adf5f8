"""The AT2L paper's numbers and settings against its text, cell by cell."""

import re

import pytest
from paper_texts import assert_printed, assert_quoted, running, text

pytest.importorskip("yaml", reason="the papers' numbers are YAML files: extra [train]")

from tla_ops.experiments import paper

NAME = "at2l.txt"
SETS = {
    "MNIST": "mnist", "CIFAR10": "cifar10", "Cats vs. Dogs": "cats-vs-dogs", "ImageNet": "imagenet"
}  # fmt: skip
BY_ROUND = [f"at2l/app-table{n}" for n in (4, 5, 7, 8, 9, 10)]
THERMOMETER = ["at2l/table1", *(f"at2l/app-table{n}" for n in (11, 12, 13, 14))]
BY_NETWORK = ["at2l/table2", "at2l/table3", "at2l/app-table15", "at2l/app-table16"]
TABLES = [*BY_ROUND, *THERMOMETER, *BY_NETWORK, "at2l/app-table17"]
ROW = re.compile(r"^\s?([A-Za-z].*?)((?: \d+\.\d)+)\s*$", re.MULTILINE)
STARTS = re.compile(
    r"^(Attack (method|Model)|Ori Th|Models? (A|Inception)|A B C D)\b", re.MULTILINE
)
# What headings and labels say, in our words, in the order of replacement.
HEADINGS = [
    (r"Th\. En\. ?\+ ?(TR|Tri\. Reg)", "thermometer-tr"), (r"Th\. En\.", "thermometer"),
    (r"Rand ?\+ ?(TR|Tri\. Reg)", "rand-tr"), ("Rand", "rand"), (r"DG \+ TR", "defense-gan-tr"),
    ("DG", "defense-gan"), ("Ori", "um"), (r"Adv\. Train", "at"), ("AT2L", "at2l"),
    (r"\((\d+)\)", r"/\1"),
]  # fmt: skip
LABELS = {
    "Clean": "clean", "FGSM": "fgsm", "iter FGSM": "bim", "LL": "ll", "iter LL": "ill",
    "PGD/LS-PGA": "ls_pga", "Deepfool": "deepfool", "C&W": "cw", "Gradient-based": "gradient",
    "Optimization-based": "optimization", "Mixed": "mixed",
}  # fmt: skip


def number(target):
    return int(re.search(r"\d+$", target)[0])


def printed_table(target):
    """From its heading to its caption."""
    before, _ = text(NAME).split(f"\nTable {number(target)}: ")
    table = before[[match.start() for match in STARTS.finditer(before)][-1] :]
    assert not re.search(r"^Table \d+:", table, re.M)
    return table


def caption(target):
    """As far as the line that ends the paragraph."""
    _, after = text(NAME).split(f"\nTable {number(target)}: ")
    return " ".join(re.split(r"\n ?\n|\n (?=Figure)", after)[0].split())


def heading(table):
    """What stands before the numbers and their label, in our words."""
    words = " ".join(table[: ROW.search(table).start()].split())
    for pattern, replacement in HEADINGS:
        words = re.sub(pattern, replacement, words)
    return words


def rows(table):
    """(attack whose name stands alone above, label, numbers) of every line with numbers."""
    above = None
    for line in table.splitlines():
        match = ROW.fullmatch(line)
        if match:
            yield above, match[1], [float(number) for number in match[2].split()]
        above = LABELS.get(line.strip(), above)


def by_round(table):
    start = "Attack method Training method "
    words = heading(table)
    assert words.startswith(start)
    assert words.endswith(" FGSM")
    columns = [column.split("/") for column in words[len(start) : -len(" FGSM")].split()]
    for attack, training, numbers in rows(table):
        for (method, rounds), cell in zip(columns, numbers, strict=True):
            yield (f"{method}/{LABELS[training]}/{rounds}", attack), cell


def thermometer(table):
    for _, attack, numbers in rows(table):
        for method, cell in zip(heading(table).split(), numbers, strict=True):
            yield (method, LABELS[attack]), cell


def by_network(table):
    networks, methods = re.fullmatch(r"Models? (.*?) (um .*)", heading(table)).groups()
    count = len(methods.split()) // len(networks.split())
    each = [network for network in networks.split() for _ in range(count)]
    for _, attack, numbers in rows(table):
        for network, method, cell in zip(each, methods.split(), numbers, strict=True):
            yield (f"{network}/{method}", LABELS[attack]), cell


def defences(table):
    assert heading(table) == (
        "Attack Model No Attack No Defense Defense- GAN-Rec at at2l Defense- GAN-Rec + Tri. Reg "
        "FGSM"
    )
    methods = ["um", "um", "defense-gan", "at", "at2l", "defense-gan-tr"]
    for attack, network, numbers in rows(table):
        columns = ["clean", *[attack] * 5]
        for method, column, cell in zip(methods, columns, numbers, strict=True):
            yield (f"{network}/{method}", column), cell


def printed_cells(target):
    """By row and column of ours; a cell that is printed twice says the same twice."""
    layouts = [(BY_ROUND, by_round), (THERMOMETER, thermometer), (BY_NETWORK, by_network)]
    (read,) = [read for targets, read in layouts if target in targets] or [defences]
    table, cells, count = printed_table(target), {}, 0
    for key, cell in read(table):
        assert cells.setdefault(key, cell) == cell
        count += 1
    assert count == len(re.findall(r"\b\d+\.\d\b", table))
    return cells


def only_panel(target):
    (found,) = filter(None, (paper.panel(target, dataset) for dataset in SETS.values()))
    return found


@pytest.mark.parametrize("target", TABLES)
def test_every_cell_is_as_printed(target):
    columns, _, kept, _ = only_panel(target)
    assert printed_cells(target) == {
        (row, column): cell
        for row, numbers in kept.items()
        for column, cell in zip(columns, numbers, strict=True)
        if cell is not None
    }


@pytest.mark.parametrize("target", TABLES)
def test_captions(target):
    """The data set, the unit, the type of attack and the scenario; and the networks."""
    words, settings = caption(target), paper.settings(target)
    sets = [key for name, key in SETS.items() if name in words]
    assert sets == [key for key in SETS.values() if paper.panel(target, key)] or (
        not sets and any("The data set is not printed" in note for note in paper.notes(target))
    )
    assert only_panel(target).unit == "error_percent"
    assert "error rate" in words.lower()
    kind = re.search(r"(known|unknown) type of attack", words)
    assert settings.get("attack_type") == (kind and kind[1])
    kind = re.search(r"under the (\S+) attack scenario", words)
    assert settings.get("scenario") == (kind and kind[1])
    if target in BY_ROUND:
        pattern = r"We train over model (.*), and we test the error rate over model (\w+)\."
        trained, attacked = re.search(pattern, words).groups()
        assert attacked == settings["attacked"]
        same = re.split(", ?", trained) == settings["ensemble"]
        assert same == (target != "at2l/app-table5")
        assert same or any(f"{trained}" in note for note in paper.notes(target))


@pytest.mark.parametrize("target", ["at2l/app-table6", "at2l/app-table18"])
def test_networks_are_as_printed(target):
    """Line by line, from the left: a network that has ended leaves no gap in a line."""
    lines = [line.split() for line in printed_table(target).splitlines() if line.strip()]
    networks = paper.settings(target)["networks"]
    depth = max(map(len, networks.values()))
    kept = [[layers[i] for layers in networks.values() if i < len(layers)] for i in range(depth)]
    assert lines == [list(networks), *kept]


WEIGHTS = r"λ1 = (\S+), λ2 = (\S+), α = (\S+), and"
KEYS = "adversarial_weight weight margin"
# A pattern of the text, and the settings of a target that its groups are.
PRINTED = [
    (r"We set ǫ as ([\d.]+), which is the scale of FGSM, I-FGSM, LL and I- LL\.", "fig1",
     "epsilon"),
    *((r"I-FGSM and I-LL, we set the number of iteration as (\d+) and ǫ = ([\d.]+) for each",
       "fig1", f"{name}.steps {name}.step") for name in ("bim", "ill")),
    (r"max-iteration of C&W is set to be (\d+)\. The initial constant c is set to be (\S+) and the "
     r"largest value of c to go up to before giving up is (\d+)\. The rate at which we increase "
     r"constant is (\d+) and the learning rate of C&W attack is (\S+)\. ", "fig1",
     "cw.max_iter cw.initial_const cw.largest_const cw.const_factor cw.learning_rate"),
    *((rf"stable when(?: {name})? var(?:ies|ying) from ([\d.]+) to ([\d.]+?)(?=\.? {after})",
       "fig1", f"stable.{key}.0 stable.{key}.1") for name, key, after in [
           ("λ1", "adversarial_weight", "With"), ("λ2", "weight", "As"), ("α", "margin", "with")]),
    (r"upper line are attacked by (\w+) and figures of the bottom line are attacked by C&W", "fig1",
     "attacks.0"),
    (r"model structures we chose are (.*?50)\. Here", "fig1", "cats-vs-dogs.ensemble"),
    (r"to train an ensem- ble model over model (.*?50) when the original model f\(·\) is (\w+)\. "
     r"We then attack the model with the adversarial examples generated against model (\w+)\.",
     "fig1", "cats-vs-dogs.ensemble cats-vs-dogs.network cats-vs-dogs.attacked"),
    (r"to train the ensemble model over model (.*?50) when the original model f\(·\) is (\w+)\. We "
     r"then attack the model with the adversarial ex- amples generated against model (\w+) so",
     "fig2", "cats-vs-dogs.ensemble cats-vs-dogs.network cats-vs-dogs.attacked"),
    (r"each picture of this dataset is (\d+)x224x3", "fig1", "cats-vs-dogs.pixels"),
    (r"model over clean data is (\S+)%", "fig1", "cats-vs-dogs.clean_accuracy_percent"),
    (rf"{WEIGHTS} the results are shown in Figure 1,", "app-table4", KEYS),
    (r"set to be \[(A[^]]*)\]\) and then attack the model with the ad- versarial examples "
     r"generated against model (\w)\.", "fig1", "mnist.ensemble mnist.attacked"),
    (r"to be \[(A[^]]*)\]\) and then attack the model with the adversarial examples generated "
     r"against model (\w)\.", "fig2", "mnist.ensemble mnist.attacked"),
    (r"reaches up to (\S+)% accuracy\. The parameter k is (\d+), λ1 is (\S+), λ2 = (\S+) and α is "
     r"set to be (\S+)\. ", "fig1", "mnist.clean_accuracy_percent mnist.batch "
     "mnist.adversarial_weight mnist.weight mnist.margin"),
    (rf"{WEIGHTS} the results are shown in Figure 3,", "app-table7", KEYS),
    (r"to be \[(VGG[^]]*)\]\) and then attack the model with the adversarial examples generated "
     r"against model (\w+)\.", "fig1", "cifar10.ensemble cifar10.attacked"),
    (r"to train over models mentioned above without VGG16 and attack the model against (\w+)\.",
     "fig2", "cifar10.attacked"),
    (r"k = (\d+), α = (\S+), λ1 = (\S+), λ2 = (\S+)\. ", "fig1",
     "cifar10.batch cifar10.margin cifar10.adversarial_weight cifar10.weight"),
    (r"reaches up to (\S+)% and the accuracy", "fig1", "cifar10.clean_accuracy_percent"),
    (r"these are attacked by (\w+)\.", "fig2", "attacks.0"),
    (r"We use (\w+) to gen- erate adversarial examples for the training process and test the "
     r"robustness by the attack of (\w+)\.", "fig3", "trained_with.0 attacks.0"),
    *((rf"{WEIGHTS} the results are shown in Table 8-11", target.removeprefix("at2l/"), KEYS)
      for target in THERMOMETER),
    (r"and the results after (\d+) rounds of training", "table1", "rounds.1"),
    *((rf"{WEIGHTS} the results are shown in Ta- ble 12-13", target, KEYS)
      for target in ("table2", "app-table15", "app-table16")),
    *((rf"{WEIGHTS} Defense-GAN has L = (\d+) and R = (\d+)\.", target,
       f"{KEYS} projection.steps projection.restarts") for target in ("table3", "app-table17")),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "target", "keys"), PRINTED)
def test_settings_are_as_printed(pattern, target, keys):
    assert_printed(NAME, pattern, paper.settings(f"at2l/{target}"), keys)


def test_attacks_trained_with_are_as_printed():
    ours = {"FGSM": "fgsm", "LL": "ll", "I-FGSM": "bim", "I-LL": "ill", "C&W": "cw"}
    printed = re.findall(r"• (\w+)(?:-based)?: A = \{(.*?)\}\.", running(NAME))
    kept = paper.settings("at2l/fig1")["trained_with"]
    assert {
        name.lower(): [ours[attack] for attack in re.split(", ?", attacks)]
        for name, attacks in printed
    } == kept


def test_the_original_models_errors_are_as_printed():
    pattern = r"original model against FGSM is (\S+)% and that of the original model against C&W is"
    (fgsm, cw) = re.findall(pattern + r" (\S+)%", running(NAME))[0]
    assert paper.panel("at2l/fig1", "cifar10").rows == {"um": (float(fgsm), float(cw))}


def test_the_appendix_cites_three_less_as_noted():
    words, cited = running(NAME), []
    results = (
        r"results are shown in (Figure) (\d+), (Figure) (\d+), (Table) (\d+), and (Table) (\d+)\."
    )
    for subject, match in zip(
        ["Cats vs. Dogs", "MNIST", "CIFAR10"], re.findall(results, words), strict=True
    ):
        cited += [(kind, int(n), subject) for kind, n in zip(match[::2], match[1::2], strict=True)]
    ranges = re.findall(r"results are shown in Ta(?:- )?ble (\d+)-(\d+)", words)
    for subject, (first, last) in zip(["Thermometer", "scenario"], ranges, strict=True):
        cited += [("Table", n, subject) for n in range(int(first), int(last) + 1)]
    pattern = r"shown in Table (\d+) and the model structures are listed in Table (\d+)\."
    ((results, networks),) = re.findall(pattern, words)
    cited += [("Table", int(results), "defense strategies"), ("Table", int(networks), "substitute")]
    assert len(cited) == 20
    for kind, n, subject in cited:
        (start,) = re.findall(rf"{kind} {n + 3}: (.{{70,100}})", words)
        assert subject in start


def test_quotations_in_notes_are_the_papers_words():
    targets = [target for target in paper.targets() if target.startswith("at2l/")]
    notes = [note for target in targets for note in paper.notes(target)]
    assert_quoted([NAME], notes, 40)
