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
    """The paper's table; errors on clean images, which the paper has in words; and how far C&W has
    to go.
    """
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
    start = ensemble.pretrained(lab, setting, setup.network)
    before = {head: ensemble.errors(lab, setting, setup, start, head[0]) for head in heads}
    found = {f"{setup.network} {BEFORE}": before}
    for name in against:
        models = {
            method: ensemble.trained_in_rounds(lab, setting, setup, method, name, max(looked_at))
            for method in TABLED
        }
        found[TRAINED_WITH[name]] = {
            (attack, method, number): ensemble.errors(
                lab, setting, setup, models[method][number], attack
            )
            for attack, method, number in heads
        }
    names = dict(zip(found, ["", *against], strict=True))

    def errors(*wanted: str) -> tuple[list[Column], dict[str, list[Cell]]]:
        chosen = [head for head in heads if head[0] in wanted]
        columns = [
            Column(f"{METHODS[method]} ({number})", ATTACKS[attack],
                   before[attack, method, number].threat.effort(), "error", "min")
            for attack, method, number in chosen
        ]  # fmt: skip
        rows = {}
        for row, cells in found.items():
            rows[row] = [
                Cell(
                    cells[head].error,
                    _printed(
                        setting, target, names[row], head[0], head[1], beside[head[2]], setup.known
                    ),
                    cells[head].spread,
                )
                for head in chosen
            ]
        return columns, rows

    notes = ["In brackets: rounds of adversarial training.",
             *ensemble.how(lab, setting, setup, attacks)]  # fmt: skip
    if looked_at != said["rounds"]:
        notes.append(
            f"The paper's numbers are of {' and '.join(map(str, said['rounds']))} rounds, ours of "
            f"{' and '.join(map(str, looked_at))}."
        )
    title = f"{'Known' if setup.known else 'Unknown'} attack: {ensemble.heading(lab, setting)}"
    where = ensemble.named(setting)
    tables = [
        Table(title, "Trained with", *errors(*attacks[:-1]), notes=notes),
        Table(f"On clean images: {where}", "Trained with", *errors("clean")),
    ]
    if setup.known and "cw" in attacks:
        chosen = [head for head in heads if head[0] == "cw"]
        tables.append(
            Table(
                f"Largest change of a pixel by C&W, mean: {where}", "Trained with",
                [Column(f"{METHODS[method]} ({number})", kind="number", best="max")
                 for _, method, number in chosen],
                {row: [Cell(cells[head].change) for head in chosen] for row, cells in
                 found.items()},
                notes=["Images that are misclassified as they are count with 0."],
            )
        )  # fmt: skip
    return tables


def _printed(
    setting: Setting,
    target: str,
    against: str,
    attack: str,
    method: str,
    number: int,
    known: bool,
) -> float | None:
    """The paper's number; of the network before the first round, what it says in words."""
    if against:
        return paper.value(target, setting.paper, f"{method}/{against}/{number}", attack)
    if attack == "clean":
        right = paper.settings(target).get("clean_accuracy_percent")
        return None if right is None else round(1 - right / 100, 6)
    return ensemble.printed_before(setting, attack) if known else None
