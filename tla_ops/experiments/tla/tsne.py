"""Figures 1 and 2 and the supplement's 1 to 6: where adversarial images go in feature space."""

from __future__ import annotations

from typing import Any

import torch

from tla_ops.experiments import paper
from tla_ops.experiments.embedding import silhouette, tsne
from tla_ops.experiments.figures import Panel, false_class_panel, pair_panel, scatter_figure
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.style import save
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Drawing, Result
from tla_ops.experiments.targets import FOUR
from tla_ops.experiments.tla.blocks import long_pgd, named
from tla_ops.experiments.tla.names import CLASSES, METHODS, class_names
from tla_ops.training.image_set import ImageSet

ROWS = 3
"""Of each of the supplement's figures 1 to 3: nine classes in all."""
PAIRS = {"supp-fig6": ("airplane", "horse")}
"""The supplement prints one caption for its figures 5 and 6; the second is taken for the other
direction."""
NO_IMAGES = "no test images of the class"
ATTACK = "PGD, {}, ε = {}, without stopping where it succeeds"


def run(lab: Lab, figure: str) -> Result:
    """``figure``: fig1, fig2, or supp-fig1 to supp-fig6."""
    settings = lab.settings(("cifar10",))
    kind = _one_class if figure in ("fig1", "supp-fig1", "supp-fig2", "supp-fig3") else _pair
    parts = [kind(lab, setting, figure) for setting in settings]
    return Result(
        [part.tables[0] for part in parts],
        [part.figures[0] for part in parts],
        {
            setting.dataset: dict(part.numbers)
            for setting, part in zip(settings, parts, strict=True)
        },
    )


def classes_of(figure: str) -> list[str]:
    """The true classes of a figure of one class a row."""
    printed = paper.settings(f"tla/{figure}")
    if "class" in printed:
        return [printed["class"]]
    first = ROWS * (int(figure[-1]) - 1)
    classes: list[str] = printed["classes"]
    return classes[first : first + ROWS]


def pair_of(figure: str) -> tuple[str, str]:
    """The true class of a figure's adversarial images, and the class they are taken for."""
    printed = paper.settings(f"tla/{figure}")
    return PAIRS.get(figure, (printed["class"], printed["taken_for"]))


def label_of(setting: Setting, name: str) -> int:
    """The label of a class of the paper's; where another data set stands in, its equal."""
    return CLASSES[setting.paper].index(name)


def _one_class(lab: Lab, setting: Setting, figure: str) -> Result:
    printed = paper.settings(f"tla/{figure}")
    names = class_names(setting.dataset, lab.dataset(setting.dataset).classes)
    rows: dict[str, dict[str, Panel]] = {}
    cells: dict[str, list[Cell]] = {METHODS[method]: [] for method in FOUR}
    columns = []
    for wanted in classes_of(figure):
        label = label_of(setting, wanted)
        images = lab.of_class(setting, label, printed["adversarial"])
        panels = {}
        for method in FOUR:
            trained = lab.trained(setting, method)
            features, taken_for = attacked(lab, setting, trained, images)
            clean = lab.features(trained, images.images[: printed["clean"]])
            points = tsne(torch.cat([clean, features]), seed=lab.seed)
            wrong = taken_for != label
            share = wrong.double().mean().item()
            spread = silhouette(features[wrong], taken_for[wrong])
            panels[METHODS[method]] = false_class_panel(
                points[: len(clean)], points[len(clean) :], taken_for.cpu(), names, label,
                f"{share:.0%} misclassified" if len(images) else NO_IMAGES,
            )  # fmt: skip
            cells[METHODS[method]] += [Cell(share), Cell(spread)]
        rows[names[label]] = panels
        columns += [
            Column("misclassified", names[label], f"of {len(images)}", best="min"),
            Column("silhouette", names[label], kind="ratio", best=""),
        ]
    note = (
        f"{_attack(lab, setting)}. Silhouette: of the groups by false class, among misclassified "
        "images in feature space (cosine): higher where the false classes can be told apart."
    )
    table = Table(named(setting), "Method", columns, cells, notes=[note])
    caption = (
        f"Penultimate features of adversarial images of {', '.join(rows)}, a class a row, by the "
        "class they are taken for (colours; crosses: still right), and of clean images of their "
        "true class (grey); t-SNE."
    )
    return _result(setting, figure, table, rows, caption)


def _pair(lab: Lab, setting: Setting, figure: str) -> Result:
    count = paper.settings(f"tla/{figure}")["clean"]
    true, false = (label_of(setting, name) for name in pair_of(figure))
    names = class_names(setting.dataset, lab.dataset(setting.dataset).classes)
    images, others = (lab.of_class(setting, label, None) for label in (true, false))
    panels, cells = {}, {}
    for method in FOUR:
        trained = lab.trained(setting, method)
        features, taken_for = attacked(lab, setting, trained, images)
        mistaken = features[taken_for == false]
        clean = [lab.features(trained, part.images[:count]) for part in (images, others)]
        points = tsne(torch.cat([*clean, mistaken]), seed=lab.seed)
        here, there, moved = points.split([len(clean[0]), len(clean[1]), len(mistaken)])
        panels[METHODS[method]] = pair_panel(
            here,
            there,
            moved,
            names[true],
            names[false],
            f"{len(mistaken)} of {len(images)} mistaken" if len(images) else NO_IMAGES,
        )
        cells[METHODS[method]] = [Cell(len(mistaken) / len(images) if len(images) else None)]
    column = Column(f"{names[true]} taken for {names[false]}", note=f"of {len(images)}", best="min")
    table = Table(named(setting), "Method", [column], cells, notes=[f"{_attack(lab, setting)}."])
    caption = (
        f"Penultimate features of clean images of {names[true]} and {names[false]}, and of "
        f"adversarial images of {names[true]} that are taken for {names[false]}; t-SNE."
    )
    return _result(setting, figure, table, {"": panels}, caption)


def attacked(
    lab: Lab, setting: Setting, trained: Trained, images: ImageSet
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, D) of adversarial images and the classes (N,) that they are taken for."""
    adversarial = lab.adversarial(trained, long_pgd(lab, setting), images)
    return lab.features(trained, adversarial), lab.predictions(trained, adversarial)


def _attack(lab: Lab, setting: Setting) -> str:
    made = long_pgd(lab, setting).within(lab.budget)
    return ATTACK.format(made.effort(), made.epsilon)


def _result(
    setting: Setting, figure: str, table: Table, rows: dict[str, dict[str, Panel]], caption: str
) -> Result:
    caption = f"{named(setting)}. {caption}"
    drawing = Drawing(
        f"{figure}-{setting.dataset}",
        caption,
        f"Scatter plots by {', '.join(METHODS[method] for method in FOUR)}: {caption}",
        lambda path, footnote: save(scatter_figure(rows, footnote=footnote), path),
    )
    numbers: dict[str, Any] = {
        name: {m: p.note for m, p in row.items()} for name, row in rows.items()
    }
    return Result([table], [drawing], numbers)
