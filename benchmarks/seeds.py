"""What several seeds come to: means, intervals, and differences that are paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from tla_ops.experiments.page import labels
from tla_ops.experiments.tables import SHARES, Cell, Column, Table, escaped, markdown

NORMAL = 1.96
# Of Student's t, 97.5%, by degrees of freedom.
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
SAME = (
    "All seeds have the same test images, and what others would change is not in it ({}): of few "
    "seeds a small interval can be chance."
)
EQUAL, SMALLEST = "all seeds equal", 1e-9  # less is rounding
BASELINE, OURS = "AT", "TLA"


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95% interval of a mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    quantile = STUDENT[len(values) - 2] if len(values) - 2 < len(STUDENT) else NORMAL
    return quantile * stdev(values) / len(values) ** 0.5


def beyond(apart: Sequence[float], number: float = 0) -> int:
    """1 or -1 where the whole interval of the mean is above or below ``number``, else 0; of seeds
    that are all equal, which shares of few images can be, nothing is known.
    """
    half = interval(apart)
    if half is None or half < SMALLEST:
        return 0
    return (mean(apart) - half > number) - (mean(apart) + half < number)


def seeds_section(documents: Sequence[dict[str, Any]]) -> str:
    """Tables of one target over its seeds; nothing for fewer than two, for a seed that is there
    twice, or of tables that differ in title, rows or columns.
    """
    numbers = [document.get("seed", 0) for document in documents]
    counts = {len(document["tables"]) for document in documents}
    if len(documents) < 2 or len(set(numbers)) < len(numbers) or len(counts) > 1:
        return ""
    seeds = ", ".join(map(str, numbers))
    first = documents[0]
    parts = [
        f"## {first['title']}: means over the seeds {seeds}",
        "\n".join(f"**{escaped(text)}.**" for text in labels(first)),
    ]
    for tables in zip(*(document["tables"] for document in documents), strict=True):
        shapes = [(table["title"], table["columns"], list(table["rows"])) for table in tables]
        if any(shape != shapes[0] for shape in shapes):
            continue
        parts.append(markdown(_means(tables).as_dict()).rstrip())
        if BASELINE in tables[0]["rows"]:
            parts.append(markdown(_differences(tables).as_dict()).rstrip())
            parts.append(verdict(tables))
    return "\n\n".join(part for part in parts if part) if len(parts) > 2 else ""


def verdict(tables: Sequence[dict[str, Any]]) -> str:
    """Whether TLA is above AT by more than the seeds' noise, and whether what the paper gains is
    within it; nothing where it has no row.
    """
    if OURS not in tables[0]["rows"]:
        return ""
    signs, printed = [], []
    for place in range(len(tables[0]["columns"])):
        pairs = [tuple(table["rows"][row][place] for row in (OURS, BASELINE)) for table in tables]
        if any(cell["value"] is None for pair in pairs for cell in pair):
            continue
        apart = [own["value"] - base["value"] for own, base in pairs]
        signs.append(beyond(apart))
        gain = _gain(*pairs[0])
        printed += [] if gain is None else [beyond(apart, gain)]
    text = (
        f"Beyond that interval, {OURS} is above {BASELINE} in {signs.count(1)} of {len(signs)} "
        f"columns, and below it in {signs.count(-1)}."
    )
    if printed:
        text += (
            f" The paper's difference is above the interval in {printed.count(-1)} of "
            f"{len(printed)} columns and below it in {printed.count(1)}; in the others the seeds "
            "cannot tell it from ours."
        )
    return text


def _means(tables: Sequence[dict[str, Any]]) -> Table:
    first = tables[0]
    columns = [Column(**column) for column in first["columns"]]
    rows = {
        row: [
            _mean([table["rows"][row][place] for table in tables], column.kind)
            for place, column in enumerate(columns)
        ]
        for row in first["rows"]
    }
    note = (
        "± in brackets: half of a 95% interval of the mean by Student's t over the seeds. "
        f"{_same(tables)}"
    )
    return Table(
        first["title"], first["corner"], columns, rows, notes=[note, *first["notes"]]
    )  # fmt: skip


def _mean(cells: Sequence[dict[str, Any]], kind: str) -> Cell:
    values = [cell["value"] for cell in cells]
    if None in values:
        return Cell(None, cells[0]["paper"])
    return Cell(mean(values), cells[0]["paper"], note=_about(values, kind))


def _differences(tables: Sequence[dict[str, Any]]) -> Table:
    first = tables[0]
    kinds = [column["kind"] for column in first["columns"]]
    rows = {
        row: [
            _difference([(table["rows"][row][place], table["rows"][BASELINE][place])
                         for table in tables], kind)
            for place, kind in enumerate(kinds)
        ]
        for row in first["rows"] if row != BASELINE
    }  # fmt: skip
    columns = [
        Column(**column | {"kind": "points" if column["kind"] in SHARES else "number", "best": ""})
        for column in first["columns"]
    ]
    title = f"{first['title']}: above {BASELINE}, shares in points, paired by seed"
    note = (
        "± in brackets: half of a 95% interval of the mean difference by Student's t over the "
        f"seeds. {_same(tables)}"
    )
    return Table(title, first["corner"], columns, rows, notes=[note])


def _difference(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], kind: str) -> Cell:
    if any(cell["value"] is None for pair in pairs for cell in pair):
        return Cell(None)
    apart = [own["value"] - base["value"] for own, base in pairs]
    gain = _gain(*pairs[0])
    paper = None if gain is None else round(_scale(kind) * gain, 9)
    return Cell(round(_scale(kind) * mean(apart), 9) + 0.0, paper, note=_about(apart, kind))


def _gain(own: dict[str, Any], base: dict[str, Any]) -> float | None:
    """The paper's difference."""
    printed = own["paper"], base["paper"]
    return None if None in printed else printed[0] - printed[1]


def _same(tables: Sequence[dict[str, Any]]) -> str:
    """What an interval over seeds leaves out, and how large that is of one of them."""
    errors = [
        cell["error"] for table in tables for cells in table["rows"].values() for cell in cells
        if cell["error"] is not None
    ]  # fmt: skip
    about = f"one seed's standard error is up to {100 * max(errors):.1f} points" if errors else ""
    return SAME.format(about).replace(" ()", "")


def _about(values: Sequence[float], kind: str) -> str:
    half = interval(values)
    return EQUAL if half is None or half < SMALLEST else f"± {_scale(kind) * half:.2f}"


def _scale(kind: str) -> int:
    """Of shares, to points."""
    return 100 if kind in SHARES else 1
