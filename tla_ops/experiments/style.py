"""What all figures share: colours, sizes, axes and how a file is written."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tla_ops.training.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Paul Tol's "muted" scheme, safe for colour-blind readers; the tenth is a brown of his, since a
# grey would be taken for clean images.
CLASS_COLOURS = [
    *("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE"),
    *("#882255", "#44AA99", "#999933", "#AA4499", "#661100"),
]
# His "bright" scheme, a colour for each way to train.
METHOD_COLOURS = {
    **{"UM": "#888888", "AT": "#4477AA", "ALP": "#CCBB44", "TLA": "#AA3377"},
    **{"TLA-RN": "#66CCEE", "TLA-SA": "#228833", "TRADES": "#EE6677", "AT2L": "#EE7733"},
}
CLEAN, RIGHT, WRONG, INK = "#BBBBBB", "#117733", "#CC3311", "0.25"
DPI = 150
WIDTH = 8.0
"""Of a page in inches: 1200 pixels."""
TITLE, LABEL, SMALL = 10, 9, 7.5
"""Font sizes in points: of titles, of axes and legends, of ticks and notes."""


def palette(n: int) -> list[str]:
    """n colours, one a class: `CLASS_COLOURS` up to ten, beyond that as many hues of a rainbow,
    neighbours far apart.
    """
    if n <= len(CLASS_COLOURS):
        return CLASS_COLOURS[:n]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    # Multiples of the golden ratio spread evenly, and two in a row are far apart.
    return [to_hex(colormaps["turbo"]((0.05 + index * 0.618) % 1)) for index in range(n)]


def method_colour(method: str) -> str:
    """The colour of a method, by its abbreviation; grey for one that has none."""
    return METHOD_COLOURS.get(method.upper(), "0.4")


def new_figure(width: float, height: float, title: str = "", footnote: str = "") -> Figure:
    """An empty figure that lays itself out: what is drawn gets ``width`` x ``height`` inches of
    `DPI` pixels, title and footnote come on top of the height and are broken into lines.
    """
    from matplotlib.figure import Figure

    title = "\n".join(textwrap.wrap(title, int(10 * width)))
    lines = textwrap.wrap(footnote, int(17 * width))
    head, foot = 0.24 * len(title.splitlines()), 0.14 * len(lines) + 0.08 * bool(lines)
    whole = height + head + foot
    figure = Figure(figsize=(width, whole), dpi=DPI, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=TITLE + 1, fontweight="bold")
    if lines:
        _keep_clear(figure, foot)
        figure.text(
            width / 2, 0.03, "\n".join(lines), transform=figure.dpi_scale_trans,
            ha="center", va="bottom", fontsize=SMALL, color=INK,
        )  # fmt: skip
    return figure


def legend_below(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    """A legend in at most ``columns`` below all axes and above the footnote; the figure grows by
    its height.
    """
    if not handles:
        return
    width, height = figure.get_size_inches()
    foot = footer(figure)
    # matplotlib's own "outside lower center" would stand on the footnote.
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(width / 2, foot),
        bbox_transform=figure.dpi_scale_trans,
        borderaxespad=0.2,
        ncols=min(columns, len(handles)),
        frameon=False,
        fontsize=SMALL,
        handletextpad=0.4,
    )
    tall = legend.get_window_extent().height / DPI
    figure.set_size_inches(width, height + tall)
    _keep_clear(figure, foot + tall)


def footer(figure: Figure) -> float:
    """The inches at the lower edge that footnote and legend take."""
    return float(_layout(figure).get()["rect"][1] * figure.get_size_inches()[1])


def _layout(figure: Figure) -> Any:
    return figure.get_layout_engine()


def _keep_clear(figure: Figure, inches: float) -> None:
    """No axes in a strip at the lower edge."""
    share = inches / figure.get_size_inches()[1]
    _layout(figure).set(rect=(0, share, 1, 1 - share))


def despine(axis: Any) -> None:
    """Leave the left and lower edges of a plot, in a dark grey, and small tick labels."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("0.4")
    axis.tick_params(labelsize=SMALL, color="0.4")


def frame(axis: Any, colour: str = "0.8", width: float = 0.8) -> None:
    """Leave no ticks, and edges of one colour: for what has no units."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set(color=colour, linewidth=width)


def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG, whole or not at all."""
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
