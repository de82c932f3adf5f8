"""The papers' kinds of figure, from numbers that are ready; `tla_ops.experiments.style.save`
writes them.

Rows and columns are named by their keys, in order. Nothing here computes: what a picture shows
stands beside it as a note.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tla_ops.experiments.detection import Curve
from tla_ops.experiments.style import (
    CLEAN,
    INK,
    LABEL,
    SMALL,
    TITLE,
    WIDTH,
    despine,
    frame,
    legend_below,
    method_colour,
    new_figure,
    palette,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LEGEND_COLUMNS = 4
SIDES = ("left", "center", "right")
TICKS = [0, 0.25, 0.5, 0.75, 1]


class Cloud(NamedTuple):
    """Points (n, 2) of one kind; clouds of one name share a line of the legend."""

    name: str
    points: Tensor
    colour: str
    marker: str = "o"
    size: float = 9


class Panel(NamedTuple):
    """Clouds, drawn in order, and what stands below them."""

    clouds: Sequence[Cloud]
    note: str = ""


class Series(NamedTuple):
    """A line of `sweep_figure`: a value for each setting, None where there is none, and their
    standard errors. ``printed``: what the paper prints, drawn hollow and dashed.
    """

    name: str
    values: Sequence[float | None]
    errors: Sequence[float | None] = ()
    printed: bool = False
    colour: str = ""


def false_class_panel(
    clean: Tensor,
    adversarial: Tensor,
    false_classes: Tensor,
    names: Sequence[str],
    true_class: int,
    note: str = "",
) -> Panel:
    """TLA's Figure 1: images of one class, the clean ones grey, the adversarial ones in the colour
    of the class they are taken for.

    Args:
        clean: (n, 2) and adversarial: (q, 2) points.
        false_classes: (q,) predictions; those that equal ``true_class`` are crosses.
        names: of all classes.
    """
    clouds = [Cloud("natural images of the true class", clean, CLEAN, size=6)]
    right = false_classes == true_class
    # Classes that nothing is taken for are here, too, so that every panel has the same order.
    for label, colour in enumerate(palette(len(names))):
        rows = adversarial[(false_classes == label) & ~right]
        clouds.append(Cloud(f"taken for {names[label]}", rows, colour))
    clouds.append(Cloud("adversarial, still right", adversarial[right], INK, "+", 10))
    return Panel(clouds, note)


def pair_panel(
    true: Tensor,
    false: Tensor,
    adversarial: Tensor,
    true_name: str = "true class",
    false_name: str = "false class",
    note: str = "",
) -> Panel:
    """TLA's Figure 2: natural images of two classes, and adversarial ones of the first that are
    taken for the second as red triangles; points (n, 2) each.
    """
    return Panel(
        [
            Cloud(f"natural {false_name}", false, "#4477AA"),
            Cloud(f"natural {true_name}", true, "#44AA66"),
            Cloud(f"{true_name} taken for {false_name}", adversarial, "#CC3311", "^", 14),
        ],
        note,
    )


def scatter_figure(
    rows: Mapping[str, Mapping[str, Panel]], title: str = "", footnote: str = ""
) -> Figure:
    """Panels side by side, a column for each method and a row for each class or pair of classes.

    Args:
        rows: from a row's name to its panels by method; every row has the methods of the first, in
            its order.
    """
    methods = list(next(iter(rows.values()), {}))
    panels = [panel for row in rows.values() for panel in row.values()]
    kinds: dict[str, Cloud] = {}
    for cloud in (cloud for panel in panels for cloud in panel.clouds):
        if cloud.name not in kinds or len(cloud.points):
            kinds[cloud.name] = cloud
    marks = [_mark(kind) for kind in kinds.values() if len(kind.points)]
    side = (WIDTH - 0.35) / max(1, len(methods)) + 0.22 * any(panel.note for panel in panels)
    figure = new_figure(WIDTH, len(rows) * side + 0.25, title, footnote)
    if not methods:
        return figure
    axes = figure.subplots(len(rows), len(methods), squeeze=False)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=LABEL)
        for axis, method in zip(line, methods, strict=True):
            for cloud in row[method].clouds:
                if len(cloud.points) == 0:
                    continue
                axis.scatter(
                    *cloud.points.T.tolist(), s=cloud.size, color=cloud.colour,
                    marker=cloud.marker, alpha=0.75, linewidths=0.6 * (cloud.marker in "x+"),
                )  # fmt: skip
            frame(axis)
            axis.margins(0.06)
            axis.set_box_aspect(1)
            axis.set_xlabel(row[method].note, fontsize=SMALL, color=INK)
    for axis, method in zip(axes[0], methods, strict=True):
        axis.set_title(method, fontsize=TITLE, fontweight="bold")
    legend_below(figure, marks, LEGEND_COLUMNS)
    return figure


def _mark(kind: Cloud) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], linestyle="", marker=kind.marker, color=kind.colour, label=kind.name, markersize=5
    )


def roc_figure(
    panels: Mapping[str, Mapping[str, Curve]], title: str = "", footnote: str = ""
) -> Figure:
    """TLA's Figure 5: a plot for each data set, a curve for each method, its area in the legend."""
    width = min(4.0, WIDTH / max(1, len(panels)))
    figure = new_figure(width * max(1, len(panels)), width + 0.1, title, footnote)
    if not panels:
        return figure
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, curves) in zip(axes, panels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
        for index, (method, curve) in enumerate(curves.items()):
            area = "undefined" if math.isnan(curve.auc) else f"{curve.auc:.3f}"
            axis.plot(
                curve.fpr, curve.tpr, color=method_colour(method), linewidth=1.5,
                label=f"{method}  AUC {area}", zorder=3 + index,
            )  # fmt: skip
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=TICKS, yticks=TICKS)
        axis.set_box_aspect(1)
        axis.set_title(name, fontsize=TITLE, fontweight="bold")
        axis.set_xlabel("right images rejected", fontsize=LABEL)
        despine(axis)
        if curves:
            axis.legend(loc="lower right", fontsize=SMALL, frameon=False)
    axes[0].set_ylabel("misclassified images rejected", fontsize=LABEL)
    return figure


