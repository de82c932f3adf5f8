"""Figure 4 and the supplement's Figure 7: the nearest neighbours of a clean and of an adversarial
image, in the feature space of several models.
"""

from __future__ import annotations

import torch

from tla_ops.experiments import paper
from tla_ops.experiments.lab import Lab, Setting
from tla_ops.experiments.neighbours import retrieve
from tla_ops.experiments.retrieval_figure import Retrieval, retrieval_figure
from tla_ops.experiments.style import save
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Drawing, Result
from tla_ops.experiments.tla.blocks import heading, long_pgd, named
from tla_ops.experiments.tla.names import CLASSES, METHODS, class_names

NEIGHBOURS = 5
NOTE = (
    "Share of the {} nearest of {} training images that are of the query's class, over all test "
    "images as queries. The figure shows one, the first test image {}. PGD, {}, ε = {}."
)


def run(lab: Lab, figure: str) -> Result:
    """``figure``: fig4 or supp-fig7."""
    tables, figures = [], []
    for setting in lab.settings(("cifar10",)):
        made = _one(lab, setting, figure)
        tables.append(made.tables[0])
        figures.append(made.figures[0])
    return Result(tables, figures)


def _one(lab: Lab, setting: Setting, figure: str) -> Result:
    printed = paper.settings(f"tla/{figure}")
    pool, test = lab.pool(setting), lab.test(setting)
    names = class_names(setting.dataset, lab.dataset(setting.dataset).classes)
    threat = long_pgd(lab, setting)
    query, why = chosen(lab, setting, figure)
    true, count = names[int(test.labels[query])], min(NEIGHBOURS, len(pool))
    rows: dict[str, list[Cell]] = {}
    shown: dict[str, list[Retrieval]] = {}
    for method in printed["methods"]:
        trained = lab.trained(setting, method)
        known = lab.features(trained, pool)
        adversarial = lab.adversarial(trained, threat, test)
        halves, cells = [], []
        for images in (test.images, adversarial):
            found = retrieve(lab.features(trained, images), known, count)
            right = pool.labels[found] == test.labels[:, None]
            cells.append(Cell(right.double().mean().item()))
            halves.append(
                Retrieval(
                    images[query],
                    true,
                    pool.take(found[query]),
                    [names[label] for label in pool.labels[found[query]].tolist()],
                )
            )
        rows[METHODS[method]], shown[METHODS[method]] = cells, halves
    columns = [Column("clean query"), Column("adversarial query")]
    attack = threat.within(lab.budget)
    note = NOTE.format(count, f"{len(pool):,}", why, attack.effort(), attack.epsilon)
    table = Table(heading(lab, setting), "Method", columns, rows, notes=[note])
    caption = (
        f"{named(setting)}. Nearest training images to a clean image of class {true} (left) and to "
        "its adversarial version (right), by each model's features; red frames: another class."
    )
    drawing = Drawing(
        f"{figure}-{setting.dataset}",
        caption,
        f"Rows of images, one for each of {', '.join(rows)}: {caption}",
        lambda path, footnote: save(retrieval_figure(shown, footnote=footnote), path),
    )
    return Result([table], [drawing])


def chosen(lab: Lab, setting: Setting, figure: str) -> tuple[int, str]:
    """The query's row among the test images, and of what it is the first; that of the paper is not
    known.
    """
    printed, test = paper.settings(f"tla/{figure}"), lab.test(setting)
    names = class_names(setting.dataset, lab.dataset(setting.dataset).classes)
    threat = long_pgd(lab, setting)
    at = lab.trained(setting, "at")
    taken_for = lab.predictions(at, lab.adversarial(at, threat, test))
    label = CLASSES[setting.paper].index(printed["class"])
    name, of_class = names[label], test.labels == label
    choices = {
        f"of {name} whose adversarial version AT misclassifies": taken_for != test.labels,
        f"of {name}: AT misclassifies none": torch.ones_like(of_class),
    }
    if "taken_for" in printed:
        false = CLASSES[setting.paper].index(printed["taken_for"])
        why = f"of {name} whose adversarial version AT takes for {names[false]}, as in the paper"
        choices = {why: taken_for == false} | choices
    for why, wanted in choices.items():
        if (rows := (of_class & wanted).nonzero()).numel():
            return int(rows[0, 0]), why
    return 0, f"of any class: none is of {name}"
