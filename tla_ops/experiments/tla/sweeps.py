"""The supplement's Tables 4, 5 and 6: TLA's weight, its margin, and the layer of its triplets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tla_ops.experiments import paper
from tla_ops.experiments.figures import Series, sweep_figure
from tla_ops.experiments.lab import Lab, Setting
from tla_ops.experiments.style import save
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Drawing, Result
from tla_ops.experiments.threat import from_recipe
from tla_ops.experiments.tla.blocks import heading, left_to_the_target, named
from tla_ops.training.layers import LOGITS, PENULTIMATE
from tla_ops.training.recipe import RecipeError

LAYERS = {
    "lenet": {"lower": "body.6", "middle": "body.13"},  # the two poolings
    "small": {"lower": "body.2", "middle": "body.5"},  # after each convolution
}
"""The paper names no layers; "higher" is the penultimate one, and "logit" the logits."""


class Sweep(NamedTuple):
    """What a table varies: the recipe's key, its name, and what else is set."""

    key: str
    symbol: str
    title: str
    fixed: tuple[str, ...]


SWEEPS = {
    "supp-table4": Sweep("weight", "λ1", "Weight of the triplet loss", ()),
    "supp-table5": Sweep("margin", "α", "Margin of the triplet loss, λ1 = 2", ("weight=2",)),
    "supp-table6": Sweep("layer", "layer", "Layer of the triplet loss, λ1 = 2", ("weight=2",)),
}
NOTE = "Accuracy of TLA under PGD, {}, ε = {}."
NO_TRIPLETS = "λ1 = 0 is without norm decay, too: the paper's number there is its AT's of Table 1."


def run(lab: Lab, table: str) -> Result:
    """``table``: a key of `SWEEPS`."""
    sweep = SWEEPS[table]
    left_to_the_target(lab, sweep.key, *(text.partition("=")[0] for text in sweep.fixed))
    tables, figures = [], []
    for setting in lab.settings(("mnist",)):
        made = swept(lab, setting, table)
        tables.append(made)
        printed = paper.panel(f"tla/{table}", setting.paper)
        names = printed.columns if printed else ()
        figures.append(_drawing(setting, made, sweep, names))
    return Result(tables, figures)


def swept(lab: Lab, setting: Setting, table: str) -> Table:
    """One row, a column for each value that the paper prints."""
    sweep, target = SWEEPS[table], f"tla/{table}"
    printed = paper.panel(target, setting.paper)
    values = printed.columns if printed else ()
    cells, test = [], lab.test(setting)
    threat = from_recipe(lab.recipe(setting.dataset, "tla"), "pgd_long")
    for name in values:
        value = layer(lab, setting, name) if sweep.key == "layer" else name
        # The recipe's own layer is not set: the model is that of the other tables with λ1 = 2.
        own = [] if value == PENULTIMATE else [f"{sweep.key}={value}"]
        if own == ["weight=0"]:
            own.append("norm_weight=0")
        trained = lab.trained(setting, "tla", *sweep.fixed, *own)
        row = lab.accuracy(trained, threat, test)
        cells.append(
            Cell(
                row["accuracy"],
                paper.value(target, setting.paper, "tla", name),
                row["standard_error"],
            )
        )
    columns = [Column(f"{sweep.symbol} = {name}" if sweep.key != "layer" else name.capitalize())
               for name in values]  # fmt: skip
    note = NOTE.format(threat.within(lab.budget).effort(), threat.epsilon)
    notes = [note, NO_TRIPLETS] if sweep.key == "weight" else [note]
    title = f"{sweep.title}: {heading(lab, setting)}"
    return Table(title, "Method", columns, {"TLA": cells}, notes=notes)


def layer(lab: Lab, setting: Setting, name: str) -> str:
    """A layer of the paper's as the recipe's ``layer``.

    Raises:
        RecipeError: "lower" or "middle" of a network that `LAYERS` lacks.
    """
    if name in ("higher", "logit"):
        return {"higher": PENULTIMATE, "logit": LOGITS}[name]
    model = lab.recipe(setting.dataset, "tla").model
    if model not in LAYERS:
        raise RecipeError(
            f"model must be one of {', '.join(LAYERS)} for the layers of the table, got {model!r}"
        )
    return LAYERS[model][name]


def _drawing(setting: Setting, table: Table, sweep: Sweep, names: Sequence[str]) -> Drawing:
    cells = table.rows["TLA"]
    ours = Series("ours", [cell.value for cell in cells], [cell.error for cell in cells])
    printed = Series("the paper", [cell.paper for cell in cells], printed=True)
    caption = (
        f"{named(setting)}. Accuracy under PGD over {sweep.symbol}; bars are one standard error."
    )
    return Drawing(
        f"sweep-{setting.dataset}",
        caption,
        f"Two lines, ours and the paper's: {caption}",
        lambda path, footnote: save(
            sweep_figure(names, [ours, printed], sweep.symbol, footnote=footnote), path
        ),
    )