def heatmap_figure(
    surfaces: Mapping[str, Mapping[str, Tensor]],
    radius: float | Fraction,
    notes: Mapping[str, Mapping[str, str]] | None = None,
    title: str = "",
    footnote: str = "",
) -> Figure:
    """The supplement's Figure 8: the loss around images, a row for each method, a column for each
    image, with one scale of colours a column.

    Args:
        surfaces: by method, then by image: (points, points) losses from -radius to radius along
            both directions, the first along the vertical axis. Every method has the same images.
        radius: in pixel values; a fraction is printed as one.
        notes: by method and image, printed above a surface.
    """
    images = list(next(iter(surfaces.values()), {}))
    columns, rows = max(1, len(images)), max(1, len(surfaces))
    side = min(2.3, (WIDTH - 0.7) / columns - 0.15)
    figure = new_figure((side + 0.15) * columns + 0.7, (side + 0.2) * rows + 0.75, title, footnote)
    if not images:
        return figure
    axes = figure.subplots(len(surfaces), len(images), squeeze=False)
    reach, text = float(radius), str(radius) if isinstance(radius, Fraction) else f"{radius:.4g}"
    for image, column in zip(images, axes.T, strict=True):
        finite = torch.cat([row[image].flatten() for row in surfaces.values()])
        finite = finite[torch.isfinite(finite)]
        low, high = (finite.min().item(), finite.max().item()) if len(finite) else (0.0, 1.0)
        for axis, (method, row) in zip(column, surfaces.items(), strict=True):
            drawn = axis.imshow(
                row[image].tolist(), origin="lower", extent=(-reach, reach, -reach, reach),
                vmin=low, vmax=high, cmap="viridis", interpolation="nearest",
            )  # fmt: skip
            ticks = [-reach, 0, reach], [f"−{text}", "0", text]
            axis.set_xticks(*(ticks if axis is column[-1] else ([], [])))
            axis.set_yticks(*(ticks if image == images[0] else ([], [])))
            axis.tick_params(labelsize=SMALL, color="0.4")
            axis.spines[:].set_visible(False)
            note = (notes or {}).get(method, {}).get(image, "")
            heading = f"{image}\n" if axis is column[0] else ""
            axis.set_title(heading + note, fontsize=SMALL)
            if image == images[0]:
                axis.set_ylabel(method, fontsize=TITLE, fontweight="bold")
        # Inwards, or they would run into the next column's.
        for place, label in zip(SIDES, column[-1].get_xticklabels(), strict=True):
            label.set_ha(place)
        bar = figure.colorbar(
            drawn, ax=list(column), location="bottom", shrink=0.9, aspect=25, pad=0.02
        )
        bar.ax.tick_params(labelsize=SMALL)
        bar.set_label("cross entropy", fontsize=SMALL)
        bar.outline.set_visible(False)
    return figure


def sweep_figure(
    settings: Sequence[float | str],
    series: Sequence[Series],
    xlabel: str,
    ylabel: str = "accuracy",
    title: str = "",
    footnote: str = "",
) -> Figure:
    """Accuracies, shares of 1, over settings of one parameter, evenly spaced: the supplement's
    Tables 4 to 6.
    """
    figure = new_figure(min(WIDTH, max(5.0, 0.8 * len(settings) + 2)), 3.6, title, footnote)
    axis = figure.subplots()
    for index, line in enumerate(series):
        values = [math.nan if value is None else value for value in line.values]
        errors = [error or 0.0 for error in line.errors] or None
        axis.errorbar(
            range(len(values)), values, yerr=errors, capsize=3,
            color=line.colour or (INK if line.printed else palette(10)[index % 10]),
            linewidth=1.5, elinewidth=1, linestyle="--" if line.printed else "-", marker="o",
            markersize=5, markerfacecolor="white" if line.printed else None, label=line.name,
        )  # fmt: skip
    axis.set_xticks(range(len(settings)), [str(setting) for setting in settings])
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.margins(x=0.06, y=0.12)
    axis.set_xlabel(xlabel, fontsize=LABEL)
    axis.set_ylabel(ylabel, fontsize=LABEL)
    despine(axis)
    legend_below(figure, axis.get_legend_handles_labels()[0], LEGEND_COLUMNS)
    return figure
