"""Table 2: the size of the mini-batch that negatives come from, its cost and its worth; for the
paper's flow, which forwards the candidates, and with a feature bank, which forwards nothing more.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tla_ops.experiments import paper, table2
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Result
from tla_ops.experiments.threat import from_recipe
from tla_ops.experiments.tla.blocks import heading, left_to_the_target
from tla_ops.experiments.tla.names import ATTACKS
from tla_ops.training.report import environment

NAME = "tla/table2"
FLOWS = {"paper": "The paper's flow", "bank": "A feature bank"}
ATTACKED = ("clean", "fgsm", "bim", "cw", "pgd", "mim")
NOTES = {
    "paper": "Candidates are an extra mini-batch that is forwarded: Mini-Batch TT is that, and the "
    "search among its features.",
    "bank": "Candidates are the features of clean images of earlier steps: Mini-Batch TT is the "
    "search alone. The paper has no such row; its numbers are those of its own flow.",
}
RANDOM = (
    "Size 1 is a random negative, TLA-RN, as in the paper. TT: training time of one iteration, on "
    "random images with one positive each, where CIFAR-10's recipe has the noisy source as another."
)


def run(lab: Lab) -> Result:
    left_to_the_target(lab, "candidates", "bank")
    tables, numbers = [], {}
    for setting in lab.settings(("cifar10",)):
        times = timed(lab, setting)
        numbers[setting.dataset] = times
        tables += [_table(lab, setting, flow, times) for flow in FLOWS]
    notes = [_slope(dataset, times) for dataset, times in numbers.items()]
    return Result(tables, numbers=numbers, notes=list(filter(None, notes)))


def sizes(lab: Lab, setting: Setting) -> list[int]:
    """The paper's sizes, or the budget's; at most as many as there are images to train on."""
    printed = paper.panel(NAME, setting.paper)
    wanted = lab.budget.negatives or [int(size) for size in (printed.rows if printed else ())]
    recipe = lab.recipe(setting.dataset, "tla")
    most = len(lab.dataset(setting.dataset).train) - recipe.val_images
    return list(dict.fromkeys(min(size, most) for size in wanted))


def trained(lab: Lab, setting: Setting, flow: str, size: int) -> Trained:
    if size == 1:
        return lab.trained(setting, "tla-rn")
    if flow == "bank":
        return lab.trained(setting, "tla", f"bank={size}")
    return lab.trained(setting, "tla", f"candidates={size}")


def timed(lab: Lab, setting: Setting) -> dict[str, Any]:
    """An iteration's parts by flow and size on this machine, on random images, and their slopes."""
    recipe = lab.recipe(setting.dataset, "tla")
    config = table2.Config(
        model=recipe.model,
        model_options=recipe.model_options,
        batch=recipe.batch,
        negatives=tuple(sizes(lab, setting)),
        repeats=lab.budget.repeats,
        attack_steps=recipe.attack_steps,
        device=str(lab.device),
        seed=lab.seed,
    )
    machine = environment(lab.device)
    about = {"timed": asdict(config), **{key: machine[key] for key in ("machine", "threads")}}
    return lab.kept(f"{NAME}: timing {recipe.model}", about, lambda: table2.run(config))


def _table(lab: Lab, setting: Setting, flow: str, times: dict[str, Any]) -> Table:
    recipe, test = lab.recipe(setting.dataset, "tla"), lab.test(setting)
    # Its one PGD has the steps of Table 1's longer one.
    threats = {
        name: from_recipe(recipe, "pgd_long" if name == "pgd" else name) for name in ATTACKED
    }
    rows = {}
    for size in sizes(lab, setting):
        time = _row(times, flow, size)
        cells = [
            Cell(time["mini_batch_ms"] / 1e3, _printed(setting, size, "mini_batch_seconds")),
            Cell(time["median_ms"] / 1e3, _printed(setting, size, "total_seconds")),
        ]
        made = trained(lab, setting, flow, size)
        for name, threat in threats.items():
            row = lab.accuracy(made, threat, test)
            cells.append(
                Cell(row["accuracy"], _printed(setting, size, name), row["standard_error"])
            )
        rows[str(size)] = cells
    columns = [
        Column("Mini-Batch TT", kind="seconds", best=""),
        Column("Total TT", kind="seconds", best=""),
        *(Column(ATTACKS[name], note=threat.within(lab.budget).effort())
          for name, threat in threats.items()),
    ]  # fmt: skip
    title = f"{FLOWS[flow]}: {heading(lab, setting)}"
    return Table(title, "Negative size", columns, rows, notes=[NOTES[flow], RANDOM])


def _row(times: dict[str, Any], flow: str, size: int) -> dict[str, Any]:
    """A size's times; a random negative is the same in both flows."""
    flows = (flow, *FLOWS) if size == 1 else (flow,)
    found: dict[str, Any] = next(
        row for name in flows for row in times["rows"] if (row["flow"], row["M"]) == (name, size)
    )
    return found


def _printed(setting: Setting, size: int, column: str) -> float | None:
    return paper.value(NAME, setting.paper, str(size), column)


def _slope(dataset: str, times: dict[str, Any]) -> str:
    """Empty where too few sizes were timed for one."""
    slopes = times["slope_ms_per_candidate"]
    parts = [
        f"{_added(slopes[flow]['mini_batch'])} in {title[0].lower()}{title[1:]}"
        for flow, title in FLOWS.items()
        if slopes.get(flow)
    ]
    if not parts:
        return ""
    return (
        f"{dataset}: each further candidate adds {', '.join(parts)} to an iteration; "
        f"{table2.paper_slope():.2f} ms in the paper, with WRN-32-10 on one V100"
    )


def _added(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds > 0 else "less than this run's noise"
