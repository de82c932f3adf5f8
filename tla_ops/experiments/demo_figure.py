"""The demo's figure: accuracies, and where adversarial images go in feature space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tla_ops.experiments.style import CLASS_COLOURS, save

CLEAN_COLOUR, PGD_COLOUR = "#4477AA", "#EE7733"
TITLE = "Smoke-size demonstration on the UCI digits: three ways to train, one attack"


class Panel(NamedTuple):
    """One method: its accuracies and the features (N, D) of clean and of adversarial images with
    labels (N,).
    """

    name: str
    clean: float
    pgd: float
    clean_features: Tensor
    adversarial_features: Tensor
    labels: Tensor


def draw(panels: Sequence[Panel], footnote: str, path: Path) -> None:
    """Write the figure as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.2), dpi=110, layout="constrained")
    figure.suptitle(TITLE, fontsize=15, fontweight="bold")
    figure.supxlabel(footnote, fontsize=9, color="0.35")
    # The stubs give subfigures one type for every shape.
    above, below = cast(Any, figure.subfigures(2, 1, height_ratios=[0.72, 1.45]))
    _bars(above.subplots(), panels)
    axes = below.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axis, panel in zip(axes, panels, strict=True):
        _scatter(axis, panel)
    axes[0].set_ylabel("second principal component")
    _legend(below)
    save(figure, path)


def _bars(axis: Any, panels: Sequence[Panel]) -> None:
    for offset, label, colour, values in (
        (-0.2, "clean images", CLEAN_COLOUR, [panel.clean for panel in panels]),
        (0.2, "under PGD attack", PGD_COLOUR, [panel.pgd for panel in panels]),
    ):
        places = [index + offset for index in range(len(panels))]
        bars = axis.bar(places, values, 0.38, color=colour, label=label)
        axis.bar_label(bars, [f"{value:.1%}" for value in values], padding=2, fontsize=12)
    axis.set_xticks(range(len(panels)), [panel.name for panel in panels], fontsize=11)
    axis.set_ylim(0, 1.14)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axis.set_ylabel("test accuracy")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _scatter(axis: Any, panel: Panel) -> None:
    clean, adversarial = project(panel.clean_features, panel.adversarial_features)
    for digit, colour in enumerate(CLASS_COLOURS):
        rows = panel.labels == digit
        axis.scatter(*clean[rows].T.tolist(), s=14, color=colour, alpha=0.55, linewidths=0)
        axis.scatter(
            *adversarial[rows].T.tolist(), s=20, color=colour, marker="x", alpha=0.8, linewidths=0.9
        )
    for digit, colour in enumerate(CLASS_COLOURS):
        x, y = clean[panel.labels == digit].mean(0).tolist()
        box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": colour}
        axis.text(x, y, str(digit), ha="center", va="center", fontsize=9, bbox=box)
    axis.set_title(f"{panel.name}: PGD {panel.pgd:.1%}", fontsize=11)
    axis.set_xlabel("first principal component")
    axis.tick_params(labelsize=8)
    axis.set_box_aspect(1)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, colour: str, marker: str) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=colour, label=label)

    handles = [mark("clean image", "0.3", "."), mark("adversarial image", "0.3", "x")]
    handles += [mark(f"digit {digit}", colour, "o") for digit, colour in enumerate(CLASS_COLOURS)]
    figure.legend(
        handles=handles,
        loc="outside right center",
        frameon=False,
        fontsize=9,
        title="penultimate features,\nunit length; colour is\nthe true class\n",
        title_fontsize=9,
    )


def project(clean: Tensor, adversarial: Tensor) -> tuple[Tensor, Tensor]:
    """Both (N, D) on the first two principal components (N, 2) of the clean features, at unit
    length.

    The loss compares directions, so lengths are taken out before.
    """
    clean, adversarial = F.normalize(clean.double()), F.normalize(adversarial.double())
    centre = clean.mean(0)
    axes = torch.linalg.svd(clean - centre, full_matrices=False).Vh[:2]
    return (clean - centre) @ axes.T, (adversarial - centre) @ axes.T
