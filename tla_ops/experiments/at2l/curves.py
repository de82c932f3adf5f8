"""Figures 1 to 3: error rates after each round of adversarial training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tla_ops.experiments import paper
from tla_ops.experiments.at2l import ensemble
from tla_ops.experiments.at2l.curves_figure import Line, Panel, curves_figure
from tla_ops.experiments.at2l.ensemble import Ensemble
from tla_ops.experiments.at2l.names import ATTACKS, METHODS
from tla_ops.experiments.lab import Lab, Setting
from tla_ops.experiments.style import save
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Drawing, Result
from tla_ops.experiments.targets import TARGETS

SETS = ("gradient", "optimization", "mixed")
SHORT = {"gradient": "-Gra", "optimization": "-Opt", "mixed": "-Mix"}
TABLES = {
    ("cats-vs-dogs", True): "app-table4",
    ("cats-vs-dogs", False): "app-table5",
    ("mnist", True): "app-table7",
    ("mnist", False): "app-table8",
    ("cifar10", True): "app-table9",
    ("cifar10", False): "app-table10",
}
"""Where the appendix prints the first and the last point of curves of an attack that is known or
not."""
ROUNDS = 10
"""Of Algorithm 2: the tables' last; figures are without an axis in the text."""
ALONE = (
    "Algorithm 1 against FGSM. The paper prints neither the figure's data set nor its network nor "
    "its weights: MNIST's weights, and a network A of its Table 6, are chosen here. The "
    "regulariser alone is added to the cross entropy of clean images."
)
MARKS = (
    "Hollow squares (adversarial training) and diamonds (AT2L): the paper's, where its appendix "
    "prints them."
)


def run(lab: Lab, figure: str) -> Result:
    """``figure``: "fig1", "fig2" or "fig3"."""
    name = f"at2l/{figure}"
    said = paper.settings(name)
    tables, panels, notes = [], [], []
    for setting in lab.settings(TARGETS[name].datasets):
        setup = alone(setting) if figure == "fig3" else ensemble.ensemble(name, setting.paper)
        against = SETS if figure != "fig3" else ("fgsm",)
        for attack in said["attacks"]:
            table, panel = curves(lab, setting, setup, attack, said["methods"], against)
            tables.append(table)
            panels.append(panel)
        notes += ensemble.stand_ins(setting, setup)

    def draw(path: Any, footnote: str) -> None:
        save(curves_figure(panels, footnote), path)

    caption = f"{TARGETS[name].title}. {MARKS if figure != 'fig3' else ''}".strip()
    alt = "Error rates over rounds of training, in panels: " + "; ".join(
        panel.title for panel in panels
    )
    return Result(tables, [Drawing(figure, caption, alt, draw)], notes=notes)


def alone(setting: Setting) -> Ensemble:
    """Figure 3, whose data set and network the paper does not print: Algorithm 1 of network A, with
    the weights for MNIST.
    """
    like = ensemble.ensemble("at2l/fig1", "mnist")
    return like._replace(
        members=("A",), network="A", attacked="A", known=True,
        trained_with={"fgsm": ["fgsm"]}, confused_class=True,
    )  # fmt: skip


def curves(
    lab: Lab,
    setting: Setting,
    setup: Ensemble,
    attack: str,
    methods: Sequence[str],
    against: Sequence[str],
) -> tuple[Table, Panel]:
    """Errors under one attack, a line for each method and set of attacks trained with."""
    last = lab.budget.rounds if lab.budget.rounds is not None else ROUNDS
    target = f"at2l/{TABLES.get((setting.paper, setup.known))}" if len(against) > 1 else ""
    rows, lines, effort = {}, [], ""
    for name in against:
        for method in methods:
            models = ensemble.trained_in_rounds(lab, setting, setup, method, name, last)
            cells = []
            for number, model in enumerate(models):
                found = ensemble.errors(lab, setting, setup, model, attack)
                effort = found.threat.effort()
                printed = None
                if target:
                    row = f"{method}/{name}/{number}"
                    printed = paper.value(target, setting.paper, row, attack)
                    if number == 0 and setup.known:
                        printed = ensemble.printed_before(setting, attack)
                cells.append(Cell(found.error, printed, found.spread))
            title = METHODS[method] + SHORT.get(name, "")
            rows[title] = cells
            marks = {n: c.paper for n, c in enumerate(cells) if c.paper is not None}
            lines.append(Line(title, method, name, [c.value for c in cells], marks))
    title = f"{ATTACKS[attack]}: {ensemble.heading(lab, setting, (attack,))}"
    notes = [f"Column: round of training, 0 before. {ATTACKS[attack]}: {effort}.",
             *ensemble.how(lab, setting, setup, (attack,))]  # fmt: skip
    if not target:
        notes.append(ALONE)
    columns = [Column(str(number), "Round", "", "error", "min") for number in range(last + 1)]
    table = Table(title, "Method", columns, rows, notes=notes)
    where = f"{ensemble.named(setting)}, {ATTACKS[attack]}"
    return table, Panel(where, lines)
