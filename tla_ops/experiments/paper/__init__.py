"""What the papers print: the numbers of their tables, and the settings in tables and captions.

One YAML file a paper beside this module; a target's first part names its file: ``tla/table1`` is in
``tla.yaml``. Methods are called as in recipes (``um``, ``tla-rn``), data sets as in
:data:`tla_ops.training.data.DATASETS`. Needs the extra ``[train]``.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
SECONDS = "_seconds"
"""What columns of a "mixed" table end in that hold seconds; its others hold percent."""


class Panel(NamedTuple):
    """A table's part for one data set; values as printed."""

    columns: tuple[str, ...]
    """Attacks, named as by `tla-ops evaluate` where it has them, or what the table varies."""
    steps: tuple[int | None, ...]
    """Of each column's attack; None where the table prints none."""
    rows: dict[str, tuple[float | None, ...]]
    """By method, or by what the table varies, parts joined by "/": "at2l/mixed/10". None where
    nothing is printed."""
    unit: str
    """"percent" (99.52: accuracy), "error_percent" (0.48: images misclassified), "ratio", or
    "mixed": percent beside columns of seconds."""


def targets() -> tuple[str, ...]:
    """Every table and figure that has an entry, a paper after the other, in their order."""
    return tuple(target for path in sorted(FOLDER.glob("*.yaml")) for target in _read(path))


def panel(target: str, dataset: str) -> Panel | None:
    """The printed numbers of a table for a data set; None where the paper has none for it.

    Raises:
        ValueError: an unknown target; the text lists the known ones.
    """
    entry = _entry(target)
    found = entry.get("panels", {}).get(dataset)
    if found is None:
        return None
    columns = tuple(found["columns"])
    return Panel(
        columns,
        tuple(found.get("steps", [None] * len(columns))),
        {
            row: tuple(None if number is None else float(number) for number in numbers)
            for row, numbers in found["rows"].items()
        },
        entry["unit"],
    )


def value(target: str, dataset: str, row: str, column: str) -> float | None:
    """One number: a percentage as a share in [0, 1], of errors where it is one of errors; seconds
    and ratios as printed.

    None where the paper has no such data set, row or column, or prints nothing there.

    Raises:
        ValueError: an unknown target; the text lists the known ones.
    """
    found = panel(target, dataset)
    if found is None or row not in found.rows or column not in found.columns:
        return None
    printed = found.rows[row][found.columns.index(column)]
    if printed is None or found.unit == "ratio" or column.endswith(SECONDS):
        return printed
    return round(printed / 100, 6)


def settings(target: str) -> dict[str, Any]:
    """What the paper prints of a target's set-up, under a data set's name where data sets differ.

    Radii and step sizes are exact fractions as text, of an image in [0, 1]: "8/255". The caller may
    change the dictionary.

    Raises:
        ValueError: an unknown target; the text lists the known ones.
    """
    return deepcopy(_entry(target).get("settings", {}))


def source(target: str) -> str:
    """Where a target is printed: "Mao et al. 2019, Table 1".

    Raises:
        ValueError: an unknown target; the text lists the known ones.
    """
    return str(_entry(target)["source"])


def notes(target: str) -> tuple[str, ...]:
    """Where the paper contradicts itself about a target, or leaves open what one must choose.

    Raises:
        ValueError: an unknown target; the text lists the known ones.
    """
    return tuple(_entry(target).get("notes", ()))


def _entry(target: str) -> dict[str, Any]:
    path = FOLDER / f"{target.partition('/')[0]}.yaml"
    entries = _read(path) if path in FOLDER.glob("*.yaml") else {}
    if target not in entries:
        raise ValueError(f"paper: target must be one of {', '.join(targets())}, got {target!r}")
    return entries[target]


@cache
def _read(path: Path) -> dict[str, Any]:
    import yaml

    entries: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return entries
