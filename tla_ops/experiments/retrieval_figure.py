"""Queries and their nearest neighbours as pictures: TLA's Figure 4, the supplement's Figure 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from tla_ops.experiments.style import (
    INK,
    LABEL,
    RIGHT,
    TITLE,
    WIDTH,
    WRONG,
    footer,
    frame,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT, HEADING, NAME, BELOW = 0.35, 0.2, 0.2, 0.06
"""Inches for the methods, the headings, the names over each row, and below the last row."""
QUERY_GAP, PART_GAP = 0.25, 0.5
"""Between a query and its neighbours and between parts, in widths of an image."""
NAMES = 6.5
LETTERS = 10
"""Of a class's name over an image; a longer one is cut."""


class Retrieval(NamedTuple):
    """An image (C, H, W) in [0, 1] with one or three channels, its true class, and its k nearest
    neighbours (k, C, H, W), nearest first, with theirs.
    """

    query: Tensor
    query_class: str
    neighbours: Tensor
    neighbour_classes: Sequence[str]


def retrieval_figure(
    rows: Mapping[str, Sequence[Retrieval]],
    headings: Sequence[str] = ("clean query", "adversarial query"),
    title: str = "",
    footnote: str = "",
) -> Figure:
    """A row for each method, a part for each heading: the query, then what the method's features
    find, in a red frame where the class is another than the query's.

    Args:
        rows: by method, a retrieval for each heading; one that is missing leaves its place empty.
    """
    most = max((len(r.neighbour_classes) for row in rows.values() for r in row), default=0)
    # Everything has its place in inches: a layout would widen columns for the texts over them.
    units = len(headings) * (most + 1 + QUERY_GAP) + (len(headings) - 1) * PART_GAP
    pitch = min(1.2, (WIDTH - LEFT) / max(1.0, units))
    side = pitch / 1.12
    height = len(rows) * (side + NAME) + HEADING + BELOW
    figure = new_figure(LEFT + units * pitch, height, title, footnote)
    lower = footer(figure)
    figure.set_layout_engine("none")
    width, whole = figure.get_size_inches()

    def place(x: float, line: int) -> Any:
        y = lower + BELOW + (len(rows) - 1 - line) * (side + NAME)
        return figure.add_axes((x / width, y / whole, side / width, side / whole))

    for part, heading in enumerate(headings):
        left = LEFT + part * (most + 1 + QUERY_GAP + PART_GAP) * pitch
        figure.text(
            left, lower + height - 0.02, heading, transform=figure.dpi_scale_trans, va="top",
            fontsize=LABEL,
        )  # fmt: skip
        for line, (method, row) in enumerate(rows.items()):
            if part >= len(row):
                continue
            found = row[part]
            axis = place(left, line)
            _picture(axis, found.query, found.query_class, INK)
            if part == 0:
                axis.set_ylabel(method, fontsize=TITLE, fontweight="bold")
            pairs = zip(found.neighbours, found.neighbour_classes, strict=True)
            for index, (image, name) in enumerate(pairs):
                colour = RIGHT if name == found.query_class else WRONG
                axis = place(left + (index + 1 + QUERY_GAP) * pitch, line)
                _picture(axis, image, name, colour)
    return figure


def _picture(axis: Any, image: Tensor, name: str, colour: str) -> None:
    pixels = image.detach().cpu().clamp(0, 1)
    if len(pixels) == 1:
        pixels = pixels.expand(3, -1, -1)
    axis.imshow(pixels.permute(1, 2, 0).numpy(), interpolation="nearest")
    frame(axis, colour, 1.8)
    short = name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"
    axis.set_title(short, fontsize=NAMES, color=colour, pad=2.5)
