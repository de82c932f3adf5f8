"""Tables 4, 5 and 7 to 10 of the appendix: Algorithm 2 under FGSM and C&W, attacks on a known
network or transferred from an unknown one.
"""

from __future__ import annotations

from tla_ops.experiments import paper
from tla_ops.experiments.at2l import ensemble
from tla_ops.experiments.at2l.ensemble import Ensemble
from tla_ops.experiments.at2l.names import ATTACKS, METHODS, TRAINED_WITH
from tla_ops.experiments.lab import Lab, Setting
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Result
from tla_ops.experiments.targets import TARGETS

KNOWN = "The attack is on the trained network itself, of structure {attacked}."
UNKNOWN = (
    "The images are made on a network {attacked}, of a structure that the ensemble lacks, trained "
    "on clean images alone."
)
CW = (
    "C&W is the l∞ attack without a bound on the change, and its error is the share of images for "
    "which it finds one."
)
TABLED = ("at", "at2l")
BEFORE = "before the first round"


def run(lab: Lab, table: str) -> Result:
    """``table``: "app-table4", 5, or 7 to 10."""
    name = f"at2l/{table}"
    tables, notes = [], []
    for setting in lab.settings(TARGETS[name].datasets):
        setup = ensemble.ensemble(name, setting.paper)
        tables += made(lab, setting, setup, name)
        notes += ensemble.stand_ins(setting, setup)
    return Result(tables, notes=notes)


def made(lab: Lab, setting: Setting, setup: Ensemble, target: str) -> list[Table]:
    """The paper's table, and errors on clean images, which the paper has in words."""
    said = paper.settings(target)
    printed = paper.panel(target, setting.paper)
    against = list(dict.fromkeys(row.split("/")[1] for row in printed.rows)) if printed else []
    looked_at = ensemble.numbers_of_rounds(lab, said["rounds"])
    # The last round that is run stands beside the last one that is printed.
    beside = {number: number if number in said["rounds"] else max(said["rounds"])
              for number in looked_at}  # fmt: skip
    attacks = [*(printed.columns if printed else ()), "clean"]
    heads = [(attack, method, number) for attack in attacks for method in TABLED
             for number in looked_at]  # fmt: skip
    efforts: dict[str, str] = {}

    def cell(model, attack, row=""):  # type: ignore[no-untyped-def]
        error, spread, threat = ensemble.errors(lab, setting, setup, model, attack)
        efforts[attack] = threat.within(lab.budget).effort()
        return Cell(error, paper.value(target, setting.paper, row, attack), spread)

    rows: dict[str, list[Cell]] = {}
    start = ensemble.pretrained(lab, setting, setup.network)
    rows[f"{setup.network} {BEFORE}"] = [cell(start, attack) for attack, _, _ in heads]
    for name in against:
        models = {
            method: ensemble.trained_in_rounds(lab, setting, setup, method, name, max(looked_at))
            for method in TABLED
        }
        rows[TRAINED_WITH[name]] = [
            cell(models[method][number], attack, f"{method}/{name}/{beside[number]}")
            for attack, method, number in heads
        ]
    columns = [
        Column(f"{METHODS[method]} ({number})", ATTACKS[attack], efforts[attack], "error", "min")
        for attack, method, number in heads
    ]
    how = (KNOWN if setup.known else UNKNOWN).format(attacked=setup.attacked)
    recipe = lab.recipe(setting.dataset, "at2l-round", *setup.weights)
    notes = [how, CW, f"{ensemble.ball(recipe)}. In brackets: rounds of adversarial training."]
    if looked_at != said["rounds"]:
        notes.append(
            f"The paper's numbers are of {' and '.join(map(str, said['rounds']))} rounds, ours of "
            f"{' and '.join(map(str, looked_at))}."
        )
    count = sum(attack != "clean" for attack, _, _ in heads)
    title = f"{'Known' if setup.known else 'Unknown'} attack: {ensemble.heading(lab, setting)}"
    return [
        Table(title, "Trained with", columns[:count],
              {row: cells[:count] for row, cells in rows.items()}, notes=notes),
        Table(f"On clean images: {ensemble.named(setting)}", "Trained with", columns[count:],
              {row: cells[count:] for row, cells in rows.items()}),
    ]  # fmt: skip
