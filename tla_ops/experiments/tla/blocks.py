"""Tables with methods down and data sets across, built a data set's columns at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from tla_ops.experiments import paper
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.threat import SLOW, Threat, from_recipe
from tla_ops.experiments.tla.names import ATTACKS, DATASETS, METHODS
from tla_ops.training.image_set import ImageSet
from tla_ops.training.recipe import Recipe, RecipeError, load_recipe


class Block(NamedTuple):
    """Columns of a table, and each row's cells under them."""

    columns: list[Column]
    rows: dict[str, list[Cell]]


def joined(
    title: str,
    blocks: Sequence[Block],
    *,
    corner: str = "Method",
    worst: bool = False,
    notes: Sequence[str] = (),
) -> Table:
    """Blocks side by side, whose rows are the same."""
    return Table(
        title,
        corner,
        [column for block in blocks for column in block.columns],
        {name: [cell for block in blocks for cell in block.rows[name]] for name in blocks[0].rows},
        mark_worst=worst,
        notes=notes,
    )  # fmt: skip


def accuracy_block(
    lab: Lab,
    target: str,
    setting: Setting,
    models: Mapping[str, Trained],
    threats: Mapping[str, Threat],
    *,
    source: Trained | None = None,
    group: str = "",
    beside: Mapping[str, str] | None = None,
) -> Block:
    """Accuracy of models, by method, under threats, by the paper's columns for ``target``.

    ``source`` is the model that "transfer" attacks. What the lab is without has no column. Slow
    attacks meet fewer images where the budget says so, and the column's head says how many;
    beside such a column stands another attack, on the same images, if ``beside`` names one for it.
    """
    rows: dict[str, list[Cell]] = {METHODS[method]: [] for method in models}
    columns = []

    def column(name: str, images: ImageSet, printed: bool = True) -> None:
        threat = threats[name]
        head = [threat.within(lab.budget).effort()]
        if len(images) < len(lab.test(setting)):
            head.append(f"{len(images)} images")
        columns.append(Column(ATTACKS[name], group, ", ".join(filter(None, head))))
        for method, trained in models.items():
            other = source if threat.kind == "transfer" else None
            row = lab.accuracy(trained, threat, images, other)
            known = paper.value(target, setting.paper, method, name) if printed else None
            rows[METHODS[method]].append(Cell(row["accuracy"], known, row["standard_error"]))

    for name, threat in threats.items():
        if name in lab.without:
            continue
        images = lab.test(setting, threat.kind in SLOW)
        column(name, images)
        other = (beside or {}).get(name, "")
        if other in threats and other not in lab.without and len(images) < len(lab.test(setting)):
            column(other, images, printed=False)
    return Block(columns, rows)


def value_block(
    lab: Lab,
    target: str,
    setting: Setting,
    methods: Sequence[str],
    columns: Mapping[str, Column],
    measure: Callable[[Trained, str], float],
) -> Block:
    """``measure(model, column)`` for every method and column of the paper's ``target``."""
    rows: dict[str, list[Cell]] = {}
    for method in methods:
        trained = lab.trained(setting, method)
        rows[METHODS[method]] = [
            Cell(measure(trained, name), paper.value(target, setting.paper, method, name))
            for name in columns
        ]
    return Block(list(columns.values()), rows)


def left_to_the_target(lab: Lab, *keys: str) -> None:
    """Refuse the user's overrides of keys that a target sets itself: they would be over its own,
    and columns that are named by a value have models of another.

    Raises:
        RecipeError: one of them is overridden.
    """
    for override in lab.overrides:
        if (key := override.partition("=")[0].partition(".")[0]) in keys:
            raise RecipeError(f"{key} must be left to the table, which sets it, got {override!r}")


def named(setting: Setting) -> str:
    """The data set and what it stands in for."""
    name = DATASETS[setting.dataset]
    return name if setting.paper == setting.dataset else f"{name} for {DATASETS[setting.paper]}"


def heading(lab: Lab, setting: Setting) -> str:
    """The data set, and how many of its test images are looked at."""
    return f"{named(setting)}, {len(lab.test(setting)):,} test images"


def long_pgd(lab: Lab, setting: Setting) -> Threat:
    """PGD as in Table 1's longer one, but to the last step: where it takes an image is asked, and
    not where the head is first mistaken.
    """
    return from_recipe(lab.recipe(setting.dataset, "at"), "pgd_long").to_the_end()


def level(setting: Setting, recipe: Recipe, printed: Fraction | str) -> Fraction:
    """An l-infinity radius that the paper prints for ``setting.paper``, in proportion to the radius
    of the data set's own recipe: on the paper's data sets, the radius itself.
    """
    return Fraction(printed) * recipe.epsilon / load_recipe(f"{setting.paper}-at").epsilon


def step_within(recipe: Recipe, epsilon: Fraction) -> Fraction:
    """The step of the recipe's evaluation, but at most a third of the radius: a longer one only
    jumps between the ball's corners. On the paper's data sets and recipes, the recipe's.
    """
    return min(recipe.evaluation_step, epsilon / 3)


def radius(lab: Lab, setting: Setting, printed: Fraction | str) -> Fraction:
    """An l2 radius that the paper prints for ``setting.paper``, in proportion to the image's side:
    on the paper's data sets, the radius itself.
    """
    from tla_ops.training.data import DATASETS as FACTS

    side, its = (FACTS[name].shape[-1] for name in (setting.dataset, setting.paper))
    return Fraction(printed) * side / its
