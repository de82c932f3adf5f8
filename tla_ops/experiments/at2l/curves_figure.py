"""Error rates over rounds, a panel for each data set and attack: the paper's Figures 1 to 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tla_ops.experiments.style import (
    LABEL,
    WIDTH,
    despine,
    legend_below,
    new_figure,
    palette,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 3
"""Panels in a row, at most."""
STYLES = {"at": "--", "at2l": "-", "tr": ":"}
"""Of lines, by method; the colour says what was trained with."""
PRINTED = {"at": "s", "at2l": "D", "tr": "^"}
"""Hollow marks of the paper's numbers."""


class Line(NamedTuple):
    """A method's errors, shares of 1, from round 0 on; ``printed`` has the paper's, by round."""

    name: str
    method: str
    trained_with: str
    values: Sequence[float | None]
    printed: Mapping[int, float]


class Panel(NamedTuple):
    title: str
    lines: Sequence[Line]


def curves_figure(panels: Sequence[Panel], footnote: str = "") -> Figure:
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    width = min(WIDTH, 3.2 * across + 1)
    figure = new_figure(width, 2.6 * down + 1, "", footnote)
    axes = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    sets = list(dict.fromkeys(line.trained_with for panel in panels for line in panel.lines))
    for axis, panel in zip(axes, panels, strict=False):
        for line in panel.lines:
            values = [math.nan if value is None else value for value in line.values]
            colour = palette(len(STYLES) if len(sets) == 1 else len(sets))[
                list(STYLES).index(line.method) if len(sets) == 1 else sets.index(line.trained_with)
            ]
            axis.plot(
                range(len(values)), values, color=colour, linestyle=STYLES[line.method],
                marker="o", markersize=3.5, linewidth=1.5, label=line.name,
            )  # fmt: skip
            axis.plot(
                list(line.printed), list(line.printed.values()), linestyle="none",
                marker=PRINTED[line.method],
                markersize=6, markerfacecolor="none", markeredgecolor=colour,
            )  # fmt: skip
        axis.set_title(panel.title, fontsize=LABEL)
        axis.set_xlabel("round", fontsize=LABEL)
        axis.set_ylim(-0.03, 1.03)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        despine(axis)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for row in range(down):
        axes[row * across].set_ylabel("error", fontsize=LABEL)
    legend_below(figure, axes[0].get_legend_handles_labels()[0], ACROSS)
    return figure
