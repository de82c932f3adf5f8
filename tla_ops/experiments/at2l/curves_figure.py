"""Error rates over rounds, a panel for each data set and attack: the paper's Figures 1 to 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tla_ops.experiments.at2l.names import METHODS
from tla_ops.experiments.style import (
    INK,
    LABEL,
    WIDTH,
    despine,
    legend_below,
    new_figure,
    palette,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

ACROSS = 3
"""Panels in a row, at most."""
STYLES = {"at": "--", "at2l": "-", "tr": ":"}
"""Of lines, by method; the colour says what was trained with."""
MARKERS = {"at": "s", "at2l": "D", "tr": "^"}
"""By method: small and full on lines, larger and hollow for the paper's numbers."""


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
                marker=MARKERS[line.method], markersize=3.5, linewidth=1.5, label=line.name,
            )  # fmt: skip
            axis.plot(
                list(line.printed), list(line.printed.values()), linestyle="none",
                marker=MARKERS[line.method],
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
    lines = [line for panel in panels for line in panel.lines]
    handles = axes[0].get_legend_handles_labels()[0]
    legend_below(figure, [*handles, *_explained(lines)], ACROSS)
    return figure


def _explained(lines: Sequence[Line]) -> list[Line2D]:
    """For the legend, a hollow mark of each method that the paper has numbers of."""
    from matplotlib.lines import Line2D

    methods = dict.fromkeys(line.method for line in lines if line.printed)
    return [
        Line2D(
            [], [], linestyle="none", marker=MARKERS[method], markersize=6,
            markerfacecolor="none", markeredgecolor=INK, label=f"the paper's, {METHODS[method]}",
        )
        for method in methods
    ]  # fmt: skip
