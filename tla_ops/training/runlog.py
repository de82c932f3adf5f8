"""What a run says while it goes: means over steps, a CSV file, TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tla_ops.training.files import write_atomically
from tla_ops.training.methods import Step

COLUMNS = (
    "step", "epoch", "loss", "learning_rate", "active", "positive_distance", "negative_distance",
    "images_per_second", "val_clean", "val_adversarial",
)  # fmt: skip


class Meter:
    """Sums over steps that stay on the device until they are read.

    ``active`` is the share of anchors with any active hinge, the distances are means over anchors:
    where they run towards each other and to 0, features collapse.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(6, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, step: Step) -> None:
        """Count one step. No host synchronisation."""
        values = [step.loss.new_ones(()), step.loss.detach()]
        positive, negative = step.positive_distance, step.negative_distance
        if positive is not None and negative is not None and step.active is not None:
            # A row without a negative has the distance +inf: no triplet, so not in the means.
            found = torch.isfinite(negative)
            values += [
                found.sum(),
                step.active.sum(),
                torch.where(found, positive, 0.0).sum(),
                torch.where(found, negative, 0.0).sum(),
            ]
        for index, value in enumerate(values):
            self.sums[index] += value


def means(sums: Tensor) -> dict[str, float]:
    """What a meter's sums, or those of several added up, come to; waits for the device."""
    steps, loss, found, active, positive, negative = sums.tolist()
    values = {"loss": loss / max(steps, 1)}
    if found:
        values |= {
            "active": active / found,
            "positive_distance": positive / found,
            "negative_distance": negative / found,
        }
    return values


class RunLog:
    """``metrics.csv`` and TensorBoard's files in a run's folder.

    Args:
        output: the run's folder.
        resume_step: rows of later steps are dropped: those steps are taken again.
    """

    def __init__(self, output: Path, resume_step: int) -> None:
        path = output / "metrics.csv"
        kept = [row for row in _rows(path) if int(row["step"]) <= resume_step]
        header = {column: column for column in COLUMNS}
        write_atomically(path, lambda file: file.write(_text([header, *kept])))
        self._file = path.open("ab")
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # the CSV file has the same numbers
            return
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=resume_step + 1)

    def write(self, row: dict[str, float]) -> None:
        """Add a step's row, whose ``step`` is the step."""
        self._file.write(_text([row]))
        self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, row["step"])
            self._board.flush()

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def curves(path: Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv``, each with the columns that it has a number in."""
    return [{name: float(text) for name, text in row.items() if text} for row in _rows(path)]


def triplets(path: Path) -> dict[str, list[float]]:
    """Of a ``metrics.csv``: what was first and what was last logged of the active share and of the
    mean distances; nothing for a method without triplets.
    """
    logged = [row for row in curves(path) if "active" in row]
    names = ("active", "positive_distance", "negative_distance")
    return {name: [logged[place][name] for place in (0, -1)] for name in names if logged}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a file; the last one may have been cut."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is None or tuple(reader.fieldnames) != COLUMNS:
            raise ValueError(f"{path}: not the curves of a run")
        return [row for row in reader if None not in row.values()]


def _text(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def note(values: dict[str, float]) -> str:
    """A row in a few words, for the progress bar."""
    shown = {
        "loss": "loss {:.3f}",
        "active": "active {:.0%}",
        "positive_distance": "d+ {:.3f}",
        "negative_distance": "d- {:.3f}",
        "val_clean": "held-out clean {:.1%}",
        "val_adversarial": "PGD {:.1%}",
        "images_per_second": "{:.0f} images/s",
    }
    return ", ".join(text.format(values[key]) for key, text in shown.items() if key in values)
