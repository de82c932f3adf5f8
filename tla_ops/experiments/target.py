"""Targets: the tables and figures of the papers, and how one is made.

A target's module has ``run(lab) -> Result``; it is imported when the target is made, so that the
list costs nothing.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tla_ops.experiments.page import LABELS, page
from tla_ops.experiments.tables import Table
from tla_ops.training.files import plain, write_atomically, write_json


class Drawing(NamedTuple):
    """A figure: ``draw(path, footnote)`` writes the PNG file NAME.png, the footnote in it."""

    name: str
    caption: str
    alt: str
    draw: Callable[[Path, str], None]


class Result(NamedTuple):
    """What a target found; ``numbers`` are plain values beyond the tables."""

    tables: Sequence[Table]
    figures: Sequence[Drawing] = ()
    numbers: Mapping[str, Any] = MappingProxyType({})
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Target:
    """A table or a figure.

    ``module`` is in :mod:`tla_ops.experiments`; ``call`` what of it runs, with ``arguments`` after
    the lab. ``datasets`` are the paper's; ``methods`` what has to be trained; ``extras`` the import
    names of packages beyond those of the extra [train]; ``packages``, by data set, of those that no
    extra brings.
    """

    name: str
    title: str
    module: str
    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    extras: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    """Keys of recipes that the target sets, and a user cannot."""
    packages: Mapping[str, str] = field(default_factory=dict)

    def run(self, lab: Any) -> Result:
        module = importlib.import_module(f"tla_ops.experiments.{self.module}")
        made: Result = module.run(lab, **self.arguments)
        return made

    @property
    def folder(self) -> str:
        return self.name.replace("/", "-")


def make(target: Target, lab: Any) -> dict[str, Any]:
    """Run a target; returns what it writes to ``metrics.json`` in `Lab.place`, beside which lie
    ``table.md`` and the figures.
    """
    from tla_ops.experiments import paper
    from tla_ops.training.report import environment

    started = time.perf_counter()
    lab.begin()
    with lab.threads():
        result = target.run(lab)
        machine = environment(lab.device)
    folder = lab.place(target.folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for drawing in result.figures:
        drawing.draw(folder / f"{drawing.name}.png", _footnote(target, lab))
        figures.append(
            {"file": f"{drawing.name}.png", "caption": drawing.caption, "alt": drawing.alt}
        )
    metrics: dict[str, Any] = {
        "experiment": target.name,
        "title": target.title,
        "source": paper.source(target.name),
        "budget": lab.budget.name,
        "overrides": lab.changes,
        "complete": True,
        "seconds": time.perf_counter() - started,
        "attack_seconds": lab.attack_seconds,
        "notes": [*_notes(lab, result.tables), *result.notes],
        "environment": machine,
        "seed": lab.seed,
        "parts": list(lab.parts.values()),
        "attacks": lab.attacks,
        "tables": [table.as_dict() for table in result.tables],
        "figures": figures,
        "numbers": dict(result.numbers),
    }
    metrics = plain(metrics)
    write_json(folder / "metrics.json", metrics)
    text = page(metrics)
    write_atomically(folder / "table.md", lambda file: file.write(text.encode()))
    return metrics


def _footnote(target: Target, lab: Any) -> str:
    """What a picture says of itself where it is shown alone."""
    label = LABELS[lab.budget.name]
    return f"{target.name} on {', '.join(lab.parts)}. {label[0].upper()}{label[1:]}."


def _notes(lab: Any, tables: Sequence[Table]) -> list[str]:
    notes: list[str] = []
    cells = [cell for table in tables for row in table.rows.values() for cell in row]
    printed = any(cell.paper is not None for cell in cells)
    for part in lab.parts.values():
        if part["stands_in_for"]:
            note = f"{part['dataset']} stand in for {part['stands_in_for']}"
            if printed:
                note += ", whose numbers in the paper are those shown beside ours"
            notes = [*notes, note]
    return notes
