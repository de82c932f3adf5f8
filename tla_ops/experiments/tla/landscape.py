"""The supplement's Figure 8: the loss around three random images along two random directions."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tla_ops.experiments.figures import heatmap_figure
from tla_ops.experiments.lab import Lab
from tla_ops.experiments.landscape import loss_surface, random_directions, roughness
from tla_ops.experiments.style import save
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Drawing, Result
from tla_ops.experiments.targets import THREE
from tla_ops.experiments.tla.blocks import heading, named
from tla_ops.experiments.tla.names import METHODS

IMAGES = 3
POINTS = {"smoke": 9, "short": 41, "full": 41}


def run(lab: Lab) -> Result:
    tables, figures = [], []
    for setting in lab.settings(("tiny-imagenet",)):
        test, points = lab.test(setting), POINTS[lab.budget.name]
        radius = lab.recipe(setting.dataset, "at").epsilon
        # Drawn: a data set may lie sorted by class.
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(lab.seed))
        sample = test.subset(order[:IMAGES].to(lab.device))
        labels: list[int] = sample.labels.tolist()
        surfaces: dict[str, dict[str, Tensor]] = {}
        notes: dict[str, dict[str, str]] = {}
        rows: dict[str, list[Cell]] = {}
        for method in THREE:
            model = lab.trained(setting, method).model
            name = METHODS[method]
            surfaces[name], notes[name], rows[name] = {}, {}, []
            for row, (image, label) in enumerate(zip(sample.images, labels, strict=True)):
                directions = random_directions(image.shape, lab.seed + row)
                surface = loss_surface(model, image, label, directions, float(radius), points).cpu()
                rough = roughness(surface)
                surfaces[name][f"Image {row + 1}"] = surface
                notes[name][f"Image {row + 1}"] = f"roughness {rough:.2g}"
                rows[name].append(Cell(rough))
        names = [f"Image {row + 1}" for row in range(len(sample))]
        columns = [Column(name, kind="ratio", best="min") for name in names]
        note = (
            "Roughness: the mean absolute second difference of the cross entropy between "
            f"neighbours of a grid of {points} × {points} points within ±{radius}."
        )
        tables.append(Table(heading(lab, setting), "Method", columns, rows, notes=[note]))
        figures.append(
            Drawing(
                f"landscape-{setting.dataset}",
                f"{named(setting)}. Cross entropy around test images along two random directions, "
                f"to ±{radius} in each pixel along either; each column has the same directions and "
                "one scale.",
                f"Heat maps of the loss, rows {', '.join(rows)}, columns {len(sample)} images.",
                partial(_draw, surfaces, radius, notes),
            )
        )  # fmt: skip
    return Result(tables, figures)


def _draw(
    surfaces: dict[str, dict[str, Tensor]],
    radius: Fraction,
    notes: dict[str, dict[str, str]],
    path: Path,
    footnote: str,
) -> None:
    save(heatmap_figure(surfaces, radius, notes, footnote=footnote), path)
