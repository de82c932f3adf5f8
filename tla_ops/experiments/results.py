"""Finds the experiments' results below a folder: every ``metrics.json`` that `page` can show."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tla_ops.experiments.tables import BEST, KINDS

NUMBER = (int, float)
NULL = type(None)
WORDS = {str: "text", bool: "true or false", int: "an integer", float: "a number", NULL: "null"}
# A shape is a type, a tuple of types, a set of texts, [shape] for a list of any length,
# {str: shape} for an object of any keys, or an object by its keys; a key that ends in ? may be
# absent or null.
COLUMN = {"name": str, "group": str, "note": str, "kind": set(KINDS), "best": set(BEST)}
CELL = {
    **dict.fromkeys(("value", "paper", "error", "difference"), (*NUMBER, NULL)),
    "note": str,
    "best": bool,
    "worst": bool,
}
TABLE = {
    "title": str,
    "corner": str,
    "columns": [COLUMN],
    "rows": {str: [CELL]},
    "notes": [str],
}
RUN = {
    "method": str,
    "name?": str,
    "steps?": int,
    "seconds?": NUMBER,
    "seed?": int,
    "checkpoint?": str,
    "recipe?": {str: object},
    "changed?": [str],
    "rounds?": int,
    "attacks?": [str],
    "networks?": [str],
    "images?": int,
    "images_per_second?": {str: {str: NUMBER}},
}
METRICS = {
    "experiment": str,
    "title": str,
    "source?": str,
    "budget": str,
    "complete": bool,
    "seconds?": NUMBER,
    "notes?": [str],
    "environment?": {str: object},
    "parts?": [
        {"dataset": str, "stands_in_for?": str, "images?": int, "notes?": [str], "runs?": [RUN]}
    ],
    "tables": [TABLE],
    "figures?": [{"file": str, "caption?": str, "alt?": str}],
}

PAPERS = {
    "tla": "TLA: Metric Learning for Adversarial Robustness, NeurIPS 2019",
    "at2l": "AT2L: Improving the Robustness of Deep Neural Networks via Adversarial Training with "
    "Triplet Loss, IJCAI 2019",
}
PLACES = ["table", "fig", "supp-table", "supp-fig", "app-table", "app-fig"]
BUDGETS = ["full", "short", "smoke"]


@dataclass(frozen=True)
class Result:
    """One experiment's ``metrics.json``, which has the shape of `METRICS`."""

    path: Path
    metrics: dict[str, Any]


@dataclass
class Found:
    """What lies below ``folder``: results in the papers' order, files that would be results but for
    the reason given, and the number of other ``metrics.json`` and ``result.json`` (training runs,
    the demo).
    """

    folder: Path
    results: list[Result] = field(default_factory=list)
    broken: dict[Path, str] = field(default_factory=dict)
    others: int = 0


def find(folder: Path) -> Found:
    """Read all results below ``folder``, an existing one."""
    found = Found(folder)
    for path in sorted(folder.rglob("*.json")):
        if path.name == "result.json":
            found.others += 1
        if path.name != "metrics.json":
            continue
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            found.broken[path] = f"cannot be read: {error}"
            continue
        if not isinstance(metrics, dict) or not {"experiment", "budget"} <= set(metrics):
            found.others += 1
        elif reason := mismatch(metrics, METRICS) or _ragged(metrics):
            found.broken[path] = reason
        else:
            found.results.append(Result(path, metrics))
    found.results.sort(key=_order)
    return found


def mismatch(value: Any, shape: Any, where: str = "") -> str | None:
    """Where ``value`` first differs from ``shape`` (see `METRICS`) and how, or None."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _unlike(value, "a list", where)
        parts = [(item, shape[0], f"{where}[{place}]") for place, item in enumerate(value)]
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            return _unlike(value, "an object", where)
        shapes = dict.fromkeys(value, shape[str]) if str in shape else shape
        missing = [key for key in shapes if key not in value and not key.endswith("?")]
        if missing:
            return f"{where or 'the file'} must have {missing[0]!r}"
        parts = [
            (value[key.rstrip("?")], its_shape, f"{where}.{key.rstrip('?')}".lstrip("."))
            for key, its_shape in shapes.items()
            if not (key.endswith("?") and value.get(key.rstrip("?")) is None)
        ]
    else:
        return _mismatched_scalar(value, shape, where)
    return next(filter(None, (mismatch(*part) for part in parts)), None)


def _mismatched_scalar(value: Any, shape: Any, where: str) -> str | None:
    if isinstance(shape, set):
        fits = isinstance(value, str) and value in shape
        return None if fits else _unlike(value, f"among {sorted(shape)}", where)
    kinds = shape if isinstance(shape, tuple) else (shape,)
    if object in kinds or (isinstance(value, bool) and bool in kinds):
        return None
    infinite = isinstance(value, float) and not math.isfinite(value)
    if isinstance(value, kinds) and not isinstance(value, bool) and not infinite:
        return None
    return _unlike(value, " or ".join(WORDS[kind] for kind in kinds), where)


def _unlike(value: Any, expected: str, where: str) -> str:
    text = repr(value)
    short = text if len(text) <= 60 else f"{text[:60]}…"
    return f"{where or 'the file'} must be {expected}, got {short}"


def _ragged(metrics: dict[str, Any]) -> str | None:
    for i, table in enumerate(metrics["tables"]):
        for name, cells in table["rows"].items():
            if len(cells) != len(table["columns"]):
                return (
                    f"tables[{i}].rows.{name} must have {len(table['columns'])} cells as there are "
                    f"columns, got {len(cells)}"
                )
    return None


def _order(result: Result) -> tuple[Any, ...]:
    """The papers' order: tla before at2l, tables before figures, 2 before 10, full runs first."""
    paper, _, place = result.metrics["experiment"].partition("/")
    kind = re.match(r"\D*", place)
    return (
        _rank(list(PAPERS), paper),
        paper,
        _rank(PLACES, kind.group() if kind else ""),
        [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", place)],
        _rank(BUDGETS, result.metrics["budget"]),
        str(result.path),
    )


def _rank(names: list[str], name: str) -> int:
    return names.index(name) if name in names else len(names)
